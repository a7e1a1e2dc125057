"""The program's own figures: counters and histograms that go on from turn to turn.

Turns what happened in a turn into prometheus_client instruments of a private registry. Knows: which part of a report
each of them counts. Does not know: lanes, the text of the exposition, who asks.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from bwexporter.core.lanes import Act
from bwexporter.core.report import DeviceReport, Report
from bwexporter.metrics import of_program
from bwexporter.metrics.families import Family

BUCKETS_SECONDS = (0.0005, 0.002, 0.005, 0.02, 0.05, 0.2, 0.5, 2.0, 5.0, 10.0)
USUAL_REFUSALS = (errno.EPERM, errno.ENOENT, errno.EEXIST, errno.EINVAL, errno.ENOBUFS)
"""Refusals that are shown as 0 from the start, so that their first one is seen as an increase."""


class Instruments(Collector):
    """Counters and histograms of the program; safe to use from several threads."""

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self._registry = CollectorRegistry()
        self._turn_seconds = self._histogram(of_program.TURN_DURATION)
        self._stage_seconds = self._histogram(of_program.STAGE_DURATION)
        self._turns = self._counter(of_program.TURNS)
        self._turn_failures = self._counter(of_program.TURN_FAILURES)
        self._misfires = self._counter(of_program.TURN_MISFIRES)
        self._clock_steps = self._counter(of_program.CLOCK_STEPS)
        self._changes = self._counter(of_program.CHANGES)
        self._change_failures = self._counter(of_program.CHANGE_FAILURES)
        self._drift_repairs = self._counter(of_program.DRIFT_REPAIRS)
        self._orphans_removed = self._counter(of_program.ORPHANS_REMOVED)
        self._implausible = self._counter(of_program.IMPLAUSIBLE_READINGS)
        self._state_failures = self._counter(of_program.STATE_FAILURES)
        self._control_refusals = self._counter(of_program.CONTROL_REFUSALS)
        for stage in of_program.STAGES:
            self._stage_seconds.labels(stage)
            self._turn_failures.labels(stage)
        for device in devices:
            self._begin(device)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.text, family.labels, registry=self._registry)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(family.name, family.text, family.labels, registry=self._registry, buckets=BUCKETS_SECONDS)

    def _begin(self, device: str) -> None:
        """Show the device's counters, as 0 if they are new."""
        for counter in (self._changes, self._drift_repairs, self._orphans_removed, self._implausible):
            counter.labels(device)
        for number in USUAL_REFUSALS:
            self._change_failures.labels(device, errno.errorcode[number])

    def observe(self, report: Report) -> None:
        """Count a turn that ended with a report, an early one too."""
        self._turns.inc()
        self._turn_seconds.observe(report.turn_seconds)
        for stage, seconds in report.stage_seconds.items():
            self._stage_seconds.labels(stage).observe(seconds)
        if any(device.trouble for device in report.devices):
            self._turn_failures.labels("look").inc()
        self._clock_steps.inc(report.clock_steps)
        self._state_failures.inc(bool(report.save_trouble) or not report.saved)
        for device in report.devices:
            self._observe_device(device)
        if report.devices:  # the rules are those of all devices
            self._drift_repairs.labels(report.devices[0].device).inc(report.sorting_drift)

    def _observe_device(self, report: DeviceReport) -> None:
        self._begin(report.device)
        if report.trouble:
            return  # the rest is that of an earlier turn and has been counted
        self._implausible.labels(report.device).inc(report.implausible_readings)
        if report.outcomes is None:
            return
        changes, refusals = report.changes, report.outcomes.errno
        applied = refusals == 0
        orphans = changes.stranger & (changes.act == Act.REMOVE.value)
        self._changes.labels(report.device).inc(len(changes) + changes.build_tree)
        self._drift_repairs.labels(report.device).inc(int(np.count_nonzero(changes.drift & applied)))
        self._orphans_removed.labels(report.device).inc(int(np.count_nonzero(orphans & applied)))
        for number in [*refusals[~applied].tolist(), report.outcomes.tree_errno]:
            if number:
                self._change_failures.labels(report.device, errno.errorcode.get(number, str(number))).inc()

    def count_turn_failure(self, stage: str) -> None:
        """Count a turn that ended in that stage without a report."""
        self._turns.inc()
        self._turn_failures.labels(stage).inc()

    def count_misfire(self) -> None:
        """Count a turn that did not begin in time."""
        self._misfires.inc()

    def count_state_failure(self) -> None:
        """Count trouble with the state that came to light before the first turn."""
        self._state_failures.inc()

    def count_control_refusal(self) -> None:
        """Count an order by hand that was refused."""
        self._control_refusals.inc()

    def collect(self) -> Iterable[Metric]:
        """Yield the families; the times at which they were created are of no use to anybody and left out."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def process_registry() -> CollectorRegistry:
    """Return a registry of the process's own memory, CPU time and file descriptors, and of its Python."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
