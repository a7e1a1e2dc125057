"""Traffic by the hour, simulated with habits and recorded, and how far an outlook on it is off.

Turns a seed, or a record, into hourly rates, and those into errors. Knows: daily rhythm, weekends, bursts, pauses; the
record's form. Does not know: how an outlook is made.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bwexporter.core.habits import Habits, Periods, habits
from bwexporter.core.lanes import Lane, Traffic
from bwexporter.core.outlook import Course, course, outlook

DAY_HOURS = 24
DAYS = 21
LEARNT_DAYS = 7
HOUR = 3600
RECORD = Path(__file__).parent / "data" / "traffic_recorded.csv"
Rates = list[float]


def rates(chance: random.Random) -> Rates:
    """Return the bytes per second of each hour of some weeks, of one slice with habits of its own."""
    base, peak, at = chance.uniform(5e3, 5e4), chance.uniform(1e4, 4e5), chance.uniform(0, DAY_HOURS)
    weekend, burstiness, mood = chance.uniform(0.3, 1.2), chance.uniform(0.1, 0.8), 1.0
    found = []
    for hour in range(DAYS * DAY_HOURS):
        mood = 1.0 + 0.8 * (mood - 1.0) + chance.gauss(0.0, burstiness / 4)
        rhythm = max(0.0, math.cos((hour - at) / DAY_HOURS * 2 * math.pi)) ** 2
        rate = (base + peak * rhythm) * max(mood, 0.0) * (weekend if hour // DAY_HOURS % 7 >= 5 else 1.0)
        found.append(0.0 if chance.random() < 0.02 else rate * (5.0 if chance.random() < 0.02 else 1.0))
    return found


def recorded() -> dict[str, Rates]:
    """Return the bytes per second of each hour of whole days of some machines; see tests/data/traffic_recorded.md."""
    found = dict[str, Rates]()
    with RECORD.open(encoding="utf-8") as record:
        for row in csv.DictReader(record):
            known = found.setdefault(row["machine"], [])
            if known or row["hour"].endswith("T00:00"):  # an hour without a figure is one in which nothing was sent
                known.append(float(row["bytes"] or 0) / HOUR)
    return found


@dataclass(frozen=True)
class Way:
    """One way to look ahead."""

    persistence_seconds: float = 3600.0
    trust: float | None = None  # None: as it was learnt
    habits: bool = True

    def ahead(self, learnt: Habits, hours_left: int) -> Course:
        """Return the course of the rest of the day."""
        trust = learnt.trust if self.trust is None else np.full(len(learnt.trust), self.trust)
        usual, ends = learnt.usual[:, :hours_left], learnt.ends[:hours_left]
        return course(usual if self.habits else np.full(usual.shape, np.nan), ends, trust, self.persistence_seconds)


WAYS = {
    "recent rate alone": Way(habits=False),
    "same hours alone": Way(persistence_seconds=1.0, trust=1.0),
    "both, whatever habits are worth": Way(trust=1.0),
    "both, as far as habits served (ours)": Way(),
    "the same, 15 minutes instead of 1 hour": Way(persistence_seconds=900.0),
    "the same, 4 hours": Way(persistence_seconds=14_400.0),
}
Figures = dict[str, tuple[float, float]]


def _errors(cast: Sequence[Rates], first_day: int) -> Iterator[tuple[str, float]]:
    """Yield how far each outlook was off, as a part of the day's use; one an hour, by its way."""
    sent = np.array(cast)
    lanes = tuple(Lane("eth0", f"s{number}", Traffic.NORMAL) for number in range(len(cast)))
    day_seconds = float(DAY_HOURS * HOUR)
    for now in range(first_day * DAY_HOURS, sent.shape[1] // DAY_HOURS * DAY_HOURS):
        day, hour = divmod(now, DAY_HOURS)
        if not hour:
            continue
        left = np.full(len(cast), (DAY_HOURS - hour) * float(HOUR))
        past = ((start * HOUR, (sent[:, start] * HOUR).astype(np.int64)) for start in range(now))
        learnt = habits(lanes, Periods(np.full(len(cast), day_seconds), left), float(now * HOUR), past)
        assert learnt is not None
        used = sent[:, day * DAY_HOURS : now].sum(1) * HOUR
        total = np.maximum(sent[:, day * DAY_HOURS : (day + 1) * DAY_HOURS].sum(1) * HOUR, 1.0)
        for name, way in WAYS.items():
            seen = outlook(
                way.ahead(learnt, DAY_HOURS - hour),
                used_bytes=used.astype(np.int64),
                threshold_bytes=np.full(len(cast), 1 << 60),
                allowance_bytes=np.full(len(cast), 1 << 61),
                remaining_seconds=left,
                recent_bytes_per_second=sent[:, now - 1],
            )
            for error in (np.abs(seen.expected_used_bytes - total) / total).tolist():
                yield name, error


def _figures(errors: Iterator[tuple[str, float]]) -> Figures:
    """Return the median and the 90th percentile of the errors of each way."""
    of_way: dict[str, list[float]] = {name: [] for name in WAYS}
    for name, error in errors:
        of_way[name].append(error)
    return {name: (sorted(off)[len(off) // 2], sorted(off)[len(off) * 9 // 10]) for name, off in of_way.items()}


def measured(slices: int = 40, seed: int = 7) -> Figures:
    """Return the errors over two weeks of some simulated slices, a week behind them."""
    chance = random.Random(seed)
    return _figures(_errors([rates(chance) for _ in range(slices)], LEARNT_DAYS))


def measured_on_record() -> Figures:
    """Return the errors over the recorded days of all machines, from the second one on."""
    return _figures(error for sent in recorded().values() for error in _errors([sent], 1))
