"""The sliding window for one lane, in plain numbers: the oracle of core/rings.py and core/sliding.py.

It keeps every count with the instant of its look and cuts no time into columns. The order of the arithmetic is that of
the columns, so that both agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bwexporter.core.lanes import Reason
from tests.oracle_policy import SOON, seven_bits

SLOTS = 48


@dataclass(frozen=True)
class OneWindow:
    """What the law of the window is asked about one lane; bytes, bytes per second, seconds."""

    window: float
    now: float
    counts: Sequence[tuple[float, int]]  # at which look, how many bytes
    allowance: int
    threshold: int
    full: int
    guarantee: int
    floor: int
    horizon: float

    @property
    def width(self) -> float:
        """Return how long a slot is."""
        return self.window / SLOTS

    def slot(self, at: float) -> int:
        """Return the number of the slot that runs."""
        return math.floor(at / self.width)

    def leaves(self, slot: int) -> float:
        """Return in how many seconds a slot leaves."""
        return (slot + 1) * self.width + self.window - self.now

    def held(self) -> list[tuple[int, int]]:
        """Return slots and bytes that still count."""
        oldest = self.slot(self.now) - SLOTS
        return [(self.slot(at), sent) for at, sent in self.counts if self.slot(at) >= oldest]


@dataclass(frozen=True)
class OneJudgement:
    """What the law of the window answers."""

    ceiling: int
    reason: Reason
    floor: int
    used: int


def judge_window(lane: OneWindow) -> OneJudgement:
    """Judge one lane."""
    used, span = sum(sent for _, sent in lane.held()), lane.window + lane.width
    floor = int(min(lane.full, max(lane.guarantee, min(lane.floor, (lane.allowance - lane.threshold) / span))))
    ahead, full, horizon = max(lane.threshold - used, 0), float(lane.full), max(lane.horizon, SOON)
    rate = full
    if ahead < horizon * full:
        until = ahead / full
        even = even_one(lane, max(used, lane.threshold), until)
        rate = full if even >= full else min(full, (ahead + even * (horizon - until)) / horizon)
    ceiling = lane.full if rate >= full else min(lane.full, max(floor, seven_bits(rate)))
    if used >= lane.threshold:
        reason = Reason.OVER_ALLOWANCE if used >= lane.allowance else Reason.OVER_THRESHOLD
    else:
        reason = Reason.PACED if ceiling < lane.full else Reason.WITHIN
    return OneJudgement(ceiling, reason, floor, used)


def even_one(lane: OneWindow, used: int, after: float) -> float:
    """Return the highest rate that, from some seconds on, needs no lowering: slot by slot, and then for good."""
    running, span = lane.slot(lane.now), lane.window + lane.width
    best: tuple[int, float] | None = None
    for slot in range(running - SLOTS, running + 1):
        seconds = lane.leaves(slot) - after
        left = lane.allowance - used + sum(sent for at, sent in lane.held() if at < slot)
        if seconds > 0 and (best is None or left / seconds < best[0] / best[1]):
            best = left, seconds
    if best is None or best[0] * span > lane.allowance * best[1]:
        return lane.allowance / span
    return best[0] / best[1]
