"""Plan: the smallest list of changes from the actual to the wanted classes.

Turns wanted and actual classes into changes. Knows: when a class is already right, and in which order changes are safe
(parents are made before their children, classes of nobody go last and children first). Does not know: why a ceiling is
wanted, what a handle means, how a change is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bwexporter.core.lanes import B1, I8, Act, Changes, Classes, Counters, Snapshot, no_classes
from bwexporter.core.places import Places, find, is_among, placed

_SETTINGS = ("rate_bytes_per_second", "ceiling_bytes_per_second", "quantum_bytes", "burst_ns", "ceiling_burst_ns")
_DEEPEST = 8  # levels of classes that HTB has


def diff(
    wanted: Classes,
    snapshot: Snapshot,
    *,
    ours: B1,
    known: Counters,
    enforced: Classes | None,
    places: Places | None = None,
) -> Changes:
    """Return what is to be done so that the kernel has the wanted classes; nothing where it has them.

    `wanted` lists parents before children. `ours` marks the snapshot's classes that are ours to remove. `known` tells
    classes that belonged to a lane from strangers. `enforced` is what was last asked of the kernel and accepted, None
    after a start: a class that differs from it has drifted. `places` are those of the wanted classes in the snapshot,
    where they are known already.
    """
    actual = snapshot.classes
    places = places or placed(actual, wanted.handle)
    misplaced = _misplaced(wanted, places)
    in_place = places.present & ~misplaced
    changed = np.flatnonzero(in_place & _differ(wanted, actual, places.row))
    unwanted = places.strange[ours[places.strange]]
    if in_place.all() and not len(unwanted):
        return _changes_alone(wanted, changed, snapshot, enforced, places.row[changed])
    first, last = np.zeros(len(actual), bool), np.zeros(len(actual), bool)
    last[unwanted] = True
    if misplaced.any():
        # What is below a wrong parent cannot be moved in place: it is removed first and made where it belongs.
        first, last = last, first
        first[places.row[misplaced]] = True
    gone_first, gone_last = _deepest_first(actual, first), _deepest_first(actual, last)
    made = np.flatnonzero(~in_place)
    parts = ((actual, gone_first), (wanted, made), (wanted, changed), (actual, gone_last))
    touched = np.concatenate([made, changed])
    drifted = _drifted(wanted, touched, actual, enforced, places.row[touched], in_place[touched])
    lengths = (len(gone_first), len(made), len(changed), len(gone_last))
    before = actual.ceiling_bytes_per_second
    return Changes(
        act=np.repeat(np.array([Act.REMOVE, Act.CREATE, Act.CHANGE, Act.REMOVE], np.int8), lengths),
        drift=np.concatenate(
            [np.zeros(len(gone_first), bool), drifted, np.zeros(len(gone_last), bool)],
        ),
        stranger=np.concatenate(
            [
                _strangers(actual, gone_first, wanted, known),
                np.zeros(len(made) + len(changed), bool),
                _strangers(actual, gone_last, wanted, known),
            ],
        ),
        before_ceiling_bytes_per_second=np.concatenate(
            [before[gone_first], np.zeros(len(made), np.int64), _at(before, places.row[changed]), before[gone_last]],
        ),
        classes=_joined(*(classes.take(rows) for classes, rows in parts if len(rows))),
        build_tree=not snapshot.tree_present,
    )


def _changes_alone(wanted: Classes, changed: I8, snapshot: Snapshot, enforced: Classes | None, row: I8) -> Changes:
    """Return changes of settings, where no class comes, goes or moves: those of most turns."""
    actual = snapshot.classes
    return Changes(
        act=np.full(len(changed), Act.CHANGE.value, np.int8),
        drift=_drifted(wanted, changed, actual, enforced, row, np.ones(len(changed), bool)),
        stranger=np.zeros(len(changed), bool),
        before_ceiling_bytes_per_second=_at(actual.ceiling_bytes_per_second, row),
        classes=wanted.take(changed),
        build_tree=not snapshot.tree_present,
    )


def spread(
    changes: Changes, most: int, *, urgent: I8, refused: I8, recent_bytes_per_second: Mapping[int, float]
) -> tuple[Changes, I8]:
    """Return the changes with no more than `most` creations and removals, and the handles of classes that must wait.

    Making a class costs the kernel time in proportion to the classes that there are, so that thousands are made over
    several turns. Inner classes come first, then `urgent` ones, then those of lanes that sent of late (by handle), each
    in the order wanted, and last those that were `refused` before; removals come after creations. Moving classes from
    below a wrong parent is not spread.
    """
    created, removed = np.flatnonzero(changes.act == Act.CREATE.value), np.flatnonzero(changes.act == Act.REMOVE.value)
    if len(created) + len(removed) <= most or (len(removed) and len(created) and removed[0] < created[0]):
        return changes, np.empty(0, np.int64)
    classes = changes.classes.take(created)
    rate = np.array([recent_bytes_per_second.get(handle, 0.0) for handle in classes.handle.tolist()])
    late, refused_before = ~is_among(classes.handle, urgent), is_among(classes.handle, refused)
    order = np.lexsort((-rate, late, refused_before, classes.leaf > 0))
    now = np.sort(created[order[:most]])
    stays = np.ones(len(changes), bool)
    stays[created] = stays[removed] = False
    stays[now] = stays[removed[: most - len(now)]] = True
    return replace(changes.take(stays), classes=changes.classes.take(stays)), classes.handle[order[most:]]


def settled(
    enforced: Classes | None, changes: Changes, accepted: B1, wanted: Classes, *, waiting: I8 | None = None
) -> Classes:
    """Return what the kernel has been asked for and has accepted: the base that drift is measured against.

    A refused row, and one that waits, is left as it was last enforced, or out where it never was.
    """
    waiting = np.empty(0, np.int64) if waiting is None else waiting
    if accepted.all() and not len(waiting):
        return wanted
    refused = changes.classes.handle[(changes.act != Act.REMOVE.value) & ~accepted]
    refused = np.isin(wanted.handle, np.concatenate([refused, waiting]))
    if not refused.any():
        return wanted
    kept = wanted.take(~refused)
    if enforced is None:
        return kept
    return _joined(kept, enforced.take(np.isin(enforced.handle, wanted.handle[refused])))


def _misplaced(wanted: Classes, places: Places) -> B1:
    """Mark classes below a wrong parent and all that should stand below them, which are in the way of moving them."""
    misplaced: B1 = places.present & (places.parent != wanted.parent)
    found = 0
    while found < (found := int(np.count_nonzero(misplaced))):
        misplaced |= places.present & np.isin(wanted.parent, wanted.handle[misplaced])
    return misplaced


def _deepest_first(actual: Classes, chosen: B1) -> I8:
    """Return the rows of the chosen classes in an order in which none is removed before its children."""
    if not chosen.any():
        return np.empty(0, np.int64)
    above, inner = find(actual.handle, actual.parent)
    depth = np.zeros(len(actual), np.int64)
    for _ in range(_DEEPEST):
        depth = np.where(inner, depth[above] + 1, 0)
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-depth[rows], kind="stable")]


def _strangers(actual: Classes, rows: I8, wanted: Classes, known: Counters) -> B1:
    """Mark classes that belong to nobody: neither wanted now nor ever a lane's."""
    handle = actual.handle[rows]
    if not len(handle):
        return np.empty(0, bool)
    strange: B1 = ~is_among(handle, known.handle) & ~is_among(handle, wanted.handle)
    return strange


