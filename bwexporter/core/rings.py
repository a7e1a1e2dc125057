"""Rings: what lanes with a sliding window have sent within it.

Turns what was counted into slots of time, and slots into the use of a window. Knows: when a byte leaves, what becomes
of a ring whose window changes or whose lane goes. Does not know: allowances, ceilings, how bytes are counted.

A window is cut into 48 slots of ledger time, which no stepped clock moves, and the slot that runs comes on top of them.
What a look counts goes into the slot that runs at the look: it may have been sent before that, never after. A slot
leaves when the whole of it is older than the window. So what counts is never less than what was sent in the last
window, and more than that by what was sent in the slot (and the look) before it.

A ring that begins holds what was used in the period, as if it had been sent just now, and so does one whose window
becomes longer, as far as it does not hold that much: nothing is forgiven. One that nobody wants any more, because the
slice is gone or has another policy, is counted on for as long as its window: whoever comes back finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bwexporter.core.lanes import F8, I8, UNLIMITED, Ledger, Rings, Tariffs

SLOTS = 48


def slot_seconds(rings: Rings) -> F8:
    """Return how long a slot of each ring is."""
    return rings.window_seconds / SLOTS


def advanced(rings: Rings | None, counted_bytes: I8, time_now: float) -> Rings | None:
    """Let go what has left by now, and count what was sent since the last look; `counted_bytes` has a row an account.

    None where no ring is left.
    """
    if rings is None:
        return None
    over = rings.unwanted_since + rings.window_seconds + slot_seconds(rings) <= time_now
    if over.any():
        rings = rings.take(~over)
        if not len(rings):
            return None
    slot = np.maximum(_slot_at(time_now, slot_seconds(rings)), rings.newest_slot)
    moving = np.flatnonzero(slot > rings.newest_slot)
    past, newest = rings.past_bytes, rings.newest_bytes
    if len(moving):
        past, newest = past.copy(), newest.copy()
        past[moving] = _moved(rings.take(moving), slot[moving])
        newest[moving] = 0
    return replace(rings, newest_slot=slot, newest_bytes=newest + counted_bytes[rings.account], past_bytes=past)


def _moved(rings: Rings, slot: I8) -> I8:
    """Return the slots before those that run now."""
    known = np.concatenate([rings.past_bytes, rings.newest_bytes[:, None]], axis=1)
    came_from = np.arange(SLOTS) + (slot - rings.newest_slot)[:, None]
    return np.where(came_from <= SLOTS, np.take_along_axis(known, np.minimum(came_from, SLOTS), axis=1), 0)


def used_bytes(rings: Rings) -> I8:
    """Return what counts in each window."""
    used: I8 = rings.past_bytes.sum(axis=1) + rings.newest_bytes
    return used


def leaving(rings: Rings, time_now: float) -> tuple[F8, I8]:
    """Return the seconds until each slot leaves, the oldest first and the one that runs last, and what left before it.

    One row a ring, one column a slot.

    >>> of = {"account": np.array([0]), "window_seconds": np.array([48.0]), "unwanted_since": np.array([np.inf])}
    >>> rings = Rings(**of, newest_slot=np.array([100]), newest_bytes=np.array([5]),
    ...               past_bytes=np.array([[0] * 46 + [20, 30]]))
    >>> seconds, before = leaving(rings, 100.5)
    >>> seconds[0, -3:].tolist(), before[0, -3:].tolist()
    ([46.5, 47.5, 48.5], [0, 20, 50])
    """
    width = slot_seconds(rings)[:, None]
    ends = (rings.newest_slot[:, None] - SLOTS + 1 + np.arange(SLOTS + 1)) * width + rings.window_seconds[:, None]
    before = np.zeros((len(rings), SLOTS + 1), np.int64)
    np.cumsum(rings.past_bytes, axis=1, out=before[:, 1:])
    return ends - time_now, before


def in_use(ledger: Ledger) -> Rings | None:
    """Return the rings whose windows the policies of enrolled lanes ask for; None where there is none."""
    rings = ledger.rings
    if rings is None:
        return None
    wanted = np.isinf(rings.unwanted_since) & (rings.account < ledger.enrolled)
    if wanted.all():
        return rings
    return rings.take(wanted) if wanted.any() else None


def enrolled(ledger: Ledger, tariffs: Tariffs) -> Ledger:
    """Give each lane whose policy asks for a sliding window its ring; the very ledger where none has or wants one."""
    wanted = {
        row: float(one.sliding_seconds)
        for row, one in tariffs.policies.items()
        if one.sliding_seconds and tariffs.allowance_bytes[row] < UNLIMITED
    }
    if ledger.rings is None and not wanted:
        return ledger
    now, known = ledger.ledger_seconds, ledger.rings or _no_rings()
    had = known.account.tolist()
    asked = np.array([wanted.get(row, 0.0) for row in had])
    stay = replace(known, unwanted_since=np.where(asked > 0, np.inf, np.minimum(known.unwanted_since, now)))
    changed = np.flatnonzero((asked > 0) & (asked != known.window_seconds))
    new = {row: wanted[row] for row in wanted.keys() - set(had)}
    parts = [
        stay.take(np.setdiff1d(np.arange(len(stay)), changed)),
        _cut_anew(stay.take(changed), asked[changed], ledger),
        _begun(new, ledger),
    ]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Rings.__dataclass_fields__}
    order = np.argsort(columns["account"])
    return replace(ledger, rings=Rings(**{name: column[order] for name, column in columns.items()}))


def _no_rings() -> Rings:
    nothing, never = np.empty(0, np.int64), np.empty(0)
    return Rings(nothing, never, never.copy(), nothing.copy(), nothing.copy(), np.empty((0, SLOTS), np.int64))


def _begun(windows: Mapping[int, float], ledger: Ledger) -> Rings:
    """Return rings for accounts that have none, with what was used in their periods."""
    rows, seconds = np.array(list(windows), np.int64), np.array(list(windows.values()), np.float64)
    return Rings(
        account=rows,
        window_seconds=seconds,
        unwanted_since=np.full(len(rows), np.inf),
        newest_slot=_slot_at(ledger.ledger_seconds, seconds / SLOTS),
        newest_bytes=ledger.accounts.used_bytes[rows],
        past_bytes=np.zeros((len(rows), SLOTS), np.int64),
    )


def _cut_anew(old: Rings, seconds: F8, ledger: Ledger) -> Rings:
    """Return rings with other windows; what was sent in a slot is taken to have been sent at its end."""
    begun = _begun(dict(zip(old.account.tolist(), seconds.tolist(), strict=True)), ledger)
    numbers = old.newest_slot[:, None] - SLOTS + 1 + np.arange(SLOTS + 1)
    ends = np.minimum(numbers * slot_seconds(old)[:, None], ledger.ledger_seconds)
    age = begun.newest_slot[:, None] - _slot_at(ends, slot_seconds(begun)[:, None])
    sent = np.concatenate([old.past_bytes, old.newest_bytes[:, None]], axis=1)
    row, slot = np.nonzero(age <= SLOTS)
    held = np.zeros_like(sent)
    np.add.at(held, (row, SLOTS - age[row, slot]), sent[row, slot])
    lacks = np.maximum(begun.newest_bytes - held.sum(axis=1), 0)
    newest = held[:, SLOTS] + np.where(seconds > old.window_seconds, lacks, 0)
    return replace(begun, newest_bytes=newest, past_bytes=held[:, :SLOTS])


def _slot_at(seconds: float | F8, width: float | F8) -> I8:
    return np.floor(seconds / width).astype(np.int64)
