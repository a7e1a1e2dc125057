"""Datagrams as plain data: the JSON of `apmon decode` and `apmon encode`, and text for people.

Turns a datagram into an object of JSON and back without loss, and into lines that are safe to print. Knows: the keys,
how numbers that JSON lacks are written, which part of a header is a password. Does not know: bytes, sockets.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from bwexporter.apmon.wire import Code, Datagram, Parameter, WireError
from bwexporter.units import shown

KEYS = ("header", "instance_id", "sequence", "cluster", "node", "parameters", "timestamp")
_BITS = {
    "NaN": "fff8000000000000",  # as x86 makes it, and so every sender that sends one
    "+NaN": "7ff8000000000000",
    "Infinity": "7ff0000000000000",
    "-Infinity": "fff0000000000000",
}
_WORDS = {bits: word for word, bits in _BITS.items()}
_OTHER_NAN = re.compile(r"NaN\(([0-9a-f]{16})\)")


def to_plain(datagram: Datagram) -> dict[str, Any]:
    """Return the datagram as JSON holds it, the password of its header included."""
    return {
        "header": datagram.header,
        "instance_id": datagram.instance_id,
        "sequence": datagram.sequence,
        "cluster": datagram.cluster,
        "node": datagram.node,
        "parameters": [[name, int(code), _plain_value(value)] for name, code, value in datagram.parameters],
        "timestamp": datagram.timestamp,
    }


def _plain_value(value: float | str) -> int | float | str:
    """Write numbers that JSON lacks as text; a NaN of other bits than usual with its bits, so that none is lost."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    bits = struct.pack(">d", value).hex()
    return _WORDS.get(bits, f"NaN({bits})")


def from_plain(data: object) -> Datagram:
    """Return the datagram that plain data says; WireError names the key that is wrong."""
    if not isinstance(data, dict):
        raise WireError("a datagram is a JSON object with the keys " + ", ".join(KEYS))
    unknown = [key for key in data if key not in KEYS]
    missing = [key for key in KEYS[:-1] if key not in data]
    if unknown or missing:
        wrong = f"{shown(unknown[0])} is not a key" if unknown else f"{missing[0]} is missing"
        raise WireError(f"{wrong}; a datagram has the keys {', '.join(KEYS)}")
    written = data["parameters"]
    if not isinstance(written, list):
        raise WireError("parameters must be a list of [name, type code, value]")
    return Datagram(
        header=_text(data, "header"),
        instance_id=_whole(data, "instance_id"),
        sequence=_whole(data, "sequence"),
        cluster=_text(data, "cluster"),
        node=_text(data, "node"),
        parameters=tuple(_parameter(at, item) for at, item in enumerate(written)),
        timestamp=None if data.get("timestamp") is None else _whole(data, "timestamp"),
    )


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise WireError(f"{key} must be text")
    return value


def _whole(data: Mapping[str, Any], key: str) -> int:
    value = data[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise WireError(f"{key} is {shown(value)} and must be a whole number")
    return value


def _parameter(at: int, item: object) -> Parameter:
    place = f"parameters[{at}]"
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str):
        raise WireError(f"{place} must be [name, type code, value]")
    name, number, value = item
    if isinstance(number, bool) or number not in list(Code):
        raise WireError(f"{place}: there is no type code {shown(number)}; codes are 0 to 5")
    code = Code(number)
    if code in (Code.FLOAT32, Code.FLOAT64):
        return Parameter(name, code, _float(place, value))
    if isinstance(value, bool) or not isinstance(value, str if code is Code.STRING else int):
        raise WireError(f"{place}: {shown(value)} is not a value of type code {int(code)}")
    return Parameter(name, code, value)


def _float(place: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    if isinstance(value, str):
        other = _OTHER_NAN.fullmatch(value)
        bits = other[1] if other else _BITS.get(value)
        if bits:
            (number,) = struct.unpack(">d", bytes.fromhex(bits))
            return float(number)
    raise WireError(f"{place}: {shown(value)} is not a number; NaN, Infinity and -Infinity are written in quotes")


def masked_header(header: str) -> str:
    """Return a header with stars for its password; one that is no `v:...p:...` is hidden whole."""
    version, mark, password = header.partition("p:")
    if not header.startswith("v:") or not mark:
        return "***" if header else ""
    return f"{version}{mark}{'***' if password else ''}"


def lines(datagram: Datagram, *, length: int, show_password: bool) -> Iterator[str]:
    """Yield the datagram for people, one line each, safe for a terminal whatever it holds."""
    header = datagram.header if show_password else masked_header(datagram.header)
    yield f"datagram    {length} bytes"
    yield f"header      {printable(header)}"
    yield f"instance    {datagram.instance_id}"
    yield f"sequence    {datagram.sequence}"
    yield f"cluster     {printable(datagram.cluster)}"
    yield f"node        {printable(datagram.node)}"
    yield f"time        {_time(datagram.timestamp)}"
    yield f"parameters  {len(datagram.parameters)}"
    for name, code, value in datagram.parameters:
        said = printable(value) if isinstance(value, str) else repr(value)
        yield f"  {printable(name):<24} {Code(code).name.lower():<8} {said}"


def _time(timestamp: int | None) -> str:
    if timestamp is None:
        return "none; the receiver takes the time of arrival"
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S} UTC ({timestamp})"


def printable(text: str) -> str:
    """Return text with what a terminal might obey as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
