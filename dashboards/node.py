"""The Node dashboard, for operators: one node's line, its slices, its queues.

Turns the questions about one node into panels. Knows: what stands at the top. Does not know: the JSON.
"""

from __future__ import annotations

from dashboards import grafana
from dashboards.asked import (
    INSTANCE,
    IS_CAPPED,
    JOB,
    NODE,
    READS,
    SLICE,
    SLIDES,
    STARTS,
    TARGET,
    bits_sent,
    cap_filled,
    capped,
    ends_in,
    line_filled,
)
from dashboards.grafana import BAD, CAPPED, GOOD, Column, Json, Key, Looks, Query, link
from dashboards.thresholds import threshold

_STALE = threshold("BwexporterTurnsStale")
_FULL = threshold("BwexporterNodeCapSaturated")
_NOBODYS = threshold("BwexporterDefaultTraffic")
_ADMITTED = threshold("BwexporterGuaranteesNotAdmitted")


def node() -> Json:
    """Return the dashboard."""
    text = "One node: who eats its line, who is capped, what is left to whom, and how its queues are."
    panels = [*_now(), *_line(), _slices(), *_queues()]
    return grafana.dashboard(NODE, "Node", text, [JOB, INSTANCE], panels, [STARTS])


def _now() -> list[Json]:
    size = (3, 4)
    sent = f"bwexporter_slice_sent_bytes_total{{{TARGET}}}"
    nobodys = f'bwexporter_slice_sent_bytes_total{{{TARGET}, slice="_default"}}'
    share = f"sum(rate({nobodys}[$__rate_interval])) / sum(rate({sent}[$__rate_interval]))"
    return [
        grafana.stat(
            "Kernel",
            "Whether every device could be read in the last turn.",
            [Query(f"min(bwexporter_up{{{TARGET}}})")],
            "none",
            Looks(names=READS),
            size=size,
        ),
        grafana.stat(
            "Last turn",
            f"How long ago the last full turn was; an alert comes at {_STALE:g} s.",
            [Query(f"max(time() - bwexporter_last_turn_timestamp_seconds{{{TARGET}}})")],
            "s",
            Looks(steps=[(None, GOOD), (_STALE, BAD)], decimals=1),
            size=size,
        ),
        grafana.stat(
            "Node cap filled",
            f"Normal traffic against the node cap; an alert comes at {_FULL:.0%}.",
            [Query(f"max({cap_filled(TARGET)})")],
            "percentunit",
            Looks(steps=[(None, GOOD), (_FULL, BAD)], decimals=0),
            size=size,
        ),
        grafana.stat(
            "Line filled",
            "All traffic against the rate of the line.",
            [Query(f"max({line_filled(TARGET)})")],
            "percentunit",
            Looks(steps=[(None, GOOD), (_FULL, BAD)], decimals=0),
            size=size,
        ),
        grafana.stat(
            "Capped lanes",
            "Lanes that are held below their full rate because of what they have used.",
            [Query(f"sum({capped(TARGET)}) or vector(0)")],
            "none",
            Looks(steps=[(None, GOOD), (1, CAPPED)]),
            size=size,
        ),
        grafana.stat(
            "Guarantees kept",
            "What guarantees were scaled by to fit; 100 % is as promised.",
            [Query(f"min(bwexporter_device_guarantees_admitted_ratio{{{TARGET}}})")],
            "percentunit",
            Looks(steps=[(None, BAD), (_ADMITTED, GOOD)], decimals=0),
            size=size,
        ),
        grafana.stat(
            "Of no slice",
            f"The part of the traffic that is in the default lane; an alert comes at {_NOBODYS:.0%}.",
            [Query(share)],
            "percentunit",
            Looks(steps=[(None, GOOD), (_NOBODYS, BAD)], decimals=1),
            size=size,
        ),
        grafana.stat(
            "Unshaped",
            "Packets that passed the tree unshaped; they are on nobody's account.",
            [Query(f"sum(rate(bwexporter_device_direct_sent_packets_total{{{TARGET}}}[$__rate_interval]))")],
            "pps",
            Looks(steps=[(None, GOOD), (threshold("BwexporterDirectTraffic") / 900, BAD)], decimals=0),
            size=size,
        ),
    ]


