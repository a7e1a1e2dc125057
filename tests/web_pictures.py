"""The pictures of both web pages, for README.md and docs/web.md: `python -m tests.web_pictures` draws them anew.

Turns a made-up node, of six slices or of ten thousand, into pictures by a real browser, in the light and in the dark.
Knows: who has used how much, and when. Does not know: how a page is drawn, what the law makes of it; verdicts,
ceilings and forecasts are the law's own.
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

from bwexporter.core import policy
from bwexporter.core.forecast import forecast
from bwexporter.core.lanes import UNLIMITED, Instant, Lane, Reason, Traffic
from bwexporter.core.report import DeviceReport, Event, EventKind, Report
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
BY_HAND = {"inria_dns": MBIT}
CAPPED_AT, CAPPED_GB = BEGAN + 6.2 * 3600, 40.0
RAISED_AT, RAISED_GB = NOW - 1.5 * 3600, 41.59
USED_GB = 43.27
LAST_GB = 31.4  # in the period before


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


def lane(name: str, used_gb: float, of_gb: float, **more: object) -> LaneFigures:
    """Return a lane of the day's last quarter, full rate 100 Mbit/s."""
    allowance = int(of_gb * GB) if of_gb else UNLIMITED
    figures = LaneFigures(
        name,
        used_bytes=int(used_gb * GB),
        period_start_at=BEGAN,
        period_end_at=ENDS,
        allowance_bytes=allowance,
        threshold_bytes=allowance // 10 * 8 if of_gb else UNLIMITED,
        full_bytes_per_second=100 * MBIT,
        floor_bytes_per_second=8_000,
    )
    return replace(figures, **more)  # type: ignore[arg-type]


def six() -> list[LaneFigures]:
    """Return the lanes of six slices, whom the law gives every common verdict among them."""
    return [
        lane("princeton_codeen", 0.91, 5),
        lane("princeton_codeen", 12.3, 32.4, traffic=Traffic.EXEMPT, full_bytes_per_second=1000 * MBIT),
        lane(SHOWN.slice_name, USED_GB, 50),
        lane("uw_ping", 10.8, 10.8),
        lane("cornell_beehive", 0.797, 1, recent_bytes_per_second=750_000.0),
        lane("inria_dns", 0.133, 1),
        lane("tum_monitor", 907, 0),
    ]


def ten_thousand() -> Iterator[LaneFigures]:
    """Yield as many lanes, most of them quiet."""
    numbers = random.Random(7)
    for number in range(10_000):
        name, allowance = f"{numbers.choice(NAMES)}{number}", numbers.choice((1.0, 5.0, 10.8, 50.0))
        yield lane(name, min(numbers.betavariate(1, 3) * 1.15, 1.0) * allowance, allowance)


def judged(lanes: Sequence[LaneFigures], at: float) -> DeviceReport:
    """Return a report of the lanes at a moment, with what the law gives them then."""
    plain = device_report(lanes, cap_bytes_per_second=1000 * MBIT, line_rate_bytes_per_second=1000 * MBIT)
    ledger = replace(plain.ledger, at=Instant(at, 1000.0, "boot-1"), ledger_seconds=at)
    by_hand = np.array([BY_HAND.get(one.slice_name, UNLIMITED) for one in lanes], np.int64)
    tariffs = replace(plain.tariffs, hand_cap_bytes_per_second=by_hand)
    verdicts = policy.judge(
        ledger,
        tariffs,
        period_seconds=np.full(len(lanes), DAY_SECONDS),
        held_ceiling_bytes_per_second=tariffs.full_bytes_per_second,
        cap_bytes_per_second=plain.cap_bytes_per_second,
        line_rate_bytes_per_second=plain.line_rate_bytes_per_second,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=False,
    )
    ahead = forecast(ledger, tariffs.lanes, verdicts, None)
    return replace(
        plain,
        ledger=ledger,
        tariffs=tariffs,
        verdicts=verdicts,
        enforced_ceiling_bytes_per_second=verdicts.ceiling_bytes_per_second,
        seconds_to_threshold=ahead.seconds_to_threshold,
        seconds_to_allowance=ahead.seconds_to_allowance,
    )


def told(lanes: Sequence[LaneFigures]) -> Report:
    """Return a report of the lanes, with an owner of the one that is shown."""
    plain = report(judged(lanes, NOW))
    owned = {
        name: replace(one, owners=("pi@example.edu",) if name == SHOWN.slice_name else ())
        for name, one in plain.info.items()
    }
    return replace(plain, info=owned, at=Instant(NOW, 1000.0, "boot-1"))


def events() -> list[Event]:
    """Return what happened to the slice that is shown, with the ceilings that the law gave it."""
    found = [Event(BEGAN, EventKind.PERIOD_ROLLED, "eth0", SHOWN, {"used_bytes": int(LAST_GB * GB), "periods": 1})]
    old_ceiling, old_reason = 100 * MBIT, Reason.WITHIN
    for at, used_gb in ((CAPPED_AT, CAPPED_GB), (RAISED_AT, RAISED_GB)):
        verdicts = judged([lane(SHOWN.slice_name, used_gb, 50)], at).verdicts
        ceiling, reason = int(verdicts.ceiling_bytes_per_second[0]), Reason(verdicts.reason[0])
        figures = {
            "used_bytes": int(used_gb * GB),
            "allowance_bytes": int(verdicts.allowance_bytes[0]),
            "threshold_bytes": int(verdicts.threshold_bytes[0]),
            "full_bytes_per_second": 100 * MBIT,
            "floor_bytes_per_second": int(verdicts.floor_bytes_per_second[0]),
            "elapsed_seconds": at - BEGAN,
            "remaining_seconds": ENDS - at,
            "old_reason": old_reason.name.lower(),
            "reason": reason.name.lower(),
            "old_ceiling_bytes_per_second": old_ceiling,
            "ceiling_bytes_per_second": ceiling,
        }
        found.append(of_verdict(at, SHOWN, **figures))
        old_ceiling, old_reason = ceiling, reason
    return found


def spans() -> Iterator[tuple[float, float, float]]:
    """Yield since when, until when and how much was sent: earlier periods, then much, little, all that may pass."""
    numbers = random.Random(3)
    for ago in range(14, 1, -1):
        yield BEGAN - ago * DAY_SECONDS, BEGAN - (ago - 1) * DAY_SECONDS, 50 * numbers.uniform(0.4, 0.98)
    yield BEGAN - DAY_SECONDS, BEGAN, LAST_GB
    yield BEGAN, CAPPED_AT, CAPPED_GB
    yield CAPPED_AT, RAISED_AT, RAISED_GB - CAPPED_GB
    yield RAISED_AT, NOW, USED_GB - RAISED_GB


def record_past(file: Path) -> None:
    """Write down what the slice sent in the last two weeks, five minutes by five minutes."""
    numbers = random.Random(3)
    with closing(connect(file, mode="rw")) as state:
        key = state.execute("SELECT id FROM lanes WHERE slice = ? AND traffic = 'normal'", (SHOWN.slice_name,))
        lane_ids = np.array(key.fetchone(), np.int64)
        state.execute("BEGIN IMMEDIATE")
        for since, until, sent_gb in spans():
            starts = [one for one in range(int(since), int(NOW), use.STEP_SECONDS) if one < until]
            weights = [numbers.uniform(0.2, 1.8) for _ in starts]
            for start, weight in zip(starts, weights, strict=True):
                sent = np.array([int(sent_gb * GB * weight / sum(weights))], np.int64)
                use.record(state, "eth0", start, use.Sums(lane_ids, sent))
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
