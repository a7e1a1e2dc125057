"""The list of slices, as files and servers write it.

Turns a document with the keys `slices` and `nodes` into a reading. Knows: the outer keys, that a name stands once. Does
not know: what a record holds, where the document comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

from bwexporter.errors import ConfigError, Problem
from bwexporter.slices.fleet import FleetNode, read_node
from bwexporter.slices.records import SliceRecord, read_record
from bwexporter.slices.source import Reading
from bwexporter.written import Fault, unknown_key
from bwexporter.yamlfile import Document

_KEYS = ("slices", "nodes")


def read_listing(document: Document) -> Reading:
    """Return the records of a document, and its problems in the order of lines; ConfigError if it is no such list."""
    records, problems, refused = list[SliceRecord](), list[Problem](), set[str]()
    items, nodes = _items(document)
    for at, item in enumerate(items):
        place = ("slices", at)
        record, faults = read_record(item, source=document.file, line=document.line_of(place))
        problems += [document.problem(place + fault.path, _naming(fault, record)) for fault in faults]
        if record is not None:
            records.append(record)
        elif isinstance(item, dict) and isinstance(item.get("name"), str):
            refused.add(item["name"])
    fleet, of_nodes = _fleet(document, nodes)
    in_order = sorted([*problems, *of_nodes], key=lambda problem: problem.line)
    return Reading(tuple(records), tuple(in_order), frozenset(refused), fleet=fleet)


def _fleet(document: Document, nodes: Sequence[object]) -> tuple[tuple[FleetNode, ...], list[Problem]]:
    """Return the nodes that a document names, and what is wrong with them."""
    fleet, problems = list[FleetNode](), list[Problem]()
    for at, item in enumerate(nodes):
        node, faults = read_node(item)
        whose = f"node {node.host}" if node else "this node is left out"
        problems += [document.problem(("nodes", at, *fault.path), f"{fault.text} ({whose})") for fault in faults]
        fleet += [node] if node else []
    return tuple(fleet), problems


def _items(document: Document) -> tuple[Sequence[object], Sequence[object]]:
    """Return the list below `slices`, and that below `nodes`; ConfigError."""
    data = document.data
    if data is None:
        raise ConfigError([Problem(document.file, 0, "", "is empty; write slices: [] if there are none")])
    if not isinstance(data, dict):
        raise ConfigError([Problem(document.file, 1, "", "must be a mapping with the key slices")])
    problems = [document.problem((key,), unknown_key(key, _KEYS)) for key in data if key not in _KEYS]
    if "slices" not in data:
        raise ConfigError(problems or [Problem(document.file, 1, "slices", "is missing; write slices: [] for none")])
    problems += [
        document.problem((key,), "must be a list; write [] for none")
        for key in _KEYS
        if not isinstance(data.get(key, []), list)
    ]
    if problems:
        raise ConfigError(problems)
    return data["slices"], data.get("nodes", [])


def _naming(fault: Fault, record: SliceRecord | None) -> str:
    """Say whose fault it is, and that a record which cannot be used is left out for it."""
    return f"{fault.text} (slice {record.name})" if record else f"{fault.text} (this record is left out)"
