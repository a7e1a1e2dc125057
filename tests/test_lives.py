"""What counters gained over the ends of their lives; the cases of one class stand in test_accounting.py."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import lives
from bwexporter.core.lanes import Counters, Snapshot, Traffic
from bwexporter.core.periods import Rolling
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node

NAMES = ("ann", "bob", "cyd")


def a_node(*names: str) -> Node:
    """Return a node whose classes have been seen, in a period longer than any test."""
    node = Node({name: number for number, name in enumerate(names or NAMES, 1)}, rule=Rolling(1e7))
    for _ in range(2):
        node.pass_seconds(10.0)
        node.turn()
    return node


def send(node: Node, **sizes: int) -> None:
    """Let slices send."""
    for name, size in sizes.items():
        assert node.kernel.offer(DEVICE, node.class_of(name), size, seconds=1e6) == size


def turn(node: Node) -> dict[str, int]:
    """Take a turn and return what each slice has sent by its account."""
    node.pass_seconds(10.0)
    node.turn()
    return {name: int(node.account(name)["sent_bytes"]) for name in node.ids}


def make_anew(node: Node, name: str, *, heard: bool, traffic: Traffic = Traffic.NORMAL) -> None:
    """Let a stranger delete a class and make it again as it was, without a leaf queue of ours."""
    handle, root = node.class_of(name, traffic), node.kernel.links[DEVICE].root
    assert root is not None
    was = root.classes[handle]
    if not heard:
        node.kernel.lose_notifications()
    assert node.kernel.delete_class(DEVICE, handle, notify=heard) == 0
    anew = FakeClass(handle, was.parent, was.rate, was.ceiling, was.quantum, was.burst_ns, was.ceiling_burst_ns)
    assert node.kernel.create_class(DEVICE, anew, notify=heard) == 0


def test_a_class_that_strangers_make_anew_again_and_again_unheard_loses_nothing() -> None:
    """From the second time on it has no leaf queue of ours: only its inner class tells."""
    node = a_node()
    sent = 0
    for round_ in range(1, 6):
        send(node, ann=1_000_000 * round_, bob=30_000)
        make_anew(node, "ann", heard=False)
        send(node, ann=2_000_000 * round_)
        sent += 3_000_000 * round_

        assert {"ann": sent, "bob": 30_000 * round_, "cyd": 0} == turn(node)


def test_a_class_without_our_leaf_that_lives_on_unheard_is_not_counted_twice() -> None:
    """Lost notifications alone are no reason to doubt it."""
    node = a_node()
    make_anew(node, "ann", heard=True)
    for round_ in range(1, 6):
        send(node, ann=1_000_000, bob=2_000_000)
        node.kernel.lose_notifications()

        assert {"ann": 1_000_000 * round_, "bob": 2_000_000 * round_, "cyd": 0} == turn(node)


def test_of_several_classes_without_our_leaf_the_one_whose_count_is_missing_was_made_anew() -> None:
    """The inner class grew by what ann had counted, which is more than bob ever did."""
    node = a_node()
    for name in ("ann", "bob"):
        make_anew(node, name, heard=True)
    send(node, ann=9_000_000, bob=2_000_000)
    turn(node)

    make_anew(node, "ann", heard=False)
    send(node, ann=10_000_000, bob=1_000_000)

    assert {"ann": 19_000_000, "bob": 3_000_000, "cyd": 0} == turn(node)


def test_the_sum_is_kept_where_two_were_made_anew_unheard() -> None:
    """Whose bytes were whose nobody can tell; that none is lost is certain."""
    node = a_node()
    for name in ("ann", "bob"):
        make_anew(node, name, heard=True)
    send(node, ann=9_000_000, bob=2_000_000)
    turn(node)

    for name in ("ann", "bob"):
        make_anew(node, name, heard=False)
    send(node, ann=10_000_000, bob=11_000_000)

    assert 32_000_000 == sum(turn(node).values())


def test_a_class_made_anew_while_the_program_was_down_is_found_out() -> None:
    """Its leaf queue is not ours; what the dead life had sent since the last turn, the inner class knows."""
    node = a_node()
    send(node, ann=5_000_000)
    turn(node)
    assert node.door is not None
    node.door.close()
    node.door = None
    send(node, ann=1_000_000, bob=400_000)
    make_anew(node, "ann", heard=True)
    send(node, ann=7_000_000)
    node.start()

    assert {"ann": 13_000_000, "bob": 400_000, "cyd": 0} == turn(node)


def test_bytes_of_strangers_below_the_same_parent_are_nobody_s() -> None:
    """A class of nobody sends, and a lane's class is made anew at the same time."""
    node = a_node("ann", "bob")
    send(node, ann=1_000_000)
    turn(node)
    stranger = 0x1_1777
    assert node.kernel.create_class(DEVICE, FakeClass(stranger, 0x1_0010, 1_000, 125_000_000)) == 0
    node.kernel.refusals = {stranger: errno.EPERM}
    assert node.kernel.offer(DEVICE, stranger, 50_000_000, seconds=1e6)
    make_anew(node, "ann", heard=False)
    send(node, ann=2_000_000)

    assert {"ann": 3_000_000, "bob": 0} == turn(node)


