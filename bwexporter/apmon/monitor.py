"""The monitor: host and job figures, to each destination in its own rhythm.

Turns destinations with their intervals into messages that are due. Knows: whose turn it is, what each destination was
told last, which jobs there are. Does not know: sockets, threads, how a figure is read.

Each destination has intervals and earlier readings of its own, so that none gets rates of another's interval. Times are
monotonic. A job whose processes have all ended is forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bwexporter.apmon import host, procfs
from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.jobs import Job, Sample, Table

log = logging.getLogger("bwexporter.apmon")

HOST_CLUSTER = "ApMon_SysMon"
IDLE_SECONDS = 60.0


class Due(NamedTuple):
    """One message for one destination."""

    destination: str
    cluster: str
    node: str
    parameters: Mapping[str, object]


@dataclass(slots=True)
class _Told:
    """What one destination was told, and when it is due again."""

    host_due_at: float
    jobs_due_at: float
    host_rounds: int = 0
    host_before: host.Reading | None = None
    jobs_before: dict[Job, Sample] = field(default_factory=dict)


class Monitor:
    """Finds what is due; one thread asks, any thread may change the jobs."""

    def __init__(
        self, clock: Callable[[], float], *, cluster: str, node: str, proc: Path = procfs.PROC, with_host: bool = True
    ) -> None:
        self.cluster, self.node = cluster, node
        self.with_host = with_host
        self._clock = clock
        self._proc = proc
        self._told: dict[str, _Told] = {}
        self._jobs: dict[object, Job] = {}

    @property
    def jobs(self) -> Mapping[object, Job]:
        """Return the jobs by their keys."""
        return self._jobs

    def add_job(self, key: object, job: Job) -> None:
        """Watch a job, in place of an earlier one with the same key."""
        self._jobs[key] = job

    def remove_job(self, key: object) -> bool:
        """Watch a job no more; false where there is none with this key."""
        return self._jobs.pop(key, None) is not None

    def due(self, destinations: Sequence[Destination], *, now_all: bool = False) -> Iterator[Due]:
        """Yield what is due, or with `now_all` everything; each time it is yielded counts as told."""
        now, table = self._clock(), Table(self._proc)
        self._told = {one.name: self._told.get(one.name) or _Told(now, now) for one in destinations}
        reading: host.Reading | None = None
        for one in destinations:
            told, options = self._told[one.name], one.options
            wants_host = self.with_host and (options.sys_monitoring or options.general_info)
            if wants_host and (now_all or told.host_due_at <= now):
                reading = reading or host.take(self._clock(), self._proc)
                told.host_due_at = now + options.sys_interval
                yield from self._of_host(one, told, reading)
            if options.job_monitoring and self._jobs and (now_all or told.jobs_due_at <= now):
                told.jobs_due_at = now + options.job_interval
                yield from self._of_jobs(one, told, table)

    def _of_host(self, one: Destination, told: _Told, reading: host.Reading) -> Iterator[Due]:
        """Yield the host's figures; general information comes with every second of them."""
        found: host.Figures = {}
        if one.options.sys_monitoring:
            found.update(host.figures(reading, told.host_before, one.options, self._proc))
            told.host_before = reading
        if one.options.general_info and told.host_rounds % 2 == 0:
            found.update(host.general(one.options, self.node, self._proc))
        told.host_rounds += 1
        if found:
            yield Due(one.name, self.cluster, self.node, found)

    def _of_jobs(self, one: Destination, told: _Told, table: Table) -> Iterator[Due]:
        before, told.jobs_before = told.jobs_before, {}
        for key, job in list(self._jobs.items()):
            found, sample = job.figures(table, self._clock(), before.get(job), one.options)
            if found:
                told.jobs_before[job] = sample
                yield Due(one.name, job.cluster, job.node, found)
            elif not job.look(table) and job.ends:
                log.info("the job %s of %s has ended", job.node, job.cluster)
                self.remove_job(key)

    def seconds_until_due(self, destinations: Sequence[Destination]) -> float:
        """Return the time until something is due."""
        now, times = self._clock(), [IDLE_SECONDS]
        for one in destinations:
            told = self._told.get(one.name)
            if told is None:
                return 0.0
            if self.with_host and (one.options.sys_monitoring or one.options.general_info):
                times.append(told.host_due_at - now)
            if one.options.job_monitoring and self._jobs:
                times.append(told.jobs_due_at - now)
        return max(0.0, min(times))
