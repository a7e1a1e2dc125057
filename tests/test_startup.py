"""What a command loads before it does anything: shells ask at each press of a key, people wait."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from bwexporter import cli as room
from bwexporter.cli.main import COMMANDS, cli
from tests.test_architecture import DOORS

LIBRARIES = {*DOORS, "numpy", "asyncio"} - {"sqlite3"}
HEAVY = {"apscheduler", "httpx", "jinja2", "pyroute2", "starlette", "uvicorn"}
"""What a daemon needs, and no question to one."""

_PROGRAM = """
import json, sys
from bwexporter.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit:
    pass
loaded = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted(loaded & set(json.loads(sys.argv[1])))))
"""


def loaded_by(*arguments: str, **environment: str) -> set[str]:
    """Return those libraries that a command has loaded when it ends."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sorted(LIBRARIES)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def commands_of_the_room() -> Iterator[click.Command]:
    """Yield each command that a module of the command line declares, but those within groups."""
    for module in pkgutil.iter_modules(room.__path__):
        for value in vars(import_module(f"{room.__name__}.{module.name}")).values():
            if isinstance(value, click.Command):
                yield value


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_says_of_a_command_what_it_says_itself(name: str) -> None:
    """Its name, its line of help, and whether it is shown at all."""
    command = cli.commands[name]
    assert command.name == name
    assert COMMANDS[name].short_help == ("" if command.hidden else command.get_short_help_str(limit=100))


def test_every_command_is_in_the_table() -> None:
    """One that is declared and forgotten there could not be called."""
    known = {id(command) for command in (cli, *cli.commands.values())}
    known |= {id(inner) for group in cli.commands.values() if isinstance(group, click.Group)
              for inner in group.commands.values()}  # fmt: skip
    declared = list(commands_of_the_room())
    assert len(declared) > len(COMMANDS)
    assert [] == [command.name for command in declared if id(command) not in known]


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("nonsense",), ("completion", "bash")])
def test_what_needs_no_library_loads_none(arguments: tuple[str, ...]) -> None:
    """But the one that reads the command line."""
    assert loaded_by(*arguments) == {"click"}


def test_a_shell_that_asks_for_commands_waits_for_no_library() -> None:
    """It asks whenever somebody presses the tabulator."""
    asked = {"_BWEXPORTER_COMPLETE": "bash_complete", "COMP_WORDS": "bwexporter st", "COMP_CWORD": "1"}
    assert loaded_by(**asked) == {"click"}


def test_questions_load_nothing_that_a_daemon_alone_needs(tmp_path: Path) -> None:
    """`check`, `slices`, `status`: asked by people and by scripts, on every change of a file."""
    (tmp_path / "slices.yml").write_text("slices: [{name: ann, normal: {allowance: 5GB}}]\n")
    path = tmp_path / "bwexporter.yml"
    path.write_text(
        "devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\nslices: [{file: slices.yml}]\nstate: state.db\n"
    )
    for arguments in (("check", str(path)), ("slices", "-c", str(path)), ("status", "-c", str(path))):
        assert set() == loaded_by(*arguments) & HEAVY, arguments
