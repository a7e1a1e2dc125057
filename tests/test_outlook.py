"""What is to be expected at a period's end: exact where it can be, better than either half where it is a guess."""

from __future__ import annotations

import doctest
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core import outlook as room
from bwexporter.core.habits import Habits, Periods, earliest
from bwexporter.core.habits import habits as learn
from bwexporter.core.lanes import Lane, Traffic
from bwexporter.core.outlook import Course, course, outlook
from tests.habits import measured, measured_on_record

LANE = Lane("eth0", "ann", Traffic.NORMAL)


@dataclass(frozen=True)
class Seen:
    """What is expected of one lane."""

    expected_used_bytes: int
    seconds_to_threshold: float
    seconds_to_allowance: float


def seen(same_hours: Sequence[float | None] = (), **given_: float) -> Seen:
    """Look ahead from 400 of 1 000 bytes (threshold 800), with four hours to go and nothing sent of late."""
    usual = {"used": 400, "threshold": 800, "allowance": 1_000, "remaining": 4 * 3600.0, "recent": 0.0, **given_}
    hours = max(math.ceil(usual["remaining"] / 3600.0), len(same_hours), 1)
    rates = np.full((1, hours), np.nan)
    rates[0, : len(same_hours)] = [np.nan if one is None else one for one in same_hours]
    found = outlook(
        course(rates, np.arange(1, hours + 1) * 3600.0),
        used_bytes=np.array([int(usual["used"])]),
        threshold_bytes=np.array([int(usual["threshold"])]),
        allowance_bytes=np.array([int(usual["allowance"])]),
        remaining_seconds=np.array([usual["remaining"]]),
        recent_bytes_per_second=np.array([usual["recent"]]),
    )
    return Seen(
        int(found.expected_used_bytes[0]),
        round(float(found.seconds_to_threshold[0]), 3),
        round(float(found.seconds_to_allowance[0]), 3),
    )


def test_who_sends_nothing_and_never_did_uses_no_more() -> None:
    assert seen() == Seen(400, math.inf, math.inf)


def test_without_an_earlier_period_the_recent_rate_goes_on() -> None:
    assert seen(recent=0.05) == Seen(1_120, 8_000.0, 12_000.0)


def test_an_hour_in_which_it_always_sends_is_expected_to_be_one_again() -> None:
    """In the third hour from now there is traffic as a rule; an hour of which nothing is known is as of late."""
    found = seen([None, 0.0, 0.2, 0.0])

    assert found.expected_used_bytes == pytest.approx(400 + 0.2 * 3600, rel=0.15)
    assert 2 * 3600 < found.seconds_to_threshold < 3 * 3600


def test_what_is_near_is_as_near_as_the_recent_rate_says() -> None:
    """A habit of sending nothing does not make a limit far that is a minute away."""
    near = seen([0.0, 0.0, 0.0, 0.0], recent=400 / 60.0)

    assert near.seconds_to_threshold == pytest.approx(60.0, rel=0.02)


def test_what_is_reached_already_takes_no_time() -> None:
    assert seen(used=900).seconds_to_threshold == 0.0
    assert seen(used=1_900).seconds_to_allowance == 0.0


@given(
    st.integers(0, 10**9),
    st.floats(0.0, 1e6),
    st.floats(0.0, 3e6),
    st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), max_size=30),
)
def test_use_never_falls_and_limits_are_reached_in_their_order(
    used: int, recent: float, remaining: float, usual: list[float | None]
) -> None:
    found = seen(usual, used=used, recent=recent, remaining=remaining)

    assert found.expected_used_bytes >= used
    assert 0.0 <= found.seconds_to_threshold <= found.seconds_to_allowance
    if math.isfinite(found.seconds_to_allowance):
        assert found.seconds_to_allowance <= remaining + 1e-3
        assert found.expected_used_bytes >= 999 or used >= 1_000


DAY = 86_400.0
HOUR = 3600


def days(*sent: dict[int, int], until_hour: int, now_day: int = 100) -> list[tuple[int, np.ndarray]]:
    """Return what one lane sent in each hour (by hour of the day), day by day up to the hour of today that runs."""
    found = []
    for number, of_day in enumerate(sent):
        for hour in range(24 if number < len(sent) - 1 else until_hour):
            start = (now_day - len(sent) + 1 + number) * int(DAY) + hour * HOUR
            found.append((start, np.array([of_day.get(hour, 0)])))
    return found


def learnt(hours: list[tuple[int, np.ndarray]], now: float, length: float = DAY) -> Habits | None:
    """Learn from hours, at an instant of a period that ends with the day."""
    return learn((LANE,), Periods(np.array([length]), np.array([101 * DAY - now])), now, hours)


def from_now_on(habits: Habits, now: float) -> Course:
    """Return the course from an instant on."""
    ahead = habits.ahead(now)
    assert ahead is not None
    return ahead


def test_what_is_expected_at_an_hour_comes_nearer_as_time_passes() -> None:
    """It sends at ten as a rule: at half past eight that is an hour and a half away, at half past nine half an hour."""
    now = 100 * DAY + 8.5 * HOUR
    habits = learnt(days({0: 1, 10: 360_000}, {0: 1, 10: 360_000}, {}, until_hour=8), now)
    assert habits is not None

    found = []
    for passed in (0.0, 20.0, 3_600.0):
        ahead = from_now_on(habits, now + passed)
        found.append(float(ahead.seconds[np.argmax(ahead.habitual_bytes[:, 0] > 0) - 1]))

    assert found == [5_400.0, 5_400.0, 1_800.0]  # a course is kept for some minutes
    assert habits.ahead(now + 5 * DAY) is None
    assert habits.ahead(now - DAY) is None