def _line() -> list[Json]:
    normal, exempt = (f'{TARGET}, traffic="{traffic}"' for traffic in ("normal", "exempt"))
    cap = f"8 * sum(bwexporter_device_cap_bytes_per_second{{{TARGET}}} < +Inf)"
    line = f"8 * sum(bwexporter_device_line_rate_bytes_per_second{{{TARGET}}} < +Inf)"
    return [
        grafana.timeseries(
            "Who eats the node cap",
            "Normal traffic of the ten slices that send most, and the node cap.",
            [Query(f"topk(10, {bits_sent('slice', normal)})", "{{slice}}"), Query(cap, "node cap")],
            "bps",
            stacked=True,
            lines={"node cap": BAD},
        ),
        grafana.timeseries(
            "Who eats the line beside it",
            "Exempt traffic of the ten slices that send most, and the rate of the line.",
            [Query(f"topk(10, {bits_sent('slice', exempt)})", "{{slice}}"), Query(line, "line rate")],
            "bps",
            stacked=True,
            lines={"line rate": BAD},
        ),
    ]


def _slices() -> Json:
    lane = f"{{{TARGET}}}"
    used, allowance = (f"bwexporter_slice_period_{name}_bytes{lane}" for name in ("used", "allowance"))
    return grafana.table(
        "Slices",
        "Every lane of the node: what it sends, what it has used of what it may, its ceiling and its full rate.",
        [
            Key("slice", "Slice", link(SLICE, slice="${__value.raw}")),
            Key("device", "Device", width=90),
            Key("traffic", "Traffic", width=90),
        ],
        [
            Column("Sending", bits_sent("slice, device, traffic", TARGET), "bps"),
            Column("Used", used, "decbytes"),
            Column("Allowance", f"{allowance} < +Inf", "decbytes"),
            Column(
                "Of the threshold",
                f"{used} / (bwexporter_slice_period_threshold_bytes{lane} < +Inf)",
                "percentunit",
                [(None, GOOD), (1, CAPPED)],
            ),
            Column("Capped", capped(TARGET), names=IS_CAPPED, width=90),
            Column("Ceiling", f"8 * bwexporter_slice_ceiling_bytes_per_second{lane}", "bps"),
            Column("Full rate", f"8 * bwexporter_slice_full_rate_bytes_per_second{lane}", "bps"),
            Column("Period ends in", ends_in(lane), "s", names=SLIDES),
        ],
        size=(24, 12),
        sort="Sending",
    )


def _queues() -> list[Json]:
    size = (8, 8)
    dropped = f"rate(bwexporter_slice_dropped_packets_total{{{TARGET}}}[$__rate_interval])"
    held = f"rate(bwexporter_slice_overlimit_total{{{TARGET}}}[$__rate_interval])"
    return [
        grafana.heading("How are its queues?"),
        grafana.timeseries(
            "Queued",
            "What waits in the classes, the ten fullest.",
            [Query(f"topk(10, sum by (slice) (bwexporter_slice_backlog_bytes{{{TARGET}}}))", "{{slice}}")],
            "decbytes",
            size=size,
            legend="bottom",
        ),
        grafana.timeseries(
            "Dropped",
            "Packets that found their class's queue full, the ten with most.",
            [Query(f"topk(10, sum by (slice) ({dropped}))", "{{slice}}")],
            "suffix:p/s",
            size=size,
            legend="bottom",
        ),
        grafana.timeseries(
            "Held at the ceiling",
            "How often classes reached their ceiling, the ten with most.",
            [Query(f"topk(10, sum by (slice) ({held}))", "{{slice}}")],
            "suffix:/s",
            size=size,
            legend="bottom",
        ),
    ]
