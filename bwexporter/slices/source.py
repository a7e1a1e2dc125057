"""What a source of slices is, and what it says.

Turns nothing into anything: it names the values that pass between sources and whoever combines them. Knows: which facts
belong together. Does not know: any kind of source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bwexporter.errors import Problem
from bwexporter.slices.fleet import FleetNode
from bwexporter.slices.records import SliceRecord
from bwexporter.written import Network


@dataclass(frozen=True, slots=True)
class InterfaceCap:
    """The node cap of one interface; it is told by its hardware address, or else by its address."""

    mac: str
    ip: str
    cap_bytes_per_second: int | None  # None: the interface has none


@dataclass(frozen=True, slots=True)
class Reading:
    """What one good answer of a source says."""

    records: tuple[SliceRecord, ...] = ()
    problems: tuple[Problem, ...] = ()
    refused: frozenset[str] = frozenset()  # slices that it names and whose records cannot be used
    caps: tuple[InterfaceCap, ...] = ()
    exempt: tuple[Network, ...] = ()
    present: frozenset[str] = frozenset()  # slices whose account is on the node, as far as the source asks for that
    fleet: tuple[FleetNode, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Return the slices that it names."""
        return self.refused.union(record.name for record in self.records)


NOTHING = Reading()
"""What a source says that was never read."""


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What a source says now: its last good reading, and every problem of the last try."""

    source: str
    reading: Reading
    problems: tuple[Problem, ...]
    up: bool  # false: the last try failed as a whole, and the reading is older
    last_success_wall_seconds: float | None = None  # None: what is up has been read just now
    unkept: bool = False  # what is good now could not be put on disk for the next start

    @property
    def records(self) -> tuple[SliceRecord, ...]:
        """Return the records of the last good reading."""
        return self.reading.records


class Source(Protocol):
    """Where slices come from; it keeps its last good reading, so that no trouble of its own removes anybody."""

    @property
    def name(self) -> str:
        """Return what it is called in problems and metrics."""

    def read(self) -> SourceResult:
        """Return what it says now, without waiting for anybody else's machine."""
