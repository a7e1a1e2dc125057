"""The metrics of the node: its slices by name, its devices, where slices come from, where figures are pushed to.

Turns a turn's report into samples. Knows: which word of the report each figure is, which labels the configuration
allows. Does not know: lanes, any text format.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence

from bwexporter import __version__
from bwexporter.core.lanes import UNLIMITED
from bwexporter.core.report import DeviceReport, PushStatus, Report, SliceInfo, SourceStatus
from bwexporter.metrics.families import Kind, Sample, Standing, StandingFamily


def info_family(*, owner_email: bool, record_labels: Sequence[str]) -> StandingFamily:
    """Return the slice_info family with the labels that the configuration allows."""
    owner_labels = ("owner_email",) if owner_email else ()

    def values(info: SliceInfo) -> tuple[str, ...]:
        owners = (",".join(info.owners),) if owner_email else ()
        own = tuple(info.labels.get(label, "") for label in record_labels)
        return (info.slice_name, str(info.slice_id), info.source, *owners, *own)

    last: tuple[Mapping[str, SliceInfo], list[Sample]] = ({}, [])  # what is known changes with the roster alone

    def samples(standing: Standing) -> list[Sample]:
        nonlocal last
        known, made = last
        if standing.report is None:
            return []
        if known is not standing.report.info:
            known = standing.report.info
            made = [(values(info), 1) for info in known.values()]
            last = known, made
        return made

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
        "Unix time until which an order by hand is in force; a top-up is until its period ends at the latest.",
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
