"""Destinations: where datagrams go, as files and programs name them.

Turns the text of a configuration file, or `host:port password`, into destinations with their options and a list of what
is wrong. Knows: the two kinds of lines, strict and lenient reading. Does not know: where the text comes from, what is
sent, how a name becomes an address.

Strict reading refuses what the ApMon family reads in different ways; lenient reading takes old files as they are and
says what it made of them. No text of a problem holds any part of a destination's line: there may be a password in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bwexporter.apmon.options import ForAll, OptionError, Options, apply, from_mapping
from bwexporter.errors import BwexporterError, Problem

DEFAULT_PORT = 8884
LONGEST_PASSWORD_BYTES = 255
NO_OPTIONS, SAID_NOTHING = Options(), ForAll()

_OPTION = re.compile(r"xApMon_(\w*)\s*(?:=\s*(.*))?")
_HOST = re.compile(r"(?=.{1,253}$)[^\W_](?:[\w-]{0,61}\w)?(?:\.[^\W_](?:[\w-]{0,61}\w)?)*\.?")


class DestinationError(BwexporterError, ValueError):
    """What was given is no destination; the text does not repeat it."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One receiver; two ports of one host are two. The password is never shown."""

    host: str
    port: int = DEFAULT_PORT
    password: str = field(default="", repr=False)
    options: Options = NO_OPTIONS

    def __post_init__(self) -> None:
        """Refuse what cannot be one, and trim the password as every receiver does."""
        host = self.host.removeprefix("[").removesuffix("]")
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise DestinationError("the host is neither a name nor an address")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise DestinationError("the port is not a number from 1 to 65535")
        password = self.password.strip()
        if len(password.encode("utf-8", "replace")) > LONGEST_PASSWORD_BYTES or not password.isprintable():
            raise DestinationError("the password is longer than 255 bytes or holds a control character")
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "password", password)

    @property
    def name(self) -> str:
        """Return host:port, the only thing that is ever shown of it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Setup:
    """All that one source says."""

    destinations: tuple[Destination, ...] = ()
    for_all: ForAll = SAID_NOTHING


class Reading(NamedTuple):
    """What a text says, and what is wrong with it."""

    setup: Setup
    problems: tuple[Problem, ...]  # what keeps the text from being used
    warnings: tuple[Problem, ...]


def read_text(text: str, *, name: str, lenient: bool = False) -> Reading:
    """Read a whole configuration file; `name` stands in the problems. Lenient reading has warnings only."""
    options, for_all = Options(), ForAll()
    found: list[Destination] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for number, line in _lines(text):
        option = _OPTION.fullmatch(line)
        try:
            if option is not None:
                options, for_all = _read_option(option, options, for_all)
                continue
            destination, remark = _read_line(line, lenient=lenient)
        except (OptionError, DestinationError) as error:
            what = "this option is left out" if option is not None else "this destination is left out"
            text_of = f"{error}; {what}" if lenient else str(error)
            (warnings if lenient else problems).append(Problem(name, number, option[1] if option else "", text_of))
            continue
        if remark:
            warnings.append(Problem(name, number, "", remark))
        _add(found, destination, warnings, Problem(name, number, "", f"{destination.name} stands there already"))
    destinations = tuple(
        Destination(one.host, one.port, one.password, options) for one in found
    )  # options hold for all, wherever they stand
    return Reading(Setup(destinations, for_all), tuple(problems), tuple(warnings))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _read_option(option: re.Match[str], options: Options, for_all: ForAll) -> tuple[Options, ForAll]:
    name, value = option[1], (option[2] or "").strip()
    if not value:
        raise OptionError(f"{name} has no value; write for example xApMon_{name} = on")
    return apply(name, value, options, for_all)


def _read_line(line: str, *, lenient: bool) -> tuple[Destination, str]:
    """Read `host[:port][ password]`, and say what lenient reading made of it."""
    place, _, rest = line.replace("\t", " ").partition(" ")
    password, remark = rest.strip(), ""
    if lenient and re.match(r":[0-9]+( |$)", password):
        port, _, password = password.partition(" ")
        place, password = place + port, password.strip()
        remark = "there is a blank before the port"
    if lenient and " " in password:
        password = password.split(" ")[0]
        remark = "only the first word behind the place is taken as the password"
    if not lenient and (password.startswith("#") or " #" in password):
        raise DestinationError(
            "a # behind a destination would be sent as a part of its password; use a line of its own"
        )
    if not lenient and re.match(r":[0-9]+( |$)", password):
        raise DestinationError("there is a blank between the host and its port")
    host, port_number = split_place(place)
    return Destination(host, port_number, password), remark


def split_place(place: str) -> tuple[str, int]:
    """Read `host`, `host:port`, `[address]:port` or a bare address.

    >>> split_place("[::1]:8885"), split_place("::1"), split_place("mona.example.org")
    (('::1', 8885), ('::1', 8884), ('mona.example.org', 8884))
    """
    if _is_address(place):
        return place, DEFAULT_PORT
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", place, re.ASCII)
    if match is None:
        raise DestinationError("not host, host:port or [address]:port, with a port from 1 to 65535")
    host = match[1] if match[1] is not None else match[2]
    return host, int(match[3]) if match[3] else DEFAULT_PORT


def _add(found: list[Destination], one: Destination, warnings: list[Problem], again: Problem) -> None:
    if any(one.name == other.name for other in found):
        warnings.append(again)
    else:
        found.append(one)


def from_program(given: Sequence[str] | Mapping[str, object]) -> Setup:
    """Return the destinations that a program gives: `host:port password`, or such with options; DestinationError."""
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        raise DestinationError("destinations are a tuple of texts, or a dictionary of texts and options")
    pairs = [(text, None) for text in given] if not isinstance(given, Mapping) else list(given.items())
    found: dict[str, Destination] = {}
    for_all = ForAll(conf_recheck=False)
    for text, written in pairs:
        if not isinstance(text, str):
            raise DestinationError("a destination is text, as mona.example.org:8884")
        destination, _ = _read_line(text.strip(), lenient=False)
        options, said = Options(), ForAll(conf_recheck=False)
        if isinstance(written, Mapping):
            options, said = from_mapping(written)
        found.setdefault(
            destination.name, Destination(destination.host, destination.port, destination.password, options)
        )
        for_all = ForAll(
            said.loglevel or for_all.loglevel,
            said.rate or for_all.rate,
            said.message_bytes or for_all.message_bytes,
            conf_recheck=False,
        )
    return Setup(tuple(found.values()), for_all)
