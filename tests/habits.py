"""Traffic with habits: what slices send in each hour of some weeks, and how far an outlook on it is off.

Turns a seed into hourly rates, and those into errors. Knows: daily rhythm, weekends, bursts, pauses. Does not know: the
program.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from bwexporter.core.outlook import course, outlook

DAY_HOURS = 24
DAYS = 21
LEARNT_DAYS = 7
Rates = list[float]


def rates(chance: random.Random) -> Rates:
    """Return the bytes per second of each hour of some weeks, of one slice with habits of its own."""
    base, peak, at = chance.uniform(5e3, 5e4), chance.uniform(1e4, 4e5), chance.uniform(0, DAY_HOURS)
    weekend, burstiness, mood = chance.uniform(0.3, 1.2), chance.uniform(0.1, 0.8), 1.0
    found = []
    for hour in range(DAYS * DAY_HOURS):
        mood = 1.0 + 0.8 * (mood - 1.0) + chance.gauss(0.0, burstiness / 4)
        rhythm = max(0.0, math.cos((hour - at) / DAY_HOURS * 2 * math.pi)) ** 2
        rate = (base + peak * rhythm) * max(mood, 0.0) * (weekend if hour // DAY_HOURS % 7 >= 5 else 1.0)
        found.append(0.0 if chance.random() < 0.02 else rate * (5.0 if chance.random() < 0.02 else 1.0))
    return found


def errors(
    sent: Rates, days: Sequence[int], *, persistence_seconds: float = 3600.0, habits: bool = True
) -> list[float]:
    """Return how far each outlook was off, as a part of the day's use; one an hour, with a week behind it."""
    found = []
    for day in days:
        total = sum(sent[day * DAY_HOURS : (day + 1) * DAY_HOURS]) * 3600.0
        for hour in range(1, DAY_HOURS):
            now, left = day * DAY_HOURS + hour, DAY_HOURS - hour
            past = range(max(0, now - LEARNT_DAYS * DAY_HOURS), now - DAY_HOURS + 1, DAY_HOURS)
            usual = np.mean([sent[begin : begin + left] for begin in past], axis=0) if habits else np.full(left, np.nan)
            seen = outlook(
                course(usual[np.newaxis, :], np.arange(1, left + 1) * 3600.0, persistence_seconds),
                used_bytes=np.array([int(sum(sent[day * DAY_HOURS : now]) * 3600.0)]),
                threshold_bytes=np.array([1 << 60]),
                allowance_bytes=np.array([1 << 61]),
                remaining_seconds=np.array([left * 3600.0]),
                recent_bytes_per_second=np.array([sent[now - 1]]),
            )
            found.append(abs(int(seen.expected_used_bytes[0]) - total) / max(total, 1.0))
    return found


WAYS: dict[str, Callable[[Rates, Sequence[int]], list[float]]] = {
    "recent rate alone": lambda sent, days: errors(sent, days, habits=False),
    "same hours alone": lambda sent, days: errors(sent, days, persistence_seconds=1.0),
    "both, 15 minutes": lambda sent, days: errors(sent, days, persistence_seconds=900.0),
    "both, 1 hour (ours)": errors,
    "both, 4 hours": lambda sent, days: errors(sent, days, persistence_seconds=14_400.0),
}


def measured(slices: int = 40, seed: int = 7) -> dict[str, tuple[float, float]]:
    """Return the median and the 90th percentile of the errors of each way, over two weeks of some slices."""
    chance = random.Random(seed)
    cast = [rates(chance) for _ in range(slices)]
    found = {}
    for name, way in WAYS.items():
        off = sorted(error for sent in cast for error in way(sent, range(LEARNT_DAYS, DAYS)))
        found[name] = off[len(off) // 2], off[len(off) * 9 // 10]
    return found
