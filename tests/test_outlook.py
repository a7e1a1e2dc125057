"""What is to be expected at a period's end: exact where it can be, better than either half where it is a guess."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core import outlook as room
from bwexporter.core.outlook import Outlook, outlook
from tests.habits import measured


def seen(**given_: object) -> Outlook:
    """Look ahead from 400 of 1 000 bytes (threshold 800), with four hours to go and nothing sent of late."""
    usual = {
        "used_bytes": 400,
        "threshold_bytes": 800,
        "allowance_bytes": 1_000,
        "remaining_seconds": 4 * 3600.0,
        "recent_bytes_per_second": 0.0,
        "same_hours": [],
    }
    return outlook(**{**usual, **given_})  # type: ignore[arg-type]


def test_who_sends_nothing_and_never_did_uses_no_more() -> None:
    assert seen() == Outlook(400, math.inf, math.inf, 0)


def test_without_an_earlier_period_the_recent_rate_goes_on() -> None:
    assert seen(recent_bytes_per_second=0.05) == Outlook(1_120, 8_000.0, 12_000.0, 0)


def test_an_hour_in_which_it_always_sends_is_expected_to_be_one_again() -> None:
    """In the third hour from now both earlier periods saw traffic; an hour that nobody watched says nothing."""
    found = seen(same_hours=[[0.0, 0.0, 0.3, 0.0], [None, 0.0, 0.1, 0.0]])

    assert found.expected_used_bytes == pytest.approx(400 + 0.2 * 3600, rel=0.15)
    assert 2 * 3600 < found.seconds_to_threshold < 3 * 3600
    assert found.periods == 2


def test_what_is_reached_already_takes_no_time() -> None:
    assert seen(used_bytes=900).seconds_to_threshold == 0.0
    assert seen(used_bytes=1_900).seconds_to_allowance == 0.0


@given(
    st.integers(0, 10**9),
    st.floats(0.0, 1e6),
    st.floats(0.0, 3e6),
    st.lists(st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), max_size=30), max_size=4),
)
def test_use_never_falls_and_limits_are_reached_in_their_order(
    used: int, recent: float, remaining: float, past: list[list[float | None]]
) -> None:
    found = seen(used_bytes=used, recent_bytes_per_second=recent, remaining_seconds=remaining, same_hours=past)

    assert found.expected_used_bytes >= used
    assert 0.0 <= found.seconds_to_threshold <= found.seconds_to_allowance
    if math.isfinite(found.seconds_to_allowance):
        assert found.seconds_to_allowance <= remaining + 1e-6
        assert found.expected_used_bytes >= 999 or used >= 1_000


def test_on_traffic_with_habits_both_together_are_less_off_than_either() -> None:
    """The figures stand in docs/benchmarks.md; `make bench` prints them."""
    found = measured(slices=12, seed=3)
    ours = found["both, 1 hour (ours)"]

    assert ours[0] <= found["same hours alone"][0] < found["recent rate alone"][0] / 2
    assert ours[1] < found["same hours alone"][1]
    assert ours[0] < 0.1


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(room).failed == 0
