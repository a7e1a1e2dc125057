"""Nothing lets a slice escape its account: whatever happens in whatever order, used is what was sent.

The real turn runs over the real law on the fake machine, while traffic passes, strangers delete and re-create classes
and trees, notifications are lost, the program is killed and started, slices leave and return under other ids, clocks
are stepped and the machine is rebooted. The test keeps its own books of what passed each lane.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bwexporter.core.lanes import DEFAULT_SLICE, Lane, Traffic
from bwexporter.core.periods import Rolling
from tests.builders import GIGABIT
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node

NAMES = ("ann", "bob", "cyd")
MONTH_SECONDS = 30 * 86_400.0

names = st.sampled_from(NAMES)
traffics = st.sampled_from(list(Traffic))


class Escape(RuleBasedStateMachine):
    """The books: what passed each lane, and what of it no look has seen yet."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Counter[tuple[str, Traffic]] = Counter()
        self.unseen: Counter[tuple[str, Traffic]] = Counter()
        self.running = True
        self.looked = False  # every account is as new as the books
        self.exact = True  # else only sums of a parent's lanes are known: a life ended while nobody watched
        self.by_traffic = True  # else only the sum of the tree is known: it was deleted whole
        self.clock_is_known = True  # no step that no turn has seen
        self.told: Counter[tuple[str, Traffic]] = Counter()  # unseen, but told in notifications that wait to be read
        self.in_tree: Counter[tuple[str, Traffic]] = Counter()  # of those, what is gone with a deleted tree
        self.class_ended = False  # since the last look
        self.next_id = 10

    @initialize()
    def begin(self) -> None:
        """Start with three slices in a period longer than any run, and the tree built."""
        self.node = Node({name: number for number, name in enumerate(NAMES, 1)}, rule=Rolling(MONTH_SECONDS))
        self.turn(1.0)
        self.turn(1.0)
        self.ends_at = {name: self.node.account(name)["period_end_at"] for name in NAMES}

    @rule(name=names, traffic=traffics, kilobytes=st.integers(0, 5_000))
    def send(self, name: str, traffic: Traffic, kilobytes: int) -> None:
        """A slice sends; without a class its packets are the default lane's."""
        if name not in self.node.ids:
            return
        root = self.node.kernel.links[DEVICE].root
        handle = self.class_of(name, traffic)
        there = root is not None and handle in root.classes
        if root is None or (not there and self.class_of(DEFAULT_SLICE, Traffic.NORMAL) not in root.classes):
            return
        lane = (name, traffic) if there else (DEFAULT_SLICE, Traffic.NORMAL)
        sent = self.node.kernel.offer(DEVICE, handle, kilobytes * 1000, seconds=1.0)
        self.passed[lane] += sent
        self.unseen[lane] += sent
        self.looked &= not sent

    def was_seen(self, handle: int) -> bool:
        """Say whether the last look saw the class that is there now."""
        counters = self.node.turns.desks[DEVICE].ledger.counters
        seen = counters.alive & (counters.handle == handle)
        root = self.node.kernel.links[DEVICE].root
        return root is not None and bool((counters.leaf[seen] == root.classes[handle].leaf).any())

    def class_of(self, name: str, traffic: Traffic) -> int:
        """Return where a slice's packets go."""
        minor = self.node.ids.get(name, 0x6FFF) + (0x1000 if traffic is Traffic.NORMAL else 0x8000)
        return 0x1_0000 | minor

    @precondition(lambda self: self.running)
    @rule(seconds=st.floats(0.01, 700.0))
    def turn(self, seconds: float) -> None:
        """A turn, on time or long after it was due."""
        self.node.pass_seconds(seconds)
        self.node.turn()
        self.unseen.clear()
        self.told.clear()
        self.in_tree.clear()
        self.looked = self.clock_is_known = True
        self.class_ended = False

    @rule(name=names, traffic=traffics, remade=st.booleans(), regrown=st.integers(0, 9_000), heard=st.booleans())
    def stranger_removes_a_class(self, name: str, traffic: Traffic, *, remade: bool, regrown: int, heard: bool) -> None:
        """Somebody deletes a class, and perhaps makes it anew, and it regrows past what it was."""
        handle = self.class_of(name, traffic)
        root = self.node.kernel.links[DEVICE].root
        if root is None or handle not in root.classes or name not in self.node.ids:
            return
        if not heard and not (self.was_seen(handle) and root.classes[handle].leaf):
            return  # unheard, a class that no look has seen, or that has no leaf queue of ours, is known by its parent
        parent = root.classes[handle].parent
        self.exact &= self.running and heard
        if not heard:
            self.node.kernel.lose_notifications()
        self.node.kernel.delete_class(DEVICE, handle, notify=heard)
        self.looked = False
        self.class_ended = True
        if heard and self.running:
            self.told[name, traffic] = self.unseen[name, traffic]
        if remade:
            self.node.kernel.create_class(DEVICE, FakeClass(handle, parent, GIGABIT, GIGABIT, ceiling_burst_ns=10**6))
            self.send(name, traffic, regrown)

    @precondition(lambda self: self.running)
    @rule()
    def stranger_deletes_the_tree(self) -> None:
        """Somebody deletes the root queue; its sum says what was sent, and lanes share it by what they sent of late."""
        self.exact &= not self.unseen
        self.by_traffic &= not self.unseen
        self.in_tree |= self.unseen
        self.told |= self.unseen
        self.node.kernel.delete_root(DEVICE)
        self.looked = False

    @rule()
    def notifications_are_lost(self) -> None:
        """The listener overflows before anything happens."""
        if self.looked:
            self.node.kernel.lose_notifications()

    @precondition(lambda self: self.running)
    @rule(name=names, traffic=traffics)
    def dumps_miss_a_class(self, name: str, traffic: Traffic) -> None:
        """All dumps of a turn are disturbed and miss a class; what it sent is counted later, if it is there then."""
        root = self.node.kernel.links[DEVICE].root
        there = root is not None and self.class_of(name, traffic) in root.classes
        if name in self.node.ids and there and self.was_seen(self.class_of(name, traffic)):
            still_unseen = self.unseen[name, traffic] - self.told[name, traffic]
            self.node.kernel.missing[self.class_of(name, traffic)] = 3
            self.node.kernel.stirrings = 3
            self.turn(0.1)
            self.node.kernel.missing.clear()
            self.node.kernel.stirrings = 0
            self.unseen[name, traffic] = still_unseen
            self.looked = False
            if self.node.turns.desks[DEVICE].ledger.counters.unheard.any():
                self.turn(
                    0.1
                )  # what else was removed unheard is in doubt, and its inner class must live until it is not

    @precondition(lambda self: self.running)
    @rule()
    def program_is_killed(self) -> None:
        """The program is killed, at any moment between turns."""
        assert self.node.door is not None
        self.node.door.close()
        self.node.door = None
        self.running = False
        self.exact &= not self.class_ended
        self.passed -= self.in_tree
        self.unseen -= self.in_tree
        self.in_tree.clear()
        self.told.clear()

    @precondition(lambda self: not self.running)
    @rule()
    def program_starts(self) -> None:
        """The program starts anew from what was saved, and takes its first turn."""
        self.node.start()
        self.running = True
        self.turn(0.5)
        self.turn(0.5)

    @precondition(lambda self: self.running)
    @rule(name=names)
    def slice_is_removed(self, name: str) -> None:
        """A slice is removed; as at any reload, what was sent until now is counted first."""
        self.turn(0.1)
        self.node.ids.pop(name, None)
        self.node.enlist()

    @precondition(lambda self: self.running)
    @rule(name=names, other_id=st.booleans())
    def slice_returns_or_moves(self, name: str, *, other_id: bool) -> None:
        """A slice is there again, or gets another id."""
        self.turn(0.1)
        if other_id or name not in self.node.ids:
            self.next_id += 1
            self.node.ids[name] = self.next_id
        self.node.enlist()
        self.turn(0.1)
        self.turn(0.1)

    @rule(seconds=st.sampled_from([-1e6, -3600.0, -0.7, 0.7, 3600.0, 1e7]))
    def wall_clock_is_stepped(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.node.wall_seconds += seconds
        self.clock_is_known = False

    @precondition(lambda self: self.clock_is_known)
    @rule(down=st.floats(0.0, 300.0))
    def machine_reboots(self, down: float) -> None:
        """The kernel forgets everything; what no look had seen is gone with it."""
        self.passed -= self.unseen
        self.unseen.clear()
        self.node.kernel.remove_link(DEVICE)
        self.node.kernel.add_link(DEVICE)
        self.node.boot_id += "'"
        self.node.wall_seconds += down
        self.node.boot_seconds = 10.0
        self.node.start()
        self.running = True
        self.turn(0.5)
        self.turn(0.5)

    @precondition(lambda self: self.running)
    @rule()
    def interface_goes_and_comes_back(self) -> None:
        """The interface is deleted with its tree; what no look had seen is gone with it."""
        self.passed -= self.unseen - self.told
        self.unseen.clear()
        self.node.kernel.remove_link(DEVICE)
        self.node.kernel.add_link(DEVICE)
        self.turn(0.5)
        self.turn(0.5)

    @invariant()
    def used_is_what_was_sent(self) -> None:
        """After a turn every account is what passed its lane, used and sent alike, and its period is the old one."""
        if not (self.running and self.looked):
            return
        ledger = self.node.turns.desks[DEVICE].ledger
        if ledger.counters.unheard.any():
            return  # a class was absent from a disturbed dump, and nobody listened: the next look tells
        accounts = dict(
            zip(
                ledger.lanes,
                zip(ledger.accounts.used_bytes.tolist(), ledger.accounts.sent_bytes.tolist(), strict=True),
                strict=True,
            )
        )
        lanes = {Lane(DEVICE, name, traffic): count for (name, traffic), count in self.passed.items()}
        if self.exact:
            for lane, passed in lanes.items():
                assert (passed, passed) == accounts[lane], lane
        assert sum(self.passed.values()) == sum(sent for _, sent in accounts.values())
        for traffic in Traffic if self.by_traffic else ():
            counted = sum(sent for lane, (_, sent) in accounts.items() if lane.traffic is traffic)
            assert sum(passed for lane, passed in lanes.items() if lane.traffic is traffic) == counted, traffic
        ends = dict(zip(ledger.lanes, ledger.accounts.period_end_at.tolist(), strict=True))
        for name in NAMES:
            assert self.ends_at[name] == ends.get(Lane(DEVICE, name, Traffic.NORMAL), self.ends_at[name]), name


Escape.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestEscape = Escape.TestCase
