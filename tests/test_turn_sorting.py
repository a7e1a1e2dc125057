"""The turn and the classifier: rules never name a class that is not there, whatever comes, goes or cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from bwexporter.core.lanes import Changes, Outcomes, Snapshot
from bwexporter.core.orders import Action, Command
from bwexporter.errors import KernelUnreadable
from bwexporter.log import Log
from bwexporter.sorting import Sorted
from bwexporter.turn import Turns
from tests.fake_kernel import FakeDevice, FakeKernel
from tests.node import DEVICE, Node
from tests.test_turn import TwoDevices


@dataclass
class Rules:
    """A sorter on the fake machine: it keeps the classes that its rules may name, and checks that they are there."""

    kernel: FakeKernel
    named: frozenset[int] = frozenset()
    needed: bool = True
    history: list[frozenset[int]] = field(default_factory=list)
    problems: tuple[str, ...] = ()

    def apply(self, existing: frozenset[int]) -> Sorted:
        """Take over the classes."""
        self.named = existing
        self.history.append(existing)
        self.check()
        return Sorted(problems=self.problems)

    def check(self) -> None:
        """Fail where a rule names a class that no device has."""
        roots = [link.root for link in self.kernel.links.values()]
        there = {handle for root in roots if root is not None for handle in root.classes}
        assert self.named <= there


@dataclass
class Checked:
    """A door that has the rules checked after every change of classes."""

    door: FakeDevice
    rules: Rules
    readable: bool = True

    def look(self) -> Snapshot:
        """Look, or fail to."""
        if not self.readable:
            raise KernelUnreadable("the kernel does not answer")
        return self.door.look()

    def apply(self, changes: Changes) -> Outcomes:
        """Do it."""
        outcomes = self.door.apply(changes)
        self.rules.check()
        return outcomes

    def disturbed(self) -> bool:
        """Ask it."""
        return self.door.disturbed()


def watched(turns: Turns, kernel: FakeKernel) -> Rules:
    """Put a sorter into turns, and watch the rules it makes at every change of a class."""
    rules = Rules(kernel)
    turns._sorter = rules
    for device, desk in turns.desks.items():
        assert isinstance(desk.door, FakeDevice)
        turns.desks[device] = replace(desk, door=Checked(desk.door, rules))
    return rules


def test_a_class_is_there_before_a_rule_names_it_and_goes_after_it_is_forgotten() -> None:
    """Slices come and go, and no rule ever leads nowhere."""
    node = Node({"ann": 1, "bob": 2})
    rules = watched(node.turns, node.kernel)
    node.turn()
    ann = node.class_of("ann")
    assert ann in rules.named
    node.ids = {"bob": 2, "cyd": 3}
    node.enlist()
    node.pass_seconds(10.0)
    node.turn()

    assert (ann in rules.named, node.class_of("cyd") in rules.named) == (False, True)
    assert [ann in named for named in rules.history[-2:]] == [False, False]
    assert [node.class_of("cyd") in named for named in rules.history[-2:]] == [False, True]


def test_a_tree_deleted_and_rebuilt_leaves_the_rules_as_they_are() -> None:
    """Its classes are back in the same turn: to take the elements out and in again would only cost time."""
    node = Node({"ann": 1})
    rules = watched(node.turns, node.kernel)
    node.turn()
    before = rules.named
    node.kernel.delete_root(DEVICE)
    rules.history.clear()
    node.pass_seconds(10.0)
    node.turn()

    assert rules.history == [before]


def test_a_device_that_cannot_be_read_keeps_no_other_from_being_sorted() -> None:
    """What was known of its own classes stands meanwhile."""
    node = TwoDevices()
    rules = watched(node.turns, node.kernel)
    node.turn()
    known = rules.named
    door = node.turns.desks["eth0"].door
    assert isinstance(door, Checked)
    door.readable = False
    rules.history.clear()
    node.kernel.delete_class("eth1", 0x1_1001)
    report = node.turn()

    assert report["eth0"].trouble
    assert rules.history[-1] == known


def test_what_is_not_sorted_as_wanted_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not again after a look that sorts nothing: one at no device, one that is frozen, one after an order by hand."""
    node, log = Node({"ann": 1}), Log()
    rules = watched(node.turns, node.kernel)
    rules.problems = ("bob: his cgroup is not there", "ann: her cgroup is not there")
    orders = [Command("one", Action.FREEZE, "root", "test", seconds=60.0), Command("two", Action.THAW, "root", "test")]

    log.hear(node.turns.take(node.now()))
    for order in (None, *orders):
        node.pass_seconds(1.0)
        log.hear(node.turns.take(node.now(), early=True))
        if order is not None:
            node.turns.obey(order, node.now())
        rules.problems = rules.problems[::-1]
        report = node.turns.take(node.now())
        log.hear(report)

    said = [one.getMessage() for one in caplog.records if "not sorted as wanted" in one.getMessage()]
    assert said == [f"packets are not sorted as wanted: {text}" for text in rules.problems[::-1]]
    assert set(report.sorting_problems) == set(rules.problems)
    rules.problems = ()
    assert node.turns.take(node.now()).sorting_problems == ()
