"""A small honest HTB: links, trees, classes that count and limit, notifications, and doors with the Device interface.

Turns what a test makes happen (traffic, strangers, refusals, lost notifications) into what a `FakeDevice` sees. The
contract tests hold it to the real kernel. Knows: the words of the rooms and errno. Does not know: netlink.

`FakeKernel` is the machine and outlives its doors; several `FakeDevice`s may stand on it one after the other, as the
daemon is restarted.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Self

import numpy as np

from bwexporter.core.lanes import (
    I8,
    Act,
    Changes,
    Classes,
    Counts,
    DeviceFacts,
    Endings,
    Outcomes,
    Snapshot,
    no_endings,
)
from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel.tree import DEFAULT_MINOR
from bwexporter.kernel.wire import INNER_QUANTUM_BYTES, TREE_HANDLE

WRAP = 1 << 32
_DUMPS = 3


@dataclass(slots=True)
class FakeClass:
    """One life of a class: its settings (rates in bytes per second) and what it has counted."""

    handle: int
    parent: int
    rate: int
    ceiling: int
    quantum: int = 1514
    burst_ns: int = 0
    ceiling_burst_ns: int = 0
    leaf: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0
    overlimits: int = 0
    backlog_bytes: int = 0


@dataclass(slots=True)
class FakeRoot:
    """A root queue with its classes by handle."""

    kind: str
    handle: int
    ours: bool
    classes: dict[int, FakeClass] = field(default_factory=dict)
    sent_bytes: int = 0
    direct_packets: int = 0


@dataclass(slots=True)
class FakeLink:
    """A network device; `root` is None while it has the kernel's own queue."""

    ifindex: int
    root: FakeRoot | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """What listeners hear: kind is class, class_ended, root, root_ended, leaf or link_ended."""

    kind: str
    ifindex: int
    ended: FakeClass | FakeRoot | None = None


