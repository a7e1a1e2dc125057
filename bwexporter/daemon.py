"""The daemon: clocks, jobs, reloads, and what becomes of trouble.

Turns a roster and doors into turns at the right times. Knows: the clocks, APScheduler, when to wake. Does not know:
what happens inside a turn, where slices come from, how a turn is published or said.

Regular and early looks are one APScheduler job, so that they never overlap. APScheduler 3 schedules by the wall clock:
after each turn the job is given its next time anew, and a guard that compares the clocks gives it again as soon as the
wall clock was stepped, so that a step neither stops nor floods the turns. Each sink of a push is a job of its own with
a thread of its own: what it waits for holds up no turn, and its troubles are none of a turn's.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import uniform

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from bwexporter.calling import Called, Calling
from bwexporter.commands import Commands
from bwexporter.core.accounting import STEP_TOLERANCE_SECONDS
from bwexporter.core.hand import Done
from bwexporter.core.lanes import Instant
from bwexporter.core.orders import Command
from bwexporter.core.report import Report
from bwexporter.errors import ConfigError, StateRefused
from bwexporter.log import Log, say_turn
from bwexporter.parts import LookBack, Publisher, Server, Sources
from bwexporter.pushing import Sink
from bwexporter.roster import Roll
from bwexporter.shadowing import Shadowing
from bwexporter.sorting import Sorting
from bwexporter.turn import Turns

log = logging.getLogger("bwexporter")

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
GUARD_SECONDS = 1.0
MOMENT_SECONDS, READINGS = 0.001, 10
"""How long one moment may be in which both clocks are read, and how often they are read until they are in one."""
SWITCH_SECONDS = 0.0005
"""After how long a thread that holds the interpreter lets others have it. A turn lets go of it with each message of the
kernel; with Python's own 5 ms, a page that is being made would hold each of them up for as long."""
JOB = "turn"
HABITS_JOB = "habits"
HABITS_SECONDS = 3600.0
FIRST_HABITS_SECONDS = 2.0
"""After the start, a reload or the begin of an hour: what belongs to it is saved by then."""
PUSH_AGAIN_SECONDS = 60.0  # after a push that failed or does not end
NEARLY_SECONDS = 0.05
"""After it a thread whose turn has ended has told the scheduler so, which begins no other turn before."""
JITTER = 0.1
"""How far a poll may come before or after its time, as a part of the time between polls."""


def read_clocks() -> Instant:
    """Read the clocks, once a turn."""
    return Instant(*_wall_and_boot(), _boot_id())


def _wall_and_boot() -> tuple[float, float]:
    """Read both clocks in one moment: a thread that is held up between them would see a wall clock that was stepped."""
    readings = []
    for _ in range(READINGS):
        before, wall, after = _boot_seconds(), time.time(), _boot_seconds()
        readings.append((after - before, wall, after))
        if after - before < MOMENT_SECONDS:
            break
    _, wall, boot = min(readings)
    return wall, boot


def _boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _boot_id() -> str:
    """Read which boot this is; no process outlives it."""
    return BOOT_ID_FILE.read_text().strip()


