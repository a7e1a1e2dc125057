"""A web server with settable facts, asked over real sockets of the loopback.

Turns facts into a running server. Knows: how the daemon hands its questions to the app. Does not know: what is asked.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from starlette.applications import Starlette

from bwexporter.core.report import Report
from bwexporter.metrics.rendered import Piece, Rendered
from bwexporter.state import State
from bwexporter.web.app import Options, build_app
from bwexporter.web.patience import Patience
from bwexporter.web.server import Server
from tests.waiting import PATIENCE_SECONDS

TEXT = b'bwexporter_up 1\nbwexporter_frozen{a="\xc3\xa9"} 0\n'


def rendered(text: bytes = TEXT) -> Rendered:
    """Return an exposition of this text."""
    return Rendered([Piece("bwexporter_up", b"", b"", [text])])


@dataclass
class Facts:
    """What the daemon tells the web: settable, with a real state file and no turn."""

    state: State
    rendered: Rendered = field(default_factory=rendered)
    report: Report | None = None
    readiness: tuple[bool, str] = (True, "turns run")
    options: Options = field(default_factory=Options)


def app_of(facts: Facts) -> Starlette:
    """Build the app as the daemon does."""
    return build_app(
        exposition=lambda: facts.rendered,
        last_report=lambda: facts.report,
        ready=lambda: facts.readiness,
        store=facts.state,
        options=facts.options,
    )


@contextmanager
def serving(facts: Facts, listening: socket.socket, *, patience: Patience | None = None) -> Iterator[str]:
    """Serve the facts on the socket and give its address."""
    host, port, *_ = listening.getsockname()
    server = Server(app_of(facts), [listening], patience=patience)
    server.start()
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.stop(PATIENCE_SECONDS)


@contextmanager
def asking(url: str, **options: object) -> Iterator[httpx.Client]:
    """Give a client of a server that ignores the proxies of this machine."""
    with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False, **options) as client:  # type: ignore[arg-type]
        yield client


def connect(url: str) -> socket.socket:
    """Open a bare connection to a server."""
    parts = httpx.URL(url)
    return socket.create_connection((parts.host, parts.port or 0), timeout=PATIENCE_SECONDS)
