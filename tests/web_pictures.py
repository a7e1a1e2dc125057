"""The pictures of both web pages, for README.md and docs/web.md: `python -m tests.web_pictures` draws them anew.

Turns a made-up node, of six slices or of ten thousand, into pictures by a real browser, in the light and in the dark.
Knows: who has used how much, and what was told of it. Does not know: how a page is drawn.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bwexporter.core.lanes import UNLIMITED, Instant, Lane, Reason, Traffic
from bwexporter.core.report import Event, EventKind, Report
from bwexporter.state import open_state, use
from bwexporter.state.schema import connect
from bwexporter.web.app import Options
from bwexporter.web.listening import bind
from tests.chromium import Chromium, Page, running
from tests.reports import DAY_SECONDS, NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.state_cases import save
from tests.test_web import of_verdict
from tests.web import Facts, serving

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
NAMES = [f"{site}_{what}" for site in ("umd", "inria", "tum", "eth", "mit") for what in ("codeen", "ping", "dns")]
GB, MBIT = 1_000_000_000, 125_000
NOW = NOW_WALL_SECONDS + 55_500  # 15:25
BEGAN, ENDS = NOW - 0.75 * DAY_SECONDS, NOW + 0.25 * DAY_SECONDS
SHOWN = Lane("eth0", "umd_sidecar", Traffic.NORMAL)


class Shot(NamedTuple):
    """One picture."""

    name: str
    path: str
    size: tuple[int, int]
    dark: bool = False


FEW = (
    Shot("web-slices", "/", (1280, 640)),
    Shot("web-slices-dark", "/", (1280, 640), dark=True),
    Shot("web-slice", "/slices/umd_sidecar", (1280, 1180)),
    Shot("web-slice-dark", "/slices/umd_sidecar", (1280, 1180), dark=True),
    Shot("web-slice-phone", "/slices/umd_sidecar", (390, 1000)),
)
MANY = (
    Shot("web-slices-10000-light", "/", (1280, 760)),
    Shot("web-slices-10000", "/", (1280, 760), dark=True),
    Shot("web-slices-phone", "/?verdict=capped", (390, 844)),
)


def lane(name: str, used_gb: float, of_gb: float, reason: Reason = Reason.WITHIN, **more: object) -> LaneFigures:
    """Return a lane of the day's last quarter, full rate 100 Mbit/s."""
    used, allowance = int(used_gb * GB), int(of_gb * GB) if of_gb else UNLIMITED
    capped = reason in {Reason.OVER_THRESHOLD, Reason.OVER_ALLOWANCE}
    figures = LaneFigures(
        name,
        used_bytes=used,
        period_start_at=BEGAN,
        period_end_at=ENDS,
        allowance_bytes=allowance,
        threshold_bytes=allowance // 10 * 8 if of_gb else UNLIMITED,
        full_bytes_per_second=100 * MBIT,
        ceiling_bytes_per_second=100 * MBIT,
        enforced_ceiling_bytes_per_second=100 * MBIT,
        reason=reason,
        capped=capped,
    )
    return replace(figures, **more)  # type: ignore[arg-type]


def ceiling(bytes_per_second: int) -> dict[str, int]:
    """Return a ceiling that is asked for and in force."""
    return dict.fromkeys(("ceiling_bytes_per_second", "enforced_ceiling_bytes_per_second"), bytes_per_second)


