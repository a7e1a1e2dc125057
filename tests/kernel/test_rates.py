"""What a lane may send, on the real kernel: never more than its ceiling, and what it was promised.

An upper bound holds on any machine: what a class sent between two dumps is compared with the time from before the first
to after the second. Lower bounds are asserted with room for a machine that is busy with something else.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from bwexporter.kernel.claims import Claim
from bwexporter.kernel.htb import Device
from tests.builders import GIGABIT
from tests.kernel.conftest import PACKET_BYTES, RealRig, arriving_at, packets_ahead, run, stamped
from tests.kernel.test_classifier_real import (
    THERE,
    Neighbour,
    Node,
    neighbour,
    node,
    route,
)
from tests.load import Lane, Senders, Sink
from tests.stage import FIRST, GSO_BYTES, Look, backlogged_windows, look_at, set_lanes

pytestmark = pytest.mark.kernel
__all__ = ["neighbour", "node"]

MEGABIT = 125_000
LOOK_SECONDS, LEAST_SECONDS = 0.25, 0.9


class Stage:
    """A device v0 with lanes of given ceilings, shares and guarantees, and a sink at the other end of its cable."""

    def __init__(self, neighbour: Neighbour) -> None:
        self.device = Device("v0")
        run(f"ip link set v1 netns {neighbour.pid}")
        neighbour.run("ip link set v1 up")
        neighbour.run(f"ip address add {THERE}/24 dev v1")
        self.inside = neighbour.inside

    def lanes(self, ceilings: Sequence[int], **given: Any) -> list[int]:
        """Give it lanes."""
        return set_lanes(self.device, ceilings, **given)

    def watch(self, lanes: Sequence[Lane], *, seconds: float = 2.0, settle: float = 0.5) -> list[Look]:
        """Let lanes send, and look again and again."""
        with Sink(self.inside), Senders(THERE, lanes):
            time.sleep(settle)
            looks = [look_at(self.device)]
            while looks[-1].before < looks[0].before + seconds:
                time.sleep(LOOK_SECONDS)
                looks.append(look_at(self.device))
        return looks


@pytest.fixture
def stage(real_rig: RealRig) -> Iterator[Stage]:
    """Return a stage in network namespaces of its own."""
    assert real_rig
    run("ip link set lo up")
    there = Neighbour()
    made = Stage(there)
    yield made
    made.device.close()
    there.close()


def assert_never_above(looks: Sequence[Look], ceilings: Mapping[int, int], packet_bytes: int) -> None:
    """Compare each window between two looks with what a class may send in it: 2 %, its burst, one packet begun."""
    for first, last in combinations(looks, 2):
        for handle, ceiling in ceilings.items():
            burst = max(1600, ceiling // 1000) + packet_bytes
            allowed = 1.02 * ceiling * (last.after - first.before) + burst
            assert last.sent(handle) - first.sent(handle) <= allowed, (handle, last.after - first.before)


def most(windows: Iterable[tuple[Look, Look]], handle: int) -> float:
    """Return the most that a class got, per second, in a window of some length; in others a machine may stall."""
    return max(
        (last.sent(handle) - first.sent(handle)) / (last.before - first.after)
        for first, last in windows
        if last.before - first.after >= LEAST_SECONDS
    )


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_no_lane_is_ever_above_its_ceiling(stage: Stage, protocol: str) -> None:
    """1, 10 and 100 mbit at once, over every window; and a lane that always waits gets most of what it may."""
    ceilings = [1 * MEGABIT, 10 * MEGABIT, 100 * MEGABIT]
    handles = stage.lanes(ceilings)
    packet = 1442 if protocol == "udp" else GSO_BYTES + 14
    looks = stage.watch([Lane(protocol, *one) for one in zip(handles, ceilings, strict=True)])
    assert_never_above(looks, dict(zip(handles, ceilings, strict=True)), packet)
    for handle, ceiling in list(zip(handles, ceilings, strict=True))[:2]:
        assert most(backlogged_windows(looks, handle), handle) >= 0.8 * ceiling


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_nor_is_one_that_sends_as_fast_as_this_machine_can(stage: Stage, protocol: str) -> None:
    """Its ceiling is a part of what passes without one, small enough that packets wait on a busy machine too."""
    (handle,) = stage.lanes([10 * GIGABIT], cap=10 * GIGABIT, line=10 * GIGABIT)
    first, *_, last = stage.watch([Lane(protocol, handle, GIGABIT)], seconds=0.5)
    fastest = (last.sent(handle) - first.sent(handle)) / (last.before - first.after)
    for part in (2, 4, 8, 16):
        ceiling = int(fastest / part)
        stage.lanes([ceiling], cap=10 * GIGABIT, line=10 * GIGABIT)
        looks = stage.watch([Lane(protocol, handle, GIGABIT)], seconds=1.0, settle=0.2)
        assert_never_above(looks, {handle: ceiling}, 1442 if protocol == "udp" else GSO_BYTES + 14)
        if list(backlogged_windows(looks, handle)):
            return
    pytest.fail("nothing ever waited, so nothing was shown")


def test_fifty_greedy_lanes_stay_under_the_node_cap_and_share_it_as_told(stage: Stage) -> None:
    """One has three times the share, one a guarantee; TCP with packets of 64 kB, the largest there are."""
    cap, guarantee = 40 * MEGABIT, 10 * MEGABIT
    share = np.ones(50, np.int64)
    share[1] = 3
    guarantees = np.full(50, 125)
    guarantees[2] = guarantee
    handles = stage.lanes([cap] * 50, cap=cap, share=share, guarantee_bytes_per_second=guarantees)
    lanes = [Lane("tcp", handle) for handle in handles]
    looks = stage.watch(lanes, seconds=4.0, settle=1.5)
    first, last = looks[0], looks[-1]
    for one, other in combinations(looks, 2):
        sent = sum(other.sent(handle) - one.sent(handle) for handle in handles)
        # A lane sends by its guarantee whatever the cap says, and others then wait: some packets more have begun.
        assert sent <= 1.02 * cap * (other.after - one.before) + cap // 1000 + 4 * GSO_BYTES
    each = np.array([last.sent(handle) - first.sent(handle) for handle in handles])
    assert most(combinations(looks, 2), handles[2]) >= 0.8 * guarantee
    plain = np.median(each[3:])
    assert 2.0 <= each[1] / plain <= 4.0


TIMED_SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    s.sendto(time.time_ns().to_bytes(8) + bytes(950), ("10.9.0.2", 9))
    time.sleep(0.01)
"""


