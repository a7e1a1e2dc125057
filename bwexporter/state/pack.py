"""The accounts of one device as bytes, and back.

Turns a Ledger into one row's blob. Knows: the layout, its version and its checksum. Does not know: SQLite, names (a
lane is the integer key of its row in the table of lanes), what a column means.

Layout, all little-endian: magic (4), format (2), two bytes of padding, length of the header (4); the header, which is
JSON with the scalars and, for each column, its name, dtype, number of rows, the dtype and rows that it is stored in,
and base, shift and step; the columns' bytes in that order; BLAKE2b-128 of everything before it. A row of 64-bit
integers is base + (what is stored << shift) + step x its number: handles, keys and queues lie close together, or are
multiples of one number, and are stored in the narrowest integers that hold them so. A column that says the same in
every row, or counts up evenly, is stored as a single row. What is written at every turn is about a quarter of what the
program holds. (Format 1 had no base, shift and step; it is read, and no longer written.)

The header ends in as many spaces as make the whole a multiple of 4096 bytes: a row that is as long as the one before it
is written over it in place, so that SQLite logs the pages that differ instead of freeing and filling all of them anew.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import I8, Accounts, Counters, Instant, Lane, Ledger, Rings

_HEAD = struct.Struct("<4sHxxI")
_MAGIC = b"bwxl"
_FORMAT, _FORMATS_READ = 2, (1, 2)
_DIGEST_BYTES = 16
_GRAIN_BYTES = 4096
_INTEGERS = ("ifindex", "enrolled", "tree_sent_bytes", "direct_packets_seen", "direct_packets")
_SECONDS = ("ledger_seconds", "wall_offset_seconds")
_ADDED = ("accounts.carried_bytes",)
_PARENTS = ("parent_handle", "parent_sent_bytes")
_ACCOUNTS = tuple(field.name for field in fields(Accounts))
_COUNTERS = tuple(field.name for field in fields(Counters))
_PAST = "past_bytes"
_RINGS = tuple(field.name for field in fields(Rings) if field.name != _PAST)
_OF_ACCOUNTS, _OF_COUNTERS, _OF_RINGS = (
    tuple((f"{table}.{name}", name) for name in names)
    for table, names in (("accounts", _ACCOUNTS), ("counters", _COUNTERS), ("rings", _RINGS))
)

_NARROW = (("<u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32))
_WIDEST = 1 << 62  # between the numbers of a column that is reckoned with: nothing then leaves 64 bits


class Damaged(Exception):
    """Stored bytes are not those that were written; the text says which."""


class Stored(NamedTuple):
    """A column in the form that it was last packed in."""

    column: NDArray[Any]
    layout: str
    data: bytes


class Packed(NamedTuple):
    """The bytes of a ledger whose lanes have these keys."""

    ledger: Ledger
    lane_ids: I8
    data: bytes


def pack_ledger(ledger: Ledger, lane_ids: I8, kept: dict[str, Stored] | None = None) -> bytes:
    """Pack the accounts of a device; `lane_ids` are the keys of `ledger.lanes`, row by row.

    `kept` remembers columns by name from call to call: about half of them are the very same from turn to turn.
    """
    kept = {} if kept is None else kept
    stored = [_stored(name, column, kept) for name, column in _columns_of(ledger, lane_ids)]
    header = {
        "boot_id": ledger.at.boot_id,
        "boot_seconds": float(ledger.at.boot_seconds),
        "wall_seconds": float(ledger.at.wall_seconds),
        **{name: int(getattr(ledger, name)) for name in _INTEGERS},
        **{name: float(getattr(ledger, name)) for name in _SECONDS},
    }
    return _sealed(header, stored)


def pack_past(rings: Rings) -> bytes:
    """Pack what rings hold of the slots before those that run; the rest of them goes with the accounts."""
    return _sealed({"slots": rings.past_bytes.shape[1]}, [_stored(_PAST, rings.past_bytes.reshape(-1), {})])


def _sealed(header: Mapping[str, Any], stored: Sequence[Stored]) -> bytes:
    text = f'{json.dumps(header)[:-1]}, "columns": [{", ".join([one.layout for one in stored])}]}}'.encode()
    whole = _HEAD.size + len(text) + sum([len(one.data) for one in stored]) + _DIGEST_BYTES
    text += b" " * (-whole % _GRAIN_BYTES)
    body = b"".join([_HEAD.pack(_MAGIC, _FORMAT, len(text)), text, *[one.data for one in stored]])
    return body + blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _stored(name: str, column: NDArray[Any], kept: dict[str, Stored]) -> Stored:
    known = kept.get(name)
    if known is not None and known.column is column:
        return known
    if known is not None and _is_same(known.column, column):
        known = known._replace(column=column)
    else:
        narrow, base, shift, step = _narrowed(column)
        whole = column.dtype.newbyteorder("<").str
        how = f'"{narrow.dtype.str}", {len(narrow)}, {base}, {shift}, {step}'
        layout = f'["{name}", "{whole}", {len(column)}, {how}]'
        known = Stored(column, layout, narrow.tobytes())
    kept[name] = known
    return known


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Say whether two columns are the same to the bit: -0.0 is not 0.0."""
    alike = one.dtype == other.dtype and len(one) == len(other)
    return alike and not np.count_nonzero(_bits(one) != _bits(other))


