"""Sights: the ceilings that classes of somebody else's tree have when nobody lowers them.

Turns looks at such classes, and what we asked for in between, into the full rate of each. Pure. Knows: whose word a
ceiling is. Does not know: lanes, verdicts, how a ceiling is changed.

The ceiling at first sight is the owner's word, and is remembered over restarts of the program: seen after a restart, a
class may be capped by us. From then on a ceiling is ours if it has not changed since the last look, or is what we asked
for since; any other is the owner's new word. The first look of a program cannot know what was asked before, so it takes
only a higher ceiling for a new word: we never ask for more than the owner's. A class that was made anew is seen anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bwexporter.core.lanes import B1, I8, Classes, Columns, Snapshot
from bwexporter.core.places import find

UNSEEN = -1


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of one device over a restart: found ceilings (bytes per second) by handle.

    It is of no use after a reboot, or for another device of that name.
    """

    boot_id: str
    ifindex: int
    found: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Sights(Columns):
    """What is known of classes, sorted by handle; all but handles in bytes per second."""

    handle: I8
    found: I8  # the owner's word
    seen: I8  # at the last look; UNSEEN before the first one of this program
    asked: I8  # since then; UNSEEN where nothing was


def open_sights(kept: Kept | None, *, boot_id: str, ifindex: int) -> Sights:
    """Return what is remembered of this very device since the machine was started."""
    found = kept.found if kept is not None and (kept.boot_id, kept.ifindex) == (boot_id, ifindex) else {}
    handle = np.array(sorted(found), np.int64)
    unseen = np.full(len(handle), UNSEEN)
    return Sights(handle, np.array([found[one] for one in handle.tolist()], np.int64), unseen, unseen.copy())


def looked(sights: Sights, snapshot: Snapshot, claimed: I8, *, same_device: bool) -> Sights:
    """Take in a look: what of the claimed classes is there is known from now on, and what has ended is forgotten."""
    known = sights.take(~_ended(sights.handle, snapshot, same_device=same_device))
    classes = snapshot.classes
    there = find(classes.handle, known.handle)[1]
    known = known.take(there | (not snapshot.clean))
    new = np.setdiff1d(claimed, known.handle)
    new = new[find(classes.handle, new)[1]]
    order = np.argsort(np.concatenate([known.handle, new]), kind="stable")
    handle = np.concatenate([known.handle, new])[order]
    found, seen, asked = (
        np.concatenate([column, np.full(len(new), UNSEEN)])[order] for column in (known.found, known.seen, known.asked)
    )
    row, present = find(classes.handle, handle)
    now = np.where(present, classes.ceiling_bytes_per_second[row], seen) if len(classes) else seen
    ours = np.where(seen == UNSEEN, now <= found, now == seen) | (now == asked) | ~present
    return Sights(handle, np.where(ours, found, now), now, np.full(len(handle), UNSEEN))


def asked_for(sights: Sights, classes: Classes) -> Sights:
    """Remember what is being asked for."""
    row, present = find(sights.handle, classes.handle)
    asked = sights.asked.copy()
    asked[row[present]] = classes.ceiling_bytes_per_second[present]
    return Sights(sights.handle, sights.found, sights.seen, asked)


def without(sights: Sights, handles: I8) -> Sights:
    """Forget classes: they are as their owner has them."""
    return sights.take(~np.isin(sights.handle, handles))


def _ended(handle: I8, snapshot: Snapshot, *, same_device: bool) -> B1:
    if snapshot.tree_endings_bytes or not same_device:
        return np.ones(len(handle), bool)
    ended: B1 = np.isin(handle, snapshot.endings.handle)
    return ended
