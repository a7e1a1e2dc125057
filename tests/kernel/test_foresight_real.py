"""Forecasts of the very daemon, from what its state file knows of earlier days: everywhere the same."""

from __future__ import annotations

import math
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bwexporter.state import use
from bwexporter.units import print_duration, print_volume
from tests.kernel.daemon_rig import Program, Room, skip_where_no_room_can_be_made, wait_for

pytestmark = pytest.mark.kernel

MEGABYTE = 1_000_000
HOURS_END_SECONDS = 60
CONFIG = {
    "interval": "1s",
    "period": "1d",
    "devices": [{"name": "v0", "cap": "100mbit", "line_rate": "1gbit"}],
    "defaults": {"normal": {"full": "10mbit", "allowance": "300MB", "threshold": "20%"}},
}
SLICES = [{"name": name, "id": number} for number, name in ((1, "ann"), (2, "bob"))]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The daemon of a node on which Ann sent 55 MB in the next two hours of each of three days, and Bob never."""
    skip_where_no_room_can_be_made()
    if time.time() % 3600 > 3600 - HOURS_END_SECONDS:  # "this hour" is to be the same to the end of the test
        time.sleep(3600 - time.time() % 3600)
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as running:
        assert running.run("--once").returncode == 0
        this_hour = int(time.time() // 3600) * 3600
        with closing(sqlite3.connect(running.state_file)) as state, state:
            query = "SELECT id FROM lanes WHERE slice = 'ann' AND traffic = 'normal'"
            (ann,) = state.execute(query).fetchone()
            for hour in range(1, 3 * 24):
                sent = 55 * MEGABYTE if hour % 24 in {1, 2} else 0
                use.record(
                    state, "v0", this_hour - 3 * 86_400 + hour * 3600, use.Sums(np.array([ann]), np.array([sent]))
                )
        yield running.start()


def asked_in_one_minute(program: Program) -> tuple[Any, dict[str, float], str, str, Any] | None:
    """Ask everybody; None where what is printed of the first answer is not what is printed of the last one."""
    before, metrics = program.lane("ann"), program.metrics()
    html = httpx.get(f"{program.url}/slices/ann", trust_env=False, timeout=60).text
    page = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    command = [sys.executable, "-m", "bwexporter", "why", "ann", "--config", str(program.config_file)]
    why = subprocess.run([*command, "--url", program.url], capture_output=True, text=True, check=True).stdout
    after = program.lane("ann")
    printed = {
        (print_duration(one["seconds_to_threshold"]), print_volume(one["expected_used_bytes"]))
        for one in (before, after)
    }
    return (before, metrics, page, why, after) if len(printed) == 1 else None


def test_metric_api_page_and_why_say_the_same(program: Program) -> None:
    """She is expected to reach her threshold of 60 MB in the second of these hours, whatever minute it is now."""
    wait_for(lambda: program.lane("ann")["earlier_periods"] == 3, what="habits")
    program.turn()
    before, metrics, page, why, after = wait_for(lambda: asked_in_one_minute(program), what="a minute to ask all in")

    until_second_hour = 2 * 3600 - time.time() % 3600
    assert until_second_hour < before["seconds_to_threshold"] < until_second_hour + 3600
    assert before["seconds_to_allowance"] is None
    until_first_hour = 1 - time.time() % 3600 / 3600
    left_of_late = (1 - math.exp(-1)) * (math.exp(-until_first_hour) + math.exp(-until_first_hour - 1))
    assert before["expected_used_bytes"] == pytest.approx(55 * MEGABYTE * (2 - left_of_late), rel=0.1)
    labels = 'device="v0",slice="ann",traffic="normal"'
    published = metrics[f"bwexporter_slice_seconds_to_threshold{{{labels}}}"]
    assert after["seconds_to_threshold"] <= published <= before["seconds_to_threshold"]
    assert metrics[f"bwexporter_slice_seconds_to_allowance{{{labels}}}"] == float("inf")
    from_both = "as in the same hours of 3 earlier periods"
    assert (
        f"Expected at the end {print_volume(before['expected_used_bytes'])} at the recent rate and {from_both}" in page
    )
    assert f"Threshold in {print_duration(after['seconds_to_threshold'])}" in page
    assert f"Outlook: going on as of late and {from_both}, it will have used" in why
    assert f"it reaches its threshold in {print_duration(after['seconds_to_threshold'])}" in why
    bob = program.lane("bob")
    assert (bob["earlier_periods"], bob["expected_used_bytes"], bob["seconds_to_threshold"]) == (0, 0, None)


def test_after_a_reload_habits_are_looked_up_anew(program: Program) -> None:
    """A new slice has no past yet, and those who were there have theirs."""
    wait_for(lambda: program.lane("ann")["earlier_periods"] == 3, what="habits")

    program.write_slices([*SLICES, {"name": "eve", "id": 3}])
    wait_for(lambda: ("eve", "normal") in program.lanes(), what="the new slice")
    wait_for(lambda: program.lane("ann")["earlier_periods"] == 3, what="habits anew")

    assert program.lane("eve")["earlier_periods"] == 0
    assert "failed" not in program.said()
