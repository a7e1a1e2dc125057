"""A real machine: a device whose packets arrive at the other end of a cable, in the network namespace of this process.

Turns what a test sends into packets in HTB classes, and what arrived into the truth that accounts are held against:
frames counted at the far end, by the lane that their port names. Knows: veth, tc, sockets. Does not know: bwexporter's
accounts.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from bwexporter.core.lanes import Act, Classes
from bwexporter.kernel import dump, wire
from bwexporter.kernel.sockets import Requests
from tests.kernel.conftest import SO_RCVBUFFORCE, run, text

FIRST_PORT = 10_000
HEADER_BYTES = 42  # 14 Ethernet, 20 IPv4, 8 UDP
ARRIVAL_SECONDS = 60.0
PATIENCE_SECONDS = 1.0  # longer than any queue of a test takes to drain
QUIET_SECONDS = 0.5
NORMAL_TRUNK, EXEMPT_TRUNK = 0x1_0010, 0x1_0020
_PACKET_STATISTICS, _SOL_PACKET = 6, 263  # linux/if_packet.h
_RECEIVE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Class:
    """A class as the kernel has it now."""

    parent: int
    leaf: int
    ceiling: int
    sent_bytes: int
    backlog_bytes: int


class Machine:
    """One device of the real kernel, with its cable; the network namespace has to be a private one."""

    def __init__(self, device: str = "eth0", subnet: int = 9) -> None:
        assert {name for _, name in socket.if_nameindex()} <= {"lo", "eth0", "far0", "eth1", "far1"}, "not private"
        self.device = device
        self._far = device.replace("eth", "far")
        self._subnet = subnet
        self.arrived: Counter[int] = Counter()  # bytes on the link by port
        self._sent_packets = self._arrived_packets = self.lost_packets = 0
        self._requests = Requests()
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sniffer: socket.socket | None = None
        self.add_link()

    def add_link(self, ifindex: int = 0) -> None:
        """Add the cable, under an index of choice."""
        mac, near = f"02:00:00:00:0{self._subnet}:", self.device
        index = f"index {ifindex} " if ifindex else ""
        run(f"ip link add {near} {index}address {mac}01 type veth peer name {self._far} address {mac}02")
        for link in (near, self._far):
            # Without a link-local address no packet of the kernel's own disturbs the counters.
            run(f"ip link set {link} addrgenmode none up")
        self.address()
        self._sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        try:
            self._sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except PermissionError:
            self._sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._sniffer.bind((self._far, 0x0800))
        self._sniffer.setblocking(False)

    def address(self) -> None:
        """Give the device its address and its neighbour, without a question to anybody."""
        run(f"ip address add 10.9.{self._subnet}.1/24 dev {self.device}")
        far = f"10.9.{self._subnet}.2 lladdr 02:00:00:00:0{self._subnet}:02"
        run(f"ip neighbour replace {far} dev {self.device} nud permanent")

    def remove_link(self) -> None:
        """Remove the cable with all that is on it."""
        self.settle()
        assert self._sniffer
        self._sniffer.close()
        run(f"ip link del {self.device}")

    def close(self) -> None:
        """Close the sockets."""
        for opened in (self._sender, self._sniffer, self._requests):
            if opened:
                opened.close()

    @property
    def ifindex(self) -> int:
        """The index of the device now."""
        return socket.if_nametoindex(self.device)

    def send(self, handle: int, packets: int, *, size: int = 1000, port: int = FIRST_PORT) -> None:
        """Put packets of `size` bytes (on the link) into a class, or whatever takes them where it is missing."""
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, handle)
        for _ in range(packets):
            self._sender.sendto(bytes(size - HEADER_BYTES), (f"10.9.{self._subnet}.2", port))
        self._sent_packets += packets
        self.receive()

    def receive(self) -> None:
        """Take in what has arrived until now."""
        assert self._sniffer
        with suppress(BlockingIOError):
            while True:
                self._take(self._sniffer.recv(2048))

    def settle(self) -> None:
        """Wait until all that was sent has arrived, or is lost: queues that end take their packets along, uncounted."""
        assert self._sniffer
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._arrived_packets < self._sent_packets and time.monotonic() < deadline:
            self.receive()
            time.sleep(0.0002)
        if self._arrived_packets < self._sent_packets:
            wait_for(lambda: not any(one.backlog_bytes for one in self.classes().values()), seconds=ARRIVAL_SECONDS)
            time.sleep(QUIET_SECONDS)
            self.receive()
            self.lost_packets += self._sent_packets - self._arrived_packets
            self._sent_packets = self._arrived_packets
        _, dropped = struct.unpack("@II", self._sniffer.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert not dropped, "the receiver lost packets: there is no truth"

    def _take(self, frame: bytes) -> None:
        (port,) = struct.unpack_from("!H", frame, 36)
        self.arrived[port] += len(frame)
        self._arrived_packets += 1

    def classes(self) -> dict[int, Class]:
        """Return the classes that the kernel has now."""
        used, _ = self._requests.dump(wire.RTM_GETTCLASS, wire.Place(self.ifindex, 0, wire.TREE_HANDLE))
        found, counts, backlog = dump.decode_classes(self._requests.arena, used)
        columns = (found.parent, found.leaf, found.ceiling_bytes_per_second, counts.sent_bytes, backlog)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {handle: Class(*row) for handle, row in zip(found.handle.tolist(), rows, strict=True)}

    def delete_class(self, handle: int) -> None:
        """Let a stranger delete a class."""
        run(f"tc class del dev {self.device} classid {text(handle)}")

    def remake_class(self, handle: int, *, ceiling: str = "1gbit") -> None:
        """Let a stranger make a class of that name, or change it where the daemon was faster."""
        parent = EXEMPT_TRUNK if handle & 0x8000 else NORMAL_TRUNK
        where = f"dev {self.device} parent {text(parent)} classid {text(handle)}"
        run(f"tc class replace {where} htb rate 1mbit ceil {ceiling} burst 16k cburst 64k quantum 1514")

    def drift(self, handles: list[int], ceiling: int) -> None:
        """Let a stranger set the ceilings of classes, all at once."""
        one, rows = np.full(len(handles), ceiling), np.zeros(len(handles), np.int64)
        classes = Classes(np.array(handles), rows, one, one, rows + 1514, rows + 10**6, rows + 10**6, rows)
        first = self._requests.reserve(len(handles))
        data = wire.encode_classes(classes, Act.CHANGE, ifindex=self.ifindex, first_seq=first)
        refused, _ = self._requests.exchange(data, len(handles), first)
        assert not refused.any()

    def delete_tree(self) -> None:
        """Let a stranger delete the root queue."""
        run(f"tc qdisc del dev {self.device} root")

    def rename(self, name: str, *, to: str) -> None:
        """Rename a link, which has to be down meanwhile."""
        for words in ("down", f"name {to}"):
            run(f"ip link set {name} {words}")
        run(f"ip link set {to} up")


def wait_for(happened: object, *, seconds: float = 60.0) -> None:
    """Wait until a question is answered with yes."""
    assert callable(happened)
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def machine(device: str = "eth0", subnet: int = 9) -> Iterator[Machine]:
    """Return a machine, and close it."""
    made = Machine(device, subnet)
    yield made
    made.close()


def can_unshare(*flags: str) -> bool:
    """Say whether these namespaces may be made here."""
    return subprocess.run(["unshare", *flags, "true"], check=False, capture_output=True).returncode == 0
