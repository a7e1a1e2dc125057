"""The state file as the daemon uses it."""

import base64
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bwexporter.core import policies, rings
from bwexporter.core.lanes import Lane, Ledger, Rings, Traffic
from bwexporter.core.plans import Policy
from bwexporter.core.report import Event, EventKind
from bwexporter.errors import StateRefused
from bwexporter.state import SaveOutcome, State, open_state, schema
from tests.builders import make_tariffs
from tests.kernel.daemon_rig import NOBODY, readable_by_nobody
from tests.state_cases import NOON, event, ledger, same, save
from tests.waiting import PATIENCE_SECONDS

DAY = 86400
ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the state file of a test lies."""
    return tmp_path / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    """Return an open, new state file."""
    opened = open_state(path, now_wall_seconds=NOON)
    yield opened
    opened.close(PATIENCE_SECONDS)


@pytest.fixture
def version_1(path: Path) -> Path:
    """Return a file that the program of version 1 wrote."""
    path.write_bytes(zlib.decompress(base64.decodebytes((ROOT / "tests/data/state_v1.b64").read_bytes())))
    return path


def numbers(events: list[Event]) -> list[int | float | str]:
    """Return the numbers that events carry."""
    return [one.inputs["number"] for one in events]


def test_a_first_start_finds_nothing_and_reports_nothing(state: State) -> None:
    assert (state.load(), state.ids(), state.recovered, state.lost) == ({}, {}, "", False)
    assert state.lost_at_wall_seconds is None


def test_accounts_of_departed_and_of_several_devices_come_back(state: State, path: Path) -> None:
    first, second = ledger({"a": 1, "gone": 2}), ledger({"a": 3}, device="eth1")
    assert save(state, [first, second], [], NOON) == SaveOutcome(saved=True, trouble="")
    later = ledger({"gone": 2, "a": 9})
    assert save(state, [later], [], NOON).saved  # an early look knows of one device alone
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON)
    assert same(again.load()["eth0"], later)
    assert same(again.load()["eth1"], second)
    again.close(PATIENCE_SECONDS)


def test_ids_are_durable_with_the_next_save_and_a_reused_id_leaves_its_old_name(state: State, path: Path) -> None:
    state.remember_ids({"a": 1, "b": 2, "c": 3}, NOON)
    save(state, [], [], NOON)
    state.remember_ids({"a": 2, "b": 1}, NOON)
    state.remember_ids({"d": 3}, NOON)
    save(state, [], [], NOON)
    assert state.ids() == {"a": 2, "b": 1, "d": 3}
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON)
    assert again.ids() == {"a": 2, "b": 1, "d": 3}
    again.close(PATIENCE_SECONDS)


def test_two_names_of_one_id_are_refused(state: State) -> None:
    with pytest.raises(ValueError, match="two slices of one id"):
        state.remember_ids({"a": 1, "b": 1}, NOON)


def test_names_without_an_account_are_forgotten_after_400_days(path: Path) -> None:
    for days, ids in ((0, {"a": 1, "b": 2}), (399, {}), (402, {}), (803, {})):
        state = open_state(path, now_wall_seconds=NOON)
        state.remember_ids(ids, NOON + days * DAY)
        sent = {"a": 1, "c": 1} if days < 800 else {"a": 1}
        assert save(state, [ledger(sent, wall=NOON + days * DAY)], [], NOON + days * DAY).saved
        state.close(PATIENCE_SECONDS)
    state = open_state(path, now_wall_seconds=NOON)
    assert state.ids() == {"a": 1}
    assert same(state.load()["eth0"], ledger({"a": 1}, wall=NOON + 803 * DAY))
    state.close(PATIENCE_SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT slice FROM lanes").fetchall() == [("a",)]


def test_events_come_back_whole_newest_first_and_by_slice(state: State) -> None:
    lane = Lane("eth0", "a", Traffic.EXEMPT)
    inputs = {"used": 1 << 62, "elapsed": 1 / 3, "rule": "paced", "counted": np.int64(5)}
    told = [
        Event(NOON, EventKind.VERDICT, "eth0", lane, inputs),
        Event(NOON + 1, EventKind.CLOCK_STEPPED, "eth0", None, {}),
        event(3, wall=NOON + 2, slice_name="b"),
    ]
    save(state, [], told, NOON)
    assert state.events(NOON, NOON + 3) == told[::-1]
    assert state.events(NOON, NOON + 3, slice_name="a") == [told[0]]
    assert state.events(NOON, NOON + 2, limit=1) == [told[1]]
    assert state.events(NOON + 3, NOON + 4) == []


def test_events_are_kept_for_400_days(path: Path) -> None:
    for days in (0, 399, 401):
        state = open_state(path, now_wall_seconds=NOON)
        save(state, [], [event(days, wall=NOON + days * DAY)], NOON + days * DAY)
        state.close(PATIENCE_SECONDS)
    state = open_state(path, now_wall_seconds=NOON)
    assert numbers(state.events(0, NOON + 999 * DAY)) == [401, 399]
    state.close(PATIENCE_SECONDS)


def test_a_clock_that_jumps_by_years_while_running_costs_no_history(state: State) -> None:
    for wall in (NOON, NOON + 5000 * DAY, NOON + 10):
        save(state, [ledger({"a": 5}, wall=wall)], [event(1, wall=wall)], wall)
    assert state.flush(PATIENCE_SECONDS).saved
    assert len(state.events(NOON, NOON + 20)) == 2
    assert state.use("eth0", "a", Traffic.NORMAL, NOON, NOON + 1, 300) == [(NOON, 5)]


def test_a_save_that_stalls_returns_in_time_and_the_latest_accounts_and_all_events_come_later(
    state: State,
    path: Path,
) -> None:
    save(state, [ledger({"a": 1})], [], NOON)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        stalled = [state.save([ledger({"a": 2 + n})], [event(n)], NOON, save_wait_seconds=0.05) for n in range(3)]
        other.execute("ROLLBACK")
    assert stalled == [SaveOutcome(saved=False, trouble="the turn was still being saved after 0.05 s")] * 3
    assert state.flush(PATIENCE_SECONDS).saved
    assert sorted(numbers(state.events(0, NOON + 1))) == [0, 1, 2]
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON)
    assert same(again.load()["eth0"], ledger({"a": 4}))
    again.close(PATIENCE_SECONDS)


def test_the_last_save_is_waited_for_while_another_process_holds_the_file(state: State, path: Path) -> None:
    """Longer than a turn waits, and than SQLite does."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        stalled = state.save([ledger({"a": 2})], [], NOON, save_wait_seconds=0.05)
        release = threading.Timer(2.0, other.execute, ["ROLLBACK"])
        release.start()
        settled = state.settle()
        release.join()

    assert (stalled.saved, settled.saved) == (False, True)


