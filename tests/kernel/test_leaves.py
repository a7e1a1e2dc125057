"""Leaf queues on the real kernel: bounded in time at the ceiling of the moment, and the witness of one life."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from bwexporter.core.lanes import Traffic, Verdicts
from bwexporter.kernel import wire
from bwexporter.kernel.htb import Device
from bwexporter.kernel.tree import DEFAULT_ID, ManagedTree
from tests.builders import make_tariffs, table
from tests.kernel.conftest import PACKET_BYTES, RealRig, arriving_at, packets_ahead, run, stamped
from tests.kernel.test_contract import FIRST, achieve, difference, row_of, sent, wanted

pytestmark = pytest.mark.kernel

SLOW = 25_000
FRAME = 1000
UDP_HEADER = 42


@pytest.fixture
def device(real_rig: RealRig) -> Iterator[Device]:
    """Return a door to v0, whose tree stands."""
    with real_rig.device() as opened:
        achieve(opened, wanted())
        opened.look()
        yield opened


def queues() -> dict[str, tuple[str, str, str]]:
    """Return kind, handle and limit of each leaf queue as tc prints them, by class."""
    found = re.findall(r"qdisc (\w+) (\w+:) parent (\S+) limit (\S+)", run("tc qdisc show dev v0"))
    return {parent: (kind, handle, limit) for kind, handle, parent, limit in found}


def test_a_queue_follows_its_ceiling_in_place(real_rig: RealRig, device: Device) -> None:
    """Down and up again: the handle, the counter and the packets that wait in it stay."""
    real_rig.send(FIRST, 20)
    achieve(device, wanted([8_000, 6_250_000, 6_250_000]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, FIRST)
        for _ in range(5):
            sender.sendto(bytes(PACKET_BYTES - 42), ("10.9.0.2", 9))
        before = queues()
        waiting = device.look()
        assert waiting.backlog_bytes[row_of(waiting, FIRST)] >= 3 * PACKET_BYTES
        achieve(device, wanted([8_000_000, 6_250_000, 6_250_000]))
        for _ in range(5):
            assert len(real_rig.heard()) == PACKET_BYTES
    after, now = queues(), device.look()
    assert before["1:1001"] == (before["1:1001"][0], before["1:1001"][1], "5p")
    assert after["1:1001"][:2] == before["1:1001"][:2]
    assert after["1:1001"][2] == "1000p"
    assert after["1:1002"] == before["1:1002"]
    assert sent(now, FIRST) == 25 * PACKET_BYTES
    assert now.classes.leaf[row_of(now, FIRST)] == waiting.classes.leaf[row_of(waiting, FIRST)]


def test_a_ceiling_that_hardly_moves_leaves_the_queue_alone(device: Device) -> None:
    """Some five hundred small steps a day are no reason to write queues as often."""
    (changed,) = (6_250_000, 6_200_000)[1:]
    before = queues()
    achieve(device, wanted([changed, 6_250_000, 6_250_000]))
    assert queues() == before


def test_a_deleted_queue_is_made_again_and_the_class_counts_on(real_rig: RealRig, device: Device) -> None:
    """The kernel's own in its place has no bound and no handle; the act says which one the class has now."""
    real_rig.send(FIRST, 5)
    run("tc qdisc del dev v0 parent 1:1001")
    snapshot = device.look()
    assert snapshot.classes.leaf[row_of(snapshot, FIRST)] == 0
    outcomes = device.apply(difference(wanted(), snapshot))
    assert outcomes.errno.tolist() == [0]
    now = device.look()
    assert outcomes.given_leaf is not None
    assert outcomes.given_leaf.tolist() == [now.classes.leaf[row_of(now, FIRST)]] != [0]
    assert sent(now, FIRST) == 5 * PACKET_BYTES
    assert not len(difference(wanted(), now))


