"""Building: a node of thousands of slices from nothing, by the program itself, and how long others wait meanwhile.

Turns numbers of slices into the time until every class stands, and into the waits of another user of rtnetlink. Knows:
the command, the bystander. Does not know: how classes are made or spread over turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import ground
from tests.benchmarks.ours import write_files
from tests.benchmarks.worker import ROOT, Worker

DEVICE, OTHER = "vbuilding", "vbystander"
_PART_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long one change of a class of somebody else's took."""

    p50_seconds: float
    p99_seconds: float
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Built:
    """One build."""

    slices: int
    classes: int  # counted in the kernel afterwards
    seconds: float  # from the start of the program to its end
    idle: Waits
    beside: Waits
    beside_removal: Waits  # of the whole tree at once, by `tree remove`


def measure(folder: Path, sizes: Sequence[int], say: Callable[[str], None]) -> list[Built]:
    """Build each size once, from a bare device."""
    with ground.cable(OTHER), Worker("bystander", folder) as bystander:
        bystander.ask("make_class", OTHER)
        return [_built(folder / f"building-{size}", size, bystander, say) for size in sizes]


def _built(folder: Path, size: int, bystander: Worker, say: Callable[[str], None]) -> Built:
    say(f"building {size} slices by turns")
    folder.mkdir()
    idle = _waits(bystander.ask("change", OTHER, 2 * _PART_SECONDS))
    with ground.cable(DEVICE):
        write_files(folder, DEVICE, size)
        started = time.perf_counter()
        beside = _waits([wait for part in _beside(folder, bystander, "run", "--once") for wait in part])
        seconds = time.perf_counter() - started
        classes = ground.run("tc", "class", "show", "dev", DEVICE).count("class htb")
        if classes != 3 + 2 * (size + 2):
            sys.exit(f"{classes} classes stand for {size} slices:\n{(folder / 'log').read_text()[-2000:]}")
        removal = _waits([wait for part in _beside(folder, bystander, "tree", "remove") for wait in part])
    return Built(size, classes, seconds, idle, beside, removal)


def _beside(folder: Path, bystander: Worker, *command: str) -> Iterator[list[float]]:
    """Run a command of the program, and yield the bystander's waits until it has ended."""
    words = [sys.executable, "-m", "bwexporter", *command, "--config", str(folder / "bwexporter.yml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=folder)
        while process.poll() is None:
            yield bystander.ask("change", OTHER, _PART_SECONDS)


def _waits(found: Sequence[float]) -> Waits:
    waits = sorted(found)
    return Waits(*(waits[min(len(waits) - 1, int(share * len(waits)))] for share in (0.5, 0.99, 1.0)))


def show(console: Console, builds: Sequence[Built]) -> None:
    """Print a table of builds; nothing where there are none."""
    if not builds:
        return
    table = Table(title="A node built from nothing, and how long others wait for rtnetlink (ms: p50, p99, max)")
    for heading in ("slices", "classes", "stands after", "nothing runs", "while it is built", "while it is removed"):
        table.add_column(heading, justify="right")
    for one in builds:
        waits = (
            f"{1e3 * w.p50_seconds:.2f} {1e3 * w.p99_seconds:.1f} {1e3 * w.longest_seconds:.0f}"
            for w in (one.idle, one.beside, one.beside_removal)
        )
        table.add_row(str(one.slices), str(one.classes), f"{one.seconds:.1f} s", *waits)
    console.print(table)


def as_json(builds: Sequence[Built]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {"builds": [asdict(one) for one in builds]}
