"""From the catalogue's columns to the lines of the exposition, once a full turn.

Turns a standing into pieces, a family each. Knows: the text format (prometheus.io, exposition formats), and what can be
kept from turn to turn: the label block of each lane, a template a family, the text of families whose values did not
change. Does not know: what any figure means, prometheus_client, who reads the bytes.

Kept templates filled by one `%` a family are some 60 times as fast as prometheus_client's Gauges.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from bwexporter.core.lanes import Lane
from bwexporter.core.report import Report
from bwexporter.metrics.families import Column, Family, LaneFamily, Sample, Standing, StandingFamily
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.metrics.of_node import STANDING_FAMILIES
from bwexporter.metrics.rendered import Piece, heads


@dataclass(slots=True)
class _Kept:
    """What is kept for a device while its lanes stay the same."""

    lanes: tuple[Lane, ...]
    blocks: list[bytes]
    templates: dict[tuple[str, str], bytes] = field(default_factory=dict)  # by name and kind of the column
    settled: dict[str, tuple[Column, bytes]] = field(default_factory=dict)  # values and their text


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
            _column_text(family, family.column(report, device), self._kept[device.device]) for device in report.devices
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
    return _Kept(
        lanes,
        [_encode(_block(labels, (lane.device, lane.slice_name, lane.traffic.value))) for lane in lanes],
    )


def _column_text(family: LaneFamily, column: Column, kept: _Kept) -> bytes:
    if not family.settled:
        return _filled(family, column, kept)
    before = kept.settled.get(family.name)
    if before is not None and np.array_equal(before[0], column, equal_nan=column.dtype.kind == "f"):
        return before[1]
    text = _by_line(family, column, kept.blocks)
    kept.settled[family.name] = (column.copy(), text)
    return text


def _filled(family: LaneFamily, column: Column, kept: _Kept) -> bytes:
    """Fill the kept template; only a column with absent rows is written line by line."""
    floating = column.dtype.kind == "f"
    if floating and np.isnan(column).any():
        return _by_line(family, column, kept.blocks)
    key = (family.name, column.dtype.kind)
    template = kept.templates.get(key)
    if template is None:
        name, value = family.name.encode(), b"%a\n" if floating else b"%d\n"
        template = b"".join([name + block.replace(b"%", b"%%") + value for block in kept.blocks])
        kept.templates[key] = template
    text = template % tuple(column.tolist())
    return _infinities(text) if floating else text


def _by_line(family: LaneFamily, column: Column, blocks: list[bytes]) -> bytes:
    name = family.name.encode()
    rows = zip(blocks, column.tolist(), strict=True)
    lines = [b"%b%b%a\n" % (name, block, value) for block, value in rows if not math.isnan(value)]
    return _infinities(b"".join(lines)) if column.dtype.kind == "f" else b"".join(lines)


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
