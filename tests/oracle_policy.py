"""The law of spec 4 for one lane, in plain numbers: the oracle of core/policy.py, rule by rule as it is written.

The order of the arithmetic is that of the columns, so that both agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from bwexporter.core.lanes import UNLIMITED, Reason

SOON = 0.001


@dataclass(frozen=True)
class OneLane:
    """What the law is asked about one lane; bytes, bytes per second, seconds."""

    used: int
    allowance: int
    threshold: int
    full: int
    guarantee: int
    floor: int
    remaining: float
    period: float
    horizon: float
    top_up: int = 0
    hand_cap: int = UNLIMITED
    released: bool = False
    off: bool = False
    shadow: bool = False
    held: int = 0


@dataclass(frozen=True)
class OneVerdict:
    """What the law answers."""

    ceiling: int
    asked: int
    reason: Reason
    floor: int
    allowance: int
    threshold: int
    capped: bool


def judge_one(lane: OneLane, *, frozen: bool = False, enforcing: bool = True) -> OneVerdict:
    """Judge one lane; `guarantee` is the admitted one."""
    allowance, threshold = topped_up_one(lane)
    remaining = max(lane.remaining, SOON)
    span = max(lane.period, remaining)
    slack = float(UNLIMITED if allowance >= UNLIMITED else allowance - threshold)
    tail = _tail(slack, lane.full, span)
    floor = int(min(float(lane.full), max(lane.guarantee, min(lane.floor, spread_one(slack, span, tail)))))

    ceiling, reason = _law(lane, allowance, threshold, remaining, span, floor)
    if lane.hand_cap < ceiling:
        ceiling, reason = max(lane.hand_cap, 1), Reason.CAPPED_BY_HAND if max(lane.hand_cap, 1) < ceiling else reason
    held = lane.held or lane.full
    if frozen:
        ceiling, reason = held, Reason.FROZEN
    elif lane.off:
        ceiling, reason = lane.full, Reason.OFF
    elif lane.released:
        ceiling, reason = lane.full, Reason.RELEASED
    return OneVerdict(
        ceiling=ceiling,
        asked=held if lane.shadow or not enforcing else ceiling,
        reason=reason,
        floor=floor,
        allowance=allowance,
        threshold=threshold,
        capped=reason in {Reason.OVER_THRESHOLD, Reason.OVER_ALLOWANCE} and ceiling < lane.full,
    )


def topped_up_one(lane: OneLane) -> tuple[int, int]:
    """Return allowance and threshold with the top-up."""
    allowance = min(lane.allowance + lane.top_up, UNLIMITED)
    if allowance >= UNLIMITED:
        return UNLIMITED, UNLIMITED
    threshold = min(lane.threshold, lane.allowance)
    if lane.top_up > 0:
        threshold = int(float(threshold) * (float(allowance) / float(max(lane.allowance, 1))))
    return allowance, min(threshold, allowance)


def spread_one(left: float, remaining: float, tail: tuple[float, float]) -> float:
    """Rule 4 with the tail of rule 1."""
    tail_seconds, tail_rate = tail
    plain = left / remaining
    if remaining <= tail_seconds:
        return max(plain, tail_rate)
    if plain >= tail_rate:
        return plain
    # The very boundary is rounding's: there the plain rate and the reserved one are equal.
    return min(plain, max(left - tail_rate * tail_seconds, 0.0) / max(remaining - tail_seconds, SOON))


def pace_one(
    lane: OneLane, used: int, allowance: int, threshold: int, remaining: float, span: float, h: float
) -> float:
    """Rules 2, 3 and 4."""
    full = float(lane.full)
    slack = float(allowance) - float(threshold) if allowance < UNLIMITED else float(UNLIMITED)
    tail = _tail(slack, lane.full, span)
    horizon = max(min(h, remaining), SOON)
    if used >= threshold:
        return min(full, spread_one(min(slack, float(allowance) - float(used)), remaining, tail))
    ahead = float(threshold) - float(used)
    to_threshold = ahead / full
    if to_threshold >= horizon:
        return full
    spread = spread_one(slack, max(remaining - to_threshold, SOON), tail)
    return full if spread >= full else min(full, (ahead + spread * (horizon - to_threshold)) / horizon)


def seven_bits(rate: float) -> int:
    """Rule 6."""
    whole = int(max(rate, 0.0))
    shift = max(whole.bit_length() - 7, 0)
    return whole >> shift << shift


def _tail(slack: float, full: int, span: float) -> tuple[float, float]:
    tail_seconds = min(75.0, span)
    return tail_seconds, min(8000.0, float(full), slack / (2 * tail_seconds))


def _law(
    lane: OneLane, allowance: int, threshold: int, remaining: float, span: float, floor: int
) -> tuple[int, Reason]:
    if allowance >= UNLIMITED:
        return lane.full, Reason.WITHIN
    rate = pace_one(lane, lane.used, allowance, threshold, remaining, span, lane.horizon)
    if lane.horizon > remaining:
        next_threshold = min(lane.threshold, lane.allowance)
        rest = lane.horizon - remaining
        rate = min(rate, pace_one(lane, 0, lane.allowance, next_threshold, span, span, rest))
    ceiling = lane.full if rate >= float(lane.full) else min(lane.full, max(floor, seven_bits(rate)))
    if lane.used >= threshold:
        return ceiling, Reason.OVER_ALLOWANCE if lane.used >= allowance else Reason.OVER_THRESHOLD
    return ceiling, Reason.PACED if ceiling < lane.full else Reason.WITHIN
