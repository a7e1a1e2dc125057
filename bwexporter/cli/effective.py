"""`bwexporter slices`: what each slice may send, and where each value was given.

Turns a roll into a table, into one slice's values with their origins, or into JSON. Knows: columns and units for
people. Does not know: how records are read, accounts, how a full rate that nobody has written is found.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click
from rich.table import Table
from rich.text import Text

from bwexporter.cli.files import roll_of
from bwexporter.cli.options import as_json_option, ask_option, config_option
from bwexporter.cli.table import console, fitting, named
from bwexporter.config import load_config
from bwexporter.core.lanes import UNLIMITED, Lane, Tariffs
from bwexporter.core.periods import Calendar, PeriodRule
from bwexporter.errors import BwexporterError
from bwexporter.kernel.existing import ExistingTree
from bwexporter.roster import Roll
from bwexporter.units import print_duration, print_rate, print_volume

DEFAULT = "default"
_AS_FOUND = "as found"

_VALUES: Mapping[str, tuple[str, str]] = {
    "full": ("full_rate_bytes_per_second", "full rate"),
    "guarantee": ("guarantee_bytes_per_second", "guarantee"),
    "floor": ("floor_bytes_per_second", "floor"),
    "allowance": ("allowance_bytes", "allowance"),
    "threshold": ("threshold_bytes", "threshold"),
    "share": ("share", "share"),
}
"""The settings of a lane: their keys in JSON and their headings."""

_OF_LANE = ("id", "device", "traffic")
_LEAST_TELLING = ("share", "floor", "guarantee", "id", "threshold", "given in", "device")


@click.command(short_help="Show what each slice may send, and who said so.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@ask_option
@as_json_option
def slices(slice_name: str | None, config_path: Path, *, ask: bool, as_json: bool) -> None:
    """Show the slices as they are read: what each may send on which device, defaults filled in.

    With a name, where each of its values was given: the place in a file, the server, the tag and its level, a loan, or
    the default. Servers are not asked: what they last said to a running bwexporter is shown, or with --ask what they
    say now. Where a tree is somebody else's and nobody has written a full rate, it is the one that the class was found
    with; "as found" where neither the state file nor the kernel tells it here. Changes nothing.
    """
    roll, unknown = _with_found(roll_of(load_config(config_path), ask=ask))
    rows = [row for row in _rows(roll, unknown) if slice_name in {None, row["slice"]}]
    if not rows:
        raise BwexporterError(f"there is no slice {slice_name!r} in the files; `bwexporter slices` lists them")
    troubles = [text for name, info in roll.info.items() for text in info.problems if slice_name in {None, name}]
    if as_json:
        click.echo(json.dumps({"slices": rows, "problems": list(dict.fromkeys(troubles))}, indent=2))
        return
    terminal = console()
    if slice_name is None:
        terminal.print(_table(rows, terminal.width))
    else:
        click.echo(_origins(rows))
    for text in dict.fromkeys(troubles):
        terminal.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _with_found(roll: Roll) -> tuple[Roll, Collection[Lane]]:
    """Return the roll with the full rates that were found, and the lanes whose full rate cannot be known here."""
    if not any(isinstance(tree, ExistingTree) for tree in roll.trees.values()):
        return roll, ()
    from bwexporter.cli.found import with_found  # noqa: PLC0415 - rarely needed, and it reads the kernel

    return with_found(roll)


def _rows(roll: Roll, unknown: Collection[Lane]) -> Iterator[dict[str, Any]]:
    for tariffs, rules in roll.tariffs.values():
        for row, lane in enumerate(tariffs.lanes):
            record = roll.records.get(lane.slice_name)
            yield {
                "slice": lane.slice_name,
                "id": int(tariffs.slice_id[row]),
                "device": lane.device,
                "traffic": lane.traffic.value,
                **_values(tariffs, row),
                **({"full_rate_bytes_per_second": None} if lane in unknown else {}),
                "period": _period(rules[int(tariffs.period_rule[row])]),
                "off": bool(tariffs.off[row]),
                "shadow": bool(tariffs.shadow[row]),
                "source": record.place if record else None,
                "from": {key: _origin(roll, lane, key) for key in (*_VALUES, "period")},
            }


def _values(tariffs: Tariffs, row: int) -> dict[str, int | None]:
    return {
        "full_rate_bytes_per_second": int(tariffs.full_bytes_per_second[row]),
        "guarantee_bytes_per_second": int(tariffs.guarantee_bytes_per_second[row]),
        "floor_bytes_per_second": int(tariffs.floor_bytes_per_second[row]),
        "allowance_bytes": _limited(int(tariffs.allowance_bytes[row])),
        "threshold_bytes": _limited(int(tariffs.threshold_bytes[row])),
        "share": int(tariffs.share[row]),
    }


def _limited(volume_bytes: int) -> int | None:
    return None if volume_bytes >= UNLIMITED else volume_bytes


def _period(rule: PeriodRule) -> str:
    if not isinstance(rule, Calendar):
        return print_duration(rule.length_seconds)
    return f"{rule.unit.value} from {rule.starts_on}, {rule.timezone}"


def _origin(roll: Roll, lane: Lane, key: str) -> str:
    """Say where a value was given: a source's place and tag, or the default; and what loans made of it."""
    tree, record = roll.trees[lane.device], roll.records.get(lane.slice_name)
    if key == "full" and isinstance(tree, ExistingTree) and lane in tree.as_found:
        return _AS_FOUND
    given = record.origins.get(f"{lane.traffic.value}.{key}", DEFAULT) if record else DEFAULT
    return ", ".join((given, *roll.lent.get((lane, key), ())))


def _table(rows: list[dict[str, Any]], width: int) -> Table:
    """Draw the lanes; where the width does not hold every column, the least telling ones are left out."""
    columns: dict[str, list[Text | str]] = {"slice": [named(row["slice"]) for row in rows]}
    columns |= {name: [str(row[name]) for row in rows] for name in _OF_LANE}
    columns |= {heading: [_shown(key, row) for row in rows] for key, (_, heading) in _VALUES.items()}
    columns["given in"] = [_short(row["source"]) for row in rows]
    headings, table = fitting(columns, width, _LEAST_TELLING), Table(box=None, pad_edge=False)
    figures = {heading for _, heading in _VALUES.values()}
    for heading in headings:
        justify: Literal["right", "left"] = "right" if heading in figures else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "slice", min_width=len(heading))
    for cells in zip(*(columns[heading] for heading in headings), strict=True):
        table.add_row(*cells)
    return table


def _short(place: str | None) -> str:
    """Return a place without what is the same for all records of a source: folders, or a server's path."""
    return DEFAULT if place is None else urlsplit(place).hostname or place.rpartition("/")[2]


def _origins(rows: list[dict[str, Any]]) -> str:
    """Draw by hand: places are as long as they are, and are to be copied."""
    headings = {**{key: heading for key, (_, heading) in _VALUES.items()}, "period": "period"}
    lines = [
        (row["device"], row["traffic"], heading, _shown(key, row), row["from"][key])
        for row in rows
        for key, heading in headings.items()
    ]
    widths = [max(len(line[at]) for line in lines) for at in range(4)]
    return "\n".join("  ".join(map(str.ljust, line, (*widths, 0))) for line in lines)


def _shown(key: str, row: Mapping[str, Any]) -> str:
    if key == "period":
        return str(row["period"])
    value = row[_VALUES[key][0]]
    if key in {"allowance", "threshold"}:
        return "no limit" if value is None else print_volume(value)
    if value is None:
        return _AS_FOUND
    return str(value) if key == "share" else print_rate(value)
