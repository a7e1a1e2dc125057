"""From the catalogue's columns to the lines of the exposition, once a full turn.

Turns a standing into pieces, a family each. Knows: the text format (prometheus.io, exposition formats), and what can be
kept from turn to turn: the label blocks of the lanes, the lines of lanes whose values did not change. Does not know:
what any figure means, prometheus_client, who reads the bytes.

The lines of some hundred lanes are a template, filled by one `%`: some 70 times as fast as prometheus_client's Gauges.
A template is made anew each time, in the processor's caches: to fetch one that is kept from memory takes as long, and
those of all families would be as large as half of the exposition. What a turn needs on its way is of the size of a few
hundred lines too, and what the turn before it has left is used again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from bwexporter.core.lanes import B1, Lane
from bwexporter.core.report import Report
from bwexporter.metrics.families import Column, Family, LaneFamily, Sample, Standing, StandingFamily
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.metrics.of_node import STANDING_FAMILIES
from bwexporter.metrics.rendered import Piece, heads

ROWS = 512
"""Lanes whose lines are made, and kept, at once."""


@dataclass(slots=True)
class _Kept:
    """What is kept for a device while its lanes stay the same."""

    lanes: tuple[Lane, ...]
    blocks: list[bytes]  # of so many lanes each, in the order of the lanes, with a line feed between two
    made: dict[str, tuple[Column, list[bytes]]] = field(default_factory=dict)  # values and their lines, by name


class Renderer:
    """Renders the families of the report, but for those that are switched `off`; one thread uses it."""

    def __init__(self, info: StandingFamily, off: Collection[str] = ()) -> None:
        self._lane_families = [(family, _heads(family)) for family in LANE_FAMILIES if family.name not in off]
        self._families = [(family, _heads(family)) for family in (info, *STANDING_FAMILIES) if family.name not in off]
        self._kept: dict[str, _Kept] = {}
        self._samples: dict[str, tuple[list[Sample], bytes]] = {}

    def pieces(self, standing: Standing) -> list[Piece]:
        """Return the families in the order of the catalogue."""
        if standing.report is not None:
            self._keep_lanes(standing.report)
        of_lanes = [
            Piece(family.name, *both, self._lanes_text(family, standing.report) if standing.report is not None else ())
            for family, both in self._lane_families
        ]
        others = [Piece(family.name, *both, (self._samples_text(family, standing),)) for family, both in self._families]
        return of_lanes + others

    def _keep_lanes(self, report: Report) -> None:
        """Keep what belongs to lanes that stayed, begin anew where they changed, forget devices that are gone."""
        before, self._kept = self._kept, {}
        for device in report.devices:
            kept = before.get(device.device)
            lanes = device.tariffs.lanes
            if kept is None or (kept.lanes is not lanes and kept.lanes != lanes):
                kept = _keep(lanes)
            self._kept[device.device] = kept

    def _lanes_text(self, family: LaneFamily, report: Report) -> Sequence[bytes]:
        return [
            lines
            for device in report.devices
            for lines in _column_text(family, family.column(report, device), self._kept[device.device])
        ]

    def _samples_text(self, family: StandingFamily, standing: Standing) -> bytes:
        samples = list(family.samples(standing))
        kept = self._samples.get(family.name)
        if kept is not None and kept[0] == samples:
            return kept[1]
        lines = [f"{family.name}{_block(family.labels, values)}{value!r}\n" for values, value in samples]
        text = _infinities(_encode("".join(lines)))
        self._samples[family.name] = (samples, text)
        return text


def _keep(lanes: tuple[Lane, ...]) -> _Kept:
    labels = ("device", "slice", "traffic")
    blocks = [_block(labels, (lane.device, lane.slice_name, lane.traffic.value)).replace("%", "%%") for lane in lanes]
    return _Kept(lanes, [_encode("\n".join(blocks[first : first + ROWS])) for first in range(0, len(lanes), ROWS)])


def _column_text(family: LaneFamily, column: Column, kept: _Kept) -> list[bytes]:
    """Return the lines of a column, the very same bytes as in the turn before where no value has changed."""
    before, text = kept.made.get(family.name, (None, []))
    if before is None or before.dtype != column.dtype:
        text = [_lines(family, column, kept, at) for at in range(len(kept.blocks))]
    elif len(column):
        text = text.copy()
        for at in np.flatnonzero(np.logical_or.reduceat(_differ(before, column), range(0, len(column), ROWS))).tolist():
            text[at] = _lines(family, column, kept, at)
    kept.made[family.name] = (column, text)
    return text


def _differ(before: Column, column: Column) -> B1:
    """Mark values that are not what they were; what was absent, and still is, is what it was."""
    differ: B1 = before != column
    return differ & ~(np.isnan(before) & np.isnan(column)) if column.dtype.kind == "f" else differ


def _lines(family: LaneFamily, column: Column, kept: _Kept, at: int) -> bytes:
    """Write some lanes' lines, but for rows that are absent; no label value holds a raw line feed."""
    rows = column[at * ROWS : (at + 1) * ROWS]
    floating = column.dtype.kind == "f"
    name, value = family.name.encode(), b"%a\n" if floating else b"%d\n"
    template = b"".join((name, kept.blocks[at].replace(b"\n", value + name), value))
    lines = template % tuple(rows.tolist())
    if not floating or np.isfinite(rows).all():
        return lines
    if np.isnan(rows).any():
        lines = b"\n".join([line for line in lines.split(b"\n") if not line.endswith(b" nan")])
    return _infinities(lines)


def _infinities(text: bytes) -> bytes:
    """Spell inf as the format does. A label value holds no raw line feed, so only values end a line like this."""
    return text.replace(b" inf\n", b" +Inf\n")


def _heads(family: Family) -> tuple[bytes, bytes]:
    return heads(family.name, family.kind.value, family.unit, family.text)


def _block(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return the labels with the blank before the value: `{device="eth0"} `."""
    pairs = ",".join([f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True)])
    return f"{{{pairs}}} " if pairs else " "


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _encode(text: str) -> bytes:
    """Encode as UTF-8; half a surrogate pair in a name becomes `?` and spoils no other series."""
    return text.encode("utf-8", "replace")