def test_events_that_wait_are_bounded_and_the_dropped_ones_are_told(state: State, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for turn in range(4):
            state.save([], [event(turn * 4000 + n) for n in range(4000)], NOON, save_wait_seconds=0.02)
        other.execute("ROLLBACK")
    outcome = state.flush(PATIENCE_SECONDS)
    kept = numbers(state.events(0, NOON + 1, limit=99_999))
    assert kept[0] == 15_999
    assert 10_000 <= len(kept) < 16_000
    assert outcome.saved
    assert outcome.trouble == f"{16_000 - len(kept)} events were dropped while nothing could be saved"


def test_a_full_disk_stops_nothing_but_saving_and_one_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$0" -m tests.state_cases full "$1"'
    mounted = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unshare failed" in mounted.stderr:
        pytest.skip("this machine allows no user namespaces")
    full, loaded, still_full, room, events, restarted, refused = mounted.stdout.splitlines()
    trouble = "the turn could not be saved: database or disk is full (SQLITE_FULL)"
    assert full == repr(SaveOutcome(saved=False, trouble=trouble))
    assert (still_full, room, events) == ("False", "True", "[3, 2]")
    assert loaded == restarted == "True "
    assert "cannot be written to" in refused


def test_a_file_that_vanishes_while_the_program_runs_is_made_anew_with_all_accounts(path: Path) -> None:
    now = time.time()
    state = open_state(path, now_wall_seconds=now)
    state.remember_ids({"a": 1}, now)
    save(state, [ledger({"a": 1}), ledger({"b": 2}, device="eth1")], [], now)
    state.close(PATIENCE_SECONDS)
    state = open_state(path, now_wall_seconds=now)
    for _ in range(2):  # there is a fresh copy, so that after the second save none is under way
        save(state, [], [], now)
    for file in path.parent.glob("state.db*"):
        file.unlink()
    outcome = save(state, [ledger({"a": 3})], [event(1)], now)
    assert outcome == SaveOutcome(saved=True, trouble=f"{path} was made anew")
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=now)
    assert same(again.load()["eth0"], ledger({"a": 3}))
    assert same(again.load()["eth1"], ledger({"b": 2}, device="eth1"))
    assert (again.ids(), again.lost) == ({"a": 1}, False)
    again.close(PATIENCE_SECONDS)


