"""Policies beside the law, composed with it.

Turns the law's verdicts into those of lanes that have a policy. Knows: in which order sliding window, ladder, windows,
hand and switches speak, and what counts against an allowance. Does not know: what the law says, how a ladder is
climbed, when a window is open or what it holds.

A policy has up to three parts, each in a room of its own and each about something else, so that they go together:

* a ladder says which ceiling comes with which use (core/ladder.py); without one, the law says it;
* windows say which part of what is sent counts at which hour (core/windows.py);
* a carry says how much of what was not used is there in the next period (core/carry.py), or a sliding window that what
  was sent is free again so long after it was sent (core/sliding.py): there is no next period then.

In a window in which bytes count in part, the law is asked about counted bytes: a lane whose bytes count a quarter has a
quarter of its full rate in counted bytes, and the ceiling that the law answers is worth four times as much on the wire.
So a lane that sends all it may lands on its allowance whatever the hours count. A rung's rate is the one on the wire.
Where nothing counts a lane has its full rate. Hand and switches speak last, as they do over the law. The use that a
lane with a sliding window is judged by, on a ladder too, is what its window holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bwexporter.core import ladder, policy, rings, sliding, windows
from bwexporter.core.accounting import elapsed_seconds
from bwexporter.core.forecast import Forecast, forecast
from bwexporter.core.habits import Habits
from bwexporter.core.lanes import B1, F8, I8, UNLIMITED, Instant, Lane, Ledger, Reason, Slid, Tariffs, Verdicts
from bwexporter.core.plans import Policy

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What a judgement needs to know of the look that it is made at, for the lanes of a device."""

    period_seconds: F8
    held_ceiling_bytes_per_second: I8
    next_look_seconds: float | F8
    look_margin_seconds: float
    frozen: bool | B1
    enforcing: bool


def judged(ledger: Ledger, tariffs: Tariffs, law: Verdicts, look: Look) -> Verdicts:
    """Return the law's verdicts, with those of lanes that have a policy of another kind than a carry in their place."""
    law, chosen = _slid(ledger, tariffs, law, look), _with_policy(tariffs)
    if not chosen:
        return law
    rows = np.array(list(chosen), np.int64)
    part = windows.parts_now(list(chosen.values()), ledger.ledger_seconds + ledger.wall_offset_seconds)
    own, accounts = _of_rows(tariffs, rows), counting(ledger).accounts.take(rows)
    counted_full = np.maximum((own.full_bytes_per_second * part).astype(np.int64), 1)
    horizon = np.broadcast_to(look.next_look_seconds, len(tariffs))[rows]
    unsteered = _unsteered(own, counted_full, law.guarantee_bytes_per_second[rows])
    counted = policy.judge(
        replace(ledger, lanes=own.lanes, enrolled=len(rows), accounts=accounts),
        unsteered,
        period_seconds=look.period_seconds[rows],
        held_ceiling_bytes_per_second=counted_full,
        cap_bytes_per_second=UNLIMITED,
        line_rate_bytes_per_second=UNLIMITED,
        next_look_seconds=horizon,
        look_margin_seconds=look.look_margin_seconds,
        frozen=False,
    )
    horizon = np.maximum(horizon + look.look_margin_seconds, policy.SOON_SECONDS)
    counted = _counted_slid(ledger, rows, unsteered, counted, horizon)
    ceiling, reason = _on_the_wire(counted, part, counted_full, own.full_bytes_per_second)
    ceiling, reason = ladder.climbed(
        [one.ladder for one in chosen.values()],
        ceiling, reason,
        used_bytes=accounts.used_bytes,
        allowance_bytes=counted.allowance_bytes,
        full_bytes_per_second=own.full_bytes_per_second,
        counted_part=part,
        horizon_seconds=horizon,
    )  # fmt: skip
    placed = _placed(law, rows, _steered(tariffs, rows, ceiling, reason, look), counted.floor_bytes_per_second)
    parts = np.ones(len(law))
    parts[rows] = part
    return replace(placed, counted_part=parts)


def _slid(ledger: Ledger, tariffs: Tariffs, law: Verdicts, look: Look) -> Verdicts:
    """Return the verdicts with those of lanes that have a sliding window; the very verdicts where none has."""
    used = rings.in_use(ledger)
    if used is None:
        return law
    rows = used.account
    horizon = np.broadcast_to(look.next_look_seconds, len(tariffs))[rows] + look.look_margin_seconds
    found = sliding.judged(
        used, _terms(tariffs.take(rows), law, rows), time_now=ledger.ledger_seconds, horizon_seconds=horizon
    )
    placed = _placed(law, rows, _steered(tariffs, rows, found.ceiling, found.reason, look), found.floor)
    columns = (used.window_seconds, found.used_bytes, found.room_bytes, found.room_seconds)
    return replace(placed, slid=Slid(*(_spread_out(column, rows, len(law)) for column in columns)))


