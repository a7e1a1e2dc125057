"""The server: a thread of its own that answers requests on sockets bound before.

Turns an address into a listening socket, and sockets and an app into a running server. Knows: addresses, limits against
slow and idle clients. Does not know: what any path answers.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from bwexporter.errors import BwexporterError

FIRST_REQUEST_SECONDS = 10.0
IDLE_SECONDS = 15
GRACE_SECONDS = 1
CONNECTIONS = 512
REQUEST_HEADER_BYTES = 16 * 1024
BACKLOG = 128


def bind(listen: str) -> socket.socket:
    """Return a socket that listens on `host:port`, `[v6 address]:port`, or `:port` for every address of the machine.

    Port 0 takes a free one. Connections wait in the socket until a server answers them. Raises BwexporterError where
    the text is no address, the host is unknown, or the system refuses it (taken, not permitted).
    """
    host, port = _split(listen)
    every = host in {"", "::"} and socket.has_dualstack_ipv6()
    try:
        family, address = (socket.AF_INET6, ("::", port)) if every else _resolve(listen, host, port)
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=every)
    except OSError as refusal:
        raise BwexporterError(f"cannot listen on {listen}: {_reason(refusal)}") from refusal


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise BwexporterError(
            f"cannot listen on {listen!r}: write host:port, [::1]:port for an IPv6 address, or :port for every address",
        )
    return (host[1:-1] if bracketed else host), int(port)


def _resolve(listen: str, host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as unknown:
        raise BwexporterError(f"cannot listen on {listen}: the host {host!r} is unknown") from unknown
    family, _, _, _, address = found[0]
    return family, address


def _reason(refusal: OSError) -> str:
    if refusal.errno == errno.EADDRINUSE:
        return "the port is taken; stop the other program or choose another port in web.listen"
    if refusal.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    if refusal.errno in {errno.EACCES, errno.EPERM}:
        return "not permitted; choose a port above 1023 in web.listen or grant CAP_NET_BIND_SERVICE"
    return os.strerror(refusal.errno) if refusal.errno else "the system refused it"


class Server:
    """Serves the app on the sockets from `start` to `stop`; it closes the sockets in the end.

    A client has `first_request_seconds` from its connection on to send a whole request.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        first_request_seconds: float = FIRST_REQUEST_SECONDS,
    ) -> None:
        self._sockets = list(sockets)
        for listening in self._sockets:
            # Handed on to each connection. asyncio sets it only where the socket was made with the protocol's number,
            # and without it an answer's body waits 40 ms for the client to acknowledge its header.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = _PunctualServer(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=partial(_ImpatientProtocol, first_request_seconds),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # a client that speaks nonsense is no line in our log
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=2 * GRACE_SECONDS,
                h11_max_incomplete_event_size=REQUEST_HEADER_BYTES,
                backlog=BACKLOG,
            ),
        )
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="web", daemon=True)

    def start(self) -> None:
        """Begin to answer, in a thread of its own. Connections made since `bind` are answered now."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 3.0) -> None:
        """Stop to answer: running answers have a second to end, and nothing is waited for beyond the timeout."""
        self._server.end()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        for listening in self._sockets:
            listening.close()


class _PunctualServer(uvicorn.Server):
    """Sleeps until somebody calls, and ends in time although clients hold their connections.

    uvicorn's own loop looks ten times a second whether it should end, which costs an idle node more than its turns.
    What is not read within the grace is dropped.
    """

    _ending: asyncio.Event | None = None

    async def main_loop(self) -> None:
        """Sleep until `end`."""
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        if not self.should_exit:
            await self._ending.wait()

    def end(self) -> None:
        """Tell the server to end, from any thread and at any time."""
        self.should_exit = True
        if self._ending is not None:
            with suppress(RuntimeError):  # its loop has ended already
                self._loop.call_soon_threadsafe(self._ending.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._drop_connections)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


@lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class _ImpatientProtocol(H11Protocol):
    """Closes connections whose first request is not whole in time, so that idle clients cannot use up the limit.

    It also gives answers their date, which uvicorn's own loop would renew every second, asked or not.
    """

    def __init__(self, first_request_seconds: float, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._first_request_seconds = first_request_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._first_request_seconds, self._close_without_request)

    def handle_events(self) -> None:
        self.server_state.default_headers = [(b"date", _date_of(int(time.time())))]
        super().handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _close_without_request(self) -> None:
        if self.cycle is None:
            self.transport.close()
