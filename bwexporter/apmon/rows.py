"""Rows: the figures of a turn as messages, one for each cluster and node.

Turns a turn's report into named parameters. Knows: which figures of a lane are pushed, how names are made of templates.
Does not know: destinations, rates, when a push is due. A figure that is unlimited, never or absent is left out. What a
device that could not be read had before is not pushed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bwexporter.apmon.sender import Message
from bwexporter.core.lanes import UNLIMITED, Reason
from bwexporter.core.report import DeviceReport, Report

Column = NDArray[Any]
Place = tuple[str, str]
Fill = Callable[[str, Mapping[str, str]], str]

FIGURES: Mapping[str, Callable[[DeviceReport], Column]] = {
    "sent_bytes": lambda device: device.ledger.accounts.sent_bytes,
    "sent_packets": lambda device: device.ledger.accounts.sent_packets,
    "dropped_packets": lambda device: device.ledger.accounts.dropped_packets,
    "overlimits": lambda device: device.ledger.accounts.overlimits,
    "rate_bytes_per_second": lambda device: device.ledger.accounts.recent_bytes_per_second,
    "backlog_bytes": lambda device: device.backlog_bytes,
    "used_bytes": lambda device: device.ledger.accounts.used_bytes,
    "allowance_bytes": lambda device: device.verdicts.allowance_bytes,
    "threshold_bytes": lambda device: device.verdicts.threshold_bytes,
    "period_end": lambda device: device.ledger.accounts.period_end_at + device.ledger.wall_offset_seconds,
    "full_rate_bytes_per_second": lambda device: device.tariffs.full_bytes_per_second,
    "guarantee_bytes_per_second": lambda device: device.verdicts.guarantee_bytes_per_second,
    "ceiling_bytes_per_second": lambda device: device.enforced_ceiling_bytes_per_second,
    "intended_ceiling_bytes_per_second": lambda device: device.verdicts.ceiling_bytes_per_second,
    "capped": lambda device: device.verdicts.capped.astype(np.int64),
    "seconds_to_threshold": lambda device: device.seconds_to_threshold,
}


@dataclass(frozen=True, slots=True)
class Naming:
    """Templates of names, and what fills them."""

    cluster: str
    row: str
    parameter: str
    fill: Fill


class Rows:
    """One turn's messages; each is made when it is asked for."""

    def __init__(self, report: Report, naming: Naming) -> None:
        self.timestamp = report.at.wall_seconds
        self._naming = naming
        self._node = report.node
        self._columns: dict[str, dict[str, list[float]]] = {}
        self._reasons: dict[str, list[int]] = {}
        self._lanes: dict[Place, list[tuple[int, Mapping[str, str]]]] = {}
        for device in report.devices:
            if not device.trouble:
                self._take(device)

    def _take(self, device: DeviceReport) -> None:
        self._columns[device.device] = {name: column(device).tolist() for name, column in FIGURES.items()}
        self._reasons[device.device] = device.verdicts.reason.tolist()
        for at, lane in enumerate(device.tariffs.lanes):
            words = {
                "node": self._node,
                "device": lane.device,
                "slice": lane.slice_name,
                "traffic": lane.traffic.value,
            }
            place = self._naming.fill(self._naming.cluster, words), self._naming.fill(self._naming.row, words)
            self._lanes.setdefault(place, []).append((at, words))

    @property
    def places(self) -> tuple[Place, ...]:
        """Return the cluster and the node of each message."""
        return tuple(self._lanes)

    def message(self, place: Place) -> Message | None:
        """Return the message of a cluster and a node; None where there is none."""
        parameters: list[tuple[str, object]] = []
        for at, words in self._lanes.get(place, ()):
            columns = self._columns[words["device"]]
            reason = Reason(self._reasons[words["device"]][at]).name.lower()
            figures = [(name, values[at]) for name, values in columns.items() if _is_told(values[at])]
            parameters += [
                (self._naming.fill(self._naming.parameter, {**words, "figure": name}), value)
                for name, value in (*figures, ("verdict", reason))
            ]
        return Message(*place, parameters, self.timestamp) if parameters else None


def _is_told(value: float) -> bool:
    """Leave out what is unlimited, never (inf) or absent (below zero)."""
    return math.isfinite(value) and 0 <= value < UNLIMITED
