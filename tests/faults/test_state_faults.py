"""A state file that is damaged, cut short, old, newer, read-only, gone, or on a full disk, under the whole program."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import PORTS, class_of, differences
from tests.faults.conftest import Start
from tests.faults.disk import Disk
from tests.faults.machine import Machine
from tests.faults.program import Files, Remote

pytestmark = pytest.mark.kernel
ANN, BOB = "ann normal", "bob exempt"
Periods = dict[str, tuple[float, float]]


def pass_packets(machine: Machine, packets: int = 150) -> None:
    """Send in two lanes, and wait until all has arrived."""
    for lane in (ANN, BOB):
        machine.send(class_of(lane), packets, port=PORTS[lane])
    machine.settle()


def lived(machine: Machine, start: Start, **where: object) -> tuple[Remote, Periods]:
    """Return a program that has counted some traffic and capped two lanes, and the periods of its lanes."""
    program, periods = start(**where), Periods()
    assert program.hear() == {"recovered": "", "lost": False}
    program.turn()
    pass_packets(machine)
    assert list(differences(program.turn(), machine, periods)) == []
    return program, periods


def spoil_middle(path: Path) -> None:
    """Overwrite a part of every page but the first."""
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at : at + 4000] = b"\xa5" * 4000
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    """Leave half of it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Leave nothing of it, as the ancestor's last version did."""
    path.write_bytes(b"")


def remove(path: Path) -> None:
    """Remove it."""
    path.unlink()


@pytest.mark.parametrize("spoil", [spoil_middle, cut_short, empty, remove])
def test_a_lost_file_is_replaced_by_its_copy_and_the_kernel_knows_the_rest(
    machine: Machine, start: Start, files: Files, spoil: Callable[[Path], None]
) -> None:
    """The copy is older than what was counted; the counters have gone on, so that not one byte is lost."""
    program, periods = lived(machine, start)
    program.end()
    program = start()  # an hour has not passed: what is copied at the first save of a start is copied now
    program.hear()
    program.turn()
    program.end()
    assert list(files.folder.glob("eth0.db.copy-*")), "there is a copy"
    program = start()
    program.hear()
    pass_packets(machine, 30)
    program.turn()
    program.kill()
    for log in files.folder.glob("eth0.db-*"):
        log.unlink()
    spoil(files.state)
    program = start()
    beginning = program.hear()
    assert not beginning["lost"]
    assert "copy" in beginning["recovered"]
    assert list(differences(program.turn(), machine, periods)) == []


def test_without_a_copy_the_counters_are_the_accounts_and_the_caps_stay(
    machine: Machine, start: Start, files: Files
) -> None:
    """Fail safe: a lost state lifts no cap; ceilings stay as the kernel has them until the period ends, also later."""
    program, _ = lived(machine, start)
    program.kill()
    for file in files.folder.glob("eth0.db*"):
        if not file.name.endswith(".lock"):
            file.unlink() if ".copy" in file.name or file.name != "eth0.db" else cut_short(file)
    before = {handle: one.ceiling for handle, one in machine.classes().items()}
    for _ in range(2):
        program = start()
        program.hear()
        said = program.turn()
        pass_packets(machine, 30)
        said = program.turn()
        assert {handle: one.ceiling for handle, one in machine.classes().items()} == before
        assert said["lanes"][ANN]["reason"] == "frozen"
        assert said["lanes"][ANN]["used"] == machine.arrived[PORTS[ANN]]
        assert said["lanes"][BOB]["used"] == machine.arrived[PORTS[BOB]]
        program.kill()


def test_an_older_file_put_back_by_hand_goes_on_exactly(machine: Machine, start: Start, files: Files) -> None:
    """A backup of earlier today has earlier counters, and the kernel has those of now."""
    program, periods = lived(machine, start)
    program.end()
    backup = files.state.read_bytes()
    program = start()
    program.hear()
    pass_packets(machine, 40)
    program.turn()
    program.end()
    files.state.write_bytes(backup)
    program = start()
    program.hear()
    assert list(differences(program.turn(), machine, periods)) == []


def test_a_newer_file_is_refused_and_nothing_is_touched(machine: Machine, start: Start, files: Files) -> None:
    """Neither the file nor a class: the caps that stand are those of the newer program."""
    program, _ = lived(machine, start)
    program.end()
    with closing(sqlite3.connect(files.state)) as connection:
        connection.execute("PRAGMA user_version = 99")
    bytes_before, classes_before = files.state.read_bytes(), machine.classes()
    assert "newer bwexporter" in start().hear()["refused"]
    assert (files.state.read_bytes(), machine.classes()) == (bytes_before, classes_before)


def test_a_file_that_vanishes_under_the_running_program_costs_nothing(
    machine: Machine, start: Start, files: Files
) -> None:
    """It is made anew with all that the program knows, and a kill afterwards finds it."""
    program, periods = lived(machine, start)
    for file in files.folder.glob("eth0.db*"):
        if not file.name.endswith(".lock"):
            file.unlink()
    pass_packets(machine, 30)
    said = program.turn()
    assert said["saved"]
    assert list(differences(said, machine, periods)) == []
    program.kill()
    program = start()
    assert not program.hear()["lost"]
    assert list(differences(program.turn(), machine, periods)) == []


@pytest.fixture
def disk(machine: Machine, files: Files) -> Iterator[Disk]:  # noqa: ARG001 - it stands in a private network
    """Return a small disk that holds configuration and state."""
    contents = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    small = Disk(files.folder)
    for name, data in contents.items():
        (small.seen / name).write_bytes(data)
    yield small
    small.close()


def turn_on_a_full_disk(program: Remote, machine: Machine, disk: Disk) -> dict[str, Any]:
    """Fill the disk, and take a turn that cannot be saved on it.

    A failed save closes the file, which gives back the room of its log, and a copy that runs gives back its own.
    """
    for _ in range(10):
        disk.fill()
        pass_packets(machine, 30)
        said = program.turn()
        if not said["saved"]:
            break
    return said


def test_a_full_disk_stops_nothing_but_saving(machine: Machine, start: Start, disk: Disk) -> None:
    """Counting and capping go on; a kill meanwhile loses nothing, as the kernel has it; with room it is saved again."""
    program, periods = lived(machine, start, inside=disk.inside)
    for _ in range(2):
        said = turn_on_a_full_disk(program, machine, disk)
        assert not said["saved"]
        assert [one for one in differences(said, machine, periods) if not one.startswith("trouble")] == []
    program.kill()
    program = start(inside=disk.inside)
    program.hear()
    said = program.turn()
    assert [one for one in differences(said, machine, periods) if not one.startswith("trouble")] == []
    disk.make_room()
    pass_packets(machine, 30)
    assert list(differences(program.turn(), machine, periods)) == []


def test_a_read_only_disk_is_refused_at_the_start_and_nothing_is_touched(
    machine: Machine, start: Start, disk: Disk
) -> None:
    """In one sentence; the caps stay as they are, and what was sent meanwhile is counted by the next program."""
    program, periods = lived(machine, start, inside=disk.inside)
    program.kill()
    disk.run("sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"', str(disk.folder))
    classes = machine.classes()
    assert "cannot be written to" in start(inside=disk.inside).hear()["refused"]
    assert machine.classes() == classes
    disk.run("umount", str(disk.folder))
    program = start(inside=disk.inside)
    program.hear()
    pass_packets(machine, 10)
    assert list(differences(program.turn(), machine, periods)) == []
