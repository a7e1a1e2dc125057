"""The daemon while a turn, or a push, is under way: its end, and what is asked for meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from bwexporter.core.report import PushStatus, Report
from bwexporter.daemon import Daemon
from bwexporter.errors import ConfigError, Problem
from bwexporter.metrics import Exposition
from bwexporter.parts import Publisher
from bwexporter.stages import Pace
from tests.reports import device_report, report
from tests.waiting import PATIENCE_SECONDS


@dataclass
class Saved:
    """A save that went well."""

    saved: bool = True
    trouble: str = ""


class HeldTurns:
    """Turns that end when the test lets them."""

    def __init__(self, interval_seconds: float = 60.0) -> None:
        self.pace = Pace(interval_seconds, min(1.0, interval_seconds), 2.0)
        self.stage = "look"
        self.desks: dict[str, Any] = {}
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.finished_in_turn: list[bool] = []
        self._in_turn = False

    def take(self, now: object, **_: object) -> Report:
        """Take a turn, which lasts until the test lets it end."""
        del now
        self._in_turn = True
        self.begun.set()
        assert self.go_on.wait(2 * PATIENCE_SECONDS)
        self._in_turn = False
        return report(device_report())

    def is_early(self, now: object) -> bool:
        """Take only full turns."""
        del now
        return False

    def next_look_seconds(self, now: object) -> float:
        """Have the next turn far away."""
        del now
        return 60.0

    def finish(self, now: object, *, hold: bool) -> Saved:
        """Count once more."""
        del now, hold
        self.finished_in_turn.append(self._in_turn)
        return Saved()


@dataclass
class Deaf:
    """A publisher of nothing."""

    def observe(self, report: Report) -> None:
        """Hear of a turn."""

    def render(self, report: Report) -> None:
        """Hear of a full turn."""

    def mark_down(self) -> None:
        """Hear of a turn that failed."""

    def count_turn_failure(self, stage: str) -> None:
        """Hear where."""

    def count_misfire(self) -> None:
        """Hear of a turn that was late."""


@dataclass
class HeldSink:
    """A push that waits for a server until the test lets it go on."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    heard: int = 0
    closed: bool = False

    def enlist(self, *_: object) -> None:
        """Take over nothing."""

    def hear(self, report: Report) -> None:
        """Count turns."""
        del report
        self.heard += 1

    def status(self) -> tuple[PushStatus, ...]:
        """Have no destination."""
        return ()

    def work(self) -> float:
        """Wait."""
        self.begun.set()
        assert self.go_on.wait(2 * PATIENCE_SECONDS)
        return 1.0

    def close(self) -> None:
        """End."""
        self.closed = True


class NoServers:
    """Sources that are files alone."""

    def polled(self) -> tuple[()]:
        """Ask nobody."""
        return ()

    def statuses(self, of_roll: tuple[()]) -> tuple[()]:
        """Have nothing to say."""
        del of_roll
        return ()


class Refusals(logging.Handler):
    """Hears that a turn has taken over that a reload was refused."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Hear a line."""
        if "was not reloaded" in record.getMessage():
            self.told.set()

    @classmethod
    @contextmanager
    def heard(cls) -> Iterator[Refusals]:
        """Listen while the context lasts."""
        heard, of_daemon = cls(), logging.getLogger("bwexporter")
        of_daemon.addHandler(heard)
        try:
            yield heard
        finally:
            of_daemon.removeHandler(heard)


def daemon_of(
    turns: HeldTurns,
    *sinks: HeldSink,
    call_roll: Callable[[], Any] = SimpleNamespace,
    publisher: Publisher | None = None,
) -> Daemon:
    """Assemble a daemon of these."""
    roll: Any = SimpleNamespace(sources=(), info={})
    held: Any = turns
    nothing: Any = None
    return Daemon(held, publisher or Deaf(), call_roll, roll, nothing, NoServers(), sinks)


def stopped(daemon: Daemon) -> threading.Thread:
    """Begin to stop it."""
    stopping = threading.Thread(target=daemon.stop, kwargs={"hold": False}, daemon=True)
    stopping.start()
    return stopping


def test_a_turn_that_runs_at_the_end_ends_first_and_the_end_comes() -> None:
    """It wants to set the time of the next turn while the scheduler is being shut down; neither waits for the other."""
    turns = HeldTurns()
    daemon = daemon_of(turns)
    daemon.start()
    assert turns.begun.wait(PATIENCE_SECONDS)
    stopping = stopped(daemon)
    stopping.join(timeout=0.2)
    assert stopping.is_alive()
    turns.go_on.set()
    stopping.join(timeout=PATIENCE_SECONDS)

    assert not stopping.is_alive()
    assert [False] == turns.finished_in_turn


def test_b36_a_reload_that_is_asked_for_while_a_turn_runs_is_done_after_it() -> None:
    """The ancestor forgot what came during its pass; the next regular turn of this one would be a minute away."""
    turns, called = HeldTurns(), threading.Event()

    def call_roll() -> None:
        called.set()
        raise ConfigError([Problem("bwexporter.yml", 1, "interval", "is missing")])

    daemon = daemon_of(turns, call_roll=call_roll)
    with Refusals.heard() as refusals:
        daemon.start()
        assert turns.begun.wait(PATIENCE_SECONDS)
        daemon.reload()
        assert called.wait(PATIENCE_SECONDS)
        early = refusals.told.wait(0.2)
        turns.go_on.set()

        assert not early
        assert refusals.told.wait(PATIENCE_SECONDS)
    stopped(daemon).join(timeout=PATIENCE_SECONDS)


