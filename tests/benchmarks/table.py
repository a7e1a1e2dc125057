"""The tables of a run: for people, and the same as JSON for machines.

Turns results and goals into text. Knows: what stands beside what. Does not know: how anything was measured.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.goals import Goal, turn_name
from tests.benchmarks.ground import Machine
from tests.benchmarks.measure import FORKS, WRITE_COUNTS, Results

STAGES = ("look", "count", "judge", "plan", "save", "act", "tell")
_TURNS = (
    ("turn", "ours"),
    ("turn, durable", "ours, durable"),
    ("turn, C, durable", "C, durable"),
    ("dump, C", "C's dump alone"),
    ("turn, tc", "tc as text, forks"),
    ("turn, libraries", "pyroute2, gauges"),
)
_WRITES = (("write", "ours"), ("write, tc -batch", "tc -batch"), ("write, forked tc", "forked tc"))


def show_turns(console: Console, results: Results, sizes: list[int]) -> None:
    """Print the tables of these sizes of a node."""
    base = "turn, C" if any(results.has("turn, C", size) for size in sizes) else "turn, durable"
    for part in ("wall", "cpu"):
        console.print(_turn_table(results, sizes, base, part))
    console.print(_stage_table(results, sizes))
    console.print(_read_table(results, sizes))
    console.print(_write_table(results))
    console.print(_exposition_table(results, sizes))
    console.print(_wait_table(results, sizes))


def show_goals(console: Console, goals: list[Goal]) -> None:
    """Print what was to be reached, and what was."""
    if goals:
        console.print(_goal_table(goals))


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _turn_table(results: Results, sizes: list[int], base: str, part: str) -> Table:
    """Compare whole turns."""
    whose = "of C's turn" if base == "turn, C" else "of our own turn (there is no gcc)"
    what = "time" if part == "wall" else "processor time"
    table = Table(title=f"A turn, in multiples {whose}: {what}")
    for heading in (
        "slices",
        "C's turn" if base == "turn, C" else "our turn",
        *(name for _, name in _TURNS),
        "tc, with gauges",
    ):
        table.add_column(heading, justify="right")
    for size in sizes:
        unit = results.median(base, size, part)
        cells = [
            _times(results.median(what, size, part) / unit) if results.has(what, size) else "-" for what, _ in _TURNS
        ]
        gauges = results.median("turn, tc", size, "gauges") + results.median("turn, tc", size, part)
        table.add_row(str(size), f"{1e3 * unit:.3g} ms", *cells, _times(gauges / unit))
    return table


def _stage_table(results: Results, sizes: list[int]) -> Table:
    table = Table(title="Where our turn's time goes, and the first turn after others have used the caches")
    for heading in ("slices", *STAGES, "first / later"):
        table.add_column(heading, justify="right")
    for size in sizes:
        turn = turn_name(results, size)
        whole = results.median(turn, size)
        shares = [f"{100 * results.median(turn, size, stage) / whole:.0f} %" for stage in STAGES]
        table.add_row(str(size), *shares, _times(results.median(turn, size, cold=True) / whole))
    return table


def _read_table(results: Results, sizes: list[int]) -> Table:
    table = Table(title="Reading all classes, in multiples of C's dump")
    for heading in ("slices", "C's dump", "read and decode", "first read", "a whole look"):
        table.add_column(heading, justify="right")
    for size in (10, *sizes):
        if results.has("dump, C", size):
            unit = results.median("dump, C", size)
            cold = results.median("read", size, cold=True) / results.median("dump, C", size, cold=True)
            both = (results.median("read", size) / unit, cold, results.median("look", size) / unit)
            table.add_row(str(size), f"{1e3 * unit:.3g} ms", *map(_times, both))
    return table


def _write_table(results: Results) -> Table:
    table = Table(title="Changing classes while somebody listens, in multiples of C")
    for heading in ("changes", "C", "C, nobody listens", *(name for _, name in _WRITES)):
        table.add_column(heading, justify="right")
    for count in WRITE_COUNTS:
        if results.has("write, C", count):
            unit = results.median("write, C", count)
            forked = results.median("write, forked tc", 1 if count == 1 else FORKS)
            each = forked if count == 1 else forked / FORKS * count
            ours, batch = results.median("write", count), results.median("write, tc -batch", count)
            ratios = (results.median("write, C, unheard", count), ours, batch, each)
            table.add_row(str(count), f"{1e6 * unit:.3g} us", *(_times(one / unit) for one in ratios))
    return table


def _exposition_table(results: Results, sizes: list[int]) -> Table:
    table = Table(title="An exposition, in multiples of our text")
    for heading in ("slices", "our text", "with gzip", "C", "generate_latest", "gauges set too"):
        table.add_column(heading, justify="right")
    for size in sizes:
        if results.has("render", size):
            unit = results.median("render", size, "text")
            bare = _times(results.median("render, C", size) / unit) if results.has("render, C", size) else "-"
            library = (results.median("render, libraries", size, "text"), results.median("render, libraries", size))
            whole = _times(results.median("render", size) / unit)
            table.add_row(str(size), f"{1e3 * unit:.3g} ms", whole, bare, *(_times(one / unit) for one in library))
    return table


def _wait_table(results: Results, sizes: list[int]) -> Table:
    table = Table(title="How long another user of rtnetlink waits for one change, while this runs without a pause (us)")
    for heading in ("slices", "beside", "p50", "p99", "max"):
        table.add_column(heading, justify="right")
    for size in sizes:
        for beside in ("idle", "turns", "C's dumps"):
            names = [f"wait beside {beside}, {size}, {name}" for name in ("p50", "p99", "max")]
            if names[0] in results.facts:
                table.add_row(str(size), beside, *(f"{1e6 * results.facts[name]:.0f}" for name in names))
    return table


def _goal_table(goals: list[Goal]) -> Table:
    table = Table(title="Goals")
    for heading, justify in (
        ("goal", "left"),
        ("what", "left"),
        ("measured", "right"),
        ("limit", "right"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for goal in goals:
        verdict = "[green]met[/]" if goal.met else "[red]not met[/]"
        limit = f"{goal.sense} {goal.limit:g}{goal.unit}"
        table.add_row(goal.number, goal.text, f"{goal.measured:.3g}{goal.unit}", limit, verdict)
    return table


def as_json(machine: Machine, results: Results, goals: list[Goal], rounds: int) -> dict[str, Any]:
    """Return everything as plain values; times are medians and quartiles in seconds."""
    return {
        "machine": asdict(machine),
        "rounds": rounds,
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
        "measured": [
            {"what": what, "size": size, "samples": len(taken), **_summary([one["wall"] for one in taken])}
            for (what, size), taken in results.samples.items()
        ],
        "facts": results.facts,
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"median_seconds": middle, "lower_quartile_seconds": low, "upper_quartile_seconds": high}
