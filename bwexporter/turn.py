"""The turn: look, count, judge, plan, save, act, tell.

Turns doors and a reading of the clocks into a report. Knows: the order of the stages, and what becomes of a device when
one of them fails. Does not know: the clock, schedules, how a door does its work, any rule of the law.

One device's trouble stops no other's. What was counted is kept from the moment it is counted, so a turn that fails
later counts no byte twice and forgets none; what it wanted to change is wanted again by the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from bwexporter.core import accounting, carry, enrolment, events, forecast, hand, lives, plan, policies, policy
from bwexporter.core.lanes import (
    B1,
    DEFAULT_SLICE,
    F8,
    I8,
    ROOT_SLICE,
    Act,
    Changes,
    Classes,
    Instant,
    Lane,
    Ledger,
    Outcomes,
    Snapshot,
    Tariffs,
    Verdicts,
)
from bwexporter.core.orders import Action, Command, InForce
from bwexporter.core.periods import PeriodRule
from bwexporter.core.places import Places, find, placed
from bwexporter.core.report import DeviceReport, Event, Report, SliceInfo, SourceStatus
from bwexporter.errors import DeviceRefused, KernelUnreadable

RESTART_SECONDS = 60.0  # accounts that began so soon after a loss are those that were lost
FIRST_MADE, LEAST_MADE = 500, 32
"""Classes that one act makes or removes: at first, while nobody knows how long that takes here, and ever after."""
MAKING_SECONDS = 0.5
"""How long an act should make classes, unless half of the shortest interval is less."""
RESERVED = frozenset({ROOT_SLICE, DEFAULT_SLICE})
STAGES = ("look", "count", "judge", "plan", "save", "act", "tell")


class Door(Protocol):
    """One device's HTB: the kernel's, or the fake of the tests."""

    def look(self) -> Snapshot:
        """Read every class; KernelUnreadable or DeviceRefused where that cannot be done."""

    def apply(self, changes: Changes) -> Outcomes:
        """Carry out changes in their order, each with an outcome of its own, and read back what was changed."""

    def disturbed(self) -> bool:
        """Say whether somebody else changed anything since the last look."""


class Tree(Protocol):
    """How lanes become classes: a tree of ours, or one that was built by others."""

    @property
    def builds(self) -> bool:
        """Say whether classes may be made at all."""

    @property
    def cap_bytes_per_second(self) -> int:
        """Return the node cap of this device."""

    @property
    def line_rate_bytes_per_second(self) -> int:
        """Return the line rate of this device."""

    def handles(self, tariffs: Tariffs) -> I8:
        """Return the class of each lane."""

    def fitted(self, tariffs: Tariffs, snapshot: Snapshot) -> Tariffs:
        """Return the tariffs as far as the classes that there are let them be; the very same where they fit."""

    def wanted(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        """Return every class the tree should have, parents before children."""

    def owns(self, handles: I8) -> B1:
        """Mark classes that are ours to remove."""


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


@dataclass(frozen=True, slots=True)
class Pace:
    """When looks are due, and whether they act."""

    interval_seconds: float
    shortest_interval_seconds: float
    look_margin_seconds: float
    enforcing: bool = True
    frozen: bool = False


@dataclass(slots=True)
class Desk:
    """All that is known of one device between turns; a turn writes on it what each stage has found."""

    device: str
    door: Door
    tree: Tree
    tariffs: Tariffs  # as judged: what is written, and what is set by hand
    rules: tuple[PeriodRule, ...]
    ledger: Ledger
    enforced: Classes | None = None  # what was last asked of the kernel and accepted
    unread: Snapshot | None = None  # a look that could not be counted; what ended before it must not be lost
    report: DeviceReport | None = None  # of the last good turn
    refused: frozenset[events.Refusal] = frozenset()  # changes that the last act was refused
    frame: policy.Frame | None = None  # what the tariffs come to
    written: Tariffs | None = None  # the tariffs without the hand; None: as judged
    counted: Places | None = None  # where the classes of the counters stand, as is the next for the wanted classes
    planned: Places | None = None
    lost_at_wall_seconds: float | None = None  # when accounts were lost for good; None: never
    due_at_boot_seconds: float = 0.0
    most_made: int = FIRST_MADE  # classes to be made or removed in one act
    waiting: I8 = field(default_factory=lambda: np.empty(0, np.int64))  # classes to be made in further turns
    told_of: tuple[Lane, ...] = ()  # lanes whose guarantees were looked at, and the parts that were told as admitted
    told_parts: F8 = field(default_factory=lambda: np.empty(0))
    told_frame: policy.Frame | None = None
    building: bool = False  # the tree is being built, over several turns where it is large
    cut: bool = False  # the last act left changes to further turns, and did some


@dataclass(slots=True)
class _Work:
    """One device on its way through a turn, which fills in what each stage finds; None: not reached."""

    desk: Desk
    trouble: str = ""
    snapshot: Snapshot | None = None
    places: Places | None = None  # of each lane's class in the snapshot, and of classes that lanes had before
    count: accounting.Count | None = None
    implausible: I8 | None = None
    verdicts: Verdicts | None = None
    wanted: Classes | None = None
    changes: Changes | None = None
    is_cut: bool = False  # there is more to be changed than this turn does
    outcomes: Outcomes | None = None


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
        self.stage = ""
        self._store = store
        self._stopwatch = stopwatch
        self._sorter = sorter
        self._known_classes: dict[str, frozenset[int]] = {}  # that rules may name, by device, as last seen
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
        self._seconds, self._events = {}, []
        if self.hand is not None:
            self._wield(hand.moved_on(self.hand, now), now)
        self._tell_of_hand()
        if not early:
            self._regular_at_boot_seconds = now.boot_seconds + self.pace.interval_seconds
        due = [desk for desk in self.desks.values() if not early or _is_due(desk, now)]
        with self._timed("look"):
            works = [self._look(desk) for desk in due]
        with self._timed("count"):
            for work in works:
                self._count(work, now)
        with self._timed("judge"):
            for work in works:
                self._judge(work, now)
        with self._timed("plan"):
            for work in works:
                _plan(work)
        with self._timed("save"):
            saving = self._save(now)
        with self._timed("act"):
            sorting = self._sort(works, before=True)
            for work in works:
                self._act(work, now)
            sorting += self._sort(works, before=False)
        with self._timed("tell"):
            devices = tuple(self._tell(work, now) for work in works)
        return Report(
            node=self.node,
            at=now,
            early=early,
            enforcing=self.pace.enforcing,
            frozen=self._frozen,
            devices=devices,
            events=tuple(self._events),
            stage_seconds=self._seconds,
            turn_seconds=sum(self._seconds.values()),
            next_look_seconds=self.next_look_seconds(now),
            clock_steps=int(any(work.count is not None and work.count.stepped_seconds for work in works)),
            sources=sources,
            saved=saving.saved,
            save_trouble=saving.trouble,
            state_saved_wall_seconds=self._saved_wall_seconds,
            sorting_drift=sum(one.drift for one in sorting),
            sorting_problems=tuple(dict.fromkeys(text for one in sorting for text in one.problems)),
            info=info or {},
            by_hand=self._by_hand(),
        )

    def foresee(self, now: Instant) -> dict[str, tuple[Snapshot, Changes]]:
        """Return for each device what a look finds and what is then to be changed; for turns that are never taken.

        KernelUnreadable where one cannot be read.
        """
        if self.hand is not None:
            self._wield(hand.moved_on(self.hand, now), now)
        found = {}
        for desk in self.desks.values():
            work = self._look(desk)
            self._count(work, now)
            self._judge(work, now)
            _plan(work, spreading=False)
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
        written = {device: desk.written or desk.tariffs for device, desk in self.desks.items()}
        parents = {
            device: (desk.tree.cap_bytes_per_second, desk.tree.line_rate_bytes_per_second)
            for device, desk in self.desks.items()
        }
        obeyed = hand.obey(before.hand, command, list(written.values()), parents)
        self._wield(before, now)
        self._wield(obeyed, now, ended_by=command)
        return obeyed

    def _wield(self, obeyed: hand.Obeyed, now: Instant, *, ended_by: Command | None = None) -> None:
        """Take over a hand: where its orders changed, tariffs are anew what is written and what it makes of that."""
        before = frozenset(self.hand.orders if self.hand is not None else ())
        self.hand = obeyed.hand
        self._untold += hand.told(obeyed, now.wall_seconds, ended_by=ended_by)
        lanes = {order.lane for order in before ^ frozenset(obeyed.hand.orders)}
        for device, desk in self.desks.items():
            if any(lane is None or lane.device == device for lane in lanes):
                desk.written = desk.written or desk.tariffs
                desk.tariffs = self._tariffs(desk, desk.written)
                desk.due_at_boot_seconds = now.boot_seconds

    def _tariffs(self, desk: Desk, written: Tariffs) -> Tariffs:
        """Return what is judged: what is written, with what is set by hand and what earlier periods left."""
        tariffs = written if self.hand is None else hand.over(written, self.hand.orders)
        return carry.over(tariffs, desk.ledger.accounts)

    def _tell_of_hand(self) -> None:
        self._note(self._untold)
        self._untold = []

    @property
    def _frozen(self) -> bool:
        """Say whether the kernel is left alone."""
        return self.pace.frozen or (self.hand is not None and self.hand.has(Action.FREEZE))

    def _by_hand(self) -> tuple[InForce, ...]:
        if self.hand is None or not self.hand.orders:
            return ()
        written = {device: desk.written or desk.tariffs for device, desk in self.desks.items()}
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
        desk = replace(desk, ledger=ledger, report=None, written=desk.tariffs)
        desk.tariffs = self._tariffs(desk, desk.tariffs)
        self.desks[desk.device] = desk

    def finish(self, now: Instant, *, hold: bool) -> Saving:
        """Count once more and save, as the program ends; `hold` leaves ceilings that carry to the period's end."""
        works = [self._look(desk) for desk in self.desks.values()]
        for work in works:
            self._count(work, now)
        if hold and self.pace.enforcing and not self._frozen:
            for work in works:
                self._judge(work, now)
                _hold(work)
                _plan(work)
                self._act(work, now)
        return self._save(now)

    def _note(self, happened: Sequence[Event]) -> None:
        self._events += happened
        self._unsaved += happened

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.stage = stage
        started = self._stopwatch()
        yield
        self._seconds[stage] = self._stopwatch() - started

    def _look(self, desk: Desk) -> _Work:
        """Look at a device; what ended before a look is told once only, so it is kept until a look is counted."""
        try:
            snapshot = desk.door.look()
        except (KernelUnreadable, DeviceRefused) as error:
            return _Work(desk, trouble=str(error))
        if desk.unread is not None:
            snapshot = lives.joined(desk.unread, snapshot)
        desk.unread = snapshot
        return _Work(desk, snapshot=snapshot)

    def _count(self, work: _Work, now: Instant) -> None:
        """Count a look; one that holds impossible gains is taken again and then believed."""
        desk = work.desk
        if work.snapshot is None:
            return
        count, implausible = _advanced(desk, work.snapshot, now)
        if len(implausible):
            again = self._look(desk).snapshot
            if again is not None:
                work.snapshot = again
                count, implausible = _advanced(desk, again, now)
        desk.ledger, desk.unread = count.ledger, None
        work.count, work.implausible = count, implausible
        self._note(events.of_count(count, implausible))
        self._end_periods(desk, count, now)
        work.places = desk.counted

    def _end_periods(self, desk: Desk, count: accounting.Count, now: Instant) -> None:
        """End the top-ups of accounts that rolled, and carry over what is unused: the same save keeps all of it."""
        written = desk.written or desk.tariffs
        accounts = carry.carried_over(count, written)
        if accounts is not desk.ledger.accounts:
            desk.ledger = replace(desk.ledger, accounts=accounts)
            desk.tariffs, desk.written = self._tariffs(desk, written), written
        if self.hand is not None:
            self._wield(hand.ended_with_periods(self.hand, count.ledger, count.rolled.tolist()), now)
            self._tell_of_hand()

    def _judge(self, work: _Work, now: Instant) -> None:
        desk = work.desk
        if work.count is None or work.snapshot is None:
            return
        self._fit(desk, work.snapshot)
        desk.frame = self._frame(desk)
        until_regular = max(1e-3, self._regular_at_boot_seconds - now.boot_seconds)
        next_look = policy.next_look_seconds(
            desk.ledger,
            desk.tariffs,
            interval_seconds=until_regular,
            shortest_interval_seconds=min(self.pace.shortest_interval_seconds, until_regular),
            look_margin_seconds=self.pace.look_margin_seconds,
            kept=desk.frame,
        )
        next_look = max(1e-3, min(next_look, policies.next_change_seconds(desk.ledger, desk.tariffs)))
        desk.due_at_boot_seconds = now.boot_seconds + next_look
        work.verdicts = self._verdicts(desk, _held_ceilings(work), next_look)

    def _fit(self, desk: Desk, snapshot: Snapshot) -> None:
        """Let tariffs follow what was found, where a tree is somebody else's."""
        written = desk.written or desk.tariffs
        fitted = desk.tree.fitted(written, snapshot)
        if fitted is not written:
            desk.written = fitted
            desk.tariffs = fitted if self.hand is None else hand.over(fitted, self.hand.orders)

    def _frame(self, desk: Desk) -> policy.Frame:
        return policy.framed(
            desk.ledger,
            desk.tariffs,
            period_seconds=_period_seconds(desk.ledger),
            cap_bytes_per_second=desk.tree.cap_bytes_per_second,
            line_rate_bytes_per_second=desk.tree.line_rate_bytes_per_second,
            kept=desk.frame,
        )

    def _verdicts(self, desk: Desk, held: I8, next_look_seconds: float) -> Verdicts:
        look = policies.Look(
            period_seconds=_period_seconds(desk.ledger),
            held_ceiling_bytes_per_second=held,
            next_look_seconds=_planned_seconds(desk.ledger, next_look_seconds, self.pace.interval_seconds),
            look_margin_seconds=self.pace.look_margin_seconds,
            frozen=_lost(desk) | self._frozen,
            enforcing=self.pace.enforcing,
        )
        law = policy.judge(
            desk.ledger,
            desk.tariffs,
            period_seconds=look.period_seconds,
            held_ceiling_bytes_per_second=held,
            cap_bytes_per_second=desk.tree.cap_bytes_per_second,
            line_rate_bytes_per_second=desk.tree.line_rate_bytes_per_second,
            next_look_seconds=look.next_look_seconds,
            look_margin_seconds=look.look_margin_seconds,
            frozen=look.frozen,
            enforcing=look.enforcing,
            kept=desk.frame,
        )
        return policies.judged(desk.ledger, desk.tariffs, law, look)

    def _save(self, now: Instant) -> Saving:
        ledgers = [desk.ledger for desk in self.desks.values()]
        saving = self._store.save(ledgers, self._unsaved, now.wall_seconds, hand=self.hand)
        self._unsaved = []  # the store keeps what it could not write yet
        if saving.saved:
            self._saved_wall_seconds = now.wall_seconds
        return saving

    def _act(self, work: _Work, now: Instant) -> None:
        work.desk.cut = False
        if work.changes is None or work.wanted is None or self._frozen or not self.pace.enforcing:
            return
        outcomes = _nothing_done()
        if work.changes.build_tree or len(work.changes):
            started = self._stopwatch()
            try:
                outcomes = work.desk.door.apply(work.changes)
            except (KernelUnreadable, DeviceRefused) as error:
                work.trouble = str(error)
                return
            self._pace_making(work, now, self._stopwatch() - started)
        work.outcomes = outcomes
        accepted, waiting = outcomes.errno == 0, work.desk.waiting
        work.desk.cut = work.is_cut and bool(accepted.any())
        work.desk.enforced = plan.settled(work.desk.enforced, work.changes, accepted, work.wanted, waiting=waiting)
        ledger = work.desk.ledger
        counters = lives.with_new_leaves(ledger.counters, work.changes, outcomes)
        work.desk.ledger = ledger if counters is ledger.counters else replace(ledger, counters=counters)

    def _pace_making(self, work: _Work, now: Instant, seconds: float) -> None:
        """See to it that the next act makes as many classes as it has time for, soon where some still wait."""
        desk, shortest = work.desk, self.pace.shortest_interval_seconds
        made = 0 if work.changes is None else int((work.changes.act != Act.CHANGE).sum())
        if made >= LEAST_MADE:
            time_for = int(made * min(MAKING_SECONDS, shortest / 2) / max(seconds, 1e-6))
            desk.most_made = max(LEAST_MADE, min(time_for, 4 * desk.most_made))
        if work.is_cut:
            desk.due_at_boot_seconds = min(desk.due_at_boot_seconds, now.boot_seconds + shortest)

    def _sort(self, works: Sequence[_Work], *, before: bool) -> list[Sorted]:
        """Let the rules name classes that exist: those to be removed are forgotten before, new ones named after.

        Of a device that was not read now, the classes of its last look count on.
        """
        seen = [work for work in works if work.snapshot is not None and work.changes is not None]
        if self._sorter is None or not self._sorter.needed or not seen:
            return []
        if self._frozen or not self.pace.enforcing:
            return []
        # While a tree is being built its classes are as good as there: they will be in a moment.
        seen = [work for work in seen if not (before and _is_building(work))]
        if not seen or not (before or any(_made(work) for work in seen)):
            return []
        self._known_classes |= {work.desk.device: _classes_there(work) for work in seen}
        return [self._sorter.apply(frozenset().union(*self._known_classes.values()))]

    def _tell(self, work: _Work, now: Instant) -> DeviceReport:
        """Make the device's report; of a device that could not be read, the last one with its trouble."""
        desk = work.desk
        if work.verdicts is None or work.changes is None or work.count is None or work.implausible is None:
            desk.due_at_boot_seconds = now.boot_seconds + self.pace.interval_seconds
            return self._unread(desk, work.trouble)
        told, accounts = events.of_verdicts(desk.ledger, desk.tariffs, work.verdicts)
        self._note(told)
        self._note(_of_guarantees(desk, work.verdicts))
        if work.outcomes is not None:
            counters, row_of = desk.ledger.counters, dict[int, int]()
            if work.changes.drift.any() or work.outcomes.errno.any():
                # Of removed slices too, while their classes live.
                row_of = dict(zip(counters.handle.tolist(), counters.account.tolist(), strict=True))
            desk.building |= work.changes.build_tree
            told, desk.refused = events.of_outcomes(
                desk.ledger, work.changes, work.outcomes, row_of, told=desk.refused, building=desk.building
            )
            desk.building &= desk.cut
            self._note(told)
        if accounts is not desk.ledger.accounts:
            desk.ledger = replace(desk.ledger, accounts=accounts)
        desk.report = self._device_report(desk, work)
        return desk.report

    def _device_report(self, desk: Desk, work: _Work) -> DeviceReport:
        assert work.verdicts is not None  # noqa: S101  # narrowed by the caller
        assert work.changes is not None  # noqa: S101
        remaining = desk.ledger.accounts.period_end_at - desk.ledger.ledger_seconds
        rows = slice(desk.ledger.enrolled)
        accounts, verdicts = desk.ledger.accounts, work.verdicts
        used, rate = accounts.used_bytes[rows], accounts.recent_bytes_per_second[rows]
        return DeviceReport(
            device=desk.device,
            trouble=work.trouble,
            cap_bytes_per_second=desk.tree.cap_bytes_per_second,
            line_rate_bytes_per_second=desk.tree.line_rate_bytes_per_second,
            ledger=desk.ledger,
            tariffs=desk.tariffs,
            verdicts=verdicts,
            enforced_ceiling_bytes_per_second=_enforced_ceilings(work),
            backlog_bytes=_backlog(work),
            seconds_to_threshold=forecast.seconds_to(verdicts.threshold_bytes, used, rate, remaining[rows]),
            seconds_to_allowance=forecast.seconds_to(verdicts.allowance_bytes, used, rate, remaining[rows]),
            changes=work.changes,
            outcomes=work.outcomes,
            implausible_readings=0 if work.implausible is None else len(work.implausible),
        )

    def _unread(self, desk: Desk, trouble: str) -> DeviceReport:
        """Report a device that could not be read: as it was, or as its saved accounts say where it never was."""
        if desk.report is not None:
            return replace(desk.report, trouble=trouble, changes=_no_changes(), outcomes=None, implausible_readings=0)
        lanes = len(desk.tariffs)
        verdicts = self._verdicts(desk, np.zeros(lanes, np.int64), self.pace.interval_seconds)
        work = _Work(desk, trouble=trouble, verdicts=verdicts, changes=_no_changes())
        return self._device_report(desk, work)


