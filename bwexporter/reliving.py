"""A device that is lived through once more: the daemon's very turns, over a machine that sends what was sent.

Turns what was sent, and a roll of lanes, into what their ceilings would have let through. Knows: how traffic passes
ceilings, that a look is due when the turn says so. Does not know: any rule, where the record came from, what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from bwexporter.core.enrolment import open_ledger
from bwexporter.core.hand import Hand, moved_on, open_hand
from bwexporter.core.lanes import (
    F8,
    I8,
    Act,
    Changes,
    Classes,
    Counts,
    Instant,
    Ledger,
    Outcomes,
    Snapshot,
    Tariffs,
    no_classes,
    no_endings,
)
from bwexporter.core.periods import PeriodRule
from bwexporter.core.places import find
from bwexporter.core.report import Event, Report
from bwexporter.desk import Desk, Tree
from bwexporter.kernel.tree import ManagedTree
from bwexporter.stages import Pace
from bwexporter.turn import Turns

FIRST_LANE_MINOR = 0x1000
PACKET_BYTES = 1000
_USUAL_GSO_BYTES = 65_536
_SHORTEST_SECONDS = 1e-3
_NO_SECONDS = 1e-9
_COLUMNS = [one.name for one in fields(Classes)]
_HANDLE, _LEAF = _COLUMNS.index("handle"), _COLUMNS.index("leaf")


Span = tuple[float, float]
"""From when to when, in Unix time."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What lanes may do on a device, without the hand."""

    tree: Tree
    tariffs: Tariffs
    rules: tuple[PeriodRule, ...]


def tree_of_ours(device: str, tree: Tree) -> ManagedTree:
    """Return the tree that a device is lived through with: one of ours, whoever has built the one there.

    Its leaves and shares differ from those of somebody else's; what a lane may send is the same in both.
    """
    if isinstance(tree, ManagedTree):
        return tree
    return ManagedTree(
        device=device,
        cap_bytes_per_second=tree.cap_bytes_per_second,
        line_rate_bytes_per_second=tree.line_rate_bytes_per_second,
        default_bytes_per_second=tree.line_rate_bytes_per_second,
        gso_max_bytes=_USUAL_GSO_BYTES,
    )


class Reliving:
    """One device. `hears` is told of every look; `now` moves on as it lives."""

    def __init__(
        self, device: str, terms: Terms, pace: Pace, now: Instant, hears: Callable[[Instant, Report], None]
    ) -> None:
        self.now = now
        self.terms = terms
        self._device, self._hears = device, hears
        self._machine = _Machine(device)
        self._turns = Turns(device, _Nothing(), _acting(pace), lambda: 0.0)
        self._machine.assign(terms.tree.handles(terms.tariffs))
        self.wished, self.passed = np.zeros(len(terms.tariffs)), np.zeros(len(terms.tariffs))  # bytes, since it began
        ledger = open_ledger(device, 1, now)
        self._turns.enlist(Desk(device, self._machine, terms.tree, terms.tariffs, terms.rules, ledger))

    @property
    def ledger(self) -> Ledger:
        """Return the accounts as they would be."""
        return self._turns.desks[self._device].ledger

    @property
    def hand(self) -> Hand:
        """Return the orders in force as they would be: those whose time is up, or whose period ended, are gone."""
        return moved_on(self._turns.hand or open_hand(self.now), self.now).hand

    def begin(self, stood: Callable[[Ledger], Ledger], hand: Hand | None = None) -> None:
        """Let accounts be as they stood and the hand as it was; the classes are made first, whatever the hand says."""
        desk = self._turns.desks[self._device]
        desk.ledger = stood(desk.ledger)
        self._turns.take(self.now)
        self.hold(hand)

    def enlist(self, terms: Terms, pace: Pace) -> None:
        """Go on under other terms."""
        before = {lane: row for row, lane in enumerate(self.terms.tariffs.lanes)}
        rows = [before.get(lane, -1) for lane in terms.tariffs.lanes]
        self.wished, self.passed = (np.append(column, 0.0)[rows] for column in (self.wished, self.passed))
        self.terms, self._turns.pace = terms, _acting(pace)
        self._machine.assign(terms.tree.handles(terms.tariffs))
        desk = self._turns.desks[self._device]
        self._turns.enlist(replace(desk, tree=terms.tree, tariffs=terms.tariffs, rules=terms.rules))

    def hold(self, hand: Hand | None) -> None:
        """Hold the wheel as it is held from now on, and look, as the daemon does after a command."""
        self._turns.hold(hand, self.now)
        self.look()

    def live_on(self, seconds: float, wished: F8) -> F8:
        """Let so many bytes be sent in so many seconds, and return what passed; looks that are due are taken.

        When in that time they were sent nobody knows: what a ceiling keeps back is sent in the rest of it, as far as
        ceilings then let it.
        """
        passed, left = np.zeros(len(wished)), seconds
        self.wished += wished
        while left > _NO_SECONDS:
            until_look = max(self._turns.next_look_seconds(self.now), _SHORTEST_SECONDS)
            part = min(until_look, left)
            now_passed = self._machine.let_pass((wished - passed) / left, part)
            passed += now_passed
            self.passed += now_passed
            left -= part
            now = self.now
            self.now = replace(now, wall_seconds=now.wall_seconds + part, boot_seconds=now.boot_seconds + part)
            if part == until_look:
                self.look(early=self._turns.is_early(self.now))
        return passed

    def look(self, *, early: bool = False) -> None:
        """Look once more; an early look is due for some of the lanes' sake."""
        self._hears(self.now, self._turns.take(self.now, early=early))


