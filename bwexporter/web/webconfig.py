"""The web configuration file, as other exporters have it: TLS, client certificates, passwords, headers, rates.

Turns the file of Prometheus's exporter-toolkit into settings in force, and follows it as it changes, so that
certificates rotate without a restart. Knows: the file's keys, when a file has changed. Does not know: sockets,
requests.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, StrictStr, model_validator

from bwexporter.errors import BwexporterError, ConfigError
from bwexporter.units import parse_duration
from bwexporter.web.allotment import Allotment
from bwexporter.web.passwords import Passwords
from bwexporter.web.tls import CLIENT_AUTH, CURVES, UNVERIFIED, VERSIONS, TlsTerms, context_of
from bwexporter.written import Fault, Flag, Misfit, Text, Written, check, read_whole
from bwexporter.yamlfile import Document, load_yaml

log = logging.getLogger("bwexporter.web")

LOOK_SECONDS = 1.0
MOST_BURST = 1_000_000

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_LINE = re.compile(r"[\x20-\x7e]{1,8192}")


def _one_of(what: str, known: Mapping[str, object] | tuple[str, ...]) -> PlainValidator:
    def read(written: object) -> str:
        if not isinstance(written, str) or written not in known:
            raise ValueError(f"is no {what}; there are {', '.join(known)}")
        return written

    return PlainValidator(read)


def _client_auth(written: object) -> str:
    """Read a kind of client authentication; of those that verify nothing it is said what to write instead."""
    instead = UNVERIFIED.get(written) if isinstance(written, str) else None
    if instead is not None:
        raise ValueError(f"asks for a certificate and verifies nothing, which cannot be had here: {instead}")
    if not isinstance(written, str) or written not in CLIENT_AUTH:
        raise ValueError(f"is no client_auth_type; there are {', '.join(CLIENT_AUTH)}")
    return written


def _header(written: str) -> str:
    if not _LINE.fullmatch(written):
        raise ValueError("must be one line of plain characters")
    return written


class _Tls(Written):
    cert_file: Text | None = None
    key_file: Text | None = None
    cert: StrictStr | None = None
    key: StrictStr | None = None
    client_auth_type: Annotated[str, PlainValidator(_client_auth)] = "NoClientCert"
    client_ca_file: Text | None = None
    client_ca: StrictStr | None = None
    client_allowed_sans: tuple[Text, ...] = ()
    min_version: Annotated[str, _one_of("version of TLS that is safe", VERSIONS)] = "TLS12"
    max_version: Annotated[str, _one_of("version of TLS that is safe", VERSIONS)] = "TLS13"
    cipher_suites: tuple[Text, ...] = ()
    curve_preferences: tuple[Annotated[str, _one_of("curve here", CURVES)], ...] = ()
    prefer_server_cipher_suites: Flag = True

    @model_validator(mode="after")
    def _agree(self) -> _Tls:
        faults = []
        for name in ("cert", "key"):
            inline, file = getattr(self, name), getattr(self, f"{name}_file")
            if (inline is None) == (file is None):
                faults.append(Fault((f"{name}_file",), f"write either {name}_file or {name}"))
        has_authority = self.client_ca_file is not None or self.client_ca is not None
        verify_mode = CLIENT_AUTH[self.client_auth_type]
        verifies = verify_mode is not ssl.CERT_NONE
        if verifies and not has_authority:
            faults.append(Fault(("client_ca_file",), f"is missing: {self.client_auth_type} needs it"))
        if has_authority and not verifies:
            text = "must be RequireAndVerifyClientCert or VerifyClientCertIfGiven where there is a client_ca_file"
            faults.append(Fault(("client_auth_type",), text))
        if self.client_allowed_sans and verify_mode is not ssl.CERT_REQUIRED:
            text = "must be RequireAndVerifyClientCert where there are client_allowed_sans"
            faults.append(Fault(("client_auth_type",), text))
        if self.min_version > self.max_version:
            faults.append(Fault(("min_version",), "is above max_version"))
        if len(self.curve_preferences) > 1:
            faults.append(
                Fault(("curve_preferences",), "name one curve, or leave it out: Python's TLS takes no list of them")
            )
        if faults:
            raise Misfit(faults)
        return self


class _Headers(Written):
    csp: Annotated[StrictStr | None, AfterValidator(_header)] = Field(default=None, alias="Content-Security-Policy")
    frames: Annotated[str | None, _one_of("value of this header", ("deny", "sameorigin"))] = Field(
        default=None, alias="X-Frame-Options"
    )
    kinds: Annotated[str | None, _one_of("value of this header", ("nosniff",))] = Field(
        default=None, alias="X-Content-Type-Options"
    )
    xss: Annotated[StrictStr | None, AfterValidator(_header)] = Field(default=None, alias="X-XSS-Protection")
    hsts: Annotated[StrictStr | None, AfterValidator(_header)] = Field(default=None, alias="Strict-Transport-Security")


class _Server(Written):
    http2: Flag = True  # accepted for the sake of files that have it: HTTP/1.1 is spoken here
    headers: _Headers = _Headers()


def _hash(written: object) -> str:
    """Check a hash without ever showing it."""
    if not isinstance(written, str) or not _HASH.fullmatch(written):
        raise ValueError("is no bcrypt hash; make one with: htpasswd -nBC 10 NAME")
    return written


def _interval(written: object) -> float:
    """Read the time between two requests; 0 is no limit."""
    return 0.0 if written in (0, "0") and not isinstance(written, bool) else parse_duration(written)


def _burst(written: object) -> int:
    return read_whole(written, 1, MOST_BURST)


class _RateLimit(Written):
    interval: Annotated[float, PlainValidator(_interval)] = 0.0
    burst: Annotated[int | None, PlainValidator(_burst)] = None

    @model_validator(mode="after")
    def _agree(self) -> _RateLimit:
        if self.interval and self.burst is None:
            raise Misfit([Fault(("burst",), "is missing: how many requests may come at once, for example 20")])
        return self


class _Keys(Written):
    tls_server_config: _Tls | None = None
    rate_limit: _RateLimit = _RateLimit()
    http_server_config: _Server = _Server()
    basic_auth_users: dict[StrictStr, Annotated[str, PlainValidator(_hash)]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The settings in force."""

    tls: ssl.SSLContext | None = field(default=None, repr=False)
    allowed_names: frozenset[str] = frozenset()  # of client certificates; empty: any
    passwords: Passwords | None = field(default=None, repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    allotment: Allotment | None = field(default=None, repr=False)  # None: any number of requests
    files: tuple[Path, ...] = ()  # that the settings were read from


def load_web_config(path: Path) -> WebConfig:
    """Read and check the file and all it names. ConfigError carries every problem."""
    document, keys = _read(path)
    tls = keys.tls_server_config
    context, files = None, [path]
    if tls is not None:
        terms = _terms(tls, path.parent)
        files += terms.files
        try:
            context = context_of(terms)
        except BwexporterError as error:
            raise ConfigError([document.problem(("tls_server_config",), str(error))]) from error
    written = keys.http_server_config.headers.model_dump(by_alias=True, exclude_none=True)
    limit = keys.rate_limit
    return WebConfig(
        tls=context,
        allowed_names=frozenset(tls.client_allowed_sans) if tls else frozenset(),
        passwords=Passwords(keys.basic_auth_users) if keys.basic_auth_users else None,
        headers=tuple((name.lower().encode(), value.encode()) for name, value in written.items()),
        allotment=Allotment(limit.interval, limit.burst) if limit.interval and limit.burst else None,
        files=tuple(files),
    )


def _read(path: Path) -> tuple[Document, _Keys]:
    document = load_yaml(path)
    keys, faults = check(_Keys, {} if document.data is None else document.data)
    if faults or keys is None:
        raise ConfigError([document.problem(fault.path, fault.text) for fault in faults])
    return document, keys


def own_certificate(path: Path) -> tuple[bool, Path | None]:
    """Say whether TLS is spoken, and where our certificate is, for a client that may not read the key."""
    tls = _read(path)[1].tls_server_config
    return tls is not None, path.parent / tls.cert_file if tls and tls.cert_file else None


def _terms(tls: _Tls, folder: Path) -> TlsTerms:
    def place(file: str | None, inline: str | None) -> Path | str | None:
        return folder / file if file is not None else inline

    return TlsTerms(
        certificate=place(tls.cert_file, tls.cert) or "",
        key=place(tls.key_file, tls.key) or "",
        client_authority=place(tls.client_ca_file, tls.client_ca),
        client_auth_type=tls.client_auth_type,
        min_version=tls.min_version,
        max_version=tls.max_version,
        cipher_suites=tls.cipher_suites,
        curve=tls.curve_preferences[0] if tls.curve_preferences else None,
        prefers_own_order=tls.prefer_server_cipher_suites,
    )


class WebFile:
    """The file as it stands; any thread may ask. A file that cannot be used leaves the last good settings in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._config = load_web_config(path)
        self._seen = _identities(self._config.files)
        self._looked_at = time.monotonic()

    def current(self) -> WebConfig:
        """Return the settings in force; whether files have changed is looked at no more than once a second."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._looked_at = time.monotonic()
                self._follow()
            return self._config

    def _follow(self) -> None:
        seen = _identities(self._config.files)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._config = load_web_config(self._path)
        except ConfigError as refused:
            text = "\n".join(str(problem) for problem in refused.problems)
            log.error("the web configuration was not reloaded, the running one is kept:\n%s", text)  # noqa: TRY400
            return
        self._seen = _identities(self._config.files)
        log.info("the web configuration was read anew")


def _identities(files: tuple[Path, ...]) -> list[tuple[int, ...]]:
    return [_identity(file) for file in files]


def _identity(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
