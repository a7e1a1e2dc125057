"""Probe: one packet of a slice's kind, that shows where such packets go.

Turns a mark, a control group, an address or a user into one packet that has it, sent on a device.
Knows: sockets that play somebody else, control groups that let us in. Does not know: which lane a packet should land
in, or where it did.

A probe is an ordinary datagram: it meets whatever a slice's own packets meet on their way out. It goes to a group that
nobody can be in (MCAST-TEST-NET of RFC 5771, the documentation group of RFC 6676), one hop far: no address needs to be
resolved, no host takes it, no router passes it on. A probe to an exempt destination would reach somebody, so it is a
frame to that group's hardware address instead, whose IP header alone says where it goes.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bwexporter.kernel.classifier import CGROUP_PLACE, cgroup_root

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SMALLEST_BYTES = 60  # room for the headers of IPv6 and UDP

_GROUP4, _GROUP6 = "233.252.0.99", "ff02::db8:0:99"
_GROUP4_HARDWARE, _GROUP6_HARDWARE = bytes.fromhex("01005e7c0063"), bytes.fromhex("333300000099")
_PORT = 9  # discard
_UDP_BYTES, _IP4_BYTES, _IP6_BYTES = 8, 20, 40
_SO_MARK, _IP_TRANSPARENT, _IPV6_TRANSPARENT = 36, 19, 75
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_FOLDER = "bwexporter-check"


class Probe(NamedTuple):
    """One packet, with one of the marks of a slice."""

    device: str
    ip_bytes: int  # from the IP header on
    mark: int = 0
    group: str | None = None  # path below the root of the v2 hierarchy
    source: Address | None = None
    uid: int | None = None
    to: Address | None = None  # an exempt destination


def send(probe: Probe) -> str:
    """Send a probe; return why it could not be sent, or nothing."""
    if probe.to is not None and probe.group is not None:
        return "a control group's packets to exempt destinations would reach somebody, and are not sent"
    try:
        with ExitStack() as disguise:
            if probe.uid is not None:
                disguise.enter_context(_as_user(probe.uid))
            if probe.group is not None:
                disguise.enter_context(_in_group(probe.group))
            sender = _datagrams(probe) if probe.to is None else socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        with sender:
            sender.setsockopt(socket.SOL_SOCKET, _SO_MARK, probe.mark)
            _send(sender, probe)
    except OSError as error:
        return f"no packet of its kind could be sent: {error.strerror or error}"
    return ""


def _send(sender: socket.socket, probe: Probe) -> None:
    if probe.to is not None:
        hardware = _GROUP4_HARDWARE if probe.to.version == 4 else _GROUP6_HARDWARE
        sender.sendto(_packet(probe, probe.to), (probe.device, _ETHERTYPES[probe.to.version], 0, 0, hardware))
    elif sender.family == socket.AF_INET:
        sender.sendto(bytes(probe.ip_bytes - _IP4_BYTES - _UDP_BYTES), (_GROUP4, _PORT))
    else:
        scope = socket.if_nametoindex(probe.device)
        sender.sendto(bytes(probe.ip_bytes - _IP6_BYTES - _UDP_BYTES), (_GROUP6, _PORT, 0, scope))


def _datagrams(probe: Probe) -> socket.socket:
    """Open a socket on the device, from the address that the probe is about."""
    source = probe.source
    version = source.version if source else 4
    sender = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, probe.device.encode() + b"\0")
        if version == 4:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        if source is not None:
            # The address may be a container's or another host's.
            level, option = (socket.IPPROTO_IP, _IP_TRANSPARENT) if version == 4 else (41, _IPV6_TRANSPARENT)
            sender.setsockopt(level, option, 1)
            sender.bind((str(source), 0))
    except BaseException:
        sender.close()
        raise
    return sender


def _packet(probe: Probe, to: Address) -> bytes:
    """Write a datagram with its IP header; without a source of its own it has the unspecified one."""
    if to.version == 4:
        source = probe.source or ipaddress.IPv4Address(0)
        head = struct.pack("!BBHHHBBH", 0x45, 0, probe.ip_bytes, 0, 0, 1, socket.IPPROTO_UDP, 0)
        head += source.packed + to.packed
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    else:
        source = probe.source or ipaddress.IPv6Address(0)
        head = struct.pack("!IHBB", 6 << 28, probe.ip_bytes - _IP6_BYTES, socket.IPPROTO_UDP, 1)
        head += source.packed + to.packed
    udp = struct.pack("!HHHH", _PORT, _PORT, probe.ip_bytes - len(head), 0)
    return (head + udp).ljust(probe.ip_bytes, b"\0")


def _checksum(head: bytes) -> int:
    """Return the checksum of an IPv4 header (RFC 1071).

    >>> hex(_checksum(bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")))
    '0xb861'
    """
    total: int = sum(word for (word,) in struct.iter_unpack("!H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total + (total >> 16) & 0xFFFF)


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Let the calling thread open sockets as a user."""
    libc, own = ctypes.CDLL(None), os.geteuid()
    libc.setfsuid(ctypes.c_uint32(uid))
    try:
        # It says who was before, and never that it failed.
        if libc.setfsuid(ctypes.c_uint32(uid)) & 0xFFFFFFFF != uid:
            raise PermissionError(0, f"this process may not play user {uid}")
        yield
    finally:
        libc.setfsuid(ctypes.c_uint32(own))


@contextmanager
def _in_group(group: str) -> Iterator[None]:
    """Be in a control group for the moment in which a socket is opened, which belongs to it from then on.

    We enter a group made below it, as one that has groups of its own takes no processes. Frozen groups are not entered:
    we would never come back.
    """
    top = CGROUP_PLACE / (cgroup_root() or "")
    inside = top / group / f"{_FOLDER}-{os.getpid()}"
    inside.mkdir()
    try:
        if "frozen 1" in (inside / "cgroup.events").read_text().splitlines():
            raise PermissionError(0, "the control group is frozen")
        with (top / _own_group() / "cgroup.procs").open("w") as home:
            (inside / "cgroup.procs").write_text("0")
            try:
                yield
            finally:
                home.write("0")
    finally:
        inside.rmdir()


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
