"""What every door to a device promises, on the fake machine and on the real kernel alike."""

from __future__ import annotations

import errno
import select
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bwexporter.core import plan
from bwexporter.core.lanes import Act, Changes, Classes, Outcomes, Snapshot, Traffic, Verdicts
from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel.tree import ManagedTree
from tests.builders import GIGABIT, make_counters, make_tariffs, table
from tests.kernel.conftest import PACKET_BYTES, Rig

FIRST, SECOND, EXEMPT = 0x11001, 0x11002, 0x18003
TREE = ManagedTree("v0", GIGABIT // 10, GIGABIT, GIGABIT // 100, 65_536)
TARIFFS = make_tariffs(3, traffic=[Traffic.NORMAL, Traffic.NORMAL, Traffic.EXEMPT])


def wanted(ceiling: int | list[int] = GIGABIT // 20) -> Classes:
    """Return the trunk and three lanes under a ceiling, or under one each."""
    given = {"asked_ceiling_bytes_per_second": ceiling, "guarantee_bytes_per_second": 125}
    return TREE.wanted(TARIFFS, table(Verdicts, 3, {"admitted_ratio": 1.0}, given))


def difference(classes: Classes, snapshot: Snapshot) -> Changes:
    """Return what is to be done so that the kernel has these classes."""
    ours = TREE.owns(snapshot.classes.handle)
    return plan.diff(classes, snapshot, ours=ours, known=make_counters(0), enforced=None)


def achieve(device: Any, classes: Classes) -> Outcomes:
    """Look, and make the classes so."""
    outcomes: Outcomes = device.apply(difference(classes, device.look()))
    return outcomes


def change(classes: Classes, handle: int, act: Act) -> Changes:
    """Return one change of the class of a handle."""
    row = classes.take(classes.handle == handle)
    flag = np.zeros(1, bool)
    return Changes(np.array([act], np.int8), flag, flag, np.zeros(1, np.int64), row, build_tree=False)


def row_of(snapshot: Snapshot, handle: int) -> int:
    """Return the row of a class that is there."""
    (row,) = np.flatnonzero(snapshot.classes.handle == handle)
    return int(row)


def sent(snapshot: Snapshot, handle: int) -> int:
    """Return the bytes of a class."""
    return int(snapshot.counts.sent_bytes[row_of(snapshot, handle)])


def test_a_bare_device_has_no_tree(device: Any) -> None:
    """The kernel's own root queue counts as none, and a first look has watched nothing."""
    snapshot = device.look()
    assert (snapshot.tree_present, snapshot.clean, snapshot.watched_since_last_look) == (False, True, False)
    assert (len(snapshot.classes), snapshot.tree_sent_bytes, snapshot.direct_packets) == (0, 0, 0)


def test_building_makes_every_class_as_wanted(device: Any) -> None:
    """After one apply the kernel has the tree, to the last parameter, sorted by handle."""
    outcomes = achieve(device, wanted())
    assert outcomes.tree_errno == 0
    assert not outcomes.errno.any()
    assert (outcomes.enforced_ceiling_bytes_per_second == wanted().ceiling_bytes_per_second).all()
    snapshot = device.look()
    assert snapshot.tree_present
    assert snapshot.classes.handle.tolist() == sorted(wanted().handle.tolist())


def test_building_twice_changes_nothing(device: Any) -> None:
    """The difference to what was built is empty."""
    achieve(device, wanted())
    again = difference(wanted(), device.look())
    assert (len(again), again.build_tree) == (0, False)


def test_a_tree_that_is_there_is_found_when_it_is_built(rig: Rig, device: Any) -> None:
    """Two programs that build at the same time do not fail: what is there is there."""
    late = difference(wanted(), device.look())
    with rig.device() as other:
        achieve(other, wanted())
    outcomes = device.apply(late)
    assert outcomes.tree_errno == 0
    assert (outcomes.errno == errno.EEXIST).all()


def test_every_lane_has_a_leaf_of_its_own(device: Any) -> None:
    """Lanes have leaf queues with different handles, the trunk has none."""
    achieve(device, wanted())
    leaves = device.look().classes.leaf.tolist()
    assert leaves[:3] == [0, 0, 0]
    assert len(set(leaves[3:]) - {0, 0x10000}) == 3


@pytest.mark.parametrize("handle", [FIRST, EXEMPT])
@pytest.mark.parametrize("restart", [False, True])
def test_a_class_made_again_has_another_leaf(rig: Rig, device: Any, handle: int, *, restart: bool) -> None:
    """The class made first and the one made last, also when the program was restarted in between."""
    achieve(device, wanted())
    before = device.look()
    rig.delete_class(handle)
    with rig.device() as fresh:
        achieve(fresh if restart else device, wanted())
    after = device.look()
    assert after.classes.leaf[row_of(after, handle)] not in {0, before.classes.leaf[row_of(before, handle)]}
    assert after.classes.leaf[row_of(after, SECOND)] == before.classes.leaf[row_of(before, SECOND)]


def test_a_class_made_again_by_a_stranger_has_no_leaf(rig: Rig, device: Any) -> None:
    """Its ending is told first, with the leaf of the life that ended."""
    achieve(device, wanted())
    before = device.look()
    rig.delete_class(FIRST)
    rig.create_class(FIRST, 0x10010)
    after = device.look()
    assert after.classes.leaf[row_of(after, FIRST)] == 0
    assert after.endings.handle.tolist() == [FIRST]
    assert after.endings.leaf[0] == before.classes.leaf[row_of(before, FIRST)] != 0


def test_a_change_in_place_keeps_counters_and_leaf(rig: Rig, device: Any) -> None:
    """Only the changed class changes, and it goes on counting."""
    achieve(device, wanted())
    rig.send(FIRST, 20)
    before = device.look()
    outcomes = achieve(device, wanted([10_000_000, GIGABIT // 20, GIGABIT // 20]))
    assert (outcomes.errno.tolist(), outcomes.enforced_ceiling_bytes_per_second.tolist()) == ([0], [10_000_000])
    after = device.look()
    assert sent(after, FIRST) == 20 * PACKET_BYTES
    assert (after.classes.leaf == before.classes.leaf).all()
    assert len(after.endings) == 0


def test_traffic_is_counted_to_the_byte(rig: Rig, device: Any) -> None:
    """In its class, in the classes above it and in the tree."""
    achieve(device, wanted())
    rig.send(FIRST, 30)
    rig.send(EXEMPT, 12)
    snapshot = device.look()
    counted = [sent(snapshot, handle) // PACKET_BYTES for handle in (FIRST, SECOND, EXEMPT, 0x10010, 0x10020, 0x10001)]
    assert counted == [30, 0, 12, 30, 12, 42]
    assert snapshot.counts.sent_packets[row_of(snapshot, FIRST)] == 30
    assert snapshot.tree_sent_bytes == 42 * PACKET_BYTES
    assert snapshot.backlog_bytes.tolist() == [0] * 6


def test_unclassified_traffic_is_direct_where_no_default_class_is(rig: Rig, device: Any) -> None:
    """Packets that no class takes are counted as direct."""
    achieve(device, wanted())
    rig.send(0x1_6000, 7)
    assert device.look().direct_packets == 7


def test_one_refused_row_disturbs_no_other(device: Any) -> None:
    """A row the kernel refuses has its errno and leaves the class as it was; the others are applied."""
    achieve(device, wanted())
    classes = wanted([2_000_000, 3_000_000, 4_000_000])
    rate = classes.rate_bytes_per_second.copy()
    rate[classes.handle == SECOND] = 0
    outcomes = achieve(device, replace(classes, rate_bytes_per_second=rate))
    assert outcomes.errno.tolist() == [0, errno.EINVAL, 0]
    assert outcomes.enforced_ceiling_bytes_per_second.tolist() == [2_000_000, GIGABIT // 20, 4_000_000]


def test_a_vanished_class_is_a_refused_row(rig: Rig, device: Any) -> None:
    """A change of a class that is gone has ENOENT, and nothing is read back."""
    achieve(device, wanted())
    changes = difference(wanted(5_000_000), device.look())
    rig.delete_class(SECOND)
    outcomes = device.apply(changes)
    assert outcomes.errno.tolist() == [0, errno.ENOENT, 0]
    assert outcomes.enforced_ceiling_bytes_per_second.tolist() == [5_000_000, 0, 5_000_000]


def test_removing_what_is_gone_is_done(rig: Rig, device: Any) -> None:
    """A removal succeeds whether the class is there or not."""
    achieve(device, wanted())
    device.look()
    rig.delete_class(SECOND)
    for handle in (FIRST, SECOND):
        outcomes = device.apply(change(wanted(), handle, Act.REMOVE))
        assert (outcomes.errno.tolist(), outcomes.enforced_ceiling_bytes_per_second.tolist()) == ([0], [0])
    assert FIRST not in device.look().classes.handle


def test_creating_what_is_there_says_so(device: Any) -> None:
    """EEXIST is kept for the caller, with the ceiling that the class has."""
    achieve(device, wanted())
    before = device.look()
    outcomes = device.apply(change(wanted(1_000_000), FIRST, Act.CREATE))
    assert outcomes.errno.tolist() == [errno.EEXIST]
    assert outcomes.enforced_ceiling_bytes_per_second.tolist() == [GIGABIT // 20]
    assert (device.look().classes.leaf == before.classes.leaf).all()


def test_no_lane_is_made_outside_the_trunk(rig: Rig, device: Any) -> None:
    """Below a missing parent the kernel would make an unbounded class of the root; that row is refused instead."""
    achieve(device, wanted())
    rig.delete_class(EXEMPT)
    rig.delete_class(0x10020)
    device.look()
    assert device.apply(change(wanted(), EXEMPT, Act.CREATE)).errno.tolist() == [errno.ENOENT]
    assert EXEMPT not in device.look().classes.handle


def test_a_deleted_class_is_told_with_its_final_counters(rig: Rig, device: Any) -> None:
    """What was sent after the last look and before the end is not lost; it is told once, in order."""
    achieve(device, wanted())
    rig.send(FIRST, 5)
    leaf = device.look().classes.leaf
    rig.send(FIRST, 3)
    rig.delete_class(FIRST)
    rig.delete_class(SECOND)
    snapshot = device.look()
    assert snapshot.watched_since_last_look
    assert snapshot.endings.handle.tolist() == [FIRST, SECOND]
    assert snapshot.endings.sent_bytes.tolist() == [8 * PACKET_BYTES, 0]
    assert snapshot.endings.sent_packets.tolist() == [8, 0]
    assert snapshot.endings.leaf.tolist() == leaf[3:5].tolist()
    assert len(device.look().endings) == 0


def test_our_own_removals_are_endings_too(rig: Rig, device: Any) -> None:
    """An account needs the final counters whoever removed the class."""
    achieve(device, wanted())
    rig.send(FIRST, 4)
    device.look()
    device.apply(change(wanted(), FIRST, Act.REMOVE))
    assert device.look().endings.sent_bytes.tolist() == [4 * PACKET_BYTES]


def test_a_deleted_tree_is_told_with_its_sum(rig: Rig, device: Any) -> None:
    """One number for the device, no classes; and it can be built again."""
    achieve(device, wanted())
    device.look()
    rig.send(FIRST, 5)
    rig.send(EXEMPT, 6)
    rig.delete_root()
    snapshot = device.look()
    assert (snapshot.tree_present, snapshot.tree_endings_bytes) == (False, (11 * PACKET_BYTES,))
    assert (len(snapshot.classes), len(snapshot.endings)) == (0, 0)
    assert not achieve(device, wanted()).errno.any()
    assert device.look().tree_present


def test_an_overflowed_listener_is_said_and_recovers(rig: Rig, device: Any) -> None:
    """After lost notifications one look says that it has not watched; the next one has."""
    achieve(device, wanted())
    assert device.look().watched_since_last_look
    rig.flood()
    assert not device.look().watched_since_last_look
    rig.delete_class(FIRST)
    snapshot = device.look()
    assert snapshot.watched_since_last_look
    assert snapshot.endings.handle.tolist() == [FIRST]


def test_a_notification_wakes_whoever_waits(rig: Rig, device: Any) -> None:
    """The descriptor is readable after something happened, and silent after a look."""
    achieve(device, wanted())
    device.look()
    assert select.select([device], [], [], 0) == ([], [], [])
    rig.change_class(FIRST)
    assert select.select([device], [], [], 10)[0] == [device]


@pytest.mark.parametrize("act", ["change", "delete a class", "delete the tree", "replace the link", "flood"])
def test_what_others_change_disturbs_until_the_next_look(rig: Rig, device: Any, act: str) -> None:
    """A look is then due, and when it has been taken, rest."""
    achieve(device, wanted())
    device.look()
    assert not device.disturbed()
    match act:
        case "change":
            rig.change_class(FIRST)
        case "delete a class":
            rig.delete_class(FIRST)
        case "delete the tree":
            rig.delete_root()
        case "replace the link":
            rig.replace_link()
        case "flood":
            rig.flood()
    assert device.disturbed()
    assert device.disturbed()
    device.look()
    assert not device.disturbed()


def test_what_we_change_disturbs_nobody(device: Any) -> None:
    """Neither a change nor a creation nor a removal, or one turn would call for the next for ever."""
    achieve(device, wanted())
    device.look()
    achieve(device, wanted(1_000_000))
    for act in (Act.REMOVE, Act.CREATE):
        device.apply(change(wanted(), FIRST, act))
    assert not device.disturbed()


def test_what_others_change_while_we_act_upon_what_we_saw_disturbs(rig: Rig, device: Any) -> None:
    """A class that somebody makes before us, in another place, is there when we make ours: the next look tells."""
    achieve(device, wanted())
    rig.delete_class(FIRST)
    changes = difference(wanted(), device.look())
    rig.create_class(FIRST, 0x10020)
    assert device.apply(changes).errno.tolist() in ([errno.EEXIST], [errno.EINVAL])
    assert device.disturbed()
    device.look()
    assert not device.disturbed()


def test_a_device_that_comes_back_disturbs(rig: Rig, device: Any) -> None:
    """While it is missing only its return matters."""
    achieve(device, wanted())
    device.look()
    rig.remove_link()
    assert device.disturbed()
    with pytest.raises(KernelUnreadable):
        device.look()
    assert not device.disturbed()
    rig.add_link()
    assert device.disturbed()


def test_a_foreign_root_is_refused_and_untouched(rig: Rig, device: Any) -> None:
    """The refusal names the queue and says what to do."""
    rig.add_root("htb")
    with pytest.raises(
        DeviceRefused, match=r"v0 has a root queue that is not bwexporter's \(htb 1:\); nothing was touched"
    ):
        device.look()
    assert rig.root() == "htb 1:"


def test_a_foreign_root_that_came_after_the_look_is_left_alone(rig: Rig, device: Any) -> None:
    """Whatever was planned, nothing is put into somebody else's tree."""
    building = difference(wanted(), device.look())
    rig.add_root("htb")
    outcomes = device.apply(building)
    assert outcomes.tree_errno == errno.EEXIST
    assert (outcomes.errno == errno.EEXIST).all()
    assert device.apply(replace(building, build_tree=False)).errno.all()
    rig.delete_root()
    assert len(device.look().classes) == 0


def test_a_foreign_root_is_replaced_if_told_to_take_over(rig: Rig) -> None:
    """It counts as no tree, and building puts ours in its place."""
    rig.add_root("pfifo")
    with rig.device(take_over=True) as device:
        assert not device.look().tree_present
        assert not achieve(device, wanted()).errno.any()
        assert device.look().tree_present
    assert rig.root() == "htb 1:"


def test_without_permission_every_row_says_so(rig: Rig, device: Any) -> None:
    """Looking needs no capability; changing does, and its absence is one clear sentence."""
    achieve(device, wanted())
    device.check_permission()
    changes = difference(wanted(1_000_000), device.look())
    with rig.unprivileged():
        with pytest.raises(DeviceRefused, match="CAP_NET_ADMIN; run as root or grant it, or use --shadow"):
            device.check_permission()
        outcomes = device.apply(changes)
        assert outcomes.errno.tolist() == [errno.EPERM] * 3
        assert outcomes.enforced_ceiling_bytes_per_second.tolist() == [GIGABIT // 20] * 3
        assert device.look().tree_present


def test_a_tree_cannot_be_built_without_permission(rig: Rig, device: Any) -> None:
    """The tree's errno says why nothing was done."""
    changes = difference(wanted(), device.look())
    with rig.unprivileged():
        outcomes = device.apply(changes)
    assert outcomes.tree_errno == errno.EPERM
    assert (outcomes.errno == errno.EPERM).all()


def test_a_missing_device_is_said_and_comes_back(rig: Rig, device: Any) -> None:
    """Under a new ifindex, with nothing watched; changes for the old one are refused."""
    achieve(device, wanted())
    before = device.look()
    changes = difference(wanted(1_000_000), before)
    rig.replace_link()
    assert (device.apply(changes).errno == errno.ENODEV).all()
    after = device.look()
    assert after.ifindex != before.ifindex
    assert (after.tree_present, after.watched_since_last_look) == (False, False)
    rig.remove_link()
    with pytest.raises(KernelUnreadable, match="device v0 is not there"):
        device.look()


def test_rates_above_32_bits_are_held_exactly(device: Any) -> None:
    """400 Gbit/s comes back as it was asked for, and nothing is left to change."""
    fast = [50_000_000_000, (1 << 32) - 1, 1 << 32]
    outcomes = achieve(device, wanted(fast))
    assert outcomes.enforced_ceiling_bytes_per_second[3:].tolist() == fast
    snapshot = device.look()
    assert snapshot.classes.ceiling_bytes_per_second[3:].tolist() == fast
    assert len(difference(wanted(fast), snapshot)) == 0


def test_every_ceiling_is_read_back_as_it_was_set(device: Any) -> None:
    """From 1 to 2^33 bytes per second, near the powers of two and between them."""
    achieve(device, wanted())
    powers = 2 ** np.arange(34)
    ceilings = np.unique(np.concatenate([powers, powers + 1, powers * 3 // 2, 10 ** np.arange(10)])).tolist()
    for ceiling in ceilings:
        outcomes = achieve(device, wanted(ceiling))
        assert outcomes.enforced_ceiling_bytes_per_second.tolist() == [ceiling] * 3
        assert len(difference(wanted(ceiling), device.look())) == 0


def test_a_device_tells_its_facts(device: Any) -> None:
    """The index is the kernel's, and a packet is never larger than the largest."""
    facts = device.facts()
    assert (facts.device, facts.ifindex) == ("v0", device.look().ifindex)
    assert facts.gso_max_bytes == 65_536


def test_changes_need_a_look_first(device: Any) -> None:
    """A plan is about what was seen."""
    with pytest.raises(ValueError, match="looked at before"):
        device.apply(change(wanted(), FIRST, Act.CHANGE))
