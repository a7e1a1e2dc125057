"""A closed loop: senders send what their classes' ceilings let pass, the real turn looks, late, and sets the ceilings.

Turns senders into what each had used at the end of each of its periods. The fake machine counts and holds the classes;
shaping is perfect (bytes are ceiling x time) and the line has room for all, so that only ceilings bind. Knows: when
each sender sends and how it cheats. Does not know: the law.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bwexporter.core.lanes import Act
from bwexporter.core.periods import Rolling
from bwexporter.core.plans import LAW, Policy
from bwexporter.core.report import EventKind, Report
from bwexporter.stages import Pace
from tests.builders import GIGABIT
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node

LOOK_MARGIN_SECONDS = 2.0
_OTHER_TRAFFIC_ROWS = 4  # `_root` and `_default`, two lanes each


class Cheat(enum.Enum):
    """How a slice tries to get away from its account."""

    NONE = enum.auto()
    RECREATED = enum.auto()  # its class is deleted and made anew, as it was, between two looks
    RECREATED_UNHEARD = enum.auto()  # the same, and the notification is lost
    MOVES = enum.auto()  # its record goes, and comes back with another id


@dataclass(frozen=True)
class Sender:
    """A slice that, when it sends, sends all it may: for `on` out of each `every` seconds from `since` to `until`.

    Times are seconds since the start of the first period; `ahead` moves the rhythm to so much earlier.
    """

    allowance_bytes: int
    since: float = 0.0
    until: float = float("inf")
    every: float = 1.0
    on: float = 1.0
    ahead: float = 0.0
    cheat: Cheat = Cheat.NONE
    policy: Policy = LAW
    full_bytes_per_second: int = GIGABIT

    def active_seconds(self, start: float, end: float) -> float:
        """Return for how long it wants to send between two instants."""
        start, end = max(start, self.since), min(end, self.until)
        return self._active_until(end) - self._active_until(start) if end > start else 0.0

    def _active_until(self, at: float) -> float:
        whole, rest = divmod(at + self.ahead, self.every)
        return whole * self.on + min(rest, self.on)


def late(allowance_bytes: int, period_seconds: float, early_by_seconds: float) -> Sender:
    """Wake up shortly before the first period ends, and never stop again."""
    return Sender(allowance_bytes, since=period_seconds - early_by_seconds)


def straddling(allowance_bytes: int, period_seconds: float, seconds: float) -> Sender:
    """Send only for some seconds before and after each period's end."""
    return Sender(allowance_bytes, since=seconds, every=period_seconds, on=2 * seconds, ahead=seconds)


@dataclass(frozen=True)
class Stop:
    """The program stops, leaving ceilings that carry to the period's end (or is killed), and starts again later."""

    at: float
    seconds: float
    killed: bool = False


@dataclass(frozen=True)
class Days:
    """What came of it: fractions of the allowance at each period's end, one row a period and one column a sender."""

    used_fraction: np.ndarray  # as the accounts say
    sent_fraction: np.ndarray  # as it was sent: looks straddle the period's end, this does not
    uncounted_bytes: list[int]  # what passed each sender's class, less what its account counted
    looks: int
    ceiling_changes: list[int]  # that the kernel was asked for, one entry a sender


def simulate(
    senders: Sequence[Sender],
    *,
    interval_seconds: float,
    period_seconds: float,
    periods: int = 2,
    stops: Sequence[Stop] = (),
    seed: int = 1,
    latest_seconds: float = 0.4,
) -> Days:
    """Run the senders for some periods and a little more; looks are up to `latest_seconds` late."""
    loop = Sends(senders, interval_seconds, period_seconds, random.Random(seed))
    waiting = sorted(stops, key=lambda stop: stop.at, reverse=True)
    while min(len(ended) for ended in loop.ended.values()) < periods:
        if waiting and loop.seconds >= waiting[-1].at:
            loop.stop_for_a_while(waiting.pop())
        loop.wait(latest_seconds)
        loop.cheat()
    return loop.days(periods)


