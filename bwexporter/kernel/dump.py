"""Dump: what the kernel tells of classes and queues.

Turns tc messages into columns and queues. Knows: where the fields of an HTB class stand in a message. Does not know:
how a message is made, sockets, devices, which class is whose.

The kernel writes all classes of a tree alike, so a dump is a matrix: the headers of every message are compared with
those of the first, then whole columns are taken out. Classes with further attributes (64-bit rates or packets, a rate
estimator) make messages of other lengths; then messages of one shape are gathered and read in the same way.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import B1, I8, Classes, Counts
from bwexporter.errors import KernelUnreadable
from bwexporter.kernel.wire import (
    EVENT,
    HTB_KIND,
    INNER_QUANTUM_BYTES,
    RTM_DELTCLASS,
    RTM_NEWTCLASS,
    TC_H_ROOT,
    TC_REQUEST,
    TCA_HTB_CEIL64,
    TCA_HTB_INIT,
    TCA_HTB_PARMS,
    TCA_HTB_RATE64,
    TCA_KIND,
    TCA_OPTIONS,
    TCA_STATS2,
    TCA_STATS_BASIC,
    TCA_STATS_PKT64,
    TCA_STATS_QUEUE,
    TICK_NS,
    Buffer,
    attributes,
    boundaries,
)

# What is read, by the attribute that holds it: (row of the block, offset in the payload, bytes).
HANDLE, _PARENT, LEAF, _LEVEL, _RATE, _CEILING, _QUANTUM, _BURST, _CEILING_BURST = range(9)
_BYTES, _PACKETS, _DROPPED, _OVERLIMITS, _BACKLOG = range(9, 14)
_FIELDS: dict[tuple[int, int], tuple[tuple[int, int, int], ...]] = {
    (TCA_OPTIONS, TCA_HTB_PARMS): (
        (_RATE, 8, 4),
        (_CEILING, 20, 4),
        (_BURST, 24, 4),
        (_CEILING_BURST, 28, 4),
        (_QUANTUM, 32, 4),
        (_LEVEL, 36, 4),
    ),
    (TCA_OPTIONS, TCA_HTB_RATE64): ((_RATE, 0, 8),),
    (TCA_OPTIONS, TCA_HTB_CEIL64): ((_CEILING, 0, 8),),
    (TCA_STATS2, TCA_STATS_BASIC): ((_BYTES, 0, 8), (_PACKETS, 8, 4)),
    (TCA_STATS2, TCA_STATS_PKT64): ((_PACKETS, 0, 8),),
    (TCA_STATS2, TCA_STATS_QUEUE): ((_BACKLOG, 4, 4), (_DROPPED, 8, 4), (_OVERLIMITS, 16, 4)),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the fields stand in one form of class message, in 32-bit words from the message's start."""

    words: int
    header_at: I8  # the message's length, the kind, and the header of every attribute
    header: NDArray[np.uint32]
    header_bytes: bytes
    words_at: I8  # the field of each row of the block, then the upper halves of those that have 64 bits
    read_at: I8  # both, these first: so they are read in one go
    wide: tuple[int, ...]  # rows of the block that have 64 bits
    single_header: struct.Struct  # the same header, where one message is read by itself
    single_header_words: tuple[int, ...]
    single_ceiling: struct.Struct  # handle and ceiling of that message


@dataclass(frozen=True, slots=True)
class Qdisc:
    """A queue as the kernel tells it; the HTB fields are 0 for other kinds."""

    kind: str
    handle: int
    parent: int
    sent_bytes: int
    direct_packets: int  # modulo 2^32
    default_minor: int
    r2q: int


