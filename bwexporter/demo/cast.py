"""The slices of the demo: what each may send, and how it sends.

Turns nothing into anything: it is data, and its text as configuration files. Knows: who plays which part. Does not
know: sockets, processes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEVICE = "v0"
DAY_SECONDS = 120.0

NORMAL_CLASSES = 0x1_1000
EXEMPT_CLASSES = 0x1_8000


class Transport(enum.Enum):
    """How a part sends."""

    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Sender:
    """One stream of traffic: at a rate, on and off by turns, from some second of the demo on."""

    bytes_per_second: int
    transport: Transport = Transport.UDP
    exempt: bool = False
    on_seconds: float = 1.0
    off_seconds: float = 0.0
    from_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """One slice: what it is allowed and what it does. `slice_id` 0 is traffic that belongs to no slice."""

    slice_name: str
    slice_id: int
    senders: tuple[Sender, ...]
    settings: Mapping[str, Mapping[str, str]]

    def class_of(self, sender: Sender) -> int:
        """Return the class that the sender puts its packets into."""
        return (EXEMPT_CLASSES if sender.exempt else NORMAL_CLASSES) + self.slice_id if self.slice_id else 0


PARTS = (
    Part("greedy_udp", 1, (Sender(3_000_000),), {"normal": {"full": "20mbit", "allowance": "100MB"}}),
    Part(
        "greedy_tcp",
        2,
        (Sender(4_000_000, Transport.TCP),),
        {"normal": {"full": "16mbit", "allowance": "60MB", "threshold": "50%"}},
    ),
    Part("steady", 3, (Sender(500_000),), {"normal": {"full": "10mbit", "allowance": "100MB"}}),
    Part(
        "bursty",
        4,
        (Sender(2_500_000, on_seconds=3, off_seconds=12),),
        {"normal": {"full": "20mbit", "allowance": "50MB"}},
    ),
    Part(
        "mirror",
        5,
        (Sender(3_000_000, Transport.TCP, exempt=True),),
        {"exempt": {"full": "40mbit", "allowance": "250MB", "threshold": "60%"}},
    ),
    Part(
        "both_lanes",
        6,
        (Sender(250_000), Sender(1_500_000, exempt=True)),
        {"normal": {"full": "4mbit", "allowance": "25MB"}, "exempt": {"full": "20mbit", "allowance": "150MB"}},
    ),
    Part("late", 7, (Sender(2_000_000, from_second=45.0),), {"normal": {"full": "16mbit", "allowance": "80MB"}}),
    Part("idle", 8, (), {"normal": {"full": "20mbit", "allowance": "100MB"}}),
    Part("nobody", 0, (Sender(50_000),), {}),
)


def write_files(folder: Path) -> Path:
    """Write configuration and slices as an operator would have them; return the configuration's path."""
    config: dict[str, Any] = {
        "node": "demo",
        "state": "state.db",
        "interval": "1s",
        "shortest_interval": "250ms",
        "look_margin": "500ms",
        "period": f"{DAY_SECONDS:g}s",
        "devices": [{"name": DEVICE, "cap": "80mbit", "line_rate": "200mbit"}],
        "defaults": {
            "normal": {"allowance": "unlimited"},
            "exempt": {"allowance": "unlimited"},
        },
        "slices": [{"file": "slices.yml"}],
    }
    slices = [
        {"name": part.slice_name, "id": part.slice_id, "owners": [f"{part.slice_name}@example.org"], **part.settings}
        for part in PARTS
        if part.slice_id
    ]
    (folder / "bwexporter.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "slices.yml").write_text(yaml.safe_dump({"slices": slices}, sort_keys=False))
    return folder / "bwexporter.yml"
