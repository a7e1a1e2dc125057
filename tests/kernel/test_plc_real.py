"""A node of a PlanetLab Central under traffic: node cap, exempt group, default slice, accounts, on the real kernel.

The Central is the XML-RPC server of tests/servers.py over TLS, the program the daemon as users run it.
"""

from __future__ import annotations

import pwd
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import (
    HEADER_BYTES,
    PACKET_BYTES,
    Greedy,
    Program,
    Room,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.test_classifier_real import needs_uids, user
from tests.kernel.test_sources_real import MarkedTraffic
from tests.servers import Certificates, Plc, Server, sliver

pytestmark = pytest.mark.kernel

MAC = "02:00:00:00:00:01"  # of v0
NEAR, FAR = ("10.9.0.2", 9), ("10.9.0.66", 9)
SECONDS = 1.5
SLACK_BYTES = 30_000
"""What HTB's bursts and the time that `tc` takes may add to what a cap lets through in SECONDS."""

CONFIG = {
    "node": "node1.example.org",
    "interval": "300ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "line_rate": "800mbit"}],
    "defaults": {"normal": {"allowance": "unlimited"}, "exempt": {"allowance": "unlimited"}},
}
MARKS = [{"name": name, "override": True, "id": at, "match": {"mark": at}} for at, name in ((1, "ann"), (2, "bob"))]


class Node:
    """A program that asks a Central, and what its slices send."""

    def __init__(self, room: Room, program: Program, plc: Plc) -> None:
        self.room, self.program, self.plc, self.traffic = room, program, plc, MarkedTraffic(room)

    def metric(self, family: str) -> float:
        """Return a metric of the device or of the Central."""
        found = (
            value for series, value in self.program.metrics().items() if series.startswith(f"bwexporter_{family}{{")
        )
        return next(found, 0.0)

    def caps(self, bits_per_second: int | None) -> None:
        """Give the node's interface a limit."""
        self.plc.data["interfaces"] = [{"mac": MAC.upper(), "ip": "10.9.0.1", "bwlimit": bits_per_second}]

    def bytes_per_second(self) -> tuple[float, float]:
        """Measure what both slices send together: at least, and at most."""
        began, before, begun = self._sent()
        time.sleep(SECONDS)  # a rate is measured over time
        ending, after, ended = self._sent()
        return (after - before) / (ended - began), (after - before) / (ending - begun)

    def _sent(self) -> tuple[float, int, float]:
        """Return what the kernel says, and the times before and after that."""
        before, classes, after = time.monotonic(), self.room.classes(), time.monotonic()
        return before, sum(classes[handle_of(one)].sent_bytes for one in (1, 2)), after

    def uses(self, bits_per_second: int) -> bool:
        """Measure; say whether at least half of a cap is used, which a machine that stalls does not let happen."""
        least, most = self.bytes_per_second()
        cap = bits_per_second / 8
        assert least <= cap + SLACK_BYTES / SECONDS, f"{least * 8:.0f} bit/s under a cap of {bits_per_second}"
        return most >= 0.5 * cap - 1514 / SECONDS


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def open_things() -> Iterator[ExitStack]:
    """Close what a test opens."""
    with ExitStack() as things:
        yield things


def running(
    things: ExitStack, folder: Path, plc: Plc, patches: list[dict[str, Any]] | None = None, *, tls: bool = True
) -> Node:
    """Start a Central, and a program that asks it every second."""
    certificates, server, room = Certificates(folder), Server(plc.answer), things.enter_context(Room())
    room.run("ip neighbour add 10.9.0.66 lladdr 02:00:00:00:00:02 dev v0 nud permanent")
    with room.entered():
        url = things.enter_context(server.running(certificates.here if tls else None)).url
    plc_item = {"plc": {"url": f"{url}/PLCAPI/", "every": "1s", "ca_file": "ca.pem"}}
    config = {**CONFIG, "slices": [plc_item, {"file": "slices.yml"}]}
    return Node(room, things.enter_context(Program(room, folder, config, patches or [])).start(), plc)


def test_the_node_cap_of_plc_holds_for_all_slices_together(open_things: ExitStack, tmp_path: Path) -> None:
    """Lowered, suspicious, raised and gone, under two greedy senders; no class is made anew and no byte forgotten."""
    plc = Plc(slivers=[sliver("ann"), sliver("bob")])
    plc.data["interfaces"] = [{"mac": MAC.upper(), "ip": "10.9.0.1", "bwlimit": 80_000_000}]
    node = running(open_things, tmp_path, plc, MARKS)
    program = node.program
    wait_for(lambda: ("bob", "normal") in program.lanes(), what="the slices")
    assert node.metric("device_cap_bytes_per_second") == 10_000_000
    with Greedy(node.traffic, handle_of(1)), Greedy(node.traffic, handle_of(2)):
        used = 0
        for bits in (80_000_000, 16_000_000, 400_000, 48_000_000):
            node.caps(bits)
            wait_for(lambda bits=bits: node.metric("device_cap_bytes_per_second") == bits // 8, what=f"a cap of {bits}")
            program.turn()
            wait_for(lambda bits=bits: node.uses(bits), what="the use of what there is")
            before, used = used, program.lane("ann")["period_used_bytes"]
            assert used >= before
            # A poll that a stall has held up for a second fails, and the next one does not.
            wait_for(lambda: node.metric("source_up") == 1, what="an answer in time")
            wait_for(lambda bits=bits: node.metric("source_problems") == (bits < 500_000), what="the problems of a cap")
        node.caps(None)
        wait_for(lambda: node.metric("device_cap_bytes_per_second") == 100_000_000, what="the line rate")
    assert program.said().count("400kbit is suspiciously little, and holds; was it meant in kbit/s?") == 1
    assert program.events("counter_restarted", "ann") == []
    assert node.metric("drift_repairs_total") == 0


def test_members_of_the_exempt_group_have_the_exempt_lane_until_they_leave(
    open_things: ExitStack, tmp_path: Path
) -> None:
    """A slice's packets are told by its account; where they go decides which lane they are counted in, to the byte."""
    needs_uids(1)
    name = pwd.getpwuid(1).pw_name
    plc = Plc(slivers=[sliver(name)], groups=["Alpha"])
    plc.members = {"Internet2": [FAR[0]]}
    node = running(open_things, tmp_path, plc, tls=False)
    program, wanted = node.program, {"normal": 0, "exempt": 0}
    wait_for(lambda: (name, "normal") in program.lanes(), what="the slice")
    for groups, members, exempt in (
        (["Alpha"], [FAR[0]], ""),
        (["Alpha", "Internet2"], [FAR[0]], FAR[0]),
        (["Internet2"], ["10.9.0.77"], "10.9.0.77"),
        (["Internet2"], ["10.9.0.77", FAR[0]], FAR[0]),
        (["Alpha"], [FAR[0]], ""),
    ):
        plc.members = {"Internet2": members}
        plc.data["groups"] = groups
        wait_for(lambda exempt=exempt: _exempt(node, exempt), what=f"members {members} of {groups}")
        for to, packets in ((NEAR, 3), (FAR, 5)):
            _send_as(node, 1, packets, to)
            wanted["exempt" if exempt == to[0] else "normal"] += packets * PACKET_BYTES
        wait_for(lambda: _used(program, name) == wanted, what=f"{wanted} instead of {_used(program, name)}")
    assert program.said().count("is asked over http: whoever is on the way can read the password") == 1


def _exempt(node: Node, exempt: str) -> bool:
    """Say whether this address, or none, is exempt in the kernel, and FAR only if it is this one."""
    rules = node.room.run("nft list ruleset")
    return exempt in rules and (FAR[0] in rules) is (exempt == FAR[0])


def _send_as(node: Node, uid: int, packets: int, to: tuple[str, int]) -> None:
    with node.room.entered(), user(uid):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(packets):
            sender.sendto(bytes(PACKET_BYTES - HEADER_BYTES), to)


def _used(program: Program, name: str) -> dict[str, int]:
    return {traffic: program.lane(name, traffic)["period_used_bytes"] for traffic in ("normal", "exempt")}


def test_the_default_slice_switches_all_capping_off_and_on(open_things: ExitStack, tmp_path: Path) -> None:
    """Off is the full rate; the account goes on, so that the cap is back when the switch is."""
    tight = sliver("ann", ("net_max_kbyte", "20000000"), ("net_thresh_kbyte", "100"), ("net_max_rate", "40000"))
    switch = sliver("pl_default", ("net_max_rate", "-1"), instantiation="not-instantiated")
    plc = Plc(slivers=[tight])
    node = running(open_things, tmp_path, plc, MARKS[:1])
    program = node.program
    wait_for(lambda: ("ann", "normal") in program.lanes(), what="the slice")
    node.traffic.send(("ann", "normal"), handle_of(1), 150)
    for slivers, verdict in (([tight], "over_threshold"), ([tight, switch], "off"), ([tight], "over_threshold")):
        plc.data["slivers"] = slivers
        wait_for(lambda verdict=verdict: program.lane("ann")["verdict"] == verdict, what=verdict)
        program.turn()
        lane = program.lane("ann")
        assert (node.room.classes()[handle_of(1)].ceiling == 5_000_000) is (verdict == "off")
        assert lane["period_used_bytes"] == 150 * PACKET_BYTES
