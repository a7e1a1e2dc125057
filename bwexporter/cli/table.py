"""The table of lanes for people.

Turns the API's rows into a table for the terminal. Knows: bars, colours, units as people read them. Does not know:
where the rows came from, the law.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bwexporter import telling
from bwexporter.units import print_duration, print_rate, print_volume

BAR_CELLS, NARROW_BAR_CELLS = 20, 10
WHOLE_WIDTH = 140
_COLUMNS = (
    "slice",
    "traffic",
    "bar",
    "used",
    "of",
    "ceiling",
    "full rate",
    "verdict",
    "would send",
    "to threshold",
    "period ends in",
)
_NARROW_WIDTH = 101
_NEEDED_WIDTHS = {"full rate": 126, "to threshold": 115, "of": _NARROW_WIDTH}  # each leaves some 12 cells for names
_SHORT = {"period ends in": "ends in"}
_LEAST_TELLING = ("ends in", "bar", "would send")
NAME_CELLS = 8
"""What is left at least of a slice's name."""
_COLOURS = {
    "within": "green",
    "paced": "cyan",
    "over_threshold": "yellow",
    "over_allowance": "red",
    "capped_by_hand": "magenta",
    "released": "green",
    "frozen": "blue",
    "off": "dim",
    "on_ladder": "yellow",
    "uncounted": "green",
}


def console() -> Console:
    """Return a console; off a terminal, whose width is unknown, it is wide enough for the whole table."""
    return Console() if sys.stdout.isatty() else Console(width=WHOLE_WIDTH)


def fitting(columns: Mapping[str, Sequence[Text | str]], width: int, least_telling: Sequence[str]) -> list[str]:
    """Return the headings of the columns that a width holds whole; the least telling ones give way, the first first.

    Only names of slices may be cut.

    >>> fitting({"slice": ["a" * 30], "rate": ["10mbit"], "share": ["1"]}, 16, ["share"])
    ['slice', 'rate']
    """
    needed = {name: max(len(name), *(cell_len(str(one)) for one in cells), 0) for name, cells in columns.items()}
    needed["slice"] = min(needed["slice"], NAME_CELLS)
    kept = list(columns)
    for name in least_telling:
        if sum(needed[one] for one in kept) + 2 * (len(kept) - 1) <= width:
            break
        kept.remove(name)
    return kept


def named(slice_name: str) -> Text:
    """Return the name of a slice as a cell that may be cut."""
    return Text(slice_name, no_wrap=True, overflow="ellipsis")


def lanes_table(answer: Mapping[str, Any], *, width: int, now_seconds: float, slice_name: str | None = None) -> Table:
    """Draw the lanes of an answer of /api/v1/slices, those of one slice if it is named.

    A lane that has no allowance and sent nothing is left out, unless it was asked for by name. Where the width does not
    hold every column the least telling ones are left out, so that the others can be read.
    """
    table = Table(
        title=lanes_title(answer), title_justify="left", title_style="bold", expand=False, pad_edge=False, box=None
    )
    in_shadow = any(row.get("would_be") for row in answer["slices"])
    headings = [heading for heading in _COLUMNS if width >= _NEEDED_WIDTHS.get(heading, 0)]
    headings = [heading for heading in headings if in_shadow or heading != "would send"]
    bar_cells = NARROW_BAR_CELLS if width < _NARROW_WIDTH else BAR_CELLS
    rows = [_cells(row, now_seconds, bar_cells) for row in _shown_rows(answer["slices"], slice_name)]
    cells_of = {heading: [row[_COLUMNS.index(heading)] for row in rows] for heading in headings}
    if width < _NARROW_WIDTH:
        short = {_SHORT.get(heading, heading): cells for heading, cells in cells_of.items()}
        kept = fitting(short, width, [name for name in _LEAST_TELLING if name in short])
        headings = [heading for heading in headings if _SHORT.get(heading, heading) in kept]
    for heading in headings:
        _add_column(table, heading, narrow=width < _NARROW_WIDTH)
    for row in rows:
        table.add_row(*(row[_COLUMNS.index(heading)] for heading in headings))
    return table


