"""Pushing: sinks that hear of turns beside the scrape, of which ApMon is the first.

Turns the keys of the configuration and what slices claim into a running push. Knows: what is pushed where, what the job
of a slice is. Does not know: datagrams, figures, when the daemon calls.

A sink hears of full turns in the turn's thread, where it does next to nothing, and works in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bwexporter.apmon.jobs import ControlGroup, Job, PidFile, Users
from bwexporter.apmon.push import Pusher, Settings
from bwexporter.apmon.rows import Naming
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE
from bwexporter.core.report import PushStatus, Report
from bwexporter.kernel.claims import Claim
from bwexporter.pushes import ApmonKeys

IDLE_SECONDS = 60.0


class Sink(Protocol):
    """Where figures are pushed to."""

    def enlist(self, keys: ApmonKeys | None, claims: Sequence[Claim], devices: int) -> None:
        """Take over what a roll says; returns at once."""

    def hear(self, report: Report) -> None:
        """Hear of a full turn; returns at once."""

    def status(self) -> tuple[PushStatus, ...]:
        """Say how each destination stands; returns at once."""

    def work(self) -> float:
        """Push what is due, in a thread of its own; return the seconds until there is more."""

    def close(self) -> None:
        """End."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    keys: ApmonKeys | None
    claims: tuple[Claim, ...]
    devices: int


class ApmonSink:
    """Pushes to MonALISA what the newest roll asks for; nothing where it asks for nothing."""

    def __init__(self, node: str, clock: Callable[[], float]) -> None:
        self._node = node
        self._clock = clock
        self._wanted = _Wanted(None, (), 0)
        self._running: _Wanted | None = None
        self._pusher: Pusher | None = None

    def enlist(self, keys: ApmonKeys | None, claims: Sequence[Claim], devices: int) -> None:
        """Leave what a roll says to the next work."""
        self._wanted = _Wanted(keys, tuple(claims), devices)

    def hear(self, report: Report) -> None:
        """Keep the report for the next round."""
        pusher = self._pusher
        if pusher is not None:
            pusher.hear(report)

    def status(self) -> tuple[PushStatus, ...]:
        """Say how each destination stands."""
        pusher = self._pusher
        return tuple(
            PushStatus(
                one.destination,
                one.sent,
                {drop.value: count for drop, count in one.dropped.items()},
                one.last_success_wall_seconds or one.since_wall_seconds,
            )
            for one in (pusher.health() if pusher is not None else ())
        )

    def work(self) -> float:
        """Take over what was enlisted, and push what is due."""
        if self._wanted is not self._running:
            self._running = self._wanted
            self._take_over(self._running)
        return IDLE_SECONDS if self._pusher is None else self._pusher.work()

    def _take_over(self, wanted: _Wanted) -> None:
        if wanted.keys is None:
            self.close()
            return
        settings = self._settings(wanted.keys, wanted.devices)
        if self._pusher is None:
            self._pusher = Pusher(settings, self._clock)
        else:
            self._pusher.change(settings)
        self._pusher.watch(self._jobs(wanted.keys, wanted.claims) if wanted.keys.jobs else {})

    def _settings(self, keys: ApmonKeys, devices: int) -> Settings:
        return Settings(
            sources=keys.sources,
            naming=Naming(keys.cluster, keys.row, keys.parameter_of(devices)),
            every_seconds=keys.every_seconds,
            host_cluster=keys.host_cluster,
            node=self._node,
            with_host=keys.host,
            lenient=keys.lenient,
            allow_http=keys.allow_http,
        )

    def _jobs(self, keys: ApmonKeys, claims: Sequence[Claim]) -> Mapping[object, Job]:
        """Return the job of each slice that has one: its control group, else its users, else the process of a file."""
        rules: dict[tuple[str, ControlGroup | Users | PidFile], None] = {}
        for one in claims:
            if one.slice_name in (ROOT_SLICE, DEFAULT_SLICE):
                continue
            if one.cgroup:
                rules[one.slice_name, ControlGroup(one.cgroup)] = None
            elif one.uids:
                rules[one.slice_name, Users(one.uids)] = None
        told = {slice_name for slice_name, _ in rules}
        rules |= {(name, PidFile(Path(path))): None for name, path in keys.pid_files.items() if name not in told}
        jobs: dict[object, Job] = {}
        for slice_name, rule in rules:
            words = {"node": self._node, "device": "all", "slice": slice_name, "traffic": "all"}
            cluster, row = keys.cluster.format_map(words), keys.row.format_map(words)
            prefix = f"{slice_name}_" if "{slice}" not in keys.cluster + keys.row else ""
            jobs[cluster, row, prefix, rule] = Job(cluster, row, rule, prefix=prefix)
        return jobs

    def close(self) -> None:
        """End the push."""
        pusher, self._pusher = self._pusher, None
        if pusher is not None:
            pusher.close()
