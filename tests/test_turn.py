"""The turn: what becomes of a node when one of its stages, devices or classes fails."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from bwexporter.core.enrolment import open_ledger
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Changes, Instant, Lane, Ledger, Outcomes, Reason, Snapshot, Traffic
from bwexporter.core.periods import Rolling
from bwexporter.core.report import DeviceReport, Event, EventKind
from bwexporter.desk import Desk
from bwexporter.errors import DeviceRefused
from bwexporter.kernel.tree import ManagedTree
from bwexporter.stages import Pace
from bwexporter.turn import STAGES, Turns
from tests.builders import GIGABIT
from tests.fake_kernel import FakeClass, FakeDevice, FakeKernel
from tests.node import DEVICE, Kept, Node, plain_tariffs

MEGABYTE = 1_000_000
SMALL = {
    "rule": Rolling(3600.0),
    "allowance_bytes": 100 * MEGABYTE,
    "threshold_bytes": 80 * MEGABYTE,
    "full_bytes_per_second": 1_250_000,
    "guarantee_bytes_per_second": 1,
}


def a_node(*names: str, **given: object) -> Node:
    """Return a node whose tree stands and has been seen; 100 MB an hour at 10 Mbit/s, looks of 10 s."""
    node = Node({name: number for number, name in enumerate(names or ("ann", "bob"), 1)}, **{**SMALL, **given})
    node.turn()
    node.pass_seconds(10.0)
    node.turn()
    return node


def send(node: Node, name: str, size: int) -> None:
    """Let a slice send so much."""
    assert node.kernel.offer(DEVICE, node.class_of(name), size, seconds=1e6) == size


def next_turn(node: Node, seconds: float = 10.0) -> DeviceReport:
    """Let time pass and take a turn."""
    node.pass_seconds(seconds)
    return node.turn()


def ceiling(node: Node, name: str) -> int:
    """Return what the kernel enforces."""
    root = node.kernel.links[DEVICE].root
    assert root is not None
    return root.classes[node.class_of(name)].ceiling


def reason(node: Node, report: DeviceReport, name: str) -> Reason:
    """Return why a slice's normal lane has its ceiling."""
    return Reason(int(report.verdicts.reason[node.row(name)]))


def enforced(node: Node, report: DeviceReport, name: str) -> int:
    """Return what the report says the kernel enforces."""
    return int(report.enforced_ceiling_bytes_per_second[node.row(name)])


# A whole turn.


def test_a_turn_counts_judges_acts_and_reports_what_the_kernel_has() -> None:
    """The ceiling of the report is the one that was read back."""
    node = a_node()
    send(node, "ann", 82 * MEGABYTE)

    report = next_turn(node)

    assert node.account("ann")["used_bytes"] == 82 * MEGABYTE
    assert reason(node, report, "ann") is Reason.OVER_THRESHOLD
    assert 0 < ceiling(node, "ann") < 1_250_000
    assert (
        ceiling(node, "ann")
        == enforced(node, report, "ann")
        == report.verdicts.ceiling_bytes_per_second[node.row("ann")]
    )
    assert (reason(node, report, "bob"), ceiling(node, "bob")) == (Reason.WITHIN, 1_250_000)


def test_every_stage_is_timed() -> None:
    """The histogram has all seven of them, and the whole is their sum."""
    node = Node({"ann": 1})
    report = node.whole_turn()

    assert STAGES == tuple(report.stage_seconds)
    assert sum(report.stage_seconds.values()) == pytest.approx(report.turn_seconds)


def test_the_full_rate_is_back_in_the_turn_that_ends_the_period() -> None:
    """The look is due at the period's end, not at the first turn after it."""
    node = a_node()
    send(node, "ann", 99 * MEGABYTE)
    next_turn(node)
    left = node.account("ann")["period_end_at"] - node.turns.desks[DEVICE].ledger.ledger_seconds
    report = next_turn(node, left - 5.0)

    assert node.turns.next_look_seconds(node.now()) == pytest.approx(5.0)
    assert reason(node, report, "ann") is Reason.OVER_THRESHOLD
    report = next_turn(node, 5.0)
    assert (reason(node, report, "ann"), ceiling(node, "ann")) == (Reason.WITHIN, 1_250_000)


# Refusals and strangers.