class FakeKernel:
    """A machine. Its methods are the acts of strangers and the passing of traffic; listeners are told of every act."""

    def __init__(self, *links: str, room: int = 20_000) -> None:
        self.room = room  # notifications that a listener's buffer holds
        self.links: dict[str, FakeLink] = {}
        self.listeners: list[FakeListener] = []
        self.permitted = True  # changes are allowed to us; strangers always may
        self.unreadable = ""  # why dumps fail, if they do
        self.refusals: dict[int, int] = {}  # errno by handle, for our changes
        self.missing: dict[int, int] = {}  # how many more dumps miss a class, by handle
        self.repeated: dict[int, int] = {}  # how many more dumps hold a class twice, by handle
        self.stirrings = 0  # how many more dumps have somebody else's change beside them
        self.leaves = count(0x20000, 0x10000)  # handles for our leaf queues; no two lives have the same
        self._next_ifindex = count(2)
        for name in links:
            self.add_link(name)

    def add_link(self, name: str) -> None:
        """Add a device under a new ifindex."""
        self.links[name] = FakeLink(next(self._next_ifindex))

    def remove_link(self, name: str) -> None:
        """Remove a device with all that is on it; no class and no queue is told of."""
        self.tell("link_ended", self.links.pop(name))

    def add_root(self, name: str, kind: str = "htb", handle: int = TREE_HANDLE, *, ours: bool = False) -> None:
        """Put a root queue on a device."""
        link = self.links[name]
        link.root = FakeRoot(kind, handle, ours)
        self.tell("root", link)

    def delete_root(self, name: str, *, notify: bool = True) -> None:
        """Delete the root queue: one notification with its sum."""
        link = self.links[name]
        ended, link.root = link.root, None
        self.tell("root_ended", link, ended, notify=notify)

    def create_class(self, name: str, made: FakeClass, *, notify: bool = True) -> int:
        """Create a class; return the errno. HTB makes it a class of the root where the parent is missing."""
        link = self.links[name]
        root = link.root
        if root is None or made.handle >> 16 != root.handle >> 16:
            return errno.ENOENT
        if made.handle in root.classes:
            return errno.EEXIST
        if made.rate <= 0 or made.ceiling <= 0:
            return errno.EINVAL
        parent = made.parent if made.parent in root.classes else root.handle
        root.classes[made.handle] = replace(made, parent=parent)
        self.tell("class", link, notify=notify)
        return 0

    def change_class(self, name: str, changed: FakeClass) -> int:
        """Set all parameters of a class, in place: counters, leaf and parent stay; return the errno."""
        link = self.links[name]
        known = link.root.classes.get(changed.handle) if link.root else None
        if known is None:
            return errno.ENOENT
        if changed.rate <= 0 or changed.ceiling <= 0:
            return errno.EINVAL
        for setting in ("rate", "ceiling", "quantum", "burst_ns", "ceiling_burst_ns"):
            setattr(known, setting, getattr(changed, setting))
        self.tell("class", link)
        return 0

    def delete_class(self, name: str, handle: int, *, notify: bool = True) -> int:
        """Delete a class; the notification carries its final counters; return the errno."""
        link = self.links[name]
        known = link.root.classes if link.root else {}
        if handle not in known:
            return errno.ENOENT
        if any(other.parent == handle for other in known.values()):
            return errno.EBUSY
        self.tell("class_ended", link, known.pop(handle), notify=notify)
        return 0

    def offer(self, name: str, handle: int, size: int, *, seconds: float = 1.0, packet_bytes: int = 1000) -> int:
        """Offer bytes to a class for some seconds: what passes is bounded by its ceiling and burst; return what passed.

        What no class and no default class takes passes directly, unshaped. The rest counts as drops and overlimits.
        """
        root = self.links[name].root
        if root is None:
            return size
        known = root.classes.get(handle) or root.classes.get(root.handle | DEFAULT_MINOR)
        if known is None:
            root.direct_packets = (root.direct_packets + size // packet_bytes) % WRAP
            root.sent_bytes += size
            return size
        passing = known.ceiling * seconds + known.ceiling * known.ceiling_burst_ns / 1e9
        sent = min(size, int(passing) // packet_bytes * packet_bytes)
        refused = -(-(size - sent) // packet_bytes)
        known.dropped_packets = (known.dropped_packets + refused) % WRAP
        known.overlimits = (known.overlimits + refused) % WRAP
        self._count(root, known, sent, -(-sent // packet_bytes))
        return sent

    def tell(
        self, kind: str, link: FakeLink, ended: FakeClass | FakeRoot | None = None, *, notify: bool = True
    ) -> None:
        """Tell the listeners, unless the notification is to go missing silently."""
        if notify:
            for listener in self.listeners:
                listener.hear(Notification(kind, link.ifindex, ended))

    def lose_notifications(self) -> None:
        """Overflow every listener's buffer."""
        for listener in self.listeners:
            listener.overflow()

    @staticmethod
    def _count(root: FakeRoot, known: FakeClass, sent: int, packets: int) -> None:
        root.sent_bytes += sent
        counting: FakeClass | None = known
        while counting is not None:
            counting.sent_bytes += sent
            counting.sent_packets += packets
            counting = root.classes.get(counting.parent)


class FakeListener:
    """The notification socket of a door: it holds so much, and says once that it lost something."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._heard: deque[Notification] = deque()
        self._overflowed = False
        self._read, self._write = socket.socketpair()
        kernel.listeners.append(self)

    def fileno(self) -> int:
        """Return the descriptor that is readable while there is something to hear."""
        return self._read.fileno()

    def hear(self, notification: Notification) -> None:
        """Take a notification in, or lose it where there is no room."""
        if len(self._heard) >= self._kernel.room:
            self.overflow()
            return
        if not self._heard:
            self._write.send(b"!")
        self._heard.append(notification)

    def overflow(self) -> None:
        """Lose a notification."""
        self._overflowed = True

    def drain(self) -> tuple[list[Notification], bool]:
        """Return what was heard, and whether something was lost before."""
        heard, lost = list(self._heard), self._overflowed
        if heard:
            self._read.recv(1)
        self._heard.clear()
        self._overflowed = False
        return heard, lost

    def close(self) -> None:
        """Hear no more."""
        self._kernel.listeners.remove(self)
        self._read.close()
        self._write.close()


class FakeDevice:
    """A door on the fake machine, with the interface and the promises of `bwexporter.kernel.htb.Device`."""

    def __init__(self, name: str, kernel: FakeKernel, *, take_over: bool = False) -> None:
        self.name = name
        self.kernel = kernel
        self._take_over = take_over
        self._listener = FakeListener(kernel)
        self._ifindex = 0
        self._endings: list[FakeClass] = []
        self._roots: list[FakeRoot] = []
        self._lost = self._link_ended = self._by_others = self._missing = False
        self._given: dict[int, int] = {}  # leaf queues of the last apply, by class

    def __enter__(self) -> Self:
        """Return the device."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the listener."""
        self.close()

    def facts(self) -> DeviceFacts:
        """Return a gigabit device."""
        return DeviceFacts(self.name, self._link().ifindex, 125_000_000, 65_536)

    def check_permission(self) -> None:
        """Raise DeviceRefused where changes are not permitted."""
        if not self.kernel.permitted:
            raise DeviceRefused(
                "changing HTB classes needs the capability CAP_NET_ADMIN; run as root or grant it, or use --shadow"
            )

    def look(self) -> Snapshot:
        """Look at the device."""
        for _ in range(_DUMPS):
            link = self._link()
            self._drain(link)
            root = self._own_root(link)
            rows = self._dump(link, root)
            ended_from, roots_from = len(self._endings), len(self._roots)
            clean = not self._drain(link)
            self._by_others = not clean
            if clean:
                break
        if len(self._roots) > roots_from:
            root, rows = None, []
        ended = {(one.handle, one.leaf) for one in self._endings[ended_from:]}
        rows = [row for row in rows if (row.handle, row.leaf) not in ended]
        return self._snapshot(link, root, {row.handle: row for row in rows}, clean=clean)

    def apply(self, changes: Changes) -> Outcomes:
        """Do what the changes say, each row with its own outcome."""
        if not self._ifindex:
            raise ValueError("a device is looked at before it is changed")
        self.disturbed()  # what others did before
        try:
            return self._apply(changes)
        finally:
            by_others, self._by_others = self._by_others, False
            self.disturbed()
            self._by_others = by_others

    def _apply(self, changes: Changes) -> Outcomes:
        refused = self._refusal(build=changes.build_tree)
        rows = len(changes)
        if refused:
            return Outcomes(np.full(rows, refused, np.int32), np.zeros(rows, np.int64), refused)
        self._given = {}
        codes = [self._apply_row(changes, row) for row in range(rows)]
        leaves = [self._given.get(handle, 0) for handle in changes.classes.handle.tolist()]
        given = np.where(changes.act == Act.CHANGE, np.array(leaves, np.int64), 0)
        return Outcomes(np.array(codes, np.int32), self._read_back(changes), 0, given)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a notification."""
        return self._listener.fileno()

    def disturbed(self) -> bool:
        """Say whether somebody else changed the tree or the link since the last look."""
        link = self.kernel.links.get(self.name, FakeLink(self._ifindex))
        self._by_others |= self._drain(link)
        return self.name in self.kernel.links if self._missing else self._by_others

    def close(self) -> None:
        """Close the listener; the machine stays as it is."""
        self._listener.close()

    def _link(self) -> FakeLink:
        self._missing = self.name not in self.kernel.links
        if self._missing:
            raise KernelUnreadable(f"device {self.name} is not there")
        return self.kernel.links[self.name]

    def _own_root(self, link: FakeLink) -> FakeRoot | None:
        root = link.root
        if root is None or root.ours or self._take_over:
            return root if root and root.ours else None
        raise DeviceRefused(
            f"{self.name} has a root queue that is not bwexporter's ({root.kind} {root.handle >> 16:x}:); nothing was "
            f"touched. Remove it with `tc qdisc del dev {self.name} root`, or start with --take-over"
        )

    def _dump(self, link: FakeLink, root: FakeRoot | None) -> list[FakeClass]:
        kernel = self.kernel
        if kernel.unreadable:
            raise KernelUnreadable(kernel.unreadable)
        if kernel.stirrings:
            kernel.stirrings -= 1
            kernel.tell("class", link)
        rows: list[FakeClass] = []
        for known in root.classes.values() if root else ():
            times = 1 - _spend(kernel.missing, known.handle) + _spend(kernel.repeated, known.handle)
            rows += [replace(known) for _ in range(times)]
        return rows

    def _drain(self, link: FakeLink) -> bool:
        """Take in what was heard; say whether anything concerned the device."""
        heard, lost = self._listener.drain()
        concerning = [one for one in heard if one.ifindex in {self._ifindex, link.ifindex}]
        for one in concerning:
            self._link_ended |= one.kind == "link_ended"
            if isinstance(one.ended, FakeClass):
                self._endings.append(one.ended)
            elif isinstance(one.ended, FakeRoot):
                self._roots.append(one.ended)
        self._lost |= lost
        return lost or bool(concerning)

    def _snapshot(self, link: FakeLink, root: FakeRoot | None, rows: dict[int, FakeClass], *, clean: bool) -> Snapshot:
        found = [rows[handle] for handle in sorted(rows)]
        snapshot = Snapshot(
            device=self.name,
            ifindex=link.ifindex,
            tree_present=root is not None,
            clean=clean,
            watched_since_last_look=link.ifindex == self._ifindex and not self._lost and not self._link_ended,
            classes=_classes(found),
            counts=_counts(found),
            backlog_bytes=_column(found, "backlog_bytes"),
            endings=_endings(self._endings),
            tree_endings_bytes=tuple(ended.sent_bytes for ended in self._roots if ended.ours),
            tree_sent_bytes=root.sent_bytes if root else 0,
            direct_packets=root.direct_packets if root else 0,
        )
        self._ifindex = link.ifindex
        self._endings, self._roots, self._lost, self._link_ended = [], [], False, False
        return snapshot

    def _refusal(self, *, build: bool) -> int:
        link = self.kernel.links.get(self.name)
        if link is None or link.ifindex != self._ifindex:
            return errno.ENODEV
        foreign = link.root is not None and not link.root.ours
        if not build or not (foreign or link.root is None):
            return errno.EEXIST if foreign else 0
        if foreign and not self._take_over:
            return errno.EEXIST
        if not self.kernel.permitted:
            return errno.EPERM
        if foreign:
            self.kernel.delete_root(self.name)
        self.kernel.add_root(self.name, ours=True)
        return 0

    def _apply_row(self, changes: Changes, row: int) -> int:
        wanted = _class(changes.classes, row)
        if not self.kernel.permitted:
            return errno.EPERM
        if wanted.handle in self.kernel.refusals:
            return self.kernel.refusals[wanted.handle]
        act = Act(int(changes.act[row]))
        if act is Act.REMOVE:
            code = self.kernel.delete_class(self.name, wanted.handle)
            return 0 if code == errno.ENOENT else code
        code = self.kernel.change_class(self.name, wanted) if act is Act.CHANGE else self._create(wanted)
        if not code and changes.classes.leaf[row]:
            self._add_leaf(wanted.handle, int(changes.classes.leaf[row]))
        return code

    def _create(self, wanted: FakeClass) -> int:
        root = self._link().root
        if root is None or wanted.parent not in {TREE_HANDLE, *root.classes}:
            return errno.ENOENT
        return self.kernel.create_class(self.name, wanted)

    def fresh_leaves(self, count: int) -> I8:
        """Return handles for leaf queues that no class has had."""
        return np.array([next(self.kernel.leaves) for _ in range(count)], np.int64)

    def _add_leaf(self, handle: int, named: int) -> None:
        """Give a class that has none a leaf queue: the named one, or one with a handle that no class has had."""
        root = self._link().root
        if root is not None and not root.classes[handle].leaf:
            taken = {known.leaf for known in root.classes.values()}
            fresh = (leaf for leaf in self.kernel.leaves if leaf not in taken)
            self._given[handle] = named if named > 1 and named not in taken else next(fresh)
            root.classes[handle].leaf = self._given[handle]
            self.kernel.tell("leaf", self._link())

    def _read_back(self, changes: Changes) -> I8:
        root = self._link().root
        known = root.classes if root else {}
        handles = zip(changes.classes.handle.tolist(), changes.act.tolist(), strict=True)
        return np.array(
            [known[handle].ceiling if handle in known and act != Act.REMOVE else 0 for handle, act in handles], np.int64
        )


def _spend(times: dict[int, int], handle: int) -> int:
    """Return 1 and count down where there are times left."""
    left = times.get(handle, 0)
    times[handle] = max(0, left - 1)
    return min(left, 1)


def _class(classes: Classes, row: int) -> FakeClass:
    values = [int(getattr(classes, column.name)[row]) for column in fields(Classes)]
    return FakeClass(*values[:-1])


def _column(found: Iterable[object], name: str) -> I8:
    return np.array([getattr(one, name) for one in found], np.int64)


def _classes(found: list[FakeClass]) -> Classes:
    parents = {one.parent for one in found}
    quantum = [INNER_QUANTUM_BYTES if one.handle in parents else one.quantum for one in found]
    return Classes(
        handle=_column(found, "handle"),
        parent=_column(found, "parent"),
        rate_bytes_per_second=_column(found, "rate"),
        ceiling_bytes_per_second=_column(found, "ceiling"),
        quantum_bytes=np.array(quantum, np.int64),
        burst_ns=_column(found, "burst_ns"),
        ceiling_burst_ns=_column(found, "ceiling_burst_ns"),
        leaf=_column(found, "leaf"),
    )


def _counts(found: list[FakeClass]) -> Counts:
    return Counts(*[_column(found, column.name) for column in fields(Counts)])


def _endings(ended: list[FakeClass]) -> Endings:
    if not ended:
        return no_endings()
    return Endings(*[_column(ended, column.name) for column in fields(Endings)])
