"""The turn: look, count, judge, plan, save, act, tell.

Turns the desks of a node and a reading of the clocks into a report. Knows: the order of the stages, when the next look
is due, what orders by hand are to all devices, which classes the rules of the sorter may name. Does not know: what a
stage does with a device, the clock, schedules, how a door does its work, any rule of the law.

One device's trouble stops no other's. What was counted is kept from the moment it is counted, so a turn that fails
later counts no byte twice and forgets none; what it wanted to change is wanted again by the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from bwexporter import stages
from bwexporter.core import enrolment, hand, rings
from bwexporter.core.habits import Habits
from bwexporter.core.lanes import Changes, Instant, Ledger, Snapshot
from bwexporter.core.orders import Action, Command, InForce, Order
from bwexporter.core.report import DeviceReport, Event, Report, SliceInfo, SourceStatus
from bwexporter.desk import Desk, Work
from bwexporter.errors import KernelUnreadable
from bwexporter.stages import Occasion, Pace

STAGES = ("look", "count", "judge", "plan", "save", "act", "tell")


class Saving(Protocol):
    """What became of a save."""

    @property
    def saved(self) -> bool:
        """Say whether the turn is on the disk."""

    @property
    def trouble(self) -> str:
        """Say in one sentence why it is not."""


class Store(Protocol):
    """Where accounts, events and orders are kept."""

    def save(
        self,
        ledgers: Sequence[Ledger],
        events: Sequence[Event],
        at_wall_seconds: float,
        *,
        hand: hand.Hand | None = None,
    ) -> Saving:
        """Keep a turn; never holds the caller up for more than about a second."""

    def settle(self) -> Saving:
        """Keep whatever still waits, however long that takes while it goes on; for the end of the program."""


class Sorted(Protocol):
    """What became of sorting packets."""

    @property
    def drift(self) -> int:
        """Say how many rules differed though nobody asked for it."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Say what does not hold."""


class Sorter(Protocol):
    """What sends packets to their lanes."""

    @property
    def needed(self) -> bool:
        """Say whether there is anything to sort, or rules to take back."""

    def apply(self, existing: frozenset[int]) -> Sorted:
        """Make the rules name the lanes whose classes exist; troubles are problems of its answer."""


