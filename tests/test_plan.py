"""The smallest list of changes, in a safe order, held to the fake machine."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import plan
from bwexporter.core.lanes import Act, Changes, Classes, Outcomes, Snapshot
from bwexporter.kernel.wire import INNER_QUANTUM_BYTES, TREE_HANDLE
from tests.builders import make_counters
from tests.fake_kernel import FakeClass, FakeDevice, FakeKernel

TOP, NORMAL, EXEMPT = (TREE_HANDLE | minor for minor in (0x1, 0x10, 0x20))
TRUNK = {TOP: TREE_HANDLE, NORMAL: TOP, EXEMPT: TOP}
LEAVES = {TREE_HANDLE | minor: NORMAL for minor in (0x1001, 0x1002, 0x1003)} | {
    TREE_HANDLE | minor: EXEMPT for minor in (0x8001, 0x8002)
}
PLACES = TRUNK | LEAVES
A, B = TREE_HANDLE | 0x1001, TREE_HANDLE | 0x1002


@dataclass(frozen=True)
class Set:
    """The settings of one class."""

    rate: int = 1_000
    ceiling: int = 125_000


def wanted_of(settings_of: dict[int, Set]) -> Classes:
    """Return wanted classes with these leaves below the trunk, parents before children."""
    whole = {handle: Set(1_000, 125_000_000) for handle in TRUNK} | settings_of
    handle = np.array(list(whole))
    return Classes(
        handle=handle,
        parent=np.array([PLACES[one] for one in whole]),
        rate_bytes_per_second=np.array([one.rate for one in whole.values()]),
        ceiling_bytes_per_second=np.array([one.ceiling for one in whole.values()]),
        quantum_bytes=np.where(np.isin(handle, list(TRUNK)), INNER_QUANTUM_BYTES, 3_000),
        burst_ns=np.full(len(whole), 64_000),
        ceiling_burst_ns=np.full(len(whole), 64_000),
        leaf=np.zeros(len(whole), np.int64),
    )


class Rig:
    """A machine and what is known of it; `step` plans and acts once."""

    def __init__(self, *, tree: bool = True) -> None:
        self.kernel = FakeKernel("eth0")
        self.door = FakeDevice("eth0", self.kernel)
        self.enforced: Classes | None = None
        self.known = make_counters(2, handle=np.array([A, B]))
        if tree:
            self.kernel.add_root("eth0", ours=True)

    def plan(self, wanted: Classes) -> Changes:
        """Look, and say what is to be done."""
        return self.diff(wanted, self.door.look())

    def diff(self, wanted: Classes, snapshot: Snapshot) -> Changes:
        """Say what is to be done; everything in the tree is ours."""
        ours = np.ones(len(snapshot.classes), bool)
        return plan.diff(wanted, snapshot, ours=ours, known=self.known, enforced=self.enforced)

    def step(self, wanted: Classes) -> tuple[Changes, Outcomes]:
        """Plan, act, and remember what was accepted."""
        changes = self.plan(wanted)
        outcomes = self.door.apply(changes)
        self.enforced = plan.settled(self.enforced, changes, outcomes.errno == 0, wanted)
        return changes, outcomes


def done(changes: Changes) -> list[tuple[Act, int]]:
    """Return acts and handles in their order."""
    return [
        (Act(act), handle) for act, handle in zip(changes.act.tolist(), changes.classes.handle.tolist(), strict=True)
    ]


handles = st.sampled_from(list(LEAVES))
sets = st.builds(Set, st.sampled_from([1, 125, 1_000]), st.sampled_from([1_000, 8_000, 125_000]))
wanted_leaves = st.dictionaries(handles, sets)
# Strangers may stand anywhere; they make classes in any order, and HTB puts one below the root where the parent lacks.
foreign = st.lists(
    st.tuples(
        st.sampled_from([*PLACES, TREE_HANDLE | 0x2FFF, TREE_HANDLE | 0x1FFF]),
        st.sampled_from([TREE_HANDLE, *TRUNK, A, TREE_HANDLE | 0x2FFF, TREE_HANDLE | 0x1FFF]),
        sets,
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(before=wanted_leaves, strangers=foreign, removed=st.sets(handles), wanted=wanted_leaves, tree=st.booleans())
def test_applying_a_plan_leaves_an_empty_plan(
    *,
    before: dict[int, Set],
    strangers: list[tuple[int, int, Set]],
    removed: set[int],
    wanted: dict[int, Set],
    tree: bool,
) -> None:
    """Whatever strangers have made of the tree, one plan brings it in order, and every change of it is accepted."""
    rig = Rig(tree=tree)
    if before:
        rig.step(wanted_of(before))
    if tree:
        for handle in removed:
            rig.kernel.delete_class("eth0", handle)
        for handle, parent, one in strangers:
            rig.kernel.create_class("eth0", FakeClass(handle, parent, one.rate, one.ceiling))

    _, outcomes = rig.step(wanted_of(wanted))

    assert not outcomes.errno.any()
    assert len(rig.plan(wanted_of(wanted))) == 0
    assert rig.door.look().classes.handle.tolist() == sorted([*TRUNK, *wanted])


@settings(max_examples=100, deadline=None)
@given(before=wanted_leaves, wanted=wanted_leaves, order=st.randoms(use_true_random=False))
def test_row_order_does_not_matter(before: dict[int, Set], wanted: dict[int, Set], order: object) -> None:
    """Lanes in another order ask for the same changes."""
    rig = Rig()
    rig.step(wanted_of(before))
    shuffled = list(wanted.items())
    order.shuffle(shuffled)

    straight, other = rig.plan(wanted_of(wanted)), rig.plan(wanted_of(dict(shuffled)))

    def rows(changes: Changes) -> set[tuple[object, ...]]:
        columns = (changes.classes.ceiling_bytes_per_second, changes.drift, changes.stranger)
        return set(zip(done(changes), *(column.tolist() for column in columns), strict=True))

    assert rows(straight) == rows(other)


def test_a_fresh_device_gets_its_root_and_parents_before_children() -> None:
    """An empty snapshot asks for the root queue first."""
    changes, outcomes = (rig := Rig(tree=False)).step(wanted_of({A: Set(), B: Set()}))

    assert changes.build_tree
    assert [(Act.CREATE, handle) for handle in (TOP, NORMAL, EXEMPT, A, B)] == done(changes)
    assert not changes.drift.any()
    assert not outcomes.errno.any()
    assert not rig.plan(wanted_of({A: Set(), B: Set()})).build_tree


def test_nothing_is_asked_for_where_all_is_right() -> None:
    """A turn without a change sends nothing."""
    rig = Rig()
    rig.step(wanted_of({A: Set()}))

    assert [] == done(rig.plan(wanted_of({A: Set()})))


def test_a_change_says_what_the_ceiling_was() -> None:
    """The event and the log tell both."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))

    changes = rig.plan(wanted_of({A: Set(ceiling=8_000), B: Set()}))

    assert [(Act.CHANGE, A)] == done(changes)
    assert ([125_000], [8_000]) == (
        changes.before_ceiling_bytes_per_second.tolist(),
        changes.classes.ceiling_bytes_per_second.tolist(),
    )


