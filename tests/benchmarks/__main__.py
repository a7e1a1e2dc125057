"""`python -m tests.benchmarks`: all measurements in one run.

Turns arguments into a run. Knows: what is measured after what. Does not know: how.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks import building, foresight, goals, ground, packets, scraping, shaping, table, traffic
from tests.benchmarks.measure import Bench, Results

SIZES = "100,1000,10000"
QUICK_SIZES = "100,1000"


def main() -> int:
    """Measure, and print; 0 also where goals are not met, since other programs may have disturbed the run."""
    arguments = _arguments()
    ground.enter_namespace()
    console = Console(width=None if sys.stdout.isatty() else 132)
    errors = Console(stderr=True, highlight=False)
    ground.run("ip", "link", "set", "lo", "up")
    all_sizes = [int(size) for size in arguments.slices.split(",")]
    sizes = all_sizes if arguments.only in {None, "turns"} else []
    scrapes: dict[str, Any] = {}
    builds: list[building.Built] = []
    figures, costs = shaping.Figures(), packets.Costs()
    with tempfile.TemporaryDirectory(prefix="bwexporter-bench-") as name:
        bench = _bench(Path(name), arguments.rounds, errors)
        if sizes:
            bench.idling(100)
            bench.reads()
            bench.writes()
        for size in sizes:
            bench.node(size)
        if arguments.only in {None, "scrapes"}:
            scrapes = scraping.measure(all_sizes, arguments.rounds, bench.say)
        if arguments.only in {None, "traffic"}:
            figures = shaping.measure(-(-arguments.rounds // 3), bench.say)
            costs = packets.measure(Path(name), arguments.rounds, bench.say)
        if arguments.only in {None, "builds"}:
            builds = building.measure(Path(name), all_sizes, bench.say)
    reached = [*goals.reached(bench.results), *traffic.goals(figures, costs)]
    outlooks = foresight.measure()
    foresight.show(console, outlooks)
    traffic.show(console, figures, costs)
    building.show(console, builds)
    scraping.show(console, scrapes)
    table.show(console, ground.machine(), bench.results, reached, sizes)
    if arguments.json:
        contents = table.as_json(ground.machine(), bench.results, reached, arguments.rounds)
        contents |= traffic.as_json(figures, costs) | foresight.as_json(outlooks) | {"scrapes": scrapes}
        contents |= building.as_json(builds)
        arguments.json.write_text(json.dumps(contents, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file too")
    parser.add_argument("--rounds", type=int, default=7, help="how often the contenders take turns (default: 7)")
    parser.add_argument("--slices", help=f"sizes of the node (default: {SIZES})")
    parser.add_argument("--only", choices=["turns", "traffic", "builds", "scrapes"], help="measure one of these alone")
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
