"""The log: what is said of rolls, of turns and of what happened in them.

Turns rolls and reports into lines. Knows: what is worth a line, how loud, which trouble was said already. Does not
know: when turns run, what else becomes of a report, where lines go.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bwexporter.core.lanes import Act
from bwexporter.core.report import DeviceReport, Event, EventKind, Report, SourceStatus
from bwexporter.errors import Problem
from bwexporter.roster import Roll

log = logging.getLogger("bwexporter")


class Log:
    """What the newest lines have said; one thread takes turns and tells them here."""

    def __init__(self) -> None:
        self._told: frozenset[Problem] = frozenset()
        self._down: set[str] = set()
        self._unkept: set[str] = set()
        self._sorting_problems: frozenset[str] = frozenset()

    def hear_roll(self, roll: Roll) -> None:
        """Say what is wrong with a roll that was not with the one before, and how its sources stand."""
        now = frozenset((*roll.problems, *roll.warnings))
        for problem in dict.fromkeys((*roll.problems, *roll.warnings)):
            if problem not in self._told:
                log.warning("%s", problem)
        self._told = now
        self._tell_of_sources(roll.sources)

    def hear(self, report: Report) -> None:
        """Say what happened in a turn, and what went wrong."""
        for event in report.events:
            _log_event(event)
        for device in report.devices:
            if device.trouble:
                log.error("%s; accounts and ceilings stay as they are", device.trouble)
            _say_orphans(device)
        for text in report.sorting_problems:
            if text not in self._sorting_problems:
                log.warning("packets are not sorted as wanted: %s", text)
        self._sorting_problems = frozenset(report.sorting_problems)
        if report.sorting_drift:
            log.warning("%d rules of the classifier had been changed and were put right", report.sorting_drift)
        if report.save_trouble:
            log.error("%s: %s", "saved, but" if report.saved else "the turn was not saved", report.save_trouble)

    def _tell_of_sources(self, statuses: Sequence[SourceStatus]) -> None:
        """Say which sources are up again, or kept on disk again; that one is not its problems have said."""
        for status in statuses:
            if status.up and status.name in self._down:
                log.info("%s: is up again; slices=%d", status.name, status.slices)
            if status.name in self._unkept and not status.unkept:
                log.info("%s: what is good now is kept for the next start again", status.name)
        self._unkept = {status.name for status in statuses if status.unkept}
        self._down = {status.name for status in statuses if not status.up and status.problems}


def say_turn(report: Report) -> None:
    """Say in one line that a turn has ended, and with what."""
    log.log(logging.DEBUG if report.early else logging.INFO, "%s", _turn_line(report))


def _turn_line(report: Report) -> str:
    devices = report.devices
    made = [device.outcomes for device in devices if device.outcomes is not None]
    refused = sum(int((outcomes.errno != 0).sum()) for outcomes in made)
    unmade = sum(len(device.changes) for device in devices if device.outcomes is None)
    would = f"would_change={unmade} " if not report.enforcing else ""
    return (
        f"turn{' early' if report.early else ''} lanes={sum(len(device.tariffs) for device in devices)} "
        f"capped={sum(int(device.verdicts.capped.sum()) for device in devices)} "
        f"changes={sum(len(outcomes.errno) for outcomes in made)} refused={refused} {would}"
        f"took_ms={1e3 * report.turn_seconds:.1f} next_s={report.next_look_seconds:.1f}"
    )


def _say_orphans(device: DeviceReport) -> None:
    """Say which classes were removed that belonged to nobody."""
    changes = device.changes
    gone = changes.stranger & (changes.act == Act.REMOVE.value)
    if device.outcomes is None or not gone.any():
        return
    gone &= device.outcomes.errno == 0
    names = " ".join(f"{handle >> 16:x}:{handle & 0xFFFF:x}" for handle in changes.classes.handle[gone].tolist())
    if names:
        log.warning("%s: classes of nobody were removed: %s", device.device, names)


def _log_event(event: Event) -> None:
    place = f"{event.device} {event.lane.slice_name} {event.lane.traffic.value}" if event.lane else event.device
    said = " ".join(f"{name}={value}" for name, value in event.inputs.items())
    level = logging.WARNING if event.kind in _WARNING_KINDS else logging.INFO
    log.log(level, "%s %s %s", event.kind.value, place, said)


_WARNING_KINDS = frozenset(
    {EventKind.REFUSED, EventKind.DRIFT, EventKind.IMPLAUSIBLE, EventKind.CLOCK_STEPPED, EventKind.TREE_ENDED},
)
