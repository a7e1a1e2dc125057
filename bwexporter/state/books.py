"""What a turn leaves behind, written in one transaction, and what a start finds.

Turns a Turn into rows, and rows into Contents. Knows: which row holds what, and that one commit makes all of a turn
durable or nothing. Does not know: threads, copies, what to do when a write fails (its user opens new books).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bwexporter.core.hand import Hand
from bwexporter.core.lanes import I8, Lane, Ledger, Rings, Traffic
from bwexporter.core.places import find
from bwexporter.core.report import Event, EventKind
from bwexporter.core.sights import Kept
from bwexporter.state import schema, use
from bwexporter.state.orders import pack_hand, unpack_hand
from bwexporter.state.pack import Damaged, Packed, Stored, pack_ledger, pack_past, unpack_columns, unpack_ledger

KEPT_SECONDS = 400 * 86400.0
"""How long events are kept, and names (lanes, ids) that no account and no turn has named since."""

MOST_WAITING_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What waits to be written."""

    at_wall_seconds: float
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)  # by device
    events: tuple[Event, ...] = ()
    ids: Mapping[str, int] = field(default_factory=dict)  # by slice
    dropped_events: int = 0
    hand: Hand | None = None  # None: as it is
    sights: Mapping[str, Kept] = field(default_factory=dict)  # by device; those of others are as they are
    packed: Mapping[str, Packed] = field(default_factory=dict)  # ledgers whose bytes are there already, by device

    def followed_by(self, later: Turn) -> Turn:
        """Join two turns: of all the later, but of events both, up to a bound that drops the oldest."""
        events = self.events + later.events
        return Turn(
            at_wall_seconds=later.at_wall_seconds,
            ledgers={**self.ledgers, **later.ledgers},
            events=events[-MOST_WAITING_EVENTS:],
            ids=joined_ids(self.ids, later.ids),
            dropped_events=self.dropped_events + later.dropped_events + max(0, len(events) - MOST_WAITING_EVENTS),
            hand=later.hand or self.hand,
            sights={**self.sights, **later.sights},
            packed={**self.packed, **later.packed},
        )


def joined_ids(earlier: Mapping[str, int], later: Mapping[str, int]) -> dict[str, int]:
    """Join ids by slice: the later ones stand, and a name whose id now belongs to another name has none."""
    taken = set(later.values())
    return {name: slice_id for name, slice_id in earlier.items() if slice_id not in taken} | dict(later)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a state file holds for a start."""

    ledgers: dict[str, Ledger]
    ids: dict[str, int]
    lost_at_wall_seconds: float | None
    hand: Hand | None = None  # None: nothing was ever set by hand
    sights: Mapping[str, Kept] = field(default_factory=dict)  # of devices with somebody else's tree


@dataclass(frozen=True, slots=True)
class _Rows:
    """The keys of a ledger's lanes, row by row; computed once for as long as the lanes stay the same."""

    lanes: tuple[Lane, ...]
    lane_ids: I8
    ascending: I8 | slice  # rows in the order of their keys
    ascending_ids: I8


def read_contents(connection: sqlite3.Connection) -> Contents:
    """Read and check all accounts; raise Damaged if one is not whole."""
    lanes, pasts = _lanes(connection), dict[str, bytes]()
    if schema.version_of(connection) >= schema.FIRST_VERSION_WITH_RINGS:
        pasts = dict(connection.execute("SELECT device, packed FROM rings"))
    ledgers = {
        device: unpack_ledger(device, packed, lanes, pasts.get(device))
        for device, packed in connection.execute("SELECT device, packed FROM accounts")
    }
    for (packed,) in connection.execute("SELECT packed FROM use_openings"):
        use.unpack_sums(packed)
    lost = connection.execute("SELECT value FROM facts WHERE key = 'lost_at'").fetchone()
    had_orders = schema.version_of(connection) >= schema.FIRST_VERSION_WITH_ORDERS  # an older file may be looked into
    hand = connection.execute("SELECT packed FROM hand").fetchone() if had_orders else None
    return Contents(
        ledgers,
        dict(connection.execute("SELECT slice, id FROM ids")),
        None if lost is None else lost[0],
        None if hand is None else unpack_hand(hand[0]),
        _sights(connection),
    )


def _sights(connection: sqlite3.Connection) -> dict[str, Kept]:
    if schema.version_of(connection) < schema.FIRST_VERSION_WITH_SIGHTS:
        return {}
    found: dict[str, Kept] = {}
    for device, handle, ceiling, boot_id, ifindex in connection.execute(
        "SELECT device, handle, ceiling, boot_id, ifindex FROM sights ORDER BY device, handle"
    ):
        before = found.get(device, Kept(boot_id, ifindex, {}))
        found[device] = Kept(boot_id, ifindex, {**before.found, handle: ceiling})
    return found


