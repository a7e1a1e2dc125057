"""`bwexporter tree` and `plan` as users run them, on the real kernel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import Program, Room, Traffic, handle_of, skip_where_no_room_can_be_made

pytestmark = pytest.mark.kernel

CONFIG = {
    "interval": "300ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": {"full": "80mbit"}, "exempt": {"full": "80mbit"}},
}
SLICES = [{"name": "ann", "id": 1, "normal": {"allowance": "5GB"}}, {"name": "bob", "id": 2}]
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return the program in a room of its own, not started."""
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as made:
        yield made


def ask(program: Program, *words: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line in the room."""
    command = [*program.room.enter, *through, program.room.python, "-m", "bwexporter", *words]
    return subprocess.run(
        [*command, "--config", str(program.config_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=program.room.environment,
        cwd=program.folder,
    )


def said(program: Program, *words: str, through: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a command prints as JSON."""
    done = ask(program, *words, "--json", through=through)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class TestShow:
    """`tree show`."""

    def test_it_draws_the_tree_of_a_running_daemon_with_names_rates_and_use(self, program: Program) -> None:
        """It holds nothing that the daemon holds, and needs no privilege."""
        program.start()
        Traffic(program.room).send(("ann", "normal"), handle_of(1), 50)
        program.turn()
        program.turn()
        done = ask(program, "tree", "show", through=WITHOUT_NET_ADMIN)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if "ann normal" in line]
        for words in ("1:1001", "ceiling 80mbit", "sent 50.0 kB", "used 50.0 kB of 5.00 GB"):
            assert words in line
        assert "node cap: normal lanes" in done.stdout
        assert "_default" in done.stdout

    def test_one_slice_is_shown_with_what_is_above_it(self, program: Program) -> None:
        """And a slice that has no class is named."""
        program.start()
        done = ask(program, "tree", "show", "ann")
        assert "ann" in done.stdout
        assert "1:10 " in done.stdout
        assert "bob" not in done.stdout
        refused = ask(program, "tree", "show", "nobody")
        assert refused.returncode == 1
        assert "no class belongs to 'nobody'" in refused.stderr

    def test_the_rows_are_the_kernels(self, program: Program) -> None:
        """Every class once, in JSON, with its lane."""
        program.start()
        (device,) = said(program, "tree", "show")["devices"]
        assert {row["class"] for row in device["classes"]} == {
            f"{handle >> 16:x}:{handle & 0xFFFF:x}" for handle in program.room.classes()
        }
        assert {row["slice"] for row in device["classes"]} == {None, "_root", "_default", "ann", "bob"}

    def test_a_bare_device_has_no_tree(self, program: Program) -> None:
        """Which is no error: there is nothing to show."""
        done = ask(program, "tree", "show")
        assert done.returncode == 0
        assert "no tree" in done.stdout
