"""Replay: what would have been, had other policies held over a span of recorded use.

Turns recorded use, the orders by hand of then and a roll of lanes into who would have been capped, when, for how long,
and how many bytes less. Knows: how recorded sums become traffic, when the wheel moved. Does not know: any rule, how it
is lived through, files, what is printed.

What was recorded is what had passed under the ceilings of then: a looser policy shows who would no longer have been
capped, and not what else they would have sent. Within one recorded interval traffic is taken to have been as even as
the ceilings let it be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bwexporter.core import rings, wheel, windows
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import I8, Instant, Lane, Ledger, Tariffs
from bwexporter.core.periods import PeriodRule, Rolling
from bwexporter.core.policies import counting
from bwexporter.core.wheel import Moved
from bwexporter.desk import Tree
from bwexporter.reliving import Reliving, Span, Terms, note
from bwexporter.stages import Pace

BOOT_SECONDS = 1000.0
_WITHIN_SECONDS = 1e-3  # before its end an interval is still itself


@dataclass(frozen=True, slots=True)
class Recorded:
    """What each lane of a device sent in each interval, and how its period stood when the first one began."""

    since_wall_seconds: float
    step_seconds: float
    lanes: tuple[Lane, ...]
    sent_bytes: I8  # one row an interval, one column a lane
    period_starts: Mapping[Lane, tuple[float, int]] = field(default_factory=dict)  # Unix time, and used since
    moved: tuple[Moved, ...] = ()  # the orders by hand until the last interval's end, oldest first
    before_bytes: I8 | None = None  # in the intervals before the first, for sliding windows; None: not known


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
    spans = [list[Span]() for _ in tariffs.lanes]
    now = Instant(recorded.since_wall_seconds, BOOT_SECONDS, "replay")
    before = [one for one in recorded.moved if one.at_wall_seconds <= now.wall_seconds]
    coming = list(recorded.moved[len(before) :])
    life = Reliving(
        device, Terms(tree, tariffs, rules), pace, now, lambda at, report: note(spans, report, at.wall_seconds)
    )
    life.begin(lambda ledger: _as_it_stood(ledger, recorded, rules, tariffs), wheel.held_at(before, now))
    demand = _in_order(recorded.sent_bytes, recorded.lanes, tariffs)
    passed, used = np.zeros(demand.shape), np.zeros_like(demand)
    for interval, sent in enumerate(demand):
        end = recorded.since_wall_seconds + (interval + 1) * recorded.step_seconds
        left = sent.astype(np.float64)
        while coming and coming[0].at_wall_seconds < end:
            seconds, rest = coming[0].at_wall_seconds - life.now.wall_seconds, end - life.now.wall_seconds
            left -= life.live_on(seconds, left * seconds / rest)
            life.hold(_moved_at(life.hand, coming, life.now))
        left -= life.live_on(end - life.now.wall_seconds, left)
        passed[interval] = sent - left
        used[interval] = counting(life.ledger).accounts.used_bytes[: len(tariffs)]
    life.look()
    used[-1:] = counting(life.ledger).accounts.used_bytes[: len(tariffs)]
    allowances, ended = tariffs.allowance_bytes.tolist(), life.now.wall_seconds
    return [
        Told(
            lane,
            allowances[row],
            demand[:, row],
            passed[:, row].astype(np.int64),
            used[:, row],
            [(since, min(until, ended)) for since, until in spans[row] if since < ended],
        )
        for row, lane in enumerate(tariffs.lanes)
    ]


def _moved_at(hand: Hand, coming: list[Moved], now: Instant) -> Hand:
    """Take what moved the wheel until an instant from what is to come, and return the hand after it."""
    while coming and coming[0].at_wall_seconds <= now.wall_seconds + 1e-6:
        hand = wheel.after(hand, coming.pop(0))
    return hand


def _in_order(sent_bytes: I8, lanes: Sequence[Lane], tariffs: Tariffs) -> I8:
    """Return what was sent, a column for each lane of the tariffs; those that were not there sent nothing."""
    column_of = {lane: at for at, lane in enumerate(lanes)}
    demand = np.zeros((len(sent_bytes), len(tariffs)), np.int64)
    for row, lane in enumerate(tariffs.lanes):
        if lane in column_of:
            demand[:, row] = sent_bytes[:, column_of[lane]]
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
    stood = replace(ledger, accounts=replace(accounts, period_start_at=start, period_end_at=end, used_bytes=used))
    return _with_windows(stood, recorded, tariffs)


def longest_window_seconds(tariffs: Tariffs) -> float:
    """Return how far before a span sliding windows reach."""
    return max((one.sliding_seconds or 0.0 for one in tariffs.policies.values()), default=0.0)


def _with_windows(ledger: Ledger, recorded: Recorded, tariffs: Tariffs) -> Ledger:
    """Let sliding windows hold what was sent before the span; where nothing is known of it, what was used by then."""
    if ledger.rings is None:
        return ledger
    began = replace(ledger, rings=None)
    if recorded.before_bytes is None:
        return rings.enrolled(began, tariffs)
    sent = _in_order(recorded.before_bytes, recorded.lanes, tariffs)
    starts = recorded.since_wall_seconds - recorded.step_seconds * np.arange(len(sent), 0, -1)
    nothing = replace(ledger.accounts, used_bytes=np.zeros(len(ledger.lanes), np.int64))
    first = starts[0] if len(starts) else ledger.ledger_seconds
    held = rings.enrolled(replace(began, ledger_seconds=first, accounts=nothing), tariffs).rings
    chosen = {row: one for row, one in tariffs.policies.items() if one.windows}
    for start, counted in zip(starts.tolist(), sent, strict=True):
        for row, one in chosen.items():
            counted[row] = int(counted[row] * windows.mean_part(one.windows, start, start + recorded.step_seconds))
        held = rings.advanced(held, counted, start + recorded.step_seconds - _WITHIN_SECONDS)
    return replace(ledger, rings=rings.advanced(held, nothing.used_bytes, ledger.ledger_seconds))