def _lanes(connection: sqlite3.Connection) -> dict[int, Lane]:
    rows = connection.execute("SELECT id, device, slice, traffic FROM lanes")
    once: dict[str, str] = {}  # of all lanes that have a name each one has the same text, not a copy of its own
    same = once.setdefault
    try:
        return {key: Lane(same(device, device), same(name, name), Traffic(kind)) for key, device, name, kind in rows}
    except ValueError as error:
        raise Damaged(f"a lane is wrong: {error}") from error


def read_use(connection: sqlite3.Connection, lane: Lane, since: int, until: float, step: int) -> dict[int, int]:
    """Return what a lane sent by start of each span of `step` seconds, the interval that runs included."""
    connection.execute("BEGIN")  # one view of sums, opening and accounts, whatever is saved meanwhile
    key = (lane.device, lane.slice_name, lane.traffic.value)
    row = connection.execute("SELECT id FROM lanes WHERE (device, slice, traffic) = (?, ?, ?)", key).fetchone()
    if row is None:
        return {}
    sums = use.read(connection, lane.device, row[0], since, until, step)
    opening, look = _opening(connection, lane.device), _last_look(connection, lane.device)
    if opening is not None and look is not None and since <= opening.start < until:
        span = opening.start - opening.start % step
        sums[span] = sums.get(span, 0) + look.sent.of(row[0]) - opening.sent.of(row[0])
    return sums


def read_uses(
    connection: sqlite3.Connection, device: str, lanes: Sequence[Lane], since: int, until: int
) -> dict[int, list[int]]:
    """Return what each of the lanes sent in every five minutes, by the start of the interval."""
    keys = {lane: key for key, lane in _lanes(connection).items()}
    wanted = [keys.get(lane, -1) for lane in lanes]
    return {start: [sums.of(key) for key in wanted] for start, sums in use.read_all(connection, device, since, until)}


def read_hours(
    connection: sqlite3.Connection, device: str, lanes: Sequence[Lane], since: int, until: int
) -> Iterator[tuple[int, I8]]:
    """Yield every hour of a span that somebody watched, with what each of the lanes sent in it, oldest first."""
    keys = {lane: key for key, lane in _lanes(connection).items()}
    wanted = np.array([keys.get(lane, -1) for lane in lanes], np.int64)
    for start, sums in use.read_all(connection, device, since, until, use.HOUR_SECONDS):
        row, present = find(sums.lane_ids, wanted)
        yield start, np.where(present, sums.sent_bytes[row], 0) if len(sums) else np.zeros(len(lanes), np.int64)


def _opening(connection: sqlite3.Connection, device: str) -> use.Opening | None:
    row = connection.execute("SELECT start, packed FROM use_openings WHERE device = ?", (device,)).fetchone()
    return None if row is None else use.Opening(row[0], use.unpack_sums(row[1]))


def _last_look(connection: sqlite3.Connection, device: str) -> use.Look | None:
    row = connection.execute("SELECT packed FROM accounts WHERE device = ?", (device,)).fetchone()
    if row is None:
        return None
    header, columns = unpack_columns(row[0])
    return _look(header["wall_seconds"], columns["lane"], columns["accounts.sent_bytes"])


def _goes_on(opening: use.Opening, before: Ledger, now: Ledger) -> bool:
    """Say whether nothing of the use is to be written between two looks: the same accounts, in the interval that runs.

    Where accounts come or go the counters' column of them is made anew.
    """
    same_accounts = before.counters.account is now.counters.account
    return same_accounts and opening.start <= now.at.wall_seconds < opening.start + use.STEP_SECONDS


def _seen(ledger: Ledger, rows: _Rows) -> use.Look:
    sent_bytes = ledger.accounts.sent_bytes[rows.ascending]
    return use.Look(ledger.at.wall_seconds, use.Sums(rows.ascending_ids, sent_bytes))


def _look(wall_seconds: float, lane_ids: I8, sent_bytes: I8) -> use.Look:
    ascending = np.argsort(lane_ids)
    return use.Look(wall_seconds, use.Sums(lane_ids[ascending], sent_bytes[ascending]))


