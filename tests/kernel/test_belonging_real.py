"""Every change of a ceiling that the kernel tells of belongs to exactly one event in the state file."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kernel.daemon_rig import (
    Greedy,
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.test_hand_real import said

pytestmark = pytest.mark.kernel

CONFIG = {
    "interval": "300ms",
    "look_margin": "50ms",
    "period": "8s",
    "devices": [{"name": "v0", "cap": "100mbit", "line_rate": "1gbit"}],
    "defaults": {"normal": {"guarantee": "8bit", "full": "8mbit"}, "exempt": {"allowance": "unlimited"}},
}
SLICES = [
    {"name": name, "id": number, "normal": {"allowance": allowance}}
    for number, (name, allowance) in enumerate(
        (("greedy", "2MB"), ("large", "6MB"), ("idle", "1MB"), ("steered", "50MB")), 1
    )
]
_CHANGE = re.compile(r"\[([^\]]+)\] (deleted )?class htb 1:(\w+) .*?ceil ([\d.]+)([KMG]?)bit")
_POWERS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


class Change(NamedTuple):
    """A ceiling that changed, as RTNLGRP_TC tells it; `tc` shows it with some three digits."""

    at: float
    handle: int
    before: float
    after: float


@contextmanager
def monitored(room: Room, path: Path) -> Iterator[None]:
    """Write down all that the kernel tells of classes."""
    with path.open("wb") as file:
        monitor = subprocess.Popen([*room.enter, "tc", "-ts", "monitor"], stdout=file, stderr=file)
        try:
            yield
        finally:
            monitor.terminate()
            monitor.wait()


def changes_in(text: str) -> list[Change]:
    """Return the changes of ceilings that were told; what a class is made with is none."""
    found, ceilings = [], dict[int, float]()
    for at, deleted, minor, number, unit in _CHANGE.findall(text):
        handle, ceiling = 1 << 16 | int(minor, 16), float(number) * _POWERS[unit] / 8
        if deleted:
            ceilings.pop(handle, None)
            continue
        before = ceilings.get(handle)
        if before is not None and before != ceiling:
            found.append(Change(datetime.fromisoformat(at).timestamp(), handle, before, ceiling))
        ceilings[handle] = ceiling
    return found


def events_of(program: Program) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Return what was told of each normal lane's ceiling, in order."""
    told = defaultdict(list)
    query = """SELECT at, slice, inputs FROM events
        WHERE kind IN ('verdict', 'ceiling') AND traffic = 'normal' ORDER BY number"""
    with closing(sqlite3.connect(f"file:{program.state_file}?mode=ro", uri=True)) as state:
        for at, slice_name, inputs in state.execute(query):
            told[slice_name].append((at, json.loads(inputs)))
    return told


def explains(inputs: dict[str, Any], change: Change) -> bool:
    """Say whether an event's ceiling is the one that the kernel tells of, give or take what is worth no event."""
    ceiling = inputs["ceiling_bytes_per_second"]
    return bool(change.after < 2.01 * ceiling and ceiling < 2.01 * change.after)


def test_every_change_that_the_kernel_tells_of_belongs_to_an_event(tmp_path: Path) -> None:
    """Two greedy slices over two and a half periods, one that is idle, and one that is steered by hand."""
    skip_where_no_room_can_be_made()
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as program, ExitStack() as sending:
        monitor_file = tmp_path / "monitor"
        sending.enter_context(monitored(room, monitor_file))
        program.start()
        for number in (1, 2):
            sending.enter_context(Greedy(Traffic(room), handle_of(number)))
        said(program, "slice", "cap", "steered", "1mbit", "--for", "3s")
        said(program, "slice", "lend", "steered", "idle", "--rate", "2mbit", "--for", "5s")
        wait_for(lambda: len(program.events("period_rolled", "greedy")) >= 2, what="two periods")
        said(program, "full-rates", "--for", "2s")
        wait_for(lambda: len(program.events("period_rolled", "greedy")) >= 3, what="three periods")
        sending.close()
        assert program.stop() == 0
        changes, told = changes_in(monitor_file.read_text()), events_of(program)

    names = {handle_of(number): one["name"] for number, one in enumerate(SLICES, 1)}
    lanes = [change for change in changes if change.handle in names]
    unexplained = []
    for change in lanes:
        events = told[str(names[change.handle])]
        # What the monitor was late to write down may have been followed by more events: they explain in their order.
        while events and events[0][0] <= change.at and not explains(events[0][1], change):
            events.pop(0)
        if not (events and events[0][0] <= change.at):
            unexplained.append((names[change.handle], change))
    assert unexplained == []
    assert {"greedy", "large", "steered"} <= {names[change.handle] for change in lanes}
    assert len(lanes) > 20
    inner = [change for change in changes if change.handle not in names and change.handle & 0xFFFF < 0x1000]
    assert inner == []
