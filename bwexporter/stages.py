"""The stages of a turn, for one device: look, count, judge, plan, act, tell.

Turns a desk into work that is done, stage by stage. Knows: what each stage asks of the core and of the device's door,
what becomes of a device when a stage fails. Does not know: other devices, the clock, schedules, where orders come from,
how a door does its work, any rule of the law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from bwexporter import spreading
from bwexporter.core import accounting, carry, events, lives, plan, policies, policy
from bwexporter.core.habits import Habits
from bwexporter.core.lanes import B1, F8, I8, Act, Changes, Classes, Instant, Ledger, Outcomes, Snapshot, Verdicts
from bwexporter.core.orders import Order
from bwexporter.core.places import find, placed
from bwexporter.core.report import DeviceReport, Event
from bwexporter.desk import Desk, Work
from bwexporter.errors import DeviceRefused, KernelUnreadable

RESTART_SECONDS = 60.0  # accounts that began so soon after a loss are those that were lost


@dataclass(frozen=True, slots=True)
class Pace:
    """When looks are due, and whether they act."""

    interval_seconds: float
    shortest_interval_seconds: float
    look_margin_seconds: float
    enforcing: bool = True
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a turn is to all its devices: its time, its pace, and what is set by hand."""

    now: Instant
    pace: Pace
    until_regular_seconds: float  # until the next regular look
    frozen: bool  # by the configuration or by hand
    orders: tuple[Order, ...]
    habits: Mapping[str, Habits] = field(default_factory=dict)  # by device

    @property
    def acts(self) -> bool:
        """Say whether anything may be changed."""
        return self.pace.enforcing and not self.frozen


def look(desk: Desk) -> Work:
    """Look at a device; what ended before a look is told once only, so it is kept until a look is counted."""
    try:
        snapshot = desk.door.look()
    except (KernelUnreadable, DeviceRefused) as error:
        return Work(desk, trouble=str(error))
    if desk.unread is not None:
        snapshot = lives.joined(desk.unread, snapshot)
    desk.unread = snapshot
    return Work(desk, snapshot=snapshot)


def count(work: Work, now: Instant, orders: Sequence[Order]) -> tuple[Event, ...]:
    """Count a look, and say what happened; one that holds impossible gains is taken again and then believed."""
    desk = work.desk
    if work.snapshot is None:
        return ()
    counted, implausible = _advanced(desk, work.snapshot, now)
    if len(implausible):
        again = look(desk).snapshot
        if again is not None:
            work.snapshot = again
            counted, implausible = _advanced(desk, again, now)
    desk.ledger, desk.unread = counted.ledger, None
    work.count, work.implausible, work.places = counted, implausible, desk.counted
    _carry_over(desk, counted, orders)
    return events.of_count(counted, implausible)


def _advanced(desk: Desk, snapshot: Snapshot, now: Instant) -> tuple[accounting.Count, I8]:
    """Count a look, and say which rows gained more than the line can carry."""
    desk.counted = placed(snapshot.classes, desk.ledger.counters.handle, desk.counted)
    rule, part = desk.tariffs.period_rule, policies.counted_parts(desk.ledger, desk.tariffs, now)
    counted = accounting.advance(
        desk.ledger, snapshot, now, period_rule=rule, rules=desk.rules, places=desk.counted, counted_part=part
    )
    return counted, accounting.implausible_rows(desk.ledger, counted, desk.tree.line_rate_bytes_per_second)


def _carry_over(desk: Desk, counted: accounting.Count, orders: Sequence[Order]) -> None:
    """Carry over what is unused of accounts that rolled: the save that keeps the count keeps it too."""
    accounts = carry.carried_over(counted, desk.without_hand)
    if accounts is not desk.ledger.accounts:
        desk.ledger = replace(desk.ledger, accounts=accounts)
        desk.steer(orders)


def judge(work: Work, occasion: Occasion) -> None:
    """Say which ceilings the lanes should have, and when the next look at the device is due."""
    desk = work.desk
    if work.count is None or work.snapshot is None:
        return
    _fit(desk, work.snapshot, occasion.orders)
    desk.frame = frame = _frame(desk)
    next_look_seconds = _next_look_seconds(desk, frame, occasion)
    desk.due_at_boot_seconds = occasion.now.boot_seconds + next_look_seconds
    work.verdicts = _verdicts(desk, frame, work.held_ceilings(), next_look_seconds, occasion)