def _is_due(desk: Desk, now: Instant) -> bool:
    return desk.due_at_boot_seconds <= now.boot_seconds or desk.door.disturbed()


def _period_seconds(ledger: Ledger) -> F8:
    return (ledger.accounts.period_end_at - ledger.accounts.period_start_at)[: ledger.enrolled]


def _planned_seconds(ledger: Ledger, next_look_seconds: float, interval_seconds: float) -> float | F8:
    """Return when each lane is next looked at for its own sake.

    Early looks are there for lanes that send. Were an idle lane paced until the early look of another, its ceiling
    would go to and fro all day, and that of every idle lane of the node with it.
    """
    if next_look_seconds >= interval_seconds:
        return next_look_seconds
    return np.where(ledger.accounts.recent_bytes[: ledger.enrolled] == 0, interval_seconds, next_look_seconds)


def _lost(desk: Desk) -> bool | B1:
    """Mark lanes in the first period after their accounts were lost: their ceilings stay as the kernel has them."""
    if desk.lost_at_wall_seconds is None:
        return False
    began = desk.ledger.accounts.period_start_at[: desk.ledger.enrolled] + desk.ledger.wall_offset_seconds
    lost: B1 = began <= desk.lost_at_wall_seconds + RESTART_SECONDS
    return lost


