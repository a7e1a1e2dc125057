"""The server: a thread of its own that answers requests on sockets bound before.

Turns sockets and an app into a running server. Knows: when a connection begins and ends, TLS handshakes, how long a
client may take for what. Does not know: what any path answers, certificates, passwords.

uvicorn speaks HTTP (by h11, which is strict) and runs the app; connections are accepted here, because their number, the
time for a handshake and the certificate in force are nothing that uvicorn lets one set.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import threading
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from bwexporter.web.crowd import Crowd, Seat
from bwexporter.web.listening import BACKLOG
from bwexporter.web.patience import Patience
from bwexporter.web.webconfig import WebConfig

log = logging.getLogger("bwexporter.web")

CONNECTIONS = 256
GRACE_SECONDS = 1.0
REQUEST_HEADER_BYTES = 16 * 1024

_PIECE_BYTES = 4096
_TLS_BUFFER_BYTES = 16 * 1024


class Server:
    """Serves the app on the sockets from `start` to `stop`; it closes the sockets in the end.

    `current` gives the settings in force: each new connection has the certificate of its moment.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[Any],
        *,
        current: Callable[[], WebConfig] = WebConfig,
        patience: Patience | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self._sockets = list(sockets)
        for listening in self._sockets:
            if listening.family != socket.AF_UNIX:
                # Handed on to each connection. asyncio sets it only where the socket was made with the protocol's
                # number, and without it an answer's body waits 40 ms for the client to acknowledge its header.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # a client that speaks nonsense is no line in our log
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=REQUEST_HEADER_BYTES,
            timeout_keep_alive=round((patience or Patience()).idle_seconds) or 1,
        )
        self._server = _Accepting(config, current, patience or Patience(), Crowd(connections))
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="web", daemon=True)

    def start(self) -> None:
        """Begin to answer, in a thread of its own. Connections made since they were bound are answered now."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 3.0) -> None:
        """Stop to answer: running answers have a second to end, and nothing is waited for beyond the timeout."""
        self._server.end()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        for listening in self._sockets:
            listening.close()


class _Accepting(uvicorn.Server):
    """Sleeps until somebody calls, gives each connection a seat, and ends in time although clients hold on.

    uvicorn's own loop looks ten times a second whether it should end, which costs an idle node more than its turns.
    """

    def __init__(
        self, config: uvicorn.Config, current: Callable[[], WebConfig], patience: Patience, crowd: Crowd
    ) -> None:
        super().__init__(config)
        self._current = current
        self._patience = patience
        self._crowd = crowd
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def end(self) -> None:
        """Ask for the end; any thread may."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._woken.set)

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to accept."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_note)
        self.servers = [
            await self._loop.create_server(self._seat, sock=listening, backlog=BACKLOG) for listening in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Sleep until `end`."""
        if not self.should_exit:
            await self._woken.wait()

    async def shutdown(self, sockets: list[Any] | None = None) -> None:  # noqa: ARG002 - uvicorn's shape
        """Let running answers end within the grace, and drop what is left."""
        for server in self.servers:
            server.close()
        until = asyncio.get_running_loop().time() + GRACE_SECONDS
        self._crowd.abort_idle()
        while self._crowd.seats and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
            self._crowd.abort_idle()
        self._crowd.abort_all()
        for task in self.server_state.tasks:
            task.cancel()
        await asyncio.sleep(0)

    def _seat(self) -> asyncio.BaseProtocol:
        """Make what a new connection speaks: HTTP, or TLS with HTTP inside."""
        seat, settings = Seat(), self._current()
        http = _Http(
            self.config, self.server_state, seat=seat, crowd=self._crowd, patience=self._patience, settings=settings
        )
        seat.is_busy = http.is_busy
        if settings.tls is None:
            return http
        return _Tls(seat, self._crowd, http, settings.tls, self._patience)


def _note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what is no client's trouble: those are connections that end, or certificates that do not hold."""
    exception = context.get("exception")
    if exception is not None and not isinstance(exception, OSError):
        log.error("the web server goes on after this", exc_info=exception)


@lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class _Http(H11Protocol):
    """One connection: a client has some time for each request, and some for taking its answer.

    It also gives answers their date, which uvicorn's own loop would renew every second, asked or not.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Any,
        *,
        seat: Seat,
        crowd: Crowd,
        patience: Patience,
        settings: WebConfig,
    ) -> None:
        super().__init__(config, server_state, {})
        self._seat = seat
        self._crowd = crowd
        self._patience = patience
        self._alone = settings.tls is None  # no TLS around it, which would enter and leave for both
        self._allowed_names = settings.allowed_names
        self._timer: asyncio.TimerHandle | None = None

    def is_busy(self) -> bool:
        """Say whether an answer is being made or sent."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self._alone:
            self._crowd.enter(self._seat, transport)
        super().connection_made(transport)
        if self._allowed_names and not self._allowed_names & _names_of(transport.get_extra_info("peercert")):
            self._crowd.abort(self._seat)
        self._allow(self._patience.request_seconds)

    def data_received(self, data: bytes) -> None:
        """Take in what came, a piece at a time; nobody here reads bodies, so that one is not even looked at."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self.conn.their_state is h11.SEND_BODY or self.transport.is_closing():
                self.flow.pause_reading()
                return
            self._take_in(data[start : start + _PIECE_BYTES])

    def _take_in(self, data: bytes) -> None:
        was_busy = self.is_busy()
        super().data_received(data)
        if not was_busy and self.is_busy():
            self._crowd.touch(self._seat)
            self._allow(self._patience.answer_seconds)
        elif not was_busy and self._timer is None:
            self._allow(self._patience.request_seconds)

    def handle_events(self) -> None:
        self.server_state.default_headers = [(b"date", _date_of(int(time.time())))]
        super().handle_events()

    def on_response_complete(self) -> None:
        self._stop_timer()
        self._crowd.touch(self._seat)
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # nobody here reads what somebody goes on sending
            self.transport.close()
        if self.is_busy():  # by a request that had been sent ahead
            self._allow(self._patience.answer_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._alone:
            self._crowd.leave(self._seat)
        super().connection_lost(exc)

    def _allow(self, seconds: float) -> None:
        """Give the client so much time from now on."""
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._crowd.abort, self._seat)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the subject alternative names of a client's certificate, addresses in their usual form."""
    found = (certificate or {}).get("subjectAltName", ())
    return frozenset(_address(value) if kind == "IP Address" else value for kind, value in found)


def _address(written: str) -> str:
    """Write an address as people do: OpenSSL says 0:0:0:0:0:0:0:1, and a line's end, for ::1."""
    try:
        return str(ipaddress.ip_address(written.strip()))
    except ValueError:
        return written


class _Tls(SSLProtocol):
    """TLS around HTTP; the event loop has no public way to make this for a connection that it accepts."""

    max_size = (
        _TLS_BUFFER_BYTES  # asyncio's own 256 KiB are for who is sent much; here they were 64 MB for a full house
    )

    def __init__(self, seat: Seat, crowd: Crowd, http: _Http, context: ssl.SSLContext, patience: Patience) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            http,
            context,
            cast("asyncio.Future[Any]", None),
            server_side=True,
            ssl_handshake_timeout=cast("int", patience.handshake_seconds),  # typed too narrowly
            ssl_shutdown_timeout=cast("int", patience.handshake_seconds),
        )
        self._seat = seat
        self._crowd = crowd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._crowd.enter(self._seat, cast("asyncio.Transport", transport))
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._crowd.leave(self._seat)
        super().connection_lost(exc)
