"""`bwexporter tree check`: whether each slice's traffic reaches its lane, drawn.

Turns what stands on a node into findings for people or programs, and an exit code. Knows: columns, colours, what is
left out. Does not know: how anything is found out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from bwexporter.cli.looking import Standing, standing
from bwexporter.cli.ruling import is_sorted, rules_for
from bwexporter.cli.table import console
from bwexporter.core.lanes import Lane
from bwexporter.desk import Desk
from bwexporter.errors import BwexporterError
from bwexporter.kernel import probe
from bwexporter.kernel.classifier import Classifier
from bwexporter.kernel.rules import handle_text
from bwexporter.reach import Finding, Verdict, Watched, findings

_NOT_SORTED = (
    "bwexporter makes no rules here, and yours sort the packets: no slice has a `match` and nothing is exempt, or the "
    "trees are somebody else's"
)
_COLOURS = {Verdict.REACHES: "green", Verdict.MISSES: "red", Verdict.UNPROVEN: "yellow"}


def check(config_path: Path, slice_name: str | None, *, probing: bool, as_json: bool) -> int:
    """Print what is found of each lane, or of one slice's; return 1 where traffic does not reach its lane."""
    with standing(config_path) as found:
        if slice_name is not None and not any(lane.slice_name == slice_name for lane in _lanes(found)):
            raise BwexporterError(f"there is no slice {slice_name!r}; `bwexporter slices` lists them")
        sorts = is_sorted(found)
        known = _findings(found, slice_name, probing=probing) if sorts else []
    if as_json:
        click.echo(json.dumps({"sorted": sorts, "lanes": [_row(one) for one in known]}, indent=2))
    else:
        console().print(_table(known) if sorts else _NOT_SORTED, soft_wrap=True)
    return int(any(one.verdict is Verdict.MISSES for one in known))


def _lanes(found: Standing) -> list[Lane]:
    return [lane for desk in found.desks.values() for lane in desk.tariffs.lanes]


def _findings(found: Standing, slice_name: str | None, *, probing: bool) -> list[Finding]:
    classifier, roll = Classifier(), found.roll
    desks = [found.desks[name] for name in roll.built]
    looks = [desk.unread for desk in desks if desk.unread is not None]
    existing = {handle for look in looks for handle in look.classes.handle.tolist()}
    rules = classifier.possible(rules_for(found, existing))
    devices = [_watched(desk, slice_name) for desk in desks]
    send = probe.send if probing else None
    return list(findings(roll.claims, devices, rules, classifier.read(rules), send))


def _watched(desk: Desk, slice_name: str | None) -> Watched:
    handles = desk.tree.handles(desk.tariffs).tolist()
    lanes = dict(zip(handles, desk.tariffs.lanes, strict=True))
    asked = {handle for handle, lane in lanes.items() if slice_name in (None, lane.slice_name)}
    return Watched(desk.device, lanes, desk.door.look, asked)


def _row(found: Finding) -> Mapping[str, Any]:
    return {
        "device": found.lane.device,
        "slice": found.lane.slice_name,
        "traffic": found.lane.traffic.value,
        "class": handle_text(found.handle),
        "verdict": found.verdict.name.lower(),
        "tried": list(found.tried),
        "reasons": list(found.reasons),
    }


def _table(known: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("device", "slice", "traffic", "class", "verdict", "tried with"):
        table.add_column(heading, no_wrap=heading != "tried with")
    table.add_column("why")
    for one in known:
        table.add_row(
            one.lane.device,
            one.lane.slice_name,
            one.lane.traffic.value,
            handle_text(one.handle),
            Text(one.verdict.value, style=_COLOURS[one.verdict]),
            "\n".join(one.tried),
            "\n".join(one.reasons),
        )
    return table
