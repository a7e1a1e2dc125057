"""A whole node on the fake machine: the real turn over the real law, plain slices, clocks that a test moves.

Turns what a test makes happen into turns. Knows: how the rooms are put together. Does not know: files, threads, SQLite.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bwexporter.core import periods
from bwexporter.core.enrolment import open_ledger
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, UNLIMITED, Instant, Lane, Ledger, Tariffs, Traffic
from bwexporter.core.report import DeviceReport, Event, Report
from bwexporter.desk import Desk
from bwexporter.kernel.tree import DEFAULT_ID, ManagedTree
from bwexporter.stages import Pace
from bwexporter.turn import Turns
from tests.builders import GIGABIT, make_tariffs
from tests.fake_kernel import FakeDevice, FakeKernel

DEVICE = "eth0"
START_WALL_SECONDS = 1_700_000_000.0


@dataclass(frozen=True)
class Kept:
    """What became of a save."""

    saved: bool = True
    trouble: str = ""


@dataclass
class Shelf:
    """A store in memory: what was saved last is what a restarted program finds."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    hand: Hand | None = None
    saves: int = 0

    def save(
        self, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> Kept:
        """Keep a turn."""
        self.hand = hand
        assert at_wall_seconds > 0
        self.ledgers = {ledger.device: ledger for ledger in ledgers}
        self.events += events
        self.saves += 1
        return Kept()


def plain_tariffs(ids: dict[str, int], **given: object) -> Tariffs:
    """Return tariffs of `_root`, `_default` and these slices, a normal and an exempt lane each."""
    slices = {ROOT_SLICE: 0, DEFAULT_SLICE: DEFAULT_ID, **ids}
    lanes = tuple(Lane(DEVICE, name, traffic) for name in slices for traffic in Traffic)
    numbers = np.array([number for number in slices.values() for _ in Traffic])
    limited = np.array([not lane.slice_name.startswith("_") for lane in lanes])
    tariffs = make_tariffs(len(lanes), lanes=lanes, slice_id=numbers, **given)
    return replace(
        tariffs,
        allowance_bytes=np.where(limited, tariffs.allowance_bytes, UNLIMITED),
        threshold_bytes=np.where(limited, tariffs.threshold_bytes, UNLIMITED),
    )


class Node:
    """One node: `kernel` and `shelf` outlive the program, `turns` is the program."""

    def __init__(
        self,
        ids: dict[str, int],
        *,
        rule: periods.PeriodRule | None = None,
        pace: Pace | None = None,
        cap_bytes_per_second: int = GIGABIT,
        **tariff: object,
    ) -> None:
        self.kernel = FakeKernel(DEVICE)
        self.shelf = Shelf()
        self.ids = dict(ids)
        self.rule = rule or periods.Rolling(86_400.0)
        self.pace = pace or Pace(10.0, 1.0, 2.0)
        self.tariff = tariff
        self.cap_bytes_per_second = cap_bytes_per_second
        self.boot_seconds = 1000.0
        self.wall_seconds = START_WALL_SECONDS
        self.boot_id = "boot 1"
        self.door: FakeDevice | None = None
        self.start()

    def now(self) -> Instant:
        """Read the clocks."""
        return Instant(self.wall_seconds, self.boot_seconds, self.boot_id)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.boot_seconds += seconds
        self.wall_seconds += seconds

    def start(self) -> None:
        """Start the program anew, from what was saved last; what it had in memory is gone, as by kill -9."""
        if self.door is not None:
            self.door.close()
        self.door = FakeDevice(DEVICE, self.kernel)
        self.turns = Turns("node", self.shelf, self.pace, time.perf_counter, orders=self.shelf.hand)
        facts = self.door.facts()
        ledger = self.shelf.ledgers.get(DEVICE) or open_ledger(DEVICE, facts.ifindex, self.now())
        tree = ManagedTree(DEVICE, self.cap_bytes_per_second, GIGABIT, self.cap_bytes_per_second, facts.gso_max_bytes)
        self.turns.desks = {DEVICE: Desk(DEVICE, self.door, tree, plain_tariffs({}), (), ledger)}
        self.enlist()

    def enlist(self) -> None:
        """Put the slices of now on the roster."""
        desk = self.turns.desks[DEVICE]
        self.turns.enlist(replace(desk, tariffs=plain_tariffs(self.ids, **self.tariff), rules=(self.rule,)))

    def turn(self, *, early: bool = False) -> DeviceReport:
        """Take a turn."""
        return self.whole_turn(early=early).devices[0]

    def whole_turn(self, *, early: bool = False) -> Report:
        """Take a turn of the node."""
        return self.turns.take(self.now(), early=early)

    def class_of(self, slice_name: str, traffic: Traffic = Traffic.NORMAL) -> int:
        """Return the class of a lane as wanted now."""
        desk = self.turns.desks[DEVICE]
        return int(desk.tree.handles(desk.tariffs)[self.row(slice_name, traffic)])

    def row(self, slice_name: str, traffic: Traffic = Traffic.NORMAL) -> int:
        """Return the row of a lane in the ledger."""
        return self.turns.desks[DEVICE].ledger.lanes.index(Lane(DEVICE, slice_name, traffic))

    def account(self, slice_name: str, traffic: Traffic = Traffic.NORMAL) -> dict[str, float]:
        """Return a lane's account."""
        ledger = self.turns.desks[DEVICE].ledger
        row = self.row(slice_name, traffic)
        return {name: getattr(ledger.accounts, name)[row] for name in ledger.accounts.__dataclass_fields__}
