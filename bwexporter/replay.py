"""Replay: what would have been, had other policies held over a span of recorded use.

Turns recorded use and a roll of lanes into who would have been capped, when, for how long, and how many bytes less. The
very turn of the daemon is taken over a machine that sends what was sent then, as far as the ceilings let it. Knows: how
recorded sums become traffic. Does not know: any rule, files, what is printed.

What was recorded is what had passed under the ceilings of then: a looser policy shows who would no longer have been
capped, and not what else they would have sent. Within one recorded interval traffic is taken to have been even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from bwexporter.core.enrolment import open_ledger
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import (
    I8,
    Act,
    Changes,
    Classes,
    Counts,
    Instant,
    Lane,
    Ledger,
    Outcomes,
    Snapshot,
    Tariffs,
    no_classes,
    no_endings,
)
from bwexporter.core.periods import PeriodRule, Rolling
from bwexporter.core.report import Event, Report
from bwexporter.desk import Desk, Tree
from bwexporter.stages import Pace
from bwexporter.turn import Turns

FIRST_LANE_MINOR = 0x1000
BOOT_SECONDS = 1000.0
PACKET_BYTES = 1000

Span = tuple[float, float]
"""From when to when, in Unix time."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What each lane of a device sent in each interval, and how its period stood when the first one began."""

    since_wall_seconds: float
    step_seconds: float
    lanes: tuple[Lane, ...]
    sent_bytes: I8  # one row an interval, one column a lane
    period_starts: Mapping[Lane, tuple[float, int]] = field(default_factory=dict)  # Unix time, and used since


@dataclass
class Told:
    """What would have become of one lane."""

    lane: Lane
    allowance_bytes: int
    recorded_by_interval: I8
    sent_by_interval: I8
    used_by_interval: I8  # of the allowance in the period, at its end
    spans: list[Span] = field(default_factory=list)  # in which it was capped

    @property
    def recorded_bytes(self) -> int:
        """Return what it did send."""
        return int(self.recorded_by_interval.sum())

    @property
    def sent_bytes(self) -> int:
        """Return what it would have sent."""
        return int(self.sent_by_interval.sum())

    @property
    def less_bytes(self) -> int:
        """Return how many bytes less it would have sent."""
        return max(0, self.recorded_bytes - self.sent_bytes)

    @property
    def capped_seconds(self) -> float:
        """Return for how long it was capped."""
        return sum(until - since for since, until in self.spans)


def replayed(
    recorded: Recorded, device: str, tree: Tree, tariffs: Tariffs, rules: tuple[PeriodRule, ...], pace: Pace
) -> list[Told]:
    """Live through the recorded span once more, under these tariffs."""
    machine = _Machine(device, tree.handles(tariffs), _in_order(recorded, tariffs), recorded.step_seconds)
    turns = Turns("replay", _Nothing(), replace(pace, enforcing=True, frozen=False), lambda: 0.0)
    now = Instant(recorded.since_wall_seconds, BOOT_SECONDS, "replay")
    turns.enlist(Desk(device, machine, tree, tariffs, rules, open_ledger(device, 1, now)))
    desk = turns.desks[device]
    desk.ledger = _as_it_stood(desk.ledger, recorded, rules, tariffs)
    spans, used, intervals = [list[Span]() for _ in tariffs.lanes], np.zeros_like(machine.demand), 0
    turns.take(now)  # makes the classes
    report = turns.take(now)
    length = len(machine.demand) * recorded.step_seconds
    while machine.seconds < length:
        _note(spans, report, now.wall_seconds)
        seconds = min(max(turns.next_look_seconds(now), 1e-3), length - machine.seconds)
        machine.pass_seconds(seconds)
        now = Instant(now.wall_seconds + seconds, now.boot_seconds + seconds, now.boot_id)
        report = turns.take(now, early=turns.is_early(now))
        ended = int(machine.seconds / recorded.step_seconds + 1e-9)
        used[intervals:ended] = turns.desks[device].ledger.accounts.used_bytes[: len(tariffs)]
        intervals = ended
    allowances, passed = tariffs.allowance_bytes.tolist(), machine.passed.astype(np.int64)
    return [
        Told(
            lane,
            allowances[row],
            machine.demand[:, row],
            passed[:, row],
            used[:, row],
            [(since, min(until, now.wall_seconds)) for since, until in spans[row]],
        )
        for row, lane in enumerate(tariffs.lanes)
    ]


def _note(spans: Sequence[list[Span]], report: Report, at: float) -> None:
    """Write down who is capped from now on until the next look."""
    until = at + report.next_look_seconds
    for row in np.flatnonzero(report.devices[0].verdicts.capped).tolist():
        known = spans[row]
        if known and known[-1][1] >= at - 0.01:
            known[-1] = (known[-1][0], until)
        else:
            known.append((at, until))