def _of_guarantees(desk: Desk, verdicts: Verdicts) -> tuple[Event, ...]:
    """Tell guarantees that are not admitted as asked, where they can have changed."""
    if desk.told_frame is desk.frame:
        return ()
    desk.told_frame = desk.frame
    if desk.told_of != desk.tariffs.lanes:
        before = dict(zip(desk.told_of, desk.told_parts.tolist(), strict=True))
        desk.told_parts = np.array([before.get(lane, 1.0) for lane in desk.tariffs.lanes])
        desk.told_of = desk.tariffs.lanes
    told, desk.told_parts = events.of_guarantees(desk.ledger, desk.tariffs, verdicts, desk.told_parts)
    return told


def _is_building(work: _Work) -> bool:
    return work.changes is not None and work.changes.build_tree


def _made(work: _Work) -> frozenset[int]:
    """Return the classes that the act has made."""
    if work.outcomes is None or work.changes is None:
        return frozenset()
    made = (work.changes.act == Act.CREATE) & (work.outcomes.errno == 0)
    return frozenset(work.changes.classes.handle[made].tolist())


def _classes_there(work: _Work) -> frozenset[int]:
    """Return the classes that the rules may name: there at the look and not to be removed, or made since."""
    if work.snapshot is None or work.changes is None:
        return frozenset()
    going = work.changes.classes.handle[work.changes.act == Act.REMOVE]
    return frozenset(work.snapshot.classes.handle.tolist()) - frozenset(going.tolist()) | _made(work)