def _spread_out(column: Numbers, rows: I8, length: int) -> Numbers:
    """Return a column with these rows, and 0 elsewhere."""
    whole = np.zeros(length, column.dtype)
    whole[rows] = column
    return whole


def _terms(own: Tariffs, law: Verdicts, rows: I8) -> sliding.Terms:
    return sliding.Terms(
        own.full_bytes_per_second,
        law.allowance_bytes[rows],
        law.threshold_bytes[rows],
        np.minimum(law.guarantee_bytes_per_second[rows], own.full_bytes_per_second),
        own.floor_bytes_per_second,
    )


def _counted_slid(ledger: Ledger, rows: I8, own: Tariffs, counted: Verdicts, horizon: F8) -> Verdicts:
    """Return counted verdicts with those of lanes that have a sliding window too."""
    used = rings.in_use(ledger)
    at = np.flatnonzero(np.isin(rows, used.account)) if used is not None else rows[:0]
    if used is None or not len(at):
        return counted
    order = at[np.argsort(rows[at])]
    used = used.take(np.isin(used.account, rows))
    found = sliding.judged(
        used,
        _terms(own.take(order), counted, order),
        time_now=ledger.ledger_seconds,
        horizon_seconds=horizon[order],
    )
    return replace(
        counted,
        ceiling_bytes_per_second=_put(counted.ceiling_bytes_per_second, order, found.ceiling),
        reason=_put(counted.reason, order, found.reason),
        floor_bytes_per_second=_put(counted.floor_bytes_per_second, order, found.floor),
    )


def _put(column: Numbers, rows: I8, values: Numbers) -> Numbers:
    changed = column.copy()
    changed[rows] = values
    return changed


def counting(ledger: Ledger) -> Ledger:
    """Return the ledger with what counts against allowances as the use: what a sliding window holds, if there is one.

    The very ledger where no lane has one.
    """
    used = rings.in_use(ledger)
    if used is None:
        return ledger
    counts = _put(ledger.accounts.used_bytes, used.account, rings.used_bytes(used))
    return replace(ledger, accounts=replace(ledger.accounts, used_bytes=counts))


def awaiting(ledger: Ledger, tariffs: Tariffs, allowance_bytes: I8, threshold_bytes: I8) -> Ledger:
    """Return the ledger by which early looks are planned; the very ledger where no lane asks for fewer than the law.

    A window lets a lane hover at its threshold for hours, as slot after slot leaves. Pacing carries such a lane from
    look to look as well: only one with an eighth of its threshold ahead asks for a look of its own. One on a ladder
    asks for none from its first rung on: it is far slower than its full rate, by which looks are planned.
    """
    used = rings.in_use(ledger)
    climbing = [row for row, one in tariffs.policies.items() if one.ladder]
    if used is None and not climbing:
        return ledger
    seen = counting(ledger)
    held = seen.accounts.used_bytes[: len(tariffs)]
    waits = np.zeros(len(tariffs), np.bool_)
    if used is not None:
        threshold = threshold_bytes[used.account]
        waits[used.account] = held[used.account] >= threshold - threshold // 8
    for row in climbing:
        waits[row] |= held[row] >= int(allowance_bytes[row] * tariffs.policies[row].ladder[0].part)
    rows = np.flatnonzero(waits)
    planned = _put(seen.accounts.used_bytes, rows, np.maximum(held[rows], threshold_bytes[rows]))
    return replace(seen, accounts=replace(seen.accounts, used_bytes=planned))


def hold(ledger: Ledger, tariffs: Tariffs, verdicts: Verdicts) -> Verdicts:
    """Return verdicts for a program that stops and keeps hold; with a sliding window, the rate that it can keep."""
    used = rings.in_use(ledger)
    if used is None:
        return policy.hold(ledger, tariffs, verdicts)
    rate = sliding.even_rate(used, verdicts.allowance_bytes[used.account], time_now=ledger.ledger_seconds)
    evenly = policy.Evenly(used.account, rings.used_bytes(used), rate)
    return policy.hold(ledger, tariffs, verdicts, evenly=evenly)


