"""Programs that are killed, -9, at any point of a turn: between and inside look, save and act, and as they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Changes, Ledger, Outcomes, Snapshot
from bwexporter.core.report import Event
from bwexporter.desk import Desk
from tests.faults.machine import can_unshare
from tests.faults.program import ROOT
from tests.node import DEVICE, Kept, Node, Shelf

KILLS = 200
ALLOWANCE = {"allowance_bytes": 10_000_000_000, "threshold_bytes": 5_000_000}
POINTS = ("before the look", "after the look", "before the save", "after the save", "in the act", "after the act")


class Killed(BaseException):
    """The program is no more."""


class Doomed:
    """A door and a store of which the program never returns from one call."""

    def __init__(self, node: Node, point: str) -> None:
        self._door, self._shelf, self._point = node.door, node.shelf, point

    def _die_at(self, point: str) -> None:
        if point == self._point:
            raise Killed

    def look(self) -> Snapshot:
        """Look, if that is lived to see."""
        self._die_at("before the look")
        snapshot = self._door.look()
        self._die_at("after the look")
        return snapshot

    def save(
        self, ledgers: list[Ledger], events: list[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> Kept:
        """Save, if that is lived to see."""
        self._die_at("before the save")
        kept = self._shelf.save(ledgers, events, at_wall_seconds, hand=hand)
        self._die_at("after the save")
        return kept

    def apply(self, changes: Changes) -> Outcomes:
        """Do the changes, or half of them."""
        half = changes if self._point != "in the act" else _first_half(changes)
        outcomes = self._door.apply(half)
        self._die_at("in the act")
        self._die_at("after the act")
        return outcomes


def _first_half(changes: Changes) -> Changes:
    rows = np.arange(len(changes) // 2)
    return replace(changes.take(rows), classes=changes.classes.take(rows))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("deleted", [False, True], ids=["", "class deleted"])
def test_a_kill_at_each_point_of_a_turn_costs_nothing(point: str, *, deleted: bool) -> None:
    """What was sent before, in and after the turn that was never finished is counted once, and the caps are set."""
    node = Node({"ann": 1, "bob": 2}, **ALLOWANCE)
    node.turn()
    node.pass_seconds(10)
    node.turn()
    began = node.account("ann")["period_start_at"]
    sent = node.kernel.offer(DEVICE, node.class_of("ann"), 7_000_000, seconds=60.0)
    if deleted:
        node.kernel.delete_class(DEVICE, node.class_of("ann"))
    doomed = Doomed(node, point)
    desk = node.turns.desks[DEVICE]
    node.turns.desks[DEVICE] = Desk(DEVICE, doomed, desk.tree, desk.tariffs, desk.rules, desk.ledger)
    node.turns._store = doomed
    node.pass_seconds(10)
    with pytest.raises(Killed):
        node.turn()

    node.start()
    for _ in range(2):
        node.pass_seconds(1)
        report = node.turn()
        sent += node.kernel.offer(DEVICE, node.class_of("ann"), 1000)
    node.pass_seconds(1)
    report = node.turn()

    account = node.account("ann")
    assert account["used_bytes"] == account["sent_bytes"] == sent
    assert account["period_start_at"] == began
    row = node.row("ann")
    assert report.verdicts.capped[row]
    ceiling = node.kernel.links[DEVICE].root.classes[node.class_of("ann")].ceiling
    assert ceiling == report.verdicts.ceiling_bytes_per_second[row] < 125_000_000


def test_the_first_save_of_a_life_may_never_have_happened() -> None:
    """A program that is killed in its very first turn leaves classes that the next one counts from their beginning."""
    node = Node({"ann": 1})
    node.turn()
    node.shelf = Shelf()
    sent = node.kernel.offer(DEVICE, node.class_of("ann"), 3_000_000)
    node.start()
    node.turn()
    assert node.account("ann")["used_bytes"] == sent


@pytest.mark.kernel
@pytest.mark.timeout(900)
def test_two_hundred_kills_in_traffic_on_the_real_kernel_cost_not_one_byte(tmp_path: Path) -> None:
    """After each: accounts are what arrived at the far end, no new period, caps in force or rightly none."""
    rooms = ["--net", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        rooms = ["--user", "--map-root-user", *rooms]
    if not can_unshare(*rooms):
        pytest.skip("no private network namespace may be made here")
    command = ["unshare", *rooms, sys.executable, "-m", "tests.faults.campaign", str(tmp_path), "--kills", str(KILLS)]
    ran = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    assert ran.stdout, ran.stderr
    summary = json.loads(ran.stdout)
    assert (ran.returncode, summary["first_differences"]) == (0, []), summary
    assert summary["kills"] == KILLS
    assert {"look", "save", "act", "between", "start"} <= set(summary["struck"]), summary