def read_events(
    connection: sqlite3.Connection,
    since: float,
    until: float,
    slice_name: str | None,
    limit: int,
    kind: EventKind | None = None,
) -> list[Event]:
    """Return the newest events of a span, newest first, of one slice or of all, of one kind or of all."""
    kinds = [one.value for one in EventKind if kind in {None, one}]
    rows = connection.execute(
        f"""SELECT at, kind, device, slice, traffic, inputs FROM events
        WHERE at >= ? AND at < ? AND (? IS NULL OR slice = ?) AND kind IN ({", ".join("?" * len(kinds))})
        ORDER BY at DESC, number DESC LIMIT ?""",  # noqa: S608  # the text joined in is question marks alone
        (since, until, slice_name, slice_name, *kinds, limit),
    )
    return [
        Event(at, EventKind(kind), device, name and Lane(device, name, Traffic(traffic)), json.loads(inputs))
        for at, kind, device, name, traffic, inputs in rows
    ]


def read_by_hand(connection: sqlite3.Connection, until: float) -> list[Event]:
    """Return all that is known of orders by hand before an instant, oldest first."""
    rows = connection.execute(
        "SELECT at, device, slice, traffic, inputs FROM events WHERE kind = ? AND at < ? ORDER BY at, number",
        (EventKind.BY_HAND.value, until),
    )
    return [
        Event(at, EventKind.BY_HAND, device, name and Lane(device, name, Traffic(traffic)), json.loads(inputs))
        for at, device, name, traffic, inputs in rows
    ]


