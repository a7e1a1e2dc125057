"""The libraries' way: pyroute2's get_classes and class changes, prometheus_client's Gauges, JSON in a file.

Turns orders into turns and expositions, and their seconds. Knows: the two libraries as their manuals show them. Does
not know: packed layouts.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server
from pyroute2 import IPRoute

from bwexporter.metrics.of_lanes import LANE_FAMILIES
from tests.benchmarks.worker import Stopwatch, Taken, serve

PORT = 10100
_FIGURES = ("sent", "packets", "dropped", "overlimits", "ceil", "rate")


class Gauges:
    """As many gauges as bwexporter publishes families of lanes, set class by class."""

    def __init__(self, registry: CollectorRegistry, device: str) -> None:
        self._device = device
        self._gauges = [
            Gauge(family.name, family.text, ["device", "slice", "traffic"], registry=registry)
            for family in LANE_FAMILIES
        ]

    def set(self, classes: Mapping[int, Mapping[str, Any]], used: Mapping[int, int]) -> None:
        """Set every gauge of every class."""
        for minor, one in classes.items():
            labels = (self._device, f"slice_{minor & 0xFFF:05d}", "exempt" if minor >= 0x8000 else "normal")
            figures = [one[name] for name in _FIGURES]
            for number, gauge in enumerate(self._gauges):
                known = number < len(figures)
                gauge.labels(*labels).set(figures[number] if known else used[minor] + number)


class Library:
    """A node with one device, out of the box."""

    def __init__(self, device: str) -> None:
        self._index = socket.if_nametoindex(device)
        self._file = Path("library.json")
        self._route = IPRoute()
        self._seen: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._registry = CollectorRegistry()
        self._gauges = Gauges(self._registry, device)

    def turn(self, changes: int, repeat: int) -> list[Taken]:
        """Read, add up and set gauges, change, save."""
        all_taken = []
        for at in range(repeat):
            stopwatch = Stopwatch()
            with stopwatch.whole():
                with stopwatch.part("look"):
                    classes = self._read()
                with stopwatch.part("count"):
                    for minor, one in classes.items():
                        seen = self._seen.get(minor, 0)
                        self._used[minor] = self._used.get(minor, 0) + max(0, one["sent"] - seen)
                        self._seen[minor] = one["sent"]
                    self._gauges.set(classes, self._used)
                with stopwatch.part("act"):
                    self._change(changes, at % 2)
                with stopwatch.part("save"):
                    self._save()
            all_taken.append(stopwatch.taken)
        return all_taken

    def render(self, repeat: int) -> list[Taken]:
        """Set the gauges of what was read before, and make the text, which is a part."""
        classes = self._read()
        for minor in classes:
            self._used.setdefault(minor, 0)
        all_taken = []
        for _ in range(repeat):
            stopwatch = Stopwatch()
            with stopwatch.whole():
                self._gauges.set(classes, self._used)
                with stopwatch.part("text"):
                    generate_latest(self._registry)
            all_taken.append(stopwatch.taken)
        return all_taken

    def open_web(self) -> int:
        """Serve the registry; return the port."""
        start_http_server(PORT, "127.0.0.1", self._registry)
        return PORT

    def _read(self) -> dict[int, dict[str, int]]:
        found = {}
        for message in self._route.get_classes(index=self._index):
            settings = message.get_nested("TCA_OPTIONS", "TCA_HTB_PARMS")
            stats = message.get_attr("TCA_STATS2")
            basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
            if message["parent"] in {0x10010, 0x10020}:
                found[message["handle"] & 0xFFFF] = {
                    "sent": basic["bytes"],
                    "packets": basic["packets"],
                    "dropped": queue["drops"],
                    "overlimits": queue["overlimits"],
                    "ceil": settings["ceil"],
                    "rate": settings["rate"],
                }
        return found

    def _change(self, changes: int, odd: int) -> None:
        for number in range(changes):
            self._route.tc(
                "change-class", "htb", self._index, 0x10100 + number, parent=0x10010,
                rate=125_000, ceil=1_375_000 if odd else 1_250_000, quantum=1514,
            )  # fmt: skip

    def _save(self) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps({"used": self._used, "seen": self._seen}))
        beside.rename(self._file)


def main() -> None:
    """Serve orders about one device."""
    library = Library(sys.argv[1])
    serve({"turn": library.turn, "render": library.render, "open_web": library.open_web})


if __name__ == "__main__":
    main()
