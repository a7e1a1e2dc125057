"""Each policy on real HTB, in a day of twenty seconds: the use at its end is the one that is promised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import Greedy, Program, Room, Traffic, handle_of, skip_where_no_room_can_be_made, wait_for

pytestmark = pytest.mark.kernel

PERIOD_SECONDS = 20.0
CONFIG = {
    "interval": "500ms",
    "look_margin": "100ms",
    "period": "20s",
    "devices": [{"name": "v0", "cap": "200mbit", "line_rate": "1gbit"}],
    "defaults": {"normal": {"guarantee": "8bit", "full": "8mbit", "allowance": "4MB"}},
}


def policies() -> list[dict[str, Any]]:
    """Return four slices, of which the window of one is open all day."""
    now = datetime.now(UTC)
    window = {
        "from": f"{now - timedelta(hours=2):%H:%M}", "to": f"{now + timedelta(hours=2):%H:%M}", "counts": "50%",
    }  # fmt: skip
    chosen = {
        "law": "law",
        "ladder": {"ladder": [{"from": "50%", "rate": "1mbit"}, {"from": "75%", "rate": "400kbit"}]},
        "window": {"windows": [window]},
        "carry": {"carry": "50%"},
    }
    return [
        {"name": name, "id": number, "normal": {"policy": policy}}
        for number, (name, policy) in enumerate(chosen.items(), 1)
    ]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The daemon with a slice for each policy, 4 MB in 20 s at 8 Mbit/s."""
    skip_where_no_room_can_be_made()
    with Room() as room, Program(room, tmp_path, CONFIG, policies()) as running:
        yield running.start()


def used_at_the_end(program: Program, slice_name: str, period: int) -> int:
    """Return what a slice had used when a period ended."""
    return int(json.loads(program.events("period_rolled", slice_name)[period][1])["used_bytes"])


def test_each_policy_ends_its_days_as_promised(program: Program) -> None:
    """Three greedy slices in the first day; the fourth is idle in it, and greedy in the second."""
    with ExitStack() as sending:
        for name, number in (("law", 1), ("ladder", 2), ("window", 3)):
            sending.enter_context(Greedy(Traffic(program.room), handle_of(number)))
            assert program.lane(name)["full_rate_bytes_per_second"] == 1_000_000
        wait_for(lambda: program.lane("ladder")["verdict"] == "on_ladder", seconds=15, what="the ladder")
        wait_for(lambda: program.events("period_rolled", "carry"), seconds=40, what="the end of the first day")
    with Greedy(Traffic(program.room), handle_of(4)):
        wait_for(lambda: len(program.events("period_rolled", "carry")) > 1, seconds=40, what="the second day's end")
    sent = program.lane("window")["sent_bytes_total"]

    # 2 MB at 1 MB/s, 1 MB at 125 kB/s, and the ten seconds that are left at 50 kB/s.
    assert used_at_the_end(program, "ladder", 0) == pytest.approx(3_500_000, rel=0.04)
    assert used_at_the_end(program, "law", 0) == pytest.approx(4_000_000, rel=0.03)
    assert used_at_the_end(program, "window", 0) == pytest.approx(4_000_000, rel=0.03)
    assert sent == pytest.approx(8_000_000, rel=0.1)
    assert used_at_the_end(program, "carry", 0) == 0
    assert used_at_the_end(program, "carry", 1) == pytest.approx(6_000_000, rel=0.03)