def test_a_second_program_is_refused_the_file_until_the_first_is_gone(state: State, path: Path) -> None:
    with pytest.raises(StateRefused, match="another bwexporter uses the state file"):
        open_state(path, now_wall_seconds=NOON)
    state.close(PATIENCE_SECONDS)
    open_state(path, now_wall_seconds=NOON).close()


def test_a_file_of_version_1_is_read_by_this_program(version_1: Path) -> None:
    state = open_state(version_1, now_wall_seconds=NOON)
    assert state.recovered == ""
    found = state.load()["eth0"]
    assert [lane.slice_name for lane in found.lanes] == ["a", "b"]
    assert found.accounts.sent_bytes.tolist() == [1310, 2000]
    assert (found.ifindex, found.at.boot_id, found.wall_offset_seconds) == (7, "0f0e", -1 / 3)
    assert state.ids() == {"a": 7}
    assert numbers(state.events(0, NOON + 999)) == [310, 10, 0]
    assert state.use("eth0", "a", Traffic.NORMAL, 0, NOON + 999, 300) == [(NOON, 1300), (NOON + 300, 10)]
    state.close(PATIENCE_SECONDS)


def sliding_ledger(newest: int, past: np.ndarray, *, wall: float = NOON) -> Ledger:
    """Return a ledger whose second lane has a window."""
    before = ledger({"a": 310, "b": 1000}, wall=wall)
    row = (np.array([1]), np.array([86_400.0]), np.array([np.inf]), np.array([944_444]), np.array([newest]))
    return replace(before, rings=Rings(*row, past_bytes=past))


def test_windows_come_back_and_their_past_is_written_only_when_a_slot_ends(state: State, path: Path) -> None:
    """The slot that runs is saved with every turn; a device that has no window any more leaves no row."""
    past = np.arange(48)[None, :]
    assert save(state, [sliding_ledger(7, past)], [], NOON).saved
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE written (device TEXT)")
        connection.execute(
            "CREATE TRIGGER seen AFTER INSERT ON rings BEGIN INSERT INTO written VALUES (new.device); END"
        )
        connection.commit()
    for newest in (8, 9):
        assert save(state, [sliding_ledger(newest, past, wall=NOON + newest)], [], NOON + newest).saved
    assert save(state, [sliding_ledger(1, past + 1, wall=NOON + 10)], [], NOON + 10).saved
    state.close(PATIENCE_SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM written").fetchone() == (1,)
        connection.execute("DROP TRIGGER seen")
        connection.execute("DROP TABLE written")
        connection.commit()

    again = open_state(path, now_wall_seconds=NOON)
    assert same(again.load()["eth0"], sliding_ledger(1, past + 1, wall=NOON + 10))
    assert save(again, [ledger({"a": 310}, wall=NOON + 20)], [], NOON + 20).saved
    again.close(PATIENCE_SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM rings").fetchone() == (0,)


def test_a_file_of_before_sliding_windows_opens_without_any(version_1: Path) -> None:
    """And the lanes that then have one begin with what they used in their periods."""
    state = open_state(version_1, now_wall_seconds=NOON)
    found = state.load()["eth0"]
    state.close(PATIENCE_SECONDS)
    assert found.rings is None
    tariffs = make_tariffs(2, policies={0: Policy(sliding_seconds=86_400.0)})

    begun = rings.enrolled(found, tariffs)

    assert policies.counting(begun).accounts.used_bytes.tolist() == found.accounts.used_bytes.tolist()
    assert begun.rings is not None
    assert begun.rings.newest_bytes.tolist() == [found.accounts.used_bytes[0]]


def test_migrations_are_applied_in_order_from_the_version_that_is_found(version_1: Path) -> None:
    """A later program's list, tried on a file of version 1."""
    later = (
        *schema.MIGRATIONS,
        lambda connection: connection.execute("ALTER TABLE ids ADD COLUMN note TEXT DEFAULT 'none'"),
        lambda connection: connection.execute("UPDATE ids SET note = 'new'"),
    )
    with closing(schema.connect(version_1, mode="rw")) as connection:
        schema.migrate(connection, later)
        assert schema.version_of(connection) == len(later)
        assert connection.execute("SELECT slice, id, note FROM ids").fetchall() == [("a", 7, "new")]
        schema.migrate(connection, later)
    with pytest.raises(StateRefused, match=f"state version {len(later)}"):
        open_state(version_1, now_wall_seconds=NOON)


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS) + 1))
def test_every_older_version_is_brought_up_with_all_that_it_holds(version_1: Path, version: int) -> None:
    """Whichever release wrote it last."""
    with closing(schema.connect(version_1, mode="rw")) as connection:
        schema.migrate(connection, schema.MIGRATIONS[:version])
        assert schema.version_of(connection) == version
    state = open_state(version_1, now_wall_seconds=NOON)
    assert (state.recovered, state.ids()) == ("", {"a": 7})
    assert state.load()["eth0"].accounts.sent_bytes.tolist() == [1310, 2000]
    assert state.use("eth0", "a", Traffic.NORMAL, 0, NOON + 999, 300) == [(NOON, 1300), (NOON + 300, 10)]
    state.close(PATIENCE_SECONDS)
    with closing(schema.connect(version_1, mode="ro")) as connection:
        assert schema.version_of(connection) == len(schema.MIGRATIONS)


