"""The ladder: which ceiling comes with which use.

Turns use and rungs into ceilings. Knows: that a rung must not be overshot while nobody looks. Does not know: periods,
what becomes of a lane that has no ladder.

Below its first rung a lane has its full rate; from the part of its allowance at which a rung begins it has the rung's
rate, whatever the time of the period. A ladder promises rates and not the volume: the last rung's rate for the rest of
the period is what may be sent beyond it. A rung's rate is never rounded.

Where the next rungs could be passed before the next look, the ceiling is the average of what the ladder gives on the
way there: as if each rung took effect at its very byte. A worked example: 1 000 bytes below a rung of 10 B/s, with
100 B/s and a look in 20 s, it is passed in 10 s and 100 more bytes may follow: (1 000 + 100) / 20 = 55 B/s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import F8, I8, UNLIMITED, Reason
from bwexporter.core.plans import Rung


def climbed(
    ladders: Sequence[tuple[Rung, ...]],
    rate_bytes_per_second: I8,
    reason: NDArray[np.int8],
    *,
    used_bytes: I8,
    allowance_bytes: I8,
    full_bytes_per_second: I8,
    counted_part: F8,
    horizon_seconds: F8,
) -> tuple[I8, NDArray[np.int8]]:
    """Return the law's rates and reasons, with the ladder's where a lane with an allowance has one."""
    rates, reasons = rate_bytes_per_second.copy(), reason.copy()
    for row, rungs in enumerate(ladders):
        if not rungs or allowance_bytes[row] >= UNLIMITED or counted_part[row] == 0:
            continue
        full, used, part = int(full_bytes_per_second[row]), int(used_bytes[row]), float(counted_part[row])
        steps = [(int(allowance_bytes[row] * rung.part), min(rung.rate_bytes_per_second, full)) for rung in rungs]
        rates[row] = carried_by(steps, used, full, float(horizon_seconds[row]), part)
        reasons[row] = _reason(steps, used, lowered=rates[row] < full)
    return rates, reasons


def carried_by(
    steps: Sequence[tuple[int, int]], used_bytes: int, full: int, horizon_seconds: float, counted_part: float = 1.0
) -> int:
    """Return the rate that carries a lane as far as its ladder does in that time.

    >>> carried_by([(8_000, 10)], 7_000, 100, 20.0)
    55
    >>> carried_by([(8_000, 10)], 8_000, 100, 20.0), carried_by([(8_000, 10)], 0, 100, 20.0)
    (10, 100)
    """
    rate, sent, left = full, 0.0, horizon_seconds
    for begins_at, next_rate in steps:
        ahead = (begins_at - used_bytes) / counted_part - sent
        if ahead > 0:
            seconds = min(left, ahead / rate)
            sent, left = sent + rate * seconds, left - seconds
            if left <= 0:
                break
        rate = next_rate
    if sent == 0:
        return rate
    return max(int((sent + rate * left) / horizon_seconds), 1)


def _reason(steps: Sequence[tuple[int, int]], used_bytes: int, *, lowered: bool) -> Reason:
    if used_bytes >= steps[0][0]:
        return Reason.ON_LADDER
    return Reason.PACED if lowered else Reason.WITHIN
