"""Ledgers for the tests of the state file, and the child processes that are killed or starved there."""

from __future__ import annotations

import base64
import dataclasses
import errno
import itertools
import math
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from bwexporter.core.lanes import Accounts, Columns, Counters, Instant, Lane, Ledger, Traffic
from bwexporter.core.report import Event, EventKind
from bwexporter.errors import StateRefused
from bwexporter.state import SaveOutcome, State, open_state
from tests.waiting import PATIENCE_SECONDS

NOON = 1_700_000_400.0
"""A multiple of 300 s and no multiple of an hour."""

DEVICES = ("eth0", "eth1")

DTYPES = {"I8": np.int64, "F8": np.float64, "B1": np.bool_, "NDArray[np.int8]": np.int8}
"""The dtype of a column, by how the words name its type."""

Table = TypeVar("Table", bound=Columns)


def lanes(names: Sequence[str], device: str = "eth0") -> tuple[Lane, ...]:
    """Return a normal lane for each name."""
    return tuple(Lane(device, name, Traffic.NORMAL) for name in names)


def ledger(sent: dict[str, int], *, wall: float = NOON, device: str = "eth0") -> Ledger:
    """Return a ledger whose slices have sent so many bytes; the other columns are filled with numbers of their own."""
    sent_bytes = np.array(list(sent.values()), np.int64)
    return Ledger(
        device=device,
        ifindex=7,
        at=Instant(wall, 12.5, "0f0e"),
        ledger_seconds=wall + 1 / 3,
        wall_offset_seconds=-1 / 3,
        lanes=lanes(tuple(sent), device),
        enrolled=len(sent),
        accounts=_numbered(Accounts, sent_bytes),
        counters=_numbered(Counters, sent_bytes),
        parent_handle=np.array([1, 2, 3], np.int64),
        parent_sent_bytes=np.array([10, 20, 30], np.int64),
        tree_sent_bytes=99,
        direct_packets_seen=5,
        direct_packets=6,
    )


def _numbered(kind: type[Table], sent_bytes: np.ndarray) -> Table:
    """Return columns that differ from each other, with the bytes sent where they belong."""
    count = np.arange(len(sent_bytes))
    columns = {
        field.name: (count + 1000 * place / 7 if field.type == "F8" else count + place).astype(DTYPES[str(field.type)])
        for place, field in enumerate(dataclasses.fields(kind))
    }
    return kind(**{**columns, "sent_bytes": sent_bytes})


def same(one: object, other: object) -> bool:
    """Say whether two values are the same to the bit, arrays and their dtypes included."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    return type(one) is type(other) and one == other


def save(state: State, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float) -> SaveOutcome:
    """Save a turn, however long the machine takes for it."""
    return state.save(ledgers, events, at_wall_seconds, save_wait_seconds=PATIENCE_SECONDS)


def event(number: int, *, wall: float = NOON, slice_name: str = "a") -> Event:
    """Return an event that carries a number."""
    return Event(wall, EventKind.VERDICT, "eth0", lanes([slice_name])[0], {"number": number})


def save_for_ever(path: Path) -> None:
    """Save turn after turn, of two devices with one event, and print the number of each that was said to be saved."""
    state = open_state(path, now_wall_seconds=NOON)
    before = max((found.ledger_seconds for found in state.load().values()), default=0.0)
    for number in itertools.count(int(before) + 1):
        wall = NOON + 10 * number
        ledgers = [ledger({f"s{row}": number * row for row in range(500)}, wall=wall, device=name) for name in DEVICES]
        turn = [dataclasses.replace(one, ledger_seconds=float(number)) for one in ledgers]
        if save(state, turn, [event(number, wall=wall)], wall).saved:
            os.write(1, f"{number}\n".encode())


def survive_a_full_disk(folder: Path) -> None:
    """On a small file system of its own: fill it, save, start again, make room, save, take the right to write.

    Prints what a user would have seen at each step, and ends with the refusal to start where nothing can be written.
    """
    path, filler = folder / "state.db", folder / "filler"
    large = ledger({f"s{row}": row for row in range(20_000)})
    state = open_state(path, now_wall_seconds=NOON)
    save(state, [ledger({"a": 1})], [], NOON)
    _fill(filler)
    _say(save(state, [large], [event(1)], NOON))
    state.close(PATIENCE_SECONDS)
    state = open_state(path, now_wall_seconds=NOON)
    _say(same(state.load()["eth0"], ledger({"a": 1})), state.recovered)
    _say(save(state, [large], [event(2)], NOON).saved)
    filler.unlink()
    _say(save(state, [ledger({"a": 3})], [event(3)], NOON).saved)
    _say([one.inputs["number"] for one in state.events(0, NOON + 1)])
    state.close(PATIENCE_SECONDS)
    state = open_state(path, now_wall_seconds=NOON)
    _say(same(state.load()["eth0"], ledger({"a": 3})), state.recovered)
    state.close(PATIENCE_SECONDS)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        open_state(path, now_wall_seconds=NOON)
    except StateRefused as refusal:
        _say(refusal)


def _say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201  # what the parent reads


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def make_version_1(path: Path) -> None:
    """Write the file that `data/state_v1.b64` holds: made once, by the program of that version."""
    state = open_state(path, now_wall_seconds=NOON)
    state.remember_ids({"a": 7}, NOON)
    for seconds in (0, 10, 310):
        save(state, [ledger({"a": 1000 + seconds, "b": 2000}, wall=NOON + seconds)], [event(seconds)], NOON + seconds)
    state.close(PATIENCE_SECONDS)
    (Path(__file__).parent / "data" / "state_v1.b64").write_bytes(
        base64.encodebytes(zlib.compress(path.read_bytes(), 9)),
    )


def say_why_it_is_refused(path: Path) -> None:
    """Try to open a file that may not be used."""
    try:
        open_state(path, now_wall_seconds=NOON)
    except StateRefused as refused:
        print(refused)  # noqa: T201 - the answer


CASES = {
    "save": save_for_ever,
    "full": survive_a_full_disk,
    "version-1": make_version_1,
    "refused": say_why_it_is_refused,
}

if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]))
