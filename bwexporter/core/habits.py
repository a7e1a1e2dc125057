"""Habits: what lanes usually send at an hour, from the same hours of earlier periods.

Turns hourly sums of the past into the usual rate of each hour to come. Knows: which hour of the past is the same hour
of an earlier period. Does not know: where sums are kept, what is made of habits.

An hour of a lane is known from the first one on in which it sent anything: before that nobody knows whether it was
there. Periods of less than two hours have no hours to compare. Hours that are far ahead are taken together, so that a
month has no more columns than a week.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bwexporter.core.lanes import F8, I8, Lane
from bwexporter.core.outlook import HOUR_SECONDS, Course, course

MOST_PERIODS = 7  # that are looked back to
MOST_HOURS = 1_200  # of the past that are read
COURSE_SECONDS = 300.0  # for so long a course is good enough
SHORTEST_PERIOD_SECONDS = 2 * HOUR_SECONDS
_SINGLE_HOURS, _TOGETHER_HOURS = 48, 24


@dataclass(frozen=True, slots=True)
class Periods:
    """The running period of each lane."""

    length_seconds: F8
    remaining_seconds: F8


@dataclass(frozen=True, slots=True)
class Habits:
    """What is known of lanes from an hour on."""

    lanes: tuple[Lane, ...]
    begin_wall_seconds: float
    usual: F8  # a row a lane, a column an hour (or more): bytes per second, NaN where nothing is known
    ends: F8  # seconds from the begin to the end of each column
    periods: I8  # earlier ones of each lane that speak of the rest of its period; 0: it has no habits
    _kept: list[tuple[float, Course]] = field(default_factory=list, init=False, repr=False, compare=False)

    def ahead(self, now_seconds: float) -> Course | None:
        """Return the course from an instant on, None where nothing of it is known; it is made anew now and then."""
        if self._kept and 0.0 <= now_seconds - self._kept[0][0] < COURSE_SECONDS:
            return self._kept[0][1]
        ends = self.ends - (now_seconds - self.begin_wall_seconds)
        coming = ends > 0.0
        if now_seconds < self.begin_wall_seconds or not coming.any():
            return None
        self._kept[:] = [(now_seconds, course(self.usual[:, coming], ends[coming]))]
        return self._kept[0][1]


def earliest(period_seconds: F8, now_seconds: float) -> int:
    """Return the hour that has to be read first, in Unix time."""
    longest = max(float(length) * _look_back(float(length)) for length in np.unique(period_seconds).tolist())
    return int((now_seconds - longest) // HOUR_SECONDS * HOUR_SECONDS)


def _look_back(period_seconds: float) -> int:
    """Return how many earlier periods count."""
    if period_seconds < SHORTEST_PERIOD_SECONDS:
        return 0
    return int(np.clip(MOST_HOURS * HOUR_SECONDS // period_seconds, 1, MOST_PERIODS))


def habits(
    lanes: tuple[Lane, ...], periods: Periods, now_seconds: float, hours: Iterable[tuple[int, I8]]
) -> Habits | None:
    """Learn from the past: `hours` are (start, what each lane sent), oldest first. None where nothing can be learnt.

    The course goes on for as long as the longest period: the next one begins while habits are as they are.
    """
    period_seconds = periods.length_seconds
    longest = float(period_seconds.max(initial=0.0))
    if longest < SHORTEST_PERIOD_SECONDS:
        return None
    column_of, ends = _columns(longest + HOUR_SECONDS)
    this_hour = int(now_seconds // HOUR_SECONDS)
    sums, counts = np.zeros((len(lanes), len(ends))), np.zeros((len(lanes), len(ends)))
    known_of, there = np.zeros((len(lanes), MOST_PERIODS + 1), np.bool_), np.zeros(len(lanes), np.bool_)
    groups = [(length, np.flatnonzero(period_seconds == length)) for length in np.unique(period_seconds).tolist()]
    for start, sent in hours:
        there |= sent > 0
        for length, rows in groups:
            of_group = rows[there[rows]]
            for ago in range(1, _look_back(length) + 1):
                ahead = int((start + ago * length) // HOUR_SECONDS) - this_hour
                if 0 <= ahead < len(column_of):
                    sums[of_group, column_of[ahead]] += sent[of_group]
                    counts[of_group, column_of[ahead]] += 1
                    known_of[of_group, ago] |= periods.remaining_seconds[of_group] > ahead * HOUR_SECONDS
    usual = np.divide(sums, counts * HOUR_SECONDS, out=np.full(sums.shape, np.nan), where=counts > 0)
    return Habits(lanes, this_hour * HOUR_SECONDS, usual, ends, known_of.sum(axis=1))


def _columns(length_seconds: float) -> tuple[I8, F8]:
    """Return the column of each hour ahead, and how many seconds ahead each column ends."""
    hours = int(np.ceil(length_seconds / HOUR_SECONDS))
    ahead = np.arange(hours)
    far = np.maximum(ahead - _SINGLE_HOURS, 0)
    columns = np.where(ahead < _SINGLE_HOURS, ahead, _SINGLE_HOURS + far // _TOGETHER_HOURS)
    ends = np.array([(np.flatnonzero(columns == column)[-1] + 1) * HOUR_SECONDS for column in np.unique(columns)])
    return columns, ends
