"""What was used over time, for the picture of a period and the days before it.

Turns stored use and events into curves and bars. Knows: how sums of five minutes or an hour are laid over a period that
begins anywhere, and how long an answer may be kept. Does not know: files, drawing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bwexporter.core.lanes import Lane, Traffic
from bwexporter.core.report import Event, EventKind
from bwexporter.errors import StateRefused

FINE_SECONDS, COARSE_SECONDS, DAY_SECONDS = 300, 3600, 86_400
DAYS = 14
KEPT_SECONDS = 20.0
KEPT_TIMES_ITS_COST = 50.0
"""A page that is looked at costs at most this part of a core, however dear its past is (0.1 s at 10 000 slices)."""

MOST_KEPT = 200

_OF_VERDICTS = frozenset({EventKind.VERDICT, EventKind.CEILING})

Point = tuple[float, int]
"""An instant in Unix time, and the bytes used by then."""


class Store(Protocol):
    """Where use and events are kept; any thread may ask."""

    def events(
        self,
        since: float,
        until: float,
        slice_name: str | None = None,
        limit: int = 1000,
        kind: EventKind | None = None,
    ) -> list[Event]:
        """Return the newest events of [since, until), newest first."""

    def use(
        self, device: str, slice_name: str, traffic: Traffic, since: float, until: float, step: int
    ) -> list[tuple[int, int]]:
        """Return what a lane sent in each span of `step` seconds, by the span's start."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a lane's running period and of the days before."""

    curve: Sequence[Point]
    verdicts: Sequence[Event]  # those of the running period, oldest first
    days: Sequence[tuple[int, int]]  # by the start of each UTC day


class History:
    """Asks the store, and asks again for the same no sooner than after some seconds: unpacking use costs time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[Lane, tuple[float, list[tuple[int, int]], list[tuple[int, int]]]] = {}

    def events(
        self,
        since: float,
        until: float,
        slice_name: str | None = None,
        limit: int = 1000,
        kind: EventKind | None = None,
    ) -> list[Event]:
        """Return the newest events of [since, until), newest first; none where they cannot be read."""
        try:
            return self._store.events(since, until, slice_name, limit, kind)
        except StateRefused:
            return []

    def use(self, lane: Lane, since: float, until: float, step: int) -> list[tuple[int, int]]:
        """Return what a lane sent in each span; nothing where that cannot be read."""
        try:
            return self._store.use(lane.device, lane.slice_name, lane.traffic, since, until, step)
        except StateRefused:
            return []

    def past(self, lane: Lane, start: float, now: float, used_bytes: int, events: Iterable[Event]) -> Past:
        """Return the past of a lane whose period began at `start`; `events` are those of its slice."""
        spans, days = self._spans(lane, start, now)
        of_lane = [event for event in events if event.lane == lane and event.kind in _OF_VERDICTS]
        verdicts = sorted((event for event in of_lane if start <= event.at_wall_seconds), key=_at)
        known = [(event.at_wall_seconds, int(event.inputs["used_bytes"])) for event in verdicts]
        return Past(curve(start, now, used_bytes, spans, known), verdicts, days)

    def _spans(self, lane: Lane, start: float, now: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        with self._lock:  # one thread unpacks at a time: the others would only hinder it, and the turn
            kept = self._kept.get(lane)
            if kept is not None and time.monotonic() < kept[0]:
                return kept[1:]
            began = time.monotonic()
            step = FINE_SECONDS if now - start <= 2 * DAY_SECONDS else COARSE_SECONDS
            spans = self.use(lane, start, now + 1, step)
            days = self.use(lane, now - DAYS * DAY_SECONDS, now + 1, DAY_SECONDS)
            while len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            ended = time.monotonic()
            kept_until = ended + max(KEPT_SECONDS, KEPT_TIMES_ITS_COST * (ended - began))
            self._kept[lane] = (kept_until, spans, days)
            return spans, days


def curve(
    start: float, now: float, used_bytes: int, spans: Sequence[tuple[int, int]], known: Sequence[Point]
) -> list[Point]:
    """Return the use of a period: 0 at its start, what is used now, what was known at some instants, and the spans.

    Spans are laid backwards from now, because the first of them may have begun before the period.

    >>> curve(100.0, 900.0, 60, [(0, 30), (300, 20), (600, 25)], [(700.0, 50)])
    [(100.0, 0), (300.0, 15), (600.0, 35), (700.0, 50), (900.0, 60)]
    """
    points = dict(known)
    left = used_bytes
    for begin, sent in reversed(spans):
        left -= sent
        if start < begin < now:
            points.setdefault(float(begin), max(left, 0))
    rising, highest = [(now, used_bytes)], used_bytes
    for at in sorted((at for at in points if start < at < now), reverse=True):
        highest = min(highest, points[at])
        rising.append((at, highest))
    return [(start, 0), *reversed(rising)]


def _at(event: Event) -> float:
    return event.at_wall_seconds
