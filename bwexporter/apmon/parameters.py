"""Parameters: what may be sent, and how it is split.

Turns names and values of a program into packed parameters, each whole or not at all, and into groups that fit a
datagram. Knows: what receivers lose or misread, and so what is refused, cleaned or skipped. Does not know: sockets,
destinations, sequence numbers.

Numbers go as 64-bit floats, exact to 2^53; beyond, the nearest one is sent.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bwexporter.apmon.wire import Code, Parameter, WireError, pack_parameter, pack_place

LONGEST_STRING_BYTES = 32767
LAST_TIMESTAMP = 2**31 - 1
BLANKS = "".join(map(chr, range(33)))
"""What receivers cut off at both ends of a text."""

Pairs = Mapping[str, object] | Iterable[tuple[str, object]]


class Skipped(NamedTuple):
    """A parameter that was not sent, and why."""

    name: str
    why: str


class Cleaned(NamedTuple):
    """What may be sent, packed, and what may not."""

    packed: tuple[bytes, ...]
    skipped: tuple[Skipped, ...]


def clean(parameters: Pairs, *, short_integers: bool = False) -> Cleaned:
    """Pack each parameter; what a receiver would lose, misread or store as nonsense is skipped and named.

    `short_integers` sends whole numbers of 32 bits as such, as the first ApMon did.
    """
    packed, skipped = [], []
    for item in _items(parameters):
        pair = item if isinstance(item, tuple | list) and len(item) == 2 else None
        if pair is None:
            skipped.append(Skipped("", "is no pair of a name and a value"))
            continue
        name = clean_name(pair[0]) if isinstance(pair[0], str) else ""
        try:
            _bytes_of(name)
            packed.append(pack_parameter(_parameter(name, pair[1], short_integers=short_integers)))
        except (WireError, ValueError) as error:
            skipped.append(Skipped(name, str(error)))
    return Cleaned(tuple(packed), tuple(skipped))


def _items(parameters: Pairs) -> Iterable[object]:
    if isinstance(parameters, Mapping):
        return parameters.items()
    return parameters if isinstance(parameters, Iterable) and not isinstance(parameters, str | bytes) else (None,)


def clean_name(name: str) -> str:
    """Return a name as it is stored: series are keyed by names with slashes between, so there is none inside."""
    return name.strip(BLANKS).replace("/", "_")


def clean_place(cluster: str, node: str) -> bytes:
    """Pack a cluster and a node; ValueError where one is empty or too long."""
    names = []
    for what, name in (("cluster", cluster), ("node", node)):
        cleaned = clean_name(name) if isinstance(name, str) else ""
        if not cleaned or _bytes_of(cleaned) > LONGEST_STRING_BYTES:
            raise ValueError(f"the {what} must be text of 1 to {LONGEST_STRING_BYTES} bytes")
        names.append(cleaned.replace("#", "_", 1) if what == "node" and cleaned.startswith("#acc_") else cleaned)
    return pack_place(*names)


def clean_timestamp(timestamp: float | None) -> int | None:
    """Return whole seconds, None for none (also 0 and below); ValueError beyond what 32 bits hold, 2038-01-19."""
    if timestamp is None:
        return None
    if isinstance(timestamp, str | bytes) or not isinstance(timestamp, numbers.Real) or not timestamp <= LAST_TIMESTAMP:
        raise ValueError("a timestamp is a number of Unix seconds until 2038-01-19, or None")
    return int(timestamp) if timestamp >= 1 else None


def _parameter(name: str, value: object, *, short_integers: bool) -> Parameter:
    if not name:
        raise ValueError("has no name")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return Parameter(name, Code.STRING, _string(value))
    if not isinstance(value, numbers.Real):
        raise ValueError(f"is {type(value).__name__}, neither a number nor text")  # noqa: TRY004 - one kind
    if short_integers and isinstance(value, int) and -(2**31) <= value < 2**31:
        return Parameter(name, Code.INT32, int(value))
    return Parameter(name, Code.FLOAT64, _finite(value))


def _string(value: str) -> str:
    text = value.strip(BLANKS)
    if not text:
        raise ValueError("is empty text")
    if _bytes_of(text) > LONGEST_STRING_BYTES:
        raise ValueError(f"is text of more than {LONGEST_STRING_BYTES} bytes")
    return text


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("holds half a character, which is no text") from None


def _finite(value: numbers.Real) -> float:
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def split(packed: Sequence[bytes], room_bytes: int) -> Iterator[Sequence[bytes]]:
    """Yield groups of at most so many bytes, in their order; one that is larger by itself is in none."""
    group: list[bytes] = []
    used = 0
    for one in packed:
        if len(one) > room_bytes:
            continue
        if used + len(one) > room_bytes:
            yield group
            group, used = [], 0
        group.append(one)
        used += len(one)
    if group:
        yield group
