"""Habits: what lanes usually send at an hour, from the same hours of earlier periods, and how far that can be trusted.

Turns hourly sums of the past into the usual rate of each hour to come. Knows: which hour of the past is the same hour
of an earlier period, how well such hours foretold those of late. Does not know: where sums are kept, what is made of
habits.

What is usual is the median of the same hours, so that a day that was out of the ordinary spoils none of the next ones.
A lane that has no rhythm is foretold better by what it sent some hours ago; so each lane's habits are trusted as far as
they foretold its last two days better than that. An hour of a lane is known from the first one on in which it sent
anything: before that nobody knows whether it was there. Periods of less than two hours have no hours to compare. Hours
that are far ahead are taken together, so that a month has not many more columns than a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import F8, I8, Lane
from bwexporter.core.outlook import HOUR_SECONDS, Course, course

MOST_PERIODS = 7  # that are looked back to
MOST_HOURS = 800  # of the past that are read for them
TRIED_HOURS = 48  # of late, that habits are held against
LATE_HOURS = 6  # before each of them, of the rate that habits compete with
COURSE_SECONDS = 300.0  # for so long a course is good enough
SHORTEST_PERIOD_SECONDS = 2 * HOUR_SECONDS
_SINGLE_HOURS, _TOGETHER_HOURS = 48, 24
_BLOCK_ROWS = 512

Sent = NDArray[np.float32]
"""One row an hour of the past, one column a lane; NaN where nothing is known. Thousands of lanes: half the memory."""


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
    trust: F8  # from 0 to 1: how far each lane's habits speak, and not its recent rate
    periods: I8  # earlier ones of each lane that speak of the rest of its period; 0: it has no habits
    _kept: list[tuple[float, Course]] = field(default_factory=list, init=False, repr=False, compare=False)

    def ahead(self, now_seconds: float) -> Course | None:
        """Return the course from an instant on, None where nothing of it is known; it is made anew now and then."""
        if self._kept and 0.0 <= now_seconds - self._kept[0][0] < COURSE_SECONDS:
            return self._kept[0][1]
        ends = self.ends - (now_seconds - self.begin_wall_seconds)
        first = int(np.searchsorted(ends, 0.0, side="right"))
        if now_seconds < self.begin_wall_seconds or first == len(ends):
            return None
        self._kept[:] = [(now_seconds, course(self.usual[:, first:], ends[first:], self.trust))]
        return self._kept[0][1]


def earliest(period_seconds: F8, now_seconds: float) -> int:
    """Return the hour that has to be read first, in Unix time; the one that runs where nothing has to be."""
    looks_back = [float(length) * _look_back(float(length)) for length in np.unique(period_seconds).tolist()]
    longest = max(looks_back, default=0.0)
    tried = (TRIED_HOURS + LATE_HOURS) * HOUR_SECONDS if longest else 0.0
    return int((now_seconds - longest - tried) // HOUR_SECONDS * HOUR_SECONDS)


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
    length = periods.length_seconds
    longest = float(length.max(initial=0.0))
    if longest < SHORTEST_PERIOD_SECONDS:
        return None
    begin = int(now_seconds // HOUR_SECONDS) * int(HOUR_SECONDS)
    sent = _known(hours, earliest(length, now_seconds), begin, len(lanes))
    column_of, ends = _columns(longest + HOUR_SECONDS)
    usual, trust = np.full((len(lanes), len(ends)), np.nan), np.full(len(lanes), 0.5)
    known = np.zeros(len(lanes), np.int64)
    for one in np.unique(length).tolist():
        ago = _hours_ago(one)
        for rows in _blocks(np.flatnonzero(length == one)) if len(ago) else ():
            of_group = sent[:, rows]
            same = _same_hours(of_group, ago, np.arange(len(sent), len(sent) + len(column_of)))
            usual[rows] = _together(_median(same), column_of, len(ends)).T / HOUR_SECONDS
            trust[rows] = _trust(of_group, ago)
            coming = periods.remaining_seconds[rows] > np.arange(len(column_of))[:, np.newaxis] * HOUR_SECONDS
            known[rows] = (~np.isnan(same) & coming).any(axis=1).sum(axis=0)
    return Habits(lanes, float(begin), usual, ends, trust, known)


def _blocks(rows: I8) -> Iterator[I8]:
    """Yield some lanes after others: what is worked out on the way is several times what is known of them."""
    return (rows[first : first + _BLOCK_ROWS] for first in range(0, len(rows), _BLOCK_ROWS))


def _known(hours: Iterable[tuple[int, I8]], first: int, begin: int, lanes: int) -> Sent:
    """Return what is known of each hour before the one that runs."""
    sent = np.full((int((begin - first) // HOUR_SECONDS), lanes), np.nan, np.float32)
    there = np.zeros(lanes, np.bool_)
    for start, amount in hours:
        there |= amount > 0
        row = int((start - first) // HOUR_SECONDS)
        if 0 <= row < len(sent):
            sent[row] = np.where(there, amount, np.nan)
    return sent


def _hours_ago(period_seconds: float) -> I8:
    """Return how many hours ago the same hour was, of each earlier period that counts."""
    ago = np.arange(1, _look_back(period_seconds) + 1)
    hours: I8 = np.rint(ago * period_seconds / HOUR_SECONDS).astype(np.int64)
    return hours


def _same_hours(sent: Sent, ago: I8, hours: I8) -> Sent:
    """Return what was sent in the same hours of earlier periods: by period, hour and lane."""
    place = hours[np.newaxis, :] - ago[:, np.newaxis]
    there = (place >= 0) & (place < len(sent))
    found = (
        sent[np.clip(place, 0, max(len(sent) - 1, 0))] if len(sent) else np.full((*place.shape, sent.shape[1]), np.nan)
    )
    return np.where(there[:, :, np.newaxis], found, np.nan).astype(np.float32)


def _median(same: Sent) -> F8:
    """Return the median over periods, NaN where none is known. NumPy's own is slow, and warns of what is not known."""
    ordered = np.sort(same, axis=0)  # NaN comes last
    count = (~np.isnan(same)).sum(axis=0)[np.newaxis]
    middle = np.maximum(count - 1, 0)
    low = np.take_along_axis(ordered, middle // 2, axis=0)[0]
    high = np.take_along_axis(ordered, (middle + 1) // 2, axis=0)[0]
    median: F8 = (low.astype(np.float64) + high) / 2
    return median


def _trust(sent: Sent, ago: I8) -> F8:
    """Return how far habits are trusted: a half where they could not be tried."""
    hours = np.arange(max(len(sent) - TRIED_HOURS, LATE_HOURS), len(sent))
    if not len(hours):
        return np.full(sent.shape[1], 0.5)
    of_habit = np.abs(sent[hours] - _median(_same_hours(sent, ago, hours)))
    of_late = np.abs(sent[hours] - sent[hours - LATE_HOURS]).astype(np.float64)
    tried = ~(np.isnan(of_habit) | np.isnan(of_late))
    habit, late = (np.where(tried, one, 0.0).sum(axis=0) ** 2 for one in (of_habit, of_late))
    trust: F8 = np.divide(late, habit + late, out=np.full(len(late), 0.5), where=habit + late > 0)
    return trust


def _together(usual: F8, column_of: I8, columns: int) -> F8:
    """Return the mean of the hours of each column of which anything is known."""
    sums, counts = np.zeros((columns, usual.shape[1])), np.zeros((columns, usual.shape[1]))
    np.add.at(sums, column_of, np.nan_to_num(usual))
    np.add.at(counts, column_of, ~np.isnan(usual))
    mean: F8 = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return mean


def _columns(length_seconds: float) -> tuple[I8, F8]:
    """Return the column of each hour ahead, and how many seconds ahead each column ends."""
    hours = int(np.ceil(length_seconds / HOUR_SECONDS))
    ahead = np.arange(hours)
    far = np.maximum(ahead - _SINGLE_HOURS, 0)
    columns = np.where(ahead < _SINGLE_HOURS, ahead, _SINGLE_HOURS + far // _TOGETHER_HOURS)
    ends = np.array([(np.flatnonzero(columns == column)[-1] + 1) * HOUR_SECONDS for column in np.unique(columns)])
    return columns, ends
