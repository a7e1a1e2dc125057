"""What of a turn is worth remembering, told once."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from bwexporter.core.lanes import Traffic
from bwexporter.core.periods import Calendar, Rolling, Unit
from bwexporter.core.report import Event, EventKind
from bwexporter.stages import Pace
from bwexporter.telling import sentence
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node

MEGABYTE = 1_000_000


def a_node(**given: object) -> Node:
    """Return a node with the slice ann, 100 MB of 1 h in looks of 10 s, whose tree stands and has been seen."""
    usual = {
        "rule": Rolling(3600.0),
        "pace": Pace(10.0, 10.0, 2.0),
        "allowance_bytes": 100 * MEGABYTE,
        "threshold_bytes": 80 * MEGABYTE,
        "full_bytes_per_second": 1_250_000,
        "guarantee_bytes_per_second": 1,
        "floor_bytes_per_second": 500,
    }
    node = Node({"ann": 1}, **{**usual, **given})
    node.turn()
    told_in_turn(node)
    return node


def told_in_turn(node: Node, seconds: float = 10.0) -> tuple[Event, ...]:
    """Let time pass, take a turn, and return what it told of ann and of the device."""
    node.pass_seconds(seconds)
    return tuple(one for one in node.whole_turn().events if one.lane is None or one.lane.slice_name == "ann")


def kinds(events: tuple[Event, ...]) -> list[EventKind]:
    """Return what was told of normal lanes and of the device."""
    return [one.kind for one in events if one.lane is None or one.lane.traffic is Traffic.NORMAL]


def send(node: Node, size: int) -> None:
    """Let ann send so much, as fast as she likes."""
    assert node.kernel.offer(DEVICE, node.class_of("ann"), size, seconds=1e6) == size


def test_a_quiet_turn_tells_nothing() -> None:
    """Nothing is told per turn, neither of idle lanes nor of lanes that send."""
    node = a_node()
    first = told_in_turn(node)
    send(node, 5 * MEGABYTE)

    assert [[], [], []] == [kinds(first), kinds(told_in_turn(node)), kinds(told_in_turn(node))]


def test_a_changed_verdict_is_told_once_with_its_inputs() -> None:
    """The event says what the rule saw and what came of it."""
    node = a_node()
    send(node, 82 * MEGABYTE)

    (told,) = told_in_turn(node)
    later = [told_in_turn(node) for _ in range(5)]

    assert told.kind is EventKind.VERDICT
    assert (told.device, told.at_wall_seconds) == (DEVICE, node.wall_seconds - 50.0)
    assert {
        "used_bytes": 82 * MEGABYTE,
        "elapsed_seconds": 20.0,
        "remaining_seconds": 3580.0,
        "full_bytes_per_second": 1_250_000,
        "old_reason": "within",
        "reason": "over_threshold",
        "old_ceiling_bytes_per_second": 1_250_000,
        "allowance_bytes": 100 * MEGABYTE,
        "threshold_bytes": 80 * MEGABYTE,
    }.items() <= told.inputs.items()
    assert [()] * 5 == later


def outcome(events: tuple[Event, ...]) -> str:
    """Return what the one verdict among events says became of its ceiling."""
    (verdict,) = [one for one in events if one.kind is EventKind.VERDICT]
    return str(verdict.inputs["outcome"])


def test_a_verdict_says_what_became_of_it_in_the_kernel() -> None:
    """It is in force, or the kernel refused it, or nothing was asked of the kernel."""
    applied, refused, watched = a_node(), a_node(), a_node(shadow=True)
    refused.kernel.refusals = {refused.class_of("ann"): errno.EINVAL}
    for node in (applied, refused, watched):
        send(node, 82 * MEGABYTE)

    told = [told_in_turn(node) for node in (applied, refused, watched)]

    assert ["applied", "EINVAL", "shadow"] == [outcome(events) for events in told]
    said = [sentence(one.kind, one.inputs) for events in told for one in events if one.kind is EventKind.VERDICT]
    assert said[0] + " The kernel refused it: EINVAL." == said[1]
    assert said[2].endswith(" It is judged only.")


def test_a_ceiling_that_doubled_is_told_and_smaller_changes_are_not() -> None:
    """An idle capped slice's ceiling rises all the time; it is told at each doubling."""
    node = a_node()
    send(node, 82 * MEGABYTE)
    ceilings = [int(told_in_turn(node)[0].inputs["ceiling_bytes_per_second"])]
    changes = 0

    while node.account("ann")["period_end_at"] > node.wall_seconds + 30.0:
        told = told_in_turn(node)
        changes += int(len(node.turns.desks[DEVICE].report.changes) > 0)
        ceilings += [int(one.inputs["ceiling_bytes_per_second"]) for one in told if one.kind is EventKind.CEILING]

    assert changes > 100
    assert 5 <= len(ceilings) <= 8
    assert all(2 * before <= after < 2.6 * before for before, after in pairwise(ceilings))


