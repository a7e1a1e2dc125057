"""`bwexporter slices` and `status`: records and answers, drawn.

Turns effective tariffs, or an answer of the API, into tables or JSON. Knows: columns and units for people. Does not
know: accounts, the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bwexporter.cli.files import roll_of
from bwexporter.cli.table import console, lanes_table
from bwexporter.config import Config, load_config
from bwexporter.core.lanes import UNLIMITED
from bwexporter.units import print_rate, print_volume


def status(answer: Mapping[str, Any], slice_name: str | None) -> None:
    """Print an answer of the API as a table."""
    terminal = console()
    table = lanes_table(answer, width=terminal.width, now_seconds=answer["taken_at"], slice_name=slice_name)
    terminal.print(table)
    for order in answer.get("by_hand", ()):
        if order["slice"] is None or slice_name in {None, order["slice"], order.get("borrower")}:
            place = " ".join(order[part] for part in ("device", "slice", "traffic") if order[part])
            terminal.print(f"{place or 'the node'}: {order['sentence']}", markup=False, highlight=False, soft_wrap=True)


def slices(config_path: Path, *, as_json: bool) -> None:
    """Print the effective tariffs of every lane, as files say them."""
    rows = list(_rows(load_config(config_path)))
    if as_json:
        click.echo(json.dumps({"slices": rows}, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("slice", "id", "device", "traffic"):
        table.add_column(heading, no_wrap=True)
    for heading in ("full rate", "guarantee", "floor", "allowance", "threshold", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console().print(table)


def _rows(config: Config) -> Iterator[dict[str, Any]]:
    for tariffs, _ in roll_of(config).tariffs.values():
        for row, lane in enumerate(tariffs.lanes):
            yield {
                "slice": lane.slice_name,
                "id": int(tariffs.slice_id[row]),
                "device": lane.device,
                "traffic": lane.traffic.value,
                "full_rate_bytes_per_second": int(tariffs.full_bytes_per_second[row]),
                "guarantee_bytes_per_second": int(tariffs.guarantee_bytes_per_second[row]),
                "floor_bytes_per_second": int(tariffs.floor_bytes_per_second[row]),
                "allowance_bytes": _limited(int(tariffs.allowance_bytes[row])),
                "threshold_bytes": _limited(int(tariffs.threshold_bytes[row])),
                "share": int(tariffs.share[row]),
            }


def _limited(volume_bytes: int) -> int | None:
    return None if volume_bytes >= UNLIMITED else volume_bytes


def _cells(row: Mapping[str, Any]) -> list[str]:
    rates = [row[f"{name}_bytes_per_second"] for name in ("full_rate", "guarantee", "floor")]
    volumes = [row["allowance_bytes"], row["threshold_bytes"]]
    return [
        *(str(row[name]) for name in ("slice", "id", "device", "traffic")),
        *(print_rate(rate) for rate in rates),
        *("no limit" if volume is None else print_volume(volume) for volume in volumes),
        str(row["share"]),
    ]
