"""Sockets: two conversations with rtnetlink.

Turns requests into replies (Requests), and notifications into what has ended and whether anything stirred (Listener).
Knows: buffers, sequence numbers, lost messages (ENOBUFS). Does not know: what a class is for, when to look.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct

import numpy as np
from numpy.typing import NDArray

from bwexporter.errors import KernelUnreadable
from bwexporter.kernel import wire
from bwexporter.kernel.dump import Qdisc, Reading, decode_qdisc

_SOL_NETLINK = 270  # linux/socket.h
_NETLINK_ADD_MEMBERSHIP, _NETLINK_CAP_ACK = 1, 10  # linux/netlink.h
_RTNLGRP_LINK, _RTNLGRP_TC = 1, 4  # linux/rtnetlink.h
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_LOAD_WORD, _LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06  # linux/filter.h
_SIOCGIFINDEX, _NAME_BYTES = 0x8933, 16  # linux/sockios.h, linux/if.h
_IFREQ = struct.Struct("=16si20x")  # ifr_name, ifr_ifindex
_FILTER_STEP = struct.Struct("=HBBI")
_REPLY_BYTES = 1024  # what one small reply takes of the receive buffer, with the kernel's own book-keeping
_REQUEST_BUFFER_BYTES = 4 << 20
_LISTENER_BUFFER_BYTES = 16 << 20
_READ_BYTES = 32768  # the kernel fills at most 32 KiB at once, and it walks all classes anew for each filling
_PART_BYTES = 1 << 17  # of a dump, decoded at once: few enough for a processor's own cache, and worth the calls
_REPLY_SECONDS = 10
_MOST_MESSAGES = 1000  # more do not fit into the default send buffer
_TREE_EVENTS = frozenset({wire.RTM_NEWQDISC, wire.RTM_DELQDISC, wire.RTM_NEWTCLASS, wire.RTM_DELTCLASS})
_TAIL = struct.Struct("=IHHIIi")  # nlmsghdr and errno: NLMSG_DONE, and the start of NLMSG_ERROR


class Requests:
    """A socket to ask rtnetlink. It is opened anew where replies may have been lost."""

    def __init__(self) -> None:
        self._seq = 0
        self._arena = bytearray(1 << 18)
        self._view = memoryview(self._arena)
        self._socket = self._open()

    @property
    def arena(self) -> bytearray:
        """The replies of the last request, until the next one."""
        return self._arena

    @property
    def batch(self) -> int:
        """How many messages may be sent at once so that the replies to all of them fit the receive buffer."""
        return max(1, min(_MOST_MESSAGES, self._room // _REPLY_BYTES))

    @property
    def port(self) -> int:
        """The port that the kernel's notifications name as the one who asked."""
        return int(self._port)

    def ifindex_of(self, name: str) -> int:
        """Return the index of a device, in the socket's namespace; OSError where it is not there.

        What socket.if_nametoindex does, which opens a socket of its own for each question.
        """
        encoded = name.encode()
        if len(encoded) >= _NAME_BYTES:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, _IFREQ.pack(encoded, 0))
        return int(_IFREQ.unpack(answer)[1])

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers."""
        if self._seq + count >= wire.SEQUENCE_SPAN:
            self._seq = 0
        first = self._seq + 1
        self._seq += count
        return first

    def dump(self, kind: int, place: wire.Place) -> tuple[int, bool]:
        """Dump objects into the arena: (bytes used, whether the kernel called it consistent).

        KernelUnreadable where the kernel refuses, stops short or loses a part twice.
        """
        return self._tried(kind, place, None, again=True)

    def read(self, place: wire.Place, reading: Reading) -> bool:
        """Dump classes into a reading, and say whether the kernel called it consistent; otherwise as `dump`."""
        return self._tried(wire.RTM_GETTCLASS, place, reading, again=True)[1]

    def exchange(self, data: bytes, count: int, first_seq: int) -> tuple[NDArray[np.int32], int]:
        """Send `count` messages of one length in batches: (errno of each, bytes of the arena used by answers).

        Messages whose outcome was lost have ENOBUFS or ETIMEDOUT.
        """
        outcome = np.zeros(count, np.int32)
        view = memoryview(data)
        step = len(data) // max(count, 1)
        used = 0
        for start in range(0, count, self.batch):
            end = min(start + self.batch, count)
            try:
                self._socket.send(view[start * step : end * step])
                used = self._collect(outcome, first_seq, end - 1, used)
            except OSError as error:
                self._reopen()
                outcome[start:end] = errno.ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or errno.EIO
        return outcome, used

    def exchange_one(self, message: bytes, seq: int, *, acknowledged: bool = False) -> tuple[int, int]:
        """Send one message that is answered with what it is about, or refused: (errno, bytes of the arena used).

        `acknowledged` says that it asks to be acknowledged as well, after the answer.
        """
        used = 0
        try:
            self._socket.send(message)
            while True:
                size = self._receive(used)
                _, kind, _, answered, port, code = _TAIL.unpack_from(self._arena, used)
                if answered != seq or port != self._port:
                    continue
                if kind == wire.NLMSG_ERROR:
                    return -code, used
                used += size
                if not acknowledged:
                    return 0, used
        except OSError as error:
            self._reopen()
            return errno.ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or errno.EIO, 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _REPLY_SECONDS, 0))
        _enlarge(opened, _REQUEST_BUFFER_BYTES)
        opened.bind((0, 0))
        self._port = opened.getsockname()[0]
        self._room = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return opened

    def _reopen(self) -> None:
        self._socket.close()
        self._socket = self._open()

    def _tried(self, kind: int, place: wire.Place, reading: Reading | None, *, again: bool) -> tuple[int, bool]:
        try:
            return self._dump(kind, place, reading)
        except OSError as error:
            self._reopen()
            if again and error.errno == errno.ENOBUFS:
                return self._tried(kind, place, reading, again=False)
            why = "not in time" if isinstance(error, BlockingIOError) else os.strerror(error.errno or 0)
            raise KernelUnreadable(f"the kernel did not answer a dump: {why}") from error

    def _dump(self, kind: int, place: wire.Place, reading: Reading | None) -> tuple[int, bool]:
        """Dump into the arena; where a reading takes it in part by part, each part in the place of the last one."""
        seq = self.reserve(1)
        self._socket.send(wire.encode_request(kind, wire.NLM_F_DUMP, seq, place))
        if reading is not None:
            reading.begin()
        used, flags = 0, 0
        while True:
            size = self._receive(used)
            _, first_kind, first_flags, first_seq, _, code = _TAIL.unpack_from(self._arena, used)
            flags |= first_flags
            if first_kind == wire.NLMSG_ERROR and first_seq == seq:
                raise KernelUnreadable(f"the kernel refused a dump: {os.strerror(-code)}")
            used += size
            length, last_kind, last_flags, last_seq, port, code = _TAIL.unpack_from(self._arena, used - _TAIL.size)
            is_done = (length, last_kind, last_seq, port) == (_TAIL.size, wire.NLMSG_DONE, seq, self._port)
            if is_done:
                if code < 0:
                    raise KernelUnreadable(f"the kernel cut a dump short: {os.strerror(-code)}")
                used -= _TAIL.size
            if reading is not None and (is_done or used >= _PART_BYTES):
                reading.take(self._arena, used)
                used = 0
            if is_done:
                return used, not (flags | last_flags) & wire.NLM_F_DUMP_INTR

    def _collect(self, outcome: NDArray[np.int32], first_seq: int, last: int, used: int) -> int:
        """Take replies until the message of row `last` is acknowledged or refused; keep the answers in the arena."""
        while True:
            size = self._receive(used)
            _, kind, _, seq, port, code = _TAIL.unpack_from(self._arena, used)
            row = seq - first_seq
            if port != self._port or not 0 <= row <= last:
                continue
            if kind != wire.NLMSG_ERROR:
                used += size
                continue
            outcome[row] = -code
            if row == last:
                return used

    def _receive(self, used: int) -> int:
        """Receive one datagram behind what is used; the arena grows to hold it."""
        if len(self._arena) - used < _READ_BYTES:
            larger = bytearray(2 * len(self._arena))
            larger[:used] = self._arena[:used]
            self._arena, self._view = larger, memoryview(larger)
        return self._socket.recv_into(self._view[used : used + _READ_BYTES])


class Listener:
    """Notifications of classes, queues and links. What it gathers stays until `forget`.

    A raw socket goes on after an overflow: the kernel says ENOBUFS once and then delivers what it has kept.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        _enlarge(self._socket, _LISTENER_BUFFER_BYTES)
        self._socket.bind((0, 0))
        for group in (_RTNLGRP_TC, _RTNLGRP_LINK):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._buffer = bytearray(_READ_BYTES)
        self._heard = select.poll()
        self._heard.register(self._socket, select.POLLIN)
        self._passed_over = 0
        self.majors = frozenset({wire.TREE_HANDLE >> 16})  # of the trees whose classes' endings are gathered
        self.above = 0  # major of the queue that has those trees below it; 0 where the tree is the root queue
        self.by_others = False  # somebody else than the one who is passed over stirred; stays until it is set back
        self.link_came = False  # some device came or changed, whichever; likewise
        self.forget()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a notification."""
        return self._socket.fileno()

    def drain(self, ifindexes: frozenset[int], own: tuple[int, int]) -> None:
        """Take in all that has arrived about these devices. `own` is (port, seq) of a question of ours to pass over."""
        if not self._heard.poll(0):  # mostly nothing has, and to be refused a read takes longer than to ask
            return
        while True:
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelUnreadable("the kernel's notifications cannot be read") from error
                self._lose()
            else:
                self._split(size, ifindexes, own)

    def pass_over(self, port: int) -> None:
        """Hear no more of what the socket of that port makes or changes, which knows it; removals are still heard of.

        The kernel still makes the message, as for anybody who listens, but keeps none for us: a sixth of what many
        changes cost.
        """
        if port == self._passed_over:
            return
        self._passed_over = port
        steps = (  # a filter loads numbers as the network writes them; jumps are counted from the next step
            (_LOAD_WORD, 0, 0, 12),  # nlmsg_pid
            (_JUMP_IF_EQUAL, 0, 3, socket.htonl(port)),
            (_LOAD_HALF, 0, 0, 4),  # nlmsg_type
            (_JUMP_IF_EQUAL, 2, 0, socket.htons(wire.RTM_NEWTCLASS)),
            (_JUMP_IF_EQUAL, 1, 0, socket.htons(wire.RTM_NEWQDISC)),
            (_RETURN, 0, 0, 0xFFFFFFFF),
            (_RETURN, 0, 0, 0),
        )
        program = ctypes.create_string_buffer(b"".join(_FILTER_STEP.pack(*step) for step in steps))
        handed = struct.pack("@HP", len(steps), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, handed)

    def calm(self) -> None:
        """Start to watch for what stirs; what ended before stays."""
        self.stirred = False  # a class or queue came, went or was changed
        self.root_changed = False  # the root queue, or a tree right below it, was made or deleted
        self._endings_before, self._roots_before = len(self.endings), len(self.roots)

    def forget(self) -> None:
        """Forget everything: it has been told."""
        self.lost = False  # notifications were dropped
        self.link_ended = False
        self.endings = bytearray()  # RTM_DELTCLASS messages, in order
        self.roots: list[Qdisc] = []  # those of them that were deleted, in order
        self.calm()

    @property
    def endings_since_calm(self) -> bytes:
        """The RTM_DELTCLASS messages that came after `calm`."""
        return bytes(self.endings[self._endings_before :])

    @property
    def root_ended_since_calm(self) -> bool:
        """Say whether a root queue was deleted after `calm`."""
        return len(self.roots) > self._roots_before

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _split(self, size: int, ifindexes: frozenset[int], own: tuple[int, int]) -> None:
        """Take each message of a notification: a replaced queue tells of the old one and of the new one at once."""
        at = 0
        while at < size:
            length, kind, _, seq, port, family, ifindex, handle, parent = wire.EVENT.unpack_from(self._buffer, at)
            if not wire.EVENT.size <= length <= size - at:
                self._lose()
                return
            self.link_came |= kind == wire.RTM_NEWLINK
            if ifindex in ifindexes and (port, seq) != own:
                if kind == wire.RTM_DELLINK:
                    # A bridge tells in its own family that a port has left it; the device is still there.
                    self.link_ended |= family == socket.AF_UNSPEC
                    self.stirred |= self.link_ended
                    self.by_others |= self.link_ended
                elif kind in _TREE_EVENTS:
                    self.by_others |= port != self._passed_over
                    self._take(kind, handle, parent, slice(at, at + length))
            at += (length + 3) & ~3

    def _take(self, kind: int, handle: int, parent: int, place: slice) -> None:
        self.stirred = True
        if kind == wire.RTM_DELTCLASS and handle >> 16 in self.majors:
            self.endings += self._buffer[place]
            if len(self.endings) > _LISTENER_BUFFER_BYTES:
                self.endings.clear()
                self._lose()
        elif kind in {wire.RTM_NEWQDISC, wire.RTM_DELQDISC} and self._is_top(parent):
            self.root_changed = True
            if kind == wire.RTM_DELQDISC:
                self.roots.append(decode_qdisc(self._buffer, place.start, place.stop))

    def _is_top(self, parent: int) -> bool:
        return parent == wire.TC_H_ROOT or parent >> 16 == self.above

    def _lose(self) -> None:
        self.lost = self.stirred = self.root_changed = self.by_others = self.link_came = True


def _enlarge(opened: socket.socket, size: int) -> None:
    """Enlarge the receive buffer; without CAP_NET_ADMIN it goes as far as net.core.rmem_max allows."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
