"""`bwexporter replay`: recorded use, under another configuration.

Turns the state file, or what a Prometheus server has recorded, and a configuration into who would have been capped,
when and for how long, and how many bytes less. Knows: how recorded sums are laid beside lanes. Does not know: how they
are lived through, any rule.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
from rich.table import Table

from bwexporter.cli.comparing import MOST_CHARTS, picture
from bwexporter.cli.files import roll_of
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.past import parse_since
from bwexporter.cli.table import console
from bwexporter.cli.view import sparkline
from bwexporter.config import load_config
from bwexporter.core.lanes import Lane, Ledger, Tariffs
from bwexporter.errors import BwexporterError
from bwexporter.prometheus import Prometheus
from bwexporter.replay import Recorded, Told, replayed
from bwexporter.state import peek, read_uses
from bwexporter.units import print_duration, print_volume

STEP_SECONDS = 300
MOST_DAYS = 35
PICTURE_CELLS = 24


@click.command(short_help="Say what another policy would have done.")
@config_option
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), required=True, help="The other configuration."
)
@click.option(
    "--source",
    default="state",
    show_default=True,
    help="Where the use was recorded: the state file, or the URL of a Prometheus server, as http://localhost:9090.",
)
@click.option("--instance", help="Of the exporters that Prometheus scrapes, this one's series.")
@click.option("--from", "since", default="1d", help="From when on: 2d (ago), or 2026-03-01 14:00 [default: 1d].")
@click.option("--to", "until", help="Until when, likewise [default: now].")
@click.option("--slice", "slice_name", metavar="NAME", help="Say it of this slice alone.")
@click.option(
    "--svg",
    "svg_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw rate, use and caps under your configuration and the other: of the slice asked for, or of the "
    f"{MOST_CHARTS} lanes whose caps differ most.",
)
@as_json_option
def replay(  # noqa: PLR0913 - each is an option
    config_path: Path,
    policy_path: Path,
    *,
    source: str,
    instance: str | None,
    since: str,
    until: str | None,
    slice_name: str | None,
    svg_path: Path | None,
    as_json: bool,
) -> None:
    """Say who would have been capped, when, for how long, and how many bytes less, had another configuration held.

    Reads the recorded use of the state file, and takes the daemon's very turns over it with the slices, allowances and
    policies of the other configuration: a copy of yours with a change. Touches nothing. What is recorded is what passed
    under the ceilings of then, in sums of five minutes of up to 35 days: where the other policy is looser, it shows who
    would not have been capped any more, and not what they would have sent besides.

    A Prometheus server that scrapes the exporter (--source URL) does as well, on any machine and as far back as it
    keeps its series; the state file is not read then.
    """
    begin, end = _span(since, until)
    recorder = _source(source, instance, config_path)
    told = _of_slice(_lived(policy_path, recorder, begin, end), slice_name, policy_path)
    seen = [one for one in told if one.recorded_bytes]
    if not seen:
        raise BwexporterError(
            "no use of these slices is recorded in that span; `bwexporter history` says what is known"
        )
    if svg_path is not None:
        thens, most = _lived(config_path, recorder, begin, end), MOST_CHARTS if slice_name is None else None
        _write(svg_path, picture(thens, seen, (begin, end), policy_path.name, most))
    if as_json:
        click.echo(json.dumps({"from": begin, "to": end, "lanes": [_row(one) for one in told]}, indent=2))
    else:
        console().print(_drawn(seen, begin, end))


def _lived(path: Path, source: _Source, begin: int, end: int) -> list[Told]:
    """Live through the span under a configuration."""
    roll, told = roll_of(load_config(path)), list[Told]()
    for device, (tariffs, rules) in roll.tariffs.items():
        if not roll.trees[device].builds:
            raise BwexporterError(f"{device} has a tree that others built; only trees of bwexporter's are replayed")
        recorded = _recorded(source, device, tariffs, begin, end)
        told += replayed(recorded, device, roll.trees[device], tariffs, rules, roll.pace)
    return told


def _of_slice(told: list[Told], slice_name: str | None, path: Path) -> list[Told]:
    """Return the lanes of a slice, or all where none is asked for."""
    if slice_name is None:
        return told
    found = [one for one in told if one.lane.slice_name == slice_name]
    if not found:
        raise BwexporterError(f"{path} has no slice {slice_name!r}; write the name of one of its slices")
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as trouble:
        raise BwexporterError(f"the picture cannot be written to {path}: {trouble.strerror}") from trouble


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


class _Source(Protocol):
    """Where use was recorded."""

    def periods(self, device: str, lanes: Sequence[Lane], at: int, step_seconds: int) -> dict[Lane, tuple[float, int]]:
        """Return when the period of each lane began that ran at an instant, and what was used by then, if known."""

    def uses(
        self, device: str, lanes: Sequence[Lane], since: int, until: int, step_seconds: int
    ) -> Mapping[int, Sequence[int]]:
        """Return what each lane sent in each interval, by the interval's start."""


