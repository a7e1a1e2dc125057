"""The JSON of the API.

Turns reports, events and use into rows with the metrics' names. Knows: how a figure that has no number is said (null).
Does not know: HTTP, where the facts came from, which lanes were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bwexporter import __version__, telling
from bwexporter.core.lanes import F8, I8, UNLIMITED, Lane, Reason, Slid
from bwexporter.core.orders import InForce
from bwexporter.core.report import DeviceReport, Event, Report, SliceInfo
from bwexporter.explain import of_row, sentence

Value = str | int | float | bool | None | Mapping[str, Any]
Row = Mapping[str, Value]

BATCH_ROWS = 500


def slices(report: Report) -> dict[str, Any]:
    """Return the node and a row for each lane.

    Bytes, bytes per second and seconds, as the names say; times are Unix time. null stands for no limit (allowance,
    threshold, rates), for never in this period (forecasts) and for no class in the kernel (the ceiling in force).
    """
    told = picked(report, np.arange(sum(len(device.tariffs) for device in report.devices)))
    return told | {"slices": list(told["slices"])}


def picked(report: Report, picks: I8, *, total: int | None = None, offset: int = 0) -> dict[str, Any]:
    """Return the same of some lanes, in the order of the picks: lanes count through all devices in order.

    The rows are made as they are taken. `total` says of how many lanes these are a part.
    """
    by_hand = [telling.order_row(one) for one in report.by_hand]
    counted = {"total": len(picks) if total is None else total, "offset": offset}
    return head(report) | {"by_hand": by_hand} | counted | {"slices": rows_of(report, picks)}


def head(report: Report) -> dict[str, Any]:
    """Return what every answer about lanes begins with."""
    troubles = {device.device: device.trouble for device in report.devices if device.trouble}
    return {
        "node": report.node,
        "taken_at": report.at.wall_seconds,
        "enforcing": report.enforcing,
        "frozen": report.frozen,
        "up": not troubles,
        "troubles": troubles,
    }


def rows_of(report: Report, picks: I8) -> Iterator[Row]:
    """Yield the rows in the order of the picks, in batches, so that a long list lets other threads in between."""
    ends = np.cumsum([len(device.tariffs) for device in report.devices])
    for first in range(0, len(picks), BATCH_ROWS):
        yield from _batch(report, picks[first : first + BATCH_ROWS], ends)


def _batch(report: Report, picks: I8, ends: I8) -> list[Row]:
    at = np.searchsorted(ends, picks, side="right")
    found: list[Row] = [{}] * len(picks)
    for number in np.unique(at).tolist():
        device = report.devices[number]
        places = np.flatnonzero(at == number)
        rows = picks[places] - (ends[number] - len(device.tariffs))
        for place, row in zip(places.tolist(), _rows(report, device, rows), strict=True):
            found[place] = row
    return found


def _rows(report: Report, device: DeviceReport, rows: I8) -> Iterator[Row]:
    columns = _columns(report, device, rows)
    lanes = [device.tariffs.lanes[row] for row in rows.tolist()]
    for lane, *values in zip(lanes, *columns.values(), strict=True):
        yield named(lane) | dict(zip(columns, values, strict=True))


def named(lane: Lane) -> dict[str, Value]:
    """Return the labels of a lane."""
    return {"device": lane.device, "slice": lane.slice_name, "traffic": lane.traffic.value}


def _columns(report: Report, device: DeviceReport, rows: I8) -> Mapping[str, list[Value]]:
    """Return the columns of some lanes by name, as plain values."""
    ledger, tariffs, verdicts = device.ledger, device.tariffs, device.verdicts
    accounts, offset = ledger.accounts, ledger.wall_offset_seconds
    allowances = _limited(verdicts.allowance_bytes[rows])
    thresholds = _limited(verdicts.threshold_bytes[rows])
    return {
        "verdict": [Reason(reason).name.lower() for reason in verdicts.reason[rows].tolist()],
        "capped": verdicts.capped[rows].tolist(),
        "shadow": (tariffs.shadow[rows] | (not report.enforcing)).tolist(),
        "sent_bytes_total": accounts.sent_bytes[rows].tolist(),
        "sent_packets_total": accounts.sent_packets[rows].tolist(),
        "dropped_packets_total": accounts.dropped_packets[rows].tolist(),
        "overlimit_total": accounts.overlimits[rows].tolist(),
        "backlog_bytes": device.backlog_bytes[rows].tolist(),
        "period_used_bytes": device.used_bytes[rows].tolist(),
        "period_allowance_bytes": allowances,
        "period_threshold_bytes": [
            None if allowance is None else threshold
            for allowance, threshold in zip(allowances, thresholds, strict=True)
        ],
        "period_start_timestamp_seconds": np.round(accounts.period_start_at[rows] + offset, 3).tolist(),
        "period_end_timestamp_seconds": np.round(accounts.period_end_at[rows] + offset, 3).tolist(),
        "full_rate_bytes_per_second": _limited(tariffs.full_bytes_per_second[rows]),
        "guarantee_bytes_per_second": verdicts.guarantee_bytes_per_second[rows].tolist(),
        "floor_bytes_per_second": verdicts.floor_bytes_per_second[rows].tolist(),
        "ceiling_bytes_per_second": _present(device.enforced_ceiling_bytes_per_second[rows]),
        "intended_ceiling_bytes_per_second": _limited(verdicts.ceiling_bytes_per_second[rows]),
        "seconds_to_threshold": _finite(device.seconds_to_threshold[rows]),
        "seconds_to_allowance": _finite(device.seconds_to_allowance[rows]),
        "expected_used_bytes": _known(device.expected_used_bytes, rows),
        "earlier_periods": _known(device.earlier_periods, rows),
        "would_be": _would_be(device, rows),
        **({} if verdicts.counted_part is None else {"counted_part": verdicts.counted_part[rows].tolist()}),
        **({} if verdicts.slid is None else _of_windows(verdicts.slid.take(rows))),
    }


def _of_windows(slid: Slid) -> Mapping[str, list[Value]]:
    """Return the columns of sliding windows; null for lanes that have none."""
    sliding = (slid.window_seconds > 0).tolist()
    columns: Mapping[str, list[Value]] = {
        "window_seconds": slid.window_seconds.tolist(),
        "room_bytes": slid.room_bytes.tolist(),
        "room_seconds": np.round(slid.room_seconds, 3).tolist(),
    }
    return {
        name: [value if slides else None for value, slides in zip(column, sliding, strict=True)]
        for name, column in columns.items()
    }


def _known(values: I8 | None, rows: I8) -> list[Value]:
    return [None] * len(rows) if values is None else _limited(values[rows])


def _would_be(device: DeviceReport, rows: I8) -> list[Value]:
    """Return what would be of each lane in shadow, null of one that is enforced."""
    would_be = device.would_be
    if would_be is None:
        return [None] * len(rows)
    return [
        telling.would_be_row(would_be, row) if in_shadow else None
        for row, in_shadow in zip(rows.tolist(), would_be.in_shadow[rows].tolist(), strict=True)
    ]


def _limited(values: I8) -> list[Value]:
    return [value if value < UNLIMITED else None for value in values.tolist()]


def _present(values: I8) -> list[Value]:
    return [value if value >= 0 else None for value in values.tolist()]


def _finite(values: F8) -> list[Value]:
    return [value if math.isfinite(value) else None for value in np.round(values, 1).tolist()]


def lanes_of(report: Report, slice_name: str) -> list[Row]:
    """Return the rows of one slice, each with the sentence that says why its ceiling is what it is."""
    places, first = list[int](), 0
    for device in report.devices:
        places += [first + row for row, lane in enumerate(device.tariffs.lanes) if lane.slice_name == slice_name]
        first += len(device.tariffs)
    rows = rows_of(report, np.array(places, np.int64))
    answer = head(report)
    return [row | {"why": sentence(of_row(row, answer))} for row in map(dict, rows)]


def one_slice(report: Report, slice_name: str, *, show_owners: bool, events: Iterable[Event]) -> dict[str, Any] | None:
    """Return what is known of one slice; None where the node has no such slice."""
    lanes = lanes_of(report, slice_name)
    if not lanes:
        return None
    info = report.info.get(slice_name) or SliceInfo(slice_name, 0, "", (), {})
    return head(report) | {
        "slice": slice_name,
        "id": info.slice_id,
        "source": info.source,
        "owners": list(info.owners) if show_owners else [],
        "labels": dict(info.labels),
        "problems": list(info.problems),
        "by_hand": [telling.order_row(one) for one in _orders_of(report, slice_name)],
        "lanes": lanes,
        "events": [telling.row(event) for event in events],
    }


def _orders_of(report: Report, slice_name: str) -> Iterator[InForce]:
    """Yield the orders by hand that concern a slice: its own, those of loans to it, and those of the node."""
    for one in report.by_hand:
        lane = one.order.lane
        if lane is None or slice_name in {lane.slice_name, one.order.borrower}:
            yield one


def use_rows(spans: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    """Return what was sent in each span of time."""
    return [{"start_timestamp_seconds": start, "sent_bytes": sent} for start, sent in spans]


def status(report: Report, ready: tuple[bool, str]) -> dict[str, Any]:
    """Return how the node stands."""
    return head(report) | {
        "version": __version__,
        "ready": ready[0],
        "ready_text": ready[1],
        "turn_duration_seconds": round(report.turn_seconds, 6),
        "turn_stage_duration_seconds": {stage: round(took, 6) for stage, took in report.stage_seconds.items()},
        "devices": [_device_row(device) for device in report.devices],
        "sources": [
            {
                "source": source.name,
                "up": source.up,
                "slices": source.slices,
                "problems": list(source.problems),
                "last_success_timestamp_seconds": source.last_success_wall_seconds,
            }
            for source in report.sources
        ],
        "sorting_problems": list(report.sorting_problems),
        "saved": report.saved,
        "save_trouble": report.save_trouble,
        "state_last_save_timestamp_seconds": report.state_saved_wall_seconds,
        "config_last_reload_successful": report.config_reload_successful,
        "config_last_reload_success_timestamp_seconds": report.config_reloaded_wall_seconds,
    }


def _device_row(device: DeviceReport) -> dict[str, Any]:
    return {
        "device": device.device,
        "trouble": device.trouble,
        "cap_bytes_per_second": device.cap_bytes_per_second,
        "line_rate_bytes_per_second": device.line_rate_bytes_per_second,
        "guarantees_admitted_ratio": device.verdicts.admitted_ratio,
        "direct_sent_packets_total": device.ledger.direct_packets,
        "lanes": len(device.tariffs),
        "capped": int(device.verdicts.capped.sum()),
        "verdicts": verdict_counts(device),
    }


def verdict_counts(device: DeviceReport) -> dict[str, int]:
    """Return how many lanes each verdict has."""
    counts = np.bincount(device.verdicts.reason, minlength=len(Reason)).tolist()
    return {reason.name.lower(): counts[reason] for reason in Reason}
