"""pyroute2 and tc read the same kernel: what our layouts say must be what they say."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from pyroute2.iproute.linux import IPRoute

from bwexporter.core.lanes import Act, Classes
from bwexporter.kernel import wire
from bwexporter.kernel.htb import SIGNATURE_R2Q, Device
from bwexporter.kernel.sockets import Requests
from tests.kernel.conftest import PACKET_BYTES, RealRig, run, text
from tests.kernel.test_contract import EXEMPT, FIRST, achieve, change, wanted

pytestmark = pytest.mark.kernel

RATES = [1, 125, 8_000, 125_000_000, (1 << 32) - 1, 1 << 32, 50_000_000_000]
ODD = [
    "tc class add dev v0 parent 1:10 classid 1:2001 htb rate 400gbit ceil 400gbit quantum 60000",
    "tc class add dev v0 parent 1:10 classid 1:2002 htb rate 1mbit ceil 40gbit burst 100kb cburst 1mb quantum 1514",
    "tc class add dev v0 parent 1:10 classid 1:2003 estimator 1sec 8sec htb rate 1mbit ceil 3mbit quantum 3000",
    "tc qdisc add dev v0 parent 1:2003 handle 7a01: pfifo limit 2",
    "tc class add dev v0 parent 1: classid 1:9 htb rate 8bit ceil 1mbit burst 1600 quantum 1514",
]


@pytest.fixture
def device(real_rig: RealRig) -> Iterator[Device]:
    """Return a door to a tree with traffic, and with classes of every form that a stranger can make."""
    with real_rig.device() as opened:
        achieve(opened, wanted())
        for command in ODD:
            run(command)
        for handle, packets in ((FIRST, 11), (EXEMPT, 3), (0x12003, 7)):
            real_rig.send(handle, packets)
        yield opened


def by_pyroute2() -> dict[int, dict[str, int]]:
    """Read all classes with the generic decoder."""
    found = {}
    with IPRoute() as route:
        for message in route.get_classes(socket.if_nametoindex("v0")):
            options, stats = message.get_attr("TCA_OPTIONS"), message.get_attr("TCA_STATS2")
            parms = options.get_attr("TCA_HTB_PARMS")
            basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
            found[message["handle"]] = {
                "parent": message["parent"],
                "leaf": message["info"],
                "rate": options.get_attr("TCA_HTB_RATE64") or parms["rate"],
                "ceiling": options.get_attr("TCA_HTB_CEIL64") or parms["ceil"],
                "quantum": parms["quantum"],
                "burst_ns": parms["buffer"] * 64,
                "ceiling_burst_ns": parms["cbuffer"] * 64,
                "bytes": basic["bytes"],
                "packets": basic["packets"],
                "drops": queue["drops"],
                "overlimits": queue["overlimits"],
                "backlog": queue["backlog"],
                "level": parms["level"],
            }
    return found


def test_a_dump_says_what_pyroute2_reads(device: Device) -> None:
    """Every column of every class, whatever attributes it has."""
    snapshot, oracle = device.look(), by_pyroute2()
    classes, counts = snapshot.classes, snapshot.counts
    assert classes.handle.tolist() == sorted(oracle)
    read = {
        "leaf": classes.leaf,
        "rate": classes.rate_bytes_per_second,
        "ceiling": classes.ceiling_bytes_per_second,
        "burst_ns": classes.burst_ns,
        "ceiling_burst_ns": classes.ceiling_burst_ns,
        "bytes": counts.sent_bytes,
        "packets": counts.sent_packets,
        "drops": counts.dropped_packets,
        "overlimits": counts.overlimits,
        "backlog": snapshot.backlog_bytes,
    }
    for name, column in read.items():
        assert column.tolist() == [oracle[handle][name] for handle in sorted(oracle)], name
    for handle, parent, quantum in zip(classes.handle, classes.parent, classes.quantum_bytes, strict=True):
        said = oracle[int(handle)]
        assert parent == (said["parent"] if said["parent"] != wire.TC_H_ROOT else wire.TREE_HANDLE)
        assert quantum == (wire.INNER_QUANTUM_BYTES if said["level"] else said["quantum"])


def test_a_dump_says_what_tc_prints(device: Device) -> None:
    """Bytes and packets of every class."""
    printed = re.findall(r"class htb (\S+) .*\n Sent (\d+) bytes (\d+) pkt", run("tc -s class show dev v0"))
    snapshot = device.look()
    read = zip(
        map(text, snapshot.classes.handle.tolist()),
        map(str, snapshot.counts.sent_bytes.tolist()),
        map(str, snapshot.counts.sent_packets.tolist()),
        strict=True,
    )
    assert sorted(read) == sorted(printed)
    assert ("1:1001", str(11 * PACKET_BYTES), "11") in printed


def test_the_root_queue_says_what_tc_prints(real_rig: RealRig, device: Device) -> None:
    """Kind, default class, signature, bytes and direct packets."""
    real_rig.send(0x1_6000, 5)
    (root,) = (queue for queue in json.loads(run("tc -s -j qdisc show dev v0")) if queue.get("root"))
    snapshot = device.look()
    assert (root["kind"], root["handle"]) == ("htb", "1:")
    assert (root["options"]["default"], root["options"]["r2q"]) == ("0x7fff", SIGNATURE_R2Q)
    assert root["options"]["direct_packets_stat"] == snapshot.direct_packets == 5
    assert root["bytes"] == snapshot.tree_sent_bytes == 26 * PACKET_BYTES


def test_a_leaf_queue_is_bounded_in_time(device: Device) -> None:
    """A quarter of a second at the ceiling, never less than five packets; none below an inner class."""
    changes = wanted([1_000, 605_600, 1_000_000_000])
    for handle in changes.handle[3:].tolist():
        run(f"tc class del dev v0 classid {text(handle)}")
    achieve(device, changes)
    assert limits() == {"1:1001": "5p", "1:1002": "96p", "1:8003": "1000p"}


def limits() -> dict[str, str]:
    """Return the limit of each leaf queue as tc prints it, by class."""
    return dict(re.findall(r"qdisc pfifo \S+ parent (\S+) limit (\S+)", run("tc qdisc show dev v0")))


def test_a_leaf_handle_that_is_in_use_is_passed_over(device: Device) -> None:
    """Also when a stranger has taken it since the look."""
    device.look()
    device._next_leaf = 0x7A01
    run("tc class del dev v0 classid 1:1001")
    outcomes = achieve(device, wanted())
    assert not outcomes.errno.any()
    run("tc class del dev v0 classid 1:1001")
    device.look()
    run(f"tc qdisc add dev v0 parent 1:9 handle {device._next_leaf:x}: pfifo")
    assert not device.apply(change(wanted(), FIRST, Act.CREATE)).errno.any()
    leaves = device.look().classes.leaf
    assert len(set(leaves[leaves > 0].tolist())) == np.count_nonzero(leaves)


@pytest.mark.parametrize("rows", [len(RATES), 40])
@pytest.mark.usefixtures("real_rig")
def test_what_is_encoded_is_what_pyroute2_reads_back(rows: int) -> None:
    """Packed one by one or as a matrix: every parameter, in every class, exactly."""
    run("tc qdisc add dev v0 root handle 1: htb")
    spread = np.resize(np.array(RATES, np.int64), rows)
    classes = Classes(
        handle=0x11000 + np.arange(rows),
        parent=np.full(rows, 0x10000),
        rate_bytes_per_second=spread,
        ceiling_bytes_per_second=spread[::-1].copy(),
        quantum_bytes=1514 + np.arange(rows),
        burst_ns=64 * (1 + np.arange(rows)),
        ceiling_burst_ns=np.full(rows, wire.LARGEST_BURST_NS),
        leaf=np.zeros(rows, np.int64),
    )
    requests = Requests()
    first, ifindex = requests.reserve(rows), socket.if_nametoindex("v0")
    data = wire.encode_classes(classes, Act.CREATE, ifindex=ifindex, first_seq=first)
    outcome, _ = requests.exchange(data, rows, first)
    requests.close()
    assert not outcome.any()
    oracle = by_pyroute2()
    for name, column in (
        ("rate", classes.rate_bytes_per_second),
        ("ceiling", classes.ceiling_bytes_per_second),
        ("quantum", classes.quantum_bytes),
        ("burst_ns", classes.burst_ns),
        ("ceiling_burst_ns", classes.ceiling_burst_ns),
    ):
        assert [oracle[handle][name] for handle in classes.handle.tolist()] == column.tolist(), name
