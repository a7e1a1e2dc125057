"""The parts of the daemon: what it asks of those that it is put together with.

Turns nothing into anything: it names what the daemon and its parts say to each other. Knows: who is told of turns, who
is asked for slices, who learns from the past. Does not know: who they are, when they are asked or told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bwexporter.core.habits import Habits
from bwexporter.core.report import Report, SourceStatus
from bwexporter.desk import Desk


class Publisher(Protocol):
    """Who is told of turns: the exposition."""

    def observe(self, report: Report) -> None:
        """Count what happened in a turn."""

    def render(self, report: Report) -> object:
        """Publish a full turn."""

    def mark_down(self) -> object:
        """Publish that the last turn failed as a whole."""

    def count_turn_failure(self, stage: str) -> None:
        """Count a turn that failed in a stage."""

    def count_misfire(self) -> None:
        """Count a turn that did not begin in time."""


LookBack = Callable[[Desk, float], Habits | None]
"""Learns from the past what the lanes of a desk are used to, as of an instant of Unix time; in a thread of its own."""


class Server(Protocol):
    """A source of slices that has to be asked."""

    @property
    def name(self) -> str:
        """Return what it is called."""

    @property
    def every_seconds(self) -> float:
        """Return how often it is to be asked."""

    def poll(self) -> bool:
        """Ask it, in a thread of its own; say whether what it says has changed."""


class Sources(Protocol):
    """Where slices come from, as far as time is concerned."""

    def polled(self) -> Sequence[Server]:
        """Return the servers to ask."""

    def statuses(self, of_roll: tuple[SourceStatus, ...]) -> tuple[SourceStatus, ...]:
        """Return how all sources of a roll stand now."""
