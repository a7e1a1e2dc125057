"""Policies beside the law, composed with it.

Turns the law's verdicts into those of lanes that have a policy. Knows: in which order ladder, windows, hand and
switches speak. Does not know: what the law says, how a ladder is climbed, when a window is open.

A policy has up to three parts, each in a room of its own and each about something else, so that they go together:

* a ladder says which ceiling comes with which use (core/ladder.py); without one, the law says it;
* windows say which part of what is sent counts at which hour (core/windows.py);
* a carry says how much of what was not used is there in the next period (core/carry.py).

In a window in which bytes count in part, the law is asked about counted bytes: a lane whose bytes count a quarter has a
quarter of its full rate in counted bytes, and the ceiling that the law answers is worth four times as much on the wire.
So a lane that sends all it may lands on its allowance whatever the hours count. A rung's rate is the one on the wire.
Where nothing counts a lane has its full rate. Hand and switches speak last, as they do over the law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bwexporter.core import ladder, policy, windows
from bwexporter.core.accounting import elapsed_seconds
from bwexporter.core.lanes import B1, F8, I8, UNLIMITED, Instant, Ledger, Reason, Tariffs, Verdicts
from bwexporter.core.plans import Policy


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
    """Return the law's verdicts, with those of lanes that have a ladder or windows in their place."""
    chosen = _with_policy(tariffs)
    if not chosen:
        return law
    rows = np.array(list(chosen), np.int64)
    part = windows.parts_now(list(chosen.values()), ledger.ledger_seconds + ledger.wall_offset_seconds)
    own, accounts = _of_rows(tariffs, rows), ledger.accounts.take(rows)
    counted_full = np.maximum((own.full_bytes_per_second * part).astype(np.int64), 1)
    horizon = np.broadcast_to(look.next_look_seconds, len(tariffs))[rows]
    counted = policy.judge(
        replace(ledger, lanes=own.lanes, enrolled=len(rows), accounts=accounts),
        _unsteered(own, counted_full, law.guarantee_bytes_per_second[rows]),
        period_seconds=look.period_seconds[rows],
        held_ceiling_bytes_per_second=counted_full,
        cap_bytes_per_second=UNLIMITED,
        line_rate_bytes_per_second=UNLIMITED,
        next_look_seconds=horizon,
        look_margin_seconds=look.look_margin_seconds,
        frozen=False,
    )
    ceiling, reason = _on_the_wire(counted, part, counted_full, own.full_bytes_per_second)
    ceiling, reason = ladder.climbed(
        [one.ladder for one in chosen.values()],
        ceiling, reason,
        used_bytes=accounts.used_bytes,
        allowance_bytes=counted.allowance_bytes,
        full_bytes_per_second=own.full_bytes_per_second,
        counted_part=part,
        horizon_seconds=np.maximum(horizon + look.look_margin_seconds, policy.SOON_SECONDS),
    )  # fmt: skip
    held = look.held_ceiling_bytes_per_second[rows]
    frozen = np.broadcast_to(look.frozen, len(tariffs))[rows]
    steered = policy.steered(own, ceiling, reason, held, frozen=frozen, enforcing=look.enforcing)
    return _placed(law, rows, counted, steered, part)


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
    return ceiling, np.where(part > 0, reason, Reason.UNCOUNTED).astype(np.int8)


def _placed(law: Verdicts, rows: I8, counted: Verdicts, steered: policy.Steered, part: F8) -> Verdicts:
    """Return verdicts with some rows anew."""
    parts = np.ones(len(law)) if law.counted_part is None else law.counted_part.copy()
    parts[rows] = part
    columns = {
        "ceiling_bytes_per_second": steered.ceiling,
        "asked_ceiling_bytes_per_second": steered.asked,
        "reason": steered.reason,
        "floor_bytes_per_second": counted.floor_bytes_per_second,
        "capped": steered.capped,
    }
    anew = {}
    for name, values in columns.items():
        column = getattr(law, name).copy()
        column[rows] = values
        anew[name] = column
    return replace(law, **anew, counted_part=parts)


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
