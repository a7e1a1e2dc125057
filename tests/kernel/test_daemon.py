"""The whole program on the real kernel: started as users start it, watched over HTTP and by `tc`."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kernel.daemon_rig import (
    NOBODY,
    PATIENCE_SECONDS,
    Greedy,
    Program,
    Room,
    Stalls,
    Traffic,
    handle_of,
    readable_by_nobody,
    skip_where_no_room_can_be_made,
    text_of,
    wait_for,
)

pytestmark = pytest.mark.kernel

MEGABYTE = 1_000_000
FULL = {"full": "80mbit", "allowance": "unlimited"}
PERIOD = ("period_start_timestamp_seconds", "period_end_timestamp_seconds")

Config = Mapping[str, Any]
Slices = Sequence[Mapping[str, Any]]

CONFIG: Config = {
    "node": "room",
    "interval": "300ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": FULL, "exempt": FULL},
}
TIGHT = {"name": "tight", "id": 4, "normal": {"allowance": "20GB", "threshold": "100kB"}}
"""A slice that has passed its threshold after 100 packets, and then may send some 231 kB a second for a day."""
SLICES: Slices = [{"name": "ann", "id": 1}, {"name": "bob", "id": 2}, {"name": "cyd", "id": 3}, TIGHT]


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


class Node:
    """A room, the program in it and its books."""

    def __init__(self, room: Room, program: Program) -> None:
        self.room, self.program, self.traffic = room, program, Traffic(room)
        self.periods: dict[tuple[str, str], tuple[float, float]] = {}

    def send(self, slice_name: str, slice_id: int, packets: int = 100, *, traffic: str = "normal") -> None:
        """Send from a slice."""
        self.traffic.send((slice_name, traffic), handle_of(slice_id, traffic), packets)

    def told(self) -> str:
        """Return what the program and the kernel tell, for whoever has to find out where packets went."""
        return f"{self.room.run('tc -s qdisc show dev v0')}\n{self.program.said()[-8000:]}"

    def assert_books_agree(self) -> None:
        """See that every account is what was sent since the beginning, in its old period, with its cap in force."""
        self.program.turn()
        lanes, classes = self.program.lanes(), self.room.classes()
        used = {lane: row["period_used_bytes"] for lane, row in lanes.items() if row["period_used_bytes"]}
        assert used == self.traffic.passed, self.told()
        for lane, row in lanes.items():
            start, end = self.periods.setdefault(lane, (row[PERIOD[0]], row[PERIOD[1]]))
            assert (start, end) == pytest.approx((row[PERIOD[0]], row[PERIOD[1]]), abs=0.05), lane
            assert row["ceiling_bytes_per_second"] == row["intended_ceiling_bytes_per_second"], lane
        tight = lanes["tight", "normal"]
        if tight["period_used_bytes"] >= 100_000:
            spread = (20e9 - tight["period_used_bytes"]) / (tight[PERIOD[1]] - time.time())
            assert tight["verdict"] == "over_threshold"
            assert tight["ceiling_bytes_per_second"] == pytest.approx(spread, rel=0.02)
            assert classes[handle_of(4)].ceiling == pytest.approx(spread, rel=0.02)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Return a node that the tests of this file share: whatever happened to it before, its books go on."""
    folder = tmp_path_factory.mktemp("node")
    with Room() as room, Program(room, folder, CONFIG, SLICES) as program:
        yield Node(room, program.start())


@pytest.fixture
def room() -> Iterator[Room]:
    """Return an empty room."""
    with Room() as made:
        yield made


def counters(room: Room) -> dict[int, int]:
    """Return what the kernel says that each class has sent."""
    return {handle: found.sent_bytes for handle, found in room.classes().items()}


class Point(NamedTuple):
    """What the kernel said of a class between two times."""

    before: float
    after: float
    sent_bytes: int
    ceiling: int


