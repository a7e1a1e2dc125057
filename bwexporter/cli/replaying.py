"""`bwexporter replay`: recorded use, under another configuration.

Turns the state file, or what a Prometheus server has recorded, and a configuration into who would have been capped,
when and for how long, and how many bytes less. Knows: what is asked for, how it is printed. Does not know: where
use was recorded, how it is lived through, any rule.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from bwexporter import telling
from bwexporter.cli.comparing import MOST_CHARTS, draw, drawable, picture
from bwexporter.cli.files import roll_of
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.past import TIMES, parse_since
from bwexporter.cli.recorded import STEP_SECONDS, Source, recorded_of, source_of, source_options
from bwexporter.cli.table import console, fitting, named
from bwexporter.cli.view import sparkline
from bwexporter.config import load_config
from bwexporter.core.lanes import I8, Lane
from bwexporter.errors import BwexporterError
from bwexporter.kernel.existing import ExistingTree
from bwexporter.reliving import tree_of_ours
from bwexporter.replay import Told, replayed
from bwexporter.roster import Roll
from bwexporter.units import print_duration, print_volume

MOST_DAYS = 35
PICTURE_CELLS = 24
_FIGURES = frozenset({"recorded", "would send", "less", "capped for", "first at (UTC)"})


@click.command(short_help="Say what another policy would have done.")
@config_option
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), required=True, help="The other configuration."
)
@source_options
@click.option("--from", "since", default="1d", help=f"From when on: {TIMES} [default: 1d].")
@click.option("--to", "until", help="Until when, likewise [default: now].")
@click.option("--without-hand", is_flag=True, help="Leave out what was set by hand then: caps, releases, top-ups.")
@click.option("--slice", "slice_name", metavar="NAME", help="Say it of this slice alone.")
@click.option(
    "--picture",
    "picture_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=lambda _context, _option, path: drawable(path),
    help="Draw rate, use and caps under your configuration and the other, as FILE.svg or FILE.png: of the slice asked "
    f"for, or of the {MOST_CHARTS} lanes whose caps differ most.",
)
@as_json_option
def replay(
    config_path: Path,
    policy_path: Path,
    *,
    since: str,
    until: str | None,
    without_hand: bool,
    slice_name: str | None,
    picture_path: Path | None,
    as_json: bool,
    **source: Any,
) -> None:
    """Say who would have been capped, when, for how long, and how many bytes less, had another configuration held.

    Reads the recorded use and the orders by hand of the state file, and takes the daemon's very turns over them with
    the slices, allowances and policies of the other configuration: a copy of yours with a change. Touches nothing, and
    begins with the first use that is recorded in the span. What is recorded is what passed under the ceilings of then,
    in sums of five minutes of up to 35 days: where the other policy is looser, it shows who would not have been capped
    any more, and not what they would have sent besides.

    A Prometheus server that scrapes the exporter (--source URL) does as well, on any machine and as far back as it
    keeps its series; the state file is not read then, and orders by hand, of which the series do not say enough, are
    left out. Secrets are read from files.
    """
    begin, end = _span(since, until)
    recorder = source_of(config_path, **source)
    roll = roll_of(load_config(policy_path))
    begin = _first_use(roll, recorder, begin, end)
    lived = partial(_lived, source=recorder, span=(begin, end), with_hand=not without_hand)
    roll, unknown = _with_full_rates(roll, recorder, end)
    told = _of_slice(lived(roll), slice_name, policy_path)
    _say_what_is_taken(unknown)
    if not without_hand:
        _say_what_is_left_out(recorder, told, begin, end)
    seen = [one for one in told if one.recorded_bytes]
    if not seen:
        raise BwexporterError(f"no use of {slice_name} is recorded in that span; leave --slice out to see whose is")
    if picture_path is not None:
        most = MOST_CHARTS if slice_name is None else None
        held, _ = _with_full_rates(roll_of(load_config(config_path)), recorder, end)
        draw(picture_path, picture(lived(held), seen, (begin, end), policy_path.name, most))
    if as_json:
        click.echo(json.dumps({"from": begin, "to": end, "lanes": [_row(one) for one in told]}, indent=2))
    else:
        terminal = console()
        terminal.print(_drawn(seen, begin, end, terminal.width))


def _first_use(roll: Roll, source: Source, begin: int, end: int) -> int:
    """Return when the first use in a span was recorded: there is nothing to live through before it."""
    starts = list[int]()
    for device, (tariffs, _) in roll.tariffs.items():
        uses = source.uses(device, tariffs.lanes, begin, end, STEP_SECONDS)
        starts += [start for start, sent in uses.items() if any(sent)]
    if not starts:
        raise BwexporterError(
            "no use of these slices is recorded in that span; `bwexporter history` says what is known"
        )
    return max(begin, min(starts))


def _with_full_rates(roll: Roll, source: Source, at: int) -> tuple[Roll, Mapping[str, Collection[Lane]]]:
    """Return the roll with the full rates that nobody has written, as recorded, and by device the lanes without one."""
    tariffs, unknown = dict(roll.tariffs), dict[str, Collection[Lane]]()
    for device, tree in roll.trees.items():
        if isinstance(tree, ExistingTree) and tree.as_found:
            found = source.full_rates(device, tree.classes, at)
            of_device, rules = tariffs[device]
            tariffs[device] = tree.told(of_device, found), rules
            unknown |= {device: tree.as_found - found.keys()}
    return replace(roll, tariffs=tariffs), unknown


def _lived(roll: Roll, *, source: Source, span: tuple[int, int], with_hand: bool) -> list[Told]:
    """Live through the span under a configuration."""
    told = list[Told]()
    for device, (tariffs, rules) in roll.tariffs.items():
        recorded = recorded_of(source, device, tariffs, span)
        recorded = recorded if with_hand else replace(recorded, moved=())
        tree = tree_of_ours(device, roll.trees[device])
        told += replayed(recorded, device, tree, tariffs, rules, roll.pace)
    return told


def _say_what_is_taken(unknown: Mapping[str, Collection[Lane]]) -> None:
    """Say which full rates are known neither from what is written nor from what was recorded."""
    for device, lanes in unknown.items():
        if lanes:
            names = sorted({lane.slice_name for lane in lanes})
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            click.echo(
                f"bwexporter: the full rate on {device} of {some} is not recorded: all that the device lets through "
                "is taken for it; write full",
                err=True,
            )


def _say_what_is_left_out(source: Source, told: Sequence[Told], begin: int, end: int) -> None:
    for device in sorted({one.lane.device for one in told}):
        if unknown := source.left_out(device, begin, end):
            click.echo(f"bwexporter: {unknown}", err=True)


def _of_slice(told: list[Told], slice_name: str | None, path: Path) -> list[Told]:
    """Return the lanes of a slice, or all where none is asked for."""
    if slice_name is None:
        return told
    found = [one for one in told if one.lane.slice_name == slice_name]
    if not found:
        raise BwexporterError(f"{path} has no slice {slice_name!r}; write the name of one of its slices")
    return found


def _span(since: str, until: str | None) -> tuple[int, int]:
    """Return whole intervals, in Unix time."""
    now = time.time()
    try:
        begin, end = parse_since(since, now), now if until is None else parse_since(until, now)
    except ValueError as trouble:
        raise click.BadParameter(str(trouble)) from trouble
    begin, end = int(begin // STEP_SECONDS) * STEP_SECONDS, int(end // STEP_SECONDS) * STEP_SECONDS
    if not STEP_SECONDS <= end - begin <= MOST_DAYS * 86_400:
        raise click.BadParameter(f"a span of five minutes to {MOST_DAYS} days is replayed; write for example --from 2d")
    return begin, end


def _row(one: Told) -> Mapping[str, Any]:
    return {
        "device": one.lane.device,
        "slice": one.lane.slice_name,
        "traffic": one.lane.traffic.value,
        **telling.compared_row(one.recorded_bytes, one.sent_bytes, one.spans),
    }


def _drawn(told: list[Told], begin: int, end: int, width: int) -> Table:
    """Draw the lanes; where the width does not hold every column, the least telling ones are left out."""
    table = Table(box=None, pad_edge=False, title=f"{_time(begin)} to {_time(end)} UTC", title_justify="left")
    columns: Mapping[str, list[Text | str]] = {
        "device": [one.lane.device for one in told],
        "slice": [named(one.lane.slice_name) for one in told],
        "traffic": [one.lane.traffic.value for one in told],
        "recorded": [print_volume(one.recorded_bytes) for one in told],
        "would send": [print_volume(one.sent_bytes) for one in told],
        "less": [print_volume(one.less_bytes) for one in told],
        "capped for": [print_duration(one.capped_seconds) if one.spans else "-" for one in told],
        "first at (UTC)": [_time(one.spans[0][0]) if one.spans else "-" for one in told],
        "rate over the span": [_course(one.sent_by_interval) for one in told],
    }
    headings = fitting(columns, width, ("rate over the span", "device", "first at (UTC)", "recorded"))
    for heading in headings:
        justify: Literal["right", "left"] = "right" if heading in _FIGURES else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "slice", min_width=len(heading))
    for cells in zip(*(columns[heading] for heading in headings), strict=True):
        table.add_row(*cells)
    return table


def _course(sent: I8) -> str:
    """Draw the rate over the span: a cell for each part of it, or for each interval where those are fewer.

    >>> _course(np.array([0, 7, 7]))
    '▁██'
    """
    parts = np.array_split(sent, min(PICTURE_CELLS, len(sent)))
    return sparkline([float(part.mean()) for part in parts], PICTURE_CELLS)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
