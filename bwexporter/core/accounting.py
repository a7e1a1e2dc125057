"""Accounting: what was sent goes to accounts that nothing lets a slice escape.

Turns a ledger and a snapshot into the next ledger. Knows: how much time has passed, where a period ends, which bytes
belong to which period. Does not know: what a slice may send, what a handle means, the clock, the kernel.

Two rules for editors of this file. Everything that changes an account lives here. An account keeps the counter as last
seen, never a baseline: what is counted is the gain, so a counter that starts anew forgives nothing.

Ledger time moves by the boot clock within one boot, and by max(0, wall - wall) across a reboot. A wall clock that moved
by something else has been stepped: rolling periods do not notice, calendar accounts move to the period that the wall
clock now falls in, their use kept. Only elapsed time that passes a period's end rolls it, at that very end: the bytes
of the look that straddles it are split in proportion to time, in integers whose sum is the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bwexporter.core import enrolment, lives, periods, rings
from bwexporter.core.lanes import F8, I8, Accounts, Instant, Ledger, Snapshot
from bwexporter.core.places import Places

STEP_TOLERANCE_SECONDS = 0.5
RECENT_SECONDS = 60.0  # time constant of the smoothed rate


@dataclass(frozen=True, slots=True)
class Count:
    """The next ledger and what became known on the way; index arrays are rows of the next ledger's accounts."""

    ledger: Ledger
    restarted: I8  # whose counter began another life, or ended, since the last look
    rolled: I8  # whose period ended
    ended_used_bytes: I8  # for each rolled row: the use of the period that ended (the first, where several did)
    ended_periods: I8  # for each rolled row: how many periods ended
    stepped_seconds: float  # 0.0 where the wall clock was not stepped
    tree_ended: bool


class _Roll(NamedTuple):
    used: I8
    start: F8
    end: F8
    rows: I8
    ended_used: I8
    ended_periods: I8


def advance(
    ledger: Ledger,
    snapshot: Snapshot,
    now: Instant,
    *,
    period_rule: I8,
    rules: Sequence[periods.PeriodRule],
    places: Places | None = None,
    counted_part: F8 | None = None,
) -> Count:
    """Count a look: what every counter gained goes to its account, and periods that ended are rolled.

    `counted_part` is the part of what each enrolled row sent that counts as used, None where all of it does.
    `period_rule` is the index into `rules` of each enrolled row. `places` are those of the counters' classes in the
    snapshot, where they are known already. Pure: the given ledger stays as it is, so a turn that
    fails later counts the same bytes once more from the same start, never twice.
    """
    elapsed = elapsed_seconds(ledger.at, now)
    same_device = ledger.at.boot_id == now.boot_id and ledger.ifindex == snapshot.ifindex
    found = lives.gains(ledger, snapshot, same_device=same_device, places=places)
    gained = _by_account(ledger, found.gained)
    counted = gained[0]
    if counted_part is not None:
        counted = counted.copy()
        counted[: ledger.enrolled] = np.floor(counted[: ledger.enrolled] * counted_part)
    roll = _roll(ledger, counted, ledger.ledger_seconds + elapsed, period_rule=period_rule, rules=rules)
    stepped = now.wall_seconds - (ledger.ledger_seconds + elapsed + ledger.wall_offset_seconds)
    if abs(stepped) > STEP_TOLERANCE_SECONDS:
        offset = ledger.wall_offset_seconds + stepped
        roll = _moved_by_step(roll, now.wall_seconds, offset, period_rule=period_rule, rules=rules)
    else:
        stepped = 0.0
    advanced = replace(
        ledger,
        ifindex=snapshot.ifindex,
        at=now,
        ledger_seconds=ledger.ledger_seconds + elapsed,
        wall_offset_seconds=ledger.wall_offset_seconds + stepped,
        accounts=_credited(ledger.accounts, gained, roll, elapsed),
        counters=found.counters,
        parent_handle=found.parent_handle,
        parent_sent_bytes=found.parent_sent_bytes,
        tree_sent_bytes=found.tree_sent_bytes,
        direct_packets_seen=snapshot.direct_packets,
        direct_packets=ledger.direct_packets
        + _direct_gain(ledger, snapshot, same_life=same_device and not found.tree_ended),
        rings=rings.advanced(ledger.rings, counted, ledger.ledger_seconds + elapsed),
    )
    restarted = ledger.counters.account[found.restarted]
    restarted = np.unique(restarted) if len(restarted) else restarted
    ended_used, ended_periods = roll.ended_used, roll.ended_periods
    return _without_ended_departures(
        Count(advanced, restarted, roll.rows, ended_used, ended_periods, stepped, found.tree_ended),
    )