def _add_column(table: Table, heading: str, *, narrow: bool) -> None:
    """Add a column; only names give way where it is narrow, and the bar's heading is that of the volume beside it."""
    match heading:
        case "slice":
            table.add_column(heading, max_width=24, min_width=NAME_CELLS, ratio=1)
        case "bar":
            table.add_column("used", no_wrap=True)
        case "used":
            table.add_column("", justify="right", no_wrap=True)
        case "traffic" | "verdict":
            table.add_column(heading, no_wrap=True)
        case "period ends in" if narrow:
            table.add_column(_SHORT[heading], justify="right", no_wrap=True)
        case _:
            table.add_column(heading, justify="right", no_wrap=True)


def _shown_rows(rows: Sequence[Mapping[str, Any]], slice_name: str | None) -> list[Mapping[str, Any]]:
    if slice_name is not None:
        return [row for row in rows if row["slice"] == slice_name]
    return [row for row in rows if row["period_allowance_bytes"] is not None or row["period_used_bytes"]]


def lanes_title(answer: Mapping[str, Any]) -> Text:
    """Return which node it is, and what is unusual about it; `stopped` says that its turns have stopped."""
    title = Text(f"{answer['node']}")
    if not answer["enforcing"]:
        title.append("  shadow: judged, not enforced", style="yellow")
    if answer.get("stopped"):
        title.append(f"\n{answer['stopped']}", style="red")
    for device, trouble in answer["troubles"].items():
        title.append(f"\n{device}: {trouble}", style="red")
    return title


def _cells(row: Mapping[str, Any], now_seconds: float, bar_cells: int) -> list[Text | str]:
    verdict = row["verdict"]
    ceiling, full = row["ceiling_bytes_per_second"], row["full_rate_bytes_per_second"]
    lowered = ceiling is not None and full is not None and ceiling < full
    to_threshold = row["seconds_to_threshold"]
    return [
        named(row["slice"]),
        Text(row["traffic"], style="" if row["traffic"] == "normal" else "blue"),
        _bar(row, bar_cells),
        print_volume(row["period_used_bytes"]),
        "no limit" if row["period_allowance_bytes"] is None else print_volume(row["period_allowance_bytes"]),
        Text("none" if ceiling is None else print_rate(ceiling), style="bold yellow" if lowered else ""),
        "no limit" if full is None else print_rate(full),
        coloured(verdict),
        _would_send(row.get("would_be")),
        "-" if not to_threshold else print_duration(to_threshold),
        telling.ends_in(row, now_seconds),
    ]


def _would_send(would_be: Mapping[str, Any] | None) -> Text:
    """Say how much less a lane in shadow would have sent, in the colour of a cap that it would have now."""
    if not would_be:
        return Text("")
    less = would_be["less_bytes"]
    return Text(f"{print_volume(less)} less" if less else "the same", style="yellow" if would_be["capped_now"] else "")


def coloured(verdict: str) -> Text:
    """Return a verdict as people read it."""
    return Text(verdict.replace("_", " "), style=_COLOURS.get(verdict, ""))


def _bar(row: Mapping[str, Any], cells: int) -> Text:
    """Draw used against allowance; the threshold is a mark in what is still free."""
    allowance, threshold = row["period_allowance_bytes"], row["period_threshold_bytes"]
    if not allowance:
        return Text(" " * cells)
    part = row["period_used_bytes"] / allowance
    filled = min(cells, math.floor(part * cells + 0.5))
    mark = min(cells - 1, math.floor((threshold or allowance) / allowance * cells))
    colour = "red" if part >= 1 else "yellow" if row["period_used_bytes"] >= (threshold or allowance) else "green"
    bar = Text("█" * filled, style=colour)
    for cell in range(filled, cells):
        bar.append("│" if cell == mark else "░", style="dim")
    return bar