def _advanced(desk: Desk, snapshot: Snapshot, now: Instant) -> tuple[accounting.Count, I8]:
    """Count a look, and say which rows gained more than the line can carry."""
    desk.counted = placed(snapshot.classes, desk.ledger.counters.handle, desk.counted)
    rule, part = desk.tariffs.period_rule, policies.counted_parts(desk.ledger, desk.tariffs, now)
    count = accounting.advance(
        desk.ledger, snapshot, now, period_rule=rule, rules=desk.rules, places=desk.counted, counted_part=part
    )
    return count, accounting.implausible_rows(desk.ledger, count, desk.tree.line_rate_bytes_per_second)


def _plan(work: _Work, *, spreading: bool = True) -> None:
    desk = work.desk
    if work.verdicts is None or work.snapshot is None:
        return
    work.wanted = desk.tree.wanted(desk.tariffs, work.verdicts)
    desk.planned = placed(work.snapshot.classes, work.wanted.handle, desk.planned)
    strange = desk.planned.strange
    ours = np.zeros(len(work.snapshot.classes), bool)
    ours[strange] = desk.tree.owns(work.snapshot.classes.handle[strange])
    changes = plan.diff(
        work.wanted,
        work.snapshot,
        ours=ours,
        known=desk.ledger.counters,
        enforced=desk.enforced,
        places=desk.planned,
    )
    if changes.build_tree and not desk.tree.builds:
        changes = replace(changes, build_tree=False)
    work.changes, desk.waiting = _spread(desk, changes) if spreading else (changes, desk.waiting[:0])
    work.is_cut = len(work.changes) < len(changes)


