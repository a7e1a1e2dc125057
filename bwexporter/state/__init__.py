"""The state file: accounts, names, events and use over time, from one life of the program to the next.

Turns what a turn hands over into durable rows, and a file into what the next start goes on from. Knows: that one
process owns a state file. Does not know: clocks (times are handed in), what a lost account means for a ceiling.
"""

from __future__ import annotations

import errno
import fcntl
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from bwexporter.core.habits import Habits, Periods, earliest, habits
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Lane, Ledger, Traffic
from bwexporter.core.report import Event, EventKind
from bwexporter.core.sights import Kept
from bwexporter.errors import StateRefused
from bwexporter.state import books, copies, schema, use
from bwexporter.state.pack import Damaged
from bwexporter.state.saver import SaveOutcome, Saver

__all__ = [
    "NOTHING_SAVED",
    "SaveOutcome",
    "State",
    "open_state",
    "peek",
    "read_by_hand",
    "read_events",
    "read_use",
    "read_uses",
]

USE_LIMIT_BYTES = 256_000_000
NOTHING_SAVED = books.Contents({}, {}, None)

_Answer = TypeVar("_Answer")


def open_state(path: Path, *, now_wall_seconds: float, use_limit_bytes: int = USE_LIMIT_BYTES) -> State:
    """Open the state file, or make one; raise StateRefused where it must not or cannot be used.

    A damaged or vanished file is replaced by its newest good copy, else by an empty one: see `State.recovered`. The
    process holds the file until `State.close` or its own end.
    """
    held = _hold(path)
    try:
        recovery = _recover(path, now_wall_seconds)
        contents = _read(path) if path.exists() else NOTHING_SAVED
    except BaseException:
        held.close()
        raise
    return State(path, held, recovery, contents, Saver(path, contents, use_limit_bytes=use_limit_bytes))


def peek(path: Path) -> books.Contents | None:
    """Return what a state file holds, None where there is none; holds nothing and changes nothing.

    Another process may have the file. Raise StateRefused where it is not ours, newer than this program, or unreadable.
    """
    try:
        if not path.exists():
            return None
        schema.refuse_strangers(path)
        return _read(path)
    except (sqlite3.Error, OSError, Damaged) as error:
        raise StateRefused(f"the state file {path} cannot be read: {error}") from error


def read_events(
    path: Path, since: float, until: float, slice_name: str | None, limit: int, kind: EventKind | None = None
) -> list[Event]:
    """Return the newest `limit` events of [since, until), newest first; another process may have the file.

    Raise StateRefused where it cannot be read.
    """
    return _asked(path, lambda connection: books.read_events(connection, since, until, slice_name, limit, kind))


def read_by_hand(path: Path, until: float) -> list[Event]:
    """Return all that is known of orders by hand before an instant, oldest first; another process may have the file.

    Raise StateRefused where it cannot be read.
    """
    return _asked(path, lambda connection: books.read_by_hand(connection, until))