def _fit(desk: Desk, snapshot: Snapshot, orders: Sequence[Order]) -> None:
    """Let tariffs follow what was found, where a tree is somebody else's."""
    written = desk.without_hand
    fitted = desk.tree.fitted(written, snapshot)
    if fitted is not written:
        desk.written = fitted
        desk.steer(orders)


def _frame(desk: Desk) -> policy.Frame:
    return policy.framed(
        desk.ledger,
        desk.tariffs,
        period_seconds=_period_seconds(desk.ledger),
        cap_bytes_per_second=desk.tree.cap_bytes_per_second,
        line_rate_bytes_per_second=desk.tree.line_rate_bytes_per_second,
        kept=desk.frame,
    )


def _period_seconds(ledger: Ledger) -> F8:
    return (ledger.accounts.period_end_at - ledger.accounts.period_start_at)[: ledger.enrolled]


def _next_look_seconds(desk: Desk, frame: policy.Frame, occasion: Occasion) -> float:
    """Return the time until the device is to be looked at again, for the sake of one of its lanes or of all."""
    until_regular = occasion.until_regular_seconds
    next_look = policy.next_look_seconds(
        policies.awaiting(desk.ledger, desk.tariffs, frame.allowance, frame.threshold),
        desk.tariffs,
        interval_seconds=until_regular,
        shortest_interval_seconds=min(occasion.pace.shortest_interval_seconds, until_regular),
        look_margin_seconds=occasion.pace.look_margin_seconds,
        kept=frame,
    )
    return max(1e-3, min(next_look, policies.next_change_seconds(desk.ledger, desk.tariffs)))


def _verdicts(desk: Desk, frame: policy.Frame, held: I8, next_look_seconds: float, occasion: Occasion) -> Verdicts:
    pace = occasion.pace
    found = policies.Look(
        period_seconds=_period_seconds(desk.ledger),
        held_ceiling_bytes_per_second=held,
        next_look_seconds=_planned_seconds(desk.ledger, next_look_seconds, pace.interval_seconds),
        look_margin_seconds=pace.look_margin_seconds,
        frozen=_lost(desk) | occasion.frozen,
        enforcing=pace.enforcing,
    )
    law = policy.judge_within(
        frame,
        desk.ledger,
        held_ceiling_bytes_per_second=held,
        horizon_seconds=found.next_look_seconds + found.look_margin_seconds,
        frozen=found.frozen,
        enforcing=found.enforcing,
    )
    return policies.judged(desk.ledger, desk.tariffs, law, found)


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


def hold(work: Work) -> None:
    """Replace the law's ceilings by those that carry each lane to its period's end without another look."""
    if work.verdicts is not None:
        work.verdicts = policies.hold(work.desk.ledger, work.desk.tariffs, work.verdicts)


def plan_changes(work: Work, *, whole: bool = False) -> None:
    """Say what is to be changed: as much as one act has time for, or the whole of it."""
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
    work.changes, desk.waiting = (changes, desk.waiting[:0]) if whole else spreading.first_part(desk, changes)
    work.is_cut = len(work.changes) < len(changes)
    _promise_leaves(desk, work.snapshot, work)


def _promise_leaves(desk: Desk, snapshot: Snapshot, work: Work) -> None:
    """Name the queues that living classes are to get, before the turn is saved.

    Should the program die between the act and the next save, the next one knows that those lives went on.
    """
    changes = work.changes
    if changes is None or not len(changes):
        return
    rows = np.flatnonzero((changes.act == Act.CHANGE.value) & (changes.classes.leaf > 0))
    at, present = find(snapshot.classes.handle, changes.classes.handle[rows])
    rows = rows[present & (snapshot.classes.leaf.take(at, mode="clip") == 0)] if len(snapshot.classes) else rows[:0]
    if not len(rows):
        return
    leaf, named = changes.classes.leaf.copy(), desk.door.fresh_leaves(len(rows))
    leaf[rows] = named
    work.changes = replace(changes, classes=replace(changes.classes, leaf=leaf))
    counters = lives.with_promised_leaves(desk.ledger.counters, changes.classes.handle[rows], named)
    desk.ledger = replace(desk.ledger, counters=counters)