def _spread(desk: Desk, changes: Changes) -> tuple[Changes, I8]:
    if int((changes.act != Act.CHANGE).sum()) <= desk.most_made:
        return changes, desk.waiting[:0]
    ledger = desk.ledger
    handles, rates = ledger.counters.handle[: ledger.enrolled], ledger.accounts.recent_bytes_per_second
    reserved = np.array([lane.slice_name in RESERVED for lane in ledger.lanes[: ledger.enrolled]], bool)
    recent = dict(zip(handles.tolist(), rates.tolist(), strict=False))
    refused = np.array([handle for _, handle, _ in desk.refused], np.int64)
    return plan.spread(
        changes, desk.most_made, urgent=handles[reserved], refused=refused, recent_bytes_per_second=recent
    )


def _hold(work: _Work) -> None:
    """Replace the law's ceilings by those that carry each lane to its period's end without another look."""
    if work.verdicts is not None:
        work.verdicts = policy.hold(work.desk.ledger, work.desk.tariffs, work.verdicts)


def _at_look(work: _Work, column: Callable[[Snapshot], I8]) -> I8:
    """Return for each lane what a column of the snapshot says of its class, 0 where it has no class."""
    lanes = slice(work.desk.ledger.enrolled)
    if work.snapshot is None or work.places is None or not len(work.snapshot.classes):
        return np.zeros(lanes.stop, np.int64)
    there = column(work.snapshot).take(work.places.row[lanes])
    return there if work.places.whole else np.where(work.places.present[lanes], there, 0)


