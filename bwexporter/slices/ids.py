"""The id of each slice: the number that its classes are named after.

Turns records and the ids that are remembered by name into an id for each slice. Knows: which ids there are, and who
may have which. Does not know: where ids are remembered, what a class is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE
from bwexporter.errors import Problem
from bwexporter.slices.records import LARGEST_ID, RESERVED_NAMES, SMALLEST_ID, SliceRecord

ROOT_ID = 0
DEFAULT_ID = 0x6FFF


def allot_ids(records: Sequence[SliceRecord], remembered: Mapping[str, int]) -> tuple[dict[str, int], list[Problem]]:
    """Return an id for each slice, `_root` and `_default` included, and a problem for each slice that gets another.

    A given id wins over one that another present slice only remembers; that slice gets another. A slice whose given id
    is refused keeps the one it had; without one it gets none. An id remembered of a
    slice that is gone belongs to it until it is forgotten, which its account's period end decides.
    """
    present = {record.name for record in records}
    gone = {number: name for name, number in remembered.items() if name not in present}
    ids, holders, problems = {ROOT_SLICE: ROOT_ID, DEFAULT_SLICE: DEFAULT_ID}, dict[int, SliceRecord](), []
    # Of two that are given one id, the slice that has it already keeps it.
    for record in sorted(records, key=lambda record: remembered.get(record.name) != record.slice_id):
        if record.slice_id is None or record.name in RESERVED_NAMES:
            continue
        refusal = _refusal(record.slice_id, holders, gone)
        if refusal:
            problems.append(Problem(record.source, record.line, "id", f"{record.name}: {refusal}"))
            continue
        ids[record.name] = record.slice_id
        holders[record.slice_id] = record
    waiting = [record for record in records if record.slice_id is None and record.name not in ids]
    refused = [record for record in records if record.slice_id is not None and record.name not in ids]
    _keep_remembered([*waiting, *refused], remembered, ids, taken=set(holders) | set(gone))
    problems += _allot_free(waiting, ids, taken=set(ids.values()) | set(remembered.values()))
    return ids, problems


def _refusal(slice_id: int, holders: Mapping[int, SliceRecord], gone: Mapping[int, str]) -> str:
    """Say why a given id cannot be had; empty if it can."""
    if slice_id in holders:
        holder = holders[slice_id]
        return f"the id {slice_id} is that of {holder.name} ({holder.source}:{holder.line}); give another or none"
    if slice_id in gone:
        return f"the id {slice_id} is kept for {gone[slice_id]}, which was removed, until its period ends"
    return ""


def _keep_remembered(
    waiting: Sequence[SliceRecord],
    remembered: Mapping[str, int],
    ids: dict[str, int],
    *,
    taken: set[int],
) -> None:
    """Give slices back the ids they had."""
    for record in waiting:
        number = remembered.get(record.name)
        if number is not None and SMALLEST_ID <= number <= LARGEST_ID and number not in taken:
            ids[record.name] = number
            taken.add(number)


def _allot_free(waiting: Sequence[SliceRecord], ids: dict[str, int], *, taken: set[int]) -> list[Problem]:
    """Give the lowest free ids to slices without one."""
    free = (number for number in range(SMALLEST_ID, LARGEST_ID + 1) if number not in taken)
    problems = []
    for record in waiting:
        if record.name in ids:
            continue
        number = next(free, None)
        if number is None:
            text = f"{record.name}: all {LARGEST_ID} ids are in use"
            problems.append(Problem(record.source, record.line, "id", text))
        else:
            ids[record.name] = number
    return problems