def test_a_refused_change_of_one_class_disturbs_no_other() -> None:
    """The refused one is reported as the kernel has it, and is asked for again."""
    node = a_node()
    node.kernel.refusals = {node.class_of("ann"): errno.EINVAL}
    send(node, "ann", 82 * MEGABYTE)
    send(node, "bob", 83 * MEGABYTE)

    report = next_turn(node)

    assert ceiling(node, "bob") < 1_250_000
    assert ceiling(node, "ann") == enforced(node, report, "ann") == 1_250_000
    assert reason(node, report, "ann") is Reason.OVER_THRESHOLD
    node.kernel.refusals = {}
    report = next_turn(node)
    assert ceiling(node, "ann") == enforced(node, report, "ann") < 1_250_000


def test_a_vanished_class_is_made_again_with_its_cap_and_disturbs_no_other() -> None:
    """Nothing of the account is lost with it."""
    node = a_node()
    send(node, "ann", 82 * MEGABYTE)
    next_turn(node)
    node.kernel.delete_class(DEVICE, node.class_of("ann"))

    report = next_turn(node)

    assert node.account("ann")["used_bytes"] == 82 * MEGABYTE
    assert ceiling(node, "ann") == enforced(node, report, "ann") < 1_250_000
    assert len(report.changes) == 1


def test_a_class_that_can_not_be_made_is_reported_as_missing() -> None:
    """Prometheus shows no ceiling for it, and the other lanes go on."""
    node = a_node()
    node.kernel.delete_class(DEVICE, node.class_of("ann"))
    node.kernel.refusals = {node.class_of("ann"): errno.ENOMEM}

    report = next_turn(node)

    assert enforced(node, report, "ann") == -1
    assert enforced(node, report, "bob") == 1_250_000


def test_a_device_that_refuses_its_changes_is_in_trouble_and_counts_on() -> None:
    """An act that raises as a whole is a trouble of that device, not of the turn."""
    node = a_node()
    desk = node.turns.desks[DEVICE]
    assert node.door is not None
    door = Unwilling(node.door)
    node.turns.desks[DEVICE] = replace(desk, door=door)
    send(node, "ann", 82 * MEGABYTE)

    report = next_turn(node)

    assert "not bwexporter's" in report.trouble
    assert node.account("ann")["used_bytes"] == 82 * MEGABYTE
    door.willing = True
    assert next_turn(node).trouble == ""
    assert ceiling(node, "ann") < 1_250_000


@dataclass
class Unwilling:
    """A door whose changes are refused as a whole until it is willing."""

    door: FakeDevice
    willing: bool = False

    def look(self) -> Snapshot:
        """Look."""
        return self.door.look()

    def apply(self, changes: Changes) -> Outcomes:
        """Refuse, or do it."""
        if not self.willing:
            raise DeviceRefused("eth0 has a root queue that is not bwexporter's (fq 8001:); nothing was touched")
        return self.door.apply(changes)


# Two devices.


class TwoDevices:
    """A node with the slice ann on two devices."""

    def __init__(self) -> None:
        self.kernel = FakeKernel("eth0", "eth1")
        self.store = Stores()
        self.turns = Turns("node", self.store, Pace(10.0, 1.0, 2.0), time.perf_counter)
        self.seconds = 0.0
        self.doors = {name: FakeDevice(name, self.kernel) for name in ("eth0", "eth1")}
        for name, door in self.doors.items():
            tariffs = plain_tariffs({"ann": 1}, **{key: value for key, value in SMALL.items() if key != "rule"})
            lanes = tuple(lane._replace(device=name) for lane in tariffs.lanes)
            tree = ManagedTree(name, GIGABIT, GIGABIT, GIGABIT, 65_536)
            ledger = open_ledger(name, door.facts().ifindex, self.now())
            rules = (Rolling(3600.0),)
            self.turns.enlist(Desk(name, door, tree, replace(tariffs, lanes=lanes), rules, ledger))
        self.turn()
        self.turn()

    def now(self) -> Instant:
        """Read the clocks."""
        return Instant(1.7e9 + self.seconds, 1000.0 + self.seconds, "boot")

    def turn(self, seconds: float = 10.0, *, early: bool = False) -> dict[str, DeviceReport]:
        """Let time pass, take a turn, and return the reports by device."""
        self.seconds += seconds
        report = self.turns.take(self.now(), early=early)
        return {device.device: device for device in report.devices}

    def send(self, device: str, size: int) -> None:
        """Let ann send there."""
        assert self.kernel.offer(device, 0x1_1001, size, seconds=1e6) == size

    def used(self, device: str) -> int:
        """Return what ann has used there."""
        ledger = self.turns.desks[device].ledger
        return int(ledger.accounts.used_bytes[ledger.lanes.index(Lane(device, "ann", Traffic.NORMAL))])

    def ceiling(self, device: str) -> int:
        """Return what the kernel enforces there."""
        root = self.kernel.links[device].root
        assert root is not None
        return root.classes[0x1_1001].ceiling


