"""The list of slices, as files and servers write it.

Turns a document with the key `slices` into a reading. Knows: the outer key, that a name stands once. Does not know:
what a record holds, where the document comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

from bwexporter.errors import ConfigError, Problem
from bwexporter.slices.records import SliceRecord, read_record
from bwexporter.slices.source import Reading
from bwexporter.written import Fault, unknown_key
from bwexporter.yamlfile import Document


def read_listing(document: Document) -> Reading:
    """Return the records of a document, and its problems in the order of lines; ConfigError if it is no such list."""
    records, problems, refused = list[SliceRecord](), list[Problem](), set[str]()
    for at, item in enumerate(_items(document)):
        place = ("slices", at)
        record, faults = read_record(item, source=document.file, line=document.line_of(place))
        problems += [document.problem(place + fault.path, _naming(fault, record)) for fault in faults]
        if record is not None:
            records.append(record)
        elif isinstance(item, dict) and isinstance(item.get("name"), str):
            refused.add(item["name"])
    return Reading(tuple(records), tuple(sorted(problems, key=lambda problem: problem.line)), frozenset(refused))


def _items(document: Document) -> Sequence[object]:
    """Return the list below `slices`; ConfigError."""
    data = document.data
    if data is None:
        raise ConfigError([Problem(document.file, 0, "", "is empty; write slices: [] if there are none")])
    if not isinstance(data, dict):
        raise ConfigError([Problem(document.file, 1, "", "must be a mapping with the key slices")])
    problems = [document.problem((key,), unknown_key(key, ["slices"])) for key in data if key != "slices"]
    if "slices" not in data:
        raise ConfigError(problems or [Problem(document.file, 1, "slices", "is missing; write slices: [] for none")])
    items = data["slices"]
    if problems or not isinstance(items, list):
        wrong = [] if isinstance(items, list) else [document.problem(("slices",), "must be a list; write [] for none")]
        raise ConfigError([*problems, *wrong])
    return items


def _naming(fault: Fault, record: SliceRecord | None) -> str:
    """Say whose fault it is, and that a record which cannot be used is left out for it."""
    return f"{fault.text} (slice {record.name})" if record else f"{fault.text} (this record is left out)"
