"""Changes of classes and rules, one readable line each.

Turns the changes of a device into lines for people, or rows for programs. Knows: how a class, a lane and a rate are
written. Does not know: why a change is wanted, how it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bwexporter.cli.drawing import TRUNK, class_text, lanes_of
from bwexporter.core.lanes import Act, Changes, Classes, Snapshot
from bwexporter.core.places import find
from bwexporter.desk import Desk
from bwexporter.units import print_rate

_RATES = {"ceiling": "ceiling_bytes_per_second", "rate": "rate_bytes_per_second"}
_OTHERS = {"quantum": "quantum_bytes", "burst": "burst_ns", "ceiling burst": "ceiling_burst_ns"}
CEILING = frozenset((_RATES["ceiling"], _OTHERS["ceiling burst"]))  # what the law moves, and the rest stays


def rows(desk: Desk, changes: Changes, before: Snapshot) -> list[Mapping[str, Any]]:
    """Return a row a change, in the order in which they are made; bytes and bytes per second."""
    found = [{"device": desk.device, "act": "build"}] if changes.build_tree else []
    return [*found, *_rows(desk, changes, before)]


def lines(found: list[Mapping[str, Any]]) -> Iterator[str]:
    """Say each row in a line."""
    for row in found:
        if row["act"] == "build":
            yield f"{row['device']}: build the tree: root queue 1: htb"
            continue
        if row["act"] == "rule":
            yield f"rules: {row['edit']}"
            continue
        words = f"{row['device']}: {row['act']} {row['class']} ({_whose(row)})"
        match row["act"]:
            case "create":
                yield f"{words} below {row['parent']}, {_settings(row['after'])}"
            case "change":
                yield f"{words}: {', '.join(_differences(row['before'], row['after']))}"
            case _:
                yield words


def _rows(desk: Desk, changes: Changes, before: Snapshot) -> Iterator[Mapping[str, Any]]:
    lanes, classes, actual = lanes_of(desk), changes.classes, before.classes
    at, present = find(actual.handle, classes.handle)
    for row, handle in enumerate(classes.handle.tolist()):
        act, lane = Act(int(changes.act[row])), lanes.get(handle)
        there = bool(present[row]) and act is not Act.CREATE
        yield {
            "device": desk.device,
            "act": act.name.lower(),
            "class": class_text(handle),
            "parent": class_text(int(classes.parent[row])),
            "slice": lane.slice_name if lane else None,
            "traffic": lane.traffic.value if lane else None,
            "trunk": TRUNK.get(class_text(handle)) if desk.tree.builds else None,
            "before": _plain(actual, int(at[row])) if there else None,
            "after": None if act is Act.REMOVE else _plain(classes, row),
        }


def _plain(classes: Classes, row: int) -> Mapping[str, Any]:
    numbers = {name: int(getattr(classes, name)[row]) for name in (*_RATES.values(), *_OTHERS.values())}
    return {**numbers, "leaf": bool(classes.leaf[row])}


def _whose(row: Mapping[str, Any]) -> str:
    if row["slice"]:
        return f"{row['slice']} {row['traffic']}"
    return row["trunk"] or "of nobody"


def _settings(after: Mapping[str, Any]) -> str:
    return f"rate {print_rate(after['rate_bytes_per_second'])}, ceiling {print_rate(after['ceiling_bytes_per_second'])}"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for word, name in _RATES.items():
        if before[name] != after[name]:
            yield f"{word} {print_rate(before[name])} -> {print_rate(after[name])}"
    for word, name in _OTHERS.items():
        if before[name] != after[name]:
            yield f"{word} {before[name]} -> {after[name]}" + (" ns" if name.endswith("_ns") else " bytes")
    if after["leaf"] and not before["leaf"]:
        yield "a leaf queue of its own"