class Sends:
    """A node with its senders; the k-th sender is the slice `s<k>`, and its normal lane carries all it sends."""

    def __init__(
        self,
        senders: Sequence[Sender],
        interval_seconds: float,
        period_seconds: float,
        chance: random.Random,
        *,
        hears: Callable[[Node, Report], None] | None = None,
    ) -> None:
        self.senders = {f"s{at}": sender for at, sender in enumerate(senders)}
        self.chance = chance
        self.period_seconds = period_seconds
        self.seconds = 0.0
        self.ended: dict[str, list[int]] = {name: [] for name in self.senders}
        self.sent: defaultdict[tuple[str, int], int] = defaultdict(int)  # by name and period
        self.carried = Counter[str]()  # less than a byte each
        self.changes = Counter[str]()
        self.hears = hears
        self.looks = 0
        self.next_id = 1000
        pace = Pace(interval_seconds, min(1.0, interval_seconds), LOOK_MARGIN_SECONDS)
        self.node = Node({}, rule=Rolling(period_seconds), pace=pace)
        self.node.ids = {name: number for number, name in enumerate(self.senders, 1)}
        self.enlist()
        self.look(anew=True)  # makes the classes
        self.report = self.look(anew=True)  # sees them: one that comes and goes between two looks, nobody knows

    def enlist(self) -> None:
        """Put the slices that are there on the roster, with the tariffs of the specification's figures."""
        asked = [self.senders[name].allowance_bytes for name in self.node.ids for _ in range(2)]
        allowance = np.array([1] * _OTHER_TRAFFIC_ROWS + asked)
        self.node.tariff = {
            "allowance_bytes": allowance,
            "threshold_bytes": allowance * 4 // 5,
            "guarantee_bytes_per_second": 1,
            "full_bytes_per_second": np.array(
                [GIGABIT] * _OTHER_TRAFFIC_ROWS
                + [self.senders[name].full_bytes_per_second for name in self.node.ids for _ in range(2)]
            ),
            "policies": {
                _OTHER_TRAFFIC_ROWS + 2 * at: self.senders[name].policy
                for at, name in enumerate(self.node.ids)
                if self.senders[name].policy != LAW
            },
        }
        self.node.enlist()
        self.handles = {name: self.node.class_of(name) for name in self.node.ids}

    def look(self, *, anew: bool = False) -> Report:
        """Take the turn that is due, or one as after a reload, and keep books of what it tells."""
        report = self.node.whole_turn(early=not anew and self.node.turns.is_early(self.node.now()))
        self.looks += 1
        if self.hears is not None:
            self.hears(self.node, report)
        for event in report.events:
            if event.kind is EventKind.PERIOD_ROLLED and event.lane is not None and event.lane.slice_name in self.ended:
                rows = self.ended[event.lane.slice_name]
                rows += [int(event.inputs["used_bytes"])] if event.lane.traffic.value == "normal" else []
        names = {handle: name for name, handle in self.handles.items()}
        changes = report.devices[0].changes
        changed = changes.classes.handle[changes.act == Act.CHANGE].tolist()
        self.changes.update(names[handle] for handle in changed if handle in names)
        return report

    def wait(self, latest_seconds: float) -> None:
        """Let everybody send until the next look, which is due when the last one said and comes late."""
        self.pass_seconds(self.report.next_look_seconds + self.chance.uniform(0.0, latest_seconds))
        self.report = self.look()

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass and everybody send; cheaters have their classes made anew on the way.

        Nobody hears it while the program is down; one class at a time is then found out to the byte.
        """
        part = seconds * self.chance.random()
        self._send_for(part)
        for name in self.node.ids:
            cheat = self.senders[name].cheat
            if cheat is Cheat.RECREATED_UNHEARD or (cheat is Cheat.RECREATED and self.node.door is not None):
                self._make_anew(name, heard=cheat is Cheat.RECREATED)
        self._send_for(seconds - part)
        self.node.pass_seconds(seconds)

    def stop_for_a_while(self, stop: Stop) -> None:
        """Stop the program, or kill it; everybody goes on sending until it is started again."""
        if not stop.killed:
            self.node.turns.finish(self.node.now(), hold=True)
        assert self.node.door is not None
        self.node.door.close()
        self.node.door = None
        self.pass_seconds(stop.seconds)
        self.node.start()
        self.enlist()
        self.report = self.look(anew=True)

    def cheat(self) -> None:
        """Let those who move leave now and then, and come back at the next look, in the middle of periods."""
        moving = [name for name, sender in self.senders.items() if sender.cheat is Cheat.MOVES]
        gone = [name for name in moving if name not in self.node.ids]
        into = self.seconds % self.period_seconds / self.period_seconds
        if gone:
            for name in gone:
                self.next_id += 1
                self.node.ids[name] = self.next_id
        elif moving and 0.1 < into < 0.7 and self.chance.random() < 0.02:
            for name in moving:
                del self.node.ids[name]
        else:
            return
        self.enlist()
        self.report = self.look(anew=True)

    def days(self, periods: int) -> Days:
        """Return what came of it."""
        ledger = self.node.turns.desks[DEVICE].ledger
        allowance = np.array([sender.allowance_bytes for sender in self.senders.values()])
        used = np.array([rows[:periods] for rows in self.ended.values()]).T
        sent = np.array([[self.sent[name, period] for name in self.senders] for period in range(periods)])
        counted = [ledger.accounts.sent_bytes[self.node.row(name)] for name in self.senders]
        passed = [sum(count for (sender, _), count in self.sent.items() if sender == name) for name in self.senders]
        return Days(
            used_fraction=used / allowance,
            sent_fraction=sent / allowance,
            uncounted_bytes=[one - int(other) for one, other in zip(passed, counted, strict=True)],
            looks=self.looks,
            ceiling_changes=[self.changes[name] for name in self.senders],
        )

    def _send_for(self, seconds: float) -> None:
        start, end = self.seconds, self.seconds + seconds
        boundary = (start // self.period_seconds + 1) * self.period_seconds
        for since, until in ((start, min(end, boundary)), (boundary, end)):
            for name in self.node.ids:
                active = self.senders[name].active_seconds(since, until)
                if active > 0.0:
                    self._send(name, active, int(since // self.period_seconds))
        self.seconds = end

    def _send(self, name: str, active: float, period: int) -> None:
        handle = self.handles[name]
        may = self._class(handle).ceiling * active + self.carried[name]
        passed = self.node.kernel.offer(DEVICE, handle, int(may), seconds=active + 1.0, packet_bytes=1)
        assert passed == int(may)
        self.carried[name] = may - passed
        self.sent[name, period] += passed

    def _make_anew(self, name: str, *, heard: bool) -> None:
        handle = self.handles[name]
        was = self._class(handle)
        anew = FakeClass(handle, was.parent, was.rate, was.ceiling, was.quantum, was.burst_ns, was.ceiling_burst_ns)
        if not heard:
            self.node.kernel.lose_notifications()
        self.node.kernel.delete_class(DEVICE, handle, notify=heard)
        self.node.kernel.create_class(DEVICE, replace(anew), notify=heard)

    def _class(self, handle: int) -> FakeClass:
        root = self.node.kernel.links[DEVICE].root
        assert root is not None
        return root.classes[handle]
