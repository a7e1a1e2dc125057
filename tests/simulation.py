"""A closed loop over the policy alone: a perfect shaper, senders that are on or off, looks that come late.

Turns senders into what each had used at the end of each of its periods. Knows neither counters nor kernel: bytes are
ceiling x time, and what straddles a period's end is split in proportion to time, as accounts do it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from bwexporter.core import policy
from bwexporter.core.lanes import F8, I8, Ledger, Tariffs
from tests.builders import GIGABIT, NOON, make_accounts, make_ledger, make_tariffs

LOOK_MARGIN_SECONDS = 2.0


@dataclass(frozen=True)
class Sender:
    """A slice that sends all it may, at 1 Gbit/s, during its spans (seconds since the start of the first period)."""

    allowance_bytes: int
    spans: tuple[tuple[float, float], ...]

    def active_seconds(self, start: float, end: float) -> float:
        """Return for how long it wants to send between two instants."""
        return sum(max(0.0, min(end, until) - max(start, since)) for since, until in self.spans)


def greedy(allowance_bytes: int) -> Sender:
    """Send always."""
    return Sender(allowance_bytes, ((0.0, np.inf),))


def late(allowance_bytes: int, period_seconds: float, early_by_seconds: float) -> Sender:
    """Wake up shortly before the first period ends, and never stop again."""
    return Sender(allowance_bytes, ((period_seconds - early_by_seconds, np.inf),))


def straddling(allowance_bytes: int, period_seconds: float, seconds: float) -> Sender:
    """Send only for some seconds before and after each period's end."""
    ends = [period_seconds * number for number in range(1, 5)]
    return Sender(allowance_bytes, tuple((end - seconds, end + seconds) for end in ends))


@dataclass(frozen=True)
class Days:
    """What came of it: `used_fraction` of the allowance, one row a period and one column a sender."""

    used_fraction: F8
    looks: int
    ceiling_changes: int


def simulate(
    senders: list[Sender],
    *,
    interval_seconds: float,
    period_seconds: float,
    periods: int = 2,
    latest_seconds: float = 0.4,
    seed: int = 1,
) -> Days:
    """Run the senders for some periods; looks are up to `latest_seconds` late."""
    chance = random.Random(seed)
    tariffs = _tariffs(senders)
    ledger = make_ledger(make_accounts(len(senders), period_start_at=NOON, period_end_at=NOON + period_seconds))
    ceiling, looks, changes, ended = np.zeros(len(senders), np.int64), 0, 0, list[F8]()
    while len(ended) < periods:
        before, (ceiling, wait) = ceiling, _look(tariffs, ledger, interval_seconds, period_seconds)
        looks, changes = looks + 1, changes + int(np.count_nonzero(ceiling != before))
        elapsed = wait + chance.uniform(0, latest_seconds)
        start = ledger.ledger_seconds - NOON
        active = np.array([sender.active_seconds(start, start + elapsed) for sender in senders])
        ledger, at_end = _moved_on(ledger, (ceiling * active).astype(np.int64), elapsed, period_seconds)
        if at_end is not None:
            ended.append(at_end / tariffs.allowance_bytes)
    return Days(np.array(ended), looks, changes)


def _tariffs(senders: list[Sender]) -> Tariffs:
    """Return the tariffs of the specification's figures: 1 Gbit/s, a floor of 64 kbit/s, a guarantee of 1 B/s."""
    allowance = np.array([sender.allowance_bytes for sender in senders])
    return make_tariffs(
        len(senders),
        allowance_bytes=allowance,
        threshold_bytes=allowance * 4 // 5,
        guarantee_bytes_per_second=1,
    )


def _moved_on(ledger: Ledger, sent: I8, elapsed: float, period_seconds: float) -> tuple[Ledger, I8 | None]:
    """Return the ledger at the next look and, where a period ended before it, what had been used at its end."""
    accounts, now = ledger.accounts, ledger.ledger_seconds + elapsed
    end = float(accounts.period_end_at[0])
    if now < end:
        accounts = replace(accounts, used_bytes=accounts.used_bytes + sent, recent_bytes=sent)
        return replace(ledger, accounts=accounts, ledger_seconds=now), None
    in_time = (sent * ((end - ledger.ledger_seconds) / elapsed)).astype(np.int64)
    fresh = replace(
        accounts,
        used_bytes=sent - in_time,
        recent_bytes=sent,
        period_start_at=accounts.period_end_at,
        period_end_at=accounts.period_end_at + period_seconds,
    )
    return replace(ledger, accounts=fresh, ledger_seconds=now), accounts.used_bytes + in_time


def _look(tariffs: Tariffs, ledger: Ledger, interval_seconds: float, period_seconds: float) -> tuple[I8, float]:
    """Return the ceilings from this look on, and the seconds to the next planned one."""
    wait = policy.next_look_seconds(
        ledger,
        tariffs,
        interval_seconds=interval_seconds,
        shortest_interval_seconds=min(1.0, interval_seconds),
        look_margin_seconds=LOOK_MARGIN_SECONDS,
    )
    verdicts = policy.judge(
        ledger,
        tariffs,
        period_seconds=np.full(len(tariffs), period_seconds),
        held_ceiling_bytes_per_second=tariffs.full_bytes_per_second,
        cap_bytes_per_second=GIGABIT,
        line_rate_bytes_per_second=GIGABIT,
        next_look_seconds=wait,
        look_margin_seconds=LOOK_MARGIN_SECONDS,
        frozen=False,
    )
    return verdicts.ceiling_bytes_per_second, wait
