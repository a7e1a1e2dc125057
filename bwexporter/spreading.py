"""Spreading: a tree of thousands of classes is made over several turns.

Turns changes into those that one act has time for. Knows: how long an act may make classes, how many it made in that
time, whose classes come first. Does not know: how classes are made, which are wanted, when the next act is.
"""

from __future__ import annotations

import numpy as np

from bwexporter.core import plan
from bwexporter.core.lanes import DEFAULT_SLICE, I8, ROOT_SLICE, Act, Changes
from bwexporter.desk import Desk

LEAST_MADE = 32
"""Classes that one act makes or removes however long that takes."""
MAKING_SECONDS = 0.5
"""How long an act should make classes, unless half of the shortest interval is less."""
RESERVED = frozenset({ROOT_SLICE, DEFAULT_SLICE})


def first_part(desk: Desk, changes: Changes) -> tuple[Changes, I8]:
    """Return what is to be done now, and the classes that are to be made in further turns."""
    if int(np.count_nonzero(changes.act != Act.CHANGE.value)) <= desk.most_made:
        return changes, desk.waiting[:0]
    ledger = desk.ledger
    handles, rates = ledger.counters.handle[: ledger.enrolled], ledger.accounts.recent_bytes_per_second
    reserved = np.array([lane.slice_name in RESERVED for lane in ledger.lanes[: ledger.enrolled]], bool)
    recent = dict(zip(handles.tolist(), rates.tolist(), strict=False))
    refused = np.array([handle for _, handle, _ in desk.refused], np.int64)
    return plan.spread(
        changes, desk.most_made, urgent=handles[reserved], refused=refused, recent_bytes_per_second=recent
    )


def learn(desk: Desk, changes: Changes, seconds: float, shortest_interval_seconds: float) -> None:
    """See to it that the next act makes as many classes as it has time for, after one that took so long."""
    made = int(np.count_nonzero(changes.act != Act.CHANGE.value))
    if made >= LEAST_MADE:
        time_for = int(made * min(MAKING_SECONDS, shortest_interval_seconds / 2) / max(seconds, 1e-6))
        desk.most_made = max(LEAST_MADE, min(time_for, 4 * desk.most_made))
