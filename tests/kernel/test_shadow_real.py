"""Shadow on real HTB: nothing is changed, and what would be is published as a replay of the same record says it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bwexporter.cli.files import roll_of
from bwexporter.config import load_config
from bwexporter.core.lanes import Traffic
from bwexporter.replay import Recorded, replayed
from tests.kernel.daemon_rig import (
    PATIENCE_SECONDS,
    Greedy,
    Program,
    Room,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.daemon_rig import Traffic as Senders

pytestmark = pytest.mark.kernel

STEP = 0.25
RATE = 250_000
LESS_BYTES = 700_000
CONFIG = {
    "interval": "500ms",
    "look_margin": "100ms",
    "period": "1h",
    "devices": [{"name": "v0", "cap": "100mbit", "line_rate": "1gbit"}],
    "defaults": {"normal": {"guarantee": "8bit", "full": "2mbit", "allowance": "1500kB"}},
}
SLICES = [{"name": name, "id": number} for number, name in ((1, "ann"), (2, "bob"))]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """A tree that is there, and the daemon in shadow, which is not let change anything."""
    skip_where_no_room_can_be_made()
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as running:
        assert running.run("--once").returncode == 0
        yield running.start("--shadow")


def record(program: Program) -> tuple[list[tuple[float, int]], dict[str, Any]]:
    """Ask until Ann is over her volume by far; return what she had sent by each turn, and what was said of her last."""
    looks, row = list[tuple[float, int]](), dict[str, Any]()
    until = time.monotonic() + PATIENCE_SECONDS
    while not row or row["verdict"] != "over_allowance" or row["would_be"]["less_bytes"] < LESS_BYTES:
        assert time.monotonic() < until, row
        answer = program.answer()
        row = next(one for one in answer["slices"] if (one["slice"], one["traffic"]) == ("ann", "normal"))
        if not looks or looks[-1][0] < answer["taken_at"]:
            looks.append((answer["taken_at"], row["sent_bytes_total"]))
        time.sleep(0.1)
    return looks, row


def printed(program: Program, *words: str) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "bwexporter", *words, "--config", str(program.config_file), "--url", program.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_what_would_be_is_published_and_is_what_a_replay_says(program: Program) -> None:
    """Ann sends all she may, 2 Mbit/s, far beyond her volume: her class stays as it is all the while."""
    before = program.room.classes()[handle_of(1)].ceiling
    first = program.lane("ann")["would_be"]["from"]
    with Greedy(Senders(program.room), handle_of(1)):
        wait_for(lambda: program.lane("ann")["sent_bytes_total"] > 0, what="traffic")
        looks, row = record(program)
    said = row["would_be"]

    at, sent = np.array([one for one, _ in looks]), np.array([one for _, one in looks], np.float64)
    grid = np.arange(first, looks[-1][0], STEP)
    sums = np.diff(np.interp(grid, [first, *at], [0.0, *sent])).astype(np.int64)
    roll = roll_of(load_config(program.config_file))
    (tariffs, rules), tree = roll.tariffs["v0"], roll.trees["v0"]
    rows = np.zeros((len(sums), len(tariffs)), np.int64)
    ann = next(
        row for row, lane in enumerate(tariffs.lanes) if lane.slice_name == "ann" and lane.traffic is Traffic.NORMAL
    )
    rows[:, ann] = sums
    told = replayed(Recorded(first, STEP, tariffs.lanes, rows), "v0", tree, tariffs, rules, roll.pace)[ann]

    assert program.room.classes()[handle_of(1)].ceiling == before
    assert row["verdict"] == "over_allowance"
    assert row["ceiling_bytes_per_second"] == row["full_rate_bytes_per_second"]
    longest = max(0.5, np.diff([first, *at]).max())  # where the machine stalled, both know of a turn what is between
    turn = 2 * longest * RATE  # a turn of either
    assert said["recorded_bytes"] == pytest.approx(told.recorded_bytes, abs=turn)
    assert said["sent_bytes"] == pytest.approx(told.sent_bytes, abs=turn)
    assert said["less_bytes"] == pytest.approx(told.less_bytes, abs=2 * turn)
    assert said["capped"][0][0] == pytest.approx(told.spans[0][0], abs=2 * longest)
    assert said["capped_now"]
    assert "Enforced, it would be capped at" in printed(program, "why", "ann")
    assert "less" in printed(program, "status", "ann")
    page = httpx.get(f"{program.url}/slices/ann", trust_env=False, timeout=PATIENCE_SECONDS).text
    assert "Enforced, it would be capped at" in page
    assert program.lane("bob")["would_be"]["less_bytes"] == 0