def test_a_capped_lane_is_slow_but_not_late(node: Node, neighbour: Neighbour) -> None:
    """A forwarded host sends four times the 25 kB/s that it may, to a class that had a gigabit before.

    What passes has waited for less than half a second's packets: its sender is none that a full buffer holds back.
    """
    route(neighbour)
    node.apply(Claim("a", FIRST, None, prefixes=(ipaddress.ip_network("10.8.0.2/32"),)))
    node.build(25_000)
    with arriving_at("v1") as arriving:
        sender = subprocess.Popen([*neighbour.inside, sys.executable, "-c", TIMED_SENDER])
        try:
            passed = [sent_and_arrived(*stamped(arriving)) for _ in range(100)]
        finally:
            sender.kill()
            sender.wait()
    look = node.device.look()
    assert look.counts.dropped_packets[look.classes.handle == FIRST] > 0
    # The first ones found the queue empty; of the later ones each has waited behind others.
    waited = np.array(packets_ahead(passed)) * PACKET_BYTES / 25_000
    assert 0.05 < float(np.median(waited[20:]))
    assert waited.max() < 0.5


def sent_and_arrived(data: bytes, arrived: float) -> tuple[float, float]:
    """Return when a packet was sent, by its sender's clock, and when it arrived."""
    return int.from_bytes(data[42:50]) / 1e9, arrived