def decode_classes(arena: Buffer, used_bytes: int, known: list[Shape] | None = None) -> tuple[Classes, Counts, I8]:
    """Turn class messages (RTM_NEWTCLASS or RTM_DELTCLASS, back to back) into settings, counts and backlog_bytes.

    One row a message, in their order; the parent of a class right below the root queue is that queue's handle. `known`
    remembers shapes from call to call, which saves reading a sample. KernelUnreadable where a message is not a whole
    class message of HTB.
    """
    return columns(decode_block(arena, used_bytes, [] if known is None else known))


class Reading:
    """The class messages of a dump, taken in part by part, each while the processor still has it at hand."""

    def __init__(self, known: list[Shape]) -> None:
        self._known = known
        self._room = np.empty((_BACKLOG + 1, 0), np.int64)
        self._messages = 0

    def begin(self) -> None:
        """Begin anew; what was read before is overwritten."""
        self._messages = 0

    def take(self, arena: Buffer, used_bytes: int) -> None:
        """Take in whole messages from the start of an arena; KernelUnreadable as for `decode_classes`."""
        words = _words(arena, used_bytes)
        if not len(words):
            return
        fields, shape = _uniform(words, self._known) or (_mixed(arena, words, self._known), None)
        start, self._messages = self._messages, self._messages + fields.shape[1]
        if self._messages > self._room.shape[1]:
            grown = np.empty((_BACKLOG + 1, 2 * self._messages), np.int64)
            grown[:, :start] = self._room[:, :start]
            self._room = grown
        _fill(self._room[:, start : self._messages], fields, shape.wide if shape else ())

    @property
    def block(self) -> I8:
        """What was taken in, as `decode_block` returns it; until the next beginning."""
        return self._room[:, : self._messages]


def decode_block(arena: Buffer, used_bytes: int, known: list[Shape]) -> I8:
    """Turn class messages into a block: a row a field, as the kernel says it, and a column a message."""
    words = _words(arena, used_bytes)
    if not len(words):
        return _no_block()
    uniform = _uniform(words, known)
    return _block(*uniform) if uniform else _mixed(arena, words, known)


def _no_block() -> I8:
    return np.empty((_BACKLOG + 1, 0), np.int64)


def columns(block: I8) -> tuple[Classes, Counts, I8]:
    """Turn a block, which is used up, into settings, counts and backlog_bytes, in our units."""
    handle, parent, leaf, level, rate, ceiling, quantum, burst, ceiling_burst, *counted = block
    np.copyto(parent, handle & 0xFFFF0000, where=parent == TC_H_ROOT)
    np.copyto(quantum, INNER_QUANTUM_BYTES, where=level > 0)
    block[_BURST : _CEILING_BURST + 1] *= TICK_NS
    sent_bytes, sent_packets, dropped, overlimits, backlog_bytes = counted
    classes = Classes(handle, parent, rate, ceiling, quantum, burst, ceiling_burst, leaf)
    return classes, Counts(sent_bytes, sent_packets, dropped, overlimits), backlog_bytes


def decode_ceilings(arena: Buffer, used_bytes: int, known: list[Shape]) -> tuple[I8, I8]:
    """Turn class messages into handles and ceilings (bytes per second) alone; otherwise as `decode_classes`."""
    words = _words(arena, used_bytes)
    uniform = _uniform(words, known) if len(words) else None
    if uniform is None:
        block = decode_block(arena, used_bytes, known)
        return block[HANDLE], block[_CEILING]
    return _field(*uniform, HANDLE), _field(*uniform, _CEILING)


def decode_ceiling(arena: Buffer, used_bytes: int, known: list[Shape]) -> tuple[int, int] | None:
    """Turn one class message of a known shape into handle and ceiling, in a fraction of the time; None for any other.

    A few microseconds of NumPy are nothing for a thousand classes, and most of the time for one.
    """
    for shape in known:
        same = 4 * shape.words == used_bytes and shape.single_header.unpack_from(arena) == shape.single_header_words
        if same:
            handle, ceiling = shape.single_ceiling.unpack_from(arena)
            return handle, ceiling
    return None


