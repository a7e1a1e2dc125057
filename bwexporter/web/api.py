"""The JSON of the API.

Turns the last full report into rows with the metrics' names. Knows: how a figure that has no number is said (null).
Does not know: HTTP, where the report came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from bwexporter import telling
from bwexporter.core.lanes import UNLIMITED, Reason
from bwexporter.core.report import DeviceReport, Report

Value = str | int | float | bool | None
Row = Mapping[str, Value]


def slices(report: Report) -> Mapping[str, object]:
    """Return the node and a row for each lane.

    Bytes, bytes per second and seconds, as the names say; times are Unix time. null stands for no limit (allowance,
    threshold, rates), for never in this period (forecasts) and for no class in the kernel (the ceiling in force).
    """
    troubles = {device.device: device.trouble for device in report.devices if device.trouble}
    return {
        "node": report.node,
        "taken_at": report.at.wall_seconds,
        "enforcing": report.enforcing,
        "frozen": report.frozen,
        "by_hand": [telling.order_row(one) for one in report.by_hand],
        "up": not troubles,
        "troubles": troubles,
        "slices": [row for device in report.devices for row in _rows(report, device)],
    }


def _rows(report: Report, device: DeviceReport) -> Iterator[Row]:
    columns = _columns(report, device)
    for lane, *values in zip(device.tariffs.lanes, *columns.values(), strict=True):
        yield {
            "device": lane.device,
            "slice": lane.slice_name,
            "traffic": lane.traffic.value,
            **dict(zip(columns, values, strict=True)),
        }


def _columns(report: Report, device: DeviceReport) -> Mapping[str, list[Value]]:
    """Return the columns by name, as plain values."""
    ledger, tariffs, verdicts = device.ledger, device.tariffs, device.verdicts
    accounts, enrolled = ledger.accounts, ledger.enrolled
    starts = accounts.period_start_at[:enrolled] + ledger.wall_offset_seconds
    ends = accounts.period_end_at[:enrolled] + ledger.wall_offset_seconds
    allowances = _limited(verdicts.allowance_bytes.tolist())
    thresholds = _limited(verdicts.threshold_bytes.tolist())
    unlimited = [allowance is None for allowance in allowances]
    return {
        "verdict": [Reason(reason).name.lower() for reason in verdicts.reason.tolist()],
        "capped": verdicts.capped.tolist(),
        "shadow": (tariffs.shadow | (not report.enforcing)).tolist(),
        "sent_bytes_total": accounts.sent_bytes[:enrolled].tolist(),
        "sent_packets_total": accounts.sent_packets[:enrolled].tolist(),
        "dropped_packets_total": accounts.dropped_packets[:enrolled].tolist(),
        "overlimit_total": accounts.overlimits[:enrolled].tolist(),
        "backlog_bytes": device.backlog_bytes.tolist(),
        "period_used_bytes": accounts.used_bytes[:enrolled].tolist(),
        "period_allowance_bytes": allowances,
        "period_threshold_bytes": [None if no else value for no, value in zip(unlimited, thresholds, strict=True)],
        "period_start_timestamp_seconds": np.round(starts, 3).tolist(),
        "period_end_timestamp_seconds": np.round(ends, 3).tolist(),
        "full_rate_bytes_per_second": _limited(tariffs.full_bytes_per_second.tolist()),
        "guarantee_bytes_per_second": verdicts.guarantee_bytes_per_second.tolist(),
        "floor_bytes_per_second": verdicts.floor_bytes_per_second.tolist(),
        "ceiling_bytes_per_second": _present(device.enforced_ceiling_bytes_per_second.tolist()),
        "intended_ceiling_bytes_per_second": _limited(verdicts.ceiling_bytes_per_second.tolist()),
        "seconds_to_threshold": _finite(np.round(device.seconds_to_threshold, 1).tolist()),
        "seconds_to_allowance": _finite(np.round(device.seconds_to_allowance, 1).tolist()),
    }


def _limited(values: list[int]) -> list[Value]:
    return [value if value < UNLIMITED else None for value in values]


def _present(values: list[int]) -> list[Value]:
    return [value if value >= 0 else None for value in values]


def _finite(values: list[float]) -> list[Value]:
    return [value if math.isfinite(value) else None for value in values]
