"""The thread that writes turns, so that a slow or failing disk holds no turn up.

Turns what is handed over into outcomes. Knows: what waits, how long a turn waits for it, that a failed write is tried
anew with the next turn, when old rows are forgotten and copies made. Does not know: tables, the daemon's clock (times
come with the turns).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Ledger
from bwexporter.core.sights import Kept
from bwexporter.errors import StateRefused
from bwexporter.state import copies
from bwexporter.state.books import Books, Contents, Turn, joined_ids
from bwexporter.state.pack import Damaged

HOUSEKEEPING_SECONDS = 3600.0

_TROUBLES = (sqlite3.Error, OSError, StateRefused, Damaged)


@dataclass(frozen=True, slots=True)
class SaveOutcome:
    """What became of a save.

    `saved`: the accounts that were handed over, or later ones, are durable. `trouble` says what went wrong, in a
    sentence without a full stop, and is empty where nothing did; a turn may be saved and yet bring trouble to light (a
    copy that failed, a file that had to be restored).
    """

    saved: bool
    trouble: str


class Saver:
    """Owns the writing connection. Everything here may be called from any thread."""

    def __init__(self, path: Path, contents: Contents, *, use_limit_bytes: int) -> None:
        self._path = path
        self._use_limit_bytes = use_limit_bytes
        self._ledgers: dict[str, Ledger] = dict(contents.ledgers)
        self._ids: dict[str, int] = dict(contents.ids)
        self._hand: Hand | None = contents.hand
        self._sights = dict(contents.sights)
        self._changed = threading.Condition()
        self._waiting: Turn | None = None
        self._handed = self._finished = 0
        self._outcome = SaveOutcome(saved=True, trouble="")
        self._closing = False
        self._books: Books | None = None
        self._ids_left_at: float | None = None
        self._suspect = False  # the file may be damaged: look before the next write
        self._restored = False  # the file holds older accounts than the program: write all of them next
        self._notices: list[str] = []
        self._kept_house_at: float | None = None
        self._trusted_seconds = 0.0
        self._copier: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._thread.start()

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each slice by name, as handed over last."""
        return self._ids

    def leave_ids(self, ids: Mapping[str, int], at: float) -> None:
        """Leave ids to be written with the next turn; those that are known already are written once an hour."""
        with self._changed:
            due = self._ids_left_at is None or not 0 <= at - self._ids_left_at < HOUSEKEEPING_SECONDS
            turn = Turn(at, ids=ids if due else {name: key for name, key in ids.items() if self._ids.get(name) != key})
            self._ids_left_at = at if due else self._ids_left_at
            self._join(turn)

    def leave_sights(self, device: str, kept: Kept, at: float) -> None:
        """Leave what was seen of somebody else's classes to be written with the next turn."""
        with self._changed:
            self._sights[device] = kept
            self._join(Turn(at, sights={device: kept}))

    def hand_over(self, turn: Turn) -> int:
        """Leave a turn to the thread, and return a ticket to wait with."""
        turn = self._packed_ahead(turn)
        with self._changed:
            self._ledgers.update(turn.ledgers)
            self._hand = turn.hand or self._hand
            self._join(turn)
            self._handed += 1
            self._changed.notify_all()
            return self._handed

    def _packed_ahead(self, turn: Turn) -> Turn:
        """Pack the ledgers here and now, where that can be done; what fails here fails in the thread, and is told."""
        if (books := self._books) is not None:
            with suppress(Exception):
                packed = {device: books.pack(ledger) for device, ledger in turn.ledgers.items()}
                return replace(turn, packed={device: one for device, one in packed.items() if one is not None})
        return turn

    def _join(self, turn: Turn) -> None:
        self._ids = joined_ids(self._ids, turn.ids)
        self._waiting = turn if self._waiting is None else self._waiting.followed_by(turn)

    def wait(self, ticket: int, seconds: float) -> SaveOutcome:
        """Wait for what was handed over up to a ticket, and say what became of it."""
        with self._changed:
            if self._changed.wait_for(lambda: self._finished >= ticket, seconds):
                return self._outcome
        return SaveOutcome(saved=False, trouble=f"the turn was still being saved after {seconds:g} s")

    def retry(self) -> int:
        """Have whatever waits written, also what failed before; return a ticket."""
        with self._changed:
            if self._waiting is not None:
                self._handed += 1
                self._changed.notify_all()
            return self._handed

    def close(self, seconds: float) -> None:
        """End the thread after what was handed over; one that hangs in the kernel is left to the end of the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            ticket, turn = taken
            trouble = self._try(partial(self._write, turn))
            with self._changed:
                if trouble:
                    self._waiting = turn if self._waiting is None else turn.followed_by(self._waiting)
                self._finished, self._outcome = ticket, self._outcome_of(trouble)
                self._changed.notify_all()
            if not trouble and (trouble := self._try(partial(self._keep_house, turn.at_wall_seconds))):
                self._note(f"old rows could not be forgotten: {trouble}")
        if self._copier is not None:
            self._copier.join()
        self._close_books()

    def _take(self) -> tuple[int, Turn] | None:
        """Wait for a turn; return it with the last ticket that it covers, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._handed > self._finished)
            if self._handed == self._finished or self._waiting is None:
                return None
            turn, self._waiting = self._waiting, None
            return self._handed, turn

    def _try(self, work: Callable[[], None]) -> str:
        """Do a piece of work; return what went wrong, in words. The file is then closed, and opened anew next time."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  # a bug must show as a failed save, not as a thread that is gone
            self._suspect = self._suspect or copies.is_damage(error)
            self._close_books()
            return _in_words(error)
        return ""

    def _outcome_of(self, trouble: str) -> SaveOutcome:
        if trouble:
            return SaveOutcome(saved=False, trouble=f"the turn could not be saved: {trouble}")
        notices, self._notices = self._notices, []
        return SaveOutcome(saved=True, trouble="; ".join(notices))

    def _write(self, turn: Turn) -> None:
        books = self._sound_books(turn.at_wall_seconds)
        if self._restored:
            with self._changed:
                known = Turn(
                    turn.at_wall_seconds, dict(self._ledgers), ids=self._ids, hand=self._hand, sights=self._sights
                )
                turn = known.followed_by(turn)
        books.write(turn)
        self._restored = False
        if turn.dropped_events:
            self._note(f"{turn.dropped_events} events were dropped while nothing could be saved")

    def _sound_books(self, at: float) -> Books:
        """Return the open file; one that vanished or proved damaged while the program ran is restored first."""
        if self._books is not None and self._books.stand() and not self._suspect:
            return self._books
        self._close_books()
        vanished = not self._path.exists()
        if vanished or self._suspect:
            copies.refuse_places(self._path)
            text = copies.make_usable(self._path, at, accounts_known=True).text
            if text or vanished:
                self._note(text or f"{self._path} was made anew")
            self._suspect, self._restored = False, True
        self._books = Books(self._path)
        return self._books

    def _close_books(self) -> None:
        if self._books is not None:
            with suppress(sqlite3.Error):
                self._books.close()
        self._books = None

    def _keep_house(self, at: float) -> None:
        """Once an hour forget what is old and begin a copy.

        What is old is judged by a clock that runs at most twice as fast as the hours pass here, so that a wall clock
        that was stepped years ahead by mistake costs no history.
        """
        last = self._kept_house_at
        if last is not None and 0 <= at - last < HOUSEKEEPING_SECONDS:
            return
        self._kept_house_at = at
        self._trusted_seconds = min(at, self._trusted_seconds + 2 * HOUSEKEEPING_SECONDS) if last is not None else at
        if last is not None or not copies.has_fresh_copy(self._path, at, HOUSEKEEPING_SECONDS):
            self._begin_copy()
        if self._books is not None:
            self._books.forget_old(self._trusted_seconds, self._use_limit_bytes)

    def _begin_copy(self) -> None:
        """Copy in a thread of its own: a copy takes as long as the disk likes, and turns go on being saved."""
        if self._copier is None or not self._copier.is_alive():
            self._copier = threading.Thread(target=self._copy, name="state-copy", daemon=True)
            self._copier.start()

    def _copy(self) -> None:
        try:
            copies.write_copy(self._path)
        except _TROUBLES as error:
            # A copy that is not good may come from a file that is not: the next turn looks at it before it writes.
            self._suspect = self._suspect or copies.is_damage(error)
            self._note(f"the state file could not be copied: {_in_words(error)}")

    def _note(self, text: str) -> None:
        """Keep a sentence for the next outcome."""
        with self._changed:
            self._notices.append(text)


def _in_words(error: Exception) -> str:
    """Say what went wrong; SQLite's own name says which of the many input and output errors it was."""
    if isinstance(error, sqlite3.Error):
        return f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    return str(error) if isinstance(error, _TROUBLES) else repr(error)
