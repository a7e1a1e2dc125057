"""The figures of traffic, drawn and judged: what lanes get, and what a packet costs.

Turns figures and costs into tables, goals and plain values. Knows: every limit. Does not know: how anything was
measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import packets, shaping
from tests.benchmarks.goals import AT_LEAST, AT_MOST, Goal

_SHARE, _GUARANTEE, _CAP = "the larger of two shares 1:3", "a guarantee", "the node cap"
_LEAST, _MOST = 98, 102
_DEARER = 1.1
_TOO_COARSE = {"tcp to a ceiling of 1 mbit"}
"""What is not judged from below: a packet of 64 kB is half a second there."""


def show(console: Console, figures: shaping.Figures, costs: packets.Costs) -> None:
    """Print the tables of what was measured."""
    if figures:
        console.print(_lane_table(figures))
    if costs:
        console.print(_cost_table(costs))


def goals(figures: shaping.Figures, costs: packets.Costs) -> Iterator[Goal]:
    """Yield every goal that was measured."""
    for what, side in figures:
        measured = shaping.middle(figures, what, side)
        if measured is None or side == "unshaped":
            continue
        if side == "highest":
            # A single breach would be one, so it is the highest of all rounds that counts.
            yield Goal("never", f"{what}: highest", max(figures[what, side]), AT_MOST, _MOST, " %")
        elif _SHARE in what:
            yield Goal("shares", f"{what}: off 75 %", abs(measured - 75), AT_MOST, 2, " %")
        elif what not in _TOO_COARSE:
            yield Goal("gets", what, measured, AT_LEAST, _LEAST, " %")
    for load in packets.LOADS:
        for size in packets.SIZES[1:]:
            ratio = packets.ratio(costs, load, size)
            if ratio is not None:
                yield Goal("packet", f"told by {load}: {size} slices / {packets.SIZES[0]}", ratio, AT_MOST, _DEARER)


def as_json(figures: shaping.Figures, costs: packets.Costs) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "lanes": [{"what": what, "side": side, "rounds": found} for (what, side), found in figures.items()],
        "nanoseconds_a_packet": [
            {"told_by": load, "slices": size, "rounds": found} for (load, size), found in costs.items()
        ],
    }


def _lane_table(figures: shaping.Figures) -> Table:
    table = Table(title="What lanes get of what they were promised, and what the same senders do without a tree")
    for heading in ("what", "gets", "highest", "unshaped"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for what in dict.fromkeys(what for what, _ in figures):
        unit = " %" if _SHARE in what else " Mbit/s"
        table.add_row(
            what,
            _cell(shaping.middle(figures, what), " %"),
            _cell(shaping.middle(figures, what, "highest"), " %"),
            _cell(shaping.middle(figures, what, "unshaped"), unit),
        )
    return table


def _cell(figure: float | None, unit: str) -> str:
    return "-" if figure is None else f"{figure:,.1f}{unit}" if unit == " %" else f"{figure:,.0f}{unit}"


def _cost_table(costs: packets.Costs) -> Table:
    sizes = sorted({size for _, size in costs})
    table = Table(title="What a packet costs its sender, by the number of slices that the rules tell apart")
    table.add_column("all slices are told by")
    for size in sizes:
        table.add_column(f"{size} slices" if size else "no rules", justify="right")
    for load in packets.LOADS:
        table.add_row(load, *(_cost(costs, load, size) for size in sizes))
    return table


def _cost(costs: packets.Costs, load: str, size: int) -> str:
    found, ratio = costs.get((load, size)), packets.ratio(costs, load, size)
    if not found:
        return "-"
    return f"{median(found):,.0f} ns" + (f" {ratio:.2f}x" if ratio is not None else "")
