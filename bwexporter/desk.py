"""A device on the way through its turns: what is known of it between two, and what one has found.

Turns a device's classes as they were found, changed and read back into columns, one row a lane. Knows: which class is
a lane's in a dump, what an act has made of it, which classes are there now, what is written and what is judged. Does
not know: what a stage does, the clock, any rule of the law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bwexporter.core import carry, events, hand
from bwexporter.core.accounting import Count
from bwexporter.core.events import Refusal
from bwexporter.core.lanes import (
    B1,
    F8,
    I8,
    Act,
    Changes,
    Classes,
    Instant,
    Lane,
    Ledger,
    Outcomes,
    Reason,
    Snapshot,
    Tariffs,
    Verdicts,
)
from bwexporter.core.orders import Order
from bwexporter.core.periods import PeriodRule
from bwexporter.core.places import Places, find
from bwexporter.core.policy import Frame
from bwexporter.core.report import DeviceReport
from bwexporter.errors import KernelUnreadable

FIRST_MADE = 500
"""Classes that one act makes or removes at first, while nobody knows how long that takes here."""


class Door(Protocol):
    """One device's HTB: the kernel's, or the fake of the tests."""

    def look(self) -> Snapshot:
        """Read every class; KernelUnreadable or DeviceRefused where that cannot be done."""

    def apply(self, changes: Changes) -> Outcomes:
        """Carry out changes in their order, each with an outcome of its own, and read back what was changed."""

    def fresh_leaves(self, count: int) -> I8:
        """Return handles for leaf queues that no class has had; a change that names one gives it to its class."""

    def disturbed(self) -> bool:
        """Say whether somebody else changed anything since the last look."""


class Tree(Protocol):
    """How lanes become classes: a tree of ours, or one that was built by others."""

    @property
    def builds(self) -> bool:
        """Say whether classes may be made at all."""

    @property
    def cap_bytes_per_second(self) -> int:
        """Return the node cap of this device."""

    @property
    def line_rate_bytes_per_second(self) -> int:
        """Return the line rate of this device."""

    def handles(self, tariffs: Tariffs) -> I8:
        """Return the class of each lane."""

    def fitted(self, tariffs: Tariffs, snapshot: Snapshot) -> Tariffs:
        """Return the tariffs as far as the classes that there are let them be; the very same where they fit."""

    def wanted(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        """Return every class the tree should have, parents before children."""

    def owns(self, handles: I8) -> B1:
        """Mark classes that are ours to remove."""


@dataclass(slots=True)
class Desk:
    """All that is known of one device between turns; a turn writes on it what each stage has found."""

    device: str
    door: Door
    tree: Tree
    tariffs: Tariffs  # as judged: what is written, and what is set by hand
    rules: tuple[PeriodRule, ...]
    ledger: Ledger
    enforced: Classes | None = None  # what was last asked of the kernel and accepted
    unread: Snapshot | None = None  # a look that could not be counted; what ended before it must not be lost
    report: DeviceReport | None = None  # of the last good turn
    refused: frozenset[Refusal] = frozenset()  # changes that the last act was refused
    frame: Frame | None = None  # what the tariffs come to
    written: Tariffs | None = None  # the tariffs without the hand; None: as judged
    counted: Places | None = None  # where the classes of the counters stand, as is the next for the wanted classes
    planned: Places | None = None
    lost_at_wall_seconds: float | None = None  # when accounts were lost for good; None: never
    due_at_boot_seconds: float = 0.0
    most_made: int = FIRST_MADE  # classes to be made or removed in one act
    waiting: I8 = field(default_factory=lambda: np.empty(0, np.int64))  # classes to be made in further turns
    told_of: tuple[Lane, ...] = ()  # lanes whose guarantees were looked at, and the parts that were told as admitted
    told_parts: F8 = field(default_factory=lambda: np.empty(0))
    told_frame: Frame | None = None
    building: bool = False  # the tree is being built, over several turns where it is large
    cut: bool = False  # the last act left changes to further turns, and did some

    @property
    def without_hand(self) -> Tariffs:
        """Return what is written, without what is set by hand."""
        return self.written or self.tariffs

    def steer(self, orders: Sequence[Order]) -> None:
        """Judge by what is written from now on, with what is set by hand and what earlier periods left."""
        self.written = self.without_hand
        self.tariffs = carry.over(hand.over(self.written, orders) if orders else self.written, self.ledger.accounts)

    def is_due(self, now: Instant) -> bool:
        """Say whether an early look is due, or somebody else changed anything."""
        return self.due_at_boot_seconds <= now.boot_seconds or self.door.disturbed()

    def is_disturbed(self) -> bool:
        """Say whether somebody else changed anything since the last look, be it while that was acted upon."""
        try:
            return self.door.disturbed()
        except KernelUnreadable:
            return True


@dataclass(slots=True)
class Work:
    """One device on its way through a turn, which fills in what each stage finds; None: not reached."""

    desk: Desk
    trouble: str = ""
    snapshot: Snapshot | None = None
    places: Places | None = None  # of each lane's class in the snapshot, and of classes that lanes had before
    count: Count | None = None
    implausible: I8 | None = None
    verdicts: Verdicts | None = None
    wanted: Classes | None = None
    changes: Changes | None = None
    is_cut: bool = False  # there is more to be changed than this turn does
    outcomes: Outcomes | None = None

    def held_ceilings(self) -> I8:
        """Return the ceiling that each lane's class had at the look, 0 where it has no class."""
        return self._at_look(lambda snapshot: snapshot.classes.ceiling_bytes_per_second)

    def backlog(self) -> I8:
        """Return the bytes that waited in each lane's class at the look."""
        return self._at_look(lambda snapshot: snapshot.backlog_bytes)

    def _at_look(self, column: Callable[[Snapshot], I8]) -> I8:
        """Return for each lane what a column of the snapshot says of its class, 0 where it has no class."""
        lanes = slice(self.desk.ledger.enrolled)
        if self.snapshot is None or self.places is None or not len(self.snapshot.classes):
            return np.zeros(lanes.stop, np.int64)
        there = column(self.snapshot).take(self.places.row[lanes])
        return there if self.places.whole else np.where(self.places.present[lanes], there, 0)

    def enforced_ceilings(self) -> I8:
        """Return each lane's ceiling as read back after the act, -1 where the kernel has no class for it."""
        if self.outcomes is None or self.changes is None:
            return _or_absent(self.held_ceilings())
        made = np.flatnonzero(self.changes.act != Act.REMOVE.value)
        if not len(made):
            return _or_absent(self.held_ceilings())
        changed_handles = self.changes.classes.handle[made]
        if self.snapshot is not None and self.places is not None and self.places.whole:
            at, there = find(self.snapshot.classes.handle, changed_handles)
            if there.all():  # as mostly: a few classes that the look has found
                in_dump = self.snapshot.classes.ceiling_bytes_per_second.copy()
                in_dump[at] = self.outcomes.enforced_ceiling_bytes_per_second[made]
                return _or_absent(in_dump.take(self.places.row[: self.desk.ledger.enrolled]))
        order = made[np.argsort(changed_handles, kind="stable")]
        handles = self.desk.ledger.counters.handle[: self.desk.ledger.enrolled]
        row, changed = find(self.changes.classes.handle[order], handles)
        read_back = self.outcomes.enforced_ceiling_bytes_per_second[order][row]
        return _or_absent(np.where(changed, read_back, self.held_ceilings()))

    def fates(self, verdicts: Verdicts, rows: Sequence[int]) -> list[str]:
        """Say of lanes what became of their ceilings in the kernel."""
        changes, outcomes, enforced = self.changes, self.outcomes, self.enforced_ceilings()
        refused = {}
        if changes is not None and outcomes is not None:
            refused = dict(zip(changes.classes.handle.tolist(), outcomes.errno.tolist(), strict=True))
        handles, late = self.desk.ledger.counters.handle, enforced < 0
        if self.is_cut:
            late |= enforced != verdicts.asked_ceiling_bytes_per_second

        def fate(row: int) -> str:
            if verdicts.reason[row] == Reason.FROZEN:
                return events.KEPT
            if outcomes is None or self.desk.tariffs.shadow[row]:
                return events.FAILED if self.trouble else events.IN_SHADOW
            if errno := refused.get(int(handles[row]), 0):
                return events.name_of(errno)
            return events.WAITING if late[row] else events.APPLIED

        return [fate(row) for row in rows]

    @property
    def is_building(self) -> bool:
        """Say whether the act begins the device's tree anew."""
        return self.changes is not None and self.changes.build_tree

    def classes_made(self) -> frozenset[int]:
        """Return the classes that the act has made."""
        if self.outcomes is None or self.changes is None:
            return frozenset()
        made = (self.changes.act == Act.CREATE.value) & (self.outcomes.errno == 0)
        return frozenset(self.changes.classes.handle[made].tolist())

    def classes_there(self) -> frozenset[int]:
        """Return the classes that the rules may name: there at the look and not to be removed, or made since."""
        if self.snapshot is None or self.changes is None:
            return frozenset()
        going = self.changes.classes.handle[self.changes.act == Act.REMOVE.value]
        return frozenset(self.snapshot.classes.handle.tolist()) - frozenset(going.tolist()) | self.classes_made()


def _or_absent(ceilings: I8) -> I8:
    """Return ceilings that were read, -1 where there was nothing to read."""
    return np.where(ceilings > 0, ceilings, -1)
