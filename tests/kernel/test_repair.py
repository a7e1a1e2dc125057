"""What somebody else breaks is put right at once, by a daemon on the real kernel whose turns are ten minutes apart."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.kernel.daemon_rig import (
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)

pytestmark = pytest.mark.kernel

CONFIG = {
    "interval": "10m",
    "shortest_interval": "200ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": {"full": "80mbit"}, "exempt": {"full": "80mbit"}},
}
SLICES = [{"name": "ann", "id": 1}, {"name": "bob", "id": 2}]
ROSTER, TURN = "roster slices=", "turn lanes="
SETTINGS = re.compile(r"class htb (1:\w+) (parent 1:\w+ |root )(?:(leaf) \w+: )?(.*)\n")


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the daemon, which these tests share."""
    with Room() as room, Program(room, tmp_path_factory.mktemp("repair"), CONFIG, SLICES) as made:
        made.start()
        wait_for(lambda: handle_of(2, "exempt") in room.classes(), what="the tree")
        yield made


def settings(program: Program) -> dict[str, tuple[str, ...]]:
    """Return the parameters of every class as tc prints them, and whether it has a leaf queue."""
    printed = program.room.run("tc -d class show dev v0")
    return {name: tuple(found) for name, *found in map(tuple, SETTINGS.findall(printed))}


DRIFTS = {
    "ceiling": "tc class change dev v0 classid 1:1001 htb rate 1kbit ceil 70mbit quantum 60000",
    "rate": "tc class change dev v0 classid 1:1001 htb rate 9mbit ceil 80mbit quantum 60000",
    "burst": "tc class change dev v0 classid 1:1001 htb rate 1kbit ceil 80mbit quantum 60000 burst 9k cburst 9k",
    "trunk": "tc class change dev v0 classid 1:10 htb rate 1mbit ceil 2mbit quantum 60000",
    "class": "tc class del dev v0 classid 1:1001",
    "half a pair": "tc class del dev v0 classid 1:8001",
    "leaf queue": "tc qdisc del dev v0 parent 1:1001",
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_repaired_at_once_and_counted(program: Program, kind: str) -> None:
    """Long before the turn that is due in ten minutes."""
    traffic = Traffic(program.room)
    traffic.send(("ann", "normal"), handle_of(1), 10)
    before, drifts = settings(program), program.said().count("WARNING drift")
    program.room.run(DRIFTS[kind])
    wait_for(lambda: settings(program) == before, what="the repair")
    wait_for(lambda: program.said().count("WARNING drift") == drifts + 1, what="the event")


def reload(program: Program) -> None:
    """Ask for everything to be read anew, and wait until that, with a whole turn, has been done and told."""
    before = program.said().count(ROSTER)
    program.signal(signal.SIGHUP)
    wait_for(lambda: program.said().count(ROSTER) > before, what="the reload")
    wait_for(lambda: TURN in program.said().rpartition(ROSTER)[2], what="its turn")


def test_what_was_repaired_is_counted_once_each(program: Program) -> None:
    """By the metric of the next whole turn, which a reload brings."""

    def counted() -> float:
        return program.metrics()['bwexporter_drift_repairs_total{device="v0"}']

    reload(program)
    before, repairs = settings(program), counted()
    for kind in ("ceiling", "class", "leaf queue"):
        program.room.run(DRIFTS[kind])
        wait_for(lambda: settings(program) == before, what="the repair")
    reload(program)
    assert counted() == repairs + 3


def test_a_class_below_a_wrong_parent_is_moved(program: Program) -> None:
    """What stands in its place is nobody's, and the class is made where it belongs."""
    before = settings(program)
    program.room.run("tc class del dev v0 classid 1:1002")
    program.room.run("tc class add dev v0 parent 1:20 classid 1:1002 htb rate 1mbit")
    wait_for(lambda: settings(program) == before, what="the move")


def test_an_orphan_is_removed(program: Program) -> None:
    """A class where lanes stand that belongs to no slice."""
    before = settings(program)
    program.room.run("tc class add dev v0 parent 1:10 classid 1:1777 htb rate 1mbit")
    wait_for(lambda: settings(program) == before, what="the removal")
    line = "v0: classes of nobody were removed: 1:1777"
    wait_for(lambda: line in program.said(), what="a line of it")


def test_a_deleted_tree_is_built_at_once_and_accounts_go_on(program: Program) -> None:
    """No minute without shaping; the bytes that no look had seen are told by the queue that was deleted."""
    traffic, used = Traffic(program.room), used_bytes(program)
    before = settings(program)
    traffic.send(("bob", "normal"), handle_of(2), 30)
    program.room.run("tc qdisc del dev v0 root")
    wait_for(lambda: settings(program) == before, what="the tree")
    traffic.send(("bob", "normal"), handle_of(2), 12)
    assert used_bytes(program) == used + 42_000


def used_bytes(program: Program) -> int:
    """Return what all lanes have used, after a look: a program that starts anew takes one."""
    assert program.stop() == 0
    program.start()
    return sum(row["period_used_bytes"] for row in program.lanes().values())


def test_a_device_that_vanishes_and_returns_is_picked_up_again(program: Program) -> None:
    """With its tree; while it is away nothing is looked for in a busy loop."""
    before = settings(program)
    program.room.run("ip link del v0")
    wait_for(lambda: "v0 is not there" in program.said(), what="the trouble")
    quiet = len(program.said())
    time.sleep(1)
    assert program.said()[quiet:].count("is not there") <= 1
    program.room.lay_cable()
    wait_for(lambda: settings(program) == before, what="the tree")


def test_what_happens_on_other_devices_calls_for_no_look(program: Program) -> None:
    """Nor do our own changes: after them there is rest."""
    reload(program)  # the next turn is then due in ten minutes
    program.room.run("ip link add w0 type veth peer name w1")
    program.room.run("tc qdisc add dev w0 root handle 1: htb")
    said = len(program.said())
    for minor in range(1, 40):
        program.room.run(f"tc class add dev w0 parent 1: classid 1:{minor:x} htb rate 1mbit")
    program.room.run("ip link del w0")
    time.sleep(0.5)
    assert program.said()[said:] == ""
