"""The push: a turn's rows, the host and the jobs, to every destination at the pace it takes.

Turns reports into datagrams, a few at a time. Knows: what waits for whom, what is overtaken, when to go on. Does not
know: threads, schedules, how a name or a figure is made.

`hear` is for the turn's thread and only keeps the report; `work` is for a thread of its own. What waits is bounded: one
message a row and destination. A new round begins with the rows that the one before did not get to, which are dropped
and counted, so that none is always left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bwexporter.apmon.channel import Drop, Health
from bwexporter.apmon.jobs import Job
from bwexporter.apmon.monitor import Monitor
from bwexporter.apmon.rows import Layout, Naming, Place, Rows
from bwexporter.apmon.sender import DEFAULT_MESSAGE_BYTES, DEFAULT_RATE, Message, Sender
from bwexporter.apmon.sources import Sources
from bwexporter.apmon.timekeeping import is_synchronised
from bwexporter.core.report import Report

log = logging.getLogger("bwexporter.apmon")

MOST_WAITING = 2000  # messages of the host and of jobs, for each destination
MOST_AT_ONCE = 50  # datagrams before others get their turn
BREATH_SECONDS = 0.0005  # between messages: a turn that waits for the interpreter gets it, not after 5 ms but at once
SHORTEST_SECONDS = 0.25  # between two works
LONGEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is pushed where."""

    sources: tuple[str, ...]
    naming: Naming
    every_seconds: float
    host_cluster: str
    node: str
    with_host: bool = True
    lenient: bool = False
    allow_http: bool = False


@dataclass(slots=True)
class _Outbox:
    """What waits for one destination."""

    bodies: deque[bytes] = field(default_factory=deque)  # pieces of the message that is being sent
    messages: deque[Message] = field(default_factory=deque)  # of the host and of jobs
    rows: Rows | None = None
    places: deque[Place] = field(default_factory=deque)

    def __len__(self) -> int:
        """Count what waits, in messages."""
        return len(self.messages) + len(self.places) + bool(self.bodies)


