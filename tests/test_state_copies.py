"""Damage, loss, kills and the copies that make up for them."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bwexporter.core.lanes import Traffic
from bwexporter.state import SaveOutcome, open_state
from tests.state_cases import DEVICES, NOON, event, ledger, same, save
from tests.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parent.parent
SENT = {"a": 10**6, "b": 10**6 + 1}

Spoil = Callable[[Path], None]


def _change(find: bytes, offset: int) -> Spoil:
    """Return what flips bits of a file some bytes after where a text stands."""

    def change(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[whole.index(find) + offset] ^= 0x55
        path.write_bytes(whole)

    return change


def _cut(share: float) -> Spoil:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def _overwrite_pages(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[4096:] = os.urandom(len(whole) - 4096)
    path.write_bytes(whole)


SPOILS = {
    "header": _change(b"SQLite", 2),
    "accounts": _change(b"bwxl", 400),
    "name of a lane": _change(b"eth0anormal", 4),
    "cut to half": _cut(0.5),
    "cut by a page": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "empty": _cut(0),
    "noise": lambda path: path.write_bytes(os.urandom(20_000)),
    "noise after the first page": _overwrite_pages,
}


def _saved_twice(path: Path) -> None:
    """Leave a file, a good copy of an earlier turn, and no logs. The clock is the real one: copies bear their time."""
    now = time.time()
    for number in (1, 2):
        state = open_state(path, now_wall_seconds=now)
        sent = {name: number * sent_bytes for name, sent_bytes in SENT.items()}
        assert save(state, [ledger(sent)], [event(number)], now).saved
        assert state.close(PATIENCE_SECONDS).saved


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_damaged_file_is_set_aside_and_its_copy_goes_on(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "state.db"
    _saved_twice(path)
    spoil(path)
    damaged = path.read_bytes()
    state = open_state(path, now_wall_seconds=NOON)
    assert "was damaged" in state.recovered
    assert "its copy of" in state.recovered
    assert not state.lost
    assert same(state.load()["eth0"], ledger(SENT))
    assert save(state, [ledger({"a": 3 * 10**6})], [], NOON).saved
    assert (tmp_path / "state.db.damaged-20231114T222000").read_bytes() == damaged
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON)
    assert (again.recovered, again.load()["eth0"].accounts.sent_bytes.tolist()) == ("", [3 * 10**6])
    again.close(PATIENCE_SECONDS)


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_damaged_copy_is_passed_over_and_an_older_good_one_is_found(tmp_path: Path, spoil: Spoil) -> None:
    path, newest, older = (tmp_path / f"state.db{suffix}" for suffix in ("", ".copy-1", ".copy-2"))
    _saved_twice(path)
    older.write_bytes(newest.read_bytes())
    spoil(newest)
    path.unlink()
    state = open_state(path, now_wall_seconds=NOON)
    assert same(state.load()["eth0"], ledger(SENT))
    assert state.recovered.startswith(f"{path} had vanished; its copy of")
    assert "was damaged" in state.recovered
    state.close(PATIENCE_SECONDS)


def test_where_no_copy_is_good_the_loss_is_told_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _saved_twice(path)
    for file in (path, tmp_path / "state.db.copy-1"):
        file.write_bytes(b"rubbish")
    state = open_state(path, now_wall_seconds=NOON)
    assert (state.lost, state.load()) == (True, {})
    assert state.recovered.endswith(f"no copy of {path} could be used: a new one was begun")
    assert save(state, [ledger(SENT)], [], NOON).saved
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON + 99)
    assert (again.lost, again.lost_at_wall_seconds, again.recovered) == (False, NOON, "")
    again.close(PATIENCE_SECONDS)


def test_a_log_that_lost_its_file_is_not_replayed_into_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _saved_twice(path)
    path.with_name("state.db-wal").write_bytes(os.urandom(9000))
    path.unlink()
    state = open_state(path, now_wall_seconds=NOON)
    assert same(state.load()["eth0"], ledger(SENT))
    assert (tmp_path / "state.db.damaged-20231114T222000-wal").stat().st_size == 9000
    state.close(PATIENCE_SECONDS)


def test_a_copy_is_made_every_hour_and_two_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    hours = []
    for hour in range(3):
        state = open_state(path, now_wall_seconds=NOON)
        save(state, [ledger({"a": hour})], [], NOON + 3600 * hour)
        save(state, [ledger({"a": 99})], [], NOON + 3600 * hour + 1)
        state.close(PATIENCE_SECONDS)
        hours.append((tmp_path / "state.db.copy-1").stat().st_ino)
    assert len(set(hours)) == 3
    assert (tmp_path / "state.db.copy-2").stat().st_ino == hours[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "state.db", "state.db.copy-1", "state.db.copy-2", "state.db.lock",
    ]  # fmt: skip


def test_use_goes_on_from_a_copy_without_losing_a_byte_of_the_accounts(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _saved_twice(path)
    path.write_bytes(b"rubbish")
    state = open_state(path, now_wall_seconds=NOON)
    save(state, [ledger({"a": 5 * 10**6, "b": 10**6 + 1}, wall=NOON + 10)], [], NOON)
    assert state.use("eth0", "a", Traffic.NORMAL, 0, NOON * 2, 300) == [(NOON, 5 * 10**6)]
    state.close(PATIENCE_SECONDS)


def test_damage_that_comes_to_light_while_the_program_runs_costs_no_account(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _saved_twice(path)
    state = open_state(path, now_wall_seconds=NOON)
    save(state, [ledger(SENT), ledger({"c": 7}, device="eth1")], [], NOON)
    with closing(sqlite3.connect(path)) as rot, rot:
        rot.execute("UPDATE accounts SET packed = X'00' WHERE device = 'eth1'")
    outcomes = list[SaveOutcome]()

    def is_told() -> bool:  # by the copy of an hour, which is made in a thread of its own
        outcomes.append(save(state, [ledger(SENT)], [], NOON + 3600 * (1 + len(outcomes))))
        told = " ".join(outcome.trouble for outcome in outcomes)
        return "a row of accounts does not match its checksum" in told and "was damaged" in told

    wait_until(is_told)
    assert all(outcome.saved for outcome in outcomes)
    state.close(PATIENCE_SECONDS)
    again = open_state(path, now_wall_seconds=NOON)
    assert same(again.load()["eth1"], ledger({"c": 7}, device="eth1"))
    assert (again.recovered, again.lost, again.lost_at_wall_seconds) == ("", False, None)
    again.close(PATIENCE_SECONDS)


def test_a_kill_at_any_moment_leaves_a_whole_turn_old_or_new(tmp_path: Path) -> None:
    """Two devices and one event a turn: all three are of one turn, and none that was said to be saved is missing."""
    path, chance = tmp_path / "state.db", random.Random(7)
    total = 0
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.state_cases", "save", path],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(chance.uniform(0, 0.06))  # the kill must come at a moment that nothing announces
            child.send_signal(signal.SIGKILL)
            said += child.stdout.readlines()
        state = open_state(path, now_wall_seconds=NOON)
        assert state.recovered == ""
        found = [state.load()[device] for device in DEVICES]
        total = int(found[0].ledger_seconds)
        for one in found:
            sent = {f"s{row}": total * row for row in range(500)}
            before = ledger(sent, wall=NOON + 10 * total, device=one.device)
            assert same(one.accounts, before.accounts)
            assert one.ledger_seconds == total
        assert [one.inputs["number"] for one in state.events(0, NOON * 2, limit=total + 1)] == [*range(total, 0, -1)]
        assert int(said[-1]) <= total <= int(said[-1]) + 1
        used = state.use("eth0", "s499", Traffic.NORMAL, 0, NOON * 2, 300)
        assert sum(part for _, part in used) == total * 499
        state.close(PATIENCE_SECONDS)
