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
@as_json_option
def replay(
    config_path: Path,
    policy_path: Path,
    *,
    source: str,
    instance: str | None,
    since: str,
    until: str | None,
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
    source_of = _source(source, instance, config_path)
    roll, told = roll_of(load_config(policy_path)), list[Told]()
    for device, (tariffs, rules) in roll.tariffs.items():
        if not roll.trees[device].builds:
            raise BwexporterError(f"{device} has a tree that others built; only trees of bwexporter's are replayed")
        recorded = _recorded(source_of, device, tariffs, begin, end)
        told += replayed(recorded, device, roll.trees[device], tariffs, rules, roll.pace)
    if not any(one.recorded_bytes for one in told):
        raise BwexporterError(
            "no use of these slices is recorded in that span; `bwexporter history` says what is known"
        )
    if as_json:
        click.echo(json.dumps({"from": begin, "to": end, "lanes": [_row(one) for one in told]}, indent=2))
    else:
        console().print(_drawn([one for one in told if one.recorded_bytes], begin, end))


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

    def period_starts(self, device: str, at: int) -> dict[Lane, float]:
        """Return when the period of each lane began that an instant falls in, where that is known."""

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

    def period_starts(self, device: str, at: int) -> dict[Lane, float]:
        """Count periods back from those that run."""
        ledger = self._ledgers.get(device)
        return {} if ledger is None else _periods(ledger, at)

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
    began = source.period_starts(device, begin)
    first = max(min([begin, *(int(at) for at in began.values())]), begin - MOST_DAYS * 86_400)
    first -= first % STEP_SECONDS
    sums = source.uses(device, tariffs.lanes, first, end, STEP_SECONDS)
    rows = [sums.get(start, (0,) * len(tariffs)) for start in range(begin, end, STEP_SECONDS)]
    starts = {}
    for column, lane in enumerate(tariffs.lanes):
        if lane in began:
            used = sum(sums[start][column] for start in sums if began[lane] <= start < begin)
            starts[lane] = (began[lane], int(used))
    return Recorded(float(begin), float(STEP_SECONDS), tariffs.lanes, np.array(rows, np.int64), starts)


def _periods(ledger: Ledger, begin: int) -> dict[Lane, float]:
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
                [float(part.sum()) for part in np.array_split(np.array(one.sent_by_interval), PICTURE_CELLS)],
                PICTURE_CELLS,
            ),
        )
    return table


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
