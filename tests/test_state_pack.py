"""Accounts as bytes, and back."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bwexporter.core.lanes import Accounts, Counters, Instant, Lane, Ledger, Rings, Traffic
from bwexporter.state import open_state
from bwexporter.state.pack import Damaged, pack_ledger, pack_past, unpack_ledger
from tests.state_cases import DTYPES, NOON, ledger, same, save

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
SECONDS = st.floats(-1e10, 1e10)


def columns(kind: type, rows: int) -> st.SearchStrategy:
    """Return any columns of a kind, of so many rows."""
    return st.builds(kind, *[arrays(DTYPES[field.type], rows) for field in fields(kind)])


@st.composite
def any_ledger(draw: st.DrawFn) -> Ledger:
    """Return any ledger whatever."""
    lanes = draw(st.lists(st.builds(Lane, NAMES, NAMES, st.sampled_from(Traffic)), max_size=6, unique=True))
    parents = draw(st.integers(0, 3))
    windows = draw(st.integers(0, 4))
    return Ledger(
        device=draw(NAMES),
        ifindex=draw(NUMBERS),
        at=draw(st.builds(Instant, SECONDS, st.floats(), NAMES)),
        ledger_seconds=draw(st.floats()),
        wall_offset_seconds=draw(st.floats()),
        lanes=tuple(lanes),
        enrolled=draw(st.integers(0, len(lanes))),
        accounts=draw(columns(Accounts, len(lanes))),
        counters=draw(columns(Counters, draw(st.integers(0, 8)))),
        parent_handle=draw(arrays(np.int64, parents)),
        parent_sent_bytes=draw(arrays(np.int64, parents)),
        tree_sent_bytes=draw(NUMBERS),
        direct_packets_seen=draw(NUMBERS),
        direct_packets=draw(NUMBERS),
        rings=draw(rings(windows)) if windows else None,
    )


def rings(rows: int) -> st.SearchStrategy[Rings]:
    """Return any windows, of so many lanes."""
    numbers, seconds = arrays(np.int64, rows), arrays(np.float64, rows)
    return st.builds(Rings, numbers, seconds, seconds, numbers, numbers, arrays(np.int64, (rows, 48)))


def past_of(ledger: Ledger) -> bytes | None:
    return None if ledger.rings is None else pack_past(ledger.rings)


@settings(deadline=None, max_examples=100)
@given(any_ledger())
def test_any_ledger_comes_back_to_the_bit(before: Ledger) -> None:
    keys = np.arange(len(before.lanes), dtype=np.int64) + 40
    table = dict(zip(keys.tolist(), before.lanes, strict=True))
    assert same(unpack_ledger(before.device, pack_ledger(before, keys), table, past_of(before)), before)


@settings(deadline=None, max_examples=200)
@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 40), st.lists(st.integers(0, 1 << 33), min_size=1))
def test_numbers_that_lie_close_together_come_back_to_the_bit(base: int, shift: int, above: list[int]) -> None:
    """Evenly counted, multiples of one number above another, or neither: whatever way they are stored."""
    numbers = [min(base + (one << shift), (1 << 63) - 1) for one in above]
    steps = [min(base + above[0] * row, (1 << 63) - 1) for row in range(len(above))]
    before = ledger({f"slice{row}": 5 for row in range(len(above))})
    used, sent = np.array(numbers, np.int64), np.array(steps, np.int64)
    before = replace(before, accounts=replace(before.accounts, used_bytes=used, sent_bytes=sent))
    keys = np.arange(len(before.lanes), dtype=np.int64) + 7
    table = dict(zip(keys.tolist(), before.lanes, strict=True))
    assert same(unpack_ledger("eth0", pack_ledger(before, keys), table), before)


def test_what_a_turn_writes_is_a_quarter_of_what_the_program_holds() -> None:
    """A node of a thousand slices: handles and queues as the tree gives them, use beyond 32 bits."""
    before = ledger({f"slice{row}": 5 for row in range(2000)})
    rows = np.arange(2000)
    accounts = replace(before.accounts, used_bytes=(rows * 12_345_678_901) % (1 << 40))
    counters = replace(before.counters, handle=0x11000 + rows // 2 + (rows % 2 << 15), leaf=(rows + 77) << 16)
    before = replace(before, accounts=accounts, counters=counters)
    held = sum(getattr(table, one.name).nbytes for table in (accounts, counters) for one in fields(table))
    assert len(pack_ledger(before, rows + 1)) < held / 4


def test_a_turn_is_written_over_the_one_before_it(tmp_path: Path) -> None:
    """Of accounts in which one lane has sent, those pages alone go to the log that hold another number than before."""
    state = open_state(tmp_path / "state.db", now_wall_seconds=NOON)
    log, grown = tmp_path / "state.db-wal", []
    for turn in range(6):
        before = log.stat().st_size if log.exists() else 0
        sent = {f"slice{row}": 1 + turn * (row == 700) + row * 7_777_777_777 % (1 << 40) for row in range(2000)}
        assert state.save([ledger(sent, wall=NOON + 10**-turn)], [], NOON + 0.5 + turn).saved
        grown.append(log.stat().st_size - before)
    state.close()
    row = len(pack_ledger(ledger(sent, wall=NOON), np.arange(2000)))
    assert max(grown[2:]) < row / 2


@settings(deadline=None, max_examples=20)
@given(any_ledger(), any_ledger())
def test_any_ledgers_come_back_to_the_bit_from_a_file(one: Ledger, other: Ledger) -> None:
    """Two saves: the names of the second may be new, gone or the same."""
    with tempfile.TemporaryDirectory() as folder:
        state = open_state(Path(folder, "state.db"), now_wall_seconds=NOON)
        assert save(state, [one], [], NOON).saved
        assert save(state, [other], [], NOON).saved
        state.close()
        state = open_state(Path(folder, "state.db"), now_wall_seconds=NOON)
        assert state.recovered == ""
        found = state.load()
        state.close()
    assert found.keys() == {one.device, other.device}
    assert same(found[other.device], other)
    assert one.device == other.device or same(found[one.device], one)


def test_arrays_that_come_back_are_read_only() -> None:
    before = ledger({"a": 5})
    found = unpack_ledger("eth0", pack_ledger(before, np.array([1])), {1: before.lanes[0]})
    assert not any(array.flags.writeable for array in (found.accounts.used_bytes, found.parent_handle))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_one_wrong_bit_anywhere_is_noticed(share: float) -> None:
    before = ledger({"a": 5, "b": 6})
    packed = bytearray(pack_ledger(before, np.array([1, 2])))
    packed[int(share * len(packed))] ^= 1
    with pytest.raises(Damaged):
        unpack_ledger("eth0", bytes(packed), dict(enumerate(before.lanes, 1)))


@pytest.mark.parametrize("rest", [0, 3, 40])
def test_a_row_that_was_cut_short_is_noticed(rest: int) -> None:
    packed = pack_ledger(ledger({"a": 5}), np.array([1]))
    with pytest.raises(Damaged):
        unpack_ledger("eth0", packed[:rest], {})


def test_a_lane_without_a_name_is_noticed() -> None:
    with pytest.raises(Damaged, match="miss 1"):
        unpack_ledger("eth0", pack_ledger(ledger({"a": 5}), np.array([1])), {})


def test_a_window_whose_past_is_not_there_is_noticed() -> None:
    """Two rows hold it, which one transaction wrote."""
    before = ledger({"a": 5})
    slides = replace(before, rings=Rings(*[np.array([1])] * 5, past_bytes=np.ones((1, 48), np.int64)))
    packed, other = pack_ledger(slides, np.array([1])), pack_past(slides.rings.take(np.array([0, 0])))
    with pytest.raises(Damaged, match="sliding windows"):
        unpack_ledger("eth0", packed, {1: before.lanes[0]})
    with pytest.raises(Damaged, match="unequal length"):
        unpack_ledger("eth0", packed, {1: before.lanes[0]}, other)
