"""Dumps that miss classes, hold them twice, or fail: absence from one dump is not the end of a class."""

from __future__ import annotations

import pytest

from bwexporter.core.lanes import Act
from bwexporter.core.report import EventKind
from tests.node import DEVICE, Node

MEGABYTES = 8_000_000


@pytest.fixture
def node() -> Node:
    """Return a node on the fake machine whose lane has sent something that was counted."""
    node = Node({"ann": 1, "bob": 2}, allowance_bytes=10_000_000_000, threshold_bytes=5_000_000)
    node.turn()
    node.pass_seconds(10)
    node.turn()
    assert node.kernel.offer(DEVICE, node.class_of("ann"), MEGABYTES, seconds=60) == MEGABYTES
    node.pass_seconds(10)
    node.turn()
    return node


def test_a_class_that_a_disturbed_dump_missed_keeps_its_account_and_its_cap(node: Node) -> None:
    """It is not made anew, its bytes come with the next look, and nothing counts as a restart."""
    ann = node.class_of("ann")
    ceiling = node.kernel.links[DEVICE].root.classes[ann].ceiling
    sent = MEGABYTES + node.kernel.offer(DEVICE, ann, 50_000)
    node.kernel.missing[ann], node.kernel.stirrings = 3, 3
    node.pass_seconds(1)
    report = node.whole_turn()
    assert node.account("ann")["used_bytes"] == MEGABYTES
    assert EventKind.COUNTER_RESTARTED not in {event.kind for event in report.events}
    assert Act.REMOVE not in report.devices[0].changes.act
    assert node.kernel.links[DEVICE].root.classes[ann].ceiling == ceiling
    node.pass_seconds(1)
    node.turn()
    assert node.account("ann")["used_bytes"] == sent


def test_a_class_that_a_dump_holds_twice_is_counted_once(node: Node) -> None:
    """Whatever the kernel repeats."""
    ann = node.class_of("ann")
    node.kernel.repeated[ann], node.kernel.stirrings = 3, 3
    sent = MEGABYTES + node.kernel.offer(DEVICE, ann, 50_000)
    node.pass_seconds(1)
    node.turn()
    assert node.account("ann")["used_bytes"] == sent


def test_dumps_that_miss_something_again_and_again_lose_nothing(node: Node) -> None:
    """Each turn misses another class; after a whole look everything has been counted once."""
    sent = {"ann": MEGABYTES, "bob": 0}
    for number in range(12):
        name = ("ann", "bob")[number % 2]
        node.kernel.missing = {node.class_of(("bob", "ann")[number // 2 % 2]): 3}
        node.kernel.stirrings = 3
        sent[name] += node.kernel.offer(DEVICE, node.class_of(name), 30_000)
        node.pass_seconds(1)
        node.turn()
    node.kernel.missing, node.kernel.stirrings = {}, 0
    node.pass_seconds(1)
    node.turn()
    assert {name: node.account(name)["used_bytes"] for name in sent} == sent


def test_a_kernel_that_cannot_be_read_changes_nothing(node: Node) -> None:
    """The turn is skipped; accounts and caps stay, and what was sent meanwhile is counted when it can be read."""
    ann = node.class_of("ann")
    before, ceiling = node.account("ann"), node.kernel.links[DEVICE].root.classes[ann].ceiling
    node.kernel.unreadable = "the kernel did not answer a dump: not in time"
    sent = MEGABYTES
    for _ in range(3):
        sent += node.kernel.offer(DEVICE, ann, 30_000)
        node.pass_seconds(10)
        report = node.turn()
        assert "did not answer" in report.trouble
        assert node.account("ann") == before
        assert node.kernel.links[DEVICE].root.classes[ann].ceiling == ceiling
    node.kernel.unreadable = ""
    node.pass_seconds(10)
    assert not node.turn().trouble
    assert node.account("ann")["used_bytes"] == sent


def test_a_period_that_ends_while_the_kernel_cannot_be_read_ends_at_its_end() -> None:
    """Bytes of the blind time are split at the boundary in proportion to time."""
    node = Node({"ann": 1})
    node.turn()
    node.pass_seconds(86_000)
    node.turn()
    ended_at = node.account("ann")["period_end_at"]
    node.kernel.unreadable = "the kernel did not answer a dump: not in time"
    for _ in range(4):
        node.kernel.offer(DEVICE, node.class_of("ann"), 1_000_000)
        node.pass_seconds(200)
        node.turn()
    node.kernel.unreadable = ""
    node.turn()
    account = node.account("ann")
    assert (account["used_bytes"], account["sent_bytes"]) == (2_000_000, 4_000_000)
    assert account["period_start_at"] == ended_at