def elapsed_seconds(before: Instant, now: Instant) -> float:
    """Return the time between two readings: the boot clock's within one boot, else what the wall clock says, never < 0.

    >>> elapsed_seconds(Instant(1000.0, 50.0, "a"), Instant(4600.0, 60.0, "a"))  # the wall clock was stepped an hour
    10.0
    >>> elapsed_seconds(Instant(1000.0, 50.0, "a"), Instant(1090.0, 5.0, "b"))  # a reboot
    90.0
    """
    if before.boot_id == now.boot_id:
        return max(0.0, now.boot_seconds - before.boot_seconds)
    return max(0.0, now.wall_seconds - before.wall_seconds)


def implausible_rows(ledger: Ledger, count: Count, line_rate_bytes_per_second: int) -> I8:
    """Return rows of lanes that would have sent faster than the line, generously reckoned: such a look is repeated.

    Only lives that went on are looked at; the first reading of a life says nothing of how long it took.
    """
    elapsed = count.ledger.ledger_seconds - ledger.ledger_seconds
    most = 1.5 * line_rate_bytes_per_second * (elapsed + 0.5) + 1e6
    rows = np.flatnonzero(count.ledger.accounts.recent_bytes[: ledger.enrolled] > most)
    lived: I8 = rows[ledger.counters.alive[rows]]
    return np.setdiff1d(lived, count.restarted) if len(lived) else lived


def _by_account(ledger: Ledger, gained: I8) -> I8:
    """Sum the gains of counters into 4 x rows of accounts; enrolled counters stand in the accounts' order."""
    if len(ledger.counters) == len(ledger.lanes) == ledger.enrolled:
        return gained
    total = np.zeros((4, len(ledger.lanes)), np.int64)
    total[:, : ledger.enrolled] = gained[:, : ledger.enrolled]
    for kind in range(4):
        np.add.at(total[kind], ledger.counters.account[ledger.enrolled :], gained[kind, ledger.enrolled :])
    return total


def _credited(accounts: Accounts, gained: I8, roll: _Roll, elapsed: float) -> Accounts:
    weight = -np.expm1(-elapsed / RECENT_SECONDS)
    rate = gained[0] / elapsed if elapsed > 0 else accounts.recent_bytes_per_second
    return replace(
        accounts,
        used_bytes=roll.used,
        period_start_at=roll.start,
        period_end_at=roll.end,
        sent_bytes=_plus(accounts.sent_bytes, gained[0]),
        sent_packets=_plus(accounts.sent_packets, gained[1]),
        dropped_packets=_plus(accounts.dropped_packets, gained[2]),
        overlimits=_plus(accounts.overlimits, gained[3]),
        recent_bytes=gained[0],
        recent_bytes_per_second=accounts.recent_bytes_per_second + weight * (rate - accounts.recent_bytes_per_second),
    )


def _plus(column: I8, gained: I8) -> I8:
    """Add what was gained; the very column where that is nothing, so that it need not be packed anew."""
    return column + gained if np.count_nonzero(gained) else column


def _direct_gain(ledger: Ledger, snapshot: Snapshot, *, same_life: bool) -> int:
    if same_life:
        return (snapshot.direct_packets - ledger.direct_packets_seen) % lives.WRAP
    return snapshot.direct_packets