def _bits(column: NDArray[Any]) -> NDArray[Any]:
    return column.view(f"i{column.itemsize}")


def _narrowed(column: NDArray[Any]) -> tuple[NDArray[Any], int, int, int]:
    """Return a column, contiguous and little-endian, in as few bytes as hold it to the bit; and base, shift, step."""
    if not len(column):
        return column, 0, 0, 0
    bits = _bits(column)  # of floats too: -0.0 and what is no number stay
    if bits[0] == bits[-1] and (bits == bits[0]).all():
        column = column[:1]
    elif column.dtype.kind == "i" and column.itemsize == 8:
        return _narrowed_integers(column)
    return np.ascontiguousarray(column, column.dtype.newbyteorder("<")), 0, 0, 0


def _narrowed_integers(column: I8) -> tuple[NDArray[Any], int, int, int]:
    base, highest = int(column.min()), int(column.max())
    if highest - base < _WIDEST:
        first, step = int(column[0]), int(column[1] - column[0])
        if first + step * (len(column) - 1) == column[-1] and (np.diff(column) == step).all():
            return np.zeros(1, "<u1"), first, 0, step
        above = column - base
        every_bit = int(np.bitwise_or.reduce(above))
        shift = (every_bit & -every_bit).bit_length() - 1
        for dtype, limit in _NARROW:
            if every_bit >> shift < limit:
                return (above >> shift if shift else above).astype(dtype), base, shift, 0
    return np.ascontiguousarray(column, "<i8"), 0, 0, 0


def _columns_of(ledger: Ledger, lane_ids: I8) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "lane", lane_ids
    for stored_name, name in _OF_ACCOUNTS:
        yield stored_name, getattr(ledger.accounts, name)
    for stored_name, name in _OF_COUNTERS:
        yield stored_name, getattr(ledger.counters, name)
    for name in _PARENTS:
        yield name, getattr(ledger, name)
    for stored_name, name in _OF_RINGS if ledger.rings is not None else ():
        yield stored_name, getattr(ledger.rings, name)


def unpack_ledger(device: str, packed: bytes, lanes: Mapping[int, Lane], past: bytes | None = None) -> Ledger:
    """Return the Ledger that was packed; `lanes` is the table of lanes by key. Raise Damaged if it is not whole.

    `past` is what `pack_past` made of the same ledger's rings, where it had any.
    """
    header, columns = unpack_columns(packed)
    try:
        scalars: dict[str, Any] = {name: header[name] for name in _INTEGERS + _SECONDS}
        parents: dict[str, Any] = {name: columns[name] for name in _PARENTS}
        return Ledger(
            device=device,
            at=Instant(header["wall_seconds"], header["boot_seconds"], header["boot_id"]),
            lanes=tuple(lanes[lane_id] for lane_id in columns["lane"].tolist()),
            accounts=Accounts(**{name: _column(columns, f"accounts.{name}") for name in _ACCOUNTS}),
            counters=Counters(**{name: columns[f"counters.{name}"] for name in _COUNTERS}),
            rings=_rings(columns, past),
            **scalars,
            **parents,
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"the accounts of {device} miss {error}") from error


def _rings(columns: Mapping[str, NDArray[Any]], past: bytes | None) -> Rings | None:
    """Return the rings; KeyError or ValueError where the two parts of them do not belong together."""
    if "rings.account" not in columns:
        return None
    if past is None:
        raise KeyError("the past of its sliding windows")
    header, packed = unpack_columns(past)
    held = packed[_PAST].reshape(-1, header["slots"])
    return Rings(**{name: columns[f"rings.{name}"] for name in _RINGS}, past_bytes=held)


def _column(columns: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return a column; one that an older program did not have is all 0."""
    return np.zeros(len(columns["lane"]), np.int64) if name in _ADDED and name not in columns else columns[name]


def unpack_columns(packed: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the columns by name, read-only; raise Damaged if the checksum or the layout is wrong."""
    body, digest = packed[:-_DIGEST_BYTES], packed[-_DIGEST_BYTES:]
    if len(body) < _HEAD.size or blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise Damaged("a row of accounts does not match its checksum")
    magic, layout, header_bytes = _HEAD.unpack_from(body)
    if magic != _MAGIC or layout not in _FORMATS_READ:
        raise Damaged(f"a row of accounts has the unknown format {layout}")
    offset = _HEAD.size + header_bytes
    header = json.loads(body[_HEAD.size : offset])
    columns = {}
    for name, dtype, rows, stored_dtype, stored_rows, *how in header["columns"]:
        stored = np.frombuffer(body, stored_dtype, stored_rows, offset)
        column = np.broadcast_to(stored, rows).astype(np.dtype(dtype).newbyteorder("="))
        if any(how):
            base, shift, step = how
            column = (column << shift) + base + step * np.arange(rows)
        column.setflags(write=False)
        columns[name] = column
        offset += stored.nbytes
    return header, columns
