"""How long lanes take to reach their limits if they go on as of late and as they are used to.

Turns accounts, limits and habits into forecasts. Knows: that a period which ends first forgets the use, that who has no
habits goes on as of late. Does not know: the ceiling, which may come down on the way: this says what the owner should
expect to happen, not when the cap lifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bwexporter.core.habits import Habits
from bwexporter.core.lanes import F8, I8, UNLIMITED, Ledger, Verdicts
from bwexporter.core.outlook import Course, outlook


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected of each lane; seconds are infinite for what is not reached in this period."""

    seconds_to_threshold: F8
    seconds_to_allowance: F8
    expected_used_bytes: I8  # at the period's end
    earlier_periods: I8  # whose same hours speak in it; 0: the recent rate alone


def forecast(ledger: Ledger, lanes: tuple[object, ...], verdicts: Verdicts, habits: Habits | None) -> Forecast:
    """Look ahead, for the lanes of the verdicts."""
    accounts, rows = ledger.accounts, slice(ledger.enrolled)
    used, recent = accounts.used_bytes[rows], accounts.recent_bytes_per_second[rows]
    remaining = np.maximum((accounts.period_end_at - ledger.ledger_seconds)[rows], 0.0)
    threshold, allowance = verdicts.threshold_bytes, verdicts.allowance_bytes
    late = Forecast(
        seconds_to(threshold, used, recent, remaining),
        seconds_to(allowance, used, recent, remaining),
        used + np.minimum(recent * remaining, float(UNLIMITED)).astype(np.int64),
        np.zeros(len(used), np.int64),
    )
    ahead = None if habits is None else _ahead(habits, lanes, ledger)
    if habits is None or ahead is None:
        return late
    seen = outlook(
        ahead,
        used_bytes=used,
        threshold_bytes=threshold,
        allowance_bytes=allowance,
        remaining_seconds=remaining,
        recent_bytes_per_second=recent,
    )
    known = habits.periods > 0
    return Forecast(
        np.where(known, seen.seconds_to_threshold, late.seconds_to_threshold),
        np.where(known, seen.seconds_to_allowance, late.seconds_to_allowance),
        np.where(known, seen.expected_used_bytes, late.expected_used_bytes),
        habits.periods,
    )


def _ahead(habits: Habits, lanes: tuple[object, ...], ledger: Ledger) -> Course | None:
    """Return the course of these very lanes from now on, None where nothing is known of them."""
    now = ledger.ledger_seconds + ledger.wall_offset_seconds
    known = habits.periods.any() and (habits.lanes is lanes or habits.lanes == lanes)
    return habits.ahead(now) if known else None


def seconds_to(limit_bytes: I8, used_bytes: I8, recent_bytes_per_second: F8, remaining_seconds: F8) -> F8:
    """Return the seconds until each lane's limit at its recent rate: 0 where reached, infinity if not in this period.

    >>> seconds_to(np.array([1_000]), np.array([400]), np.array([20.0]), np.array([3600.0])).tolist()
    [30.0]
    """
    left = np.maximum(limit_bytes - used_bytes, 0)
    seconds = np.where(left == 0, 0.0, np.inf)
    moving = np.flatnonzero((recent_bytes_per_second > 0) & (left > 0) & (limit_bytes < UNLIMITED))
    rate, remaining = recent_bytes_per_second[moving], remaining_seconds[moving]
    within_reach = (remaining > 0) & (left[moving] <= rate * remaining)
    reaching = moving[within_reach]
    seconds[reaching] = left[reaching] / rate[within_reach]
    return seconds