def _roll(
    ledger: Ledger,
    gained_bytes: I8,
    time_now: float,
    *,
    period_rule: I8,
    rules: Sequence[periods.PeriodRule],
) -> _Roll:
    """Roll what has ended; periods that ended together (a calendar's) are reckoned once."""
    accounts, time_before = ledger.accounts, ledger.ledger_seconds
    start, end, used = accounts.period_start_at, accounts.period_end_at, accounts.used_bytes + gained_bytes
    rows = np.flatnonzero(end <= time_now)
    if not len(rows):
        return _Roll(used, start, end, rows, rows, rows)
    start, end = start.copy(), end.copy()
    first_end = end[rows]
    ended = np.zeros(len(rows), np.int64)
    known: dict[tuple[float, float, int], tuple[float, float, int]] = {}
    for at, row in enumerate(rows.tolist()):
        # The periods of departed rows stay as long as they were.
        rule = int(period_rule[row]) if row < ledger.enrolled else -1
        key = (float(start[row]), float(end[row]), rule)
        if key not in known:
            wanted = rules[rule] if rule >= 0 else None
            known[key] = _next_period(key[:2], wanted, time_now, ledger.wall_offset_seconds)
        start[row], end[row], ended[at] = known[key]
    gained, span = gained_bytes[rows], max(time_now - time_before, 1e-9)
    until_first_end = _part(gained, (first_end - time_before) / span)
    until_start = _part(gained, (start[rows] - time_before) / span)
    used[rows] = gained - until_start
    return _Roll(used, start, end, rows, accounts.used_bytes[rows] + until_first_end, ended)


def _part(whole: I8, fraction: F8) -> I8:
    """Return the integer part of each whole that belongs to a fraction of its time."""
    part: I8 = np.minimum(np.floor(whole * np.clip(fraction, 0.0, 1.0)).astype(np.int64), whole)
    return part


def _next_period(
    bounds: tuple[float, float],
    rule: periods.PeriodRule | None,
    time_now: float,
    wall_offset: float,
) -> tuple[float, float, int]:
    """Return start and end of the period that holds an instant after bounds[1], and how many ended until then.

    A calendar's boundaries are found from one second inside the period, as sums of offsets may miss them by a hair.
    """
    start, end = bounds
    if not isinstance(rule, periods.Calendar):
        length = rule.length_seconds if rule else end - start
        further = int((time_now - end) // length)
        start = end + further * length
        return start, start + length, 1 + further
    ended = 0
    while end <= time_now:
        start, ended = end, ended + 1
        end = periods.calendar_bounds(rule, start + wall_offset + 1.0)[1] - wall_offset
    return start, end, ended


def _moved_by_step(
    roll: _Roll,
    wall_seconds: float,
    wall_offset: float,
    *,
    period_rule: I8,
    rules: Sequence[periods.PeriodRule],
) -> _Roll:
    """Move calendar accounts to the period that the stepped wall clock falls in; rolling ones stay."""
    start, end = roll.start.copy(), roll.end.copy()
    for index, rule in enumerate(rules):
        if isinstance(rule, periods.Calendar):
            rows = np.flatnonzero(period_rule == index)
            wall_start, wall_end = periods.calendar_bounds(rule, wall_seconds)
            start[rows], end[rows] = wall_start - wall_offset, wall_end - wall_offset
    return roll._replace(start=start, end=end)


def _without_ended_departures(count: Count) -> Count:
    """Leave out accounts of removed slices whose period and window have ended and whose class is gone."""
    ended = count.rolled
    if count.ledger.rings is not None:
        ended = np.setdiff1d(ended, count.ledger.rings.account)
    ledger, moved_to = enrolment.pruned(count.ledger, ended_rows=ended)
    if ledger is count.ledger:
        return count
    restarted, rolled = moved_to[count.restarted], moved_to[count.rolled]
    return replace(
        count,
        ledger=ledger,
        restarted=restarted[restarted >= 0],
        rolled=rolled[rolled >= 0],
        ended_used_bytes=count.ended_used_bytes[rolled >= 0],
        ended_periods=count.ended_periods[rolled >= 0],
    )