class Turns:
    """Takes turns over the desks of a node. Not thread-safe: one thread takes turns and changes the roster."""

    def __init__(
        self,
        node: str,
        store: Store,
        pace: Pace,
        stopwatch: Callable[[], float],
        sorter: Sorter | None = None,
        orders: hand.Hand | None = None,
    ) -> None:
        self.node = node
        self.pace = pace
        self.desks: dict[str, Desk] = {}
        self.hand = orders  # None: nobody ever set anything by hand
        self.habits: dict[str, Habits] = {}  # by device; any thread may put others in
        self.stage = ""
        self._store = store
        self._stopwatch = stopwatch
        self._sorter = sorter
        self._known_classes: dict[str, frozenset[int]] = {}  # that rules may name, by device, as last seen
        self._unsorted: tuple[str, ...] = ()  # what does not hold since packets were last sorted
        self._events: list[Event] = []  # of this turn
        self._unsaved: list[Event] = []
        self._untold: list[Event] = []  # of the hand, between turns
        self._regular_at_boot_seconds = 0.0
        self._saved_wall_seconds = 0.0
        self._seconds: dict[str, float] = {}

    def take(
        self,
        now: Instant,
        *,
        sources: tuple[SourceStatus, ...] = (),
        info: Mapping[str, SliceInfo] | None = None,
        early: bool = False,
    ) -> Report:
        """Take one turn: all devices, or in an early look those that are due."""
        due = self._begun(now, early=early)
        with self._timed("look"):
            works = [stages.look(desk) for desk in due]
        with self._timed("count"):
            for work in works:
                self._count(work, now)
        with self._timed("judge"):
            occasion = self._occasion(now, habits={} if early else self.habits)  # nobody is told of an early look
            for work in works:
                stages.judge(work, occasion)
        with self._timed("plan"):
            for work in works:
                stages.plan_changes(work)
        with self._timed("save"):
            saving = self._save(now)
        with self._timed("act"):
            sorting = self._act(works, occasion)
        with self._timed("tell"):
            devices = tuple(self._tell(work, occasion) for work in works)
        given = {"early": early, "sources": sources, "info": info or {}}
        return self._report(occasion, works, devices, saving, sorting, given)

    def _begun(self, now: Instant, *, early: bool) -> list[Desk]:
        """Begin a turn, and say which devices it is about."""
        self._seconds, self._events = {}, []
        if self.hand is not None:
            self._wield(hand.moved_on(self.hand, now), now)
        self._tell_of_hand()
        if not early:
            self._regular_at_boot_seconds = now.boot_seconds + self.pace.interval_seconds
        return [desk for desk in self.desks.values() if not early or desk.is_due(now)]

    def _count(self, work: Work, now: Instant) -> None:
        """Count a look, and end what was set by hand for periods that have ended: the same save keeps all of it."""
        self._note(stages.count(work, now, self._orders))
        if work.count is not None and self.hand is not None:
            rolled = work.count.rolled.tolist()
            self._wield(hand.ended_with_periods(self.hand, work.count.ledger, rolled), now)
            self._tell_of_hand()

    def _occasion(self, now: Instant, habits: Mapping[str, Habits] | None = None) -> Occasion:
        until_regular = max(1e-3, self._regular_at_boot_seconds - now.boot_seconds)
        return Occasion(now, self.pace, until_regular, self._frozen, self._orders, habits or {})

    def _save(self, now: Instant) -> Saving:
        ledgers = [desk.ledger for desk in self.desks.values()]
        saving = self._store.save(ledgers, self._unsaved, now.wall_seconds, hand=self.hand)
        self._unsaved = []  # the store keeps what it could not write yet
        if saving.saved:
            self._saved_wall_seconds = now.wall_seconds
        return saving

    def _act(self, works: Sequence[Work], occasion: Occasion) -> list[Sorted]:
        """Act on all devices, the rules of the sorter before and after it."""
        sorting = self._sort(works, occasion, before=True)
        for work in works:
            stages.act(work, occasion, self._stopwatch)
        sorting += self._sort(works, occasion, before=False)
        if sorting or self._sorter is None or not self._sorter.needed:
            self._unsorted = tuple(dict.fromkeys(text for one in sorting for text in one.problems))
        return sorting

    def _sort(self, works: Sequence[Work], occasion: Occasion, *, before: bool) -> list[Sorted]:
        """Let the rules name classes that exist: those to be removed are forgotten before, new ones named after.

        Of a device that was not read now, the classes of its last look count on.
        """
        seen = [work for work in works if work.snapshot is not None and work.changes is not None]
        if self._sorter is None or not self._sorter.needed or not seen or not occasion.acts:
            return []
        # While a tree is being built its classes are as good as there: they will be in a moment.
        seen = [work for work in seen if not (before and work.is_building)]
        if not seen or not (before or any(work.classes_made() for work in seen)):
            return []
        self._known_classes |= {work.desk.device: work.classes_there() for work in seen}
        return [self._sorter.apply(frozenset().union(*self._known_classes.values()))]

    def _tell(self, work: Work, occasion: Occasion) -> DeviceReport:
        report, told = stages.tell(work, occasion)
        self._note(told)
        return report

    def _report(
        self,
        occasion: Occasion,
        works: Sequence[Work],
        devices: tuple[DeviceReport, ...],
        saving: Saving,
        sorting: Sequence[Sorted],
        given: Mapping[str, Any],
    ) -> Report:
        return Report(
            node=self.node,
            at=occasion.now,
            enforcing=occasion.pace.enforcing,
            frozen=occasion.frozen,
            devices=devices,
            events=tuple(self._events),
            stage_seconds=self._seconds,
            turn_seconds=sum(self._seconds.values()),
            next_look_seconds=self.next_look_seconds(occasion.now),
            clock_steps=int(any(work.count is not None and work.count.stepped_seconds for work in works)),
            saved=saving.saved,
            save_trouble=saving.trouble,
            state_saved_wall_seconds=self._saved_wall_seconds,
            sorting_drift=sum(one.drift for one in sorting),
            sorting_problems=self._unsorted,
            by_hand=self._by_hand(),
            **given,
        )

    def foresee(self, now: Instant) -> dict[str, tuple[Snapshot, Changes]]:
        """Return for each device what a look finds and what is then to be changed; for turns that are never taken.

        KernelUnreadable where one cannot be read.
        """
        if self.hand is not None:
            self._wield(hand.moved_on(self.hand, now), now)
        self._regular_at_boot_seconds = now.boot_seconds + self.pace.interval_seconds
        found = {}
        for desk in self.desks.values():
            work = stages.look(desk)
            self._count(work, now)
            stages.judge(work, self._occasion(now))
            stages.plan_changes(work, whole=True)
            if work.snapshot is None or work.changes is None:
                raise KernelUnreadable(work.trouble)
            found[desk.device] = work.snapshot, work.changes
        return found

    @property
    def unfinished(self) -> bool:
        """Say whether changes were left to further turns."""
        return any(desk.cut for desk in self.desks.values())

    def obey(self, command: Command, now: Instant) -> hand.Obeyed:
        """Carry out a command from now on; ValueError, with a sentence for people, where it cannot be."""
        before = hand.moved_on(self.hand or hand.open_hand(now), now)
        written = {device: desk.without_hand for device, desk in self.desks.items()}
        parents = {
            device: (desk.tree.cap_bytes_per_second, desk.tree.line_rate_bytes_per_second)
            for device, desk in self.desks.items()
        }
        obeyed = hand.obey(before.hand, command, list(written.values()), parents)
        self._wield(before, now)
        self._wield(obeyed, now, ended_by=command)
        return obeyed

    def hold(self, wheel: hand.Hand | None, now: Instant) -> None:
        """Take over a hand whose orders were given, ended and told elsewhere."""
        if wheel is not None:
            self._wield(hand.Obeyed(wheel), now)

    def _wield(self, obeyed: hand.Obeyed, now: Instant, *, ended_by: Command | None = None) -> None:
        """Take over a hand: where its orders changed, tariffs are anew what is written and what it makes of that."""
        before = frozenset(self._orders)
        self.hand = obeyed.hand
        self._untold += hand.told(obeyed, now.wall_seconds, ended_by=ended_by)
        lanes = {order.lane for order in before ^ frozenset(obeyed.hand.orders)}
        for device, desk in self.desks.items():
            if any(lane is None or lane.device == device for lane in lanes):
                desk.steer(obeyed.hand.orders)
                desk.due_at_boot_seconds = now.boot_seconds

    def _tell_of_hand(self) -> None:
        self._note(self._untold)
        self._untold = []

    @property
    def _frozen(self) -> bool:
        """Say whether the kernel is left alone."""
        return self.pace.frozen or (self.hand is not None and self.hand.has(Action.FREEZE))

    @property
    def _orders(self) -> tuple[Order, ...]:
        return self.hand.orders if self.hand is not None else ()

    def _by_hand(self) -> tuple[InForce, ...]:
        if self.hand is None or not self.hand.orders:
            return ()
        written = {device: desk.without_hand for device, desk in self.desks.items()}
        return hand.standing(self.hand, written, {device: desk.ledger for device, desk in self.desks.items()})

    def is_early(self, now: Instant) -> bool:
        """Say whether the regular look is not due yet."""
        return now.boot_seconds < self._regular_at_boot_seconds - 1e-3

    def next_look_seconds(self, now: Instant) -> float:
        """Return the time until the next look that is due, regular or early."""
        due = [self._regular_at_boot_seconds, *(desk.due_at_boot_seconds for desk in self.desks.values())]
        if self.hand is not None:
            due.append(self.hand.at.boot_seconds + self.hand.next_end_seconds)
        return max(0.0, min(due) - now.boot_seconds)

    def enlist(self, desk: Desk) -> None:
        """Put a device on the roster, or give it other tariffs; its accounts go on."""
        ledger = enrolment.enrol(desk.ledger, desk.tariffs, desk.tree.handles(desk.tariffs), desk.rules)
        ledger = rings.enrolled(ledger, desk.tariffs)
        desk = replace(desk, ledger=ledger, report=None, written=desk.tariffs)
        desk.steer(self._orders)
        self.desks[desk.device] = desk

    def finish(self, now: Instant, *, hold: bool) -> Saving:
        """Count once more and save, as the program ends; `hold` leaves ceilings that carry to the period's end."""
        works = [stages.look(desk) for desk in self.desks.values()]
        for work in works:
            self._count(work, now)
        occasion = self._occasion(now)
        if hold and occasion.acts:
            for work in works:
                stages.judge(work, occasion)
                stages.hold(work)
                stages.plan_changes(work)
                stages.act(work, occasion, self._stopwatch)
        saving = self._save(now)
        return saving if saving.saved else self._store.settle()

    def _note(self, happened: Sequence[Event]) -> None:
        self._events += happened
        self._unsaved += happened

    def _timed(self, stage: str) -> _Timing:
        self.stage = stage
        return _Timing(stage, self._seconds, self._stopwatch)


class _Timing:
    """Takes the time of a stage; a generator with contextlib would take five times as long to do so."""

    __slots__ = ("_seconds", "_stage", "_started", "_stopwatch")

    def __init__(self, stage: str, seconds: dict[str, float], stopwatch: Callable[[], float]) -> None:
        self._stage, self._seconds, self._stopwatch = stage, seconds, stopwatch

    def __enter__(self) -> None:
        """Begin."""
        self._started = self._stopwatch()

    def __exit__(self, *_: object) -> None:
        """Keep the time that it took."""
        self._seconds[self._stage] = self._stopwatch() - self._started
