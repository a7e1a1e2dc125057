"""Rolling and calendar periods."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.periods import Calendar, Unit, calendar_bounds


def at(zone: str, text: str) -> float:
    """Return the Unix time of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("rule", "now", "start", "end"),
    [
        (Calendar(Unit.DAY), "2026-11-20T13:00", "2026-11-20", "2026-11-21"),
        (Calendar(Unit.DAY, timezone="Europe/Berlin"), "2026-11-20T00:00", "2026-11-20", "2026-11-21"),
        (Calendar(Unit.WEEK), "2026-11-20T13:00", "2026-11-16", "2026-11-23"),
        (Calendar(Unit.WEEK, starts_on=6), "2026-11-20T13:00", "2026-11-14", "2026-11-21"),
        (Calendar(Unit.MONTH), "2026-11-20T13:00", "2026-11-01", "2026-12-01"),
        (Calendar(Unit.MONTH, starts_on=15), "2026-01-02T00:00", "2025-12-15", "2026-01-15"),
        (Calendar(Unit.MONTH, starts_on=31), "2026-02-27T23:59", "2026-01-31", "2026-02-28"),
        (Calendar(Unit.MONTH, starts_on=31), "2026-02-28T00:00", "2026-02-28", "2026-03-31"),
        (Calendar(Unit.MONTH, starts_on=29), "2024-02-29T12:00", "2024-02-29", "2024-03-29"),
        # In Beirut and Santiago summer time begins at midnight: the day begins at 01:00.
        (Calendar(Unit.DAY, timezone="Asia/Beirut"), "2024-03-31T12:00", "2024-03-31T01:00", "2024-04-01"),
        (Calendar(Unit.DAY, timezone="America/Santiago"), "2024-09-08T12:00", "2024-09-08T01:00", "2024-09-09"),
        (Calendar(Unit.DAY, timezone="America/Santiago"), "2024-09-07T23:59", "2024-09-07", "2024-09-08T01:00"),
        # In Havana midnight comes twice as summer time ends: the first is meant.
        (Calendar(Unit.DAY, timezone="America/Havana"), "2024-11-03T12:00", "2024-11-03", "2024-11-04"),
    ],
)
def test_calendar_bounds(rule: Calendar, now: str, start: str, end: str) -> None:
    """A calendar period begins and ends at local midnights, or at the first instant after one that does not exist."""
    zone = rule.timezone

    assert (at(zone, start), at(zone, end)) == calendar_bounds(rule, at(zone, now))


ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Santiago",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kolkata",
]


@given(
    unit=st.sampled_from(Unit),
    starts_on=st.integers(1, 31),
    timezone=st.sampled_from(ZONES),
    now=st.floats(1e9, 3e9, allow_nan=False),
)
def test_calendar_periods_hold_their_instant_and_follow_without_gaps(
    unit: Unit,
    starts_on: int,
    timezone: str,
    now: float,
) -> None:
    """Every instant is in exactly one period, and the next one begins where it ends."""
    most = {Unit.DAY: 1, Unit.WEEK: 7, Unit.MONTH: 31}[unit]
    rule = Calendar(unit, min(starts_on, most), timezone)

    start, end = calendar_bounds(rule, now)

    assert start <= now < end
    assert calendar_bounds(rule, end)[0] == end
    assert calendar_bounds(rule, start - 1)[1] == start
    assert end - start <= timedelta(days=32).total_seconds()
