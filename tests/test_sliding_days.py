"""Sliding windows in days of the real turn: what is promised holds, and nothing lets a slice escape its window."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from bwexporter.core.lanes import Lane, Reason, Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.plans import LAW, Policy, Window, Windows
from bwexporter.core.report import EventKind, Report
from bwexporter.stages import Pace
from tests.node import DEVICE, Node
from tests.simulation import Cheat, Sender, Sends, Stop, late, straddling

MEGABYTE = 1_000_000
DAY = 86_400.0
SLIDING = Policy(sliding_seconds=DAY)
SLOT = DAY / 48


@dataclass
class Watch:
    """What each slice had sent in all at every look."""

    points: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def hear(self, node: Node, report: Report) -> None:
        """Write a look down."""
        ledger = report.devices[0].ledger
        for name in node.ids:
            sent = int(ledger.accounts.sent_bytes[node.row(name)])
            self.points.setdefault(name, []).append((node.boot_seconds, sent))

    def most(self, name: str, window: float) -> int:
        """Return the most that was sent between any two looks that are no further apart than a window."""
        points, first, most = self.points[name], 0, 0
        for at, sent in points:
            while points[first][0] < at - window:
                first += 1
            most = max(most, sent - points[first][1])
        return most

    def sent(self, name: str, since: float, until: float) -> float:
        """Return what was sent in a span since the first look, as if evenly between two looks."""
        times, totals = zip(*self.points[name], strict=True)
        begin, end = np.interp([times[0] + since, times[0] + until], times, totals)
        return float(end - begin)


def live(
    cast: Sequence[Sender], *, days: float, interval: float = 600.0, stops: Sequence[Stop] = ()
) -> tuple[Watch, Sends]:
    """Live through days of the real turn, with looks that come up to 0.4 s late."""
    watch = Watch()
    loop = Sends(cast, interval, DAY, random.Random(7), hears=watch.hear)
    waiting = sorted(stops, key=lambda stop: stop.at, reverse=True)
    while loop.seconds < days * DAY:
        if waiting and loop.seconds >= waiting[-1].at:
            loop.stop_for_a_while(waiting.pop())
        loop.wait(0.4)
        loop.cheat()
    return watch, loop


def whoever(allowance: int) -> list[Sender]:
    """Return senders of every kind, each with a sliding window."""
    cast = [
        Sender(allowance),
        late(allowance, DAY, 30.0),
        straddling(allowance, DAY, 600.0),
        Sender(allowance, every=7_200.0, on=60.0),
        Sender(allowance, every=40_000.0, on=20_000.0, full_bytes_per_second=max(allowance // 30_000, 1)),
        Sender(allowance, cheat=Cheat.RECREATED),
    ]
    return [replace(sender, policy=SLIDING) for sender in cast]


@pytest.mark.parametrize(("allowance", "interval"), [(20 * MEGABYTE, 600.0), (10_800 * MEGABYTE, 300.0)])
def test_no_window_holds_more_than_the_allowance_and_who_sends_all_he_may_gets_nearly_all_of_it(
    allowance: int, interval: float
) -> None:
    """At 1 Gbit/s, over two and a half days: greedy, late, straddling periods, in bursts, slow, cheating."""
    watch, _ = live(whoever(allowance), days=2.5, interval=interval)

    most = {name: watch.most(name, DAY) / allowance for name in watch.points}
    assert max(most.values()) <= 1.001, most
    assert watch.sent("s0", 0, DAY) >= 0.98 * allowance
    assert watch.sent("s0", 0, 2.5 * DAY) >= 0.96 * 2.5 * allowance
    assert watch.sent("s1", DAY - 700, 2 * DAY - 30) >= 0.96 * allowance


def test_what_leaves_the_window_is_given_back_as_it_leaves() -> None:
    """300 kB/s for eight hours, then what is left until these leave, and then 300 kB/s again as they do."""
    sender = Sender(10_800 * MEGABYTE, policy=SLIDING, full_bytes_per_second=300_000)
    watch, loop = live([sender], days=2.4)

    def rate(since_hours: float, until_hours: float) -> float:
        span = (3600 * since_hours, 3600 * until_hours)
        return watch.sent("s0", *span) / (span[1] - span[0])

    assert rate(0, 8) == pytest.approx(300_000, rel=0.01)
    assert rate(9, 24) == pytest.approx(2_160 * MEGABYTE / (16 * 3600), rel=0.05)
    assert rate(30, 32) == pytest.approx(300_000, rel=0.05)
    assert rate(34, 48) == pytest.approx(73_700, rel=0.05)
    assert rate(0, 24) == pytest.approx(125_000, rel=0.01)
    assert rate(24, 48) == pytest.approx(125_000, rel=0.04)
    assert loop.changes["s0"] < 200


def test_a_window_that_is_shorter_than_the_period_bounds_every_quarter_of_a_day() -> None:
    quarter = DAY / 4
    sender = Sender(100 * MEGABYTE, policy=Policy(sliding_seconds=quarter))
    watch, _ = live([sender], days=1.1, interval=300.0)

    assert watch.most("s0", quarter) <= 100.1 * MEGABYTE
    assert watch.sent("s0", 0, DAY) >= 0.9 * 4 * 100 * MEGABYTE


def test_a_program_that_is_stopped_or_killed_lets_no_window_hold_more() -> None:
    """Stopped with `hold` while it was within its threshold, and killed after: for hours, and over a period's end."""
    watch, _ = live(
        [Sender(100 * MEGABYTE, since=7_200.0, policy=SLIDING)],
        days=2.5,
        stops=[Stop(3_600.0, 7_200.0), Stop(43_200.0, 50_000.0, killed=True), Stop(120_000.0, 7_000.0)],
    )

    assert watch.most("s0", DAY) <= 100.1 * MEGABYTE
    assert watch.sent("s0", DAY, 2 * DAY) >= 80 * MEGABYTE


