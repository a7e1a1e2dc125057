"""The wire: one ApMon datagram as bytes, and back.

Turns a datagram's fields into XDR bytes and bytes into fields, raw and lossless: also what no sender of ours would
send. Knows: the order of the fields, the type codes, lengths and padding. Does not know: what a receiver makes of it,
what may be sent, sockets.

Everything is big-endian and a multiple of 4 bytes. A string is its length in bytes, the bytes, and 0 to 3 zero bytes.
Text that is not UTF-8 keeps its bytes (surrogateescape). Whether there is a timestamp is known only from 4 bytes that
are left over; two more words stand before the cluster since version 2.2.0, the only layout that is read here.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bwexporter.errors import BwexporterError

WORD_BYTES = 4


class WireError(BwexporterError):
    """Bytes that are no datagram, or fields that no datagram can hold."""


class Code(enum.IntEnum):
    """How a value stands on the wire. Receivers refuse INT16, and nobody sends INT64."""

    STRING = 0
    INT16 = 1
    INT32 = 2
    INT64 = 3
    FLOAT32 = 4
    FLOAT64 = 5


class Parameter(NamedTuple):
    """One value with its name."""

    name: str
    code: Code
    value: int | float | str


@dataclass(frozen=True, slots=True)
class Datagram:
    """The fields of one datagram; a header is `v:` version `p:` password, so it is kept out of the repr."""

    header: str = field(repr=False)
    instance_id: int
    sequence: int
    cluster: str
    node: str
    parameters: tuple[Parameter, ...]
    timestamp: int | None = None  # Unix seconds; None: the receiver takes the time of arrival


_INT32 = struct.Struct(">i")
_NUMBERS = {
    Code.INT16: _INT32,  # XDR knows nothing shorter than a word
    Code.INT32: _INT32,
    Code.INT64: struct.Struct(">q"),
    Code.FLOAT32: struct.Struct(">f"),
    Code.FLOAT64: struct.Struct(">d"),
}
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_CODE_WORDS = {code: _INT32.pack(code) for code in Code}


def encode(datagram: Datagram) -> bytes:
    """Return the datagram's bytes; WireError where a field does not fit.

    >>> encode(Datagram("v:2.2.0p:", 7, 1, "c", "n", (Parameter("p", Code.INT32, 5),))).hex()[-32:]
    '00000001700000000000000200000005'
    """
    packed = [pack_parameter(parameter) for parameter in datagram.parameters]
    return assemble(
        pack_head(datagram.header, datagram.instance_id, datagram.sequence),
        pack_place(datagram.cluster, datagram.node),
        packed,
        datagram.timestamp,
    )


def pack_head(header: str, instance_id: int, sequence: int) -> bytes:
    """Return what stands before the cluster."""
    words = (_word("the instance id", instance_id), _word("the sequence number", sequence))
    return pack_text(header) + b"".join(words)


def pack_place(cluster: str, node: str) -> bytes:
    """Return the cluster and the node."""
    return pack_text(cluster) + pack_text(node)


def pack_parameter(parameter: Parameter) -> bytes:
    """Return one parameter whole, or raise before anything of it is written."""
    code, value = parameter.code, parameter.value
    if code is Code.STRING:
        if not isinstance(value, str):
            raise WireError(f"the value of {parameter.name!r} is not text, and its type code 0 says text")
        packed = pack_text(value)
    else:
        try:
            packed = _NUMBERS[code].pack(value)
        except (struct.error, OverflowError):
            raise WireError(f"the value of {parameter.name!r} does not fit type code {code}") from None
    return pack_text(parameter.name) + _CODE_WORDS[code] + packed


def assemble(head: bytes, place: bytes, packed: Sequence[bytes], timestamp: int | None) -> bytes:
    """Put packed parts together; the count is that of the parts."""
    tail = b"" if timestamp is None else _word("the timestamp", timestamp)
    return b"".join((head, place, _INT32.pack(len(packed)), *packed, tail))


def pack_text(text: str) -> bytes:
    """Return a string: its length in bytes, the bytes, the padding."""
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WireError("a text holds half a character that stands for no byte") from None
    return _INT32.pack(len(encoded)) + encoded + _PADDING[len(encoded) % WORD_BYTES]


def _word(what: str, value: int) -> bytes:
    try:
        return _INT32.pack(value)
    except struct.error:
        raise WireError(f"{what} is not a whole number of 32 bits") from None


def decode(payload: bytes) -> Datagram:
    """Return the fields of a datagram; WireError says at which byte it stops being one."""
    reader = _Reader(payload)
    header = reader.text("the header")
    instance_id = reader.integer("the instance id")
    sequence = reader.integer("the sequence number")
    cluster, node = reader.text("the cluster"), reader.text("the node")
    count = reader.integer("the number of parameters")
    if not 0 <= count <= len(payload) // (2 * WORD_BYTES):
        raise WireError(f"byte {reader.place - WORD_BYTES}: {count} parameters cannot be in {len(payload)} bytes")
    parameters = tuple(reader.parameter() for _ in range(count))
    timestamp = reader.integer("the timestamp") if reader.left == WORD_BYTES else None
    if reader.left:
        raise WireError(f"byte {reader.place}: {reader.left} bytes are left over behind {count} parameters")
    return Datagram(header, instance_id, sequence, cluster, node, parameters, timestamp)


class _Reader:
    """Reads items one after the other."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.place = 0

    @property
    def left(self) -> int:
        return len(self._payload) - self.place

    def take(self, length: int, what: str) -> bytes:
        if not 0 <= length <= self.left:
            raise WireError(f"byte {self.place}: {what} would take {length} bytes, and {self.left} are left")
        self.place += length
        return self._payload[self.place - length : self.place]

    def integer(self, what: str) -> int:
        (value,) = _INT32.unpack(self.take(WORD_BYTES, what))
        return int(value)

    def text(self, what: str) -> str:
        length = self.integer(f"the length of {what}")
        encoded = self.take(length, what)
        padding = self.take(len(_PADDING[length % WORD_BYTES]), f"the padding of {what}")
        if padding.strip(b"\0"):
            raise WireError(f"byte {self.place - len(padding)}: the padding of {what} is not zero")
        return encoded.decode("utf-8", "surrogateescape")

    def parameter(self) -> Parameter:
        name = self.text("a parameter's name")
        number = self.integer("a type code")
        try:
            code = Code(number)
        except ValueError:
            raise WireError(f"byte {self.place - WORD_BYTES}: there is no type code {number}") from None
        if code is Code.STRING:
            return Parameter(name, code, self.text("a value"))
        layout = _NUMBERS[code]
        (value,) = layout.unpack(self.take(layout.size, "a value"))
        return Parameter(name, code, value)
