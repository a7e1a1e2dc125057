"""What is delivered: the wheel without its source, the manual page, the completion of shells, the units of systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from bwexporter import __version__
from bwexporter.cli.main import cli

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "deploy" / "systemd"
WITHOUT_SOURCE = ("test_cli.py", "test_config.py", "test_metrics.py", "test_roster.py", "test_turn.py")
"""Tests that are run once more against the wheel alone."""


class Delivered:
    """The wheel, unpacked where no source lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
        (self.wheel,), (self.sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
        self.site = folder / "site"
        with zipfile.ZipFile(self.wheel) as wheel:
            wheel.extractall(self.site)  # noqa: S202 - made a moment ago, by ourselves
        self.environment = {**os.environ, "PYTHONPATH": f"{self.site}:{_libraries(folder)}", "PYTHONSAFEPATH": "1"}

    def python(self, *arguments: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python on the wheel and its libraries, far from any source."""
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=cwd or self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )


def _libraries(folder: Path) -> Path:
    """Return a folder with the libraries of this environment, and without what leads to the source."""
    made = folder / "libraries"
    made.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith(("bwexporter", "_editable", "__pycache__")):
            (made / entry.name).symlink_to(entry)
    return made


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """Return what `python -m build` makes."""
    return Delivered(tmp_path_factory.mktemp("delivered"))


def test_the_wheel_is_typed_whole_and_of_one_version(delivered: Delivered) -> None:
    """Version, type marker, templates and licence are in it; tests are not."""
    with zipfile.ZipFile(delivered.wheel) as wheel:
        inside = set(wheel.namelist())
    assert delivered.wheel.name.startswith(f"bwexporter-{__version__}-py3-none-any")
    assert f"bwexporter-{__version__}.dist-info/licenses/LICENSE" in inside
    packed = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "bwexporter").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed <= inside
    assert "bwexporter/py.typed" in inside
    assert not [name for name in inside if name.startswith(("tests", "deploy"))]


def test_the_sdist_builds_what_the_checkout_builds(delivered: Delivered) -> None:
    """Whoever packages it starts from the sdist."""
    with tarfile.open(delivered.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "deploy/bwexporter.yml"} <= names


def test_the_commands_work_from_the_wheel_alone(delivered: Delivered, tmp_path: Path) -> None:
    """No file of the checkout is needed to run."""
    where = delivered.python("-c", "import bwexporter; print(bwexporter.__file__)")
    assert where.stdout.strip() == str(delivered.site / "bwexporter" / "__init__.py"), where.stderr
    assert __version__ in delivered.python("-m", "bwexporter", "--version").stdout
    (tmp_path / "bwexporter.yml").write_text(
        "devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\nslices: [{file: slices.yml}]\nstate: state.db\n"
    )
    (tmp_path / "slices.yml").write_text("slices: [{name: ann, normal: {allowance: 5GB}}]\n")
    checked = delivered.python("-m", "bwexporter", "check", str(tmp_path / "bwexporter.yml"))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.timeout(1200)
def test_the_tests_pass_on_the_wheel_with_the_source_deleted(delivered: Delivered) -> None:
    """What is tested is what is delivered."""
    bench = delivered.folder / "bench"
    shutil.copytree(ROOT / "tests", bench / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("deploy", "docs", "dashboards"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, bench / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, bench / name)
    tests = [f"tests/{name}" for name in WITHOUT_SOURCE]
    path = {"PYTHONPATH": f"{delivered.environment['PYTHONPATH']}:{bench}"}
    ran = delivered.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=bench, **path)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr
    assert " passed" in ran.stdout


def shown_commands(group: click.Group, path: str = "bwexporter") -> Mapping[str, click.Command]:
    """Return every command that is shown, by how it is called."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if not command.hidden:
            found[f"{path} {name}"] = command
            if isinstance(command, click.Group):
                found |= shown_commands(command, f"{path} {name}")
    return found


def test_every_command_stands_in_the_manual_page(tmp_path: Path) -> None:
    """And groff has nothing to say against it."""
    page = subprocess.run([sys.executable, "-m", "bwexporter", "manual"], capture_output=True, text=True, check=True)
    (tmp_path / "bwexporter.1").write_text(page.stdout)
    drawn = subprocess.run(
        ["man", "--local-file", "--warnings=w", str(tmp_path / "bwexporter.1")],
        capture_output=True, text=True, check=False, env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    text = re.sub(r".\x08", "", drawn.stdout)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert [] == [name for name in shown_commands(cli) if name not in text]
    assert "bwexporter demo-node" not in text


@pytest.mark.parametrize(("line", "offered"), [("bwexporter st", "status"), ("bwexporter run --sha", "--shadow")])
def test_bash_completes_commands_and_options(line: str, offered: str) -> None:
    """The printed script asks the program itself."""
    script = subprocess.run(
        [sys.executable, "-m", "bwexporter", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    words = line.split()
    asking = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        f"_bwexporter_completion bwexporter\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc"], input=asking, capture_output=True, text=True, check=True, env={**os.environ, **path}
    )
    assert offered in done.stdout.split()


@pytest.mark.parametrize("unit", ["bwexporter.service", "bwexporter-watch.service"])
def test_the_units_are_tighter_than_2(unit: str) -> None:
    """systemd-analyze reckons the exposure in tenths, from 0 (none) to 100."""
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(UNITS / unit)],
        capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_PAGER": "", "COLUMNS": "200"},
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-300:] + judged.stderr
    print(judged.stdout.strip().splitlines()[-1])  # noqa: T201 - the score, for the log of the run


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    """With programs where the units say that they are."""
    program = tmp_path / "bwexporter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/bwexporter", str(program)))
    names = [str(tmp_path / path.name) for path in UNITS.iterdir() if path.suffix in {".service", ".socket"}]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "bwexporter" in line]
    assert (verified.returncode, ours) == (0, [])