def test_classes_of_nobody_go_last_and_children_first() -> None:
    """A stranger below a stranger goes before it, whatever their numbers."""
    rig = Rig()
    rig.step(wanted_of({B: Set()}))
    for handle, parent in ((0x1FFF, NORMAL), (0x2FFF, TREE_HANDLE | 0x1FFF), (0x1FFE, TREE_HANDLE | 0x2FFF)):
        rig.kernel.create_class("eth0", FakeClass(TREE_HANDLE | handle, parent, 1_000, 1_000))

    changes, outcomes = rig.step(wanted_of({A: Set(), B: Set()}))

    gone = [(Act.REMOVE, TREE_HANDLE | minor) for minor in (0x1FFE, 0x2FFF, 0x1FFF)]
    assert [(Act.CREATE, A), *gone] == done(changes)
    assert not outcomes.errno.any()


def test_a_class_that_belonged_to_a_lane_is_no_stranger() -> None:
    """Orphans are counted apart from the classes of slices that were removed."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))
    rig.kernel.create_class("eth0", FakeClass(TREE_HANDLE | 0x1FFF, NORMAL, 1_000, 1_000))

    changes = rig.plan(wanted_of({A: Set()}))

    assert {B: False, TREE_HANDLE | 0x1FFF: True} == dict(
        zip(changes.classes.handle.tolist(), changes.stranger.tolist(), strict=True)
    )
    assert not changes.drift.any()


def test_what_is_not_ours_stays() -> None:
    """Classes outside our numbers are left alone."""
    rig = Rig()
    rig.step(wanted_of({}))
    rig.kernel.create_class("eth0", FakeClass(TREE_HANDLE | 0x700, TREE_HANDLE, 1_000, 1_000))
    snapshot = rig.door.look()

    ours = snapshot.classes.handle != TREE_HANDLE | 0x700
    changes = plan.diff(wanted_of({}), snapshot, ours=ours, known=rig.known, enforced=None)

    assert [] == done(changes)


def test_a_class_below_a_wrong_parent_is_made_where_it_belongs() -> None:
    """A class cannot be moved in place."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))
    rig.kernel.delete_class("eth0", A)
    rig.kernel.create_class("eth0", FakeClass(A, EXEMPT, 1_000, 125_000))

    changes, outcomes = rig.step(wanted_of({A: Set(), B: Set()}))

    assert [(Act.REMOVE, A), (Act.CREATE, A)] == done(changes)
    assert [False, True] == changes.drift.tolist()
    assert not outcomes.errno.any()


