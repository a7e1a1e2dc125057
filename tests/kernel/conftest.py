# ruff: noqa: D102 - the rigs' methods are described where they are promised, in Rig
"""Rigs: a device on the fake machine or on the real kernel, with the same strangers, traffic and troubles.

The real kernel is used in a network namespace made for one test: as root, or inside `unshare -Urn` (a user namespace),
the test's thread enters a new one and returns afterwards. NumPy has threads, so a user namespace cannot be entered from
here; for unprivileged users test_unprivileged.py runs these tests once more in a process started by `unshare -Urn`.
Where no new namespace can be entered the tests are skipped: the host's own is never touched.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from bwexporter.core.lanes import Act, Classes
from bwexporter.kernel import wire
from bwexporter.kernel.htb import Device
from bwexporter.kernel.sockets import Requests
from tests.fake_kernel import FakeClass, FakeDevice, FakeKernel

CLONE_NEWNET = 0x40000000
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
PACKET_BYTES = 1000  # on the link: 14 Ethernet, 20 IPv4, 8 UDP, the rest payload
FLOOD = 60_000  # notifications; more than the listener's buffer holds
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35
LIBC = ctypes.CDLL(None, use_errno=True)


class Rig(Protocol):
    """A device called v0, and what can happen to it."""

    def device(self, *, take_over: bool = False) -> Any:
        """Open a door to v0."""

    def send(self, handle: int, packets: int) -> None:
        """Send packets of PACKET_BYTES through a class; return when they have passed."""

    def create_class(self, handle: int, parent: int) -> None:
        """Let a stranger create a class of 1 mbit."""

    def change_class(self, handle: int) -> None:
        """Let a stranger set a class to 2 mbit."""

    def delete_class(self, handle: int) -> None:
        """Let a stranger delete a class."""

    def add_root(self, kind: str) -> None:
        """Let a stranger add a root queue 1: of a kind."""

    def delete_root(self) -> None:
        """Let a stranger delete the root queue."""

    def root(self) -> str:
        """Say what the root queue is: kind and handle, or nothing for the kernel's own."""

    def flood(self) -> None:
        """Let more happen to a class than a listener can hold."""

    def replace_link(self) -> None:
        """Remove v0 and add it anew."""

    def remove_link(self) -> None:
        """Remove v0."""

    def add_link(self) -> None:
        """Add v0 anew."""

    def unprivileged(self) -> Any:
        """Return a context without the capability to change classes."""


class FakeRig:
    """The rig on the fake machine."""

    def __init__(self) -> None:
        self.kernel = FakeKernel("v0")

    def device(self, *, take_over: bool = False) -> FakeDevice:
        return FakeDevice("v0", self.kernel, take_over=take_over)

    def send(self, handle: int, packets: int) -> None:
        sent = self.kernel.offer("v0", handle, packets * PACKET_BYTES, packet_bytes=PACKET_BYTES)
        assert sent == packets * PACKET_BYTES

    def create_class(self, handle: int, parent: int) -> None:
        assert not self.kernel.create_class("v0", FakeClass(handle, parent, 125_000, 125_000))

    def change_class(self, handle: int) -> None:
        assert not self.kernel.change_class("v0", FakeClass(handle, 0, 250_000, 250_000))

    def delete_class(self, handle: int) -> None:
        assert not self.kernel.delete_class("v0", handle)

    def add_root(self, kind: str) -> None:
        self.kernel.add_root("v0", kind)

    def delete_root(self) -> None:
        self.kernel.delete_root("v0")

    def root(self) -> str:
        root = self.kernel.links["v0"].root
        return f"{root.kind} {root.handle >> 16:x}:" if root else ""

    def flood(self) -> None:
        for _ in range(FLOOD):
            self.change_class(0x10001)

    def replace_link(self) -> None:
        self.kernel.remove_link("v0")
        self.kernel.add_link("v0")

    def remove_link(self) -> None:
        self.kernel.remove_link("v0")

    def add_link(self) -> None:
        self.kernel.add_link("v0")

    @contextmanager
    def unprivileged(self) -> Iterator[None]:
        self.kernel.permitted = False
        yield
        self.kernel.permitted = True


