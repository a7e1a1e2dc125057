"""Use over time: sums of five minutes and of hours."""

import sqlite3
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core.lanes import Traffic
from bwexporter.state import State, open_state, use
from bwexporter.state.pack import Damaged
from bwexporter.state.use import (
    Look,
    Opening,
    Sums,
    follow,
    no_sums,
    of_lane,
    pack_blocks,
    pack_sums,
    unpack_blocks,
    unpack_sums,
)
from tests.state_cases import NOON, ledger, save
from tests.waiting import PATIENCE_SECONDS

DAY = 86400


def sums(values: dict[int, int]) -> Sums:
    """Return sums from bytes by lane."""
    return Sums(np.array(sorted(values), np.int64), np.array([values[key] for key in sorted(values)], np.int64))


def use_of(state: State, name: str, step: int, since: float = 0, until: float = NOON * 2) -> list[tuple[int, int]]:
    """Return what a slice sent on eth0."""
    return state.use("eth0", name, Traffic.NORMAL, since, until, step)


@given(st.dictionaries(st.integers(1, 1 << 40), st.integers(-(1 << 62), 1 << 62)))
def test_sums_come_back_from_their_bytes_without_the_lanes_that_sent_nothing(values: dict[int, int]) -> None:
    found = unpack_sums(pack_sums(sums(values)))
    assert dict(zip(found.lane_ids.tolist(), found.sent_bytes.tolist(), strict=True)) == {
        key: value for key, value in values.items() if value
    }


@st.composite
def many_sums(draw: st.DrawFn) -> Sums:
    """Return sums of none to some thousands of lanes: keys with gaps, some that sent nothing, some below nothing."""
    lanes, seed = draw(st.integers(0, 3000)), draw(st.integers(0, 1 << 32))
    numbers = np.random.default_rng(seed)
    sent = numbers.integers(-(1 << 50), 1 << 50, lanes) * (numbers.random(lanes) < draw(st.sampled_from([0.0, 0.3, 1])))
    return Sums(np.cumsum(numbers.integers(1, 4, lanes)), sent)


@settings(deadline=None, max_examples=30)
@given(many_sums(), st.data())
def test_one_lane_is_read_from_a_row_without_the_others(whole: Sums, data: st.DataObject) -> None:
    packed, of_before = pack_blocks(whole), pack_sums(whole)
    known = unpack_blocks(packed)
    for lane_id in {*data.draw(st.lists(st.integers(0, 12_000), max_size=20)), *whole.lane_ids[:1].tolist()}:
        assert whole.of(lane_id) == known.of(lane_id) == of_lane(BytesIO(packed), lane_id)
        assert whole.of(lane_id) == of_lane(BytesIO(of_before), lane_id)
    assert unpack_blocks(of_before).sent_bytes.tolist() == known.sent_bytes.tolist()


@settings(deadline=None, max_examples=60)
@given(many_sums(), st.data())
def test_a_row_that_rotted_is_said_to_be_damaged_and_nothing_worse(whole: Sums, data: st.DataObject) -> None:
    packed = bytearray(pack_blocks(whole))
    for at in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=3)):
        packed[at] ^= data.draw(st.integers(1, 255))
    rotten = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    with suppress(Damaged):
        unpack_blocks(rotten)
    for lane_id in (1, 700, 1 << 40):
        with suppress(Damaged):
            of_lane(BytesIO(rotten), lane_id)


