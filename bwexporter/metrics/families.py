"""The words of the catalogue: what a metric is, as data.

Turns nothing into anything: it says what a family of metrics consists of, and of which facts its values are made.
Knows: kinds, names, labels, columns, samples. Does not know: which metrics there are, any text format.

A column is i8 or f8. NaN stands for "no series", inf for "never" or "no limit".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bwexporter.core.report import DeviceReport, Report

Column = NDArray[Any]
Sample = tuple[tuple[str, ...], int | float]


class Kind(enum.Enum):
    """The type of a metric, as the text format spells it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to tell now: the last full turn, and whether every device could be read in the last one."""

    report: Report | None = None
    up: bool = False
    good_turn_wall_seconds: float | None = None  # of the last full turn that read every device


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name with the prefix, and what its values mean."""

    name: str
    kind: Kind
    unit: str  # the name's suffix before _total; empty where there is none
    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class LaneFamily(Family):
    """A metric of every lane; rows of the column are those of the device's tariffs."""

    column: Callable[[Report, DeviceReport], Column]


@dataclass(frozen=True, slots=True)
class StandingFamily(Family):
    """A metric of the node, its devices, slices or sources."""

    samples: Callable[[Standing], Iterable[Sample]]
