"""Single changes that the kernel refuses: one slice's trouble stops no other's, is told, and is tried anew."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

import pytest

from bwexporter.core.report import EventKind, Report
from bwexporter.stages import Pace
from tests.faults.machine import Machine
from tests.faults.real_node import RealNode
from tests.kernel.conftest import CAP_NET_ADMIN, run, without_capability
from tests.node import DEVICE, Node

# A short interval, so that the pace below the threshold is another ceiling than the cap above it.
SOON = {"allowance_bytes": 100_000_000_000, "threshold_bytes": 20_000, "pace": Pace(0.01, 0.005, 0.01)}
A_LOT = 3_000_000


def grown(node: Node) -> dict[str, int]:
    """Take two slices over their thresholds; return what passed."""
    for _ in range(2):
        node.pass_seconds(1)
        node.turn()
    sent = {name: node.kernel.offer(DEVICE, node.class_of(name), A_LOT, seconds=60.0) for name in ("ann", "bob")}
    node.pass_seconds(1)
    return sent


def ceilings(node: Node, report: Report) -> dict[str, tuple[bool, bool]]:
    """Say of each slice whether the kernel has its verdict, and whether that is a cap."""
    device, classes = report.devices[0], node.kernel.links[DEVICE].root.classes
    said = {}
    for name in ("ann", "bob"):
        row, handle = node.row(name), node.class_of(name)
        verdict = device.verdicts.asked_ceiling_bytes_per_second[row]
        in_force = handle in classes and classes[handle].ceiling == verdict
        said[name] = (bool(in_force), bool(device.verdicts.capped[row]))
    return said


def refused(report: Report) -> set[str]:
    """Return the names of the errors that changes were refused with."""
    outcomes = report.devices[0].outcomes
    assert outcomes is not None
    return {errno.errorcode[code] for code in outcomes.errno.tolist() if code}


def told(report: Report) -> set[str]:
    """Return the outcomes of refused changes as the events tell them."""
    return {str(event.inputs["outcome"]) for event in report.events if event.kind is EventKind.REFUSED}


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EBUSY, errno.ENOENT, errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_a_refused_change_is_told_and_tried_anew_and_its_neighbour_is_capped(code: int) -> None:
    """Accounts do not notice; the cap is in force at the next turn that may set it."""
    node = Node({"ann": 1, "bob": 2}, **SOON)
    sent = grown(node)
    node.kernel.refusals[node.class_of("ann")] = code
    for again in (False, True):
        report = node.whole_turn()
        assert again or told(report) == {errno.errorcode[code]}
        assert ceilings(node, report) == {"ann": (False, True), "bob": (True, True)}
        assert refused(report) == {errno.errorcode[code]}
        assert {name: node.account(name)["used_bytes"] for name in sent} == sent
        node.pass_seconds(1)
    node.kernel.refusals.clear()
    report = node.whole_turn()
    assert ceilings(node, report) == {"ann": (True, True), "bob": (True, True)}
    assert refused(report) == set()


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EPERM, errno.ENOBUFS])
def test_a_class_that_cannot_be_removed_is_counted_until_it_can(code: int) -> None:
    """A removed slice's class sends on: its bytes are still its account's."""
    node = Node({"ann": 1, "bob": 2}, **SOON)
    sent = grown(node)
    node.turn()
    handle, row = node.class_of("ann"), node.row("ann")
    lane = node.turns.desks[DEVICE].ledger.lanes[row]
    node.kernel.refusals[handle] = code
    del node.ids["ann"]
    node.enlist()
    for _ in range(2):
        sent["ann"] += node.kernel.offer(DEVICE, handle, 50_000)
        node.pass_seconds(1)
        assert refused(node.whole_turn()) == {errno.errorcode[code]}
    node.kernel.refusals.clear()
    for _ in range(2):
        node.pass_seconds(1)
        node.turn()
    assert handle not in node.kernel.links[DEVICE].root.classes
    ledger = node.turns.desks[DEVICE].ledger
    assert ledger.accounts.used_bytes[ledger.lanes.index(lane)] == sent["ann"]


@pytest.fixture
def real(machine: Machine) -> RealNode:
    """Return a node on the real kernel."""
    return RealNode(machine, {"ann": 1, "bob": 2}, **SOON)


@pytest.mark.kernel
def test_without_the_right_to_change_everything_is_counted_and_capped_when_it_is_back(real: RealNode) -> None:
    """EPERM of the real kernel."""
    sent = grown(real)
    with without_capability(CAP_NET_ADMIN):
        report = real.whole_turn()
    assert refused(report) == {"EPERM"}
    assert {name: real.account(name)["used_bytes"] for name in sent} == sent
    real.pass_seconds(1)
    assert ceilings(real, real.whole_turn()) == {"ann": (True, True), "bob": (True, True)}
    real.stop()


@pytest.mark.kernel
def test_a_class_that_a_filter_holds_is_removed_once_the_filter_is_gone(real: RealNode) -> None:
    """EBUSY of the real kernel."""
    grown(real)
    real.turn()
    handle = real.class_of("ann")
    match = "match ip dst 192.0.2.1/32 flowid 1:1001"
    run(f"tc filter add dev {DEVICE} parent 1: protocol ip prio 7 u32 {match}")
    del real.ids["ann"]
    real.enlist()
    real.pass_seconds(1)
    report = real.whole_turn()
    assert refused(report) == {"EBUSY"}
    assert ceilings_of(real, "bob", report)
    run(f"tc filter del dev {DEVICE} parent 1: protocol ip prio 7 u32")
    real.pass_seconds(1)
    assert refused(real.whole_turn()) == set()
    assert handle not in real.kernel.links[DEVICE].root.classes
    real.stop()


def ceilings_of(node: Node, name: str, report: Report) -> bool:
    """Say whether the kernel has one slice's verdict."""
    verdict = report.devices[0].verdicts.asked_ceiling_bytes_per_second[node.row(name)]
    return bool(node.kernel.links[DEVICE].root.classes[node.class_of(name)].ceiling == verdict)