def test_a_reload_that_takes_long_holds_up_no_turn() -> None:
    """Files are read beside the turns; of many wishes that come meanwhile one more reading is made."""
    turns, begun, go_on = HeldTurns(interval_seconds=0.05), threading.Event(), threading.Event()
    called = list[bool]()

    def call_roll() -> None:
        begun.set()
        called.append(go_on.wait(PATIENCE_SECONDS))
        raise ConfigError([Problem("bwexporter.yml", 1, "interval", "is missing")])

    turns.go_on.set()
    daemon = daemon_of(turns, call_roll=call_roll)
    daemon.start()
    asked = [daemon.reload() for _ in range(3)]
    assert begun.wait(PATIENCE_SECONDS)
    asked += [daemon.reload() for _ in range(3)]
    turns.begun.clear()
    daemon.look_soon()
    turn_came = turns.begun.wait(PATIENCE_SECONDS)
    go_on.set()
    for one in asked:
        assert one is not None
        one.result(timeout=PATIENCE_SECONDS)
    stopped(daemon).join(timeout=PATIENCE_SECONDS)

    assert turn_came
    assert [True, True] == called
    assert daemon.reload() is None


def test_a_reload_or_an_order_while_a_turn_runs_is_no_turn_that_was_late() -> None:
    """It waits for the turn's end; an operator who counts misfires is not to hear of it."""
    turns, exposition = HeldTurns(), Overheard()

    def call_roll() -> None:
        raise ConfigError([Problem("bwexporter.yml", 1, "interval", "is missing")])

    daemon = daemon_of(turns, call_roll=call_roll, publisher=exposition)
    with Refusals.heard() as refusals:
        daemon.start()
        assert turns.begun.wait(PATIENCE_SECONDS)
        reloaded = daemon.reload()
        assert reloaded is not None
        reloaded.result(timeout=PATIENCE_SECONDS)
        late = exposition.late.wait(0.3)
        turns.go_on.set()
        assert refusals.told.wait(PATIENCE_SECONDS)
    stopped(daemon).join(timeout=PATIENCE_SECONDS)

    assert not late
    assert exposition.misfires() == 0


class Overheard(Exposition):
    """The exposition, of which the test hears that a turn was late."""

    def __init__(self) -> None:
        super().__init__(["eth0"])
        self.late = threading.Event()

    def count_misfire(self) -> None:
        """Count it, and say so."""
        super().count_misfire()
        self.late.set()

    def misfires(self) -> float:
        """Return what a scrape shows."""
        series = dict(line.rsplit(" ", 1) for line in self.current.text.decode().splitlines())
        return float(series["bwexporter_turn_misfires_total"])


def test_turns_that_come_due_while_one_still_runs_are_counted_and_published() -> None:
    """An operator sees from it that turns take longer than the interval."""
    turns, exposition = HeldTurns(interval_seconds=0.1), Overheard()
    before = exposition.misfires()
    daemon = daemon_of(turns, publisher=exposition)
    daemon.start()
    assert turns.begun.wait(PATIENCE_SECONDS)
    late = exposition.late.wait(PATIENCE_SECONDS)
    turns.go_on.set()
    stopped(daemon).join(timeout=PATIENCE_SECONDS)

    assert late
    assert before == 0
    assert exposition.misfires() > 0


class SlowLog(logging.Handler):
    """A log that takes its time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Be written."""
        del record
        time.sleep(0.1)


def test_a_reload_is_not_put_off_where_the_scheduler_hears_late_that_the_turn_has_ended() -> None:
    """Until then it begins no other; it logs that a job has ended before it counts it as ended."""
    turns, called = HeldTurns(), threading.Event()

    def call_roll() -> None:
        called.set()
        raise ConfigError([Problem("bwexporter.yml", 1, "interval", "is missing")])

    slow, told = SlowLog(), logging.getLogger("apscheduler.executors.default")
    level = told.level
    told.addHandler(slow)
    told.setLevel(logging.INFO)
    try:
        daemon = daemon_of(turns, call_roll=call_roll)
        daemon.start()
        assert turns.begun.wait(PATIENCE_SECONDS)
        with Refusals.heard() as refusals:
            daemon.reload()
            turns.go_on.set()

            assert refusals.told.wait(PATIENCE_SECONDS)
        stopped(daemon).join(timeout=PATIENCE_SECONDS)
    finally:
        told.removeHandler(slow)
        told.setLevel(level)


def test_a_push_that_waits_for_a_server_holds_up_neither_turns_nor_the_end() -> None:
    """Its thread is its own."""
    turns, sink = HeldTurns(), HeldSink()
    turns.go_on.set()
    daemon = daemon_of(turns, sink)
    daemon.start()
    assert sink.begun.wait(PATIENCE_SECONDS)
    assert turns.begun.wait(PATIENCE_SECONDS)
    stopping = stopped(daemon)
    stopping.join(timeout=PATIENCE_SECONDS)
    waited = stopping.is_alive()
    sink.go_on.set()

    assert not waited
    assert [False] == turns.finished_in_turn
    assert sink.closed
    assert 1 <= sink.heard


def test_what_others_change_while_a_turn_acts_is_looked_at_soon_after_it() -> None:
    """The act has taken in what the kernel told of it, and the next regular turn would be a minute away."""
    turns, ended = HeldTurns(), threading.Event()
    answers = iter([True, False])

    def is_disturbed() -> bool:
        disturbed = next(answers)
        if not disturbed:
            ended.set()
        return disturbed

    turns.desks = {"eth0": SimpleNamespace(is_disturbed=is_disturbed)}
    turns.go_on.set()
    daemon = daemon_of(turns)
    daemon.start()

    assert ended.wait(30)
    stopped(daemon).join(timeout=20)