def test_exempt_and_normal_lanes_have_witnesses_of_their_own() -> None:
    """What the normal trunk grew by says nothing of an exempt class."""
    node = a_node()
    send(node, bob=9_000_000)
    exempt = node.class_of("ann", Traffic.EXEMPT)
    assert node.kernel.offer(DEVICE, exempt, 4_000_000, seconds=1e6) == 4_000_000
    turn(node)
    make_anew(node, "ann", heard=False, traffic=Traffic.EXEMPT)
    assert node.kernel.offer(DEVICE, exempt, 5_000_000, seconds=1e6) == 5_000_000
    send(node, bob=1_000_000)

    assert {"ann": 0, "bob": 10_000_000, "cyd": 0} == turn(node)
    assert 9_000_000 == node.account("ann", Traffic.EXEMPT)["sent_bytes"]


# Looks that were not counted.


def looks(node: Node) -> Snapshot:
    """Look through the node's door."""
    assert node.door is not None
    return node.door.look()


def test_two_looks_joined_tell_every_end_in_order() -> None:
    """The earlier ones first; the readings are the later look's."""
    node = a_node()
    for size in (1_000, 2_000):
        send(node, ann=size)
        make_anew(node, "ann", heard=True)
    earlier = looks(node)
    send(node, ann=3_000)
    make_anew(node, "ann", heard=True)
    send(node, ann=4_000)

    joined = lives.joined(earlier, looks(node))

    assert [1_000, 2_000, 3_000] == joined.endings.sent_bytes.tolist()
    assert 4_000 == joined.counts.sent_bytes[joined.classes.handle == node.class_of("ann")][0]


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (False, False), (True, True)])
def test_two_looks_joined_were_watched_where_both_were(*, first: bool, second: bool) -> None:
    """An overflow before either may have hidden an end."""
    node = a_node()
    earlier, later = looks(node), looks(node)

    joined = lives.joined(
        replace(earlier, watched_since_last_look=first), replace(later, watched_since_last_look=second)
    )

    assert joined.watched_since_last_look is (first and second)


def test_ends_on_another_interface_say_nothing_of_this_one() -> None:
    """The interface went and came back between two looks."""
    node = a_node()
    send(node, ann=1_000)
    node.kernel.delete_root(DEVICE)
    earlier = looks(node)
    node.kernel.remove_link(DEVICE)
    node.kernel.add_link(DEVICE)

    joined = lives.joined(earlier, looks(node))

    assert ((1_000,), ()) == (earlier.tree_endings_bytes, joined.tree_endings_bytes)


# The look at which nothing happened.


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * len(NAMES)), min_size=1, max_size=3))
def test_lives_that_certainly_went_on_are_counted_as_those_that_are_asked_everything(
    turns: list[tuple[int, ...]],
) -> None:
    """Most looks take a short way; where every leaf queue is still ours, the long one finds the very same."""
    node = a_node()
    for sizes in turns:
        send(node, **dict(zip(NAMES, sizes, strict=True)))
        node.pass_seconds(10.0)
        ledger, snapshot = node.turns.desks[DEVICE].ledger, node.door.look()
        short = lives.gains(ledger, snapshot, same_device=True)
        long = lives.gains(ledger, replace(snapshot, watched_since_last_look=False), same_device=True)

        assert sum(sizes) == short.gained[0].sum()
        for name in ("gained", "restarted", "tree_ended", "parent_handle", "parent_sent_bytes", "tree_sent_bytes"):
            assert np.array_equal(getattr(short, name), getattr(long, name)), name
        for name in Counters.__dataclass_fields__:
            assert np.array_equal(getattr(short.counters, name), getattr(long.counters, name)), name
        node.turn()