class GreedyNode:
    """A node whose one slice sends all that it may through a period of a minute, watched from outside meanwhile."""

    ALLOWANCE = 20 * MEGABYTE
    FULL_RATE = 1 * MEGABYTE
    PERIOD_SECONDS = 60.0

    def __init__(self, interval_seconds: float, folder: Path, open_things: ExitStack) -> None:
        folder.mkdir()
        self.interval_seconds = interval_seconds
        self.room = open_things.enter_context(Room())
        config = {
            "interval": f"{interval_seconds:g}s",
            "period": f"{self.PERIOD_SECONDS:g}s",
            "devices": CONFIG["devices"],
            "defaults": {"normal": {"allowance": "unlimited"}, "exempt": {"allowance": "unlimited"}},
        }
        slices = [{"name": "greedy", "id": 1, "normal": {"full": "8mbit", "allowance": "20MB", "threshold": "80%"}}]
        self.program = open_things.enter_context(Program(self.room, folder, config, slices)).start()
        self.end: float = self.program.lane("greedy")[PERIOD[1]]
        self.points: list[Point] = []
        self.full_again_seconds: float | None = None  # after the period's end
        self.stalls = open_things.enter_context(Stalls())
        open_things.enter_context(Greedy(Traffic(self.room), handle_of(1)))
        self.watch()

    def watch(self) -> None:
        """Write down what the kernel says now."""
        before, found, after = time.time(), self.room.classes()[handle_of(1)], time.time()
        self.points.append(Point(before, after, found.sent_bytes, found.ceiling))
        if before > self.end and found.ceiling == self.FULL_RATE and self.full_again_seconds is None:
            self.full_again_seconds = after - self.end

    def is_over(self) -> bool:
        """Say whether it has been watched long enough in its second period."""
        return self.full_again_seconds is not None and time.time() > self.end + self.full_again_seconds + 5

    def wait_until(self, at: float) -> None:
        """Wait until it was watched beyond a time."""
        wait_for(lambda: self.points[-1].before > at, seconds=2 * PATIENCE_SECONDS, what="the time")

    def assert_never_stopped(self) -> None:
        """See that bytes grew in every span of three seconds in which this machine did not stall."""
        for point in self.points:
            later = next((one for one in self.points if one.before >= point.after + 3), None)
            if later is not None and later.sent_bytes == point.sent_bytes:
                stalled = self.stalls.seconds(point.before, later.after)
                assert stalled > 1, f"stood still {self.end - point.after:.1f} s before the end"

    def assert_at_full_rate(self, begin: float, end: float) -> None:
        """See that nothing held the slice back in some span; how much it could send was the busy machine's choice."""
        span = [point for point in self.points if begin <= point.before and point.after <= end]
        assert {point.ceiling for point in span} == {self.FULL_RATE}
        first, last = span[0], span[-1]
        sent = last.sent_bytes - first.sent_bytes
        assert 0 < sent < 1.1 * self.FULL_RATE * (last.after - first.before)


@pytest.fixture(scope="module")
def greedy_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GreedyNode]]:
    """Return four nodes side by side; they live through their period beside the other tests of this file."""
    folder, ended = tmp_path_factory.mktemp("greedy"), threading.Event()
    nodes: list[GreedyNode] = []

    def watch() -> None:
        while not ended.wait(0.1):
            for node in tuple(nodes):
                if not node.is_over():
                    node.watch()

    watching = threading.Thread(target=watch)
    with ExitStack() as open_things:
        open_things.callback(watching.join)
        open_things.callback(ended.set)
        watching.start()
        for interval in (0.2, 1.0, 2.0, 5.0):
            nodes.append(GreedyNode(interval, folder / f"{interval:g}", open_things))  # noqa: PERF401 - watched already
        yield nodes
        ended.set()
        watching.join()


def test_greedy_slices_begin_at_their_full_rate(greedy_nodes: list[GreedyNode]) -> None:
    """The first seconds of a period pass unhindered, whatever the interval."""
    for node in greedy_nodes:
        began = node.points[0].before
        node.wait_until(began + 3)
        node.assert_at_full_rate(began, began + 3)


