"""The law of spec 3 for one lane, in plain numbers: the oracle of core/accounting.py and core/lives.py.

It knows one class of one lane, whose ends are told by notifications or seen in a counter that fell. What an inner class
or a deleted tree tells of several lanes stands in test_lives.py and test_escape.py. Periods are walked through one by
one; the order of the arithmetic in a split is that of the columns, so that both agree to the last byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

TOLERANCE_SECONDS = 0.5

Bounds = Callable[[float], tuple[float, float]]
"""A calendar: the period that holds an instant of wall time."""


@dataclass(frozen=True)
class Clocks:
    """One reading."""

    wall: float
    boot: float
    boot_id: str


@dataclass(frozen=True)
class Reading:
    """What a look finds of one class: bytes and packets of every life that was told to have ended, then of this one."""

    ended: tuple[tuple[int, int], ...]
    now: tuple[int, int]


@dataclass(frozen=True)
class Account:
    """One lane's account; `length` is that of a rolling period, None where `calendar` says."""

    clocks: Clocks
    ledger: float
    offset: float
    start: float
    end: float
    length: float | None
    calendar: Bounds | None = None
    used: int = 0
    sent: int = 0
    packets: int = 0
    last: tuple[int, int] = (0, 0)
    alive: bool = False
    parts: tuple[int, ...] = field(default=())  # of the last look: one for each period that it touched


def open_account(clocks: Clocks, length: float | None, calendar: Bounds | None) -> Account:
    """Begin to count now."""
    start, end = (clocks.wall, clocks.wall + length) if length is not None else _required(calendar)(clocks.wall)
    return Account(clocks, clocks.wall, 0.0, start, end, length, calendar)


def count(account: Account, reading: Reading, clocks: Clocks) -> Account:
    """Count one look."""
    same_boot = account.clocks.boot_id == clocks.boot_id
    moved = clocks.boot - account.clocks.boot if same_boot else clocks.wall - account.clocks.wall
    elapsed = max(0.0, moved)
    gained, packets = _gains(account, reading, same_boot=same_boot)
    rolled = _rolled(account, gained, account.ledger + elapsed)
    stepped = clocks.wall - (rolled.ledger + rolled.offset)
    if abs(stepped) > TOLERANCE_SECONDS:
        rolled = replace(rolled, offset=rolled.offset + stepped)
        if rolled.calendar is not None:
            start, end = rolled.calendar(clocks.wall)
            rolled = replace(rolled, start=start - rolled.offset, end=end - rolled.offset)
    return replace(
        rolled,
        clocks=clocks,
        sent=account.sent + gained,
        packets=account.packets + packets,
        last=reading.now,
        alive=True,
    )


def _gains(account: Account, reading: Reading, *, same_boot: bool) -> tuple[int, int]:
    base = account.last if account.alive and same_boot else (0, 0)
    gained = packets = 0
    for counted, counted_packets in (*reading.ended, reading.now):
        if counted < base[0] or counted_packets < base[1]:
            base = (0, 0)
        gained += counted - base[0]
        packets += counted_packets - base[1]
        base = (0, 0)
    return gained, packets


def _rolled(account: Account, gained: int, now: float) -> Account:
    """Walk through the periods that ended; each gets the bytes of its share of the time."""
    if account.end > now:
        return replace(account, ledger=now, used=account.used + gained, parts=(gained,))
    span = max(now - account.ledger, 1e-9)
    start, end = account.start, account.end
    until, parts = 0, list[int]()
    while end <= now:
        part = min(math.floor(gained * min(max((end - account.ledger) / span, 0.0), 1.0)), gained)
        parts.append(part - until)
        start, until = end, part
        end = _next_end(account, start)
    parts.append(gained - until)
    return replace(account, ledger=now, start=start, end=end, used=gained - until, parts=tuple(parts))


def _next_end(account: Account, start: float) -> float:
    if account.length is not None:
        return start + account.length
    return _required(account.calendar)(start + account.offset + 1.0)[1] - account.offset


def _required(calendar: Bounds | None) -> Bounds:
    assert calendar is not None
    return calendar


def utc_day(wall: float) -> tuple[float, float]:
    """Return the UTC day that holds an instant."""
    start = wall // 86_400 * 86_400
    return start, start + 86_400


def utc_week(wall: float) -> tuple[float, float]:
    """Return the week from Monday, UTC; 1970 began on a Thursday."""
    start = (wall + 3 * 86_400) // 604_800 * 604_800 - 3 * 86_400
    return start, start + 604_800


def utc_month(wall: float) -> tuple[float, float]:
    """Return the month, UTC."""
    first = datetime.fromtimestamp(wall, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return first.timestamp(), following.timestamp()
