"""A day in a second: the policy's promise, closed over a perfect shaper and looks that come late."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulation import Days, Sender, greedy, late, simulate, straddling

ALLOWANCES = (20_000_000, 100_000_000, 10_800_000_000)
DAY, HOUR = 86_400.0, 3_600.0
NEVER_ABOVE = 1.001


def both_days(senders: list[Sender], interval_seconds: float, period_seconds: float) -> Days:
    """Run two periods; an interval of a second has an hour for its day, as it has as many looks as it needs."""
    return simulate(senders, interval_seconds=interval_seconds, period_seconds=period_seconds)


@pytest.mark.parametrize(("interval", "period"), [(1.0, HOUR), (10.0, DAY), (60.0, DAY), (600.0, DAY)])
def test_greedy_senders_get_all_of_their_allowance_and_nobody_gets_more(interval: float, period: float) -> None:
    """Late starters, too, get all of the day that follows, however shortly before it they begin."""
    greedies = [greedy(allowance) for allowance in ALLOWANCES]
    starters = [late(allowance, period, early) for allowance in ALLOWANCES for early in (600.0, 60.0, 1.0, 0.3)]
    straddlers = [straddling(allowance, period, seconds) for allowance in ALLOWANCES for seconds in (30.0, 1.0, 0.2)]

    days = both_days([*greedies, *starters, *straddlers], interval, period)

    assert np.max(days.used_fraction) <= NEVER_ABOVE
    assert np.min(days.used_fraction[:, : len(greedies)]) >= 0.997
    assert np.min(days.used_fraction[1, len(greedies) : len(greedies) + len(starters)]) >= 0.997


@pytest.mark.parametrize("seed", range(20))
def test_no_last_moment_is_the_right_one_to_cheat(seed: int) -> None:
    """In short periods the last look falls anywhere before the end, and the look at the end comes 0 to 0.4 s late."""
    period = 20.0
    senders = [
        cheat
        for allowance in ALLOWANCES
        for moment in (5.0, 0.5, 0.1, 0.02)
        for cheat in (late(allowance, period, moment), straddling(allowance, period, moment))
    ]

    days = simulate(senders, interval_seconds=1.0, period_seconds=period, periods=3, seed=seed)

    assert np.max(days.used_fraction) <= NEVER_ABOVE


def test_an_idle_capped_day_asks_the_kernel_for_few_changes() -> None:
    """Its ceiling rises all day, in some 8 600 looks; with seven bits it changes in few of them."""
    spent_at_once = Sender(10_800_000_000, ((0.0, 75.0),))

    days = simulate([spent_at_once], interval_seconds=10.0, period_seconds=DAY, periods=1)

    assert days.looks > 8_000
    assert days.ceiling_changes < 600