def _in_order(recorded: Recorded, tariffs: Tariffs) -> I8:
    """Return what was sent, a column for each lane of the tariffs; those that were not there sent nothing."""
    column_of = {lane: at for at, lane in enumerate(recorded.lanes)}
    demand = np.zeros((len(recorded.sent_bytes), len(tariffs)), np.int64)
    for row, lane in enumerate(tariffs.lanes):
        if lane in column_of:
            demand[:, row] = recorded.sent_bytes[:, column_of[lane]]
    return demand


def _as_it_stood(ledger: Ledger, recorded: Recorded, rules: Sequence[PeriodRule], tariffs: Tariffs) -> Ledger:
    """Let rolling periods begin where they did, with what had been used by then; a calendar's are where it is."""
    accounts = ledger.accounts
    start, end, used = accounts.period_start_at.copy(), accounts.period_end_at.copy(), accounts.used_bytes.copy()
    for row, lane in enumerate(tariffs.lanes):
        began, used_since = recorded.period_starts.get(lane, (recorded.since_wall_seconds, 0))
        length = end[row] - start[row]
        if began <= recorded.since_wall_seconds < began + length:
            used[row] = used_since
            if isinstance(rules[int(tariffs.period_rule[row])], Rolling):
                start[row], end[row] = began, began + length
    return replace(ledger, accounts=replace(accounts, period_start_at=start, period_end_at=end, used_bytes=used))


class _Nothing:
    """A store that keeps nothing."""

    saved = True
    trouble = ""

    def save(
        self, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> _Nothing:
        """Keep nothing."""
        del ledgers, events, at_wall_seconds, hand
        return self


class _Machine:
    """A device whose classes let through what was sent then, as far as their ceilings allow."""

    def __init__(self, device: str, handles: I8, demand: I8, step_seconds: float) -> None:
        self.demand, self.passed = demand, np.zeros(demand.shape)
        self.seconds = 0.0
        self._device, self._handles, self._step = device, handles, step_seconds
        self._classes: dict[int, tuple[int, ...]] = {}
        self._table = no_classes()
        self._sent = np.zeros(len(handles))
        self._ceilings = np.zeros(len(handles))

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, interval by interval."""
        end = self.seconds + seconds
        while self.seconds < end - 1e-9:
            at = min(int(self.seconds / self._step + 1e-9), len(self.demand) - 1)
            part = min(end, (at + 1) * self._step) - self.seconds
            passed = np.minimum(self.demand[at] / self._step, self._ceilings) * part
            self.passed[at] += passed
            self._sent += passed
            self.seconds += part

    def look(self) -> Snapshot:
        """Read every class."""
        table, sent = self._table, np.zeros(len(self._table), np.int64)
        row_of = {handle: row for row, handle in enumerate(table.handle.tolist())}
        for lane, handle in enumerate(self._handles.tolist()):
            at: int | None = row_of.get(handle)
            while at is not None:
                sent[at] += int(self._sent[lane])
                at = row_of.get(int(table.parent[at]))
        nothing = np.zeros(len(table), np.int64)
        return Snapshot(
            device=self._device,
            ifindex=1,
            tree_present=bool(len(table)),
            clean=True,
            watched_since_last_look=True,
            classes=table,
            counts=Counts(sent, sent // PACKET_BYTES, nothing, nothing.copy()),
            backlog_bytes=nothing.copy(),
            endings=no_endings(),
            tree_endings_bytes=(),
            tree_sent_bytes=int(self._sent.sum()),
            direct_packets=0,
        )

    def apply(self, changes: Changes) -> Outcomes:
        """Do all of it."""
        names = [one.name for one in fields(Classes)]
        for row in range(len(changes)):
            values = {name: int(getattr(changes.classes, name)[row]) for name in names}
            handle = values["handle"]
            if changes.act[row] == Act.REMOVE:
                self._classes.pop(handle, None)
                continue
            lane = handle & 0xFFFF >= FIRST_LANE_MINOR
            values["leaf"] = (handle & 0xFFFF) << 16 if lane else 0
            self._classes[handle] = tuple(values.values())
        rows = [self._classes[handle] for handle in sorted(self._classes)]
        self._table = Classes(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))
        ceilings = dict(zip(self._table.handle.tolist(), self._table.ceiling_bytes_per_second.tolist(), strict=True))
        self._ceilings = np.array([ceilings.get(handle, 0) for handle in self._handles.tolist()], np.float64)
        enforced = np.where(changes.act == Act.REMOVE, 0, changes.classes.ceiling_bytes_per_second)
        return Outcomes(np.zeros(len(changes), np.int32), enforced)

    def fresh_leaves(self, count: int) -> I8:
        """Return none: every class here has its leaf queue from the start."""
        return np.zeros(count, np.int64)

    def disturbed(self) -> bool:
        """Say that nobody else changes anything."""
        return False