class RealRig:
    """The rig on the real kernel: a veth pair in the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._sniffer: socket.socket | None = None
        self.add_link()

    def device(self, *, take_over: bool = False) -> Device:
        return Device("v0", take_over=take_over)

    def send(self, handle: int, packets: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, handle)
            for _ in range(packets):
                sender.sendto(bytes(PACKET_BYTES - 42), ("10.9.0.2", 9))
                # Wait for the packet at the other end: it has then been counted, and no queue is ever full.
                assert self._sniffer
                assert len(self._sniffer.recv(2048)) == PACKET_BYTES

    def heard(self, seconds: float = 60.0) -> bytes | None:
        """Return the next packet at the other end; None where none comes in that time."""
        assert self._sniffer
        self._sniffer.settimeout(seconds)
        try:
            return self._sniffer.recv(2048)
        except TimeoutError:
            return None

    def create_class(self, handle: int, parent: int) -> None:
        run(f"tc class add dev v0 parent {text(parent)} classid {text(handle)} htb rate 1mbit quantum 1514")

    def change_class(self, handle: int) -> None:
        run(f"tc class change dev v0 classid {text(handle)} htb rate 2mbit quantum 1514")

    def delete_class(self, handle: int) -> None:
        run(f"tc class del dev v0 classid {text(handle)}")

    def add_root(self, kind: str) -> None:
        run(f"tc qdisc add dev v0 root handle 1: {kind}")

    def delete_root(self) -> None:
        run("tc qdisc del dev v0 root")

    def root(self) -> str:
        words = run("tc qdisc show dev v0 root").split()
        return "" if words[2] == "0:" else f"{words[1]} {words[2]}"

    def flood(self) -> None:
        nothing = np.zeros(FLOOD, np.int64)
        one = np.full(FLOOD, 125_000_000)
        classes = Classes(nothing + 0x10001, nothing, one, one, nothing + 1514, nothing, nothing, nothing)
        stranger = Requests()
        first, ifindex = stranger.reserve(FLOOD), socket.if_nametoindex("v0")
        data = wire.encode_classes(classes, Act.CHANGE, ifindex=ifindex, first_seq=first, batch=stranger.batch)
        outcome, _ = stranger.exchange(data, FLOOD, first)
        stranger.close()
        assert not outcome.any()

    def replace_link(self) -> None:
        self.remove_link()
        self.add_link()

    def remove_link(self) -> None:
        self.close()
        run("ip link del v0")

    @contextmanager
    def unprivileged(self) -> Iterator[None]:
        with without_capability(CAP_NET_ADMIN):
            yield

    def close(self) -> None:
        if self._sniffer:
            self._sniffer.close()

    def add_link(self) -> None:
        run("ip link add v0 address 02:00:00:00:00:01 type veth peer name v1 address 02:00:00:00:00:02")
        for link in ("v0", "v1"):
            # Without a link-local address no packet of the kernel's own disturbs the counters.
            run(f"ip link set {link} addrgenmode none up")
        run("ip address add 10.9.0.1/24 dev v0")
        run("ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent")
        self._sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._sniffer.bind(("v1", 0x0800))
        self._sniffer.settimeout(60)


@contextmanager
def arriving_at(link: str) -> Iterator[socket.socket]:
    """Hear the packets that a link gets, each with the time at which its driver had it: see `stamped`."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as arriving:
        arriving.bind((link, 0x0800))
        arriving.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        arriving.settimeout(60)
        yield arriving


def stamped(arriving: socket.socket) -> tuple[bytes, float]:
    """Return the next packet, and when it arrived by the wall clock."""
    data, told, _, _ = arriving.recvmsg(2048, 64)
    seconds, nanoseconds = struct.unpack("qq", told[0][2])
    return data, seconds + nanoseconds / 1e9


def packets_ahead(passed: Sequence[tuple[float, float]]) -> list[int]:
    """Return how many others each packet waited for, of some that are given as (sent, arrived), as they arrived.

    Those that arrived after it was sent and before it did: its place in the queue, however long all stood still.
    """
    return [sum(other > sent for _, other in passed[:at]) for at, (sent, _) in enumerate(passed)]


def run(command: str) -> str:
    """Run a program to its end and return what it printed."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def text(handle: int) -> str:
    """Write a handle as tc does."""
    return f"{handle >> 16:x}:{handle & 0xFFFF:x}" if handle & 0xFFFF else f"{handle >> 16:x}:"


def holds_capability(capability: int) -> bool:
    """Say whether the calling thread has a capability in its user namespace."""
    status = Path("/proc/thread-self/status").read_text().splitlines()
    effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


@contextmanager
def without_capability(capability: int) -> Iterator[None]:
    """Take a capability out of the effective set of the calling thread for a while (capget(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the upper halves
    assert LIBC.capget(header, sets) == 0
    sets[0] &= ~(1 << capability)
    assert LIBC.capset(header, sets) == 0
    yield
    sets[0] |= 1 << capability
    assert LIBC.capset(header, sets) == 0


@pytest.fixture
def private_network() -> Iterator[None]:
    """Stand in a network namespace made for this test."""
    if not holds_capability(CAP_SYS_ADMIN):
        pytest.skip("no new network namespace may be entered here; test_unprivileged.py runs this test in one")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0
    assert Path("/proc/thread-self/ns/net").stat().st_ino != os.fstat(home).st_ino, "this is the host's network"
    yield
    assert LIBC.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture
def real_rig(private_network: None) -> Iterator[RealRig]:  # noqa: ARG001 - it stands in that network
    """Return a rig on the real kernel."""
    made = RealRig()
    yield made
    made.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.kernel)])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Return a rig, once the fake and once the real one."""
    return FakeRig() if request.param == "fake" else request.getfixturevalue("real_rig")


@pytest.fixture
def device(rig: Rig) -> Iterator[Any]:
    """Return an open door to v0."""
    with rig.device() as opened:
        yield opened
