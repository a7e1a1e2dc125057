"""Where slices come from, as the configuration says it: the keys `file`, `http` and `plc`.

Turns one item of the list `slices` into a frozen value with its paths resolved. Knows: what each kind of source takes,
and which URLs may be asked. Does not know: how any of them is asked, what it answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, ConfigDict, model_validator

from bwexporter.fetch import shown_url
from bwexporter.units import shown
from bwexporter.written import MISSING, Duration, Fault, Flag, MaybeDuration, Misfit, Text, Volume, Written

_TEN_MINUTES = 600.0
_MOST_SECONDS = 30.0
_LARGEST_BYTES = 16 << 20
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class FileAt:
    """A file of slices."""

    path: Path

    @property
    def name(self) -> str:
        """Return what the source is called in problems and metrics."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Polling:
    """How a server is asked."""

    url: str
    every_seconds: float
    timeout_seconds: float
    largest_bytes: int
    ca_file: Path | None  # None: the certificate authorities of the system's list
    guard: bool  # an answer that drops more than half of the slices is believed only when it comes twice


@dataclass(frozen=True, slots=True)
class HttpAt:
    """A list of slices at a URL."""

    polling: Polling
    token_file: Path | None
    user: str | None
    password_file: Path | None

    @property
    def name(self) -> str:
        """Return what the source is called in problems and metrics: the URL without what may be secret in it."""
        return shown_url(self.polling.url)


@dataclass(frozen=True, slots=True)
class PlcAt:
    """A PlanetLab Central."""

    polling: Polling
    auth_file: Path | None  # None: anonymous
    node: str
    exempt_group: str
    slice_prefix: str
    fleet: bool = False  # it is asked for the names of all nodes as well

    @property
    def name(self) -> str:
        """Return what the source is called in problems and metrics: the URL without what may be secret in it."""
        return shown_url(self.polling.url)


SourceAt = FileAt | HttpAt | PlcAt


def _split(written: str) -> SplitResult:
    """Take a URL apart; ValueError for people, which shows nothing that may be secret."""
    try:
        parts = urlsplit(written)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not written.isascii() or any(character <= " " for character in written):
        raise ValueError("is not a URL; write for example https://slices.example.org/node1.json")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or a password; put them into the files that the other keys name")
    return parts


def _https_url(written: str) -> str:
    parts = _split(written)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _THIS_MACHINE):
        raise ValueError(f"begins with {shown(parts.scheme)}; only https is asked, and http on this machine itself")
    return written


def _plc_url(written: str) -> str:
    parts = _split(written)
    if parts.scheme not in {"https", "http"}:
        raise ValueError(f"begins with {shown(parts.scheme)}; write https://plc.example.org/PLCAPI/")
    return written


class _PolledKeys(Written):
    every: Duration = _TEN_MINUTES
    timeout: MaybeDuration = None
    largest: Volume = _LARGEST_BYTES
    ca_file: Text | None = None
    guard: Flag = True

    @model_validator(mode="after")
    def _ends_before_it_begins_again(self) -> _PolledKeys:
        if self.timeout is not None and self.timeout > self.every:
            raise Misfit([Fault(("timeout",), "is longer than the time between two polls, the key every")])
        if self.every < 1:
            raise Misfit([Fault(("every",), "is less than 1s; no server is to be asked that often")])
        return self


class _HttpKeys(_PolledKeys):
    url: Annotated[Text, AfterValidator(_https_url)]
    token_file: Text | None = None
    user: Text | None = None
    password_file: Text | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> _HttpKeys:
        if (self.user is None) != (self.password_file is None):
            raise Misfit([Fault(("user",) if self.user else ("password_file",), "needs both user and password_file")])
        if self.user is not None and self.token_file is not None:
            raise Misfit([Fault(("token_file",), "is one way in and user another; leave one of them out")])
        if self.user is not None and ":" in self.user:
            raise Misfit([Fault(("user",), "holds a colon, which basic authentication cannot carry")])
        return self


class _PlcKeys(_PolledKeys):
    url: Annotated[Text, AfterValidator(_plc_url)]
    auth_file: Text | None = None
    node: Text | None = None
    exempt_group: Text = "Internet2"
    slice_prefix: Text = "pl"
    fleet: Flag = False


class SourceKeys(Written):
    """One item of the list `slices`: one of the three keys."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    file: Text | None = None
    http: _HttpKeys | None = None
    plc: _PlcKeys | None = None

    @property
    def named(self) -> str | None:
        """Return what no other source may be called."""
        polled = self.http or self.plc
        return shown_url(polled.url) if polled else self.file

    def at(self, folder: Path, node: str) -> SourceAt:
        """Return the source, with paths that count from a folder."""
        if self.http:
            keys = self.http
            token, password = (folder / name if name else None for name in (keys.token_file, keys.password_file))
            return HttpAt(_polling(keys, keys.url, folder), token, keys.user, password)
        if self.plc:
            auth = folder / self.plc.auth_file if self.plc.auth_file else None
            return PlcAt(
                _polling(self.plc, self.plc.url, folder),
                auth,
                self.plc.node or node,
                self.plc.exempt_group,
                self.plc.slice_prefix,
                self.plc.fleet,
            )
        return FileAt(folder / (self.file or ""))


def _polling(keys: _PolledKeys, url: str, folder: Path) -> Polling:
    ca_file = folder / keys.ca_file if keys.ca_file else None
    timeout = keys.timeout or min(_MOST_SECONDS, keys.every)
    return Polling(url, keys.every, timeout, keys.largest, ca_file, keys.guard)


def all_different(sources: tuple[SourceKeys, ...]) -> tuple[SourceKeys, ...]:
    """Check that each item is one source, and none stands there twice."""
    faults = list(_miswritten(sources))
    if faults:
        raise Misfit(faults)
    return sources


def _miswritten(sources: Sequence[SourceKeys]) -> Iterator[Fault]:
    names: list[str | None] = []
    for at, source in enumerate(sources):
        given = [key for key in SourceKeys.model_fields if getattr(source, key) is not None]
        if not given:
            yield Fault((at, "file"), MISSING)
        elif len(given) > 1:
            yield Fault((at, given[1]), f"stands beside {given[0]}; give each source an item of its own")
        elif source.named in names:
            yield Fault((at, given[0]), f"{source.named} stands in the list already")
        names.append(source.named)


def in_the_open(at: SourceAt) -> str:
    """Say what others on the way may do with a source's answers; empty where nothing."""
    if isinstance(at, PlcAt) and urlsplit(at.polling.url).scheme == "http":
        return f"{at.name} is asked over http: whoever is on the way can read the password and change the answer"
    return ""
