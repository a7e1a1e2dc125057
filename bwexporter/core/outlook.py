"""What lanes will have used when their periods end, and when they reach their limits on the way.

Turns recent rates and habits into outlooks. Knows: for how long the recent rate says more than habit does. Does not
know: where habits come from, what the law makes of it: an outlook is of what a lane would like to send.

What a lane sends now goes on for a while and then gives way to what it usually does at that hour: of the recent rate a
part exp(-t / 1 h) is left after the time t, and the rest is what is usual, as far as that is trusted. One hour is what
served best for recorded traffic and for simulated traffic with a daily rhythm, bursts and pauses (docs/benchmarks.md).
In an hour of which nothing is known the recent rate goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bwexporter.core.lanes import F8, I8, UNLIMITED

HOUR_SECONDS = 3600.0
PERSISTENCE_SECONDS = 3600.0
_SOON = np.array([15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 1_800.0])
"""Seconds; where the recent rate has hardly begun to give way, so that what is near is as near as it says."""


@dataclass(frozen=True, slots=True)
class Course:
    """How habits and the recent rate add up; one row an instant, counted from now, one column a lane."""

    seconds: F8  # of each row; from 0 on
    recent_seconds: F8  # for how long, in all, the recent rate counts until then
    habitual_bytes: F8  # what habit adds until then


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected; seconds are infinite for what is not reached in this period."""

    expected_used_bytes: I8
    seconds_to_threshold: F8
    seconds_to_allowance: F8


def course(usual: F8, ends: F8, trust: F8 | None = None, persistence_seconds: float = PERSISTENCE_SECONDS) -> Course:
    """Add up habits. `usual` has a row a lane and a column an hour from now on, in bytes per second, NaN: not known.

    `ends` are the seconds until the end of each column, which may be of several hours. `trust` says of each lane how
    far its habits speak; None: all the way.
    """
    seconds = np.unique(np.concatenate([[0.0], _SOON[ends[-1] > _SOON], ends]))
    column = np.searchsorted(ends, seconds[1:])
    lengths = np.diff(seconds)
    recent = persistence_seconds * -np.diff(np.exp(-seconds / persistence_seconds))
    added = Course(seconds, np.zeros((len(seconds), len(usual))), np.zeros((len(seconds), len(usual))))
    for row in range(1, len(seconds)):  # of thousands of lanes all rows at once would need several times the memory
        length, rates = lengths[row - 1], usual[:, column[row - 1]]
        habitual = (length - recent[row - 1]) * (1.0 if trust is None else trust)
        known = ~np.isnan(rates)
        added.recent_seconds[row] = added.recent_seconds[row - 1] + np.where(known, length - habitual, length)
        added.habitual_bytes[row] = added.habitual_bytes[row - 1] + np.where(known, rates * habitual, 0.0)
    return added


def outlook(
    ahead: Course,
    *,
    used_bytes: I8,
    threshold_bytes: I8,
    allowance_bytes: I8,
    remaining_seconds: F8,
    recent_bytes_per_second: F8,
) -> Outlook:
    """Look ahead; a period that ends after the last column of the course ends there.

    >>> ahead = course(np.array([[0.5, np.nan]]), np.array([3600.0, 7200.0]))
    >>> seen = outlook(ahead, used_bytes=np.array([100]), threshold_bytes=np.array([1_000]),
    ...                allowance_bytes=np.array([2_000]), remaining_seconds=np.array([7_200.0]),
    ...                recent_bytes_per_second=np.array([0.5]))
    >>> seen.expected_used_bytes.tolist(), seen.seconds_to_threshold.round().tolist()
    ([3700], [1800.0])
    """
    seconds, recent = ahead.seconds, recent_bytes_per_second
    remaining = np.minimum(remaining_seconds, seconds[-1])
    ends_in = np.clip(np.searchsorted(seconds, remaining), 1, len(seconds) - 1)
    before = used_bytes.astype(np.float64)
    expected = before.copy()
    limits = [_Limit(before, limit) for limit in (threshold_bytes, allowance_bytes)]
    for row in range(1, len(seconds)):  # a lane's course is looked at as others' are: in the order of memory
        after = used_bytes + recent * ahead.recent_seconds[row] + ahead.habitual_bytes[row]
        begin, length = seconds[row - 1], seconds[row] - seconds[row - 1]
        ending = np.flatnonzero(ends_in == row)
        part = np.clip((remaining[ending] - begin) / length, 0.0, 1.0)
        expected[ending] = before[ending] + part * (after[ending] - before[ending])
        for limit in limits:
            limit.passed(before, after, begin, length)
        before = after
    threshold, allowance = (np.where(limit.seconds <= remaining, limit.seconds, np.inf) for limit in limits)
    return Outlook(expected.astype(np.int64), threshold, allowance)


class _Limit:
    """When lanes reach a limit: 0 where they have, infinity where they do not."""

    def __init__(self, used: F8, limit_bytes: I8) -> None:
        self._limit = np.where(limit_bytes < UNLIMITED, limit_bytes, np.inf)
        self.seconds = np.where(used >= self._limit, 0.0, np.inf)

    def passed(self, before: F8, after: F8, begin_seconds: float, length_seconds: float) -> None:
        """Note those that reach it between two instants."""
        rows = np.flatnonzero((after >= self._limit) & (before < self._limit))
        if len(rows):
            low, high = before[rows], after[rows]
            part = (self._limit[rows] - low) / (high - low)
            self.seconds[rows] = begin_seconds + np.clip(part, 0.0, 1.0) * length_seconds
