"""Use over time: what each lane sent in every five minutes and in every hour.

Turns looks at the accounts into sums per interval. Knows: intervals, how a turn that straddles one is divided, how sums
are packed and for how long they are kept. Does not know: accounts, names (a lane is the integer key of its row).

An interval's opening holds what each lane had sent in all when the interval began; the interval's sum is the difference
at its end. The opening is stored when the interval begins and the accounts at every turn, so a killed process loses
nothing. Growth between two looks is divided in proportion to time, in integer parts that sum to the whole.

Sums that are kept stand in blocks of lanes, each packed by itself behind an index, so that whoever asks for one lane
over weeks reads and inflates one block of each row: of 10 000 slices a fortieth. Layout, little-endian: magic (4),
number of blocks (4), the first key of each block (8 each), where each ends, counted from the first (8 each), the
blocks. (Rows of earlier programs are one block without magic and index, and are read like that.)
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Protocol

import numpy as np

from bwexporter.core.lanes import I8, Columns
from bwexporter.state.pack import Damaged

STEP_SECONDS = 300
HOUR_SECONDS = 3600
_DAY_SECONDS = 86400
KEPT_SECONDS = {STEP_SECONDS: 35 * _DAY_SECONDS, HOUR_SECONDS: 400 * _DAY_SECONDS}

_MOST_INTERVALS = 288
"""Growth found after a longer gap, as of a clock that was years behind, belongs to the last day of it."""

_BLOCK_LANES = 512
_HEAD = struct.Struct("<4sI")
_MAGIC = b"bwxu"

_ROW_BYTES = 64
"""About what SQLite keeps beside the blob of a row: its key, the key in the index, lengths."""


@dataclass(frozen=True, slots=True)
class Sums(Columns):
    """Bytes by lane; a lane that is absent counts 0."""

    lane_ids: I8  # ascending
    sent_bytes: I8

    def plus(self, other: Sums) -> Sums:
        """Add lane by lane."""
        return _combined(self, other, 1)

    def minus(self, other: Sums) -> Sums:
        """Subtract lane by lane."""
        return _combined(self, other, -1)

    def of(self, lane_id: int) -> int:
        """Return the bytes of one lane."""
        row = int(np.searchsorted(self.lane_ids, lane_id))
        return int(self.sent_bytes[row]) if row < len(self) and self.lane_ids[row] == lane_id else 0


@dataclass(frozen=True, slots=True)
class Look:
    """What each lane of a device had sent in all at one moment."""

    wall_seconds: float
    sent: Sums


@dataclass(frozen=True, slots=True)
class Opening:
    """The interval that runs: when it began, and what each lane had sent in all by then.

    An account that ended meanwhile is taken off, which may leave less than nothing: the sum is still the difference.
    """

    start: int
    sent: Sums


def no_sums() -> Sums:
    """Return sums without a lane."""
    return Sums(np.empty(0, np.int64), np.empty(0, np.int64))


def follow(opening: Opening | None, before: Look | None, now: Look) -> tuple[list[tuple[int, Sums]], Opening]:
    """Move on from one look to the next: return the intervals that ended, as (start, sums), and the one that runs.

    The very `opening` is returned where there is nothing new to store.
    Whatever way the clock was stepped, all that was sent stands in exactly one interval.
    """
    if opening is None or before is None:
        return [], Opening(_start_of(now.wall_seconds), no_sums())
    ended = _ended(before.sent, now.sent)
    if len(ended):
        opening = Opening(opening.start, opening.sent.minus(ended))
        before = Look(before.wall_seconds, before.sent.minus(ended))
    if now.wall_seconds < opening.start:
        return [(opening.start, before.sent.minus(opening.sent))], Opening(_start_of(now.wall_seconds), before.sent)
    closed = []
    for boundary, sent in _at_boundaries(opening.start + STEP_SECONDS, before, now):
        closed.append((boundary - STEP_SECONDS, sent.minus(opening.sent)))
        opening = Opening(boundary, sent)
    return closed, opening


def _ended(before: Sums, now: Sums) -> Sums:
    """Return the last totals of accounts that ended between two looks: those that are gone or began again."""
    if before.lane_ids is now.lane_ids and (now.sent_bytes >= before.sent_bytes).all():
        return no_sums()
    growth = now.minus(before)
    fell = np.isin(before.lane_ids, growth.lane_ids[growth.sent_bytes < 0], assume_unique=True)
    return before.take(fell)


def _at_boundaries(first: int, before: Look, now: Look) -> Iterator[tuple[int, Sums]]:
    """Yield each end of an interval up to now, with what each lane had sent by then."""
    last = _start_of(now.wall_seconds)
    if last < first:
        return
    earliest = max(before.wall_seconds, last - _MOST_INTERVALS * STEP_SECONDS)
    growth = now.sent.minus(before.sent)
    following = max(first, _start_of(earliest)) + STEP_SECONDS
    for boundary in (first, *range(following, last + 1, STEP_SECONDS)):
        share = min(1.0, max(0.0, (boundary - earliest) / (now.wall_seconds - earliest or 1.0)))
        part = Sums(growth.lane_ids, np.floor(growth.sent_bytes * share).astype(np.int64))
        yield boundary, before.sent.plus(part)


def _start_of(wall_seconds: float) -> int:
    return int(wall_seconds // STEP_SECONDS) * STEP_SECONDS


def _combined(one: Sums, other: Sums, sign: int) -> Sums:
    if np.array_equal(one.lane_ids, other.lane_ids):
        return Sums(one.lane_ids, one.sent_bytes + sign * other.sent_bytes)
    lane_ids = np.union1d(one.lane_ids, other.lane_ids)
    sent_bytes = np.zeros(len(lane_ids), np.int64)
    sent_bytes[np.searchsorted(lane_ids, one.lane_ids)] = one.sent_bytes
    sent_bytes[np.searchsorted(lane_ids, other.lane_ids)] += sign * other.sent_bytes
    return Sums(lane_ids, sent_bytes)


def pack_sums(sums: Sums) -> bytes:
    """Pack sums: differences of the keys, then the bytes, as i8, all first bytes before all second bytes, deflated."""
    some = sums.take(sums.sent_bytes != 0)
    numbers = np.concatenate([np.diff(some.lane_ids, prepend=0), some.sent_bytes]).astype("<i8")
    return zlib.compress(numbers.view(np.uint8).reshape(-1, 8).T.tobytes())


def unpack_sums(packed: bytes) -> Sums:
    """Return the sums that were packed; raise Damaged if they are not whole."""
    try:
        planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(8, -1)
    except (zlib.error, ValueError) as error:
        raise Damaged("a row of use cannot be unpacked") from error
    numbers = np.ascontiguousarray(planes.T).view("<i8").reshape(-1).astype(np.int64)
    lanes = len(numbers) // 2
    return Sums(np.cumsum(numbers[:lanes]), numbers[lanes:])


def pack_blocks(sums: Sums) -> bytes:
    """Pack sums that are kept: in blocks of lanes, with the way to each."""
    some = sums.take(sums.sent_bytes != 0)
    firsts = range(0, len(some), _BLOCK_LANES)
    blocks = [pack_sums(some.take(np.arange(first, min(first + _BLOCK_LANES, len(some))))) for first in firsts]
    index = np.concatenate([some.lane_ids[::_BLOCK_LANES], np.cumsum([len(block) for block in blocks], dtype=np.int64)])
    return b"".join([_HEAD.pack(_MAGIC, len(blocks)), index.astype("<i8").tobytes(), *blocks])


def unpack_blocks(packed: bytes) -> Sums:
    """Return the sums that were packed in blocks, or as one; raise Damaged if they are not whole."""
    if not packed.startswith(_MAGIC):
        return unpack_sums(packed)
    row = BytesIO(packed)
    _, ends, blocks_at = _index(row)
    edges = [blocks_at, *(blocks_at + ends).tolist()]
    parts = [unpack_sums(packed[start:end]) for start, end in pairwise(edges)]
    columns = [np.concatenate([getattr(part, name) for part in (no_sums(), *parts)]) for name in Sums.__slots__]
    return Sums(*columns)


class Row(Protocol):
    """A packed row, of which as much is read as is asked for."""

    def read(self, length: int = -1, /) -> bytes:
        """Return so many of the next bytes, by default all."""

    def seek(self, offset: int, /) -> object:
        """Go to a place, counted from the first byte."""


def _index(row: Row) -> tuple[I8, I8, int]:
    """Return the first key of each block, where each ends, and where the first one begins."""
    try:
        _, blocks = _HEAD.unpack(row.read(_HEAD.size))
        firsts, ends = np.frombuffer(row.read(16 * blocks), "<i8").reshape(2, blocks)
    except (struct.error, ValueError) as error:
        raise Damaged("a row of use has no index") from error
    return firsts, ends, _HEAD.size + 16 * blocks


def of_lane(row: Row, lane_id: int) -> int:
    """Return the bytes of one lane from a packed row, of which no more is read than holds them. Raise Damaged."""
    packed_whole = row.read(len(_MAGIC)) != _MAGIC
    row.seek(0)
    if packed_whole:
        return unpack_sums(row.read()).of(lane_id)
    firsts, ends, blocks_at = _index(row)
    block = int(np.searchsorted(firsts, lane_id, side="right")) - 1
    if block < 0:
        return 0
    start = int(ends[block - 1]) if block else 0
    try:
        row.seek(blocks_at + start)
        return unpack_sums(row.read(int(ends[block]) - start)).of(lane_id)
    except ValueError as error:
        raise Damaged("a row of use has a wrong index") from error


def record(connection: sqlite3.Connection, device: str, start: int, sums: Sums) -> None:
    """Store an interval that ended, and add it to its hour; one that a stepped clock brought twice is added up."""
    _add(connection, device, STEP_SECONDS, start, sums)
    _add(connection, device, HOUR_SECONDS, start - start % HOUR_SECONDS, sums)


def _add(connection: sqlite3.Connection, device: str, step: int, start: int, sums: Sums) -> None:
    key = (device, step, start)
    row = connection.execute("SELECT packed FROM use_sums WHERE (device, step, start) = (?, ?, ?)", key).fetchone()
    whole = sums if row is None else sums.plus(_readable(row[0]))
    connection.execute("INSERT OR REPLACE INTO use_sums VALUES (?, ?, ?, ?)", (*key, pack_blocks(whole)))


def read(
    connection: sqlite3.Connection,
    device: str,
    lane_id: int,
    since: int,
    until: float,
    step: int,
) -> dict[int, int]:
    """Return the bytes of one lane by start of each span of `step` seconds; spans that nobody watched are absent."""
    stored = HOUR_SECONDS if step % HOUR_SECONDS == 0 else STEP_SECONDS
    rows = connection.execute(
        "SELECT start, rowid FROM use_sums WHERE device = ? AND step = ? AND start >= ? AND start < ? ORDER BY start",
        (device, stored, since, until),
    )
    sums: dict[int, int] = {}
    for start, row in rows:
        span = start - start % step
        with connection.blobopen("use_sums", "packed", row, readonly=True) as packed, suppress(Damaged):
            sums[span] = sums.get(span, 0) + of_lane(packed, lane_id)
    return sums


def read_all(
    connection: sqlite3.Connection, device: str, since: int, until: int, step: int = STEP_SECONDS
) -> Iterator[tuple[int, Sums]]:
    """Yield every five minutes (or hour) of a span that somebody watched, with the bytes by lane, oldest first."""
    rows = connection.execute(
        "SELECT start, packed FROM use_sums WHERE device = ? AND step = ? AND start >= ? AND start < ? ORDER BY start",
        (device, step, since, until),
    )
    for start, packed in rows:
        yield start, _readable(packed)


def _readable(packed: bytes) -> Sums:
    """Return the sums of a stored interval: one that rotted on the disk counts nothing and spoils no other."""
    try:
        return unpack_blocks(packed)
    except Damaged:
        return no_sums()


def purge(connection: sqlite3.Connection, now: float, limit_bytes: int) -> None:
    """Forget what is older than it is kept for, and then the oldest until the rest fits in `limit_bytes`."""
    for step, kept_seconds in KEPT_SECONDS.items():
        connection.execute("DELETE FROM use_sums WHERE step = ? AND start < ?", (step, now - kept_seconds))
    connection.execute(
        """DELETE FROM use_sums WHERE rowid IN (SELECT row FROM (
            SELECT rowid AS row, sum(length(packed) + ?) OVER (ORDER BY start DESC, step DESC, device) AS size
            FROM use_sums) WHERE size > ?)""",
        (_ROW_BYTES, limit_bytes),
    )