def test_with_windows_of_the_day_only_what_counts_is_bounded() -> None:
    """Half of the day counts a quarter: in that half four times as much is sent."""
    halves = Windows((Window(22 * 60, 10 * 60, 0.25),))
    cast = [Sender(100 * MEGABYTE, policy=replace(SLIDING, windows=halves)), Sender(100 * MEGABYTE, policy=SLIDING)]
    held = []

    def hear(node: Node, report: Report) -> None:
        held.append(int(report.devices[0].used_bytes[node.row("s0")]))
        watch.hear(node, report)

    watch = Watch()
    loop = Sends(cast, 600.0, DAY, random.Random(7), hears=hear)
    while loop.seconds < 2 * DAY:
        loop.wait(0.4)

    assert max(held) <= 100.1 * MEGABYTE
    assert held[-1] >= 96 * MEGABYTE
    assert watch.sent("s0", 0, DAY) > 2 * watch.sent("s1", 0, DAY)


# What nothing lets a slice escape from.


class Story:
    """A node with the slices `a` (1 GB in a sliding day) and `b` (under the law), and looks every ten minutes."""

    def __init__(self, policy: Policy = SLIDING) -> None:
        self.node = Node({"a": 1, "b": 2}, pace=Pace(600.0, 1.0, 2.0))
        self.choose(policy)
        self.node.turn()
        self.look(600.0)

    def choose(self, policy: Policy) -> None:
        """Give `a` a policy, as a reload does."""
        row = [lane.slice_name for lane in self.node.turns.desks[DEVICE].tariffs.lanes].index("a")
        self.node.tariff = {
            "allowance_bytes": 1_000 * MEGABYTE,
            "threshold_bytes": 800 * MEGABYTE,
            "policies": {} if policy == LAW else {row: policy},
        }
        self.node.enlist()

    def send(self, megabytes: int) -> None:
        """Send through the class of `a` before the next look."""
        sent = self.node.kernel.offer(
            DEVICE, self.node.class_of("a"), megabytes * MEGABYTE, seconds=1e6, packet_bytes=1000
        )
        assert sent == megabytes * MEGABYTE

    def look(self, seconds: float) -> int:
        """Let time pass, look, and return what counts for `a`, in megabytes."""
        self.node.pass_seconds(seconds)
        report = self.node.turn()
        return round(int(report.used_bytes[self.node.row("a")]) / MEGABYTE)

    def verdict(self) -> Reason:
        """Return why `a` has its ceiling."""
        report = self.node.turns.desks[DEVICE].report
        assert report is not None
        return Reason(int(report.verdicts.reason[self.node.row("a")]))


def test_a_kill_loses_nothing_of_a_window() -> None:
    story = Story()
    story.send(900)
    assert story.look(600.0) == 900
    story.send(50)

    story.node.start()

    assert story.look(600.0) == 950
    assert story.verdict() is Reason.OVER_THRESHOLD


@pytest.mark.parametrize("step", [-7 * DAY, -3600.0, 3600.0, 7 * DAY])
def test_a_stepped_clock_lets_no_byte_leave_early_and_keeps_none(step: float) -> None:
    """Time is what has passed: neither the past nor the future of the wall clock counts."""
    story = Story()
    story.send(900)
    story.look(600.0)

    story.node.wall_seconds += step

    assert story.look(DAY - SLOT) == 900
    assert story.look(3 * SLOT) == 0


def test_after_a_reboot_time_is_that_of_the_wall_clock_and_never_less_than_none() -> None:
    story = Story()
    story.send(900)
    story.look(600.0)
    story.node.boot_id, story.node.boot_seconds = "boot 2", 5.0
    story.node.wall_seconds -= 50_000.0
    story.node.kernel.remove_link(DEVICE)
    story.node.kernel.add_link(DEVICE)
    story.node.start()

    assert story.look(0.0) == 900
    assert story.look(DAY - SLOT - 600.0) == 900
    assert story.look(4 * SLOT) == 0


