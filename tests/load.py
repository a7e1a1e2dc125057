"""Load: greedy senders and a sink, each a process of its own.

Turns a list of lanes into traffic that always waits for its class. Knows: sockets, priorities. Does not know: what is
measured. `python -m tests.load send LANES` sends until its standard input ends, `python -m tests.load sink` takes what
arrives at any address of its network namespace, and both say when they are ready.

UDP is as greedy as the class lets it: a socket's buffer is full while packets wait in the queue. The buffer has to be
less than the queue holds (a quarter of a second), or the sender would only turn round and round.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

PORT = 5000
UDP_PAYLOAD_BYTES = 1400
_ROOT = Path(__file__).parents[1]
_WRITE = bytes(1 << 16)
_SO_SNDBUFFORCE = 32
_READY = b"ready\n"


class Lane(NamedTuple):
    """One greedy sender: `tcp` or `udp`, and the class it sends through (0: as the node's rules say)."""

    protocol: str
    handle: int
    ceiling_bytes_per_second: int = 12_500_000


class _Process:
    """A process that lives as long as its context."""

    def __init__(self, *arguments: str, inside: Sequence[str] = ()) -> None:
        command = [*inside, sys.executable, "-m", "tests.load", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=_ROOT
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == _READY

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Sink(_Process):
    """Takes TCP and UDP, and throws them away; `inside` enters another network namespace."""

    def __init__(self, inside: Sequence[str] = ()) -> None:
        super().__init__("sink", inside=inside)


class Senders(_Process):
    """Greedy senders to a sink at an address."""

    def __init__(self, to: str, lanes: Sequence[Lane], inside: Sequence[str] = ()) -> None:
        super().__init__("send", to, json.dumps(lanes), inside=inside)


def _sink() -> None:
    """Read TCP; leave UDP to the kernel, which drops what nobody reads."""
    listener = socket.create_server(("", PORT), backlog=1000)
    unread = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unread.bind(("", PORT))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    open_sockets: dict[int, socket.socket] = {}
    into = bytearray(1 << 18)
    _say_ready()
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            if number == listener.fileno():
                accepted, _address = listener.accept()
                open_sockets[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
            elif not open_sockets[number].recv_into(into, len(into), socket.MSG_TRUNC):
                open_sockets.pop(number).close()


def _say_ready() -> None:
    sys.stdout.write(_READY.decode())
    sys.stdout.flush()


def _open(to: str, lane: Lane) -> socket.socket:
    kind = socket.SOCK_STREAM if lane.protocol == "tcp" else socket.SOCK_DGRAM
    sender = socket.socket(socket.AF_INET, kind)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, lane.handle)
    if kind == socket.SOCK_DGRAM:
        # The kernel doubles it, and counts some 2.3 kB for each of these packets.
        buffer = min(max(4096, lane.ceiling_bytes_per_second // 10), 4 << 20)
        try:
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, buffer)
        except PermissionError:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    sender.connect((to, PORT))
    sender.setblocking(False)
    return sender


def _send(to: str, lanes: Sequence[Lane]) -> None:
    poll = select.epoll()
    poll.register(sys.stdin, select.EPOLLIN)
    senders = {}
    for lane in lanes:
        sender = _open(to, lane)
        senders[sender.fileno()] = (sender, _WRITE if lane.protocol == "tcp" else _WRITE[:UDP_PAYLOAD_BYTES])
        poll.register(sender, select.EPOLLOUT)
    _say_ready()
    while True:
        for number, _ in poll.poll():
            if number == sys.stdin.fileno():
                return
            sender, payload = senders[number]
            with suppress(BlockingIOError, ConnectionRefusedError):
                for _ in range(32):
                    sender.send(payload)


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        _sink()
    else:
        _send(sys.argv[2], [Lane(*lane) for lane in json.loads(sys.argv[3])])
