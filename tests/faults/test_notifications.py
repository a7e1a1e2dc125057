"""Notifications that are lost, overflow, or were never heard: the other witnesses know."""

from __future__ import annotations

import pytest

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
    if isinstance(node, RealNode):
        node.stop()
    else:
        assert node.door is not None
        node.door.close()
        node.door = None
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
