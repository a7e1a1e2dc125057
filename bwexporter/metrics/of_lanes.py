"""The metrics of every lane.

Turns a turn's report into columns, one row a lane. Knows: which word of the report each figure is. Does not know: any
text format, which of them are shown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import F8, I8, UNLIMITED, Ledger
from bwexporter.core.report import DeviceReport, Report
from bwexporter.metrics.families import Column, Kind, LaneFamily


def _or_infinite(column: I8, unlimited: NDArray[np.bool_] | None = None) -> Column:
    """Return the column with inf where there is no limit; it stays i8 where everything is limited."""
    never = column >= UNLIMITED if unlimited is None else unlimited
    return np.where(never, np.inf, column) if never.any() else column


def _or_absent(column: I8) -> Column:
    """Return the column with NaN where it is negative; it stays i8 where nothing is."""
    absent = column < 0
    return np.where(absent, np.nan, column) if absent.any() else column


def _wall(ledger: Ledger, ledger_seconds: F8) -> Column:
    """Move ledger time to wall time, to the millisecond: what the clocks' slew adds below that is noise."""
    moved: F8 = np.round(ledger_seconds[: ledger.enrolled] + ledger.wall_offset_seconds, 3)
    return moved


def _of_period(device: DeviceReport, ledger_seconds: F8) -> Column:
    """Return a bound of each period in wall time; one that gives nothing back says nothing of a sliding window."""
    moved, slid = _wall(device.ledger, ledger_seconds), device.verdicts.slid
    return moved if slid is None else np.where(slid.window_seconds > 0, np.nan, moved)


def _threshold(device: DeviceReport) -> Column:
    """Return the thresholds; a lane without an allowance has none, whatever its column says."""
    verdicts = device.verdicts
    unlimited = (verdicts.allowance_bytes >= UNLIMITED) | (verdicts.threshold_bytes >= UNLIMITED)
    return _or_infinite(verdicts.threshold_bytes, unlimited)


def _shadow(report: Report, device: DeviceReport) -> Column:
    """Return 1 where the verdict is not enforced: for the lane, or for the whole node."""
    lanes_in_shadow: Column = (device.tariffs.shadow | (not report.enforcing)).astype(np.int64)
    return lanes_in_shadow


def _lane(
    name: str,
    kind: Kind,
    unit: str,
    text: str,
    column: Callable[[Report, DeviceReport], Column],
) -> LaneFamily:
    return LaneFamily(f"bwexporter_slice_{name}", kind, unit, ("device", "slice", "traffic"), text, column)


LANE_FAMILIES: tuple[LaneFamily, ...] = (
    _lane(
        "sent_bytes_total",
        Kind.COUNTER,
        "bytes",
        "Bytes sent over the life of the account, as the kernel counts them.",
        lambda _, device: device.ledger.accounts.sent_bytes[: device.ledger.enrolled],
    ),
    _lane(
        "sent_packets_total",
        Kind.COUNTER,
        "packets",
        "Packets sent over the life of the account.",
        lambda _, device: device.ledger.accounts.sent_packets[: device.ledger.enrolled],
    ),
    _lane(
        "dropped_packets_total",
        Kind.COUNTER,
        "packets",
        "Packets that found the queue of the class full, over the life of the account.",
        lambda _, device: device.ledger.accounts.dropped_packets[: device.ledger.enrolled],
    ),
    _lane(
        "overlimit_total",
        Kind.COUNTER,
        "",
        "Times the class reached its ceiling, over the life of the account.",
        lambda _, device: device.ledger.accounts.overlimits[: device.ledger.enrolled],
    ),
    _lane(
        "backlog_bytes",
        Kind.GAUGE,
        "bytes",
        "Bytes queued in the class at the last look.",
        lambda _, device: device.backlog_bytes,
    ),
    _lane(
        "period_used_bytes",
        Kind.GAUGE,
        "bytes",
        "Bytes used in the running period; of a lane with a sliding window, what that holds.",
        lambda _, device: device.used_bytes,
    ),
    _lane(
        "period_allowance_bytes",
        Kind.GAUGE,
        "bytes",
        "Bytes that may be sent in the running period; +Inf without an allowance.",
        lambda _, device: _or_infinite(device.verdicts.allowance_bytes),
    ),
    _lane(
        "period_threshold_bytes",
        Kind.GAUGE,
        "bytes",
        "Used bytes from which on the ceiling is lowered; +Inf without an allowance.",
        lambda _, device: _threshold(device),
    ),
    _lane(
        "period_start_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        "Start of the running period in Unix time; absent where a sliding window takes its place.",
        lambda _, device: _of_period(device, device.ledger.accounts.period_start_at),
    ),
    _lane(
        "period_end_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        "End of the running period in Unix time; absent where a sliding window takes its place.",
        lambda _, device: _of_period(device, device.ledger.accounts.period_end_at),
    ),
    _lane(
        "full_rate_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Ceiling of the class while nothing lowers it.",
        lambda _, device: _or_infinite(device.tariffs.full_bytes_per_second),
    ),
    _lane(
        "guarantee_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Rate under contention, as admitted.",
        lambda _, device: device.verdicts.guarantee_bytes_per_second,
    ),
    _lane(
        "floor_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Lowest ceiling that a cap goes to, as fitted to the allowance.",
        lambda _, device: device.verdicts.floor_bytes_per_second,
    ),
    _lane(
        "ceiling_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Ceiling in force, read back from the kernel; absent while the kernel has no class for it.",
        lambda _, device: _or_absent(device.enforced_ceiling_bytes_per_second),
    ),
    _lane(
        "intended_ceiling_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Ceiling that the verdict asks for.",
        lambda _, device: _or_infinite(device.verdicts.ceiling_bytes_per_second),
    ),
    _lane(
        "capped",
        Kind.GAUGE,
        "",
        "1 while the intended ceiling is below the full rate because of the account, else 0.",
        lambda _, device: device.verdicts.capped.astype(np.int64),
    ),
    _lane("shadow", Kind.GAUGE, "", "1 while verdicts are judged and not enforced, else 0.", _shadow),
    _lane(
        "seconds_to_threshold",
        Kind.GAUGE,
        "",
        "Forecast of the time until the threshold, from the recent rate and the same hours of earlier periods; "
        "+Inf if never in this period.",
        lambda _, device: np.round(device.seconds_to_threshold, 1),
    ),
    _lane(
        "seconds_to_allowance",
        Kind.GAUGE,
        "",
        "Forecast of the time until the allowance is spent, from the recent rate and the same hours of earlier "
        "periods; +Inf if never in this period.",
        lambda _, device: np.round(device.seconds_to_allowance, 1),
    ),
)
