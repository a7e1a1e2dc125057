"""Plan: the smallest list of changes from the actual to the wanted classes.

Turns wanted and actual classes into changes. Knows: when a class is already right, and in which order changes are safe
(parents are made before their children, classes of nobody go last and children first). Does not know: why a ceiling is
wanted, what a handle means, how a change is sent.
"""

from __future__ import annotations

import numpy as np

from bwexporter.core.lanes import B1, I8, Act, Changes, Classes, Counters, Snapshot
from bwexporter.core.lives import find

_SETTINGS = ("rate_bytes_per_second", "ceiling_bytes_per_second", "quantum_bytes", "burst_ns", "ceiling_burst_ns")


def diff(wanted: Classes, snapshot: Snapshot, *, ours: B1, known: Counters, enforced: Classes | None) -> Changes:
    """Return what is to be done so that the kernel has the wanted classes; nothing where it has them.

    `wanted` lists parents before children. `ours` marks the snapshot's classes that are ours to remove. `known` tells
    classes that belonged to a lane from strangers. `enforced` is what was last asked of the kernel and accepted, None
    after a start: a class that differs from it has drifted.
    """
    actual = snapshot.classes
    row, present = find(actual.handle, wanted.handle)
    misplaced = present & (_at(actual.parent, row) != wanted.parent)
    differs = present & ~misplaced & _differ(wanted, actual, row)
    drifted = _drifted(wanted, actual, enforced, row, present)
    missing = ~present | misplaced
    unwanted = np.flatnonzero(ours & ~np.isin(actual.handle, wanted.handle))[::-1]
    moved = row[misplaced]
    first = actual.take(moved[::-1])
    rows = (np.flatnonzero(missing), np.flatnonzero(differs))
    last = actual.take(unwanted)
    # A class below a wrong parent cannot be moved in place: it is removed first and made where it belongs.
    classes = _joined(first, wanted.take(rows[0]), wanted.take(rows[1]), last)
    lengths = (len(first), len(rows[0]), len(rows[1]), len(last))
    return Changes(
        act=np.repeat(np.array([Act.REMOVE, Act.CREATE, Act.CHANGE, Act.REMOVE], np.int8), lengths),
        drift=np.concatenate([misplaced[misplaced], drifted[rows[0]], drifted[rows[1]], np.zeros(len(last), bool)]),
        stranger=np.concatenate([np.zeros(sum(lengths[:3]), bool), ~np.isin(last.handle, known.handle)]),
        before_ceiling_bytes_per_second=np.concatenate(
            [
                first.ceiling_bytes_per_second,
                np.zeros(len(rows[0]), np.int64),
                _at(actual.ceiling_bytes_per_second, row)[rows[1]],
                last.ceiling_bytes_per_second,
            ],
        ),
        classes=classes,
        build_tree=not snapshot.tree_present,
    )


def settled(enforced: Classes | None, changes: Changes, accepted: B1, wanted: Classes) -> Classes:
    """Return what the kernel has been asked for and has accepted: the base that drift is measured against.

    A refused row is left as it was last enforced, or out where it never was.
    """
    refused = np.isin(wanted.handle, changes.classes.handle[(changes.act != Act.REMOVE) & ~accepted])
    if not refused.any():
        return wanted
    kept = wanted.take(~refused)
    if enforced is None:
        return kept
    return _joined(kept, enforced.take(np.isin(enforced.handle, wanted.handle[refused])))


def _differ(wanted: Classes, actual: Classes, row: I8) -> B1:
    differ = np.zeros(len(wanted), bool)
    for name in _SETTINGS:
        differ |= getattr(wanted, name) != _at(getattr(actual, name), row)
    return differ


def _drifted(wanted: Classes, actual: Classes, enforced: Classes | None, row: I8, present: B1) -> B1:
    """Mark wanted classes that were enforced once and now are gone or have other settings."""
    if enforced is None:
        return np.zeros(len(wanted), bool)
    order = np.argsort(enforced.handle, kind="stable")
    before = enforced.take(order)
    before_row, was_enforced = find(before.handle, wanted.handle)
    drifted = np.zeros(len(wanted), bool)
    for name in _SETTINGS:
        drifted |= _at(getattr(before, name), before_row) != _at(getattr(actual, name), row)
    return was_enforced & (drifted | ~present)


def _at(column: I8, row: I8) -> I8:
    """Look up rows; where the column is empty nothing was found and the value does not matter."""
    return column[row] if len(column) else np.zeros(len(row), np.int64)


def _joined(*parts: Classes) -> Classes:
    return Classes(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Classes.__dataclass_fields__},
    )