def test_missed_turns_keep_what_was_sent_for_a_window_after_them() -> None:
    """What was sent while nobody looked counts as sent at the look that found it."""
    story = Story()
    story.send(300)

    assert story.look(0.7 * DAY) == 300
    assert story.look(DAY - SLOT) == 300
    assert story.look(2 * SLOT) == 0


def test_a_slice_that_is_removed_and_comes_back_finds_its_window() -> None:
    """Its period has rolled meanwhile; an account under the law is gone then."""
    story = Story()
    story.look(0.7 * DAY)
    story.send(900)
    assert story.look(600.0) == 900
    del story.node.ids["a"], story.node.ids["b"]
    story.node.tariff = {}
    story.node.enlist()
    story.node.pass_seconds(0.4 * DAY)
    story.node.turn()
    story.node.start()
    names = {lane.slice_name for lane in story.node.turns.desks[DEVICE].ledger.lanes}

    story.node.ids = {"b": 2, "a": 7}
    story.node.enlist()
    story.choose(SLIDING)
    story.node.turn()

    assert "a" in names
    assert story.look(600.0) == 900
    assert story.verdict() is Reason.OVER_THRESHOLD


def test_a_removed_slice_is_forgotten_when_period_and_window_have_passed() -> None:
    story = Story()
    story.send(10)
    story.look(600.0)
    del story.node.ids["a"]
    story.node.tariff = {}
    story.node.enlist()
    for _ in range(4):
        story.node.pass_seconds(0.8 * DAY)
        story.node.turn()

    ledger = story.node.turns.desks[DEVICE].ledger

    assert "a" not in {lane.slice_name for lane in ledger.lanes}
    assert ledger.rings is None


def test_another_policy_and_back_is_no_way_out() -> None:
    """Over a period's end: what was sent meanwhile is in the window as well."""
    story = Story()
    story.look(0.9 * DAY)
    story.send(700)
    story.look(600.0)
    story.choose(LAW)
    assert story.look(0.2 * DAY) == 0
    story.send(200)
    story.look(600.0)

    story.choose(SLIDING)

    assert story.look(600.0) == 900


def test_whoever_takes_a_sliding_window_begins_with_what_he_used_in_his_period() -> None:
    story = Story(LAW)
    story.send(900)
    story.look(600.0)

    story.choose(SLIDING)

    assert story.look(0.99 * DAY) == 900
    assert story.look(2 * SLOT) == 0


def test_a_window_that_becomes_longer_or_shorter_by_a_reload() -> None:
    """Shorter, it holds what was sent within it; longer again, what was used in the period at least."""
    story = Story()
    story.send(600)
    story.look(600.0)
    story.look(0.4 * DAY)
    story.send(300)
    story.look(600.0)

    story.choose(Policy(sliding_seconds=DAY / 4))
    shorter = story.look(600.0)
    story.choose(SLIDING)
    longer = story.look(600.0)

    assert (shorter, longer) == (300, 900)


def test_a_class_that_is_made_anew_is_counted_on_in_the_window() -> None:
    story = Story()
    story.send(500)
    story.look(600.0)
    story.node.kernel.delete_class(DEVICE, story.node.class_of("a"), notify=True)
    story.look(600.0)
    story.send(400)

    assert story.look(600.0) == 900


def test_every_change_of_its_ceiling_has_an_event_that_says_what_the_window_held() -> None:
    story = Story()
    story.send(900)
    story.look(600.0)
    story.look(DAY + 2 * SLOT)
    story.look(600.0)  # an event is saved by the turn after it

    told = [
        (event.inputs["reason"], event.inputs["used_bytes"], event.inputs["window_seconds"])
        for event in story.node.shelf.events
        if event.kind is EventKind.VERDICT and event.lane == Lane(DEVICE, "a", Traffic.NORMAL)
    ]

    assert told == [("paced", 0, DAY), ("over_threshold", 900 * MEGABYTE, DAY), ("paced", 0, DAY)]


def test_a_top_up_by_hand_is_room_in_the_window_until_its_period_ends() -> None:
    """What was sent of it stays in the window as long as any byte does."""
    story = Story()
    story.send(900)
    story.look(600.0)
    order = Command(
        "t1", Action.TOP_UP, "root", "a release", "a", traffic=Traffic.NORMAL, volume_bytes=1_000 * MEGABYTE
    )
    story.node.turns.obey(order, story.node.now())

    assert story.look(600.0) == 900
    assert story.verdict() is Reason.PACED
    story.send(600)
    assert story.look(0.9 * DAY) == 1_500
    assert story.look(0.15 * DAY) == 600
