"""What a MonALISA service makes of a datagram: the oracle of the ApMon tests.

Turns bytes into what would be stored, with every oddity that receiver-cases.jsonl records of the real one. It shares no
code with the product, and test_apmon_wire.py holds it against every verdict of the real receiver.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

LONGEST_STRING = 32767
JAVA_BLANKS = "".join(map(chr, range(0x21)))  # what String.trim cuts off


class Discarded(Exception):
    """The receiver drops the datagram."""


@dataclass(frozen=True)
class Stored:
    """What ends up in the database; time None is the time of arrival."""

    cluster: str
    node: str
    time: int | None
    values: tuple[tuple[str, float | str], ...]


class _Words:
    def __init__(self, payload: bytes) -> None:
        self.payload, self.place = payload, 0

    def take(self, size: int) -> bytes:
        if self.place + size > len(self.payload):
            raise Discarded
        self.place += size
        return self.payload[self.place - size : self.place]

    def integer(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def text(self) -> str:
        length = self.integer()
        if not 0 <= length <= LONGEST_STRING:
            raise Discarded
        text = self.take(length).decode("utf-8", "replace")
        self.take(-length % 4)
        return text


def receive(payload: bytes, *, password: str | None = None) -> Stored:
    """Return what is stored, or raise Discarded. `password` is the one that the service demands."""
    words = _Words(payload)
    header = words.text()
    match = re.fullmatch(r"v:(.*?)p:(.*)", header, re.DOTALL)
    version = _version(match[1]) if match else None
    if password is not None and (match is None or match[2].strip(JAVA_BLANKS) != password):
        raise Discarded
    if match and version is None:
        raise Discarded
    if version is not None and version >= (2, 2):
        words.integer()
        words.integer()
    cluster = words.text() if match else header
    node = words.text()
    values = _values(words)
    return Stored(cluster, node, _time(words), values)


def _version(text: str) -> tuple[int, int] | None:
    """Return major and minor; each goes through a signed byte."""
    match = re.match(r"([0-9]+)\.([0-9]+)", text)
    if match is None or int(match[1]) > 127 or int(match[2]) > 127:
        return None
    return int(match[1]), int(match[2])


def _values(words: _Words) -> tuple[tuple[str, float | str], ...]:
    """Read parameters up to an empty name, behind which all are lost."""
    count = words.integer()
    if count < 0:
        raise Discarded
    values: list[tuple[str, float | str]] = []
    for _ in range(count):
        name = words.text().strip(JAVA_BLANKS)
        if not name:
            break
        value = _value(words, words.integer())
        if value != "":
            values.append((name, value))
    return tuple(values)


def _value(words: _Words, code: int) -> float | str:
    if code == 0:
        return words.text().strip(JAVA_BLANKS)
    layout = {2: ">i", 3: ">q", 4: ">f", 5: ">d"}.get(code)
    if layout is None:
        raise Discarded
    return float(struct.unpack(layout, words.take(struct.calcsize(layout)))[0])


def _time(words: _Words) -> int | None:
    """Return the next word, if there is a whole one, as a time; after an empty name that is its type code."""
    if len(words.payload) - words.place < 4:
        return None
    time = words.integer()
    return time if time > 0 else None
