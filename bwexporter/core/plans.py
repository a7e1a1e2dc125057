"""The words of policies: rungs of a ladder, windows of the day, a carry, a sliding window.

Turns nothing into anything: it names what people choose for a lane. Knows: fields and units. Does not know: what any of
it makes of a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """From this part of the allowance on, this ceiling."""

    part: float  # of the allowance
    rate_bytes_per_second: int


@dataclass(frozen=True, slots=True)
class Window:
    """A span of each day in which bytes count in part; it may reach over midnight."""

    from_minute: int  # of the local day
    to_minute: int
    counts: float  # 0 is not at all, 1 in full


@dataclass(frozen=True, slots=True)
class Windows:
    """The spans of the day, of which the first that holds speaks; outside of all of them bytes count in full."""

    spans: tuple[Window, ...]
    timezone: str = "UTC"


THE_PERIOD = 0.0
"""A sliding window that is as long as the lane's period, before anybody knows how long that is."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is chosen for a lane; what is left out is as the law says."""

    ladder: tuple[Rung, ...] = ()  # by rising part
    windows: Windows | None = None
    carry_part: float = 0.0  # of the allowance: how much unused volume is carried over at most
    sliding_seconds: float | None = None  # so long after it was sent a byte is free again; None: when the period ends


LAW = Policy()