def note(spans: Sequence[list[Span]], report: Report, at: float) -> None:
    """Write down who is capped from now on until the next look."""
    if not report.devices:
        return
    until, capped = at + report.next_look_seconds, report.devices[0].verdicts.capped.tolist()
    for row, known in enumerate(spans):
        if known and known[-1][1] > at:  # an order by hand came before the look that was due
            known[-1] = (known[-1][0], at)
        if not capped[row]:
            continue
        if known and known[-1][1] >= at - 0.01:
            known[-1] = (known[-1][0], until)
        else:
            known.append((at, until))


def _acting(pace: Pace) -> Pace:
    return replace(pace, enforcing=True, frozen=False)


class _Nothing:
    """A store that keeps nothing."""

    saved = True
    trouble = ""

    def save(
        self, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> _Nothing:
        """Keep nothing."""
        del ledgers, events, at_wall_seconds, hand
        return self

    def settle(self) -> _Nothing:
        """Have nothing to keep."""
        return self


class _Machine:
    """A device whose classes let through what is sent, as far as their ceilings allow."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._handles = np.empty(0, np.int64)  # of the lanes, as are the next two
        self._sent = np.zeros(0)  # by the class that the lane has now
        self._ceilings = np.zeros(0)
        self._left: dict[int, float] = {}  # what classes have counted that are no lane's any more
        self._classes: dict[int, tuple[int, ...]] = {}
        self._table = no_classes()

    def assign(self, handles: I8) -> None:
        """Give each lane a class; a class keeps what it counted for as long as it lives."""
        counted = self._left | dict(zip(self._handles.tolist(), self._sent.tolist(), strict=True))
        self._handles = handles
        self._sent = np.array([counted.pop(handle, 0.0) for handle in handles.tolist()])
        self._left = counted
        self._take_ceilings()

    def _take_ceilings(self) -> None:
        row, present = find(self._table.handle, self._handles)
        ceilings = self._table.ceiling_bytes_per_second
        self._ceilings = np.where(present, ceilings[row], 0).astype(np.float64) if len(ceilings) else np.zeros(len(row))

    def let_pass(self, bytes_per_second: F8, seconds: float) -> F8:
        """Let time pass in which each lane would send at a rate; return what passed."""
        passed: F8 = np.minimum(bytes_per_second, self._ceilings) * seconds
        self._sent += passed
        return passed

    def look(self) -> Snapshot:
        """Read every class."""
        table, sent = self._table, self._counted()
        nothing = np.zeros(len(table), np.int64)
        return Snapshot(
            device=self._device,
            ifindex=1,
            tree_present=bool(len(table)),
            clean=True,
            watched_since_last_look=True,
            classes=table,
            counts=Counts(sent, sent // PACKET_BYTES, nothing, nothing.copy()),
            backlog_bytes=nothing.copy(),
            endings=no_endings(),
            tree_endings_bytes=(),
            tree_sent_bytes=int(sent.max(initial=0)),  # the root class's, below which all of them are
            direct_packets=0,
        )

    def _counted(self) -> I8:
        """Return what each class has counted: what its lane sent, and all that passed below it."""
        handle = np.concatenate([self._handles, np.array([*self._left], np.int64)])
        counted = np.concatenate([self._sent, np.array([*self._left.values()])]).astype(np.int64)
        of_level = np.zeros(len(self._table), np.int64)
        row, present = find(self._table.handle, handle)
        of_level[row[present]] = counted[present]
        total, (above, has_parent) = of_level.copy(), find(self._table.handle, self._table.parent)
        while of_level.any():
            below, of_level = of_level, np.zeros(len(self._table), np.int64)
            np.add.at(of_level, above[has_parent], below[has_parent])
            total += of_level
        return total

    def apply(self, changes: Changes) -> Outcomes:
        """Do all of it."""
        columns = np.stack([getattr(changes.classes, name) for name in _COLUMNS], axis=1)
        columns[:, _LEAF] = np.where(
            changes.classes.handle & 0xFFFF >= FIRST_LANE_MINOR, (columns[:, _HANDLE] & 0xFFFF) << 16, 0
        )
        for act, values in zip(changes.act.tolist(), columns.tolist(), strict=True):
            handle = values[_HANDLE]
            if act == Act.REMOVE:
                self._classes.pop(handle, None)
                self._left.pop(handle, None)
            else:
                self._classes[handle] = tuple(values)
        rows = [self._classes[handle] for handle in sorted(self._classes)]
        self._table = Classes(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))
        self._take_ceilings()
        enforced = np.where(changes.act == Act.REMOVE.value, 0, changes.classes.ceiling_bytes_per_second)
        return Outcomes(np.zeros(len(changes), np.int32), enforced)

    def fresh_leaves(self, count: int) -> I8:
        """Return none: every class here has its leaf queue from the start."""
        return np.zeros(count, np.int64)

    def disturbed(self) -> bool:
        """Say that nobody else changes anything."""
        return False
