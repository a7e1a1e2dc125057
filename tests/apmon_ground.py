"""Receivers on loopback, and the ways in which a destination can be bad, for the ApMon tests."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from bwexporter.apmon import wire
from bwexporter.apmon.channel import Address
from bwexporter.apmon.destinations import Destination
from tests import monalisa
from tests.waiting import PATIENCE_SECONDS

CLOSE = 0.02  # how near figures have to be to an independent reading
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20


class Receiver:
    """A UDP socket on loopback that keeps what it gets, in a thread of its own."""

    def __init__(self, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        try:  # what comes in while the thread is held up waits, however little the system lets others keep
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.host = "127.0.0.1" if family is socket.AF_INET else "::1"
        self.socket.bind((self.host, port))
        self.port = int(self.socket.getsockname()[1])
        self.payloads: list[bytes] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the receiver."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self.close()

    def close(self) -> None:
        """Stop listening; the port is free again."""
        with suppress(OSError):  # it is not connected, and wakes the thread all the same
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=PATIENCE_SECONDS)
        self.socket.close()

    def _receive(self) -> None:
        while payload := self.socket.recv(65535):
            self.payloads.append(payload)

    def destination(self, password: str = "") -> Destination:
        """Return how a sender names it."""
        return Destination(self.host, self.port, password)

    def wait_for(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[wire.Datagram]:
        """Wait until so many datagrams are there, and return all."""
        return [wire.decode(payload) for payload in self.wait_for_payloads(count, seconds=seconds)]

    def wait_for_payloads(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[bytes]:
        """Wait until so many datagrams are there, and return all as they came."""
        deadline = time.monotonic() + seconds
        while len(self.payloads) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.payloads) >= count, f"{len(self.payloads)} of {count} datagrams arrived"
        return list(self.payloads)

    def stored(self) -> list[monalisa.Stored]:
        """Return what a MonALISA service would have stored."""
        return [monalisa.receive(payload) for payload in list(self.payloads)]


class Between:
    """Equal to all that lies between two readings of the test's own, one before and one after, give or take 2 %."""

    def __init__(self, before: float, after: float) -> None:
        self.least, self.most = min(before, after) * (1 - CLOSE), max(before, after) * (1 + CLOSE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and self.least <= other <= self.most

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"from {self.least} to {self.most}"


class NameService:
    """Names and their addresses, which a test may change; what it does not know has none."""

    def __init__(self, **ports: int) -> None:
        self.known: dict[str, Sequence[Address]] = {
            name: [(socket.AF_INET, ("127.0.0.1", port))] for name, port in ports.items()
        }
        self.asked = 0
        self.delay = threading.Event()
        self.delay.set()

    def __call__(self, host: str, _: int) -> Sequence[Address]:
        """Answer as a resolver does; while `delay` is not set, not at all."""
        self.delay.wait()
        self.asked += 1
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.known[host]


class WebServer:
    """Serves one text on loopback, in the way that `answer` says."""

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve while the context lasts; give the URL."""
    web = WebServer(answer)
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web.url
    finally:
        web.server.shutdown()
        web.server.server_close()
        thread.join(timeout=PATIENCE_SECONDS)


def beside(
    read: Callable[[], Mapping[str, float]], measure: Callable[[], Mapping[str, object]]
) -> tuple[dict[str, Between], dict[str, object]]:
    """Return what an independent reading before and one after allow, and what was measured in between, by name.

    Others may change a figure there and back while nobody looks; then all is done once more.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        before, found, after = read(), measure(), read()
        allowed = {name: Between(before[name], after[name]) for name in before}
        measured = {name: found.get(name) for name in before}
        if allowed == measured or time.monotonic() > until:
            return allowed, measured


def text_answer(text: str | Callable[[], str]) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Answer with a text."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        body = (text if isinstance(text, str) else text()).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer
