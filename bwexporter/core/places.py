"""Places: where classes stand in a dump.

Turns handles into rows of a dump. Knows: how a number is found among sorted ones, and that a device mostly has the
same classes look after look, so that what was found in one dump holds for the next. Does not know: whose a class is,
what it has counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bwexporter.core.lanes import B1, I8, Classes

_TABLE_SPAN = 64  # numbers in the span that are looked through for each one that is sought


@dataclass(frozen=True, slots=True)
class Places:
    """Where classes that are sought stand in a dump."""

    dumped_handle: I8
    dumped_parent: I8
    handle: I8  # of each sought class, as are the next three
    row: I8  # in the dump; any row where the class is absent
    present: B1
    parent: I8  # 0 where the class is absent
    strange: I8  # rows of the dump that nobody sought
    inner: I8  # rows of the dump: of classes that have children
    whole: bool  # no class is absent
    _below: dict[int, I8] = field(default_factory=dict, init=False, repr=False, compare=False)
    _strange_below: dict[int, I8] = field(default_factory=dict, init=False, repr=False, compare=False)

    def below(self, inner: int) -> I8:
        """Return which of the sought classes stand right below an inner class."""
        if inner not in self._below:
            self._below[inner] = np.flatnonzero(self.parent == inner)
        return self._below[inner]

    def strange_below(self, inner: int) -> I8:
        """Return the rows of the dump that nobody sought and that stand right below an inner class."""
        if inner not in self._strange_below:
            self._strange_below[inner] = self.strange[self.dumped_parent[self.strange] == inner]
        return self._strange_below[inner]

    def hold(self, classes: Classes, handle: I8) -> bool:
        """Say whether these are the places of such handles in such a dump."""
        return (
            (self.handle is handle or np.array_equal(self.handle, handle))
            and np.array_equal(self.dumped_handle, classes.handle)
            and np.array_equal(self.dumped_parent, classes.parent)
        )


def placed(classes: Classes, handle: I8, kept: Places | None = None) -> Places:
    """Find classes in a dump, whose handles are sorted; the very `kept` is returned where it still holds."""
    if kept is not None and kept.hold(classes, handle):
        return kept
    row, present = find(classes.handle, handle)
    return Places(
        dumped_handle=classes.handle.copy(),  # not a view of all that the dump holds
        dumped_parent=classes.parent.copy(),
        handle=handle,
        row=row,
        present=present,
        parent=np.where(present, classes.parent[row], 0) if len(classes) else np.zeros(len(handle), np.int64),
        strange=np.flatnonzero(~found(classes.handle, handle)),
        inner=np.flatnonzero(found(classes.handle, classes.parent)),
        whole=bool(present.all()) and len(classes) > 0,
    )


def find(sorted_handles: I8, handles: I8) -> tuple[I8, B1]:
    """Return for each handle its row among sorted ones (any row where absent), and whether it is there."""
    if not len(sorted_handles):
        return np.zeros(len(handles), np.int64), np.zeros(len(handles), bool)
    lowest = int(sorted_handles[0])
    span = int(sorted_handles[-1]) - lowest + 1
    if span > _TABLE_SPAN * len(handles):
        row = np.minimum(np.searchsorted(sorted_handles, handles), len(sorted_handles) - 1)
    else:  # Where the numbers lie close together, a table of all of them is ten times as fast as a search for each.
        row_of = np.zeros(span, np.int64)
        row_of[sorted_handles - lowest] = np.arange(len(sorted_handles))
        row = row_of.take(handles - lowest, mode="clip")
    return row, sorted_handles.take(row) == handles


def found(sorted_handles: I8, sought: I8) -> B1:
    """Mark the sorted handles that are sought."""
    row, present = find(sorted_handles, sought)
    marked = np.zeros(len(sorted_handles), bool)
    marked[row[present]] = True
    return marked


def is_among(handles: I8, others: I8) -> B1:
    """Mark the handles that stand among others."""
    return find(np.sort(others), handles)[1]
