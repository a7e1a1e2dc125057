"""Rows: the figures of a turn as messages, one for each cluster and node.

Turns a turn's report into named parameters. Knows: which figures of a lane are pushed, how names are made of templates.
Does not know: destinations, rates, when a push is due. A figure that is unlimited, never or absent is left out. What a
device that could not be read had before is not pushed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bwexporter.apmon.sender import Message
from bwexporter.core.lanes import UNLIMITED, Lane, Reason
from bwexporter.core.report import DeviceReport, Report

LANES_A_BREATH = 256
BREATH_SECONDS = 0.0001  # a turn that waits for the interpreter gets it meanwhile
Column = NDArray[Any]
Place = tuple[str, str]

# As many as fit one datagram for both traffics of a slice.
FIGURES: Mapping[str, Callable[[DeviceReport], Column]] = {
    "sent_bytes": lambda device: device.ledger.accounts.sent_bytes,
    "sent_packets": lambda device: device.ledger.accounts.sent_packets,
    "dropped_packets": lambda device: device.ledger.accounts.dropped_packets,
    "overlimits": lambda device: device.ledger.accounts.overlimits,
    "rate_bytes_per_second": lambda device: device.ledger.accounts.recent_bytes_per_second,
    "backlog_bytes": lambda device: device.backlog_bytes,
    "used_bytes": lambda device: device.used_bytes,
    "allowance_bytes": lambda device: device.verdicts.allowance_bytes,
    "threshold_bytes": lambda device: device.verdicts.threshold_bytes,
    "period_end": lambda device: device.ledger.accounts.period_end_at + device.ledger.wall_offset_seconds,
    "full_rate_bytes_per_second": lambda device: device.tariffs.full_bytes_per_second,
    "ceiling_bytes_per_second": lambda device: device.enforced_ceiling_bytes_per_second,
    "intended_ceiling_bytes_per_second": lambda device: device.verdicts.ceiling_bytes_per_second,
    "capped": lambda device: device.verdicts.capped.astype(np.int64),
    "seconds_to_threshold": lambda device: device.seconds_to_threshold,
}


@dataclass(frozen=True, slots=True)
class Naming:
    """Templates of names: {node}, {device}, {slice}, {traffic} and, in the parameter's, {figure}."""

    cluster: str
    row: str
    parameter: str


class Layout:
    """Which lanes are in which message; good for all turns with the same lanes, which are not named anew."""

    def __init__(self, report: Report, naming: Naming) -> None:
        self.naming = naming
        self._node = report.node
        self._lanes = _lanes_of(report)
        self.rows: dict[Place, list[tuple[int, int]]] = {}  # index of the device and row of the lane
        for index, lanes in enumerate(self._lanes):
            for row, lane in enumerate(lanes):
                if row % LANES_A_BREATH == 0:
                    time.sleep(BREATH_SECONDS)
                words = self.words(lane)
                place = naming.cluster.format_map(words), naming.row.format_map(words)
                self.rows.setdefault(place, []).append((index, row))

    def words(self, lane: Lane) -> dict[str, str]:
        """Return what stands for the placeholders."""
        return {
            "node": self._node,
            "device": lane.device,
            "slice": lane.slice_name,
            "traffic": lane.traffic.value,
        }

    def fits(self, report: Report, naming: Naming) -> bool:
        """Say whether it is that of another turn as well."""
        return self.naming == naming and self._node == report.node and self._lanes == _lanes_of(report)


def _lanes_of(report: Report) -> tuple[tuple[Lane, ...], ...]:
    return tuple(device.tariffs.lanes for device in report.devices)


class Rows:
    """One turn's messages; each is made when it is asked for."""

    def __init__(self, report: Report, layout: Layout) -> None:
        self.timestamp = report.at.wall_seconds
        self._layout = layout
        self._devices = report.devices
        self._columns = [{name: column(device) for name, column in FIGURES.items()} for device in report.devices]

    @property
    def places(self) -> tuple[Place, ...]:
        """Return the cluster and the node of each message, of devices that could be read."""
        read = [not device.trouble for device in self._devices]
        rows = self._layout.rows
        if all(read):
            return tuple(rows)
        return tuple(place for place, lanes in rows.items() if any(read[index] for index, _ in lanes))

    def message(self, place: Place) -> Message | None:
        """Return the message of a cluster and a node; None where there is none."""
        parameters: list[tuple[str, object]] = []
        for index, row in self._layout.rows.get(place, ()):
            if not self._devices[index].trouble:
                parameters += self._of_lane(index, row)
        return Message(*place, parameters, self.timestamp) if parameters else None

    def _of_lane(self, index: int, row: int) -> Iterator[tuple[str, object]]:
        device, template = self._devices[index], self._layout.naming.parameter
        words = self._layout.words(device.tariffs.lanes[row])
        for name, column in self._columns[index].items():
            value = column[row]
            if _is_told(value):
                yield template.format_map({**words, "figure": name}), value
        verdict = Reason(device.verdicts.reason[row]).name.lower()
        yield template.format_map({**words, "figure": "verdict"}), verdict


def _is_told(value: float) -> bool:
    """Leave out what is unlimited, never (inf) or absent (below zero)."""
    return math.isfinite(value) and 0 <= value < UNLIMITED
