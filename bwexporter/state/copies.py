"""Whether a state file can be trusted, and what is used in its place where it cannot.

Turns whatever lies at a path into a sound state file, or into a new one, and a sound one into a verified copy. Knows:
names of files beside the state file, signs of damage, the order in which files are renamed so that a crash in between
leaves every one of them findable. Does not know: what the accounts say, when a copy is due.

Nothing is deleted: what is damaged keeps its bytes under the name `.damaged-<time>`.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bwexporter.errors import StateRefused
from bwexporter.state import schema
from bwexporter.state.books import read_contents
from bwexporter.state.pack import Damaged

_LOG_SUFFIXES = ("-wal", "-shm")
_COPIES = (".copy-1", ".copy-2")

_NOT_THE_FILE = frozenset({
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_IOERR,
})  # fmt: skip
_UNREADABLE = frozenset({
    sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recovery:
    """What had to be done: `text` is empty where the file was sound or there had never been one.

    `lost`: there had been accounts, and neither they nor a copy of them could be used.
    """

    text: str
    lost: bool


def is_damage(error: BaseException) -> bool:
    """Tell bytes that are wrong from a disk that is full, a file that is locked, a right that is missing."""
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, Damaged)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code in _UNREADABLE or code & 0xFF not in _NOT_THE_FILE


def make_usable(path: Path, at: float, *, accounts_known: bool = False) -> Recovery:
    """Leave a sound state file of the newest version at `path`; raise StateRefused where it must not be touched.

    `at` is the Unix time that names what is set aside. With `accounts_known` (the program runs and holds them) a new
    file is not marked as one whose accounts were lost.
    """
    had_life = any(_beside(path))
    said: list[str] = []
    while path.exists() or _restore(path, at, said):
        try:
            _check(path)
        except Damaged as damage:
            said.append(f"{path} was damaged ({damage}) and set aside as {_set_aside(path, at).name};")
        else:
            return Recovery(" ".join(said).rstrip(";"), lost=False)
    lost = had_life or bool(said)
    if lost:
        said.append(f"no copy of {path} could be used: a new one was begun")
    schema.create(path, lost_at=at if lost and not accounts_known else None)
    return Recovery(" ".join(said), lost)


def refuse_places(path: Path) -> None:
    """Raise StateRefused where no state file can be kept."""
    if not path.parent.is_dir():
        raise StateRefused(f"the folder {path.parent} of the state file does not exist: make it, or name another")
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        raise StateRefused(f"the folder {path.parent} of the state file cannot be written to: give this user the right")
    if path.exists() and not path.is_file():
        raise StateRefused(f"{path} is not a file: name another for the state")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StateRefused(f"the state file {path} cannot be read and written: give this user the right")


def _beside(path: Path) -> list[Path]:
    """List the files that only an earlier life of the state file can have left beside it."""
    return [
        *(other for suffix in _COPIES + _LOG_SUFFIXES if (other := _named(path, suffix)).exists()),
        *path.parent.glob(f"{path.name}.damaged-*"),
    ]


def _named(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _restore(path: Path, at: float, said: list[str]) -> bool:
    """Give the newest copy the name of the state file, which is vacant; return whether there was one.

    A log without its file would be taken for that of the copy, so it is set aside first. The copy is renamed and not
    copied, which works on a full disk too; the next copy replaces it.
    """
    if any(_named(path, suffix).exists() for suffix in _LOG_SUFFIXES):
        _set_aside(path, at)
    for copy in (_named(path, suffix) for suffix in _COPIES):
        if copy.exists():
            taken_at = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
            copy.replace(path)
            schema.sync_directory(path)
            if not said:
                said.append(f"{path} had vanished;")
            said.append(f"its copy of {taken_at:%Y-%m-%d %H:%M:%S} UTC took its place;")
            return True
    return False


def _set_aside(path: Path, at: float) -> Path:
    """Rename a damaged file and its logs, the file first: a log that stays behind is found at the next start."""
    stem = f"{path.name}.damaged-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%S}"
    aside, again = path.with_name(stem), 1
    while aside.exists() or any(_named(aside, suffix).exists() for suffix in _LOG_SUFFIXES):
        again += 1
        aside = path.with_name(f"{stem}-{again}")
    for suffix in ("", *_LOG_SUFFIXES):
        if _named(path, suffix).exists():
            _named(path, suffix).replace(_named(aside, suffix))
    schema.sync_directory(path)
    return aside


def _check(path: Path) -> None:
    """Bring a sound file to the newest version; raise Damaged, or StateRefused where it must not be touched."""
    schema.refuse_strangers(path)
    try:
        with closing(open_to_look(path)) as connection:
            version = schema.version_of(connection)
            schema.refuse_newer(path, version)
            _check_pages(connection)
        if version < len(schema.MIGRATIONS):
            with closing(schema.connect(path, mode="rw")) as connection:
                schema.migrate(connection)
        with closing(open_to_look(path)) as connection:
            read_contents(connection)
    except sqlite3.Error as error:
        if is_damage(error):
            raise Damaged(str(error)) from error
        raise StateRefused(f"the state file {path} cannot be opened: {error}") from error


def open_to_look(path: Path) -> sqlite3.Connection:
    """Open for reading; a file without a log is opened in the way that needs no further file, as on a full disk."""
    log = _named(path, "-wal")
    return schema.connect(path, mode="ro", immutable=not log.exists() or log.stat().st_size == 0)


def _check_pages(connection: sqlite3.Connection) -> None:
    """Raise Damaged where the pages do not hold together, or a name differs from the one in its index."""
    for question in ("quick_check(1)", "integrity_check(lanes)", "integrity_check(accounts)", "integrity_check(ids)"):
        answer = connection.execute(f"PRAGMA {question}").fetchone()[0]
        if answer != "ok":
            raise Damaged(answer.replace("\n", " "))


def has_fresh_copy(path: Path, at: float, seconds: float) -> bool:
    """Say whether the newest copy was written less than `seconds` from `at`, by the wall clock."""
    newest = _named(path, _COPIES[0])
    return newest.exists() and abs(at - newest.stat().st_mtime) < seconds


def write_copy(path: Path) -> None:
    """Copy a state file as of one moment, verify the copy, and keep it and the one before.

    Raise sqlite3.Error, OSError or Damaged where there is no good copy; the earlier copies then stay. The whole is read
    in one transaction, beside which others go on writing.
    """
    fresh, newest, older = (_named(path, suffix) for suffix in (".copy-new", *_COPIES))
    fresh.unlink(missing_ok=True)
    try:
        with closing(schema.connect(path, mode="ro")) as source, closing(schema.connect(fresh, mode="rwc")) as target:
            source.backup(target)
        _verify_copy(fresh)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if newest.exists():
        newest.replace(older)
    fresh.replace(newest)
    schema.sync_directory(path)


def _verify_copy(fresh: Path) -> None:
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    with closing(schema.connect(fresh, mode="ro", immutable=True)) as connection:
        _check_pages(connection)
        read_contents(connection)