class Pusher:
    """Pushes with ApMon until it is closed."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        *,
        synchronised: Callable[[], bool | None] = is_synchronised,
    ) -> None:
        self._clock = clock
        self._synchronised = synchronised
        self._warned_of_the_clock = False
        self._settings = settings
        self._sender = Sender((), resolve_seconds=0.0, clock=clock)
        self._sources = self._sources_of(settings)
        self._monitor = Monitor(clock, cluster=settings.host_cluster, node=settings.node, with_host=settings.with_host)
        self._outboxes: dict[str, _Outbox] = {}
        self._report: Report | None = None
        self._layout: Layout | None = None
        self._round_due_at = clock()
        self._behind = False
        self._closed = False
        self._sending = threading.Lock()  # held for what does not wait, so that the end need not wait for a server

    def _sources_of(self, settings: Settings) -> Sources:
        return Sources(settings.sources, self._clock, lenient=settings.lenient, allow_http=settings.allow_http)

    def change(self, settings: Settings) -> None:
        """Take over other settings; destinations that stay keep their sequence."""
        before, self._settings = self._settings, settings
        if _of_sources(before) != _of_sources(settings):
            self._sources = self._sources_of(settings)
        self._monitor.cluster, self._monitor.with_host = settings.host_cluster, settings.with_host
        self._round_due_at = min(self._round_due_at, self._clock() + settings.every_seconds)

    def watch(self, jobs: Mapping[object, Job]) -> None:
        """Watch these jobs and no others; those that stay keep what they have counted."""
        for key in [key for key in self._monitor.jobs if key not in jobs]:
            self._monitor.remove_job(key)
        for key, job in jobs.items():
            if key not in self._monitor.jobs:
                self._monitor.add_job(key, job)

    def hear(self, report: Report) -> None:
        """Keep the newest full turn for the next round; any thread may."""
        self._report = report

    def work(self) -> float:
        """Do what is due, without waiting for anything; return the time until there is more."""
        if self._sources.refresh():
            setup = self._sources.setup
            self._sender.replace(
                setup.destinations,
                rate=setup.for_all.rate or DEFAULT_RATE,
                message_bytes=setup.for_all.message_bytes or DEFAULT_MESSAGE_BYTES,
            )
        with self._sending:
            return LONGEST_SECONDS if self._closed else self._send_due()

    def _send_due(self) -> float:
        self._follow_destinations()
        self._gather()
        if self._report is not None and self._round_due_at <= self._clock():
            self._begin_round(self._report)
        waits = [self._drain(name, outbox) for name, outbox in self._outboxes.items()]
        return max(SHORTEST_SECONDS, min(LONGEST_SECONDS, self._seconds_until_due(), *waits))

    def _follow_destinations(self) -> None:
        names = [one.name for one in self._sender.destinations]
        self._outboxes = {name: self._outboxes.get(name) or _Outbox() for name in names}

    def _gather(self) -> None:
        """Queue what is due of the host and of jobs; where too much waits, the oldest is dropped and counted."""
        wall_seconds = time.time()
        for due in self._monitor.due(self._sender.destinations):
            waiting = self._outboxes[due.destination].messages
            if len(waiting) >= MOST_WAITING:
                waiting.popleft()
                self._sender.count_dropped(due.destination, Drop.QUEUE)
            waiting.append(Message(due.cluster, due.node, due.parameters.items(), wall_seconds))

    def _look_at_the_clock(self) -> None:
        """Say once when nobody keeps the clock whose time goes with the figures, and once when somebody does again."""
        synchronised = self._synchronised()
        if synchronised is False and not self._warned_of_the_clock:
            log.warning(
                "no time service keeps this node's clock; what is pushed is stored under a time that may be wrong"
            )
        elif synchronised and self._warned_of_the_clock:
            log.info("a time service keeps this node's clock")
        if synchronised is not None:
            self._warned_of_the_clock = not synchronised

    def _begin_round(self, report: Report) -> None:
        self._look_at_the_clock()
        self._round_due_at = self._clock() + self._settings.every_seconds
        self._report = None  # each turn once
        naming = self._settings.naming
        if self._layout is None or not self._layout.fits(report, naming):
            self._layout = Layout(report, naming)
        rows = Rows(report, self._layout)
        behind = False
        for name, outbox in self._outboxes.items():
            left = list(outbox.places)
            if left:
                behind = True
                self._sender.count_dropped(name, Drop.QUEUE, len(left))
            outbox.rows = rows
            outbox.places = deque(_from(rows.places, left[0] if left else None))
        if behind and not self._behind:
            log.warning(
                "not all rows can be pushed every %g s at this rate; the others come first next time",
                self._settings.every_seconds,
            )
        self._behind = behind

    def _drain(self, name: str, outbox: _Outbox) -> float:
        """Send what the rate allows to one destination; return the time until it allows more."""
        for _ in range(MOST_AT_ONCE):
            if not outbox.bodies and not self._unpack(name, outbox):
                return LONGEST_SECONDS
            seconds = self._sender.seconds_until_free(name)
            if seconds > 0:
                return seconds
            self._sender.send_body(name, outbox.bodies.popleft())
        return 0.0

    def _unpack(self, name: str, outbox: _Outbox) -> bool:
        """Make the pieces of the next message; false where none is left."""
        while not outbox.bodies:
            message: Message | None
            if outbox.messages:
                message = outbox.messages.popleft()
            elif outbox.places and outbox.rows is not None:
                message = outbox.rows.message(outbox.places.popleft())
            else:
                return False
            time.sleep(BREATH_SECONDS)
            if message is not None:
                outbox.bodies.extend(self._sender.bodies_for(name, message))
        return True

    def _seconds_until_due(self) -> float:
        until = [self._sources.seconds_until_due(), self._monitor.seconds_until_due(self._sender.destinations)]
        if self._report is not None:
            until.append(max(0.0, self._round_due_at - self._clock()))
        return min(until)

    def health(self) -> tuple[Health, ...]:
        """Return how each destination stands; any thread may ask."""
        return self._sender.health()

    def close(self) -> None:
        """Send what the rate allows at once, count the rest as dropped, and end."""
        with self._sending:
            self._closed = True
            for name, outbox in self._outboxes.items():
                self._drain(name, outbox)
                self._sender.count_dropped(name, Drop.CLOSED, len(outbox))
            self._outboxes = {}
        self._sender.close()


def _of_sources(settings: Settings) -> tuple[object, ...]:
    return settings.sources, settings.lenient, settings.allow_http


def _from(places: Iterable[Place], first: Place | None) -> list[Place]:
    """Return the places in their order, beginning with one of them."""
    ordered = list(places)
    at = ordered.index(first) if first in ordered else 0
    return ordered[at:] + ordered[:at]