class Books:
    """One open state file, and what was last written to it. After an error it must be closed and opened anew."""

    def __init__(self, path: Path) -> None:
        """Open the file, which has to exist; raise sqlite3.Error or Damaged."""
        self._path = path
        self._connection = schema.connect(path, mode="rw")
        self._inode = self._inode_of_path()
        self._lane_ids = {lane: key for key, lane in _lanes(self._connection).items()}
        devices = [device for (device,) in self._connection.execute("SELECT device FROM accounts")]
        self._looks = {device: _last_look(self._connection, device) for device in devices}
        self._openings = {device: _opening(self._connection, device) for device in devices}
        self._last: dict[str, tuple[Ledger, _Rows]] = {}  # looks that were written last, by device
        self._rows: dict[str, _Rows] = {}
        self._packed: dict[str, dict[str, Stored]] = {}
        self._pasts: dict[str, I8 | None] = {}  # of rings, as written
        self._written_tokens: tuple[str, ...] | None = None
        self._had_orders = True

    def _inode_of_path(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino

    def stand(self) -> bool:
        """Say whether the open file is the one that has the name: a deleted one takes writes for nothing."""
        try:
            return self._inode == self._inode_of_path()
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file; an unfinished transaction did not happen."""
        self._connection.close()

    def write(self, turn: Turn) -> None:
        """Write a turn in one transaction, durable when this returns; raise sqlite3.Error."""
        self._connection.execute("BEGIN IMMEDIATE")
        for ledger in turn.ledgers.values():
            self._write_ledger(ledger, turn.at_wall_seconds, turn.packed.get(ledger.device))
        if turn.events:
            self._write_events(turn.events)
        if turn.ids:
            self._connection.executemany(
                "INSERT OR REPLACE INTO ids VALUES (?, ?, ?)",
                [(slice_name, slice_id, turn.at_wall_seconds) for slice_name, slice_id in turn.ids.items()],
            )
        self._write_hand(turn.hand)
        self._write_sights(turn.sights)
        self._connection.execute("COMMIT")

    def _write_sights(self, sights: Mapping[str, Kept]) -> None:
        for device, kept in sights.items():
            self._connection.execute("DELETE FROM sights WHERE device = ?", (device,))
            self._connection.executemany(
                "INSERT INTO sights VALUES (?, ?, ?, ?, ?)",
                [(device, handle, ceiling, kept.boot_id, kept.ifindex) for handle, ceiling in kept.found.items()],
            )

    def _write_hand(self, hand: Hand | None) -> None:
        """Write what is set by hand; with no order in force, only what changed."""
        if hand is None or (not hand.orders and hand.tokens == self._written_tokens and not self._had_orders):
            return
        self._connection.execute("INSERT OR REPLACE INTO hand VALUES (1, ?)", (pack_hand(hand),))
        self._written_tokens, self._had_orders = hand.tokens, bool(hand.orders)

    def pack(self, ledger: Ledger) -> Packed | None:
        """Make the bytes of a ledger, where the keys of its lanes are known; for any thread.

        Whoever has just made the columns packs them in half the time that it takes another processor later.
        """
        known = self._rows.get(ledger.device)
        if known is None or known.lanes is not ledger.lanes:
            return None
        return Packed(ledger, known.lane_ids, self._bytes_of(ledger, known.lane_ids))

    def _bytes_of(self, ledger: Ledger, lane_ids: I8) -> bytes:
        return pack_ledger(ledger, lane_ids, self._packed.setdefault(ledger.device, {}))

    def _write_ledger(self, ledger: Ledger, at: float, packed: Packed | None) -> None:
        rows = self._rows_of(ledger, at)
        self._write_use(ledger, rows)
        if packed is None or packed.ledger is not ledger or packed.lane_ids is not rows.lane_ids:
            packed = Packed(ledger, rows.lane_ids, self._bytes_of(ledger, rows.lane_ids))
        self._connection.execute(
            """INSERT INTO accounts VALUES (?, ?, ?)
            ON CONFLICT (device) DO UPDATE SET saved_at = excluded.saved_at, packed = excluded.packed""",
            (ledger.device, at, packed.data),
        )
        self._write_past(ledger.device, ledger.rings)

    def _write_past(self, device: str, rings: Rings | None) -> None:
        """Write what rings hold of the slots that ended, where that is not what was written last."""
        past = None if rings is None else rings.past_bytes
        if device in self._pasts and self._pasts[device] is past:
            return
        if rings is None:
            self._connection.execute("DELETE FROM rings WHERE device = ?", (device,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO rings VALUES (?, ?)", (device, pack_past(rings)))
        self._pasts[device] = past

    def _rows_of(self, ledger: Ledger, at: float) -> _Rows:
        known = self._rows.get(ledger.device)
        if known is None or (known.lanes is not ledger.lanes and known.lanes != ledger.lanes):
            lane_ids = np.array([self._lane_ids.get(lane) or self._enter(lane, at) for lane in ledger.lanes], np.int64)
            ascending = slice(None) if (lane_ids[1:] > lane_ids[:-1]).all() else np.argsort(lane_ids)
            known = self._rows[ledger.device] = _Rows(ledger.lanes, lane_ids, ascending, lane_ids[ascending])
        return known

    def _enter(self, lane: Lane, at: float) -> int:
        key = (lane.device, lane.slice_name, lane.traffic.value)
        entered = self._connection.execute(
            "INSERT INTO lanes (device, slice, traffic, seen_at) VALUES (?, ?, ?, ?)",
            (*key, at),
        )
        if entered.lastrowid is None:
            raise Damaged(f"no key was given to {lane}")
        self._lane_ids[lane] = entered.lastrowid
        return entered.lastrowid

    def _write_use(self, ledger: Ledger, rows: _Rows) -> None:
        device, opening = ledger.device, self._openings.get(ledger.device)
        last = self._last.pop(device, None)
        if opening is not None and last is not None and _goes_on(opening, last[0], ledger):
            self._last[device] = ledger, rows
            return
        before = _seen(*last) if last is not None else self._looks.get(device)
        closed, following = use.follow(opening, before, _seen(ledger, rows))
        for start, sums in closed:
            use.record(self._connection, device, start, sums)
        if following is not opening:
            self._connection.execute(
                "INSERT OR REPLACE INTO use_openings VALUES (?, ?, ?)",
                (device, following.start, use.pack_sums(following.sent)),
            )
        self._last[device], self._openings[device] = (ledger, rows), following

    def _write_events(self, events: Sequence[Event]) -> None:
        self._connection.executemany(
            "INSERT INTO events (at, kind, device, slice, traffic, inputs) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    event.at_wall_seconds,
                    event.kind.value,
                    event.device,
                    event.lane and event.lane.slice_name,
                    event.lane and event.lane.traffic.value,
                    json.dumps(dict(event.inputs), default=_plain),
                )
                for event in events
            ],
        )

    def forget_old(self, now: float, use_limit_bytes: int) -> None:
        """Forget what is older than it is kept for, in one transaction; raise sqlite3.Error or Damaged."""
        execute, horizon = self._connection.execute, now - KEPT_SECONDS
        execute("BEGIN IMMEDIATE")
        for (packed,) in execute("SELECT packed FROM accounts").fetchall():
            keys = unpack_columns(packed)[1]["lane"].tolist()
            self._connection.executemany("UPDATE lanes SET seen_at = ? WHERE id = ?", [(now, key) for key in keys])
        execute("UPDATE ids SET used_at = ? WHERE slice IN (SELECT slice FROM lanes WHERE seen_at = ?)", (now, now))
        execute("DELETE FROM lanes WHERE seen_at < ?", (horizon,))
        execute("DELETE FROM ids WHERE used_at < ?", (horizon,))
        execute("DELETE FROM events WHERE at < ?", (horizon,))
        use.purge(self._connection, now, use_limit_bytes)
        execute("COMMIT")
        self._lane_ids = {lane: key for key, lane in _lanes(self._connection).items()}


def _plain(value: object) -> object:
    """Say in JSON what JSON has no word for: NumPy's numbers as numbers, anything else as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)