def decode_qdisc(data: Buffer, start: int, end: int) -> Qdisc:
    """Turn one RTM_NEWQDISC or RTM_DELQDISC message into a queue; KernelUnreadable where it is malformed."""
    raw = bytes(data[start:end])
    if len(raw) < TC_REQUEST.size:
        raise KernelUnreadable("a queue message is shorter than its header")
    *_, handle, parent = EVENT.unpack_from(raw)
    kind, sent_bytes, direct_packets, default_minor, r2q = "", 0, 0, 0, 0
    for outer, inner, at, length in attributes(raw):
        if outer == TCA_KIND:
            kind = raw[at : at + length].split(b"\0")[0].decode("ascii", "replace")
        elif (outer, inner) == (TCA_STATS2, TCA_STATS_BASIC) and length >= 8:
            (sent_bytes,) = struct.unpack_from("=Q", raw, at)
        elif (outer, inner) == (TCA_OPTIONS, TCA_HTB_INIT) and kind == "htb" and length >= 20:
            _, r2q, default_minor, _, direct_packets = struct.unpack_from("=IIIII", raw, at)
    return Qdisc(kind, handle, parent, sent_bytes, direct_packets, default_minor, r2q)


def decode_qdiscs(arena: Buffer, used_bytes: int) -> list[Qdisc]:
    """Turn queue messages, back to back, into queues."""
    starts, lengths = boundaries(memoryview(arena)[:used_bytes].cast("I"))
    places = zip((4 * starts).tolist(), (4 * lengths).tolist(), strict=True)
    return [decode_qdisc(arena, start, start + length) for start, length in places]


def queues_below(arena: Buffer, used_bytes: int) -> list[int]:
    """Turn class messages of any kind into the handles of the queues below the classes (tcm_info), 0 where unnamed."""
    starts, _ = boundaries(memoryview(arena)[:used_bytes].cast("I"))
    handles: list[int] = _words(arena, used_bytes)[starts + 8].tolist()
    return handles


