"""What a lane will have used when its period ends, and when it reaches its limits on the way.

Turns the recent rate and the same hours of earlier periods into an outlook. Knows: for how long the recent rate says
more than habit does. Does not know: where use over time is kept, what the law makes of it: an outlook is of what the
lane would like to send.

What a lane sends now goes on for a while and then gives way to what it usually does at that hour: of the recent rate a
part exp(-t / 1 h) is left after the time t, and the rest is the mean of the same hour in earlier periods. One hour is
what served best for simulated traffic with a daily rhythm, bursts and pauses (docs/benchmarks.md). Without an earlier
period the recent rate goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HOUR_SECONDS = 3600.0
PERSISTENCE_SECONDS = 3600.0
_SOON_SECONDS = 1e-3  # time is divided by


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected; seconds are infinite for what is not reached in this period."""

    expected_used_bytes: int
    seconds_to_threshold: float
    seconds_to_allowance: float
    periods: int  # earlier ones that it was found from


def outlook(
    *,
    used_bytes: int,
    threshold_bytes: int,
    allowance_bytes: int,
    remaining_seconds: float,
    recent_bytes_per_second: float,
    same_hours: Sequence[Sequence[float | None]],
    persistence_seconds: float = PERSISTENCE_SECONDS,
) -> Outlook:
    """Look ahead. `same_hours` has a row for each earlier period: bytes per second in each hour from now on.

    An hour of which nothing is known is None.

    >>> outlook(used_bytes=100, threshold_bytes=1_000, allowance_bytes=2_000, remaining_seconds=7_200.0,
    ...         recent_bytes_per_second=0.5, same_hours=[])
    Outlook(expected_used_bytes=3700, seconds_to_threshold=1800.0, seconds_to_allowance=3800.0, periods=0)
    """
    used, passed = float(used_bytes), 0.0
    reached = {threshold_bytes: 0.0 if used >= threshold_bytes else math.inf}
    reached[allowance_bytes] = 0.0 if used >= allowance_bytes else math.inf
    for seconds, rate in _ahead(remaining_seconds, recent_bytes_per_second, same_hours, persistence_seconds):
        for limit, at in reached.items():
            if math.isinf(at) and rate > 0 and used + rate * seconds >= limit:
                reached[limit] = passed + (limit - used) / rate
        used, passed = used + rate * seconds, passed + seconds
    return Outlook(int(used), reached[threshold_bytes], reached[allowance_bytes], len(same_hours))


def _ahead(
    remaining_seconds: float, recent: float, same_hours: Sequence[Sequence[float | None]], persistence: float
) -> Iterator[tuple[float, float]]:
    """Yield the length of each hour that is left, and the rate that is expected in it."""
    for hour in range(math.ceil(max(remaining_seconds, 0.0) / HOUR_SECONDS)):
        since = hour * HOUR_SECONDS
        seconds = min(HOUR_SECONDS, remaining_seconds - since)
        if seconds < _SOON_SECONDS:
            return
        known = [one for row in same_hours if hour < len(row) and (one := row[hour]) is not None]
        usual = sum(known) / len(known) if known else recent
        left = persistence / seconds * (math.exp(-since / persistence) - math.exp(-(since + seconds) / persistence))
        yield seconds, recent * left + usual * (1.0 - left)
