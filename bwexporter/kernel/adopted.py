"""Adopted: one network device whose HTB tree somebody else has built.

Turns such a device into snapshots, and changes of ceilings into outcomes. Knows: that any HTB at the root will do, that
the kernel replaces all of a class when a part of it is changed. Does not know: which lane a class belongs to, what a
ceiling is for.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import I8, Act, Changes, Outcomes
from bwexporter.errors import KernelUnreadable
from bwexporter.kernel import wire
from bwexporter.kernel.htb import Device


class AdoptedDevice(Device):
    """The door to a device with somebody else's tree: nothing is built, made or removed there, only ceilings change.

    A change reads the class anew and sends it back with another ceiling: its rate, priority, quantum, bursts, overhead
    and whatever else there is stay as their owner has them.
    """

    def apply(self, changes: Changes) -> Outcomes:
        """Set the ceilings that the changes say, each with an outcome of its own, and read them back."""
        if not self._ifindex:
            raise ValueError("a device is looked at before it is changed")
        count = len(changes)
        with self._lock:
            refused = self._guard()
            outcome = np.full(count, refused or errno.EOPNOTSUPP, np.int32)
            enforced = np.zeros(count, np.int64)
            rows = np.flatnonzero(changes.act == Act.CHANGE)
            if not refused and len(rows):
                self._set_ceilings(changes, rows, outcome)
                self._read_back(changes.classes.handle[rows], rows, enforced)
        return Outcomes(outcome, enforced, refused)

    def remove_tree(self) -> bool:
        """Remove nothing: the tree is not ours."""
        return False

    def _guard(self) -> int:
        """Return 0 unless the root queue was replaced since the look: another tree is to be looked at first."""
        self._drain(self._ifindex)
        return errno.ESTALE if self._listener.root_changed else 0

    def _set_ceilings(self, changes: Changes, rows: I8, outcome: NDArray[np.int32]) -> None:
        """Set ceilings of classes that are still those that were looked at."""
        outcome[rows] = np.where(np.isin(changes.classes.handle[rows], self._ended()), errno.ESTALE, errno.ENOENT)
        rows = rows[outcome[rows] == errno.ENOENT]
        handles, ceilings = changes.classes.handle[rows], changes.classes.ceiling_bytes_per_second[rows]
        used = self._ask_classes(handles)
        wanted = dict(zip(handles.tolist(), ceilings.tolist(), strict=True))
        first, batch = self._requests.reserve(len(rows)), self._requests.batch
        told, data = wire.encode_ceilings(self._requests.arena, used, wanted, first_seq=first, batch=batch)
        row_of = dict(zip(handles.tolist(), rows.tolist(), strict=True))
        if told:
            outcome[[row_of[handle] for handle in told]], _ = self._requests.exchange(data, len(told), first)

    def _ended(self) -> I8:
        """Return the classes that have ended since the look, and may have been made anew."""
        endings = bytes(self._listener.endings)
        return wire.decode_classes(endings, len(endings))[0].handle

    def _own_root(self, ifindex: int) -> wire.Qdisc | None:
        """Return the root queue where it is an HTB, whosever it is."""
        code, root = self._ask_root(ifindex)
        if code or root is None or root.kind != "htb":
            kind = f"but {root.kind} {root.handle >> 16:x}:" if root and root.handle else "and no other tree"
            raise KernelUnreadable(
                f"{self.name} has no HTB at its root ({kind}): build the tree that `tree: existing` speaks of, or "
                "write tree: managed"
            )
        self._tree_handle = self._listener.tree_handle = root.handle
        return root

    def _owns(self, root: wire.Qdisc) -> bool:
        """Say whether a root queue that has ended had our classes."""
        return root.kind == "htb"