def _held_ceilings(work: _Work) -> I8:
    """Return the ceiling that each lane's class had at the look, 0 where it has no class."""
    return _at_look(work, lambda snapshot: snapshot.classes.ceiling_bytes_per_second)


def _enforced_ceilings(work: _Work) -> I8:
    """Return each lane's ceiling as read back after the act, -1 where the kernel has no class for it."""
    held = _held_ceilings(work)
    enforced = np.where(held > 0, held, -1)
    if work.outcomes is None or work.changes is None or not len(work.changes):
        return enforced
    made = np.flatnonzero(work.changes.act != Act.REMOVE)
    order = made[np.argsort(work.changes.classes.handle[made], kind="stable")]
    handles = work.desk.ledger.counters.handle[: work.desk.ledger.enrolled]
    row, changed = find(work.changes.classes.handle[order], handles)
    if not changed.any():
        return enforced
    read_back = work.outcomes.enforced_ceiling_bytes_per_second[order][row]
    return np.where(changed, np.where(read_back > 0, read_back, -1), enforced)


def _backlog(work: _Work) -> I8:
    return _at_look(work, lambda snapshot: snapshot.backlog_bytes)


def _no_changes() -> Changes:
    from_nothing = np.empty(0, np.int64)
    return Changes(
        act=np.empty(0, np.int8),
        drift=np.empty(0, bool),
        stranger=np.empty(0, bool),
        before_ceiling_bytes_per_second=from_nothing,
        classes=Classes(*(from_nothing.copy() for _ in Classes.__dataclass_fields__)),
        build_tree=False,
    )


def _nothing_done() -> Outcomes:
    return Outcomes(errno=np.empty(0, np.int32), enforced_ceiling_bytes_per_second=np.empty(0, np.int64))