def test_a_queue_of_another_kind_is_replaced_when_the_ceiling_moves(device: Device) -> None:
    """A stranger's cannot be bounded as ours are."""
    run("tc qdisc replace dev v0 parent 1:1001 handle 77: bfifo limit 500000")
    outcomes = achieve(device, wanted([100_000, 6_250_000, 6_250_000]))
    assert outcomes.errno.tolist() == [0]
    kind, handle, limit = queues()["1:1001"]
    assert (kind, limit) == (queues()["1:1002"][0], "16p")
    assert handle != "77:"
    snapshot = device.look()
    assert outcomes.given_leaf is not None
    assert outcomes.given_leaf.tolist() == [snapshot.classes.leaf[row_of(snapshot, FIRST)]]


@pytest.mark.parametrize("flags", [wire.NLM_F_CREATE | wire.NLM_F_EXCL, 0])
def test_fq_codel_is_asked_for_as_pyroute2_reads_it(flags: int) -> None:
    """The kernel of a test machine may lack it; its flows cannot be changed in place, so they are sent once."""
    data = wire.encode_leaves("fq_codel", [FIRST], [0x7A010000], np.array([SLOW]), flags=flags, ifindex=3, first_seq=9)
    message = tcmsg(data)
    message.decode()
    assert (message["parent"], message["handle"], message["index"]) == (FIRST, 0x7A010000, 3)
    assert message.get_attr("TCA_KIND") == "fq_codel"
    options: dict[str, Any] = dict(message.get_attr("TCA_OPTIONS")["attrs"])
    assert options["TCA_FQ_CODEL_LIMIT"] == 5
    assert options["TCA_FQ_CODEL_TARGET"] == 90_840  # one and a half packets at 25 kB/s
    assert options["TCA_FQ_CODEL_INTERVAL"] == 908_400
    assert options.get("TCA_FQ_CODEL_FLOWS") == (64 if flags else None)


def test_a_capped_slice_waits_less_than_half_a_second(real_rig: RealRig) -> None:
    """No more than pass in that time are before it.

    UDP that is forwarded, and so is not slowed by any socket, at four times a ceiling of 25 kB/s.
    """
    run("ip link add a0 address 02:00:00:00:00:0a type veth peer name a1 address 02:00:00:00:00:0b")
    for link in ("a0", "a1"):
        run(f"ip link set {link} addrgenmode none up")
    run("ip address add 10.8.0.1/24 dev a1")
    Path("/proc/sys/net/ipv4/conf/a1/forwarding").write_text("1")
    tariffs = make_tariffs(1, traffic=Traffic.NORMAL, slice_id=[DEFAULT_ID])
    given = {"asked_ceiling_bytes_per_second": SLOW, "guarantee_bytes_per_second": 125}
    classes = ManagedTree("v0", 12_500_000, 125_000_000, 12_500_000, 65_536).wanted(
        tariffs, table(Verdicts, 1, {"admitted_ratio": 1.0}, given)
    )
    with real_rig.device() as device:
        achieve(device, classes)
    waits = [ahead * FRAME / SLOW for ahead in packets_ahead(list(islice(_forwarded(), 3 * SLOW // FRAME)))]
    assert max(waits) < 0.5
    assert max(waits) > 0.1, "nothing has waited: there was no queue to measure"


def _forwarded() -> Iterator[tuple[float, float]]:
    """Send frames at four times the ceiling into the far end of a0; yield when those that pass were sent and came."""
    deadline = time.monotonic() + 60
    with arriving_at("v1") as arriving, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("a0", 0x0800))
        while time.monotonic() < deadline:
            sender.send(_frame(time.time()))
            due = time.monotonic() + FRAME / (4 * SLOW)
            while select.select([arriving], [], [], max(0.0, due - time.monotonic()))[0]:
                frame, arrived = stamped(arriving)
                yield struct.unpack_from("d", frame, UDP_HEADER)[0], arrived
    pytest.fail("too little came out")


def _frame(now: float) -> bytes:
    """Make an Ethernet frame with a datagram from 10.8.0.2 to 10.9.0.2 that says when it was sent."""
    payload = struct.pack("d", now).ljust(FRAME - UDP_HEADER, b"\0")
    udp = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton("10.8.0.2") + socket.inet_aton("10.9.0.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    total = sum(struct.unpack("!10H", header + addresses))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ether = bytes.fromhex("02000000000b02000000000a0800")
    return ether + header[:10] + struct.pack("!H", checksum) + addresses + udp
