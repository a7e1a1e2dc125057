"""Adoption: which class of a tree that somebody else has built is which lane's.

Turns records into the classes of one device, and the problems of those that have none. Knows: who may have a class that
two name, whose full rate is the one that is found. Does not know: which classes there are, what a ceiling is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bwexporter.config import Config
from bwexporter.core.lanes import Lane, Traffic
from bwexporter.errors import Problem
from bwexporter.keys import Tree
from bwexporter.settings import Limit
from bwexporter.slices.records import RESERVED_NAMES, SliceRecord
from bwexporter.slices.tariffs import devices_of

_KEYS: Mapping[Traffic, str] = {Traffic.NORMAL: "class", Traffic.EXEMPT: "exempt_class"}


@dataclass(frozen=True, slots=True)
class Adoption:
    """The lanes of a device with somebody else's tree: a lane is there where a record names its class."""

    classes: Mapping[Lane, int]  # handles
    as_found: frozenset[Lane]  # those whose full rate nobody has written
    problems: tuple[Problem, ...]


def adopted(config: Config, records: Sequence[SliceRecord], device: str) -> Adoption:
    """Return which classes the records name on a device; of two that name one, the first has it."""
    holders: dict[int, Lane] = {}
    problems = []
    for record in records:
        if not (record.name in RESERVED_NAMES or device in devices_of(record, config)):
            continue
        if record.class_handle is None and record.exempt_class_handle is None and record.name not in RESERVED_NAMES:
            text = f'{record.name}: has no class on {device}, whose tree is existing; name it, as class: "1:10"'
            problems.append(Problem(record.source, record.line, "class", text))
        for lane, handle in _named(record, device):
            holder = holders.setdefault(handle, lane)
            if holder != lane:
                whose = f"{holder.slice_name} ({holder.traffic.value})"
                text = f"{record.name}: the class is that of {whose} already; a class is counted once"
                problems.append(Problem(record.source, record.line, _KEYS[lane.traffic], text))
    classes = {lane: handle for handle, lane in holders.items()}
    full_of = {record.name: record for record in records}
    as_found = frozenset(
        lane
        for lane in classes
        if full_of[lane.slice_name].settings(lane.traffic).full is None
        and isinstance(config.defaults[lane.traffic].full, Limit)
    )
    return Adoption(classes, as_found, tuple(problems))


def misplaced_classes(config: Config, records: Sequence[SliceRecord]) -> Iterator[Problem]:
    """Find classes that are named where bwexporter builds the tree itself."""
    existing = {device.name for device in config.devices if device.tree is Tree.EXISTING}
    for record in records:
        places = existing if record.name in RESERVED_NAMES else existing & set(devices_of(record, config))
        for traffic, handle in ((Traffic.NORMAL, record.class_handle), (Traffic.EXEMPT, record.exempt_class_handle)):
            if handle is not None and not places:
                text = f"{record.name}: names a class, and none of its devices has tree: existing; leave it out"
                yield Problem(record.source, record.line, _KEYS[traffic], text)


def _named(record: SliceRecord, device: str) -> Iterator[tuple[Lane, int]]:
    if record.class_handle is not None:
        yield Lane(device, record.name, Traffic.NORMAL), record.class_handle
    if record.exempt_class_handle is not None:
        yield Lane(device, record.name, Traffic.EXEMPT), record.exempt_class_handle