class Daemon:
    """Takes turns until it is told to stop. `call_roll` reads the configuration and the sources anew."""

    def __init__(
        self,
        turns: Turns,
        publisher: Publisher,
        call_roll: Callable[[], Roll],
        roll: Roll,
        sorting: Sorting,
        sources: Sources,
        sinks: Sequence[Sink] = (),
        look_back: LookBack | None = None,
    ) -> None:
        self._turns = turns
        self._publisher = publisher
        self._calling = Calling(call_roll, self._wake_unless_in_turn)
        self._roll = roll
        self._sorting = sorting
        self._sinks = {f"push {number}": sink for number, sink in enumerate(sinks)}  # by the names of their jobs
        self._sources = sources
        self._shadowing = Shadowing()
        self._look_back = look_back
        self._asked: dict[str, Server] = {}  # by the names of their jobs
        self._log = Log()
        self._commands = Commands()
        self._in_turn = False
        self._stopping = threading.Event()
        self._taking = threading.Lock()
        self._waking = threading.Lock()
        self._stirred = False  # somebody changed what is ours since the last turn began
        self._last_full: Report | None = None
        self._last_good_monotonic: float | None = None
        self._last_begun_monotonic = time.monotonic()
        self._reload_successful = True
        self._reloaded_wall_seconds = time.time()
        pushes = {name: ThreadPoolExecutor(1) for name in self._sinks}
        executors = {"default": ThreadPoolExecutor(1), "polls": _InThreads(), **pushes}
        self._scheduler = BackgroundScheduler(executors=executors, timezone=UTC)
        self._guard = threading.Thread(target=self._guard_clock, name="clock guard", daemon=True)

    def start(self) -> None:
        """Begin: the first turn is due at once."""
        sys.setswitchinterval(SWITCH_SECONDS)
        interval = self._turns.pace.interval_seconds
        self._scheduler.add_listener(self._on_trouble, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_job(
            self.take_turn,
            _FromNow(seconds=interval),
            id=JOB,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=max(1, round(interval)),
            next_run_time=datetime.now(UTC),
        )
        for name in self._sinks:
            self._scheduler.add_job(
                self._push,
                _FromNow(seconds=PUSH_AGAIN_SECONDS),
                [name],
                id=name,
                executor=name,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
                next_run_time=datetime.now(UTC),
            )
        if self._look_back is not None:
            self._scheduler.add_job(
                self._learn,
                _FromNow(seconds=HABITS_SECONDS),
                id=HABITS_JOB,
                executor="polls",
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
                next_run_time=datetime.now(UTC) + timedelta(seconds=FIRST_HABITS_SECONDS),
            )
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # its troubles reach our listener
        self._scheduler.start()
        self._schedule_polls()
        self._guard.start()

    def reload(self) -> Future[None] | None:
        """Ask for the configuration and the sources to be read anew; any thread may.

        They are read beside the turns. What is returned is done when the next turn, due at once, takes them over.
        """
        return self._calling.ask()

    def ask_all(self) -> None:
        """Ask the servers that slices come from at once."""
        for name in tuple(self._asked):
            job = self._scheduler.get_job(name)
            if job is not None:
                job.modify(next_run_time=datetime.now(UTC))

    def command(self, command: Command) -> Future[Done]:
        """Leave an order by hand to the next turn, which is due at once; any thread may.

        The answer comes when that turn has saved it. It is a ValueError, with a sentence for people, where the order
        cannot be carried out.
        """
        waiting = self._commands.give(command)
        self._wake_unless_in_turn()
        return waiting

    def look_soon(self) -> None:
        """Hear that somebody changed what is ours: a look is due, the shortest interval after the last one began."""
        with self._waking:
            self._stirred = True
            if not self._in_turn:
                self._wake_in(self._rest_seconds(), sooner_only=True)

    def stop(self, *, hold: bool) -> bool:
        """End: the running turn ends, what was sent is counted once more and saved; true where it was saved."""
        self._stopping.set()
        with self._taking:  # The scheduler would wait with its lock held, which the running turn needs to end.
            self._scheduler.shutdown(wait=False)
        self._calling.close()
        self._commands.refuse("bwexporter is being stopped: nothing was done")
        saved = self.finish(hold=hold)
        for sink in self._sinks.values():
            sink.close()
        return saved

    def finish(self, *, hold: bool) -> bool:
        """Count once more and save; true where it was saved."""
        saving = self._turns.finish(read_clocks(), hold=hold)
        if not saving.saved:
            log.error("the last turn was not saved: %s", saving.trouble)
        return saving.saved

    @property
    def last_report(self) -> Report | None:
        """Return the last full turn; any thread may ask."""
        return self._last_full

    def ready(self) -> tuple[bool, str]:
        """Say whether turns run; any thread may ask."""
        if self._last_good_monotonic is None:
            return False, "No turn has ended yet."
        age = time.monotonic() - self._last_good_monotonic
        if age > self._patience_seconds():
            return False, f"The last good turn was {age:.0f} s ago."
        return True, f"Turns run; the last one ended {age:.1f} s ago."

    def alive(self) -> bool:
        """Say whether turns are begun, whatever comes of them; any thread may ask."""
        return time.monotonic() - self._last_begun_monotonic <= self._patience_seconds()

    def _patience_seconds(self) -> float:
        return 3 * self._turns.pace.interval_seconds + 2.0

    def take_turn(self) -> None:
        """Take the turn that is due, and set the time of the next one; none while the program is being stopped."""
        with self._taking:
            if not self._stopping.is_set():
                self._take_and_answer()

    def _take_and_answer(self) -> None:
        with self._waking:
            self._in_turn, self._stirred = True, False
        try:
            saved = self._take_turn()
        except BaseException:
            self._commands.fail()
            raise
        finally:
            with self._waking:
                self._in_turn = False
        self._commands.answer(saved=saved)
        # What came between a look and its act was heard by the act, and wakes nobody any more.
        disturbed = any(desk.is_disturbed() for desk in self._turns.desks.values())
        with self._waking:
            until_next = self._turns.next_look_seconds(read_clocks())
            self._wake_in(min(until_next, self._rest_seconds()) if self._stirred or disturbed else until_next)
        if self._calling.waiting or self._commands.waiting:  # came while the turn ran
            self._wake_in(0.0)

    def _take_turn(self) -> bool:
        """Take a turn, after what was asked for; say whether it was saved."""
        now = read_clocks()
        self._last_begun_monotonic = time.monotonic()
        early = self._turns.is_early(now)
        if (called := self._calling.take()) is not None:
            self._tell(self._take(now))
            self._enlist_anew(called)
            now, early = read_clocks(), False
        commanded = self._commands.obey(self._turns, now)
        early = early and not commanded
        report = self._take(now, early=early)
        self._tell(report)
        return report.saved

    def _take(self, now: Instant, *, early: bool = False) -> Report:
        sources = self._sources.statuses(self._roll.sources)
        return self._turns.take(now, sources=sources, info=self._roll.info, early=early)

    def _rest_seconds(self) -> float:
        """Return the time until another look may follow the last one."""
        return max(0.0, self._last_begun_monotonic + self._turns.pace.shortest_interval_seconds - time.monotonic())

    def _enlist_anew(self, called: Called) -> None:
        """Take over a new roll, what was sent until now having been counted under the old one."""
        if isinstance(called, ConfigError):
            self._reload_successful = False
            text = "\n".join(str(problem) for problem in called.problems)
            log.error("the configuration was not reloaded, the running one is kept:\n%s", text)
            return
        if isinstance(called, Exception):
            raise called
        self._roll = called
        self._reload_successful = True
        self._reloaded_wall_seconds = time.time()
        self._turns.pace = self._roll.pace
        self.enlist(self._roll)
        self._schedule_polls()

    def _schedule_polls(self) -> None:
        """Give each server a job of its own, and take the jobs of those that are no longer asked.

        The first poll comes within a tenth of the time between two, so that nodes which start together do not ask
        together.
        """
        wanted = {f"poll {server.name}": server for server in self._sources.polled()}
        for name in [name for name, server in self._asked.items() if wanted.get(name) is not server]:
            del self._asked[name]
            self._scheduler.remove_job(name)
        for name, server in wanted.items():
            if name not in self._asked and not self._stopping.is_set():
                self._asked[name] = server
                first = datetime.now(UTC) + timedelta(seconds=uniform(0, JITTER * server.every_seconds))  # noqa: S311 - no secret
                self._scheduler.add_job(
                    self._poll,
                    _AboutFromNow(seconds=server.every_seconds),
                    [server],
                    id=name,
                    executor="polls",
                    coalesce=True,
                    misfire_grace_time=None,
                    next_run_time=first,
                )

    def _poll(self, server: Server) -> None:
        """Ask a server; what it says is taken over by a turn, which is due at once where it has changed."""
        if server.poll() and not self._stopping.is_set():
            self.reload()

    def enlist(self, roll: Roll) -> None:
        """Put a roll's devices on the turns' desks, and say what was wrong with it."""
        self._log.hear_roll(roll)
        for desk in roll.desks(self._turns.desks):
            self._turns.enlist(desk)
        self._wake(HABITS_JOB, FIRST_HABITS_SECONDS)
        self._sorting.enlist(roll.claims, roll.built, roll.exempt_prefixes)
        for name, sink in self._sinks.items():
            sink.enlist(roll.config.apmon, roll.claims, len(roll.tariffs))
            self._wake(name, 0.0)
        log.info("roster slices=%d problems=%d", len(roll.info), len(roll.problems))

    def _learn(self) -> None:
        """Look up habits anew, and set the time of the next look back: shortly after the next hour has begun."""
        if self._look_back is None:
            return
        for device, desk in tuple(self._turns.desks.items()):
            try:
                learnt = self._look_back(desk, time.time())
            except StateRefused as trouble:
                log.warning("forecasts go by the recent rate alone: %s", trouble)
                learnt = None
            self._turns.habits = self._turns.habits | ({device: learnt} if learnt is not None else {})
        self._wake(HABITS_JOB, HABITS_SECONDS - time.time() % HABITS_SECONDS + FIRST_HABITS_SECONDS)

    def _wake(self, name: str, seconds: float) -> None:
        """Set the time at which a push, or the look back, goes on; there may be no such job."""
        job = self._scheduler.get_job(name)
        if job is not None and not self._stopping.is_set():
            job.modify(next_run_time=datetime.now(UTC) + timedelta(seconds=seconds))

    def _tell(self, report: Report) -> None:
        report = replace(
            report,
            config_reload_successful=self._reload_successful,
            config_reloaded_wall_seconds=self._reloaded_wall_seconds,
            pushes=tuple(status for sink in self._sinks.values() for status in sink.status()),
        )
        report = self._shadowing.seen(report, self._turns)
        self._publisher.observe(report)
        self._log.hear(report)
        if not report.early:
            self._publisher.render(report)
            self._last_full = report
            for sink in self._sinks.values():
                sink.hear(report)
        if not any(one.trouble for one in report.devices):  # who is told that turns run may ask for the report at once
            self._last_good_monotonic = time.monotonic()
        say_turn(report)

    def _wake_unless_in_turn(self) -> None:
        """Let the next turn be due now; one that runs looks for what came meanwhile when it ends."""
        if not self._in_turn:
            self._wake_in(0.0)

    def _wake_in(self, seconds: float, *, sooner_only: bool = False) -> None:
        """Set the time of the next turn; a job that is just being added or removed needs no waking."""
        job = self._scheduler.get_job(JOB)
        if job is None or self._stopping.is_set():
            return
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        if not (sooner_only and job.next_run_time is not None and job.next_run_time <= at):
            job.modify(next_run_time=at)

    def _push(self, name: str) -> None:
        """Let a sink work, and set the time at which it goes on."""
        seconds = PUSH_AGAIN_SECONDS
        try:
            seconds = self._sinks[name].work()
        except Exception:
            log.exception("a push failed; it goes on in %.0f s", seconds)
        self._wake(name, seconds)

    def _on_trouble(self, event: JobEvent) -> None:
        """Hear of a turn that failed, was late or still ran when the next was due; the next one is not lost."""
        if event.job_id != JOB:
            if event.code == EVENT_JOB_ERROR and event.job_id in self._asked:
                log.error("%s failed; what it said last holds", event.job_id, exc_info=event.exception)
            return  # a push says its troubles itself
        if event.code == EVENT_JOB_ERROR:
            stage = self._turns.stage
            log.error("the turn failed at %s; accounts stay as counted", stage, exc_info=event.exception)
            self._publisher.count_turn_failure(stage)
            self._publisher.mark_down()
            self._wake_in(self._turns.pace.interval_seconds)
            return
        if event.code == EVENT_JOB_MAX_INSTANCES and not self._in_turn:  # what is asked for now is not put off
            self._wake_in(NEARLY_SECONDS, sooner_only=True)
            return
        self._publisher.count_misfire()
        if event.code == EVENT_JOB_MISSED:
            self._wake_in(0.0)

    def _guard_clock(self) -> None:
        """Give the job its time anew when the wall clock was stepped."""
        offset = _wall_minus_boot()
        while not self._stopping.wait(GUARD_SECONDS):
            now = _wall_minus_boot()
            if abs(now - offset) > STEP_TOLERANCE_SECONDS:
                log.warning("the wall clock was stepped by %.1f s", now - offset)
                self._wake_unless_in_turn()
                for name in self._sinks:
                    self._wake(name, 0.0)
                self.ask_all()
                self._wake(HABITS_JOB, 0.0)
                offset = now


class _FromNow(IntervalTrigger):  # type: ignore[misc]  # APScheduler 3 is not typed
    """Fires one interval from now.

    The interval trigger would list every time that a clock which was set ahead has passed over: a machine that boots in
    1970 and is then told the date would be listing for hours.
    """

    def get_next_fire_time(self, _: datetime | None, now: datetime) -> datetime:
        """Return the time of the next turn, unless a turn says otherwise."""
        return now + timedelta(seconds=self.interval_length)


class _AboutFromNow(_FromNow):
    """Fires about one interval from now, so that nodes which asked a server together do not go on doing so."""

    def get_next_fire_time(self, before: datetime | None, now: datetime) -> datetime:
        """Return the time of the next poll."""
        spread = JITTER * self.interval_length
        return super().get_next_fire_time(before, now) + timedelta(seconds=uniform(-spread, spread))  # noqa: S311 - no secret


class _InThreads(BaseExecutor):  # type: ignore[misc]  # APScheduler 3 is not typed
    """Runs each job in a thread of its own, which the end of the program does not wait for."""

    def _do_submit_job(self, job: Job, run_times: list[datetime]) -> None:
        threading.Thread(target=self._run, args=(job, run_times), name=job.id, daemon=True).start()

    def _run(self, job: Job, run_times: list[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)  # noqa: SLF001 - as executors do
        except BaseException as error:  # noqa: BLE001 - as executors do
            self._run_job_error(job.id, error, error.__traceback__)
        else:
            self._run_job_success(job.id, events)


def _wall_minus_boot() -> float:
    wall, boot = _wall_and_boot()
    return wall - boot