def act(work: Work, occasion: Occasion, stopwatch: Callable[[], float]) -> None:
    """Carry out the changes, each with an outcome of its own, and take over what came of them."""
    desk, changes = work.desk, work.changes
    desk.cut = False
    if changes is None or work.wanted is None or not occasion.acts:
        return
    outcomes = _nothing_done()
    if changes.build_tree or len(changes):
        started, shortest = stopwatch(), occasion.pace.shortest_interval_seconds
        try:
            outcomes = desk.door.apply(changes)
        except (KernelUnreadable, DeviceRefused) as error:
            work.trouble = str(error)
            return
        spreading.learn(desk, changes, stopwatch() - started, shortest)
        if work.is_cut:  # the next act is due soon
            desk.due_at_boot_seconds = min(desk.due_at_boot_seconds, occasion.now.boot_seconds + shortest)
    work.outcomes = outcomes
    accepted = outcomes.errno == 0
    desk.cut = work.is_cut and bool(accepted.any())
    desk.enforced = plan.settled(desk.enforced, changes, accepted, work.wanted, waiting=desk.waiting)
    counters = lives.with_new_leaves(desk.ledger.counters, changes, outcomes)
    if counters is not desk.ledger.counters:
        desk.ledger = replace(desk.ledger, counters=counters)


def _nothing_done() -> Outcomes:
    return Outcomes(errno=np.empty(0, np.int32), enforced_ceiling_bytes_per_second=np.empty(0, np.int64))


def tell(work: Work, occasion: Occasion) -> tuple[DeviceReport, tuple[Event, ...]]:
    """Make the device's report, and say what happened; of a device that was not read, the last one with its trouble."""
    desk, verdicts, changes = work.desk, work.verdicts, work.changes
    if verdicts is None or changes is None:
        desk.due_at_boot_seconds = occasion.now.boot_seconds + occasion.pace.interval_seconds
        return _unread(work, occasion), ()
    frozen_by = events.FROZEN_BY_HAND if occasion.frozen else events.FROZEN_BY_LOSS
    of_verdicts, accounts = events.of_verdicts(
        desk.ledger, desk.tariffs, verdicts, outcomes_of=partial(work.fates, verdicts), frozen_by=frozen_by
    )
    told = (*of_verdicts, *_of_guarantees(desk, verdicts), *_of_outcomes(desk, changes, work.outcomes))
    if accounts is not desk.ledger.accounts:
        desk.ledger = replace(desk.ledger, accounts=accounts)
    desk.report = _device_report(work, verdicts, changes, occasion.habits.get(desk.device))
    return desk.report, told


def _unread(work: Work, occasion: Occasion) -> DeviceReport:
    """Report a device that could not be read: as it was, or as its saved accounts say where it never was."""
    desk, trouble = work.desk, work.trouble
    if desk.report is not None:
        return replace(desk.report, trouble=trouble, changes=_no_changes(), outcomes=None, implausible_readings=0)
    held = np.zeros(len(desk.tariffs), np.int64)
    verdicts = _verdicts(desk, _frame(desk), held, occasion.pace.interval_seconds, occasion)
    return _device_report(Work(desk, trouble=trouble), verdicts, _no_changes())


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


def _of_outcomes(desk: Desk, changes: Changes, outcomes: Outcomes | None) -> tuple[Event, ...]:
    """Tell what was put right and what was refused, each refusal once."""
    if outcomes is None:
        return ()
    counters, row_of = desk.ledger.counters, dict[int, int]()
    if changes.drift.any() or outcomes.errno.any():
        # Of removed slices too, while their classes live.
        row_of = dict(zip(counters.handle.tolist(), counters.account.tolist(), strict=True))
    desk.building |= changes.build_tree
    told, desk.refused = events.of_outcomes(
        desk.ledger, changes, outcomes, row_of, told=desk.refused, building=desk.building
    )
    desk.building &= desk.cut
    return told


def _device_report(work: Work, verdicts: Verdicts, changes: Changes, habits: Habits | None = None) -> DeviceReport:
    desk = work.desk
    ahead = policies.foreseen(desk.ledger, desk.tariffs.lanes, verdicts, habits)
    return DeviceReport(
        device=desk.device,
        trouble=work.trouble,
        cap_bytes_per_second=desk.tree.cap_bytes_per_second,
        line_rate_bytes_per_second=desk.tree.line_rate_bytes_per_second,
        ledger=desk.ledger,
        tariffs=desk.tariffs,
        verdicts=verdicts,
        enforced_ceiling_bytes_per_second=work.enforced_ceilings(),
        backlog_bytes=work.backlog(),
        seconds_to_threshold=ahead.seconds_to_threshold,
        seconds_to_allowance=ahead.seconds_to_allowance,
        expected_used_bytes=ahead.expected_used_bytes,
        earlier_periods=ahead.earlier_periods,
        changes=changes,
        outcomes=work.outcomes,
        implausible_readings=0 if work.implausible is None else len(work.implausible),
    )
