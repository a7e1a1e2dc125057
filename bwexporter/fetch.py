"""Fetching a small file from a web server, within limits.

Turns a URL into bytes, or into one sentence that says why not. Knows: HTTP (through httpx), how much and how long.
Does not know: what the bytes mean, when to ask again.

Certificates are verified. A redirect stays with the URL's scheme and host, so that no secret and no trust go elsewhere;
where the caller allows other hosts, https alone leads there, and httpx leaves the authorization behind.
The time is that of the whole answer: a server that sends a byte now and then does not hold the caller up.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bwexporter.errors import BwexporterError
from bwexporter.regular import held_regular

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 1 << 20
MOST_SECONDS = 10.0
MOST_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; `unchanged` only where the caller's headers asked whether it is (status 304)."""

    body: bytes
    headers: Mapping[str, str]
    unchanged: bool = False


class FetchError(BwexporterError):
    """There is no answer that can be used."""


def shown_url(url: str) -> str:
    """Return a URL as it may be shown: without a user, a password, a query.

    >>> shown_url("https://me:secret@example.org:444/apmon.conf?key=1")
    'https://example.org:444/apmon.conf'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    ca_file: Path | None = None,
    context: ssl.SSLContext | None = None,
    other_hosts: bool = False,
    most_bytes: int = MOST_BYTES,
    seconds: float = MOST_SECONDS,
) -> Answer:
    """Return what a server answers with status 200; FetchError says in one sentence what it did instead.

    `content` is posted. Where `ca_file` is given, the certificates in it are trusted and no others; a `context` says
    whatever else there is to TLS.
    """
    import httpx  # noqa: PLC0415 - rarely needed, and 0.1 s to load

    deadline = time.monotonic() + seconds
    named = ca_file or os.environ.get("SSL_CERT_FILE")
    verify = context or (trusted(Path(named)) if named else True)
    with _cut_off(seconds) as seen, httpx.Client(verify=verify, timeout=seconds) as client:
        try:
            method = "GET" if content is None else "POST"
            request = client.build_request(method, url, headers=headers, content=content, extensions={"trace": seen})
            return _body(client, request, most_bytes, deadline, other_hosts=other_hosts)
        except httpx.TimeoutException:
            raise FetchError(f"{shown_url(url)} did not answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if time.monotonic() >= deadline:
                raise FetchError(f"{shown_url(url)} did not answer within {seconds:g} s") from None
            raise FetchError(f"{shown_url(url)} cannot be fetched: {_reason(error)}") from None


def trusted(ca_file: Path) -> ssl.SSLContext:
    """Return a context that trusts the certificates in a file alone; FetchError."""
    try:
        with held_regular(ca_file) as certificates:
            return ssl.create_default_context(cafile=certificates)
    except (OSError, ssl.SSLError) as error:
        reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise FetchError(f"the file of certificates {ca_file} cannot be used: {reason}") from None


def _body(
    client: httpx.Client, request: httpx.Request, most_bytes: int, deadline: float, *, other_hosts: bool
) -> Answer:
    """Send a request, following redirects that go where they may, and read the answer."""
    first = request.url
    for _ in range(MOST_REDIRECTS + 1):
        response = client.send(request, stream=True)
        try:
            if response.next_request is None:
                return _read(response, most_bytes, deadline)
            following = response.next_request
        finally:
            response.close()
        stays = (following.url.scheme, following.url.host) == (first.scheme, first.host)
        if not stays and not (other_hosts and first.scheme == following.url.scheme == "https"):
            raise ValueError("it redirects to another scheme or host")
        if following.method != request.method:
            raise ValueError("it redirects what is sent to where it is not taken")
        following.extensions["trace"] = request.extensions["trace"]
        request = following
    raise ValueError("it redirects again and again")


def _read(response: httpx.Response, most_bytes: int, deadline: float) -> Answer:
    conditions = {"if-none-match", "if-modified-since"}
    if response.status_code == HTTPStatus.NOT_MODIFIED and conditions & response.request.headers.keys():
        return Answer(b"", response.headers, unchanged=True)
    if response.status_code != HTTPStatus.OK:
        raise ValueError(f"it answers {response.status_code} {response.reason_phrase}".rstrip())
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > most_bytes:
            raise ValueError(f"it is larger than {most_bytes} bytes")
        if time.monotonic() > deadline:
            raise ValueError("it is too slow")
    return Answer(bytes(body), response.headers)


@contextmanager
def _cut_off(seconds: float) -> Iterator[Any]:
    """Give a trace that learns of connections, which are cut when the time is over."""
    sockets: list[socket.socket] = []

    def seen(event: str, info: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            sockets.append(info["return_value"].get_extra_info("socket"))

    def cut() -> None:
        for connection in sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield seen
    finally:
        timer.cancel()


def _reason(error: Exception) -> str:
    """Return the words of an error; those of the library may repeat a URL, so only its kind is said where it does."""
    text = str(error)
    return type(error).__name__ if not text or "://" in text else text
