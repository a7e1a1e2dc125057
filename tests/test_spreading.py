"""Classes by the thousand: made and removed over several turns, the most urgent first, on the fake machine."""

from __future__ import annotations

import errno

import numpy as np

from bwexporter.core import plan
from bwexporter.core.lanes import DEFAULT_SLICE, Act, Changes, Traffic
from bwexporter.core.report import EventKind
from bwexporter.desk import FIRST_MADE
from bwexporter.stages import Pace
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node
from tests.test_plan import A, B, Rig, Set, wanted_of

SLICES = FIRST_MADE
"""Twice as many lanes as the first act makes."""
NOTHING = np.empty(0, np.int64)


def kinds(changes: Changes) -> dict[Act, int]:
    """Count the changes of each act."""
    acts, counts = np.unique(changes.act, return_counts=True)
    return {Act(act): count for act, count in zip(acts.tolist(), counts.tolist(), strict=True)}


def many(**given: object) -> Node:
    """Return a node of many slices, with turns of a minute and looks at least a second apart."""
    return Node({f"s{number}": number for number in range(1, SLICES + 1)}, pace=Pace(60.0, 1.0, 2.0), **given)


def handles(node: Node) -> set[int]:
    """Return the classes that the kernel has."""
    root = node.kernel.links[DEVICE].root
    return set(root.classes) if root else set()


def finish(node: Node) -> int:
    """Take the early looks that are due until nothing is left to be made or removed; return how many it took."""
    for looks in range(1, 20):
        if not node.turns.unfinished:
            return looks - 1
        assert node.turns.next_look_seconds(node.now()) <= 1.0
        node.pass_seconds(1.0)
        report = node.turn(early=True)
        assert not report.changes.drift.any()
    raise AssertionError("never finished")


def test_a_large_roster_is_built_over_several_turns() -> None:
    """The trunk and the default class are there from the first one; in the end all are, and nothing has drifted."""
    node = many()
    report = node.turn()
    assert kinds(report.changes)[Act.CREATE] == FIRST_MADE
    assert {0x10001, 0x10010, 0x10020, node.class_of(DEFAULT_SLICE)} <= handles(node)
    assert node.turns.unfinished
    assert finish(node) >= 1
    assert len(handles(node)) == 3 + 2 * (SLICES + 2)
    node.pass_seconds(60.0)
    assert len(node.turn().changes) == 0


def test_after_a_loss_who_sent_of_late_comes_first() -> None:
    """The others' traffic is shaped in the default class meanwhile."""
    node = many()
    node.turn()
    finish(node)
    late = node.class_of(f"s{SLICES}")
    node.kernel.offer(DEVICE, late, 1_000_000, seconds=1e6)
    node.pass_seconds(10.0)
    node.turn()
    node.kernel.delete_root(DEVICE)
    node.turns.desks[DEVICE].most_made = 50
    node.pass_seconds(10.0)
    node.turn()
    assert late in handles(node)
    assert len(handles(node)) == 50


def test_a_deleted_tree_is_told_once_and_not_for_each_of_its_classes() -> None:
    """However many turns it takes to build it anew; every class is counted as repaired."""
    node = many()
    node.turn()
    finish(node)
    node.pass_seconds(10.0)
    node.turn()
    node.kernel.delete_root(DEVICE)
    node.turns.desks[DEVICE].most_made = 300
    told, drifts = [], 0
    for _ in range(6):
        node.pass_seconds(1.0)
        report = node.whole_turn()
        told += [event.kind for event in report.events]
        drifts += int(report.devices[0].changes.drift.sum())
    assert told.count(EventKind.TREE_ENDED) == 1
    assert EventKind.DRIFT not in told
    assert drifts == 3 + 2 * (SLICES + 2)
    node.kernel.delete_class(DEVICE, node.class_of("s1"))
    node.pass_seconds(1.0)
    assert [event.kind for event in node.whole_turn().events].count(EventKind.DRIFT) == 1


def test_a_drift_that_waits_is_counted_once() -> None:
    """A deleted class that has to wait for its turn is a repair when it is made."""
    node = many()
    node.turn()
    finish(node)
    node.pass_seconds(10.0)
    node.turn()
    for number in range(1, 101):
        node.kernel.delete_class(DEVICE, node.class_of(f"s{number}"))
    node.turns.desks[DEVICE].most_made = 60
    drifts = []
    for _ in range(4):
        node.pass_seconds(1.0)
        drifts.append(int(node.turn().changes.drift.sum()))
    assert sum(drifts) == 100
    assert len(handles(node)) == 3 + 2 * (SLICES + 2)


def test_a_thousand_removals_are_spread_too() -> None:
    """The classes of those who stay are not touched."""
    node = many()
    node.turn()
    finish(node)
    node.ids = {"s1": 1}
    node.enlist()
    node.pass_seconds(10.0)
    most = node.turns.desks[DEVICE].most_made = 300
    report = node.turn()
    assert kinds(report.changes) == {Act.REMOVE: most}
    node.turns.desks[DEVICE].most_made = 300
    assert finish(node) >= 1
    assert len(handles(node)) == 3 + 2 * 3


def test_classes_that_the_kernel_refuses_do_not_hold_up_the_others() -> None:
    """They are asked for again, last."""
    node = many()
    refused = [node.class_of(f"s{number}") for number in range(1, SLICES)]
    node.kernel.refusals = dict.fromkeys(refused, errno.ENOMEM)
    node.turn()
    for _ in range(8):
        node.pass_seconds(1.0)
        node.turn()
    assert node.class_of(f"s{SLICES}") in handles(node)
    assert node.class_of(f"s{SLICES}", Traffic.EXEMPT) in handles(node)


def test_in_shadow_nothing_is_unfinished() -> None:
    """What is not done is not left to the next turn either."""
    node = Node({f"s{n}": n for n in range(1, SLICES + 1)}, pace=Pace(60.0, 1.0, 2.0, enforcing=False))
    node.turn()
    assert not node.turns.unfinished


def test_changes_in_place_are_never_put_off() -> None:
    """A cap comes before any number of creations."""
    rig = Rig()
    rig.step(wanted_of({A: Set()}))
    changes = rig.plan(wanted_of({A: Set(ceiling=8_000), B: Set()}))
    cut, waiting = plan.spread(changes, 0, urgent=NOTHING, refused=NOTHING, recent_bytes_per_second={})
    assert (kinds(cut), waiting.tolist()) == ({Act.CHANGE: 1}, [B])


def test_moving_a_class_is_not_torn_apart() -> None:
    """Between the removal and the creation there would be a turn without it."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))
    moved: Changes = rig.plan(wanted_of({A: Set(), B: Set()}))
    assert len(moved) == 0
    rig.kernel.delete_class("eth0", A)
    rig.kernel.create_class("eth0", FakeClass(A, 0x10020, 1_000, 125_000))
    moved = rig.plan(wanted_of({A: Set(), B: Set()}))
    assert kinds(moved) == {Act.REMOVE: 1, Act.CREATE: 1}
    cut, waiting = plan.spread(moved, 1, urgent=NOTHING, refused=NOTHING, recent_bytes_per_second={})
    assert (kinds(cut), waiting.tolist()) == (kinds(moved), [])
