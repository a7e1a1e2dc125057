"""Several sources as one: whose record of a slice holds.

Turns the results of all sources, and the records that run, into one record a name and the problems of that. Knows:
that a name stands once, that a record with `override: true` patches an earlier one. Does not know: where records come
from, what their keys mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bwexporter.errors import Problem
from bwexporter.slices.patching import patched
from bwexporter.slices.records import RESERVED_NAMES, SliceRecord
from bwexporter.slices.source import SourceResult


def combine(
    results: Sequence[SourceResult], running: Mapping[str, SliceRecord]
) -> tuple[tuple[SliceRecord, ...], tuple[Problem, ...]]:
    """Return one record of each name, in the order of the sources, and all problems.

    Of a name that stands twice the record that runs stays, or the first if none does. A slice whose only record cannot
    be used stays as it runs.
    """
    taken: dict[str, SliceRecord] = {}
    problems = [problem for result in results for problem in result.problems]
    clashes = set[str]()
    for record in (record for result in results for record in result.records):
        known = taken.get(record.name)
        if known is None and (not record.override or record.name in RESERVED_NAMES):
            taken[record.name] = record
        elif known is None:
            text = f"{record.name} is in no earlier source, so that there is nothing to override"
            problems.append(_problem(record, "override", text))
        elif record.override:
            taken[record.name], faults = patched(known, record)
            problems += [_problem(record, *fault) for fault in faults]
        else:
            clashes.add(record.name)
            problems.append(_problem(record, "name", _already(known, running.get(record.name))))
    stay = clashes.union(*(result.reading.refused - taken.keys() for result in results))
    taken |= {name: running[name] for name in sorted(stay & running.keys())}
    return tuple(taken.values()), tuple(problems)


def _already(known: SliceRecord, running: SliceRecord | None) -> str:
    stays = "the record that runs stays" if running else "that one holds"
    return f"{known.name} stands at {known.place} already; {stays} (override: true would patch it)"


def _problem(record: SliceRecord, key: str, text: str) -> Problem:
    return Problem(record.source, record.line, key, text)