def test_a_ceiling_that_halved_is_told() -> None:
    """A slice that spends most of what is left is told that it has half of what it was told before."""
    node = a_node()
    send(node, 82 * MEGABYTE)
    (first,) = told_in_turn(node)
    send(node, 10 * MEGABYTE)

    (told,) = told_in_turn(node)

    assert told.kind is EventKind.CEILING
    assert 2 * told.inputs["ceiling_bytes_per_second"] <= first.inputs["ceiling_bytes_per_second"]
    assert told.inputs["old_ceiling_bytes_per_second"] == first.inputs["ceiling_bytes_per_second"]


def test_an_ended_period_is_told_with_its_use() -> None:
    """Whoever reads it sees what the slice came to, and that it has its full rate again."""
    node = a_node()
    send(node, 82 * MEGABYTE)
    told_in_turn(node)

    told = told_in_turn(node, 3580.0)

    by_kind = {one.kind: one for one in told if one.lane and one.lane.traffic is Traffic.NORMAL}
    assert {"used_bytes": 82 * MEGABYTE, "periods": 1} == by_kind[EventKind.PERIOD_ROLLED].inputs
    assert ("over_threshold", "within") == tuple(
        by_kind[EventKind.VERDICT].inputs[key] for key in ("old_reason", "reason")
    )


def test_several_ended_periods_are_one_event() -> None:
    """After a long pause nobody wants one event for each."""
    node = a_node()

    told = told_in_turn(node, 10 * 3600.0)

    rolled = [one for one in told if one.kind is EventKind.PERIOD_ROLLED]
    assert [10, 10] == [one.inputs["periods"] for one in rolled]


def test_a_class_made_anew_and_a_deleted_tree_are_told() -> None:
    """Both say what the account holds, so that anybody can check that nothing was lost."""
    node = a_node()
    send(node, 5 * MEGABYTE)
    handle, root = node.class_of("ann"), node.kernel.links[DEVICE].root
    assert root is not None
    was = root.classes[handle]
    node.kernel.delete_class(DEVICE, handle)
    node.kernel.create_class(DEVICE, FakeClass(handle, was.parent, was.rate, was.ceiling))

    restarted = next(one for one in told_in_turn(node) if one.kind is EventKind.COUNTER_RESTARTED)
    node.kernel.delete_root(DEVICE)
    deleted = told_in_turn(node)

    assert {"used_bytes": 5 * MEGABYTE} == restarted.inputs
    assert EventKind.TREE_ENDED in kinds(deleted)
    assert EventKind.DRIFT not in kinds(deleted)


def test_drift_is_told_with_what_it_was_and_what_was_done() -> None:
    """Somebody raised the ceiling by hand; it is set back in the same turn."""
    node = a_node()
    handle = node.class_of("ann")
    root = node.kernel.links[DEVICE].root
    assert root is not None
    node.kernel.change_class(DEVICE, replace(root.classes[handle], ceiling=77_000_000))

    (told,) = told_in_turn(node)

    assert told.kind is EventKind.DRIFT
    assert told.lane is not None
    assert told.lane.slice_name == "ann"
    assert {
        "act": "change",
        "class_handle": handle,
        "old_ceiling_bytes_per_second": 77_000_000,
        "ceiling_bytes_per_second": 1_250_000,
        "outcome": "applied",
    } == told.inputs


