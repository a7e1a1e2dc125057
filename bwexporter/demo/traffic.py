"""The traffic of the demo: senders that put their packets into classes, and a receiver that takes all.

Turns parts into packets. Knows: sockets, and that a packet's priority names its HTB class. Does not know: accounts,
what a slice may send.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bwexporter.demo.cast import Part, Sender, Transport

PORT = 9000
TICK_SECONDS = 0.01
PAYLOAD = bytes(1400)
SEND_BUFFER_BYTES = 64 * 1024
LONGEST_DEBT_SECONDS = 0.1


def receive(address: str) -> None:
    """Take whatever comes in by UDP and TCP, for ever."""
    selector = selectors.DefaultSelector()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, PORT))
    datagrams.setblocking(False)
    listening = socket.create_server((address, PORT))
    selector.register(datagrams, selectors.EVENT_READ)
    selector.register(listening, selectors.EVENT_READ)
    waste = bytearray(256 * 1024)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listening:
                stream, _ = listening.accept()
                stream.setblocking(False)
                selector.register(stream, selectors.EVENT_READ)
            elif not _take(key.fileobj, waste):
                selector.unregister(key.fileobj)


def _take(readable: object, waste: bytearray) -> bool:
    """Read once; false where a stream has ended."""
    if not isinstance(readable, socket.socket):
        return False
    try:
        return readable.recv_into(waste) > 0 or readable.type == socket.SOCK_DGRAM
    except BlockingIOError:
        return True
    except OSError:
        return False


@dataclass(slots=True)
class _Stream:
    sender: Sender
    class_handle: int
    address: str
    connection: socket.socket | None = None
    allowed_bytes: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def run(self, now: float, elapsed: float) -> None:
        """Send what has become due since the last tick, as far as the class lets it out."""
        sender, second = self.sender, now - self.began - self.sender.from_second
        if second < 0 or second % (sender.on_seconds + sender.off_seconds) >= sender.on_seconds:
            return
        most = sender.bytes_per_second * LONGEST_DEBT_SECONDS
        self.allowed_bytes = min(self.allowed_bytes + sender.bytes_per_second * elapsed, most)
        while self.allowed_bytes >= len(PAYLOAD):
            sent = self._send()
            if sent == 0:
                return
            self.allowed_bytes -= sent

    def _send(self) -> int:
        try:
            if self.connection is None:
                self.connection = self._open()
            return self.connection.send(PAYLOAD)
        except (BlockingIOError, ConnectionRefusedError):
            return 0
        except OSError:
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return 0

    def _open(self) -> socket.socket:
        kind = socket.SOCK_DGRAM if self.sender.transport is Transport.UDP else socket.SOCK_STREAM
        opened = socket.socket(socket.AF_INET, kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if self.class_handle:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, self.class_handle)
        opened.settimeout(2.0)
        opened.connect((self.address, PORT))
        opened.setblocking(False)
        return opened


def send(parts: Sequence[Part], address: str) -> None:
    """Play all parts, for ever."""
    streams = [_Stream(sender, part.class_of(sender), address) for part in parts for sender in part.senders]
    before = time.monotonic()
    while True:
        time.sleep(TICK_SECONDS)
        now = time.monotonic()
        for stream in streams:
            stream.run(now, now - before)
        before = now
