"""Htb: one network device, its HTB tree as the kernel has it.

Turns a device into snapshots, and changes into outcomes. Knows: which root queue is ours, when a dump can be trusted,
how the kernel refuses, which leaf queue tells one life of a class from the next. Does not know: which lane a class
belongs to, what a ceiling is for, when to look.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import (
    I8,
    Act,
    Changes,
    Classes,
    DeviceFacts,
    Endings,
    Outcomes,
    Snapshot,
    no_classes,
    no_endings,
)
from bwexporter.core.places import find
from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel import dump, wire
from bwexporter.kernel.sockets import Listener, Requests
from bwexporter.kernel.tree import DEFAULT_MINOR

SIGNATURE_R2Q = 0x6277
"""r2q of a root queue of ours, "bw". It tells our tree from another htb 1:, and does nothing else: every class is sent
with a quantum of its own."""

_DUMPS = 3
_INGRESS_MAJOR = 0xFFFF
_PACKET_BYTES = 1514
_LEAF_TRIES = 4
_SOME_LEAF = 1  # wanted, under whichever handle
_HANDLE_TAKEN = (errno.EEXIST, errno.EINVAL)  # the latter where a kernel since 6.14 finds it below another class
_FEW_ROWS = 32
_CLASSES_OF_TREE = 1 << 16
_ACCEPTED, _NO_LEAF = np.zeros(1, np.int32), np.zeros(1, np.int64)


class Device:
    """The door to one network device. Methods may be called from any thread, one at a time.

    A foreign root queue is refused, unless `take_over`: then it counts as no tree, and `apply` replaces it. `hold` is
    asked once for each interface index that the device comes to have, and raises DeviceRefused where it is not ours.
    """

    def __init__(
        self, name: str, *, take_over: bool = False, hold: Callable[[int], socket.socket] | None = None
    ) -> None:
        self.name = name
        self._take_over = take_over
        self._hold = hold
        self._held: tuple[int, socket.socket] | None = None
        self._lock = threading.Lock()
        self._listener = Listener()
        self._requests = Requests()
        self._shapes: list[dump.Shape] = []
        self._reading = dump.Reading(self._shapes)
        self._ifindex = 0  # of the last look; 0 before the first
        self._trees: tuple[int, ...] = (wire.TREE_HANDLE,)  # whose classes are dumped
        self._missing = False  # the device had no such name when it was last sought
        self._classes = no_classes()  # of the last look
        self._listed = self._rows = np.empty(0, np.int64)  # handles of the last dump, and their order in the snapshot
        self._question = (0, 0)  # (port, seq) of our last question for the root queue
        self._leaf_kind = ""  # of LEAF_KINDS, the first that this kernel has; empty while nobody has asked it
        self._next_leaf = random.randrange(2, _INGRESS_MAJOR)  # noqa: S311 - any start that a restart does not repeat

    def __enter__(self) -> Self:
        """Return the device."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sockets."""
        self.close()

    def facts(self) -> DeviceFacts:
        """Return what the rooms need to know of the device; KernelUnreadable where it is missing."""
        ifindex = self._find()
        gso_max_bytes = _with_pyroute2(lambda route: route.get_links(ifindex)[0].get_attr("IFLA_GSO_MAX_SIZE"))
        return DeviceFacts(self.name, ifindex, self._line_rate(ifindex), gso_max_bytes or _PACKET_BYTES)

    def check_permission(self) -> None:
        """Raise DeviceRefused where classes may not be changed. Asks for the removal of a class of no device."""
        with self._lock:
            first = self._requests.reserve(1)
            data = wire.encode_request(wire.RTM_DELTCLASS, wire.NLM_F_ACK, first, wire.Place(0, 0, 0))
            outcome, _ = self._requests.exchange(data, 1, first)
        if outcome[0] == errno.EPERM:
            raise DeviceRefused(
                "changing HTB classes needs the capability CAP_NET_ADMIN; run as root or grant it, or use --shadow"
            )

    def look(self) -> Snapshot:
        """Look at the device: its classes, each once and sorted by handle, and what ended since the look before.

        KernelUnreadable where the device is missing or the kernel's answer is not whole; DeviceRefused where the root
        queue is foreign. What has ended is then kept for the next look.
        """
        with self._lock:
            for _ in range(_DUMPS):
                ifindex = self._find()
                self._keep(ifindex)
                self._drain(ifindex)
                self._listener.calm()
                self._listener.by_others = False
                root = self._own_root(ifindex)
                block, intact = self._dump(ifindex) if root else (_nothing(), True)
                self._drain(ifindex)
                clean = intact and not self._listener.stirred
                if clean:
                    break
            return self._snapshot(ifindex, root, block, clean=clean)

    def apply(self, changes: Changes) -> Outcomes:
        """Do what the changes say, in their order, and read back what they made of the classes.

        The tree must have been looked at before. A refused row has the kernel's errno and disturbs no other: EEXIST for
        a creation of what is there, ENOENT for a class that is gone (but a removal of it is done) or whose parent is
        missing. Where the root queue cannot be ours, all rows have the errno of the tree.
        """
        if not self._ifindex:
            raise ValueError("a device is looked at before it is changed")
        with self._lock:
            refused = self._build() if changes.build_tree else self._guard()
            if not refused and len(changes) == 1 and self._is_setting(changes):
                return self._set(changes.classes)
            outcome = np.full(len(changes), refused, np.int32)
            enforced = np.zeros(len(changes), np.int64)
            leaves = np.zeros(len(changes), np.int64)
            if not refused:
                self._apply_rows(changes, outcome, enforced, leaves)
            return Outcomes(outcome, enforced, refused, leaves)

    def remove_tree(self) -> bool:
        """Remove the tree with all its classes; say whether there was one. DeviceRefused where it cannot be removed."""
        with self._lock:
            ifindex = self._find()
            if self._own_root(ifindex) is None:
                return False
            self._ifindex = ifindex
            code = self._change_root("del", handle=wire.TREE_HANDLE)
        if code:
            raise DeviceRefused(f"the tree of {self.name} could not be removed: {os.strerror(code)}")
        return True

    def fresh_leaves(self, count: int) -> I8:
        """Return handles for leaf queues that no class has had; a change that names one gives it to its class."""
        with self._lock:
            taken = self._taken_leaves()
            return np.array([self._leaf_handle(taken) for _ in range(count)], np.int64)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a class, a queue or a link changes."""
        return self._listener.fileno()

    def disturbed(self) -> bool:
        """Take in what there is to hear; say whether somebody else changed the tree or the link since the last look.

        Of a device that is missing, whether any device has come: which one it is only a look can tell.
        """
        with self._lock:
            self._drain(self._ifindex)
            return self._listener.link_came if self._missing else self._listener.by_others

    def close(self) -> None:
        """Close the sockets; the classes stay as they are."""
        with self._lock:
            self._listener.close()
            self._requests.close()
            if self._held is not None:
                self._held[1].close()

    def _find(self) -> int:
        self._listener.link_came, self._missing = False, False
        try:
            return self._requests.ifindex_of(self.name)
        except OSError as error:
            self._missing = True
            raise KernelUnreadable(f"device {self.name} is not there") from error

    def _keep(self, ifindex: int) -> None:
        """Hold the device under the index that it has now; the one it had is then free."""
        if self._hold is None or (self._held is not None and self._held[0] == ifindex):
            return
        before, self._held = self._held, (ifindex, self._hold(ifindex))
        if before is not None:
            before[1].close()

    def _line_rate(self, ifindex: int) -> int | None:
        """Read the line rate from sysfs, which may show another network namespace than ours: then it says nothing."""
        place = Path("/sys/class/net") / self.name
        try:
            if int((place / "ifindex").read_text()) != ifindex:
                return None
            megabits = int((place / "speed").read_text())
        except (OSError, ValueError):
            return None
        return megabits * 125_000 if megabits > 0 else None

    def _drain(self, ifindex: int) -> None:
        self._listener.pass_over(self._requests.port)
        self._listener.drain(frozenset({self._ifindex, ifindex}), self._question)

    def _ask_root(self, ifindex: int) -> tuple[int, dump.Qdisc | None]:
        """Ask for the root queue alone, as a dump would list every queue of the machine: (errno, queue or None)."""
        first = self._requests.reserve(1)
        place = wire.Place(ifindex, 0, wire.TC_H_ROOT)
        question = wire.encode_request(wire.RTM_GETQDISC, wire.NLM_F_ECHO | wire.NLM_F_ACK, first, place)
        self._question = (self._requests.port, first)
        refused, used = self._requests.exchange_one(question, first, acknowledged=True)
        if refused not in {0, errno.ENOENT, errno.EINVAL}:
            return refused, None
        return 0, dump.decode_qdisc(self._requests.arena, 0, used) if used else None

    def _own_root(self, ifindex: int) -> dump.Qdisc | None:
        """Return the root queue if it is ours, None where there is none or it may be replaced; refuse any other."""
        code, root = self._ask_root(ifindex)
        if code:
            raise KernelUnreadable(f"device {self.name} does not tell its root queue: {os.strerror(code)}")
        if root is None or self._owns(root):
            return root
        if root.handle and not self._take_over:
            raise DeviceRefused(
                f"{self.name} has a root queue that is not bwexporter's ({root.kind} {root.handle >> 16:x}:); "
                f"nothing was touched. Remove it with `tc qdisc del dev {self.name} root`, or start with --take-over"
            )
        return None

    def _dump(self, ifindex: int) -> tuple[I8, bool]:
        if len(self._trees) == 1:
            intact = self._requests.read(wire.Place(ifindex, 0, self._trees[0]), self._reading)
            return self._reading.block, intact
        blocks, intact = [_nothing()], True
        for tree in self._trees:
            intact &= self._requests.read(wire.Place(ifindex, 0, tree), self._reading)
            blocks.append(self._reading.block.copy())
        return np.concatenate(blocks, axis=1), intact

    def _snapshot(self, ifindex: int, root: dump.Qdisc | None, block: I8, *, clean: bool) -> Snapshot:
        """Put a look together; from here on what has ended counts as told."""
        listener = self._listener
        if listener.root_ended_since_calm:
            root, block = None, _nothing()
        rows = self._order(block, listener.endings_since_calm)
        classes, counts, backlog_bytes = dump.columns(block.take(rows, axis=1))
        snapshot = Snapshot(
            device=self.name,
            ifindex=ifindex,
            tree_present=root is not None,
            clean=clean,
            watched_since_last_look=ifindex == self._ifindex and not listener.lost and not listener.link_ended,
            classes=classes,
            counts=counts,
            backlog_bytes=backlog_bytes,
            endings=_endings(bytes(listener.endings)),
            tree_endings_bytes=tuple(ended.sent_bytes for ended in listener.roots if self._owns(ended)),
            tree_sent_bytes=root.sent_bytes if root else 0,
            direct_packets=root.direct_packets if root else 0,
        )
        self._ifindex, self._classes = ifindex, snapshot.classes
        listener.forget()
        return snapshot

    def _order(self, block: I8, ended: bytes) -> I8:
        """Return the rows of a snapshot; the kernel lists the same classes in the same order again and again."""
        if ended or not np.array_equal(block[dump.HANDLE], self._listed):
            self._listed = block[dump.HANDLE].copy()
            self._rows = _each_once(self._listed, block[dump.LEAF], _endings(ended))
            if ended:
                self._listed = np.empty(0, np.int64)
        return self._rows

    def _owns(self, root: dump.Qdisc) -> bool:
        """Say whether a root queue is one that we have built."""
        return _is_ours(root)

    def _guard(self) -> int:
        """Return 0 unless the root queue was replaced by a foreign one since the look."""
        self._drain(self._ifindex)
        if not self._listener.root_changed:
            return 0
        code, root = self._ask_root(self._ifindex)
        return code or (errno.EEXIST if root and root.handle and not self._owns(root) else 0)

    def _build(self) -> int:
        """Make the root queue, or find it made; the errno where it cannot be."""
        self._classes = no_classes()
        code, root = self._ask_root(self._ifindex)
        if code or (root and _is_ours(root)):
            return code
        if root and root.handle:
            code = self._change_root("del", handle=root.handle) if self._take_over else errno.EEXIST
        return code or self._change_root(
            "add", kind="htb", handle=wire.TREE_HANDLE, default=DEFAULT_MINOR, r2q=SIGNATURE_R2Q
        )

    def _change_root(self, verb: str, **settings: Any) -> int:
        from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - rarely needed, and 0.1 s to load

        try:
            _with_pyroute2(lambda route: route.tc(verb, index=self._ifindex, parent=wire.TC_H_ROOT, **settings))
        except NetlinkError as error:
            return int(error.code)
        return 0

    def _is_setting(self, changes: Changes) -> bool:
        """Say whether the first change is of a class alone, whose leaf queue stays as it is."""
        if changes.act.item(0) != Act.CHANGE:
            return False
        if not changes.classes.leaf.item(0):
            return True
        at, present = find(self._classes.handle, changes.classes.handle[:1])
        if not present.item(0):
            return True
        before, wanted = wire.leaf_packets(
            np.array([changes.before_ceiling_bytes_per_second[0], changes.classes.ceiling_bytes_per_second[0]])
        ).tolist()
        return bool(self._classes.leaf[at.item(0)]) and before == wanted

    def _set(self, classes: Classes) -> Outcomes:
        """Change one class, as is done most often in an early look."""
        seq = self._requests.reserve(1)
        message = wire.encode_change(classes, ifindex=self._ifindex, seq=seq)
        refused, used = self._requests.exchange_one(message, seq)
        told = dump.decode_ceiling(self._requests.arena, used, self._shapes)
        if told is not None and told[0] == classes.handle.item():
            enforced = np.array([told[1]])
        elif used:
            enforced = self._answers(used, classes.handle)
        else:
            enforced = np.zeros(1, np.int64)
            self._read_back(classes.handle, np.arange(1), enforced)
        return Outcomes(np.array([refused], np.int32) if refused else _ACCEPTED, enforced, 0, _NO_LEAF)

    def _apply_rows(self, changes: Changes, outcome: NDArray[np.int32], enforced: I8, leaves: I8) -> None:
        for act, rows in _runs(changes.act):
            if act is Act.CREATE:
                self._create(changes.classes, rows, outcome, enforced)
                continue
            if act is Act.CHANGE:
                # Before the class: should we die in between, the class still says that its queue is to be fitted.
                self._fit_leaves(changes, rows, leaves)
            self._send(changes.classes, rows, act, outcome, enforced)
        if not enforced.all():
            unread = np.flatnonzero((enforced == 0) & (changes.act != Act.REMOVE.value))
            self._read_back(changes.classes.handle[unread], unread, enforced)

    def _send(self, classes: Classes, rows: I8, act: Act, outcome: NDArray[np.int32], enforced: I8) -> None:
        """Send rows of one act; a few are answered at once with the class as it then is."""
        part = classes if len(rows) == len(classes) else classes.take(rows)
        first = self._requests.reserve(len(rows))
        data = wire.encode_classes(
            part, act, ifindex=self._ifindex, first_seq=first, echo=self._is_few(len(rows)), batch=self._requests.batch
        )
        refused, used = self._requests.exchange(data, len(rows), first)
        if act is Act.REMOVE:
            refused[refused == errno.ENOENT] = 0
        outcome[rows] = refused
        if used:
            enforced[rows] = self._answers(used, part.handle)

    def _create(self, classes: Classes, rows: I8, outcome: NDArray[np.int32], enforced: I8) -> None:
        """Create parents before their children: below a parent that is missing the kernel would make a root class."""
        present = np.append(self._classes.handle, wire.TREE_HANDLE)
        while len(rows):
            ready = np.isin(classes.parent[rows], present)
            if not ready.any():
                outcome[rows] = errno.ENOENT
                return
            wave, rows = rows[ready], rows[~ready]
            self._send(classes, wave, Act.CREATE, outcome, enforced)
            present = np.append(present, classes.handle[wave[np.isin(outcome[wave], (0, errno.EEXIST))]])
            made = wave[outcome[wave] == 0]
            made = made[classes.leaf[made] > 0]
            outcome[made], _ = self._add_leaves(classes, made, wire.NLM_F_EXCL)

    def _fit_leaves(self, changes: Changes, rows: I8, leaves: I8) -> None:
        """Let the queues of classes follow their ceilings, in place; a class without a queue of ours gets one.

        Where that fails the class is no worse than before, and the next look shows what is missing.
        """
        classes = changes.classes
        rows = rows[classes.leaf[rows] > 0]
        if not len(rows):
            return
        at, present = find(self._classes.handle, classes.handle[rows])
        rows, leaf = rows[present], self._classes.leaf[at[present]]
        before, wanted = changes.before_ceiling_bytes_per_second[rows], classes.ceiling_bytes_per_second[rows]
        packets_before, packets_wanted = wire.leaf_packets(np.array([before, wanted]))
        unfit = (leaf > 0) & (packets_before != packets_wanted)
        missing = rows[leaf == 0]
        if unfit.any():
            refused = self._send_leaves(classes, rows[unfit], leaf[unfit].tolist(), 0)
            # One that somebody else made, or we with another kernel, is of another kind, and is replaced.
            strange = rows[unfit][refused != 0]
            if len(strange):
                _, leaves[strange] = self._add_leaves(classes, strange, wire.NLM_F_REPLACE)
        if len(missing):
            _, leaves[missing] = self._add_leaves(classes, missing, wire.NLM_F_EXCL)

    def _add_leaves(self, classes: Classes, rows: I8, flags: int) -> tuple[NDArray[np.int32], I8]:
        """Give classes a queue with a handle that no class has had before: it tells this life from the next one.

        The handle is the one that the row names, where it names one that is free. Returns the errno of each row, and
        the handle that it was given, 0 where it was given none.
        """
        refused, left = np.zeros(len(rows), np.int32), np.arange(len(rows))
        named = classes.leaf[rows]
        given = np.where(named > _SOME_LEAF, named, 0)
        if not len(rows):
            return refused, given
        taken = self._taken_leaves()
        for attempt in range(_LEAF_TRIES):
            if not len(left):
                break
            nameless = left if attempt else left[given[left] == 0]
            given[nameless] = [self._leaf_handle(taken) for _ in nameless]
            refused[left] = self._send_leaves(classes, rows[left], given[left].tolist(), wire.NLM_F_CREATE | flags)
            left = left[np.isin(refused[left], _HANDLE_TAKEN)]
        return refused, np.where(refused == 0, given, 0)

    def _send_leaves(self, classes: Classes, rows: I8, handles: list[int], flags: int) -> NDArray[np.int32]:
        """Make or change the queues of rows; the first that is made finds out which kind this kernel has."""
        if self._leaf_kind:
            return self._send_leaves_of(self._leaf_kind, classes, rows, handles, flags)
        kind, first = "", np.ones(1, np.int32)
        for kind in wire.LEAF_KINDS:
            first = self._send_leaves_of(kind, classes, rows[:1], handles[:1], flags)
            if not first.any():
                self._leaf_kind = kind if flags & wire.NLM_F_CREATE else ""
                break
        return np.concatenate([first, self._send_leaves_of(kind, classes, rows[1:], handles[1:], flags)])

    def _send_leaves_of(
        self, kind: str, classes: Classes, rows: I8, handles: list[int], flags: int
    ) -> NDArray[np.int32]:
        if not len(rows):
            return np.empty(0, np.int32)
        first_seq, batch = self._requests.reserve(len(rows)), self._requests.batch
        parents, ceilings = classes.handle[rows].tolist(), classes.ceiling_bytes_per_second[rows]
        data = wire.encode_leaves(
            kind, parents, handles, ceilings, flags=flags, ifindex=self._ifindex, first_seq=first_seq, batch=batch
        )
        return self._requests.exchange(data, len(rows), first_seq)[0]

    def _taken_leaves(self) -> set[int]:
        return {1, _INGRESS_MAJOR, *(self._classes.leaf >> 16).tolist()}

    def _leaf_handle(self, taken: set[int]) -> int:
        """Return the next handle that is not taken: round and round, so that one comes again as late as possible."""
        while True:
            handle, self._next_leaf = self._next_leaf, self._next_leaf % (_INGRESS_MAJOR - 1) + 1
            if handle not in taken:
                taken.add(handle)
                return handle << 16

    def _read_back(self, handles: I8, rows: I8, enforced: I8) -> None:
        if not len(handles):
            return
        enforced[rows] = self._answers(self._ask_classes(handles), handles)

    def _ask_classes(self, handles: I8) -> int:
        """Ask for classes one by one, or for all where they are many: the bytes of the arena that the answers fill."""
        if not self._is_few(len(handles)):
            try:
                return self._requests.dump(wire.RTM_GETTCLASS, wire.Place(self._ifindex, 0, self._trees[0]))[0]
            except KernelUnreadable:
                return 0
        first, batch = self._requests.reserve(len(handles)), self._requests.batch
        data = wire.encode_questions(handles, ifindex=self._ifindex, first_seq=first, batch=batch)
        return self._requests.exchange(data, len(handles), first)[1]

    def _answers(self, used: int, handles: I8) -> I8:
        """Read the ceilings in the answers to the last request; what cannot be read was not answered."""
        try:
            found = dump.decode_ceilings(self._requests.arena, used, self._shapes)
        except KernelUnreadable:
            return np.zeros(len(handles), np.int64)
        return _looked_up(*found, handles)

    def _is_few(self, count: int) -> bool:
        """Say whether single questions are cheaper than a dump; each is also told to everybody who listens."""
        return len(self._trees) > 1 or count <= max(_FEW_ROWS, len(self._classes) // 4)


def _runs(act: NDArray[np.int8]) -> Iterator[tuple[Act, I8]]:
    """Split changes into rows of one act that follow each other."""
    edges = (np.flatnonzero(act[1:] != act[:-1]) + 1).tolist()
    for start, end in pairwise([0, *edges, len(act)]):
        if start < end:
            yield Act(int(act[start])), np.arange(start, end)


def _with_pyroute2(use: Callable[[Any], Any]) -> Any:
    from pyroute2.iproute.linux import IPRoute  # noqa: PLC0415 - rarely needed, and 0.1 s to load

    with IPRoute() as route:
        return use(route)


def _is_ours(root: dump.Qdisc) -> bool:
    ours = ("htb", wire.TREE_HANDLE, DEFAULT_MINOR, SIGNATURE_R2Q)
    return (root.kind, root.handle, root.default_minor, root.r2q) == ours


def _nothing() -> I8:
    return dump.decode_block(b"", 0, [])


def _endings(data: bytes) -> Endings:
    if not data:
        return no_endings()
    classes, counts, _ = dump.decode_classes(data, len(data))
    return Endings(
        classes.handle, classes.leaf, counts.sent_bytes, counts.sent_packets, counts.dropped_packets, counts.overlimits
    )


def _each_once(handles: I8, leaf: I8, ended: Endings) -> I8:
    """Return the rows in the order of handles: the last reading of each class, none of a life that ended meanwhile.

    A dump that runs beside creations and deletions may hold a class twice.
    """
    order = np.argsort(handles, kind="stable")
    handle = handles[order]
    keep = (handle[1:] != handle[:-1]) if len(handle) else np.empty(0, bool)
    keep = np.append(keep, True)[: len(handle)]
    if len(ended):
        keep &= ~np.isin(_lives(handle, leaf[order]), _lives(ended.handle, ended.leaf))
    rows: I8 = order[keep]
    return rows


def _lives(handle: I8, leaf: I8) -> I8:
    return handle << 16 | leaf >> 16


def _looked_up(found: I8, ceilings: I8, handles: I8) -> I8:
    """Return the ceilings of handles; 0 for a class that was not found."""
    if np.array_equal(found, handles):
        return ceilings
    if not len(found):
        return np.zeros(len(handles), np.int64)
    lowest, highest = int(handles.min()), int(handles.max())
    if highest - lowest < _CLASSES_OF_TREE:  # a table takes a fifth of the time of sorting
        sought = (found >= lowest) & (found <= highest)
        ceiling_of = np.zeros(highest - lowest + 1, np.int64)
        ceiling_of[found[sought] - lowest] = ceilings[sought]
        return ceiling_of[handles - lowest]
    order = np.argsort(found, kind="stable")
    row, present = find(found[order], handles)
    return np.where(present, ceilings[order[row]], 0)
