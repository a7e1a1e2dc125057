"""Enrolment: which lane stands in which row of a ledger, as slices come, go and move.

Turns a ledger and the lanes wanted now into a ledger with those rows first. Knows: that an account belongs to its
lane's name and a counter to its class. Does not know: what was counted, what a slice may send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from bwexporter.core import periods
from bwexporter.core.lanes import F8, I8, Accounts, Columns, Counters, Instant, Ledger, Rings, Tariffs


def open_ledger(device: str, ifindex: int, now: Instant) -> Ledger:
    """Return a ledger without a lane, whose time begins now."""
    nothing = np.empty(0, np.int64)
    return Ledger(
        device=device,
        ifindex=ifindex,
        at=now,
        ledger_seconds=now.wall_seconds,
        wall_offset_seconds=0.0,
        lanes=(),
        enrolled=0,
        accounts=_fresh_accounts(np.empty(0), np.empty(0)),
        counters=_fresh_counters(nothing, nothing.copy()),
        parent_handle=nothing.copy(),
        parent_sent_bytes=nothing.copy(),
        tree_sent_bytes=0,
        direct_packets_seen=0,
        direct_packets=0,
    )


def enrol(ledger: Ledger, tariffs: Tariffs, handles: I8, rules: Sequence[periods.PeriodRule]) -> Ledger:
    """Bring the ledger's rows in line with the lanes wanted now; nothing that was counted is lost.

    A lane that has an account goes on with it, whatever its class was. The other accounts stay behind the enrolled
    rows. `handles` is the class of each lane now (i8, one a lane of the tariffs).
    """
    before = {lane: row for row, lane in enumerate(ledger.lanes)}
    wanted = set(tariffs.lanes)
    departed = [row for row, lane in enumerate(ledger.lanes) if lane not in wanted]
    came_from = np.array([before.get(lane, -1) for lane in tariffs.lanes] + departed, np.int64)
    fresh = _fresh_accounts(*_first_periods(ledger, tariffs, rules, departed=len(departed)))
    return replace(
        ledger,
        lanes=tariffs.lanes + tuple(ledger.lanes[row] for row in departed),
        enrolled=len(tariffs.lanes),
        accounts=Accounts(**_moved_columns(ledger.accounts, came_from, fresh)),
        counters=_enrol_counters(ledger.counters, handles, came_from),
        rings=_moved_rings(ledger.rings, _moved_to(came_from)),
    )


def pruned(ledger: Ledger, *, ended_rows: I8) -> tuple[Ledger, I8]:
    """Leave out departed accounts among `ended_rows` that no live counter feeds, and counters of classes that are gone.

    Returns the ledger (the very same where nothing is left out) and each old row's new row, -1 where it is left out.
    """
    if len(ledger.lanes) == len(ledger.counters) == ledger.enrolled:
        return ledger, np.arange(len(ledger.lanes))
    counters_stay = ledger.counters.alive.copy()
    counters_stay[: ledger.enrolled] = True
    stay = np.ones(len(ledger.lanes), bool)
    stay[ended_rows] = False
    stay[: ledger.enrolled] = True
    stay[ledger.counters.account[counters_stay]] = True
    moved_to = np.where(stay, np.cumsum(stay) - 1, -1)
    if stay.all() and counters_stay.all():
        return ledger, moved_to
    counters = ledger.counters.take(counters_stay)
    return replace(
        ledger,
        lanes=tuple(lane for lane, stays in zip(ledger.lanes, stay.tolist(), strict=True) if stays),
        accounts=ledger.accounts.take(stay),
        counters=replace(counters, account=moved_to[counters.account]),
        rings=_moved_rings(ledger.rings, moved_to),
    ), moved_to


def _first_periods(
    ledger: Ledger,
    tariffs: Tariffs,
    rules: Sequence[periods.PeriodRule],
    *,
    departed: int,
) -> tuple[F8, F8]:
    """Return the bounds that new accounts begin with: a rolling one begins now, a calendar's is its whole period."""
    time_now, offset = ledger.ledger_seconds, ledger.wall_offset_seconds
    bounds = np.zeros((len(rules) + 1, 2))
    for index, rule in enumerate(rules):
        if isinstance(rule, periods.Rolling):
            bounds[index] = time_now, time_now + rule.length_seconds
        else:
            bounds[index] = periods.calendar_bounds(rule, time_now + offset)
            bounds[index] -= offset
    of_row = bounds[np.concatenate([tariffs.period_rule, np.full(departed, len(rules))])]
    return of_row[:, 0].copy(), of_row[:, 1].copy()


def _fresh_accounts(start: F8, end: F8) -> Accounts:
    rows = len(start)
    used, sent, packets, dropped, overlimits, recent, told, carried = (np.zeros(rows, np.int64) for _ in range(8))
    told_reason = np.zeros(rows, np.int8)
    return Accounts(
        used, start, end, sent, packets, dropped, overlimits, recent, np.zeros(rows), told_reason, told, carried
    )


def _fresh_counters(handle: I8, account: I8) -> Counters:
    parent, leaf, sent, packets, dropped, overlimits = (np.zeros(len(handle), np.int64) for _ in range(6))
    alive, unheard = np.zeros(len(handle), bool), np.zeros(len(handle), bool)
    return Counters(handle, parent, account, alive, unheard, leaf, sent, packets, dropped, overlimits)


def _enrol_counters(counters: Counters, handles: I8, came_from: I8) -> Counters:
    """Give each lane the counter of its class; classes that lanes had before are counted on until they are gone.

    A class that is now another lane's is handed over as it was last seen: one counter feeds one account.
    """
    row_of = {handle: row for row, handle in enumerate(counters.handle.tolist())}
    rows = [row_of.pop(handle, -1) for handle in handles.tolist()]
    left = np.array(sorted(row for row in row_of.values() if counters.alive[row]), np.int64)
    account = np.concatenate([np.arange(len(handles)), _moved_to(came_from)[counters.account[left]]])
    fresh = _fresh_counters(np.concatenate([handles, counters.handle[left]]), account)
    columns = _moved_columns(counters, np.concatenate([np.array(rows, np.int64), left]), fresh)
    return Counters(**{**columns, "account": account})


def _moved_to(came_from: I8) -> I8:
    """Return the new row of each old one."""
    moved_to = np.zeros(len(came_from) + 1, np.int64)
    moved_to[came_from] = np.arange(len(came_from))
    return moved_to


def _moved_rings(rings: Rings | None, moved_to: I8) -> Rings | None:
    """Return the rings of accounts that stay, by their new rows."""
    if rings is None:
        return None
    account = moved_to[rings.account]
    order = np.argsort(account)
    order = order[account[order] >= 0]
    return replace(rings.take(order), account=account[order]) if len(order) else None


def _moved_columns(old: Columns, came_from: I8, fresh: Columns) -> dict[str, Any]:
    """Return rows of the old columns where they came from one (>= 0), of the fresh columns elsewhere."""
    known = came_from >= 0
    columns = {}
    for field in fields(fresh):
        column = getattr(fresh, field.name).copy()
        column[known] = getattr(old, field.name)[came_from[known]]
        columns[field.name] = column
    return columns