def test_a_migration_that_fails_leaves_the_old_version_whole(version_1: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TABLE ids")
        connection.execute("not a statement")

    with closing(schema.connect(version_1, mode="rw")) as connection, pytest.raises(sqlite3.Error):
        schema.migrate(connection, (*schema.MIGRATIONS, fail))
    state = open_state(version_1, now_wall_seconds=NOON)
    assert state.ids() == {"a": 7}
    state.close(PATIENCE_SECONDS)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


def test_a_newer_file_is_refused_and_no_byte_of_it_is_touched(version_1: Path) -> None:
    with closing(sqlite3.connect(version_1)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = _bytes_of(version_1.parent)
    with pytest.raises(StateRefused, match="written by a newer bwexporter"):
        open_state(version_1, now_wall_seconds=NOON)
    assert _bytes_of(version_1.parent) == before


def test_a_newer_version_that_stands_in_the_log_alone_is_refused_too(version_1: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(sqlite3.connect(version_1)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
        for suffix in ("", "-wal"):
            (killed / f"state.db{suffix}").write_bytes((tmp_path / f"state.db{suffix}").read_bytes())
    before = _bytes_of(killed)
    with pytest.raises(StateRefused, match="written by a newer bwexporter"):
        open_state(killed / "state.db", now_wall_seconds=NOON)
    assert {name: _bytes_of(killed)[name] for name in before} == before


def test_the_database_of_another_program_is_refused_and_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = _bytes_of(path.parent)
    with pytest.raises(StateRefused, match="database of another program"):
        open_state(path, now_wall_seconds=NOON)
    assert _bytes_of(path.parent) == before


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match=r"the folder .*/nowhere of the state file does not exist"):
        open_state(tmp_path / "nowhere" / "state.db", now_wall_seconds=NOON)


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateRefused, match="is not a file"):
        open_state(path, now_wall_seconds=NOON)


def test_a_file_without_rights_is_refused_to_an_ordinary_user(version_1: Path) -> None:
    version_1.chmod(0o400)
    if os.geteuid() != 0:
        with pytest.raises(StateRefused, match="cannot be read and written"):
            open_state(version_1, now_wall_seconds=NOON)
        return
    with readable_by_nobody() as readable:
        copied = readable.scratch / version_1.name
        shutil.copy(version_1, copied)
        copied.chmod(0o444)
        program = [*readable.enter, *NOBODY, readable.python, "-m", "tests.state_cases", "refused", str(copied)]
        said = subprocess.run(
            program, cwd=ROOT, capture_output=True, text=True, check=False, env=readable.environment, timeout=60
        )
    assert "cannot be read and written" in said.stdout


def test_steps_that_are_not_kept_are_refused(state: State) -> None:
    with pytest.raises(ValueError, match="no multiple"):
        state.use("eth0", "a", Traffic.NORMAL, 0, 1, 450)