class _StateFile:
    """The recorded use of the program itself."""

    def __init__(self, path: Path) -> None:
        kept = peek(path)
        if kept is None:
            raise BwexporterError(f"nothing is recorded: there is no state file {path}")
        self._path, self._ledgers = path, kept.ledgers

    def periods(self, device: str, lanes: Sequence[Lane], at: int, step_seconds: int) -> dict[Lane, tuple[float, int]]:
        """Count periods back from those that run; the interval in which one began is taken to be its own."""
        ledger = self._ledgers.get(device)
        began = {} if ledger is None else _began(ledger, at)
        first = int(min([at, *began.values()]) // step_seconds) * step_seconds
        sums = read_uses(self._path, device, lanes, first, at)
        return {
            lane: (since, sum(sent[column] for start, sent in sums.items() if start > since - step_seconds))
            for column, lane in enumerate(lanes)
            if (since := began.get(lane)) is not None
        }

    def uses(
        self, device: str, lanes: Sequence[Lane], since: int, until: int, step_seconds: int
    ) -> Mapping[int, Sequence[int]]:
        """Read the sums; they are of this step."""
        del step_seconds
        return read_uses(self._path, device, lanes, since, until)


def _source(source: str, instance: str | None, config_path: Path) -> _Source:
    if source != "state":
        return Prometheus(source, instance)
    if instance is not None:
        raise click.BadParameter(
            "it goes with the URL of a Prometheus server; write --source URL", param_hint="--instance"
        )
    return _StateFile(load_config(config_path).state)


def _recorded(source: _Source, device: str, tariffs: Tariffs, begin: int, end: int) -> Recorded:
    lanes = tariffs.lanes
    sums = source.uses(device, lanes, begin, end, STEP_SECONDS)
    rows = [sums.get(start, (0,) * len(lanes)) for start in range(begin, end, STEP_SECONDS)]
    periods = source.periods(device, lanes, begin, STEP_SECONDS)
    return Recorded(float(begin), float(STEP_SECONDS), lanes, np.array(rows, np.int64), periods)


def _began(ledger: Ledger, begin: int) -> dict[Lane, float]:
    """Return for each lane when the period began that an instant falls in."""
    accounts, offset = ledger.accounts, ledger.wall_offset_seconds
    found = {}
    bounds = zip(accounts.period_start_at.tolist(), accounts.period_end_at.tolist(), strict=True)
    for lane, (start, end) in zip(ledger.lanes, bounds, strict=True):
        length = end - start
        found[lane] = start + offset - math.ceil((start + offset - begin) / length) * length
    return found


def _row(one: Told) -> Mapping[str, Any]:
    return {
        "device": one.lane.device,
        "slice": one.lane.slice_name,
        "traffic": one.lane.traffic.value,
        "recorded_bytes": one.recorded_bytes,
        "sent_bytes": one.sent_bytes,
        "less_bytes": one.less_bytes,
        "capped_seconds": round(one.capped_seconds, 3),
        "capped": [[round(since, 3), round(until, 3)] for since, until in one.spans],
    }


def _drawn(told: list[Told], begin: int, end: int) -> Table:
    table = Table(box=None, pad_edge=False, title=f"{_time(begin)} to {_time(end)}", title_justify="left")
    for heading in ("device", "slice", "traffic"):
        table.add_column(heading, no_wrap=True)
    for heading in ("recorded", "would send", "less", "capped for", "first at"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("rate over the span", no_wrap=True)
    for one in told:
        lane = one.lane
        table.add_row(
            lane.device,
            lane.slice_name,
            lane.traffic.value,
            print_volume(one.recorded_bytes),
            print_volume(one.sent_bytes),
            print_volume(one.less_bytes),
            print_duration(one.capped_seconds) if one.spans else "-",
            _time(one.spans[0][0]) if one.spans else "-",
            sparkline(
                [float(part.sum()) for part in np.array_split(one.sent_by_interval, PICTURE_CELLS)],
                PICTURE_CELLS,
            ),
        )
    return table


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
