"""Rolling and calendar periods: which span of time a lane's volume is counted over.

Turns a rule and an instant into the bounds of a period. Knows: calendars, time zones, daylight saving. Does not know:
accounts, steps of the clock.
"""

from __future__ import annotations

import enum
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo


class Unit(enum.Enum):
    """How long a calendar period is."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Rolling:
    """Periods of one length that follow each other from the first sight of the slice."""

    length_seconds: float


@dataclass(frozen=True, slots=True)
class Calendar:
    """Periods that start at local midnights; `starts_on` is 1..7 (Monday is 1) for weeks, 1..31 for months, else 1."""

    unit: Unit
    starts_on: int = 1
    timezone: str = "UTC"


PeriodRule = Rolling | Calendar


@lru_cache(maxsize=64)
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)


def _start_of(local_day: date, zone: ZoneInfo) -> float:
    """Return the Unix time at which a local day begins; a midnight that does not exist is the first instant after it.

    Of a midnight that comes twice the first is meant. In a gap, fold=0 reads the wall clock with the offset before the
    gap, which lands beyond the gap by as much as midnight lies in it; the gap's own end is the first instant after it.
    """
    midnight = datetime.combine(local_day, time(), tzinfo=zone)
    seconds = midnight.timestamp()
    shown = datetime.fromtimestamp(seconds, zone)
    if shown.replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return seconds
    before, after = midnight.utcoffset(), midnight.replace(fold=1).utcoffset()
    if before is None or after is None:
        raise ValueError(f"{zone} has no offset at {midnight}")
    return _end_of_gap(seconds, zone, widest=abs((after - before).total_seconds()))


def _end_of_gap(seconds: float, zone: ZoneInfo, *, widest: float) -> float:
    """Find the instant of a forward jump no further than `widest` seconds from `seconds`, by halving to one second."""
    low, high = seconds - widest - 1, seconds + 1
    offset_before = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset_before:
            low = middle
        else:
            high = middle
    return high


def _anchor(rule: Calendar, local_day: date) -> date:
    """Return the first day of the calendar period that holds a local day."""
    match rule.unit:
        case Unit.DAY:
            return local_day
        case Unit.WEEK:
            return local_day - timedelta(days=(local_day.isoweekday() - rule.starts_on) % 7)
        case Unit.MONTH:
            this_month = _day_of_month(local_day.year, local_day.month, rule.starts_on)
            if local_day >= this_month:
                return this_month
            before = local_day.replace(day=1) - timedelta(days=1)
            return _day_of_month(before.year, before.month, rule.starts_on)


def _day_of_month(year: int, month: int, starts_on: int) -> date:
    """Return the given day of a month, or its last day where the month is too short."""
    return date(year, month, min(starts_on, monthrange(year, month)[1]))


def _next_anchor(rule: Calendar, anchor: date) -> date:
    match rule.unit:
        case Unit.DAY:
            return anchor + timedelta(days=1)
        case Unit.WEEK:
            return anchor + timedelta(days=7)
        case Unit.MONTH:
            later = anchor.replace(day=1) + timedelta(days=32)
            return _day_of_month(later.year, later.month, rule.starts_on)


def calendar_bounds(rule: Calendar, wall_seconds: float) -> tuple[float, float]:
    """Return start and end (Unix seconds) of the calendar period that holds an instant: start <= instant < end.

    >>> berlin = Calendar(Unit.DAY, timezone="Europe/Berlin")
    >>> start, end = calendar_bounds(berlin, 1774774800)  # 2026-03-29 09:00 UTC, the day summer time begins
    >>> (end - start) / 3600
    23.0
    """
    zone = _zone(rule.timezone)
    local_day = datetime.fromtimestamp(wall_seconds, UTC).astimezone(zone).date()
    anchor = _anchor(rule, local_day)
    start = _start_of(anchor, zone)
    following = _next_anchor(rule, anchor)
    end = _start_of(following, zone)
    while wall_seconds >= end:
        start, following = end, _next_anchor(rule, following)
        end = _start_of(following, zone)
    return start, end
