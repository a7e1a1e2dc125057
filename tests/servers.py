"""Real servers on loopback for what asks servers: HTTPS with a certificate made for the test, and PLCAPI's XML-RPC.

A server answers as it is told to, honestly or at fault, and writes down what it was asked.
"""

from __future__ import annotations

import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Says:
    """One answer, and what goes wrong with it."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, after which the connection is closed
    trickle_seconds: float = 0.0  # between single bytes

    @property
    def half(self) -> Says:
        """Return this answer, torn in its middle."""
        return Says(self.body, self.status, self.headers, cut_after=len(self.body) // 2)


class Server:
    """A server whose answer is a function of what it is asked."""

    def __init__(self, answer: Callable[[Asked], Says]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""

    @contextmanager
    def running(self, tls: trustme.LeafCert | None = None) -> Iterator[Server]:
        """Serve while the context lasts."""
        serving = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = Asked(self.command, self.path, {key.lower(): text for key, text in self.headers.items()}, body)
                serving.asked.append(asked)
                with suppress(OSError):
                    _give(self, serving.answer(asked))

            do_POST = do_GET  # noqa: N815 - as the library asks for it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            server.block_on_close = False
            if tls:
                server.socket = _context(tls).wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
            self.url = f"{'https' if tls else 'http'}://localhost:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def _context(tls: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.configure_cert(context)
    return context


def _give(handler: BaseHTTPRequestHandler, says: Says) -> None:
    handler.send_response(says.status)
    for name, text in says.headers.items():
        handler.send_header(name, text)
    handler.send_header("content-length", str(len(says.body)))
    handler.end_headers()
    body = says.body[: says.cut_after]
    for at in range(len(body)) if says.trickle_seconds else ():
        handler.wfile.write(body[at : at + 1])
        time.sleep(says.trickle_seconds)
    handler.wfile.write(b"" if says.trickle_seconds else body)
    if says.cut_after is not None:
        handler.close_connection = True


class Certificates:
    """An authority of the test's own, and what it has signed."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.here = authority.issue_cert("localhost")
        self.elsewhere = authority.issue_cert("elsewhere.example.org")
        self.of_nobody = trustme.CA().issue_cert("localhost")


class Plc:
    """A PlanetLab Central with one node: its calls, by name, as they are answered."""

    def __init__(self, **slivers: Any) -> None:
        self.data: dict[str, Any] = {
            "timestamp": 1_700_000_000,
            "node_id": 7,
            "hostname": "node1.example.org",
            "groups": [],
            "interfaces": [],
            "slivers": [],
            "accounts": [{"name": "root", "keys": ["ssh-rsa AAAA"]}],
            "xmpp": {"password": "of the site"},
            **slivers,
        }
        self.nodes: list[dict[str, str]] = []
        self.members: dict[str, list[str]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fault: xmlrpc.client.Fault | None = None

    def answer(self, asked: Asked) -> Says:
        """Answer one call."""
        arguments, method = xmlrpc.client.loads(asked.body)
        self.calls.append((str(method), arguments))
        body = xmlrpc.client.dumps(
            self.fault or (self._value(str(method), arguments),), methodresponse=True, allow_none=True
        )
        return Says(body.encode(), headers={"content-type": "text/xml"})

    def _value(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "GetSlivers":
            return self.data
        if method == "GetNodes":
            return self.nodes
        if method == "GetNodeGroups":
            return [{"node_ids": [at for at, _ in enumerate(self.members[name])]} for name in arguments[1]]
        (group,) = self.members.values()
        return [{"ip": group[number]} for number in arguments[1]["node_id"]]


def sliver(name: str, *attributes: tuple[str, object] | Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Return a sliver as GetSlivers gives it; an attribute is a pair, or a struct with more than that."""
    return {
        "name": name,
        "slice_id": 1,
        "instantiation": "plc-instantiated",
        "expires": 1_900_000_000,
        "keys": [],
        "attributes": [
            {"tagname": one[0], "value": one[1]} if isinstance(one, tuple) else dict(one) for one in attributes
        ],
        **given,
    }