@pytest.mark.kernel
def test_answers_that_are_lost_are_a_refusal_and_the_next_turn_knows_better(real: RealNode) -> None:
    """ENOBUFS of the real kernel: the buffer for the answers to our changes is too small for them."""
    sent = grown(real)
    asking = real.door._requests._socket
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    # What the dump needs goes through before: only the answers to the changes find no room.
    report = real.whole_turn()
    real.pass_seconds(1)
    again = real.whole_turn()
    assert ceilings(real, again) == {"ann": (True, True), "bob": (True, True)}
    assert not again.devices[0].trouble
    assert report.devices[0].trouble or refused(report) <= {"ENOBUFS"}
    assert {name: real.account(name)["used_bytes"] for name in sent} == sent
    real.stop()


class Snatching:
    """A door beside which a stranger deletes a class between the look and the act."""

    def __init__(self, node: RealNode, handle: int) -> None:
        self._door, self._machine, self._handle = node.door, node.real.machine, handle

    def look(self) -> object:
        """Look, as the door does."""
        return self._door.look()

    def apply(self, changes: object) -> object:
        """Do the changes, too late for one."""
        self._machine.delete_class(self._handle)
        return self._door.apply(changes)


@pytest.mark.kernel
def test_a_class_that_is_gone_when_it_is_to_be_capped_is_made_anew_with_its_cap(real: RealNode) -> None:
    """ENOENT of the real kernel; its neighbour is capped at once."""
    sent = grown(real)
    desk = real.turns.desks[DEVICE]
    real.turns.desks[DEVICE] = replace(desk, door=Snatching(real, real.class_of("ann")))
    report = real.whole_turn()
    assert refused(report) == {"ENOENT"}
    assert ceilings(real, report) == {"ann": (False, True), "bob": (True, True)}
    real.turns.desks[DEVICE] = replace(real.turns.desks[DEVICE], door=real.door)
    for _ in range(2):
        real.pass_seconds(1)
        report = real.whole_turn()
    assert ceilings(real, report) == {"ann": (True, True), "bob": (True, True)}
    assert {name: real.account(name)["used_bytes"] for name in sent} == sent
    real.stop()
