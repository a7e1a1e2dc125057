"""`python -m tests.benchmarks`: all measurements in one run.

Turns arguments into a run. Knows: what is measured after what, that a part is told as soon as it is done. Does not
know: how anything is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import building, foresight, goals, ground, packets, scraping, shaping, table, traffic
from tests.benchmarks.measure import Bench, Results

SIZES = "100,1000,10000"
QUICK_SIZES = "100,1000"
PARTS = ("turns", "scrapes", "traffic", "builds", "outlooks")


def main() -> int:
    """Measure, and print each part as it is done; 0 also where goals are not met: other programs may have disturbed."""
    arguments = _arguments()
    ground.enter_namespace()
    console = Console(width=None if sys.stdout.isatty() else 132)
    errors = Console(stderr=True, highlight=False)
    ground.run("ip", "link", "set", "lo", "up")
    machine = ground.machine()
    console.print(f"\n{machine}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="bwexporter-bench-") as name:
        bench = _bench(Path(name), arguments.rounds, errors)
        run = Run(console, machine, bench, arguments.rounds, arguments.json)
        sizes = [int(size) for size in arguments.slices.split(",")]
        parts: Mapping[str, Callable[[], None]] = {
            "turns": lambda: run.turns(sizes),
            "scrapes": lambda: run.scrapes(sizes),
            "traffic": lambda: run.traffic(Path(name)),
            "builds": lambda: run.builds(Path(name), sizes),
            "outlooks": run.outlooks,
        }
        for part, measure in parts.items():
            if arguments.only in {None, part}:
                measure()
    return 0


@dataclass
class Run:
    """What was measured so far: printed, and kept in the file, so that what comes after it can lose nothing of it."""

    console: Console
    machine: ground.Machine
    bench: Bench
    rounds: int
    file: Path | None
    reached: list[goals.Goal] = field(default_factory=list)
    others: dict[str, Any] = field(default_factory=dict)

    def turns(self, sizes: list[int]) -> None:
        """Measure turns; those of each size are kept, and where one fails the smaller ones are printed."""
        self.bench.idling(100)
        self.bench.reads()
        self.bench.writes()
        done = list[int]()
        try:
            for size in sizes:
                self.bench.node(size)
                done.append(size)
                self._keep()
        finally:
            if done:
                table.show_turns(self.console, self.bench.results, done)
        self._reach(goals.reached(self.bench.results))

    def scrapes(self, sizes: list[int]) -> None:
        """Measure scrapes."""
        found = scraping.measure(sizes, self.rounds, self.bench.say)
        scraping.show(self.console, found)
        self._keep({"scrapes": found})

    def traffic(self, folder: Path) -> None:
        """Measure what lanes get, and what a packet costs."""
        figures = shaping.measure(-(-self.rounds // 3), self.bench.say)
        costs = packets.measure(folder, self.rounds, self.bench.say)
        traffic.show(self.console, figures, costs)
        self._reach(traffic.goals(figures, costs))
        self._keep(traffic.as_json(figures, costs))

    def builds(self, folder: Path, sizes: list[int]) -> None:
        """Measure trees that are built from nothing."""
        builds = building.measure(folder, sizes, self.bench.say)
        building.show(self.console, builds)
        self._keep(building.as_json(builds))

    def outlooks(self) -> None:
        """Measure how far forecasts are off."""
        found = foresight.measure()
        foresight.show(self.console, found)
        self._keep(foresight.as_json(found))

    def _reach(self, reached: Iterable[goals.Goal]) -> None:
        of_part = list(reached)
        table.show_goals(self.console, of_part)
        self.reached += of_part
        self._keep()

    def _keep(self, more: Mapping[str, Any] | None = None) -> None:
        """Write all that there is by now."""
        self.others |= more or {}
        if self.file is not None:
            contents = table.as_json(self.machine, self.bench.results, self.reached, self.rounds) | self.others
            written = self.file.with_name(f"{self.file.name}.new")
            written.write_text(json.dumps(contents, indent=1))
            written.replace(self.file)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file too")
    parser.add_argument("--rounds", type=int, default=7, help="how often the contenders take turns (default: 7)")
    parser.add_argument("--slices", help=f"sizes of the node (default: {SIZES})")
    parser.add_argument(
        "--only", choices=["turns", "scrapes", "traffic", "builds", "outlooks"], help="measure one of these alone"
    )
    parser.add_argument("--quick", action="store_true", help=f"leave the largest out: {QUICK_SIZES} slices, 3 rounds")
    arguments = parser.parse_args()
    arguments.rounds = min(arguments.rounds, 3) if arguments.quick else arguments.rounds
    arguments.slices = arguments.slices or (QUICK_SIZES if arguments.quick else SIZES)
    arguments.json = arguments.json.absolute() if arguments.json else None
    return arguments


def _bench(folder: Path, rounds: int, errors: Console) -> Bench:
    bare = ground.compiled("bare", folder)
    preload = ground.compiled("nosync", folder, "-shared", "-fPIC")
    if bare is None:
        errors.print("there is no gcc (or no kernel headers): what is compared with C, or leaves fsync out, is missing")
    return Bench(folder, bare, preload, rounds, Results(), lambda text: errors.print(f"... {text}"))


if __name__ == "__main__":
    sys.exit(main())
