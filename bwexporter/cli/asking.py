"""Asking a running bwexporter, over its API.

Turns a place into an answer. Knows: how a program of this machine or another is reached, with which credentials, and
how an unreachable one is said to people. Does not know: what an answer means.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bwexporter.config import Config, load_config
from bwexporter.errors import BwexporterError
from bwexporter.keys import Listen

TIMEOUT_SECONDS = 5.0
USER, PASSWORD_FILE = "BWEXPORTER_USER", "BWEXPORTER_PASSWORD_FILE"
CA_FILE, CERT_FILE, KEY_FILE = "BWEXPORTER_CA_FILE", "BWEXPORTER_CERT_FILE", "BWEXPORTER_KEY_FILE"
"""The environment's variables that say who asks, and whom to trust."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bwexporter answers: a URL, the certificate that it is known to have, a Unix socket."""

    url: str
    trusted: Path | None = None
    socket_path: str = ""

    def __str__(self) -> str:
        """Return it for people, without a user and a password."""
        if self.socket_path:
            return f"unix:{self.socket_path}"
        scheme, slashes, rest = self.url.partition("//")
        host, slash, path = rest.partition("/")
        return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def url_of(config_path: Path) -> Place:
    """Return where the bwexporter of a configuration answers; an address for everybody is asked on loopback."""
    config = load_config(config_path)
    listen = next((one for one in config.listen if not one.path), config.listen[0])
    if listen.path:
        return Place("http://localhost", socket_path=listen.path)
    return _local(config, listen)


def _local(config: Config, listen: Listen) -> Place:
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - read only
    there = f"[{host}]:{listen.port}" if ":" in host else f"{host}:{listen.port}"
    if config.web.config_file is None:
        return Place(f"http://{there}")
    from bwexporter.web.webconfig import own_certificate  # noqa: PLC0415 - rarely needed

    speaks_tls, certificate = own_certificate(config.web.config_file)
    return Place(f"https://{there}" if speaks_tls else f"http://{there}", trusted=certificate)


def slices(place: Place | str) -> dict[str, Any]:
    """Return the answer of /api/v1/slices; BwexporterError where there is none."""
    return answer(place, "/api/v1/slices", "slices")


def stopped(place: Place | str) -> str:
    """Return the sentence in which the program says that its turns have stopped; nothing where they run.

    It knows by its own clock: an answer's `taken_at` is another machine's, or one from before a step.
    """
    place = Place(place) if isinstance(place, str) else place
    try:
        status, _, body = _asked(place, "/-/ready")
    except (OSError, HTTPException):  # it has just answered: what became of it is said by the next question
        return ""
    return body.decode(errors="replace").strip() if status == 503 else ""


def answer(place: Place | str, question: str, key: str) -> dict[str, Any]:
    """Return the answer to a question of the API, which has that key; BwexporterError where there is none.

    The operator's proxy for the outside is not asked: it must not swallow a question to this machine.
    """
    place = Place(place) if isinstance(place, str) else place
    try:
        status, reason, body = _asked(place, question)
        found = json.loads(body) if status == 200 else None
    except ssl.SSLCertVerificationError as error:
        text = f"{place}: its certificate is not trusted: {error.verify_message}; name the authority in {CA_FILE}"
        raise BwexporterError(text) from error
    except (OSError, ValueError, HTTPException) as error:
        raise BwexporterError(f"no bwexporter answers at {place} ({_reason(error)}); is it running?") from error
    if status == 503:
        raise BwexporterError(f"the bwexporter at {place} has not ended its first turn; ask again")
    if status == 401:
        raise BwexporterError(f"{place} asks for a password: set {USER} and {PASSWORD_FILE}, the name of a file")
    if status != 200:
        raise BwexporterError(f"{place} answers {status} {reason}; is it a bwexporter?")
    if not isinstance(found, dict) or key not in found:
        raise BwexporterError(f"{place} answers something else; is it a bwexporter?")
    return found


def _asked(place: Place, question: str) -> tuple[int, str, bytes]:
    connection = _connection(place)
    try:
        path = urlsplit(place.url).path.rstrip("/")
        connection.request("GET", f"{path}{question}", headers=_credentials())
        response: HTTPResponse = connection.getresponse()
        return response.status, response.reason, response.read()
    finally:
        connection.close()


def _connection(place: Place) -> HTTPConnection:
    parts = urlsplit(place.url)
    if place.socket_path:
        return _UnixConnection(place.socket_path)
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    return HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS, context=_context(place))


def _context(place: Place) -> ssl.SSLContext:
    """Trust the authorities of this machine, or those that are named; on this machine, the very certificate."""
    context = ssl.create_default_context(cafile=os.environ.get(CA_FILE))
    if place.trusted is not None and CA_FILE not in os.environ:
        context.load_verify_locations(place.trusted)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False  # it is known by itself, not by its name
    if certificate := os.environ.get(CERT_FILE):
        context.load_cert_chain(certificate, os.environ.get(KEY_FILE))
    return context


class _UnixConnection(HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def _credentials() -> dict[str, str]:
    user, file = os.environ.get(USER), os.environ.get(PASSWORD_FILE)
    if not user or not file:
        return {}
    try:
        password = Path(file).read_text().rstrip("\n")
    except OSError as error:
        raise BwexporterError(f"the file of {PASSWORD_FILE} cannot be read: {error.strerror}") from error
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or str(reason).strip() or type(reason).__name__
