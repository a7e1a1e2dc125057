"""A day in a second: the promise of the law, closed over the real turn, a fake machine and looks that come late."""

from __future__ import annotations

import pytest

from tests.simulation import Cheat, Days, Sender, Stop, late, simulate, straddling

MEGABYTE = 1_000_000
ALLOWANCES = (20 * MEGABYTE, 100 * MEGABYTE, 10_800 * MEGABYTE)
DAY = 86_400.0
NEVER_ABOVE = 1.001

Cast = dict[str, Sender]


def honest(period_seconds: float) -> Cast:
    """Return senders of all sorts with each allowance: the name says the sort, then the allowance in MB."""
    cast = {}
    for allowance in ALLOWANCES:
        sorts = {
            "greedy": Sender(allowance),
            "bursty": Sender(allowance, every=period_seconds / 30, on=5.0),
            "idle": Sender(allowance, since=float("inf")),
            "late by a minute": late(allowance, period_seconds, 60.0),
            "late by a second": late(allowance, period_seconds, 1.0),
            "late by a blink": late(allowance, period_seconds, 0.3),
            "straddling by 30 s": straddling(allowance, period_seconds, 30.0),
            "straddling by a blink": straddling(allowance, period_seconds, 0.3),
        }
        cast |= {f"{sort}, {allowance // MEGABYTE} MB": sender for sort, sender in sorts.items()}
    return cast


def cheating(cheat: Cheat) -> Cast:
    """Return greedy senders that cheat, one with each allowance."""
    return {f"{cheat.name}, {allowance // MEGABYTE} MB": Sender(allowance, cheat=cheat) for allowance in ALLOWANCES}


def nobody_gained(cast: Cast, days: Days) -> None:
    """Assert what is promised of every period: all of it to who asks for all of it, no more to anyone."""
    for at, name in enumerate(cast):
        used, sent = days.used_fraction[:, at], days.sent_fraction[:, at]
        assert max(used) <= NEVER_ABOVE, (name, used)
        if "greedy" in name or cast[name].cheat is not Cheat.NONE:
            assert max(sent) <= NEVER_ABOVE, (name, sent)
        if "greedy" in name:
            assert min(used) >= 0.997, (name, used)
        if "late" in name:
            assert min(used[1:]) >= 0.997, (name, used)
        if cast[name].cheat is not Cheat.RECREATED_UNHEARD:
            assert days.uncounted_bytes[at] == 0, name


@pytest.mark.parametrize(
    ("interval", "period"),
    [(1.0, DAY / 96), (10.0, DAY / 8), (60.0, DAY / 2), (600.0, DAY)],
    ids=["1 s, a quarter of an hour", "10 s, three hours", "60 s, half a day", "600 s, a day"],
)
def test_greedy_senders_get_all_of_their_allowance_and_nobody_gets_more(interval: float, period: float) -> None:
    """Late starters get all of the period that follows; classes made anew and other ids gain nothing."""
    cast = honest(period) | cheating(Cheat.RECREATED) | cheating(Cheat.MOVES)

    days = simulate(tuple(cast.values()), interval_seconds=interval, period_seconds=period)

    nobody_gained(cast, days)


@pytest.mark.parametrize("interval", [10.0, 600.0])
def test_nobody_gains_while_the_program_is_stopped_with_hold(interval: float) -> None:
    """It is down for a part of both periods, and one class is made anew all the time, which nobody ever hears."""
    period = 400 * interval if interval < 60 else DAY
    cast = honest(period) | cheating(Cheat.MOVES)
    cast["unheard"] = Sender(ALLOWANCES[0], cheat=Cheat.RECREATED_UNHEARD)
    stops = (Stop(0.35 * period, 0.05 * period), Stop(1.5 * period, 0.1 * period))

    days = simulate(tuple(cast.values()), interval_seconds=interval, period_seconds=period, stops=stops)

    nobody_gained(cast, days)


def test_who_is_over_the_threshold_gains_nothing_when_the_program_is_killed() -> None:
    """The ceiling that the last turn left carries to the period's end."""
    cast = {f"greedy, {allowance // MEGABYTE} MB": Sender(allowance) for allowance in ALLOWANCES}
    stops = (Stop(0.4 * DAY, 0.3 * DAY, killed=True), Stop(1.4 * DAY, 0.3 * DAY, killed=True))

    days = simulate(tuple(cast.values()), interval_seconds=60.0, period_seconds=DAY, stops=stops)

    nobody_gained(cast, days)


@pytest.mark.parametrize("seed", range(6))
def test_no_last_moment_is_the_right_one_to_cheat(seed: int) -> None:
    """In short periods the last look falls anywhere before the end, and the look at the end comes 0 to 0.4 s late."""
    period = 20.0
    cast = {
        f"{allowance}, {moment}, {sort.__name__}": sort(allowance, period, moment)
        for allowance in ALLOWANCES
        for moment in (5.0, 0.5, 0.1, 0.02)
        for sort in (late, straddling)
    }

    days = simulate(tuple(cast.values()), interval_seconds=1.0, period_seconds=period, periods=3, seed=seed)

    assert days.used_fraction.max() <= NEVER_ABOVE


def test_an_idle_capped_day_asks_the_kernel_for_few_changes() -> None:
    """Its ceiling rises all day, in some 4 300 looks of a short day; with seven bits it changes in few of them."""
    spent_at_once = Sender(5_400 * MEGABYTE, until=40.0)

    days = simulate([spent_at_once], interval_seconds=10.0, period_seconds=DAY / 2, periods=1)

    assert days.looks > 4_000
    assert 50 < days.ceiling_changes[0] < 300