def test_rows_of_earlier_versions_are_read_beside_those_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = open_state(path, now_wall_seconds=NOON)
    assert save(state, [ledger({"a": 0, "b": 0}, wall=NOON)], [], NOON).saved
    state.close(PATIENCE_SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        keys = [key for (key,) in connection.execute("SELECT id FROM lanes ORDER BY slice")]
        for ago, pack in ((1, pack_blocks), (2, pack_sums), (3, lambda _: b"\x78rotten"), (4, lambda _: b"bwxu")):
            row = pack(sums({keys[0]: ago * 100, keys[1]: 7}))
            connection.execute("INSERT INTO use_sums VALUES ('eth0', 300, ?, ?)", (NOON - ago * 300, row))
        connection.commit()
        every = dict(use.read_all(connection, "eth0", 0, int(NOON)))
    state = open_state(path, now_wall_seconds=NOON)
    assert use_of(state, "a", 300, until=NOON) == [(NOON - 600, 200), (NOON - 300, 100)]
    assert [every[int(NOON) - ago * 300].of(keys[0]) for ago in (1, 2, 3, 4)] == [100, 200, 0, 0]
    state.close(PATIENCE_SECONDS)


@st.composite
def walk(draw: st.DrawFn) -> list[tuple[float, dict[int, int]]]:
    """Return what lanes send turn by turn: clocks are stepped, lanes come and go, accounts begin again (None)."""
    turns = st.tuples(
        st.one_of(st.floats(0, 700), st.floats(-90_000, 90_000), st.just(10.0)),
        st.dictionaries(st.integers(1, 4), st.one_of(st.none(), st.integers(0, 10**12))),
    )
    return draw(st.lists(turns, min_size=1, max_size=25))


@settings(deadline=None)
@given(walk())
def test_whatever_the_clock_does_all_that_was_sent_stands_in_exactly_one_interval(
    turns: list[tuple[float, dict[int, int | None]]],
) -> None:
    wall, total, whole = NOON, {}, no_sums()
    opening: Opening | None = None
    before: Look | None = None
    sent: dict[int, int] = {}
    for elapsed, growth in turns:
        wall += elapsed
        sent = {key: sent.get(key, 0) + more if more is not None else 0 for key, more in growth.items()}
        for key, more in growth.items():
            total[key] = total.get(key, 0) + (more or 0)
        now = Look(wall, sums(sent))
        closed, opening = follow(opening, before, now)
        for start, part in closed:
            assert start % 300 == 0
            assert (part.sent_bytes >= 0).all()
            whole = whole.plus(part)
        before = now
    assert opening is not None
    assert before is not None
    whole = whole.plus(before.sent.minus(opening.sent))
    assert {key: whole.of(key) for key in total} == total


def test_a_turn_that_straddles_an_interval_is_divided_by_time(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", now_wall_seconds=NOON)
    for seconds, sent in ((0, 0), (293, 1000), (303, 2001), (310, 2005)):
        save(state, [ledger({"a": sent, "b": 5}, wall=NOON + seconds)], [], NOON + seconds)
    assert use_of(state, "a", 300) == [(NOON, 1700), (NOON + 300, 305)]
    assert use_of(state, "b", 300) == [(NOON, 5), (NOON + 300, 0)]
    assert use_of(state, "nobody", 300) == []
    state.close(PATIENCE_SECONDS)


def test_hours_hold_what_their_five_minutes_hold_and_other_steps_add_them_up(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", now_wall_seconds=NOON)
    for turn in range(100):
        save(state, [ledger({"a": turn * 1000}, wall=NOON + 100 * turn)], [], NOON + 100 * turn)
    for step in (300, 600, 3600, 7200, DAY):
        found = use_of(state, "a", step)
        assert sum(part for _, part in found) == 99_000
        assert all(start % step == 0 for start, _ in found)
    assert use_of(state, "a", 600, NOON, NOON + 600) == [(NOON, 6000)]
    state.close(PATIENCE_SECONDS)


def test_what_was_sent_while_the_program_was_down_is_spread_over_that_time(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for seconds, sent in ((0, 1000), (1200, 13_000)):
        state = open_state(path, now_wall_seconds=NOON)
        save(state, [ledger({"a": sent}, wall=NOON + seconds)], [], NOON + seconds)
        found = use_of(state, "a", 300)
        state.close(PATIENCE_SECONDS)
    assert found == [(NOON, 4000), (NOON + 300, 3000), (NOON + 600, 3000), (NOON + 900, 3000), (NOON + 1200, 0)]


def test_a_clock_that_jumps_by_decades_does_not_fill_the_file(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", now_wall_seconds=0)
    for wall, sent in ((100.0, 10), (NOON, 30)):
        assert save(state, [ledger({"a": sent}, wall=wall)], [], wall).saved
    found = use_of(state, "a", 300)
    state.close(PATIENCE_SECONDS)
    assert len(found) < 300
    assert sum(part for _, part in found) == 30
    assert found[0] == (0, 10)


def test_five_minutes_are_kept_for_35_days_and_hours_for_400(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    counts = []
    for days in (0, 34, 36, 399, 402):
        state = open_state(path, now_wall_seconds=NOON)
        for seconds in (0, 400):
            wall = NOON + days * DAY + seconds
            assert save(state, [ledger({"a": 5, "b": days}, wall=wall)], [], wall).saved
        state.close(PATIENCE_SECONDS)
        state = open_state(path, now_wall_seconds=NOON)
        counts.append([bool(use_of(state, "a", step, 0, NOON + DAY // 2)) for step in (300, 3600)])
        state.close(PATIENCE_SECONDS)
    assert counts == [[True, True], [True, True], [False, True], [False, True], [False, False]]


def test_the_oldest_use_is_forgotten_where_the_rest_would_be_too_large(tmp_path: Path) -> None:
    path, numbers = tmp_path / "state.db", np.random.default_rng(1)
    state = open_state(path, now_wall_seconds=NOON, use_limit_bytes=100_000)
    sent = {f"s{row}": 0 for row in range(300)}
    for turn in range(150):
        sent = {name: before + int(numbers.integers(1 << 40)) for name, before in sent.items()}
        save(state, [ledger(sent, wall=NOON + 300 * turn)], [], NOON + 300 * turn)
    newest = use_of(state, "s1", 300)[-1][0]
    state.close(PATIENCE_SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        size, oldest = connection.execute("SELECT sum(length(packed)), min(start) FROM use_sums").fetchone()
    assert newest == NOON + 300 * 149
    # A dozen intervals may have ended since the last look at the size, which comes once an hour.
    assert 60_000 < size < 100_000 + 13 * 2500
    assert oldest > NOON
