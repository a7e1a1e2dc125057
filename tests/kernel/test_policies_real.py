"""Each policy on real HTB, in a day of twenty seconds: the use at its end is the one that is promised."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import (
    Greedy,
    Program,
    Room,
    Stalls,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)

pytestmark = pytest.mark.kernel

PERIOD_SECONDS, FULL_RATE = 20.0, 1_000_000
CONFIG = {
    "interval": "500ms",
    "look_margin": "100ms",
    "period": "20s",
    "devices": [{"name": "v0", "cap": "200mbit", "line_rate": "1gbit"}],
    "defaults": {"normal": {"guarantee": "8bit", "full": "8mbit", "allowance": "4MB"}},
}


def policies() -> list[dict[str, Any]]:
    """Return five slices, of which the window of one is open all day."""
    now = datetime.now(UTC)
    window = {
        "from": f"{now - timedelta(hours=2):%H:%M}", "to": f"{now + timedelta(hours=2):%H:%M}", "counts": "50%",
    }  # fmt: skip
    chosen = {
        "law": "law",
        "ladder": {"ladder": [{"from": "50%", "rate": "1mbit"}, {"from": "75%", "rate": "400kbit"}]},
        "window": {"windows": [window]},
        "carry": {"carry": "50%"},
        "sliding": "sliding",
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


@dataclass(frozen=True)
class Promised:
    """Equal to whatever lies between two bounds."""

    least: float
    most: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and self.least <= other <= self.most

    __hash__ = None  # type: ignore[assignment]


class Watch:
    """What the kernel's class of a slice had sent at each moment somebody looked."""

    def __init__(self, room: Room, handle: int) -> None:
        self._room, self._handle = room, handle
        self.points: list[tuple[float, int, float]] = []  # asked at, bytes, answered at

    def look(self) -> bool:
        """Write it down, unless that was done just now."""
        if not self.points or time.monotonic() > self.points[-1][0] + 0.2:
            self.points.append((time.monotonic(), self._room.classes()[self._handle].sent_bytes, time.monotonic()))
        return True

    def most(self, seconds: float) -> int:
        """Return the most that was sent between two looks that are no further apart."""
        pairs = ((one, other) for at, one in enumerate(self.points) for other in self.points[at:])
        return max(other[1] - one[1] for one, other in pairs if other[2] - one[0] <= seconds)


def test_each_policy_ends_its_days_as_promised(program: Program) -> None:
    """Three greedy slices in the first day; the fourth is idle in it, and greedy in the second, the last in both."""
    watch = Watch(program.room, handle_of(5))
    with Stalls() as stalls, Greedy(Traffic(program.room), handle_of(5)):
        _two_days(program, watch)
    unsent = round(stalls.seconds() * FULL_RATE)

    def promised(size: int, part: float) -> Promised:
        """Say what is promised; where the machine stalled, what could not be sent then is forgiven."""
        return Promised((1 - part) * size - unsent, (1 + part) * size)

    sent = program.lane("window")["sent_bytes_total"]
    program.kill()
    after = program.start().lane("sliding")

    # 2 MB at 1 MB/s, 1 MB at 125 kB/s, and the ten seconds that are left at 50 kB/s.
    ladder = promised(3_500_000, 0.04)
    assert used_at_the_end(program, "ladder", 0) == Promised(ladder.least, ladder.most + unsent)  # a rung came late
    assert used_at_the_end(program, "law", 0) == promised(4_000_000, 0.03)
    assert used_at_the_end(program, "window", 0) == promised(4_000_000, 0.03)
    assert sent == promised(8_000_000, 0.1)
    assert used_at_the_end(program, "carry", 0) == 0
    assert used_at_the_end(program, "carry", 1) == promised(6_000_000, 0.03)
    # No twenty seconds hold more than the allowance, and what left them was there again.
    assert len(watch.points) > 20
    assert watch.most(PERIOD_SECONDS) <= 4_000_000 * 1.03
    assert used_at_the_end(program, "sliding", 0) == promised(3_950_000, 0.04)
    assert used_at_the_end(program, "sliding", 1) >= 3_300_000 - unsent
    # After a kill it still holds what was sent before its period ended, which an account of the law begins without.
    assert after["window_seconds"] == PERIOD_SECONDS
    assert after["period_used_bytes"] >= 500_000


def _two_days(program: Program, watch: Watch) -> None:
    """Let the others send."""
    with ExitStack() as sending:
        for name, number in (("law", 1), ("ladder", 2), ("window", 3)):
            sending.enter_context(Greedy(Traffic(program.room), handle_of(number)))
            assert program.lane(name)["full_rate_bytes_per_second"] == 1_000_000
        wait_for(lambda: watch.look() and program.lane("ladder")["verdict"] == "on_ladder", what="a rung")
        wait_for(lambda: watch.look() and program.events("period_rolled", "carry"), what="the first day")
    with Greedy(Traffic(program.room), handle_of(4)):
        wait_for(lambda: watch.look() and program.events("period_rolled", "carry")[1:], what="the second day")