def _words(arena: Buffer, used_bytes: int) -> NDArray[np.uint32]:
    if used_bytes % 4:
        raise KernelUnreadable("a class dump ends inside a message")
    return np.frombuffer(arena, np.uint32, used_bytes // 4)


def _uniform(words: NDArray[np.uint32], known: list[Shape]) -> tuple[NDArray[np.uint32], Shape] | None:
    """Return the fields of messages, a row a field, with the shape that all of them have; None where there is none."""
    for shape in known or [_remember(known, words, 0)]:
        if len(words) % shape.words == 0:
            read = words.reshape(-1, shape.words).T[shape.read_at]
            fields = len(shape.words_at)
            if read[fields:].tobytes() == _headers(shape.header_bytes, read.shape[1]):
                return read[:fields], shape
    return None


@lru_cache(maxsize=8)
def _headers(header: bytes, messages: int) -> bytes:
    """Return the headers of so many messages as they are read: bytes are compared in a third of the time of words."""
    return np.repeat(np.frombuffer(header, np.uint32), messages).tobytes()


def _field(fields: NDArray[np.uint32], shape: Shape, row: int) -> I8:
    """Return one row of the block."""
    field: I8 = fields[row].astype(np.int64)
    if row in shape.wide:
        field |= fields[_BACKLOG + 1 + shape.wide.index(row)].astype(np.int64) << 32
    return field


def _block(fields: NDArray[np.uint32], shape: Shape) -> I8:
    block = np.empty((_BACKLOG + 1, fields.shape[1]), np.int64)
    _fill(block, fields, shape.wide)
    return block


def _fill(block: I8, fields: NDArray[Any], wide: tuple[int, ...]) -> None:
    """Fill a block with fields; those of `wide` rows have upper halves, which come behind all others."""
    block[:] = fields[: _BACKLOG + 1]
    for upper, row in enumerate(wide, _BACKLOG + 1):
        block[row] |= fields[upper].astype(np.int64) << 32


def _fits(matrix: NDArray[np.uint32], shape: Shape) -> B1:
    """Mark the messages that have just these attributes."""
    fits: B1 = (matrix[:, shape.header_at] == shape.header).all(axis=1)
    return fits


def _mixed(arena: Buffer, words: NDArray[np.uint32], shapes: list[Shape]) -> I8:
    """Read messages of several shapes: all of one shape at once, until none is left."""
    starts, lengths = boundaries(memoryview(arena)[: words.nbytes].cast("I"))
    block = np.empty((_BACKLOG + 1, len(starts)), np.int64)
    left = np.arange(len(starts))
    tried = 0
    while len(left):
        if tried == len(shapes):
            _remember(shapes, words, int(starts[left[0]]))
        shape = shapes[tried]
        tried += 1
        rows = left[lengths[left] == shape.words]
        matrix = words[starts[rows][:, None] + np.arange(shape.words)]
        fits = _fits(matrix, shape)
        block[:, rows[fits]] = _block(matrix[fits].T[shape.words_at], shape)
        left = np.setdiff1d(left, rows[fits], assume_unique=True)
    return block


def _remember(shapes: list[Shape], words: NDArray[np.uint32], start: int) -> Shape:
    """Read one message attribute by attribute, and add its shape to those that are known."""
    length = int(words[start])
    raw = words[start : start + (length + 3) // 4].tobytes()
    if not TC_REQUEST.size <= length <= len(raw) or length % 4:
        raise KernelUnreadable("a class message has an impossible length")
    if EVENT.unpack_from(raw)[1] not in {RTM_NEWTCLASS, RTM_DELTCLASS}:
        raise KernelUnreadable("a class dump holds a message that is not a class")
    shape = _shape(raw)
    shapes.append(shape)
    return shape


def _shape(raw: bytes) -> Shape:
    # The message type is not among the headers to compare, as it shares its word with flags that may differ from
    # message to message; nothing but a class has these attributes.
    headers, fields = [0], {HANDLE: (24, 4), _PARENT: (28, 4), LEAF: (32, 4)}
    is_htb = False
    for outer, inner, at, length in attributes(raw):
        headers.append(at - 4)
        if outer == TCA_KIND:
            is_htb = raw[at : at + length] == HTB_KIND
            headers.append(at)
        for row, offset, size in _FIELDS.get((outer, inner), ()):
            if offset + size > length:
                raise KernelUnreadable("a class attribute is shorter than its layout")
            if size == 8 or row not in fields:
                fields[row] = (at + offset, size)
    if not is_htb or len(fields) <= _BACKLOG:
        raise KernelUnreadable("a class message lacks what an HTB class has")
    header_at = np.array(headers, np.int64) // 4
    single_header = struct.Struct("=" + "".join("I" if 4 * word in headers else "4x" for word in range(len(raw) // 4)))
    ceiling_at, ceiling_size = fields[_CEILING]
    between = ceiling_at - fields[HANDLE][0] - 4
    low, high = (0, 4) if sys.byteorder == "little" else (4, 0)
    wide = [row for row, (_, size) in fields.items() if size == 8]
    lower = [at + low * (size == 8) for _, (at, size) in sorted(fields.items())]
    words_at = np.array(lower + [fields[row][0] + high for row in wide], np.int64) // 4
    header = np.frombuffer(raw, np.uint32)[header_at]
    return Shape(
        words=len(raw) // 4,
        header_at=header_at,
        header=header,
        header_bytes=header.tobytes(),
        words_at=words_at,
        read_at=np.concatenate([words_at, header_at]),
        wide=tuple(wide),
        single_header=single_header,
        single_header_words=single_header.unpack(raw),
        single_ceiling=struct.Struct(f"={fields[HANDLE][0]}xI{between}x{'Q' if ceiling_size == 8 else 'I'}"),
    )
