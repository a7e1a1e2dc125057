"""Adopted: one network device whose HTB tree somebody else has built.

Turns such a device into snapshots, and changes of ceilings into outcomes. Knows: that any HTB at the root will do, and
any below the classes of an mq, one for each hardware queue; that the kernel replaces all of a class when a part of it
is changed. Does not know: which lane a class belongs to, what a ceiling is for.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import I8, Act, Changes, Endings, Outcomes, Snapshot
from bwexporter.errors import KernelUnreadable
from bwexporter.kernel import dump, wire
from bwexporter.kernel.htb import Device


class AdoptedDevice(Device):
    """The door to a device with somebody else's tree: nothing is built, made or removed there, only ceilings change.

    A change reads the class anew and sends it back with another ceiling: its rate, priority, quantum, bursts, overhead
    and whatever else there is stay as their owner has them.
    """

    def __init__(self, name: str, *, hold: Callable[[int], socket.socket] | None = None) -> None:
        super().__init__(name, hold=hold)
        self._before: _Before | None = None
        self._sent: Mapping[int, int] = {}  # by each tree, by major, at the look that is being taken

    def apply(self, changes: Changes) -> Outcomes:
        """Set the ceilings that the changes say, each with an outcome of its own, and read them back."""
        if not self._ifindex:
            raise ValueError("a device is looked at before it is changed")
        count = len(changes)
        with self._lock:
            refused = self._guard()
            outcome = np.full(count, refused or errno.EOPNOTSUPP, np.int32)
            enforced = np.zeros(count, np.int64)
            rows = np.flatnonzero(changes.act == Act.CHANGE.value)
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
        return dump.decode_classes(endings, len(endings))[0].handle

    def _own_root(self, ifindex: int) -> dump.Qdisc | None:
        """Return the root queue where it is an HTB, whosever it is, or has some below it: with the sums of those."""
        code, root = self._ask_root(ifindex)
        trees = self._trees_of(ifindex, root) if root and not code else []
        if root is None or not trees:
            kind = f"but {root.kind} {root.handle >> 16:x}:" if root and root.handle else "and no other tree"
            nowhere = " nor below that one's queues" if root and root.kind == "mq" else ""
            raise KernelUnreadable(
                f"{self.name} has no HTB at its root ({kind}){nowhere}: build the tree that `tree: existing` speaks "
                "of, or write tree: managed"
            )
        self._trees = tuple(tree.handle for tree in trees)
        self._listener.majors = frozenset(handle >> 16 for handle in self._trees)
        self._listener.above = 0 if root.kind == "htb" else root.handle >> 16
        self._sent = {tree.handle >> 16: tree.sent_bytes for tree in trees}
        sums = (sum(tree.sent_bytes for tree in trees), sum(tree.direct_packets for tree in trees))
        return replace(root, sent_bytes=sums[0], direct_packets=sums[1])

    def _trees_of(self, ifindex: int, root: dump.Qdisc) -> list[dump.Qdisc]:
        """Return the HTBs of the device: the root itself, or those below the classes of an mq."""
        if root.kind == "htb" or not root.handle:
            return [root] if root.kind == "htb" else []
        if root.kind != "mq":
            return []
        used, _ = self._requests.dump(wire.RTM_GETTCLASS, wire.Place(ifindex, 0, root.handle))
        handles = [handle for handle in dump.queues_below(self._requests.arena, used) if handle]
        first, flags = self._requests.reserve(len(handles)), wire.NLM_F_ECHO | wire.NLM_F_ACK
        questions = b"".join(
            wire.encode_request(wire.RTM_GETQDISC, flags, first + row, wire.Place(ifindex, handle, 0))
            for row, handle in enumerate(handles)
        )
        _, used = self._requests.exchange(questions, len(handles), first)
        return [queue for queue in dump.decode_qdiscs(self._requests.arena, used) if queue.kind == "htb"]

    def _snapshot(self, ifindex: int, root: dump.Qdisc | None, block: I8, *, clean: bool) -> Snapshot:
        """Put a look together, with the ends of the classes of trees that were deleted from below an mq."""
        ended, before = self._ended_trees(), self._before
        snapshot = super()._snapshot(ifindex, root, block, clean=clean)
        if ended and before is not None and before.look.ifindex == ifindex:
            snapshot = replace(snapshot, endings=before.ended(ended, snapshot.endings))
        self._before = _Before(snapshot, before.look if before else None, self._sent)
        return snapshot

    def _ended_trees(self) -> dict[int, int | None]:
        """Return the trees below an mq that were deleted since the last look, by major, with what each had sent.

        With an mq all of them go. The kernel then tells one sum, which is no longer that of the trees.
        """
        ended: dict[int, int | None] = {}
        for queue in self._listener.roots:
            if queue.kind == "mq" and self._before is not None:
                ended = dict.fromkeys(self._before.sent, None) | ended
            elif queue.kind == "htb" and queue.parent != wire.TC_H_ROOT:
                ended.setdefault(queue.handle >> 16, queue.sent_bytes)
        return ended

    def _owns(self, root: dump.Qdisc) -> bool:
        """Say whether a root queue that has ended had all our classes."""
        return root.kind == "htb" and root.parent == wire.TC_H_ROOT


class _Before(NamedTuple):
    """The last look, the one before it, and what each tree had sent at the last, by major."""

    look: Snapshot
    earlier: Snapshot | None
    sent: Mapping[int, int]

    def ended(self, trees: Mapping[int, int | None], told: Endings) -> Endings:
        """Return the ends that were told, and those of all other classes of trees that were deleted whole.

        The kernel tells only what such a tree has sent. What it sent since the last look is shared out among its leaf
        classes, by what each had sent between the looks before.
        """
        classes, counts = self.look.classes, self.look.counts
        major, is_told = classes.handle >> 16, np.isin(classes.handle, told.handle)
        leaf = ~np.isin(classes.handle, classes.parent)
        sent = counts.sent_bytes.copy()
        for tree, total in trees.items():
            if total is not None and tree in self.sent:
                below = leaf & (major == tree)
                single = np.isin(told.handle, classes.handle[below])
                known = int(told.sent_bytes[single].sum() - counts.sent_bytes[below & is_told].sum())
                sent += _shared(total - self.sent[tree] - known, self._weights(), below & ~is_told)
        rows = np.flatnonzero(np.isin(major, list(trees)) & ~is_told)
        columns = (classes.handle, classes.leaf, sent, counts.sent_packets, counts.dropped_packets, counts.overlimits)
        names = Endings.__dataclass_fields__
        both = zip(names, columns, strict=True)
        return Endings(**{name: np.concatenate([getattr(told, name), column[rows]]) for name, column in both})

    def _weights(self) -> tuple[I8, ...]:
        """Return what each class sent between the last two looks, where that is known, and all that it has sent."""
        sent, earlier = self.look.counts.sent_bytes, self.earlier
        if earlier is None or not np.array_equal(earlier.classes.handle, self.look.classes.handle):
            return (sent,)
        return (sent - earlier.counts.sent_bytes).clip(0), sent


def _shared(total: int, weights: Sequence[I8], among: NDArray[np.bool_]) -> I8:
    """Split bytes over rows in proportion to the first weight that any of them has, in integers of the same sum."""
    weight = next((one for one in weights if one[among].any()), np.ones(len(among), np.int64))
    whole = int(weight[among].sum())
    if total <= 0 or not whole:
        return np.zeros(len(among), np.int64)
    edges = np.array([0, *(total * upto // whole for upto in np.cumsum(np.where(among, weight, 0)).tolist())], np.int64)
    return edges[1:] - edges[:-1]