@dataclass
class Stores:
    """A store that fails or raises when it is told to."""

    saved: list[tuple[Sequence[Ledger], Sequence[Event]]] = field(default_factory=list)
    fails: bool = False
    raises: bool = False

    def save(
        self, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> Kept:
        """Keep a turn, or not."""
        assert hand is None
        assert at_wall_seconds > 0
        if self.raises:
            self.raises = False
            raise RuntimeError("a bug in the store")
        if self.fails:
            return Kept(saved=False, trouble="the disk is full")
        self.saved.append((tuple(ledgers), tuple(events)))
        return Kept()


def test_a_device_that_cannot_be_read_skips_its_turn_and_the_other_does_not() -> None:
    """Its account and its cap stay, the report says why, and afterwards every byte is there."""
    node = TwoDevices()
    for device in ("eth0", "eth1"):
        node.send(device, 82 * MEGABYTE)
    node.turn()
    cap = node.ceiling("eth0")
    link = node.kernel.links.pop("eth0")
    node.send("eth1", MEGABYTE)

    reports = node.turn()

    assert ("device eth0 is not there", "") == (reports["eth0"].trouble, reports["eth1"].trouble)
    assert (node.used("eth0"), node.used("eth1")) == (82 * MEGABYTE, 83 * MEGABYTE)
    assert len(reports["eth0"].changes) == 0
    assert reports["eth0"].outcomes is None
    row = reports["eth0"].tariffs.lanes.index(Lane("eth0", "ann", Traffic.NORMAL))
    assert reports["eth0"].ledger.accounts.used_bytes[row] == 82 * MEGABYTE

    node.kernel.links["eth0"] = link
    assert node.ceiling("eth0") == cap
    node.send("eth0", MEGABYTE)
    assert node.turn()["eth0"].trouble == ""
    assert node.used("eth0") == 83 * MEGABYTE


def test_a_device_that_was_never_read_is_reported_from_its_saved_accounts() -> None:
    """After a start on a node whose kernel cannot be read, pages show what was saved."""
    node = a_node()
    send(node, "ann", 5 * MEGABYTE)
    next_turn(node)
    node.start()
    node.kernel.unreadable = "the kernel gave no answer"

    report = next_turn(node)

    assert report.trouble == "the kernel gave no answer"
    assert report.ledger.accounts.used_bytes[node.row("ann")] == 5 * MEGABYTE
    assert enforced(node, report, "ann") == -1


def test_an_early_look_covers_only_the_devices_that_are_due() -> None:
    """The other device is not even looked at."""
    node = TwoDevices()
    node.send("eth0", 79 * MEGABYTE)  # a second or so to the threshold at full rate
    node.turn()
    node.send("eth0", 2 * MEGABYTE)
    node.send("eth1", 2 * MEGABYTE)

    seconds = node.turns.next_look_seconds(node.now())
    early = node.turn(seconds, early=True)

    assert 1.0 <= seconds < 10.0
    assert node.turns.is_early(node.now())
    assert ["eth0"] == list(early)
    assert (node.used("eth0"), node.used("eth1")) == (81 * MEGABYTE, 0)
    assert {"eth0", "eth1"} == set(node.turn(10.0 - seconds))
    assert (node.used("eth0"), node.used("eth1")) == (81 * MEGABYTE, 2 * MEGABYTE)


def test_an_unreadable_device_does_not_make_looks_come_one_upon_the_other() -> None:
    """Its next look is due with the next regular turn."""
    node = TwoDevices()
    node.kernel.links.pop("eth0")
    node.turn()

    assert node.turns.next_look_seconds(node.now()) == pytest.approx(10.0)


# Turns that die half way.


def test_a_failing_save_holds_no_act_up_and_is_said() -> None:
    """The account is in memory, the cap in the kernel; the failure is told."""
    node = TwoDevices()
    node.store.fails = True
    node.send("eth0", 82 * MEGABYTE)
    node.seconds += 10.0

    report = node.turns.take(node.now())

    assert (report.saved, report.save_trouble) == (False, "the disk is full")
    assert node.ceiling("eth0") < 1_250_000
    assert report.state_saved_wall_seconds == node.now().wall_seconds - 10.0


@pytest.mark.parametrize("ended", [False, True])
def test_a_turn_that_dies_at_saving_counts_no_byte_twice_and_loses_none(*, ended: bool) -> None:
    """Neither what the counters gained nor what an ended class was told to have sent."""
    node = TwoDevices()
    node.send("eth0", 82 * MEGABYTE)
    if ended:
        node.kernel.delete_class("eth0", 0x1_1001)
    node.store.raises = True

    with pytest.raises(RuntimeError):
        node.turn()
    assert node.turns.stage == "save"
    node.turn()

    assert node.used("eth0") == 82 * MEGABYTE
    assert node.ceiling("eth0") < 1_250_000
    told = [event for _, events in node.store.saved for event in events if event.lane and event.lane.device == "eth0"]
    assert [EventKind.COUNTER_RESTARTED] * ended == [
        event.kind for event in told if event.kind is EventKind.COUNTER_RESTARTED
    ]


@dataclass
class Failing:
    """A door in which one call of one verb raises what nobody expects."""

    door: FakeDevice
    fails_to: str

    def look(self) -> Snapshot:
        """Look, or fail."""
        self._fail("look")
        return self.door.look()

    def apply(self, changes: Changes) -> Outcomes:
        """Apply, or fail."""
        self._fail("apply")
        return self.door.apply(changes)

    def _fail(self, verb: str) -> None:
        if verb == self.fails_to:
            self.fails_to = ""
            raise RuntimeError("a bug in the door")


@pytest.mark.parametrize(
    ("device", "verb", "ended"), list(itertools.product(["eth0", "eth1"], ["look", "apply"], [False, True]))
)
def test_a_bug_in_one_door_loses_no_byte_of_any_device(device: str, verb: str, *, ended: bool) -> None:
    """Endings are told once: those of a device that was looked at before the turn died are kept."""
    node = TwoDevices()
    desk = node.turns.desks[device]
    node.turns.desks[device] = replace(desk, door=Failing(node.doors[device], verb))
    for one in ("eth0", "eth1"):
        node.send(one, 82 * MEGABYTE)
        if ended:
            node.kernel.delete_class(one, 0x1_1001)

    with pytest.raises(RuntimeError):
        node.turn()
    node.turn()

    assert (node.used("eth0"), node.used("eth1")) == (82 * MEGABYTE, 82 * MEGABYTE)
    assert max(node.ceiling("eth0"), node.ceiling("eth1")) < 1_250_000


# Shadow and freeze.


@pytest.mark.parametrize("quiet", [{"enforcing": False}, {"frozen": True}])
def test_in_shadow_and_frozen_the_kernel_is_left_alone_and_everything_is_counted(quiet: dict[str, bool]) -> None:
    """Neither caps nor drift nor strangers are touched."""
    node = a_node()
    before = ceiling(node, "ann")
    node.turns.pace = replace(node.turns.pace, **quiet)
    send(node, "ann", 82 * MEGABYTE)
    node.kernel.create_class(DEVICE, FakeClass(0x1_1777, 0x1_0010, 1_000, 1_000))
    node.kernel.change_class(DEVICE, FakeClass(node.class_of("bob"), 0x1_0010, 1_000, 777_777))

    report = next_turn(node)

    assert report.outcomes is None
    assert node.account("ann")["used_bytes"] == 82 * MEGABYTE
    assert (before, 777_777) == (ceiling(node, "ann"), ceiling(node, "bob"))
    root = node.kernel.links[DEVICE].root
    assert root is not None
    assert 0x1_1777 in root.classes
    expected = Reason.FROZEN if "frozen" in quiet else Reason.OVER_THRESHOLD
    assert reason(node, report, "ann") is expected


def test_shadow_builds_no_tree() -> None:
    """A node in shadow may have anybody's queue."""
    node = Node({"ann": 1}, pace=Pace(10.0, 1.0, 2.0, enforcing=False))

    node.turn()

    assert node.kernel.links[DEVICE].root is None


def test_leaving_shadow_enforces_at_once() -> None:
    """The next turn does what the law says."""
    node = a_node()
    node.turns.pace = replace(node.turns.pace, enforcing=False)
    send(node, "ann", 82 * MEGABYTE)
    next_turn(node)
    node.turns.pace = replace(node.turns.pace, enforcing=True)

    next_turn(node)

    assert ceiling(node, "ann") < 1_250_000


# Readings that cannot be.


class Jumping:
    """A door whose next readings of ann's class are higher than they are."""

    def __init__(self, door: FakeDevice, handle: int, *, times: int, by: int) -> None:
        self.door, self.handle, self.times, self.by = door, handle, times, by
        self.looks = 0

    def look(self) -> Snapshot:
        """Look."""
        snapshot = self.door.look()
        self.looks += 1
        if self.looks > self.times:
            return snapshot
        sent = snapshot.counts.sent_bytes.copy()
        sent[snapshot.classes.handle == self.handle] += self.by
        return replace(snapshot, counts=replace(snapshot.counts, sent_bytes=sent))

    def apply(self, changes: Changes) -> Outcomes:
        """Apply."""
        return self.door.apply(changes)


@pytest.mark.parametrize(("times", "counted", "implausible"), [(1, 0, 0), (9, 10**12, 1)])
def test_an_impossible_reading_is_read_again_and_counted_in_full_if_it_stays(
    times: int, counted: int, implausible: int
) -> None:
    """A wrong line rate must forgive nothing; a wrong reading must charge nothing."""
    node = a_node()
    assert node.door is not None
    door = Jumping(node.door, node.class_of("ann"), times=times, by=10**12)
    node.turns.desks[DEVICE] = replace(node.turns.desks[DEVICE], door=door)

    node.pass_seconds(10.0)
    report = node.whole_turn()

    assert (2, counted) == (door.looks, node.account("ann")["used_bytes"])
    assert implausible == report.devices[0].implausible_readings
    assert [EventKind.IMPLAUSIBLE] * implausible == [
        event.kind for event in report.events if event.kind is EventKind.IMPLAUSIBLE
    ]


def test_what_ended_before_an_impossible_look_is_counted_with_the_look_that_is_believed() -> None:
    """An end is told to the first of both looks alone."""
    node = a_node()
    send(node, "bob", 3 * MEGABYTE)
    node.kernel.delete_class(DEVICE, node.class_of("bob"))
    assert node.door is not None
    door = Jumping(node.door, node.class_of("ann"), times=1, by=10**12)
    node.turns.desks[DEVICE] = replace(node.turns.desks[DEVICE], door=door)

    next_turn(node)

    assert (node.account("ann")["used_bytes"], node.account("bob")["used_bytes"]) == (0, 3 * MEGABYTE)


# Accounts that were lost.


def test_after_a_loss_ceilings_stay_until_the_period_ends_and_then_the_law_is_back() -> None:
    """Without accounts nobody knows who is over the threshold; what the kernel has is the best that is known."""
    node = a_node()
    send(node, "ann", 82 * MEGABYTE)
    next_turn(node)
    cap = ceiling(node, "ann")
    node.shelf.ledgers = {}
    node.start()
    node.turns.desks[DEVICE] = replace(node.turns.desks[DEVICE], lost_at_wall_seconds=node.wall_seconds)

    node.pass_seconds(10.0)
    whole = node.whole_turn()
    (report,) = whole.devices

    assert reason(node, report, "ann") is Reason.FROZEN
    assert {"loss"} == {one.inputs["frozen_by"] for one in whole.events if one.inputs.get("reason") == "frozen"}
    assert cap == ceiling(node, "ann") == enforced(node, report, "ann")
    assert node.account("ann")["used_bytes"] == 82 * MEGABYTE  # the kernel's counter is all that is known
    next_turn(node, 120.0)
    node.ids["cyd"] = 3
    node.enlist()
    assert reason(node, next_turn(node), "cyd") is Reason.WITHIN  # its account was never lost
    report = next_turn(node, 3600.0)
    assert (reason(node, report, "ann"), ceiling(node, "ann")) == (Reason.WITHIN, 1_250_000)


# The end.


def test_with_hold_every_lane_is_left_a_ceiling_that_carries_to_the_period_s_end() -> None:
    """Also one below its threshold; what was sent until now is counted and saved."""
    node = a_node()
    send(node, "ann", 40 * MEGABYTE)
    node.pass_seconds(5.0)

    saving = node.turns.finish(node.now(), hold=True)

    left = node.account("ann")["period_end_at"] - node.turns.desks[DEVICE].ledger.ledger_seconds
    assert saving.saved
    assert 0.95 * 60 * MEGABYTE < ceiling(node, "ann") * left <= 60 * MEGABYTE
    saved = node.shelf.ledgers[DEVICE]
    assert saved.accounts.used_bytes[node.row("ann")] == 40 * MEGABYTE


def test_without_hold_ceilings_stay_and_what_was_sent_is_saved() -> None:
    """on_stop: keep."""
    node = a_node()
    send(node, "ann", 40 * MEGABYTE)

    node.turns.finish(node.now(), hold=False)

    assert ceiling(node, "ann") == 1_250_000
    assert node.shelf.ledgers[DEVICE].accounts.used_bytes[node.row("ann")] == 40 * MEGABYTE


@pytest.mark.parametrize("quiet", [{"enforcing": False}, {"frozen": True}])
def test_hold_changes_nothing_in_shadow_or_frozen(quiet: dict[str, bool]) -> None:
    """A node that changes nothing changes nothing at its end."""
    node = a_node()
    node.turns.pace = replace(node.turns.pace, **quiet)
    send(node, "ann", 40 * MEGABYTE)

    node.turns.finish(node.now(), hold=True)

    assert ceiling(node, "ann") == 1_250_000


def test_the_end_is_saved_also_where_the_kernel_cannot_be_read() -> None:
    """Whatever happened to the device, the accounts are those of the last turn."""
    node = a_node()
    send(node, "ann", 40 * MEGABYTE)
    next_turn(node)
    node.kernel.unreadable = "the kernel gave no answer"

    assert node.turns.finish(node.now(), hold=True).saved
    assert node.shelf.ledgers[DEVICE].accounts.used_bytes[node.row("ann")] == 40 * MEGABYTE


# Tariffs that change.


def test_a_changed_tariff_keeps_the_account() -> None:
    """Half the allowance: the use stays, and the law is asked anew."""
    node = a_node()
    send(node, "ann", 60 * MEGABYTE)
    next_turn(node)
    node.tariff = {**node.tariff, "allowance_bytes": 50 * MEGABYTE, "threshold_bytes": 40 * MEGABYTE}
    node.enlist()

    report = next_turn(node)

    assert node.account("ann")["used_bytes"] == 60 * MEGABYTE
    assert reason(node, report, "ann") is Reason.OVER_ALLOWANCE
    assert ceiling(node, "ann") == report.verdicts.floor_bytes_per_second[node.row("ann")]


def test_a_removed_slice_s_class_goes_and_its_account_stays_for_its_return() -> None:
    """By name, until its period ends."""
    node = a_node()
    send(node, "ann", 82 * MEGABYTE)
    next_turn(node)
    handle, end = node.class_of("ann"), node.account("ann")["period_end_at"]
    node.ids = {"bob": 2}
    node.enlist()
    next_turn(node)
    root = node.kernel.links[DEVICE].root
    assert root is not None
    assert handle not in root.classes

    node.ids = {"bob": 2, "ann": 7}
    node.enlist()
    report = next_turn(node)

    assert (node.account("ann")["used_bytes"], node.account("ann")["period_end_at"]) == (82 * MEGABYTE, end)
    assert ceiling(node, "ann") == enforced(node, report, "ann") < 1_250_000


# Guarantees.


def test_guarantees_that_do_not_fit_are_told_once_and_when_they_fit_again() -> None:
    """Both kinds of traffic, each against its own parent; the metric says by how much."""
    node = Node({"ann": 1, "bob": 2}, guarantee_bytes_per_second=GIGABIT // 2)
    report = node.whole_turn()
    told = [event for event in report.events if event.kind is EventKind.GUARANTEES_SCALED]
    assert len(told) == 2 * 4
    assert {event.lane and event.lane.traffic for event in told} == set(Traffic)
    assert told[0].inputs == {"asked_bytes_per_second": GIGABIT // 2, "admitted_bytes_per_second": GIGABIT // 4}
    assert report.devices[0].verdicts.admitted_ratio == 0.5
    node.pass_seconds(10.0)
    assert not [event for event in node.whole_turn().events if event.kind is EventKind.GUARANTEES_SCALED]
    node.tariff["guarantee_bytes_per_second"] = 125
    node.enlist()
    node.pass_seconds(10.0)
    told = [event for event in node.whole_turn().events if event.kind is EventKind.GUARANTEES_SCALED]
    assert len(told) == 2 * 4
    assert told[0].inputs == {"asked_bytes_per_second": 125, "admitted_bytes_per_second": 125}