def _differ(wanted: Classes, actual: Classes, row: I8) -> B1:
    differ = np.zeros(len(wanted), bool)
    for name in _SETTINGS:
        differ |= getattr(wanted, name) != _at(getattr(actual, name), row)
    return differ | _lacks_leaf(wanted.leaf, actual, row)


def _lacks_leaf(wanted_leaf: I8, actual: Classes, row: I8) -> B1:
    """Mark classes whose leaf queue is gone: the kernel gave them one of its own, without bound and without a name."""
    lacks: B1 = (wanted_leaf > 0) & (_at(actual.leaf, row) == 0)
    return lacks


def _drifted(wanted: Classes, rows: I8, actual: Classes, enforced: Classes | None, actual_row: I8, in_place: B1) -> B1:
    """Mark the rows of wanted classes that were enforced once and now are gone or have other settings."""
    if enforced is None or not len(enforced) or not len(rows):
        return np.zeros(len(rows), bool)
    row, was_enforced = rows, np.ones(len(rows), bool)
    if enforced.handle is not wanted.handle:
        order = np.argsort(enforced.handle, kind="stable")
        row, was_enforced = find(enforced.handle[order], wanted.handle[rows])
        row = order[row]
    drifted = np.zeros(len(rows), bool)
    for name in _SETTINGS:
        drifted |= getattr(enforced, name)[row] != _at(getattr(actual, name), actual_row)
    drifted |= _lacks_leaf(wanted.leaf[rows], actual, actual_row)
    return was_enforced & (drifted | ~in_place)


def _at(column: I8, row: I8) -> I8:
    """Look up rows; where the column is empty nothing was found and the value does not matter."""
    return column.take(row) if len(column) else np.zeros(len(row), np.int64)


def _joined(*parts: Classes) -> Classes:
    if len(parts) < 2:
        return parts[0] if parts else no_classes()
    return Classes(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Classes.__dataclass_fields__},
    )
