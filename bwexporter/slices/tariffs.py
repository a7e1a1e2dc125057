"""Tariffs: what each lane of a device may do.

Turns the configuration, the slices' records and their ids into the tariffs of one device. Knows: which lanes a device
has, whose defaults hold, the limits that a lane's parent sets. Does not know: where records come from, accounts, the
kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bwexporter.config import Config
from bwexporter.core.lanes import DEFAULT_SLICE, I8, ROOT_SLICE, UNLIMITED, Lane, Tariffs, Traffic
from bwexporter.core.periods import PeriodRule
from bwexporter.core.plans import LAW
from bwexporter.errors import Problem
from bwexporter.settings import LaneSettings, LaneTerms, Limit, fitting_warnings, over
from bwexporter.slices.records import RESERVED_NAMES, SliceRecord
from bwexporter.units import print_volume
from bwexporter.yamlfile import key_of

_NO_SETTINGS = LaneSettings()


class _Row(NamedTuple):
    lane: Lane
    slice_id: int
    terms: LaneTerms
    off: bool
    shadow: bool


def assemble(
    config: Config,
    records: Sequence[SliceRecord],
    ids: Mapping[str, int],
    *,
    device: str,
    cap_bytes_per_second: int,
    line_rate_bytes_per_second: int,
    only: Collection[Lane] | None = None,
) -> tuple[Tariffs, tuple[PeriodRule, ...], tuple[Problem, ...]]:
    """Return the tariffs of one device, the period rules that `period_rule` points into, and problems of records.

    `_root` and `_default` come first, then the slices in their order, each with its normal lane before its exempt one.
    Slices without an id have no lanes, and no lane is there that is not among `only`, where that is given. Problems are
    those of all records, and are given with the first device only.
    """
    rows = [row for row in _rows(config, records, ids, device) if only is None or row.lane in only]
    rules = {config.period: 0}
    period_rule = [rules.setdefault(row.terms.period, len(rules)) for row in rows]
    normal = np.array([row.lane.traffic is Traffic.NORMAL for row in rows], np.bool_)
    # A normal lane stands below the node cap and an exempt one below the line rate; neither passes its parent.
    cap = min(cap_bytes_per_second, line_rate_bytes_per_second)
    of_limit = {Limit.CAP: cap, Limit.LINE_RATE: line_rate_bytes_per_second}
    full = _column(row.terms.full if isinstance(row.terms.full, int) else of_limit[row.terms.full] for row in rows)
    full = np.minimum(full, np.where(normal, cap, line_rate_bytes_per_second))
    tariffs = Tariffs(
        lanes=tuple(row.lane for row in rows),
        slice_id=_column(row.slice_id for row in rows),
        full_bytes_per_second=full,
        guarantee_bytes_per_second=np.minimum(_column(row.terms.guarantee_bytes_per_second for row in rows), full),
        floor_bytes_per_second=_column(row.terms.floor_bytes_per_second for row in rows),
        allowance_bytes=_column(row.terms.allowance_bytes for row in rows),
        threshold_bytes=_column(row.terms.threshold_bytes for row in rows),
        share=_column(row.terms.share for row in rows),
        period_rule=_column(period_rule),
        hand_cap_bytes_per_second=np.full(len(rows), UNLIMITED, np.int64),
        hand_top_up_bytes=np.zeros(len(rows), np.int64),
        released=np.zeros(len(rows), np.bool_),
        off=np.array([row.off for row in rows], np.bool_),
        shadow=np.array([row.shadow for row in rows], np.bool_),
        policies={at: row.terms.whole_policy for at, row in enumerate(rows) if row.terms.policy != LAW},
    )
    first = device == config.devices[0].name
    problems = (*unknown_devices(config, records), *high_thresholds(config, records)) if first else ()
    return tariffs, tuple(rules), problems


def _column(values: Iterator[int] | Sequence[int]) -> I8:
    return np.fromiter(values, np.int64)


def _rows(config: Config, records: Sequence[SliceRecord], ids: Mapping[str, int], device: str) -> Iterator[_Row]:
    """Yield the lanes of a device with their terms."""
    by_name = {record.name: record for record in records if record.name in RESERVED_NAMES}
    everything_off = any(record.everything_off for record in by_name.values())
    for name in (ROOT_SLICE, DEFAULT_SLICE):
        for traffic in Traffic:
            settings = by_name[name].settings(traffic) if name in by_name else _NO_SETTINGS
            terms = over(settings, _reserved_defaults(config, device, name, traffic))
            yield _row(Lane(device, name, traffic), ids, terms, settings, everything_off=everything_off)
    for record in records:
        if record.name in ids and record.name not in RESERVED_NAMES and device in devices_of(record, config):
            for traffic in Traffic:
                settings = record.settings(traffic)
                terms = over(settings, config.defaults[traffic])
                yield _row(Lane(device, record.name, traffic), ids, terms, settings, everything_off=everything_off)


def _row(lane: Lane, ids: Mapping[str, int], terms: LaneTerms, settings: LaneSettings, *, everything_off: bool) -> _Row:
    return _Row(lane, ids[lane.slice_name], terms, everything_off or settings.off, settings.shadow)


def _reserved_defaults(config: Config, device: str, name: str, traffic: Traffic) -> LaneTerms:
    """Return the defaults of the node's own and of unclassified traffic, which have no allowance."""
    terms = replace(config.defaults[traffic], allowance_bytes=UNLIMITED)
    if traffic is Traffic.EXEMPT:
        return replace(terms, full=Limit.LINE_RATE)
    asked = next(known.default_bytes_per_second for known in config.devices if known.name == device)
    return replace(terms, full=asked if asked and name == DEFAULT_SLICE else Limit.CAP)


def devices_of(record: SliceRecord, config: Config) -> tuple[str, ...]:
    """Return the devices on which a slice has lanes: those it names and the configuration knows, else the first."""
    known = [device.name for device in config.devices]
    named = tuple(name for name in record.devices if name in known)
    return named or (known[0],)


def unknown_devices(config: Config, records: Sequence[SliceRecord]) -> Iterator[Problem]:
    """Find devices that records name and the configuration does not; the slice is then on the others, or the first."""
    known = {device.name for device in config.devices}
    for record in records:
        for at, name in enumerate(record.devices):
            if name not in known:
                text = f"{record.name}: {name} is not a device of the configuration; it has {', '.join(sorted(known))}"
                yield Problem(record.source, record.line, key_of(("devices", at)), text)


def high_thresholds(config: Config, records: Sequence[SliceRecord]) -> Iterator[Problem]:
    """Find thresholds above an allowance that is the default's; the default's threshold then holds."""
    for record in records:
        for traffic in Traffic:
            settings, defaults = record.settings(traffic), config.defaults[traffic]
            threshold, allowance = settings.threshold, settings.allowance_bytes or defaults.allowance_bytes
            if isinstance(threshold, int) and threshold > allowance:
                text = f"{print_volume(threshold)} is more than the default allowance {print_volume(allowance)}"
                yield Problem(record.source, record.line, f"{traffic.value}.threshold", f"{record.name}: {text}")


def slice_warnings(config: Config, records: Sequence[SliceRecord]) -> tuple[Problem, ...]:
    """Say where a slice's floor is lowered to fit its allowance, and what a guarantee above it overspends."""
    return tuple(
        Problem(record.source, record.line, key_of((traffic.value, *path)), f"{record.name}: {text}")
        for record in records
        if record.name not in RESERVED_NAMES
        for traffic in Traffic
        if record.settings(traffic) != _NO_SETTINGS
        for path, text in fitting_warnings(over(record.settings(traffic), config.defaults[traffic]))
    )
