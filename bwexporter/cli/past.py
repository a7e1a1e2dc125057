"""`bwexporter history` and `why`: what happened, and why a ceiling is what it is.

Turns events and the API's rows into sentences. Knows: where events and use can be read (the state file, or a
running program's API), how people write a time. Does not know: what an event or a verdict means.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
from rich.table import Table

from bwexporter import explain, telling
from bwexporter.cli import asking
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.table import console
from bwexporter.cli.urls import url_option
from bwexporter.config import load_config
from bwexporter.core.report import EventKind
from bwexporter.errors import BwexporterError, StateRefused
from bwexporter.state import NOTHING_SAVED, peek, read_events
from bwexporter.units import TooLong, UnitError, parse_duration

MOST_EVENTS = 1000
TIMES = "2d (ago), or a time as 2026-03-01 14:00, local unless it ends in its zone, as +00:00"
_NO_END = 1e12

Row = Mapping[str, Any]

_url_option = url_option("http://node1:10099", "Ask this bwexporter, as http://node1:10099.")


def parse_since(written: str, now_seconds: float) -> float:
    """Read `2h` (ago), or a time as 2026-03-01 or 2026-03-01 14:00, in local time unless it says which; ValueError."""
    try:
        return now_seconds - parse_duration(written)
    except TooLong:
        raise ValueError(f"{written!r} is too long ago: events are kept for 400 days; write for example 400d") from None
    except UnitError:
        try:
            return datetime.fromisoformat(written).timestamp()
        except ValueError:
            raise ValueError(f"{written!r} is no time; write for example 2h, 7d or 2026-03-01 14:00") from None


@click.command(short_help="Say what happened, and why.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@click.option("--since", default="1d", show_default=True, help=f"Since when: {TIMES}.")
@click.option(
    "--kind",
    metavar="KIND",
    type=click.Choice([one.value for one in EventKind]),
    help=f"Only these: {', '.join(one.value for one in EventKind)}; the last is the audit.",
)
@click.option("--limit", type=click.IntRange(1, MOST_EVENTS), default=100, help="The newest so many [default: 100].")
@_url_option
@as_json_option
def history(
    slice_name: str | None,
    config_path: Path,
    *,
    since: str,
    kind: str | None,
    limit: int,
    url: str | None,
    as_json: bool,
) -> None:
    """Say what happened, oldest first: verdicts, periods, orders by hand, restarts, drift, refusals.

    Each event has its inputs (--json shows them all): what was used of how much, the rule, the old and the new ceiling,
    who caused it. A ceiling that moved by less than a half or a double belongs to the event before it. Events are kept
    for 400 days; they are read from the state file where this user may, and else asked of the running program.
    """
    try:
        since_seconds = parse_since(since, time.time())
    except ValueError as trouble:
        raise click.BadParameter(str(trouble), param_hint="--since") from trouble
    asked = _Question(slice_name, since_seconds, limit, None if kind is None else EventKind(kind))
    rows = list(reversed(_events(config_path, url, asked)))
    if not rows and slice_name is not None:
        _refuse_strangers(config_path, url, slice_name)
    if as_json:
        click.echo(json.dumps({"events": rows}, indent=2))
        return
    if not rows:
        click.echo(f"Nothing happened{f' to {slice_name}' if slice_name else ''} since {_time(since_seconds)} UTC.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("lane", no_wrap=True)
    table.add_column("what happened", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(_time(row["at_timestamp_seconds"]), place_of(row), row["sentence"])
    console().print(table, markup=False, highlight=False)


@click.command(short_help="Say why a slice's ceiling is what it is.")
@click.argument("slice_name", metavar="SLICE")
@config_option
@_url_option
@as_json_option
def why(slice_name: str, config_path: Path, *, url: str | None, as_json: bool) -> None:
    """Say why a slice's ceiling is what it is, in one sentence for each lane, with the figures of the formula.

    Adds the orders by hand that are in force, since when it is so, and what it will have used when its period ends:
    from the recent rate and, where they are known, from the same hours of earlier periods.
    """
    answer = asking.slices(url or asking.url_of(config_path))
    rows = [row for row in answer["slices"] if row["slice"] == slice_name]
    if not rows:
        raise _stranger(answer["node"], slice_name)
    events = _events(config_path, url, _Question(slice_name, 0.0, MOST_EVENTS))
    told = [_explained(row, answer, events) for row in rows]
    if as_json:
        click.echo(json.dumps({"node": answer["node"], "taken_at": answer["taken_at"], "lanes": told}, indent=2))
        return
    for lane in told:
        click.echo(f"{place_of(lane)}: {lane['why']}")
        if lane["would_be"] is not None:
            click.echo(f"  {lane['would_be']['sentence']}")
        for order in lane["by_hand"]:
            click.echo(f"  {order['sentence']}")
        if lane["event"] is not None:
            click.echo(f"  Since {_time(lane['event']['at_timestamp_seconds'])} UTC.")
        if lane["outlook"] is not None:
            click.echo(f"  {lane['outlook']['sentence']}")


def _ahead(row: Row) -> dict[str, Any] | None:
    """Return what the program forecasts of a lane, with a sentence; None without an allowance."""
    if row["period_allowance_bytes"] is None or row.get("expected_used_bytes") is None:
        return None
    names = ("expected_used_bytes", "seconds_to_threshold", "seconds_to_allowance", "earlier_periods")
    return {**{name: row[name] for name in names}, "sentence": telling.outlook_sentence(row)}


def place_of(row: Row) -> str:
    """Return which lane, device or node a row is about."""
    return " ".join(row[part] for part in ("device", "slice", "traffic") if row[part]) or "the node"


def _explained(row: Row, answer: Row, events: Sequence[Row]) -> dict[str, Any]:
    lane = {part: row[part] for part in ("device", "slice", "traffic")}
    orders = [order for order in answer.get("by_hand", ()) if _concerns(order, row)]
    of_lane = (one for one in events if all(one[part] == lane[part] for part in lane))
    last = next((one for one in of_lane if one["kind"] == EventKind.VERDICT.value), None)
    if last is not None and last["inputs"].get("reason") != row["verdict"]:
        last = None  # what a turn has told is saved by the next one
    return {
        **lane,
        "verdict": row["verdict"],
        "why": explain.sentence(explain.of_row(row, answer)),
        "would_be": row.get("would_be"),
        "by_hand": orders,
        "event": last,
        "outlook": _ahead(row),
    }


def _concerns(order: Row, row: Row) -> bool:
    """Say whether an order is about a lane: its own, as a borrower, or the whole node's."""
    if order["slice"] is None:
        return True
    same_road = (order["device"], order["traffic"]) == (row["device"], row["traffic"])
    return same_road and row["slice"] in {order["slice"], order.get("borrower")}


