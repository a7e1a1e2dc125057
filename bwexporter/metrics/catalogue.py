"""The catalogue: every metric as data, with its name, type, unit, labels, help and the way to its values.

Turns a turn's report into columns (one row a lane) and samples. Knows: names, labels, and which word of the report each
figure is. Does not know: any text format, prometheus_client, how or when somebody scrapes.

A column is i8 or f8. NaN stands for "no series", inf for "never" or "no limit".
"""

from __future__ import annotations

import enum
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bwexporter import __version__
from bwexporter.core.lanes import F8, I8, UNLIMITED, Ledger
from bwexporter.core.report import DeviceReport, PushStatus, Report, SliceInfo, SourceStatus

Column = NDArray[Any]
Sample = tuple[tuple[str, ...], int | float]

STAGES = ("look", "count", "judge", "plan", "save", "act", "tell")


class Kind(enum.Enum):
    """The type of a metric, as the text format spells it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to tell now: the last full turn, and whether every device could be read in the last one."""

    report: Report | None = None
    up: bool = False
    good_turn_wall_seconds: float | None = None  # of the last full turn that read every device


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name with the prefix, and what its values mean."""

    name: str
    kind: Kind
    unit: str  # the name's suffix before _total; empty where there is none
    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class LaneFamily(Family):
    """A metric of every lane; rows of the column are those of the device's tariffs.

    A settled family keeps its values from turn to turn unless somebody changes something or a period rolls.
    """

    column: Callable[[Report, DeviceReport], Column]
    settled: bool = False


@dataclass(frozen=True, slots=True)
class StandingFamily(Family):
    """A metric of the node, its devices, slices or sources."""

    samples: Callable[[Standing], Iterable[Sample]]


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
    *,
    settled: bool = False,
) -> LaneFamily:
    return LaneFamily(f"bwexporter_slice_{name}", kind, unit, ("device", "slice", "traffic"), text, column, settled)


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
        "Bytes used in the running period.",
        lambda _, device: device.ledger.accounts.used_bytes[: device.ledger.enrolled],
    ),
    _lane(
        "period_allowance_bytes",
        Kind.GAUGE,
        "bytes",
        "Bytes that may be sent in the running period; +Inf without an allowance.",
        lambda _, device: _or_infinite(device.verdicts.allowance_bytes),
        settled=True,
    ),
    _lane(
        "period_threshold_bytes",
        Kind.GAUGE,
        "bytes",
        "Used bytes from which on the ceiling is lowered; +Inf without an allowance.",
        lambda _, device: _threshold(device),
        settled=True,
    ),
    _lane(
        "period_start_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        "Start of the running period in Unix time.",
        lambda _, device: _wall(device.ledger, device.ledger.accounts.period_start_at),
        settled=True,
    ),
    _lane(
        "period_end_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        "End of the running period in Unix time.",
        lambda _, device: _wall(device.ledger, device.ledger.accounts.period_end_at),
        settled=True,
    ),
    _lane(
        "full_rate_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Ceiling of the class while nothing lowers it.",
        lambda _, device: _or_infinite(device.tariffs.full_bytes_per_second),
        settled=True,
    ),
    _lane(
        "guarantee_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Rate under contention, as admitted.",
        lambda _, device: device.verdicts.guarantee_bytes_per_second,
        settled=True,
    ),
    _lane(
        "floor_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Lowest ceiling that a cap goes to, as fitted to the allowance.",
        lambda _, device: device.verdicts.floor_bytes_per_second,
        settled=True,
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
        settled=True,
    ),
    _lane("shadow", Kind.GAUGE, "", "1 while verdicts are judged and not enforced, else 0.", _shadow, settled=True),
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


def info_family(*, owner_email: bool, record_labels: Sequence[str]) -> StandingFamily:
    """Return the slice_info family with the labels that the configuration allows."""
    owner_labels = ("owner_email",) if owner_email else ()

    def values(info: SliceInfo) -> tuple[str, ...]:
        owners = (",".join(info.owners),) if owner_email else ()
        own = tuple(info.labels.get(label, "") for label in record_labels)
        return (info.slice_name, str(info.slice_id), info.source, *owners, *own)

    def samples(standing: Standing) -> list[Sample]:
        return [(values(info), 1) for info in standing.report.info.values()] if standing.report else []

    return StandingFamily(
        "bwexporter_slice_info",
        Kind.GAUGE,
        "",
        ("slice", "id", "source", *owner_labels, *record_labels),
        "1 for each slice, with what is known of it.",
        samples,
    )


def _of_report(value: Callable[[Report], int | float]) -> Callable[[Standing], list[Sample]]:
    return lambda standing: [((), value(standing.report))] if standing.report else []


def _device(
    name: str,
    kind: Kind,
    unit: str,
    text: str,
    value: Callable[[DeviceReport], int | float],
) -> StandingFamily:
    def samples(standing: Standing) -> list[Sample]:
        return [((report.device,), value(report)) for report in standing.report.devices] if standing.report else []

    return StandingFamily(f"bwexporter_device_{name}", kind, unit, ("device",), text, samples)


def _source(name: str, unit: str, text: str, value: Callable[[SourceStatus], int | float]) -> StandingFamily:
    def samples(standing: Standing) -> list[Sample]:
        return [((source.name,), value(source)) for source in standing.report.sources] if standing.report else []

    return StandingFamily(f"bwexporter_source_{name}", Kind.GAUGE, unit, ("source",), text, samples)


def _hand_untils(standing: Standing) -> list[Sample]:
    """Return when each order of a lane ends; of several of one kind, as top-ups, the last."""
    ends: dict[tuple[str, ...], float] = {}
    for one in standing.report.by_hand if standing.report else ():
        lane, action = one.order.lane, one.order.action.value
        if lane is not None:
            labels = (lane.device, lane.slice_name, lane.traffic.value, action)
            ends[labels] = max(ends.get(labels, 0.0), round(one.until_wall_seconds, 3))
    return list(ends.items())


def _push(
    name: str, kind: Kind, unit: str, labels: tuple[str, ...], text: str, samples: Callable[[PushStatus], list[Sample]]
) -> StandingFamily:
    def of_all(standing: Standing) -> list[Sample]:
        return [one for push in (standing.report.pushes if standing.report else ()) for one in samples(push)]

    return StandingFamily(f"bwexporter_apmon_{name}", kind, unit, ("destination", *labels), text, of_all)


def _node(name: str, unit: str, text: str, samples: Callable[[Standing], Iterable[Sample]]) -> StandingFamily:
    return StandingFamily(f"bwexporter_{name}", Kind.GAUGE, unit, (), text, samples)


def _rate(bytes_per_second: int) -> int | float:
    return float("inf") if bytes_per_second >= UNLIMITED else bytes_per_second


def _last_good_turn(standing: Standing) -> list[Sample]:
    at = standing.good_turn_wall_seconds
    return [] if at is None else [((), at)]


STANDING_FAMILIES: tuple[StandingFamily, ...] = (
    _device(
        "cap_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Node cap: ceiling of all normal traffic of the device.",
        lambda report: _rate(report.cap_bytes_per_second),
    ),
    _device(
        "line_rate_bytes_per_second",
        Kind.GAUGE,
        "bytes_per_second",
        "Rate of the line: ceiling of all traffic of the device.",
        lambda report: _rate(report.line_rate_bytes_per_second),
    ),
    _device(
        "guarantees_admitted_ratio",
        Kind.GAUGE,
        "ratio",
        "Smallest scale that guarantees were multiplied by to fit; 1 when all were admitted as asked.",
        lambda report: report.verdicts.admitted_ratio,
    ),
    _device(
        "direct_sent_packets_total",
        Kind.COUNTER,
        "packets",
        "Packets that passed the tree unshaped and are in no lane.",
        lambda report: report.ledger.direct_packets,
    ),
    _node("up", "", "1 when every device could be read in the last turn, else 0.", lambda now: [((), int(now.up))]),
    _node(
        "last_turn_timestamp_seconds",
        "seconds",
        "Unix time of the last full turn that read every device.",
        _last_good_turn,
    ),
    StandingFamily(
        "bwexporter_slice_hand_until_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        ("device", "slice", "traffic", "action"),
        "Unix time until which an order by hand is in force; a top-up is until its period ends.",
        _hand_untils,
    ),
    _node(
        "frozen",
        "",
        "1 while nothing in the kernel is changed, by order, else 0.",
        _of_report(lambda report: int(report.frozen)),
    ),
    _source("up", "", "1 when the source of slices was read at the last try, else 0.", lambda source: int(source.up)),
    _source("slices", "", "Slices that the source gives.", lambda source: source.slices),
    _source(
        "last_success_timestamp_seconds",
        "seconds",
        "Unix time at which the source was last read.",
        lambda source: source.last_success_wall_seconds,
    ),
    _source(
        "problems",
        "",
        "Problems in what the source gave; the last good values go on.",
        lambda source: len(source.problems),
    ),
    _node(
        "config_last_reload_successful",
        "",
        "1 when the configuration was accepted at the last load, else 0.",
        _of_report(lambda report: int(report.config_reload_successful)),
    ),
    _node(
        "config_last_reload_success_timestamp_seconds",
        "seconds",
        "Unix time of the last accepted configuration.",
        _of_report(lambda report: report.config_reloaded_wall_seconds),
    ),
    _node(
        "state_last_save_timestamp_seconds",
        "seconds",
        "Unix time at which the accounts were last saved.",
        _of_report(lambda report: report.state_saved_wall_seconds),
    ),
    _push(
        "datagrams_total",
        Kind.COUNTER,
        "",
        (),
        "ApMon datagrams handed to the network.",
        lambda push: [((push.destination,), push.datagrams)],
    ),
    _push(
        "dropped_datagrams_total",
        Kind.COUNTER,
        "",
        ("reason",),
        "ApMon datagrams that were not sent, or of which the network said that they did not arrive.",
        lambda push: [((push.destination, reason), count) for reason, count in push.dropped.items()],
    ),
    _push(
        "last_success_timestamp_seconds",
        Kind.GAUGE,
        "seconds",
        (),
        "Unix time of the last ApMon datagram that nothing bad was heard of; before the first, of the beginning.",
        lambda push: [((push.destination,), round(push.last_success_wall_seconds, 3))],
    ),
    StandingFamily(
        "bwexporter_build_info",
        Kind.GAUGE,
        "",
        ("version", "python"),
        "1, with the versions of the program and of Python.",
        lambda _: [((__version__, platform.python_version()), 1)],
    ),
)

TURN_DURATION = Family(
    "bwexporter_turn_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    (),
    "Time that a turn took.",
)
STAGE_DURATION = Family(
    "bwexporter_turn_stage_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    ("stage",),
    "Time that a stage of a turn took.",
)
TURNS = Family("bwexporter_turns_total", Kind.COUNTER, "", (), "Turns begun, early looks and failed ones included.")
TURN_FAILURES = Family(
    "bwexporter_turn_failures_total",
    Kind.COUNTER,
    "",
    ("stage",),
    "Turns in which a device could not be read or a stage failed.",
)
TURN_MISFIRES = Family("bwexporter_turn_misfires_total", Kind.COUNTER, "", (), "Turns that did not begin in time.")
CLOCK_STEPS = Family("bwexporter_clock_steps_total", Kind.COUNTER, "", (), "Steps of the wall clock that were noticed.")
CHANGES = Family("bwexporter_changes_total", Kind.COUNTER, "", ("device",), "Changes sent to the kernel.")
CHANGE_FAILURES = Family(
    "bwexporter_change_failures_total",
    Kind.COUNTER,
    "",
    ("device", "errno"),
    "Changes that the kernel refused.",
)
DRIFT_REPAIRS = Family(
    "bwexporter_drift_repairs_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Classes, and rules of the classifier, put right that somebody else had changed.",
)
ORPHANS_REMOVED = Family(
    "bwexporter_orphans_removed_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Classes removed that belonged to no slice.",
)
IMPLAUSIBLE_READINGS = Family(
    "bwexporter_implausible_readings_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Readings that grew faster than the line rate allows; they are counted in full.",
)
CONTROL_REFUSALS = Family(
    "bwexporter_control_refusals_total",
    Kind.COUNTER,
    "",
    (),
    "Orders by hand that were refused: not permitted, malformed, or impossible.",
)
STATE_FAILURES = Family(
    "bwexporter_state_failures_total", Kind.COUNTER, "", (), "Turns with trouble in keeping the state."
)

OWN_FAMILIES: tuple[Family, ...] = (
    TURN_DURATION,
    STAGE_DURATION,
    TURNS,
    TURN_FAILURES,
    TURN_MISFIRES,
    CLOCK_STEPS,
    CHANGES,
    CHANGE_FAILURES,
    DRIFT_REPAIRS,
    ORPHANS_REMOVED,
    IMPLAUSIBLE_READINGS,
    STATE_FAILURES,
    CONTROL_REFUSALS,
)


def every_family() -> tuple[Family, ...]:
    """Return every family in the order of the exposition, the info metric with its optional label."""
    return (
        *LANE_FAMILIES,
        info_family(owner_email=True, record_labels=()),
        *STANDING_FAMILIES,
        *OWN_FAMILIES,
    )


def metrics_table() -> str:
    """Return the catalogue as the Markdown table of the README."""
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in every_family():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{family.name}` | {family.kind.value} | {labels} | {family.text} |")
    return "\n".join(rows) + "\n"
