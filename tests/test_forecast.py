from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import forecast
from bwexporter.core.lanes import UNLIMITED


def seconds_to(limit: int, used: int, rate: float, remaining: float) -> float:
    """Forecast one lane."""
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        row = forecast.seconds_to(np.array([limit]), np.array([used]), np.array([rate]), np.array([remaining]))
    return float(row[0])


@pytest.mark.parametrize(
    ("expected", "limit", "used", "rate", "remaining"),
    [
        pytest.param(30.0, 1_000, 400, 20.0, 3_600.0, id="600 bytes at 20 B/s"),
        pytest.param(0.0, 1_000, 1_000, 0.0, 3_600.0, id="reached"),
        pytest.param(0.0, 1_000, 5_000, 20.0, 0.0, id="passed"),
        pytest.param(math.inf, 1_000, 400, 0.0, 3_600.0, id="idle"),
        pytest.param(math.inf, 1_000, 400, 20.0, 29.0, id="the period ends first"),
        pytest.param(30.0, 1_000, 400, 20.0, 30.0, id="just in time"),
        pytest.param(math.inf, UNLIMITED, 0, 1e300, 1e9, id="unlimited is never reached"),
        pytest.param(math.inf, UNLIMITED - 1, 0, 5e-324, 1e6, id="the slowest rate there is"),
        pytest.param(math.inf, 1_000, 400, 0.0, math.inf, id="idle for ever"),
        pytest.param(0.0, 0, 0, 0.0, 10.0, id="no allowance at all"),
    ],
)
def test_seconds_to(expected: float, limit: int, used: int, rate: float, remaining: float) -> None:
    """What is left over the recent rate, unless the period ends first or nothing moves."""
    assert expected == seconds_to(limit, used, rate, remaining)


@settings(deadline=None)
@given(st.integers(0, UNLIMITED), st.integers(0, UNLIMITED), st.floats(0, 5e10), st.floats(0, 3e7))
def test_a_forecast_is_zero_within_the_period_or_infinite(limit: int, used: int, rate: float, remaining: float) -> None:
    """There is no forecast beyond the period, and no arithmetic that overflows."""
    seconds = seconds_to(limit, used, rate, remaining)

    assert seconds == math.inf or 0 <= seconds <= remaining * (1 + 1e-9)


def test_the_worked_example_in_the_room_s_text_holds() -> None:
    """The formula's example is run as a doctest."""
    assert 0 == doctest.testmod(forecast).failed