def foreseen(ledger: Ledger, lanes: tuple[Lane, ...], verdicts: Verdicts, habits: Habits | None) -> Forecast:
    """Look ahead; what a sliding window comes to hold is seen from the recent rate, and from what leaves it.

    UNLIMITED is expected of it at its period's end: that is none of its ends.
    """
    found, used = forecast(ledger, lanes, verdicts, habits), rings.in_use(ledger)
    if used is None:
        return found
    rows, now = used.account, ledger.ledger_seconds
    rate = ledger.accounts.recent_bytes_per_second[rows]
    to_threshold, to_allowance = (
        sliding.seconds_to(limit[rows], used, rate, time_now=now)
        for limit in (verdicts.threshold_bytes, verdicts.allowance_bytes)
    )
    return Forecast(
        _put(found.seconds_to_threshold, rows, to_threshold),
        _put(found.seconds_to_allowance, rows, to_allowance),
        _put(found.expected_used_bytes, rows, np.full(len(rows), UNLIMITED)),
        _put(found.earlier_periods, rows, np.zeros(len(rows), np.int64)),
    )


def next_change_seconds(ledger: Ledger, tariffs: Tariffs) -> float:
    """Return the seconds until a window of one of the lanes opens or closes, infinity where none does."""
    at = ledger.ledger_seconds + ledger.wall_offset_seconds
    edges = (windows.next_edge(one.windows, at) for one in set(_with_policy(tariffs).values()))
    return min(edges, default=float("inf")) - at


def _with_policy(tariffs: Tariffs) -> Mapping[int, Policy]:
    """Return the policies by row, of lanes for which a ladder or a window is chosen."""
    return {row: one for row, one in tariffs.policies.items() if one.ladder or one.windows}


def _of_rows(tariffs: Tariffs, rows: I8) -> Tariffs:
    return replace(tariffs.take(rows), lanes=tuple(tariffs.lanes[row] for row in rows.tolist()), policies={})


def _unsteered(own: Tariffs, counted_full: I8, guarantee: I8) -> Tariffs:
    """Return tariffs for the law alone: hand and switches are asked afterwards, guarantees are admitted already."""
    nobody = np.zeros(len(own), np.bool_)
    return replace(
        own,
        full_bytes_per_second=counted_full,
        guarantee_bytes_per_second=np.minimum(guarantee, counted_full),
        hand_cap_bytes_per_second=np.full(len(own), UNLIMITED),
        released=nobody,
        off=nobody.copy(),
        shadow=nobody.copy(),
    )


def _on_the_wire(counted: Verdicts, part: F8, counted_full: I8, full: I8) -> tuple[I8, policy.Reasons]:
    """Return the ceilings that counted rates are worth, with 7 significant bits below the full rate."""
    rate, reason = counted.ceiling_bytes_per_second, counted.reason
    worth = np.divide(rate, part, out=full.astype(np.float64), where=part > 0)
    worth = np.where(rate >= counted_full, full, np.minimum(worth, full))
    ceiling = np.where(part == 1.0, np.minimum(rate, full), policy.rounded(worth, full))
    return ceiling, np.where(part > 0, reason, Reason.UNCOUNTED.value).astype(np.int8)


def _steered(tariffs: Tariffs, rows: I8, ceiling: I8, reason: policy.Reasons, look: Look) -> policy.Steered:
    """Let hand and switches speak."""
    held = look.held_ceiling_bytes_per_second[rows]
    frozen = np.broadcast_to(look.frozen, len(tariffs))[rows]
    return policy.steered(tariffs.take(rows), ceiling, reason, held, frozen=frozen, enforcing=look.enforcing)


def _placed(law: Verdicts, rows: I8, steered: policy.Steered, floor: I8) -> Verdicts:
    """Return verdicts with some rows anew."""
    return replace(
        law,
        ceiling_bytes_per_second=_put(law.ceiling_bytes_per_second, rows, steered.ceiling),
        asked_ceiling_bytes_per_second=_put(law.asked_ceiling_bytes_per_second, rows, steered.asked),
        reason=_put(law.reason, rows, steered.reason),
        floor_bytes_per_second=_put(law.floor_bytes_per_second, rows, floor),
        capped=_put(law.capped, rows, steered.capped),
    )


def counted_parts(ledger: Ledger, tariffs: Tariffs, now: Instant) -> F8 | None:
    """Return the part of what each enrolled lane sent since the last look that counts, None where all of it does."""
    windowed = {row: one.windows for row, one in _with_policy(tariffs).items() if one.windows}
    if not windowed:
        return None
    since = ledger.ledger_seconds + ledger.wall_offset_seconds
    until = since + elapsed_seconds(ledger.at, now)
    of_windows = {one: windows.mean_part(one, since, until) for one in set(windowed.values())}
    parts = np.ones(ledger.enrolled)
    parts[list(windowed)] = [of_windows[one] for one in windowed.values()]
    return parts
