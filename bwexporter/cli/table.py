"""The table of lanes for people.

Turns the API's rows into a table for the terminal. Knows: bars, colours, units as people read them. Does not know:
where the rows came from, the law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from bwexporter.units import print_duration, print_rate, print_volume

BAR_CELLS = 20
_COLOURS = {
    "within": "green",
    "paced": "cyan",
    "over_threshold": "yellow",
    "over_allowance": "red",
    "capped_by_hand": "magenta",
    "released": "green",
    "frozen": "blue",
    "off": "dim",
}


def lanes_table(answer: Mapping[str, Any], *, now_seconds: float, slice_name: str | None = None) -> Table:
    """Draw the lanes of an answer of /api/v1/slices, those of one slice if it is named.

    A lane that has no allowance and sent nothing is left out, unless it was asked for by name.
    """
    table = Table(
        title=_title(answer), title_justify="left", title_style="bold", expand=False, pad_edge=False, box=None
    )
    for heading in ("slice", "traffic"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("used", min_width=BAR_CELLS, no_wrap=True)
    for heading in ("", "of", "ceiling", "full rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for heading in ("to threshold", "period ends in"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in _shown_rows(answer["slices"], slice_name):
        table.add_row(*_cells(row, now_seconds))
    return table


def _shown_rows(rows: Sequence[Mapping[str, Any]], slice_name: str | None) -> list[Mapping[str, Any]]:
    if slice_name is not None:
        return [row for row in rows if row["slice"] == slice_name]
    return [row for row in rows if row["allowance_bytes"] is not None or row["used_bytes"]]


def _title(answer: Mapping[str, Any]) -> Text:
    title = Text(f"{answer['node']}")
    if not answer["enforcing"]:
        title.append("  shadow: judged, not enforced", style="yellow")
    for device, trouble in answer["troubles"].items():
        title.append(f"\n{device}: {trouble}", style="red")
    return title


def _cells(row: Mapping[str, Any], now_seconds: float) -> list[Text | str]:
    verdict = row["verdict"]
    ceiling, full = row["ceiling_bytes_per_second"], row["full_rate_bytes_per_second"]
    lowered = ceiling is not None and full is not None and ceiling < full
    to_threshold = row["seconds_to_threshold"]
    return [
        Text(row["slice"]),
        Text(row["traffic"], style="" if row["traffic"] == "normal" else "blue"),
        _bar(row),
        print_volume(row["used_bytes"]),
        "no limit" if row["allowance_bytes"] is None else print_volume(row["allowance_bytes"]),
        Text("none" if ceiling is None else print_rate(ceiling), style="bold yellow" if lowered else ""),
        "no limit" if full is None else print_rate(full),
        Text(verdict.replace("_", " "), style=_COLOURS.get(verdict, "")),
        "-" if not to_threshold else print_duration(to_threshold),
        print_duration(max(0.0, row["period_end_timestamp_seconds"] - now_seconds)),
    ]


def _bar(row: Mapping[str, Any]) -> Text:
    """Draw used against allowance; the threshold is a mark in what is still free."""
    allowance, threshold = row["allowance_bytes"], row["threshold_bytes"]
    if not allowance:
        return Text("")
    part = row["used_bytes"] / allowance
    filled = min(BAR_CELLS, math.floor(part * BAR_CELLS + 0.5))
    mark = min(BAR_CELLS - 1, math.floor((threshold or allowance) / allowance * BAR_CELLS))
    colour = "red" if part >= 1 else "yellow" if row["used_bytes"] >= (threshold or allowance) else "green"
    bar = Text("█" * filled, style=colour)
    for cell in range(filled, BAR_CELLS):
        bar.append("│" if cell == mark else "░", style="dim")
    return bar