class TestNothingEscapes:
    """Used is what was sent, to the byte, whatever happens; the period stays the old one and the cap is in force."""

    def test_used_bytes_are_the_kernels_counters(self, node: Node) -> None:
        """Every lane's used bytes after a turn are its class's counter; exempt, unclassified and own traffic too."""
        node.send("ann", 1)
        node.send("ann", 1, 7, traffic="exempt")
        node.send("bob", 2, 50)
        node.send("tight", 4, 150)
        node.traffic.send(("_default", "normal"), 0, 5)
        node.traffic.send(("_root", "normal"), handle_of(0), 3)
        node.assert_books_agree()
        counted = counters(node.room)
        ids = {"_root": 0, "ann": 1, "bob": 2, "cyd": 3, "tight": 4, "_default": 0x6FFF}
        for (slice_name, traffic), row in node.program.lanes().items():
            assert row["period_used_bytes"] == counted[handle_of(ids[slice_name], traffic)], (slice_name, traffic)

    def test_turns_beside_running_traffic_are_the_kernels_counters_once_it_rests(self, node: Node) -> None:
        """Many turns look while a slice sends; in the end they have counted every packet once."""
        before = counters(node.room)[handle_of(3)]
        with Greedy(node.traffic, handle_of(3)):
            for _ in range(4):
                node.program.turn()
        node.traffic.passed["cyd", "normal"] += counters(node.room)[handle_of(3)] - before
        node.assert_books_agree()

    def test_kill_9_while_slices_send(self, node: Node) -> None:
        """What was sent before, around and after the kill is counted by the program that starts anew."""
        node.send("ann", 1)
        node.send("tight", 4)
        node.program.kill()
        node.send("ann", 1)
        node.send("tight", 4)
        node.program.start()
        node.send("ann", 1)
        node.assert_books_agree()

    def test_a_deleted_and_recreated_class_below_its_old_value(self, node: Node) -> None:
        """Somebody deletes a class with bytes that no turn has seen, and makes it anew between two turns."""
        with node.program.halted():
            node.send("bob", 2, 20)
            self._recreate(node, handle_of(2))
            node.send("bob", 2, 10)
        node.assert_books_agree()

    def test_a_recreated_class_that_regrew_past_its_old_value(self, node: Node) -> None:
        """Its counter alone would look as if it had gone on."""
        node.program.turn()
        old = counters(node.room)[handle_of(2)]
        with node.program.halted():
            node.send("bob", 2, 20)
            self._recreate(node, handle_of(2))
            node.send("bob", 2, old // 1000 + 500)
            assert counters(node.room)[handle_of(2)] > old + 20_000
        node.assert_books_agree()
        assert any("counter_restarted v0 bob" in line for line in node.program.said().splitlines())

    def test_a_class_of_a_capped_slice_that_regrew_while_the_program_was_dead(self, node: Node) -> None:
        """No notification reaches a dead program: the leaf's handle and the class above tell it."""
        node.program.turn()
        old = counters(node.room)[handle_of(4)]
        node.program.kill()
        node.send("tight", 4, 20)
        self._recreate(node, handle_of(4))
        node.send("tight", 4, old // 1000 + 100)
        node.program.start()
        node.assert_books_agree()

    def test_a_vanished_class_is_made_anew_and_disturbs_no_other(self, node: Node) -> None:
        """The class is back after a turn or two, with its ceiling; the repair is counted and told."""
        repairs = 'bwexporter_drift_repairs_total{device="v0"}'
        before = node.program.metrics()[repairs]
        node.room.run(f"tc class del dev v0 classid {text_of(handle_of(4))}")
        wait_for(lambda: handle_of(4) in node.room.classes(), what="the repair")
        node.send("ann", 1)
        node.send("tight", 4)
        node.assert_books_agree()
        assert node.program.metrics()[repairs] > before
        assert "drift v0 tight normal" in node.program.said()

    def test_a_deleted_tree(self, node: Node) -> None:
        """It is built anew within a turn or two, and every account goes on."""
        node.program.turn()
        node.room.run("tc qdisc del dev v0 root")
        wait_for(lambda: handle_of(4) in node.room.classes(), what="the tree")
        node.program.turn()
        node.send("tight", 4)
        node.send("ann", 1, 10)
        node.assert_books_agree()
        assert "tree_ended v0" in node.program.said()

    def test_what_a_deleted_tree_had_sent_unseen_is_counted(self, node: Node) -> None:
        """The kernel tells the sum of such a tree; no byte of it is lost or counted twice."""
        node.program.turn()
        with node.program.halted():
            node.send("ann", 1)
            node.room.run("tc qdisc del dev v0 root")
        wait_for(lambda: handle_of(4) in node.room.classes(), what="the tree")
        node.program.turn()
        used = {
            lane: row["period_used_bytes"] for lane, row in node.program.lanes().items() if row["period_used_bytes"]
        }
        assert sum(used.values()) == sum(node.traffic.passed.values())
        node.traffic.passed.update({lane: used[lane] - node.traffic.passed[lane] for lane in used})

    def test_a_tree_deleted_while_the_program_was_dead(self, node: Node) -> None:
        """What the last turn has seen is in the account, and stays."""
        node.program.turn()
        node.program.kill()
        node.room.run("tc qdisc del dev v0 root")
        node.program.start()
        node.program.turn()
        node.send("tight", 4)
        node.assert_books_agree()

    def test_a_slice_that_is_removed_and_returns_goes_on_with_its_account(self, node: Node) -> None:
        """What it sends until its class is gone is its own; it returns capped, with its old period and id."""
        with node.program.halted():
            node.program.write_slices([one for one in SLICES if one["name"] != "tight"])
            node.send("tight", 4)
        wait_for(lambda: ("tight", "normal") not in node.program.lanes(), what="the removal")
        wait_for(lambda: handle_of(4) not in node.room.classes(), what="the removal of the class")
        assert not [series for series in node.program.metrics() if 'slice="tight"' in series]
        node.traffic.send(("_default", "normal"), handle_of(4), 10)
        node.program.write_slices(SLICES)
        wait_for(lambda: ("tight", "normal") in node.program.lanes(), what="the return")
        node.send("tight", 4)
        node.assert_books_agree()

    def test_a_slice_that_returns_under_another_id_after_a_restart(self, node: Node) -> None:
        """Accounts belong to names: neither the program's restart nor the other class starts a new period."""
        node.program.write_slices([one for one in SLICES if one["name"] != "tight"])
        wait_for(lambda: handle_of(4) not in node.room.classes(), what="the removal")
        node.program.kill()
        node.program.write_slices([*SLICES[:3], {**TIGHT, "id": 44}])
        node.program.start()
        node.traffic.send(("tight", "normal"), handle_of(44), 20)
        lane = node.program.lane("tight")
        assert (lane[PERIOD[0]], lane[PERIOD[1]]) == pytest.approx(node.periods["tight", "normal"], abs=0.05)
        assert lane["ceiling_bytes_per_second"] < 250_000
        node.program.write_slices(SLICES)
        wait_for(lambda: handle_of(4) in node.room.classes(), what="the old id")
        node.assert_books_agree()

    def test_sigterm_counts_once_more_and_saves(self, node: Node) -> None:
        """What was sent after the last turn is in the state file when the program has ended."""
        with node.program.halted():
            node.send("cyd", 3)
            node.program.signal(signal.SIGTERM)
        assert node.program.exit_code() == 0
        self._recreate(node, handle_of(3))  # its counter knows nothing any more
        node.program.start()
        node.assert_books_agree()

    def _recreate(self, node: Node, handle: int) -> None:
        """Delete a class and make it anew with the same rates, as a stranger would."""
        place, old = f"dev v0 classid {text_of(handle)}", node.room.classes()[handle]
        rates = f"rate {old.rate * 8:.0f}bit ceil {old.ceiling * 8:.0f}bit quantum 1514"
        node.room.run("tc -batch -", given=f"class del {place}\nclass add {place} parent 1:10 htb {rates}\n")


class TestOneSlicesTrouble:
    """It is that slice's alone, and metrics and log tell of it."""

    def test_impossible_settings_cost_that_slice_or_key(self, node: Node) -> None:
        """A clash of ids, an impossible id, a bad name and a bad value: the others go on; back to good files after."""
        bad = [
            {"name": "clash", "id": 1},
            {"name": "far", "id": 0x6FFF},
            {"name": "bad\nname"},
            {"name": "dot", "id": 9, "normal": {"allowance": "-5GB", "full": "8mbit"}},
            {"name": "huge", "id": 10, "normal": {"guarantee": "90mbit", "full": "400mbit"}},
        ]
        node.program.write_slices([*SLICES, *bad])
        wait_for(lambda: ("dot", "normal") in node.program.lanes(), what="the reload")
        for name, slice_id in (("ann", 1), ("bob", 2), ("tight", 4)):
            node.send(name, slice_id, 20)
        node.program.turn()
        metrics, lanes, said = node.program.metrics(), node.program.lanes(), node.program.said()
        assert {name for name, _ in lanes} == {"_root", "_default", "ann", "bob", "cyd", "tight", "dot", "huge"}
        assert lanes["dot", "normal"]["full_rate_bytes_per_second"] == 1_000_000
        (problems,) = [value for series, value in metrics.items() if series.startswith("bwexporter_source_problems")]
        assert problems >= 3
        for key in (
            "id: clash: the id 1 is that of ann",
            "slices[5].id",
            "slices[6].name",
            "slices[7].normal.allowance",
        ):
            assert key in said
        assert metrics["bwexporter_up"] == 1
        node.program.write_slices(SLICES)
        wait_for(lambda: ("dot", "normal") not in node.program.lanes(), what="the good file")
        node.assert_books_agree()

    def test_a_class_that_cannot_be_removed(self, node: Node) -> None:
        """A stranger's class stands below it: the kernel says EBUSY, turn by turn, and all else goes on."""
        node.send("bob", 2, 5)
        node.program.turn()
        node.room.run(f"tc class add dev v0 parent {text_of(handle_of(2))} classid 1:f001 htb rate 1mbit")
        node.program.write_slices([one for one in SLICES if one["name"] != "bob"])
        refusals = 'bwexporter_change_failures_total{device="v0",errno="EBUSY"}'
        wait_for(lambda: node.program.metrics().get(refusals, 0) > 0, what="the refusal")
        node.send("ann", 1)
        node.send("tight", 4)
        node.program.turn()
        lanes = node.program.lanes()
        for lane in (("ann", "normal"), ("tight", "normal")):
            assert lanes[lane]["period_used_bytes"] == node.traffic.passed[lane]
        assert lanes["tight", "normal"]["verdict"] == "over_threshold"
        assert "change_refused v0 bob normal act=remove" in node.program.said()
        assert "outcome=EBUSY" in node.program.said()
        assert node.program.metrics()["bwexporter_up"] == 1
        node.room.run("tc class del dev v0 classid 1:f001")
        node.program.write_slices(SLICES)
        wait_for(lambda: ("bob", "normal") in node.program.lanes(), what="the return")
        node.assert_books_agree()

    def test_the_log_holds_no_traceback(self, node: Node) -> None:
        """After all that happened to this node."""
        assert "Traceback" not in node.program.said()
        metrics = node.program.metrics()
        assert [
            series for series in metrics if series.startswith("bwexporter_turn_failures_total") and metrics[series]
        ] == []


class TestRefusals:
    """What cannot be used is refused in one line, and nothing is touched."""

    def test_bad_configuration_names_every_problem_with_line_and_key(self, room: Room, tmp_path: Path) -> None:
        """Exit code 2; neither the kernel nor the state file was touched."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        program.config_file.write_text(
            "interval: 10\ndevices:\n  - name: v0\n    cap: 1gbit\n    line_rate: 100mbit\n"
            "defaults:\n  normal: {allowance: 5}\nslices:\n  - file: slices.yml\nnonsense: true\n"
        )
        done = program.run()
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        for line, key in ((1, "interval"), (4, "devices[0].cap"), (7, "defaults.normal.allowance"), (10, "nonsense")):
            assert any(f"bwexporter.yml:{line}: {key}: " in said for said in lines), (line, key)
        assert len(lines) == 4
        assert "htb" not in room.run("tc qdisc show dev v0")
        assert not program.state_file.exists()

    def test_a_foreign_root_queue_is_refused_untouched_unless_it_is_taken_over(
        self, room: Room, tmp_path: Path
    ) -> None:
        """Another htb 1: and another kind; one line says what stands there and what to do."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        for foreign in ("1: htb default 30", "5: pfifo limit 77"):
            room.run(f"tc qdisc replace dev v0 root handle {foreign}")
            before = room.run("tc qdisc show dev v0")
            self._assert_refused(program, "v0 has a root queue that is not bwexporter's")
            assert room.run("tc qdisc show dev v0") == before
            room.run("tc qdisc del dev v0 root")
        room.run("tc qdisc add dev v0 root handle 5: pfifo limit 77")
        assert program.run("--once", "--take-over").returncode == 0
        assert handle_of(1) in room.classes()

    def test_a_missing_capability_is_named(self, room: Room, tmp_path: Path) -> None:
        """Root without CAP_NET_ADMIN, as in a container."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        done = program.run(through=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
        self._assert_is_one_line(done, "CAP_NET_ADMIN")
        assert "htb" not in room.run("tc qdisc show dev v0")

    def test_a_port_that_is_taken(self, room: Room, tmp_path: Path) -> None:
        """The line names the address; the device was not touched."""
        program = Program(room, tmp_path, {**CONFIG, "web": {"listen": ["127.0.0.1:10199"]}}, SLICES)
        with room.entered():
            taken = socket.create_server(("127.0.0.1", 10199))
        with closing(taken):
            self._assert_refused(program, "cannot listen on 127.0.0.1:10199")
        assert "htb" not in room.run("tc qdisc show dev v0")

    def test_an_unknown_device(self, room: Room, tmp_path: Path) -> None:
        """The line names it."""
        program = Program(room, tmp_path, {**CONFIG, "devices": [{"name": "eth7", "cap": "1mbit"}]}, SLICES)
        self._assert_refused(program, "device eth7 is not there")

    def test_a_state_file_of_a_newer_program_is_left_untouched(self, room: Room, tmp_path: Path) -> None:
        """The line says so, and the file is the same to the byte."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        assert program.run("--once").returncode == 0
        with closing(sqlite3.connect(program.state_file)) as state:
            state.execute("PRAGMA user_version = 99")
        before = program.state_file.read_bytes()
        self._assert_refused(program, "newer bwexporter")
        assert program.state_file.read_bytes() == before

    def test_a_damaged_state_file_is_counted_from_the_first_turn_on(self, room: Room, tmp_path: Path) -> None:
        """The copy goes on, and the alert has something to fire on."""
        with Program(room, tmp_path, CONFIG, SLICES) as program:
            assert program.run("--once").returncode == 0
            damaged = bytearray(program.state_file.read_bytes())
            damaged[1000:3000] = bytes(2000)
            program.state_file.write_bytes(damaged)
            program.start()
            assert program.metrics()["bwexporter_state_failures_total"] == 1.0
            assert "was damaged" in program.said()

    def test_a_second_instance_on_the_same_device(self, node: Node, tmp_path: Path) -> None:
        """With a state file of its own it is refused for the device; the first one goes on."""
        second = Program(node.room, tmp_path, {**CONFIG, "web": {"listen": ["127.0.0.1:0"]}}, SLICES)
        self._assert_refused(second, "another bwexporter runs on this device")
        node.program.turn()

    def test_a_second_instance_on_the_same_state_file(self, node: Node, tmp_path: Path) -> None:
        """It is refused before it looks at any device."""
        config = {**CONFIG, "state": str(node.program.state_file), "web": {"listen": ["127.0.0.1:0"]}}
        self._assert_refused(Program(node.room, tmp_path, config, SLICES), "another bwexporter uses the state file")

    def _assert_refused(self, program: Program, reason: str) -> None:
        self._assert_is_one_line(program.run(), reason)

    def _assert_is_one_line(self, done: subprocess.CompletedProcess[str], reason: str) -> None:
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("bwexporter: ")
        assert reason in line


class TestSwitches:
    """How it is stopped, told anew, and run without acting."""

    @pytest.mark.parametrize("on_stop", ["keep", "hold"])
    def test_sigterm_leaves_ceilings_as_on_stop_says(self, on_stop: str, room: Room, tmp_path: Path) -> None:
        """Keep: as they stand; hold: an uncapped slice gets the ceiling that carries it to its period's end."""
        slices = [{"name": "ann", "id": 1, "normal": {"allowance": "20GB"}}]
        with Program(room, tmp_path, {**CONFIG, "on_stop": on_stop}, slices).start() as program:
            assert room.classes()[handle_of(1)].ceiling == 10_000_000
            assert program.stop() == 0
            left = room.classes()[handle_of(1)].ceiling
            assert left == (10_000_000 if on_stop == "keep" else pytest.approx(20e9 / 86_400, rel=0.02))
            program.start()
            assert room.classes()[handle_of(1)].ceiling == 10_000_000

    def test_reloads(self, room: Room, tmp_path: Path) -> None:
        """SIGHUP or a changed file reads anew; a bad file keeps what runs, and the metrics say so."""
        with Program(room, tmp_path, CONFIG, SLICES[:1]).start() as program:
            wait_for(lambda: program.lane("ann")["full_rate_bytes_per_second"] == 10_000_000)
            program.write_slices([{"name": "ann", "id": 1, "normal": {"full": "16mbit"}}])
            wait_for(lambda: room.classes()[handle_of(1)].ceiling == 2_000_000, what="the changed slices")

            program.slices_file.write_text("slices: [\n")
            source = f'{{source="{program.slices_file}"}}'
            wait_for(lambda: program.metrics()[f"bwexporter_source_up{source}"] == 0, what="the source's fall")
            assert program.metrics()[f"bwexporter_source_slices{source}"] == 1
            assert room.classes()[handle_of(1)].ceiling == 2_000_000
            wait_for(lambda: "slices.yml:1:" in program.said(), what="the line that names the place")

            program.write_config({**CONFIG, "interval": "soon"})
            loaded = "bwexporter_config_last_reload_successful"
            wait_for(lambda: program.metrics()[loaded] == 0, what="the refused configuration")
            assert "interval: " in program.said()
            assert room.classes()[handle_of(1)].ceiling == 2_000_000

            program.write_slices([{"name": "ann", "id": 1}])
            program.write_config({**CONFIG, "interval": "200ms"})
            program.signal(signal.SIGHUP)
            wait_for(lambda: program.metrics()[loaded] == 1, what="the good configuration")
            assert program.metrics()[f"bwexporter_source_up{source}"] == 1
            wait_for(lambda: room.classes()[handle_of(1)].ceiling == 10_000_000, what="the good slices")

    def test_shadow_judges_and_counts_and_changes_nothing(self, room: Room, tmp_path: Path) -> None:
        """On a node of its own, the tree another run has left: verdicts are published, ceilings stay."""
        with Program(room, tmp_path, CONFIG, SLICES) as program:
            assert program.run("--once").returncode == 0
            before, ceiling = room.run("tc class show dev v0"), room.classes()[handle_of(4)].ceiling
            program.start("--shadow")
            Traffic(room).send(("tight", "normal"), handle_of(4), 200)
            program.turn()
            lane = program.lane("tight")
            assert lane["period_used_bytes"] == 200_000
            assert lane["verdict"] == "over_threshold"
            assert lane["intended_ceiling_bytes_per_second"] < 250_000
            assert lane["ceiling_bytes_per_second"] == pytest.approx(ceiling, rel=0.01)
            assert ceiling > 250_000
            assert lane["shadow"] is True
            assert not program.answer()["enforcing"]
            assert program.stop() == 0
            assert room.run("tc class show dev v0") == before

    def test_shadow_needs_no_capability_and_builds_nothing(self, room: Room, tmp_path: Path) -> None:
        """It is how a careful operator starts."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        done = program.run("--once", "--shadow", through=("setpriv", "--bounding-set=-net_admin"))
        assert done.returncode == 0, done.stderr
        assert "shadow" in done.stdout
        assert "htb" not in room.run("tc qdisc show dev v0")

    def test_once_takes_a_turn_prints_it_and_ends(self, room: Room, tmp_path: Path) -> None:
        """The tree stands, the accounts are kept, and the next one goes on from them."""
        program = Program(room, tmp_path, CONFIG, SLICES)
        first = program.run("--once")
        assert first.returncode == 0, first.stderr
        Traffic(room).send(("tight", "normal"), handle_of(4), 30)
        second = program.run("--once")
        assert second.returncode == 0, second.stderr
        assert "tight" in second.stdout
        assert "30.0 kB" in second.stdout


class TestUnprivileged:
    """A user without any privilege, in a user namespace of its own."""

    def test_the_daemon_counts_and_caps(self) -> None:
        """All of it works: the tree, the lock, the state file, the pages."""
        with readable_by_nobody() as readable, Room(readable) as room:
            folder = readable.scratch / "node"
            subprocess.run([*NOBODY, "mkdir", str(folder)], check=True)
            with Program(room, folder, CONFIG, SLICES).start() as program:
                node = Node(room, program)
                node.send("tight", 4, 150)
                node.send("ann", 1)
                node.assert_books_agree()
                assert program.stop() == 0


class TestGreedy:
    """What became of the greedy slices, after all the other tests."""

    def test_greedy_slices_land_on_their_allowance_are_never_stopped_and_start_anew_at_full_rate(
        self, greedy_nodes: list[GreedyNode]
    ) -> None:
        """Turns of 0.2, 1, 2 and 5 s; the use is the one of the event that ended the period."""
        for node in greedy_nodes:
            wait_for(node.is_over, seconds=2 * PATIENCE_SECONDS, what="the second period")
            at, inputs = node.program.events("period_rolled", "greedy")[0]
            used, burst_bytes = json.loads(inputs)["used_bytes"], node.room.classes()[handle_of(1)].ceiling_burst_bytes
            full_again = node.full_again_seconds
            print(f"every {node.interval_seconds} s: {used} bytes, full rate {full_again} s after the end")  # noqa: T201
            assert full_again is not None
            stalled = node.stalls.seconds()
            assert 0.97 * node.ALLOWANCE - stalled * node.FULL_RATE <= used <= 1.01 * node.ALLOWANCE + burst_bytes
            late = min(1.0, node.interval_seconds) + 2.0 + node.stalls.seconds(node.end - 2, node.end + full_again)
            assert -0.01 <= at - node.end <= late  # two clocks tell of the end
            assert full_again <= late
            node.assert_at_full_rate(node.end + full_again + 0.5, node.end + full_again + 4.5)
            node.assert_never_stopped()
