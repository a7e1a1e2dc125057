"""The tables of the state file, and the way from each older version of them to the newest.

Turns a path into a connection. Knows: tables, versions, SQLite's settings and the place of the version in the file's
header. Does not know: what the rows say, what to do about a damaged file.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from bwexporter.errors import StateRefused
from bwexporter.state.pack import Damaged

APPLICATION_ID = 0x62776578
"""`bwex`, in the file's header: tells a state file of ours from the database of another program."""

# Offsets of the SQLite file format, section 1.3: magic 0, user version 60, application id 68.
_HEADER = struct.Struct(">16s44xI4xI")
_MAGIC = b"SQLite format 3\0"
_BUSY_SECONDS = 5.0
_LARGEST_IDLE_WAL_BYTES = 16 << 20
_LOG_PAGES = 4000  # a turn writes the same pages as the one before it: the longer the log, the fewer are copied

Migration = Callable[[sqlite3.Connection], None]


def _tables_of_version_1(connection: sqlite3.Connection) -> None:
    # Keys of lanes are never used twice (AUTOINCREMENT): sums of use outlive the lanes that they name.
    for statement in (
        """CREATE TABLE lanes (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            device TEXT NOT NULL, slice TEXT NOT NULL, traffic TEXT NOT NULL,
            seen_at REAL NOT NULL,
            UNIQUE (device, slice, traffic))""",
        "CREATE TABLE accounts (device TEXT PRIMARY KEY, saved_at REAL NOT NULL, packed BLOB NOT NULL)",
        "CREATE TABLE ids (slice TEXT PRIMARY KEY, id INTEGER NOT NULL UNIQUE, used_at REAL NOT NULL)",
        """CREATE TABLE events (
            number INTEGER PRIMARY KEY,
            at REAL NOT NULL, kind TEXT NOT NULL, device TEXT NOT NULL,
            slice TEXT, traffic TEXT, inputs TEXT NOT NULL)""",
        "CREATE INDEX events_by_time ON events (at)",
        "CREATE INDEX events_by_slice ON events (slice, at)",
        "CREATE TABLE use_openings (device TEXT PRIMARY KEY, start INTEGER NOT NULL, packed BLOB NOT NULL)",
        """CREATE TABLE use_sums (
            device TEXT NOT NULL, step INTEGER NOT NULL, start INTEGER NOT NULL, packed BLOB NOT NULL,
            PRIMARY KEY (device, step, start))""",
        "CREATE TABLE facts (key TEXT PRIMARY KEY, value REAL NOT NULL)",
    ):
        connection.execute(statement)


def _orders_of_version_2(connection: sqlite3.Connection) -> None:
    # One row holds what was set by hand: it is small, and all of it or nothing is true.
    connection.execute("CREATE TABLE hand (key INTEGER PRIMARY KEY CHECK (key = 1), packed TEXT NOT NULL)")


def _sights_of_version_3(connection: sqlite3.Connection) -> None:
    # The ceilings of classes of somebody else's tree at first sight, in bytes per second.
    connection.execute(
        """CREATE TABLE sights (
            device TEXT NOT NULL, handle INTEGER NOT NULL, ceiling INTEGER NOT NULL,
            boot_id TEXT NOT NULL, ifindex INTEGER NOT NULL,
            PRIMARY KEY (device, handle))""",
    )


def _packing_of_version_4(_: sqlite3.Connection) -> None:
    """Change no table: from here on accounts are packed in a format that older programs would take for damaged."""


def _rings_of_version_5(connection: sqlite3.Connection) -> None:
    # What sliding windows hold of the slots before the one that runs, which is a column of the accounts: these change
    # once in a slot and not at every turn. A device without such a lane has no row.
    connection.execute("CREATE TABLE rings (device TEXT PRIMARY KEY, packed BLOB NOT NULL)")


FIRST_VERSION_WITH_ORDERS, FIRST_VERSION_WITH_SIGHTS, FIRST_VERSION_WITH_RINGS = 2, 3, 5
MIGRATIONS: Sequence[Migration] = (
    _tables_of_version_1,
    _orders_of_version_2,
    _sights_of_version_3,
    _packing_of_version_4,
    _rings_of_version_5,
)
"""Migration n leads from version n to n + 1; they are only ever added to."""


def connect(path: Path, *, mode: str, immutable: bool = False) -> sqlite3.Connection:
    """Open an existing file (`ro`, `rw`) or make one (`rwc`); transactions are begun and ended by statements.

    `immutable` reads the file alone, makes no file beside it, and must only be said where nobody writes to it.
    """
    place = f"file:{quote(os.fspath(path.absolute()))}?mode={mode}" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(place, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_IDLE_WAL_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    return connection


def create(path: Path, *, lost_at: float | None) -> None:
    """Make a new state file; it gets its name when it is whole, so that a part of one is never found under it.

    `lost_at` is the Unix time at which earlier accounts were found to be lost, None where there were none.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with closing(connect(beside, mode="rwc")) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection)
        if lost_at is not None:
            connection.execute("INSERT INTO facts VALUES ('lost_at', ?)", (lost_at,))
        connection.execute("PRAGMA journal_mode = WAL")
    beside.replace(path)
    sync_directory(path)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the tables to the newest version in one transaction, which either stands whole or did not happen."""
    version = version_of(connection)
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    for migration in migrations[version:]:
        migration(connection)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute("COMMIT")
    # The header of the file itself, and not its log alone, has to say the version: older programs look there.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the tables."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def refuse_strangers(path: Path) -> None:
    """Raise StateRefused for a database of another program or of a newer bwexporter, Damaged for no database at all.

    Reads the header as plain bytes: SQLite itself would make files beside a database that it opens.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise Damaged("it does not begin as a database does")
    _, version, application_id = _HEADER.unpack(header)
    if application_id != APPLICATION_ID:
        raise StateRefused(f"{path} is the database of another program: name another file for the state")
    refuse_newer(path, version)


def refuse_newer(path: Path, version: int) -> None:
    """Raise StateRefused where a newer bwexporter wrote the file."""
    if version > len(MIGRATIONS):
        raise StateRefused(
            f"{path} was written by a newer bwexporter (state version {version}, this one knows up to "
            f"{len(MIGRATIONS)}); it was left untouched: install the newer version, or name another file for the state",
        )


def sync_directory(path: Path) -> None:
    """Make the names beside `path` durable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