def test_a_refused_change_is_told_once_and_again_when_the_refusal_is_another_one() -> None:
    """It is asked for every turn; that is no news."""
    node = a_node()
    node.kernel.refusals = {node.class_of("ann"): errno.EINVAL}
    send(node, 82 * MEGABYTE)

    first = [one for one in told_in_turn(node) if one.kind is EventKind.REFUSED]
    again = [one for _ in range(5) for one in told_in_turn(node) if one.kind is EventKind.REFUSED]
    node.kernel.refusals = {node.class_of("ann"): errno.EPERM}
    other = [one for one in told_in_turn(node) if one.kind is EventKind.REFUSED]
    node.kernel.refusals = {}
    accepted = [one for one in told_in_turn(node) if one.kind is EventKind.REFUSED]
    node.kernel.refusals = {node.class_of("ann"): errno.EPERM}
    send(node, 9 * MEGABYTE)
    anew = [one for one in told_in_turn(node) if one.kind is EventKind.REFUSED]

    assert [["EINVAL"], [], ["EPERM"], [], ["EPERM"]] == [
        [one.inputs["outcome"] for one in events] for events in (first, again, other, accepted, anew)
    ]


def test_a_tree_that_cannot_be_built_is_told_once() -> None:
    """Somebody else's root queue appears while the program runs."""
    node = Node({"ann": 1})
    node.kernel.permitted = False

    events = [one for _ in range(4) for one in told_in_turn(node)]

    of_tree = [one for one in events if one.kind is EventKind.REFUSED and one.lane is None]
    assert "build the tree" in {one.inputs["act"] for one in of_tree}
    assert max(Counter((one.inputs["act"], one.inputs.get("class_handle")) for one in of_tree).values()) == 1


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_stepped_clock_is_told_once(step: float) -> None:
    """The event says by how much."""
    node = a_node(rule=Calendar(Unit.DAY))
    node.wall_seconds += step

    told = [one for one in told_in_turn(node) if one.kind is EventKind.CLOCK_STEPPED]

    assert [{"stepped_seconds": step}] == [one.inputs for one in told]
    assert EventKind.CLOCK_STEPPED not in kinds(told_in_turn(node))


def test_after_a_restart_nothing_is_told_again() -> None:
    """What was told last is part of the account."""
    node = a_node()
    send(node, 82 * MEGABYTE)
    told_in_turn(node)
    told_in_turn(node)  # saves what the turn before has told
    node.start()

    assert [(), ()] == [told_in_turn(node), told_in_turn(node)]


def test_every_event_reaches_the_store_once() -> None:
    """What a turn tells after its save is saved with the next one."""
    node = a_node()
    send(node, 82 * MEGABYTE)
    (told,) = told_in_turn(node)
    told_in_turn(node)
    told_in_turn(node)

    assert [told] == [one for one in node.shelf.events if one.lane == told.lane]


def test_an_idle_lane_is_paced_once_whenever_others_are_looked_at() -> None:
    """Early looks are there for lanes that send: they move no ceiling of an idle one, and so tell nothing of it."""
    node = Node(
        {"ann": 1, "bob": 2},
        allowance_bytes=20 * MEGABYTE,
        threshold_bytes=16 * MEGABYTE,
        full_bytes_per_second=10 * MEGABYTE,
        guarantee_bytes_per_second=1,
    )
    (told,) = told_in_turn(node)[:1]
    ceilings = set()
    for _ in range(40):
        assert node.kernel.offer(DEVICE, node.class_of("bob"), 10_000, seconds=1e6) == 10_000
        node.pass_seconds(node.turns.next_look_seconds(node.now()))
        report = node.whole_turn(early=node.turns.is_early(node.now()))
        ceilings.add(int(report.devices[0].verdicts.ceiling_bytes_per_second[node.row("ann")]))
    told_later = [one for one in node.shelf.events if one.lane == told.lane and one != told]

    assert ("within", "paced") == (told.inputs["old_reason"], told.inputs["reason"])
    assert ceilings == {told.inputs["ceiling_bytes_per_second"]}
    assert told_later == []
    assert node.now().boot_seconds < 1000.0 + 40 * 9.0  # looks did come early
