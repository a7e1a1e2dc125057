"""Windows: hours of the day in which bytes count in part, or not at all.

Turns local times into the part that counts at an instant or over a span. Knows: time zones, midnight. Does not know:
bytes of whom, what a look is.

A span between two looks that reaches over an edge counts in proportion to time; looks are due at edges, so that it is
the program that was down, and not the schedule, where that matters. Of a local time that comes twice the first is
meant, one that does not exist is the instant at which it would have been.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from bwexporter.core.lanes import F8
from bwexporter.core.plans import Policy, Window, Windows

_DAY_MINUTES = 1440
_MOST_EDGES = 10_000  # of a span: some years of a program that was down


def part_at(windows: Windows | None, wall_seconds: float) -> float:
    """Return the part that counts at an instant.

    >>> nights = Windows((Window(22 * 60, 6 * 60, 0.25),), "Europe/Berlin")
    >>> part_at(nights, 1_700_000_000.0), part_at(nights, 1_700_040_000.0)  # 23:13 and 10:20 there
    (0.25, 1.0)
    """
    if windows is None:
        return 1.0
    local = datetime.fromtimestamp(wall_seconds, UTC).astimezone(_zone(windows.timezone))
    minute = local.hour * 60 + local.minute
    return next((span.counts for span in windows.spans if _holds(span, minute)), 1.0)


def parts_now(policies: Sequence[Policy], wall_seconds: float) -> F8:
    """Return the part that counts now, for each policy."""
    parts = {windows: part_at(windows, wall_seconds) for windows in {one.windows for one in policies}}
    return np.array([parts[one.windows] for one in policies])


def mean_part(windows: Windows | None, since_wall_seconds: float, until_wall_seconds: float) -> float:
    """Return the part that counts over a span, in proportion to time."""
    if windows is None or until_wall_seconds <= since_wall_seconds:
        return part_at(windows, until_wall_seconds)
    at, counted = since_wall_seconds, 0.0
    for _ in range(_MOST_EDGES):
        edge = min(next_edge(windows, at), until_wall_seconds)
        counted += part_at(windows, at) * (edge - at)
        at = edge
        if at >= until_wall_seconds:
            break
    return (counted + part_at(windows, at) * (until_wall_seconds - at)) / (until_wall_seconds - since_wall_seconds)


def next_edge(windows: Windows | None, wall_seconds: float) -> float:
    """Return the next instant at which a window opens or closes, infinity without windows."""
    if windows is None:
        return float("inf")
    today = datetime.fromtimestamp(wall_seconds, UTC).astimezone(_zone(windows.timezone)).date()
    return next(edge for edge in _edges_from(windows, today) if edge > wall_seconds)


@lru_cache(maxsize=256)
def _edges_from(windows: Windows, first_day: date) -> tuple[float, ...]:
    """Return the edges of three days, in order; there is one after every instant of the first."""
    zone = _zone(windows.timezone)
    minutes = {minute % _DAY_MINUTES for span in windows.spans for minute in (span.from_minute, span.to_minute)}
    return tuple(
        sorted(
            datetime.combine(first_day + timedelta(days=days), time(minute // 60, minute % 60), zone).timestamp()
            for days in range(3)
            for minute in minutes
        ),
    )


def _holds(span: Window, minute: int) -> bool:
    if span.from_minute < span.to_minute:
        return span.from_minute <= minute < span.to_minute
    return minute >= span.from_minute or minute < span.to_minute


@lru_cache(maxsize=64)
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)
