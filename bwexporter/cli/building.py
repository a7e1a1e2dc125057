"""`bwexporter plan`, `tree build` and `tree remove`.

Turns the configuration and the kernel into what would be changed, into a tree that stands, or into none. Knows: that
what was sent is counted before classes go, that nothing is taken from a running daemon. Does not know: what a class
should be like, how packets are sorted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bwexporter.cli import planned, ruling
from bwexporter.cli.drawing import class_text
from bwexporter.cli.looking import Standing, standing
from bwexporter.cli.running import Node, Wanted, assembled
from bwexporter.config import load_config
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Act, Changes, Ledger, Snapshot
from bwexporter.core.orders import Action
from bwexporter.core.report import Event
from bwexporter.errors import BwexporterError
from bwexporter.kernel.adopted import AdoptedDevice
from bwexporter.state import SaveOutcome
from bwexporter.turn import Turns

Row = Mapping[str, Any]

_NOTHING = "nothing to do: every class is as it should be"


def plan(config_path: Path, *, as_json: bool, take_over: bool) -> None:
    """Print what the next turn would change."""
    rows, notes = _foreseen(config_path, take_over=take_over)
    if as_json:
        click.echo(json.dumps({"changes": rows, "notes": notes}, indent=2))
        return
    for line in (*notes, *planned.lines(rows)):
        click.echo(line)
    if not rows:
        click.echo(_NOTHING)


def build(config_path: Path, *, as_json: bool, take_over: bool) -> int:
    """Build the trees, and print what was done; return the exit code."""
    if not load_config(config_path).enforce:
        raise BwexporterError(
            f"{config_path} says enforce: false, so nothing is built; `bwexporter plan` says what would be"
        )
    rows, _ = _foreseen(config_path, take_over=take_over)
    with ExitStack() as open_things:
        node = assembled(Wanted(config_path, once=True, take_over=take_over), open_things)
        node.take_turns()
        saved = node.finish()
    wanted_now, _ = _foreseen(config_path)
    left = [row for row in wanted_now if not _moved_since(row, node)]
    if as_json:
        click.echo(json.dumps({"changes": rows, "left": left}, indent=2))
    else:
        for line in planned.lines(rows):
            click.echo(line)
        click.echo(_NOTHING if not rows else f"{len(rows) - _in_common(rows, left)} done")
    for line in planned.lines(left):
        click.echo(f"could not be done: {line}", err=True)
    return 0 if saved and not left else 1


def remove(config_path: Path) -> int:
    """Take away the classifier's tables and the trees, what was sent having been counted; return the exit code."""
    with ExitStack() as open_things:
        node = assembled(Wanted(config_path, once=True), open_things)
        node.sorting.hold()
        adopted = [door.name for door in node.doors if isinstance(door, AdoptedDevice)]
        if adopted:
            node.give_back()
        if not node.finish():
            raise BwexporterError(
                "what was sent could not be saved, so nothing is removed that tells it: rules and trees stay as they "
                "are; mend that and run it again"
            )
        if len(adopted) < len(node.doors):
            node.sorting.remove()
        for door in node.doors:
            if door.name in adopted:
                click.echo(f"{door.name}: the ceilings are given back; the tree is not bwexporter's, and stays")
                continue
            found = door.remove_tree()
            click.echo(f"{door.name}: " + ("the tree is removed" if found else "there was no tree of bwexporter's"))
    return 0


def _moved_since(row: Row, node: Node) -> bool:
    """Say whether a change is wanted only because the law has moved a ceiling on since the turn, which had set it."""
    if row["act"] != "change":
        return False
    refused = node.refused(row["device"])
    if refused is None or row["class"] in map(class_text, refused):
        return False
    return all(row["before"][name] == value or name in planned.CEILING for name, value in row["after"].items())


def _in_common(rows: Sequence[Row], left: Sequence[Row]) -> int:
    """Count the planned changes that are left."""
    names = ("device", "act", "class", "edit")
    places = {tuple(row.get(name) for name in names) for row in left}
    return sum(tuple(row.get(name) for name in names) in places for row in rows)


def _foreseen(config_path: Path, *, take_over: bool = False) -> tuple[list[Row], list[str]]:
    """Return what the next turn would change, and what is to be said of it."""
    with standing(config_path, take_over=take_over) as found:
        pace = replace(found.roll.pace, enforcing=True)
        turns = Turns(found.roll.config.node, _Unkept(), pace, time.perf_counter, orders=found.hand)
        turns.desks = dict(found.desks)
        for desk in found.roll.desks(found.desks):
            turns.enlist(desk)
        rows: list[Row] = []
        existing: set[int] = set()
        for device, (before, changes) in turns.foresee(found.now).items():
            rows += planned.rows(turns.desks[device], changes, before)
            existing |= _classes_after(before, changes) if device in found.roll.built else set()
        of_rules, notes = ruling.foreseen(found, existing, take_over=take_over)
        return rows + of_rules, [*_notes(found), *notes]


def _classes_after(before: Snapshot, changes: Changes) -> set[int]:
    made, gone = (changes.classes.handle[changes.act == act].tolist() for act in (Act.CREATE, Act.REMOVE))
    return {*before.classes.handle.tolist(), *made} - set(gone)


def _notes(found: Standing) -> Iterator[str]:
    """Say what keeps the next turn from changing anything."""
    if not found.roll.pace.enforcing:
        yield "enforce is false: the next turn changes nothing; this is what it would change:"
    if found.hand is not None and found.hand.has(Action.FREEZE):
        yield "everything is frozen by hand: the next turn changes nothing; `bwexporter thaw` ends that"


class _Unkept:
    """Keeps nothing: these turns are never taken."""

    def save(
        self, ledgers: Sequence[Ledger], events: Sequence[Event], at_wall_seconds: float, *, hand: Hand | None = None
    ) -> SaveOutcome:
        """Keep nothing, and say so."""
        del ledgers, events, at_wall_seconds, hand
        return self.settle()

    def settle(self) -> SaveOutcome:
        """Say so again."""
        return SaveOutcome(saved=False, trouble="nothing is kept of a plan")