def test_habits_are_the_median_of_the_same_hours_of_earlier_days() -> None:
    """At eight in the morning: at ten it sent 3600 and 10 800 bytes on two earlier days, at twelve on one of them."""
    now = 100 * DAY + 8 * HOUR
    habits = learnt(days({0: 1, 10: 3600}, {0: 1, 10: 10_800, 12: 7200}, {0: 5}, until_hour=8), now)

    assert habits is not None
    assert habits.periods.tolist() == [2]
    assert habits.usual[0, 2] * HOUR == 7200
    assert habits.usual[0, 4] * HOUR == 3600
    assert np.delete(habits.usual[0, :16], [2, 4]).tolist() == [0.0] * 14


def test_one_day_out_of_the_ordinary_spoils_no_habit() -> None:
    now = 100 * DAY + 8 * HOUR
    habits = learnt(days({0: 1, 10: 3600}, {10: 900_000}, {10: 3600}, {}, until_hour=8), now)

    assert habits is not None
    assert habits.usual[0, 2] * HOUR == 3600


def test_before_it_first_sent_a_lane_has_no_habit_of_sending_nothing() -> None:
    """It came yesterday at noon: of the morning nothing is known, of the afternoon that it was quiet."""
    now = 100 * DAY + 8 * HOUR
    habits = learnt(days({}, {}, {12: 3600}, {}, until_hour=8), now)

    assert habits is not None
    assert habits.periods.tolist() == [1]
    assert np.isnan(habits.usual[0, :4]).all()
    assert (habits.usual[0, 4] * HOUR, habits.usual[0, 5]) == (3600, 0.0)
    recent, at = np.diff(from_now_on(habits, now).recent_seconds[:, 0]), from_now_on(habits, now).seconds[1:]
    assert recent[at <= 4 * HOUR].sum() == pytest.approx(4 * HOUR)  # in full: the recent rate goes on


def test_habits_are_trusted_as_far_as_they_served() -> None:
    """One sends at ten every day, one now and then; of the third nobody knows yet."""
    chance, now = random.Random(3), 100 * DAY + 8 * HOUR
    regular = days(*[{0: 1, 10: 360_000, 11: 200_000}] * 6, until_hour=8)
    random_ = days(
        *[{hour: chance.randrange(10**6) for hour in chance.sample(range(24), 3)} for _ in range(6)], until_hour=8
    )
    new = days({}, {20: 1}, {}, until_hour=8)

    trusts = [learnt(one, now) for one in (regular, random_, new)]

    regular_trust, random_trust, new_trust = (float(one.trust[0]) for one in trusts if one is not None)
    assert regular_trust > 0.95
    assert random_trust < 0.75
    assert new_trust == 0.5


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 10**9)), min_size=1, max_size=120),
    st.floats(3_600.0, 40 * 86_400.0),
    st.floats(0.0, 3_599.0),
)
def test_whatever_the_past_was_habits_are_rates_or_nothing(sent: list[int | None], length: float, into: float) -> None:
    now = 100 * DAY + into
    first = 100 * int(DAY) - len(sent) * HOUR
    hours = [(first + at * HOUR, np.array([one])) for at, one in enumerate(sent) if one is not None]

    habits = learn((LANE,), Periods(np.array([length]), np.array([length / 2])), now, hours)

    if habits is not None:
        known = habits.usual[~np.isnan(habits.usual)]
        assert (known >= 0).all()
        assert (known <= 10**9 / HOUR * 1.01).all()
        assert 0.0 <= habits.trust[0] <= 1.0
        assert 0 <= habits.periods[0] <= 7
        assert habits.ends[-1] >= length


def test_short_periods_have_no_hours_to_compare_and_long_ones_have_few_columns() -> None:
    now = 100 * DAY + 8 * HOUR
    past = days({10: 3600}, {}, until_hour=8)

    month = Periods(np.array([30 * DAY]), np.array([29.5 * DAY]))
    of_month = learn((LANE,), month, now, [(int(now - 30 * DAY) + 40 * HOUR, np.array([3600]))])

    assert learnt(past, now, length=3600.0) is None
    assert earliest(np.array([3600.0]), now) == now
    assert of_month is not None
    assert of_month.usual.shape[1] < 100
    assert np.nansum(of_month.usual) * HOUR == 3600
    assert now - earliest(np.array([30 * DAY]), now) <= 60 * DAY


def test_on_traffic_with_habits_both_together_are_less_off_than_the_recent_rate() -> None:
    """The figures stand in docs/benchmarks.md; `make bench` prints them."""
    found = measured(slices=8, seed=3)
    ours, recent = found["both, as far as habits served (ours)"], found["recent rate alone"]

    assert ours[0] < recent[0] / 2
    assert ours[1] < recent[1]
    assert ours[0] < 0.1


def test_on_recorded_traffic_habits_that_do_not_serve_do_little_harm() -> None:
    """Machines with hardly any rhythm: what is far off is less far off than by either alone."""
    found = measured_on_record()
    ours = found["both, as far as habits served (ours)"]

    assert ours[1] < min(found["recent rate alone"][1], found["same hours alone"][1])
    assert ours[0] < found["both, whatever habits are worth"][0]
    assert ours[0] < 0.15


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(room).failed == 0