def spread(used_gb: float, of_gb: float) -> dict[str, int]:
    """Return the ceiling that spreads what is left over the rest of the day, as it is rounded."""
    rate = int((of_gb - used_gb) * GB / (ENDS - NOW))
    step = 1 << max(0, rate.bit_length() - 7)
    return ceiling(max(rate // step * step, 8_000))


def six() -> list[LaneFigures]:
    """Return the lanes of six slices, every common verdict among them."""
    return [
        lane("princeton_codeen", 0.91, 5),
        lane("princeton_codeen", 12.3, 32.4, traffic=Traffic.EXEMPT, full_bytes_per_second=1000 * MBIT,
             **ceiling(1000 * MBIT)),
        lane("umd_sidecar", 43.27, 50, Reason.OVER_THRESHOLD, **spread(43.27, 50)),
        lane("uw_ping", 10.8, 10.8, Reason.OVER_ALLOWANCE, **ceiling(8_000)),
        lane("cornell_beehive", 0.797, 1, Reason.PACED, seconds_to_threshold=4.0, **ceiling(900_000)),
        lane("inria_dns", 0.133, 1, Reason.CAPPED_BY_HAND, **ceiling(MBIT)),
        lane("tum_monitor", 907, 0),
    ]  # fmt: skip


def ten_thousand() -> Iterator[LaneFigures]:
    """Yield as many lanes, most of them quiet."""
    numbers = random.Random(7)
    for number in range(10_000):
        name, allowance = f"{numbers.choice(NAMES)}{number}", numbers.choice((1.0, 5.0, 10.8, 50.0))
        part = numbers.betavariate(1, 3) * 1.15
        used = min(part, 1.0) * allowance
        if part >= 1.0:
            yield lane(name, used, allowance, Reason.OVER_ALLOWANCE, **ceiling(8_000))
        elif part >= 0.8:
            yield lane(name, used, allowance, Reason.OVER_THRESHOLD, **spread(used, allowance))
        else:
            yield lane(name, used, allowance)


def told(lanes: Sequence[LaneFigures]) -> Report:
    """Return a report of the lanes, with an owner of the one that is shown."""
    plain = report(device_report(lanes))
    owned = {
        name: replace(one, owners=("pi@example.edu",) if name == SHOWN.slice_name else ())
        for name, one in plain.info.items()
    }
    return replace(plain, info=owned, at=Instant(NOW, 1000.0, "boot-1"))


def events() -> list[Event]:
    """Return what happened to the slice that is shown."""
    law = {
        "allowance_bytes": 50 * GB,
        "threshold_bytes": 40 * GB,
        "full_bytes_per_second": 100 * MBIT,
        "floor_bytes_per_second": 8_000,
    }
    capped_at, raised_at = BEGAN + 6.2 * 3600, NOW - 1.5 * 3600

    def at(seconds: float, **more: float | str) -> Event:
        return of_verdict(
            seconds, SHOWN, elapsed_seconds=seconds - BEGAN, remaining_seconds=ENDS - seconds, **law, **more
        )

    old, new = "old_ceiling_bytes_per_second", "ceiling_bytes_per_second"
    return [
        Event(BEGAN, EventKind.PERIOD_ROLLED, "eth0", SHOWN, {"used_bytes": 49_990_000_000, "periods": 1}),
        at(capped_at, used_bytes=40 * GB, **{old: 100 * MBIT, new: 155_648}),
        at(raised_at, used_bytes=41_590_000_000, old_reason="over_threshold", **{old: 155_648, new: 311_296}),
    ]


def record_past(file: Path) -> None:
    """Write down what the slice sent in the last two weeks, five minutes by five minutes."""
    numbers = random.Random(3)
    with closing(connect(file, mode="rw")) as state:
        key = state.execute("SELECT id FROM lanes WHERE slice = ? AND traffic = 'normal'", (SHOWN.slice_name,))
        lane_ids = np.array(key.fetchone(), np.int64)
        state.execute("BEGIN IMMEDIATE")
        day = 1.0
        for start in range(int(NOW - 14 * DAY_SECONDS), int(NOW), use.STEP_SECONDS):
            if start % DAY_SECONDS < use.STEP_SECONDS:
                day = numbers.uniform(0.4, 1.1)
            hour = (start - BEGAN) / 3600
            busy = 40 * GB / 75 * (hour < 6.2) if hour >= 0 else day * 50 * GB / 288
            sent = int(busy * numbers.uniform(0.2, 1.8)) if busy else int(3.27 * GB / 141)
            use.record(state, "eth0", start, use.Sums(lane_ids, np.array([sent], np.int64)))
        state.execute("COMMIT")


@contextmanager
def served(shown: Report) -> Iterator[str]:
    """Serve a node."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.db"
        state = open_state(file, now_wall_seconds=NOW)
        ledgers = [device.ledger for device in shown.devices]
        assert save(state, ledgers, events(), NOW).saved
        state.close()
        if SHOWN in shown.devices[0].tariffs.lanes:
            record_past(file)
        state = open_state(file, now_wall_seconds=NOW)
        ready = (True, "Turns run; the last one ended 2.1 s ago.")
        facts = Facts(state, report=shown, readiness=ready, options=Options(show_owners=True))
        with closing(state), serving(facts, bind("127.0.0.1:0")) as url:
            yield url


def take(browser: Chromium, shots: Sequence[Shot], lanes: Sequence[LaneFigures]) -> None:
    """Take pictures of a node."""
    with served(told(lanes)) as url:
        for shot in shots:
            page = Page(browser, width=shot.size[0], height=shot.size[1], dark=shot.dark)
            page.open(url + shot.path)
            (PICTURES / f"{shot.name}.png").write_bytes(page.picture())
            page.close()


if __name__ == "__main__":
    with running() as chromium:
        take(chromium, FEW, six())
        take(chromium, MANY, list(ten_thousand()))
    sys.stdout.write(f"written to {PICTURES}\n")
