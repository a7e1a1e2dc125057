"""Notifications that are lost, overflow, or were never heard: the other witnesses know."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

from bwexporter.core.lanes import Changes, Outcomes
from bwexporter.core.report import EventKind
from tests.builders import GIGABIT
from tests.fake_kernel import FakeClass
from tests.faults.real_node import RealNode
from tests.node import DEVICE, Node

TRUNK = 0x1_0010
A_LOT = 3_000_000


def send(node: Node, slice_name: str = "ann", size: int = A_LOT) -> int:
    """Send in a lane; return what passed."""
    return node.kernel.offer(DEVICE, node.class_of(slice_name), size, seconds=60.0)


def turn(node: Node) -> set[EventKind]:
    """Take a turn a little later; return what it told."""
    node.pass_seconds(1.0)
    return {event.kind for event in node.whole_turn().events}


def remake(node: Node, slice_name: str = "ann") -> None:
    """Let a stranger delete a class and make it anew."""
    deaf = isinstance(node, RealNode) and node.real.deaf
    node.kernel.delete_class(DEVICE, node.class_of(slice_name), notify=not deaf)
    made = FakeClass(node.class_of(slice_name), TRUNK, GIGABIT, GIGABIT, ceiling_burst_ns=10**6)
    node.kernel.create_class(DEVICE, made)


class Helpless:
    """A door whose changes never reach the kernel."""

    def __init__(self, door: Any) -> None:
        self._door = door

    def __getattr__(self, name: str) -> Any:
        """Do all else."""
        return getattr(self._door, name)

    def apply(self, changes: Changes) -> Outcomes:
        """Do nothing, as a program does that dies here."""
        nothing = np.zeros(len(changes), np.int64)
        return Outcomes(np.full(len(changes), errno.EINTR, np.int32), nothing)


def die(node: Node) -> None:
    """End the program as by kill -9."""
    if isinstance(node, RealNode):
        node.stop()
    elif node.door is not None:
        node.door.close()
        node.door = None


@pytest.fixture
def seen(node: Node) -> tuple[Node, int]:
    """Return a node whose lane has sent something that was counted."""
    for _ in range(2):
        turn(node)
    sent = send(node)
    turn(node)
    return node, sent


def test_a_heard_restart_is_counted_to_the_byte_though_it_regrew(seen: tuple[Node, int]) -> None:
    """The end tells the final counters, with what no look had seen."""
    node, sent = seen
    sent += send(node)
    remake(node)
    sent += send(node, size=3 * A_LOT)
    assert EventKind.COUNTER_RESTARTED in turn(node)
    assert node.account("ann")["used_bytes"] == node.account("ann")["sent_bytes"] == sent


def test_a_restart_that_nobody_heard_of_is_told_by_the_leaf_and_the_trunk(seen: tuple[Node, int]) -> None:
    """The listener has overflowed; the trunk grew by what the dead life had counted unseen."""
    node, sent = seen
    sent += send(node)
    node.kernel.lose_notifications()
    remake(node)
    sent += send(node, size=3 * A_LOT)
    assert EventKind.COUNTER_RESTARTED in turn(node)
    assert node.account("ann")["used_bytes"] == sent


def test_an_overflow_alone_changes_nothing(seen: tuple[Node, int]) -> None:
    """Nothing ended: what was sent meanwhile is counted once, and nothing is taken for a restart."""
    node, sent = seen
    for _ in range(3):
        node.kernel.lose_notifications()
        sent += send(node)
        assert EventKind.COUNTER_RESTARTED not in turn(node)
    assert node.account("ann")["used_bytes"] == sent
    assert node.account("bob")["used_bytes"] == 0


def test_a_restart_while_the_program_was_dead_is_told_by_the_leaf_and_the_trunk(seen: tuple[Node, int]) -> None:
    """Deaf or dead: the same witnesses speak, and the period is the old one."""
    node, sent = seen
    began = node.account("ann")["period_start_at"]
    sent += send(node)
    die(node)
    remake(node)
    sent += send(node, size=3 * A_LOT)
    node.start()
    turn(node)
    assert (node.account("ann")["used_bytes"], node.account("ann")["period_start_at"]) == (sent, began)


def test_a_storm_of_strangers_acts_leaves_every_byte_where_it_belongs(seen: tuple[Node, int]) -> None:
    """Ten lives between two looks, all heard."""
    node, sent = seen
    for _ in range(10):
        remake(node)
        sent += send(node, size=A_LOT // 3)
    turn(node)
    assert node.account("ann")["used_bytes"] == sent
    sent += send(node)
    turn(node)
    assert node.account("ann")["used_bytes"] == sent


@pytest.mark.parametrize("killed", ["before it was given", "after it was given"])
def test_a_leaf_queue_given_to_a_stranger_s_class_is_known_though_the_program_died_then(
    seen: tuple[Node, int], killed: str
) -> None:
    """Another lane's class ends unheard as well: each has what it sent, and no byte is counted twice."""
    node, sent = seen
    others = 0
    for _ in range(2):
        others += send(node, slice_name="bob")
        turn(node)
    remake(node)
    sent += send(node, size=A_LOT // 3)
    if killed == "before it was given":
        node.turns.desks[DEVICE].door = Helpless(node.door)
    turn(node)
    assert node.account("ann")["used_bytes"] == sent
    die(node)
    others += send(node, slice_name="bob", size=2 * A_LOT)
    remake(node, slice_name="bob")
    others += send(node, slice_name="bob", size=A_LOT // 2)
    sent += send(node)
    node.start()
    turn(node)
    assert (node.account("ann")["used_bytes"], node.account("bob")["used_bytes"]) == (sent, others)
