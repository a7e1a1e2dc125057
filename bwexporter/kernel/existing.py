"""Existing: the classes of a tree that somebody else has built.

Turns tariffs and verdicts into wanted classes, which differ from what is there in their ceilings alone. Knows: which
class a slice's record names, that a ceiling is given back where no slice names its class any more. Does not know: what
the kernel has beyond the last look, sockets, how a class is changed, where first sights are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from bwexporter.core.lanes import B1, I8, Classes, Lane, Snapshot, Tariffs, Verdicts, no_classes
from bwexporter.core.places import find
from bwexporter.core.sights import UNSEEN, Kept, Sights, asked_for, looked, open_sights, without


class Memory:
    """What is known of somebody else's classes on one device, from roll to roll. `keep` is told what must last."""

    def __init__(self, kept: Kept | None, keep: Callable[[Kept], None], *, boot_id: str, ifindex: int) -> None:
        self.sights: Sights = open_sights(kept, boot_id=boot_id, ifindex=ifindex)
        self.actual: Classes = no_classes()  # of the last look
        self._boot_id, self._ifindex, self._keep = boot_id, ifindex, keep

    def look(self, snapshot: Snapshot, claimed: I8) -> None:
        """Take in a look at the device."""
        before = self.sights
        same_device = snapshot.ifindex == self._ifindex
        self.sights = looked(before, snapshot, claimed, same_device=same_device)
        self.actual, self._ifindex = snapshot.classes, snapshot.ifindex
        if not (same_device and _same(before, self.sights)):
            self._remember()

    def ask(self, classes: Classes) -> None:
        """Take in what is being asked of the kernel."""
        self.sights = asked_for(self.sights, classes)

    def forget(self, handles: I8) -> None:
        """Forget classes that are as their owner has them."""
        if len(handles):
            self.sights = without(self.sights, handles)
            self._remember()

    def _remember(self) -> None:
        found = dict(zip(self.sights.handle.tolist(), self.sights.found.tolist(), strict=True))
        self._keep(Kept(self._boot_id, self._ifindex, found))


@dataclass(frozen=True, slots=True)
class ExistingTree:
    """The tree of one device that somebody else has built: ceilings are changed and given back, and nothing else.

    `classes` are the handles that slices' records name. A lane in `as_found` has the ceiling at first sight as its full
    rate; every other one has what is written.
    """

    builds: ClassVar = False

    device: str
    cap_bytes_per_second: int
    line_rate_bytes_per_second: int
    classes: Mapping[Lane, int]
    as_found: frozenset[Lane]
    memory: Memory

    def handles(self, tariffs: Tariffs) -> I8:
        """Return the class of each lane, in the order of the tariffs."""
        return np.array([self.classes[lane] for lane in tariffs.lanes], np.int64)

    def owns(self, handles: I8) -> B1:
        """Mark no class: none is ours to remove."""
        return np.zeros(len(handles), bool)

    def fitted(self, tariffs: Tariffs, snapshot: Snapshot) -> Tariffs:
        """Return the tariffs with the full rates of the classes that there are; the very same where they fit."""
        handles = self.handles(tariffs)
        self.memory.look(snapshot, handles)
        sights = self.memory.sights
        row, known = find(sights.handle, handles)
        found = sights.found[row] if len(sights) else np.full(len(handles), UNSEEN)
        takes = known & np.array([lane in self.as_found for lane in tariffs.lanes], bool)
        full = np.where(takes, found, tariffs.full_bytes_per_second)
        return _with_full(tariffs, full)

    def told(self, tariffs: Tariffs, found: Mapping[Lane, int]) -> Tariffs:
        """Return the tariffs with full rates that classes were found with at another time, as far as they are known."""
        written = zip(tariffs.lanes, tariffs.full_bytes_per_second.tolist(), strict=True)
        full = [found.get(lane, rate) if lane in self.as_found else rate for lane, rate in written]
        return _with_full(tariffs, np.array(full, np.int64))

    def wanted(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        """Return the classes of lanes as they are, but for their ceilings, then those that are to be given back."""
        actual, handles = self.memory.actual, self.handles(tariffs)
        row, present = find(actual.handle, handles)
        sights = self.memory.sights.take(~np.isin(self.memory.sights.handle, handles))
        given_back, there = find(actual.handle, sights.handle)
        rows = np.concatenate([row[present], given_back[there]])
        ceiling = np.concatenate([verdicts.asked_ceiling_bytes_per_second[present], sights.found[there]])
        classes = replace(actual.take(rows), ceiling_bytes_per_second=ceiling, leaf=np.zeros(len(rows), np.int64))
        done = actual.ceiling_bytes_per_second[rows] == ceiling
        self.memory.forget(sights.handle[there][done[int(present.sum()) :]])
        self.memory.ask(classes)
        return classes


def _with_full(tariffs: Tariffs, full: I8) -> Tariffs:
    if np.array_equal(full, tariffs.full_bytes_per_second):
        return tariffs
    guarantee = np.minimum(tariffs.guarantee_bytes_per_second, full)
    return replace(tariffs, full_bytes_per_second=full, guarantee_bytes_per_second=guarantee)


def _same(before: Sights, now: Sights) -> bool:
    return np.array_equal(before.handle, now.handle) and np.array_equal(before.found, now.found)