def read_use(path: Path, lane: Lane, since: float, until: float, step: int) -> dict[int, int]:
    """Return what a lane sent by start of each span of `step` seconds; another process may have the file.

    As of `State.use`, which says what a step may be. Raise StateRefused where it cannot be read.
    """
    first = int(since // step) * step
    return _asked(path, lambda connection: books.read_use(connection, lane, first, until, step))


def read_uses(path: Path, device: str, lanes: Sequence[Lane], since: int, until: int) -> dict[int, list[int]]:
    """Return what each lane of a device sent in five minutes, by the start of each interval that somebody watched.

    Raise StateRefused where the file cannot be read.
    """
    return _asked(path, lambda connection: books.read_uses(connection, device, lanes, since, until))


def _asked(path: Path, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
    try:
        with closing(schema.connect(path, mode="ro")) as connection:
            return question(connection)
    except (sqlite3.Error, Damaged) as error:
        raise StateRefused(f"the state file {path} cannot be read: {error}") from error


def _hold(path: Path) -> BinaryIO:
    """Lock a file beside the state file for this process; the lock ends with the process, also on kill -9."""
    try:
        copies.refuse_places(path)
        held = path.with_name(f"{path.name}.lock").open("ab")
    except OSError as error:
        raise StateRefused(f"no state file can be kept in {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise StateRefused(f"another bwexporter uses the state file {path}: stop it, or name another file") from None
    return held


def _recover(path: Path, at: float) -> copies.Recovery:
    """Make the file usable. A disk that is full at the first start is trouble of saving, which is tried anew."""
    try:
        return copies.make_usable(path, at)
    except sqlite3.Error as error:
        return copies.Recovery(f"{path} could not be made: {error}", lost=False)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return copies.Recovery(f"{path} could not be made: {error.strerror}", lost=False)
        raise StateRefused(f"the state file {path} cannot be used: {error.strerror}") from error


def _read(path: Path) -> books.Contents:
    with closing(copies.open_to_look(path)) as connection:
        return books.read_contents(connection)


_MOST_LOOKS = 60
_STILL_LOOKS = 12
"""While another process holds the file, SQLite waits for five seconds and nothing is written: that is no end yet."""


class State:
    """An open state file. `save` and `close` belong to the daemon's thread; the rest may be called from any thread.

    `recovered` is empty, or says what was wrong with the file and what took its place. `lost`: earlier accounts are
    gone and no copy could be used; `lost_at_wall_seconds` remembers that moment over restarts (None: never).
    """

    def __init__(
        self,
        path: Path,
        held: BinaryIO,
        recovery: copies.Recovery,
        contents: books.Contents,
        saver: Saver,
    ) -> None:
        self._path = path
        self._held = held
        self._ledgers = contents.ledgers
        self._sights = contents.sights
        self.hand = contents.hand  # as it was found at opening; None: nothing was ever set by hand
        self._saver = saver
        self.recovered = recovery.text
        self.lost = recovery.lost
        self.lost_at_wall_seconds = contents.lost_at_wall_seconds

    def load(self) -> dict[str, Ledger]:
        """Return the ledgers as they were found at opening, by device; none once others were saved."""
        return dict(self._ledgers)

    def save(
        self,
        ledgers: Sequence[Ledger],
        events: Sequence[Event],
        at_wall_seconds: float,
        *,
        hand: Hand | None = None,
        save_wait_seconds: float = 1.0,
    ) -> SaveOutcome:
        """Hand a turn to the saver, and wait for its commit no longer than `save_wait_seconds`.

        What could not be written waits for the next save: of the accounts and orders the latest, of the events all up
        to 10 000.
        """
        turn = books.Turn(at_wall_seconds, {ledger.device: ledger for ledger in ledgers}, tuple(events), hand=hand)
        self._ledgers = {}
        return self._saver.wait(self._saver.hand_over(turn), save_wait_seconds)

    def ids(self) -> dict[str, int]:
        """Return the id of each slice by name, of slices that are gone too."""
        return dict(self._saver.ids)

    def remember_ids(self, ids: Mapping[str, int], now_wall_seconds: float) -> None:
        """Remember the ids of slices by name; they become durable with the next save, in its transaction.

        A name stays remembered for 400 days after its last account and its last mention here, or until its id is given
        to another name. Two names of one id are a bug of ours (ValueError).
        """
        if len(set(ids.values())) < len(ids):
            raise ValueError("two slices of one id")
        self._saver.leave_ids(ids, now_wall_seconds)

    def sights(self) -> Mapping[str, Kept]:
        """Return what was remembered of somebody else's classes, by device, as it was found at opening."""
        return self._sights

    def remember_sights(self, device: str, kept: Kept, now_wall_seconds: float) -> None:
        """Remember the ceilings of somebody else's classes; durable with the next save, in its transaction."""
        self._saver.leave_sights(device, kept, now_wall_seconds)

    def use(
        self,
        device: str,
        slice_name: str,
        traffic: Traffic,
        since: float,
        until: float,
        step: int,
    ) -> list[tuple[int, int]]:
        """Return what a lane sent as (Unix time of the start, bytes), one for each span of `step` seconds, in order.

        Spans begin at multiples of `step`; those that begin before `until` are returned, from the one that holds
        `since`. Spans that nobody watched are left out. `step` is a multiple of 300; sums of five minutes are kept for
        35 days, and those of hours, which a multiple of 3600 reads, for 400 days. Raise ValueError for another step,
        StateRefused if the file is unreadable.
        """
        if step <= 0 or step % use.STEP_SECONDS:
            raise ValueError(f"use is kept in steps of {use.STEP_SECONDS} s: {step} is no multiple of it")
        first, lane = int(since // step) * step, Lane(device, slice_name, traffic)
        sums = _asked(self._path, lambda connection: books.read_use(connection, lane, first, until, step))
        return sorted(sums.items())

    def habits(self, device: str, lanes: tuple[Lane, ...], periods: Periods, now_wall_seconds: float) -> Habits | None:
        """Return what lanes usually send in the hours to come; None where nothing is known. Takes a while.

        Raise StateRefused if the file is unreadable.
        """
        since, until = earliest(periods.length_seconds, now_wall_seconds), int(now_wall_seconds // 3600 * 3600)
        return _asked(
            self._path,
            lambda connection: habits(
                lanes, periods, now_wall_seconds, books.read_hours(connection, device, lanes, since, until)
            ),
        )

    def events(
        self,
        since: float,
        until: float,
        slice_name: str | None = None,
        limit: int = 1000,
        kind: EventKind | None = None,
    ) -> list[Event]:
        """Return the newest `limit` events of [since, until), newest first, of one slice or all, of one kind or all.

        Raise StateRefused if the file is unreadable.
        """
        return read_events(self._path, since, until, slice_name, limit, kind)

    def flush(self, timeout_seconds: float) -> SaveOutcome:
        """Write what still waits, and wait for it no longer than `timeout_seconds`."""
        return self._saver.wait(self._saver.retry(), timeout_seconds)

    def settle(self) -> SaveOutcome:
        """Write what still waits; wait for as long as that goes on, and no longer than some seconds where it does not.

        Each look at it takes a second at most, and whatever has failed is tried anew.
        """
        still, written = 0, self._written()
        for _ in range(_MOST_LOOKS):
            outcome, before = self.flush(1.0), written
            written = self._written()
            still = still + 1 if written == before else 0
            if outcome.saved or still >= _STILL_LOOKS:
                break
        return outcome

    def _written(self) -> list[tuple[int, int]]:
        """Return what differs after something was written."""
        found = list[tuple[int, int]]()
        for path in (self._path, self._path.with_name(f"{self._path.name}-wal")):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_size, status.st_mtime_ns))
        return found

    def close(self, timeout_seconds: float = 5.0) -> SaveOutcome:
        """Write what still waits, end the saver, and give the file free; closing twice is closing once."""
        outcome = self.flush(timeout_seconds)
        self._saver.close(timeout_seconds)
        self._held.close()
        return outcome