@dataclass(frozen=True, slots=True)
class _Question:
    """Which events are asked for."""

    slice_name: str | None
    since_seconds: float
    limit: int
    kind: EventKind | None = None


def _events(config_path: Path, url: str | None, asked: _Question) -> list[dict[str, Any]]:
    """Return events as rows, newest first."""
    if url is None:
        try:
            state = load_config(config_path).state
            found = read_events(state, asked.since_seconds, _NO_END, asked.slice_name, asked.limit, asked.kind)
            return [telling.row(event) for event in found]
        except StateRefused as unreadable:
            try:
                return _answered(asking.url_of(config_path), asked)
            except BwexporterError:
                raise unreadable from None
    return _answered(url, asked)


def _refuse_strangers(config_path: Path, url: str | None, slice_name: str) -> None:
    """Refuse a name that is nowhere: neither in all that happened nor among the slices that there are."""
    if _events(config_path, url, _Question(slice_name, 0.0, 1)):
        return
    node, names = _slices(config_path, url)
    if slice_name not in names:
        raise _stranger(node, slice_name)


def _slices(config_path: Path, url: str | None) -> tuple[str, set[str]]:
    """Return the node and its slices: those of the program, or where none runs here those that have accounts."""
    try:
        answer = asking.slices(url or asking.url_of(config_path))
    except BwexporterError:
        if url is not None:
            raise
        config = load_config(config_path)
        kept = peek(config.state) or NOTHING_SAVED
        return config.node, {lane.slice_name for ledger in kept.ledgers.values() for lane in ledger.lanes}
    return answer["node"], {row["slice"] for row in answer["slices"]}


def _stranger(node: str, slice_name: str) -> BwexporterError:
    return BwexporterError(f"{node} has no slice {slice_name!r}; `bwexporter status` lists them")


def _answered(url: asking.Place | str, asked: _Question) -> list[dict[str, Any]]:
    question = {"since": f"{max(0.0, asked.since_seconds):.3f}", "limit": str(asked.limit)}
    question |= {"slice": asked.slice_name} if asked.slice_name else {}
    question |= {"kind": asked.kind.value} if asked.kind else {}
    answer = asking.answer(url, f"/api/v1/events?{urlencode(question)}", "events")
    return [_with_sentence(row) for row in answer["events"]]


def _with_sentence(row: Row) -> dict[str, Any]:
    return {**row, "sentence": telling.sentence(EventKind(row["kind"]), row["inputs"])}


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