def test_an_inner_class_below_a_wrong_parent_takes_its_leaves_along() -> None:
    """It cannot be removed while they stand below it."""
    rig = Rig()
    for handle, parent in ((TOP, TREE_HANDLE), (NORMAL, TREE_HANDLE), (EXEMPT, TOP), (A, NORMAL), (B, NORMAL)):
        rig.kernel.create_class("eth0", FakeClass(handle, parent, 1_000, 1_000))

    changes, outcomes = rig.step(wanted_of({A: Set(), B: Set()}))

    assert [(Act.REMOVE, handle) for handle in (A, B, NORMAL)] == done(changes)[:3]
    assert not outcomes.errno.any()
    assert [] == done(rig.plan(wanted_of({A: Set(), B: Set()})))


def test_only_what_was_enforced_can_drift() -> None:
    """After a start nothing has; a wanted change is none; a class that is gone or set otherwise by others is."""
    rig = Rig()
    first, _ = rig.step(wanted_of({A: Set(), B: Set()}))
    asked, _ = rig.step(wanted_of({A: Set(ceiling=8_000), B: Set()}))
    rig.kernel.change_class("eth0", FakeClass(A, NORMAL, 1_000, 999_999, 3_000, 64_000, 64_000))
    rig.kernel.delete_class("eth0", B)
    drifted = rig.plan(wanted_of({A: Set(ceiling=9_000), B: Set()}))

    assert [False, False] == [first.drift.any(), asked.drift.any()]
    assert {A: True, B: True} == dict(zip(drifted.classes.handle.tolist(), drifted.drift.tolist(), strict=True))

    rig.enforced = None
    assert not rig.plan(wanted_of({A: Set(), B: Set()})).drift.any()


def test_a_refused_change_is_asked_for_again_and_is_no_drift() -> None:
    """The kernel says no to one class; the others are settled, and that one is as it was."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))
    rig.kernel.refusals = {A: errno.EINVAL}
    lower = wanted_of({A: Set(ceiling=8_000), B: Set(ceiling=8_000)})

    _, outcomes = rig.step(lower)
    again = rig.plan(lower)

    assert [errno.EINVAL, 0] == outcomes.errno.tolist()
    assert ([(Act.CHANGE, A)], [False]) == (done(again), again.drift.tolist())


def test_a_refused_creation_is_asked_for_again_and_is_no_drift() -> None:
    """What never was there cannot have drifted."""
    rig = Rig()
    rig.kernel.refusals = {A: errno.ENOMEM}
    rig.step(wanted_of({A: Set(), B: Set()}))

    again = rig.plan(wanted_of({A: Set(), B: Set()}))

    assert ([(Act.CREATE, A)], [False]) == (done(again), again.drift.tolist())
    assert B in rig.enforced.handle
    assert A not in rig.enforced.handle


def test_a_removal_that_was_refused_does_not_touch_what_is_enforced() -> None:
    """An orphan that cannot be removed is nobody's ceiling."""
    rig = Rig()
    rig.step(wanted_of({A: Set(), B: Set()}))
    rig.kernel.refusals = {B: errno.EPERM}

    rig.step(wanted_of({A: Set()}))
    again = rig.plan(wanted_of({A: Set()}))

    assert [(Act.REMOVE, B)] == done(again)
    assert not again.drift.any()
