"""The Fleet dashboard, for operators: who eats the line, who is capped, is enforcement healthy, what comes.

Turns the questions of an operator of many nodes into panels. Knows: what stands at the top. Does not know: the JSON.
"""

from __future__ import annotations

from dashboards import grafana
from dashboards.asked import (
    ANSWERS,
    FLEET,
    INSTANCES,
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
    only_capped,
)
from dashboards.grafana import BAD, CAPPED, GOOD, Column, Json, Key, Looks, Query, link
from dashboards.thresholds import threshold

_STALE = threshold("BwexporterTurnsStale")
_FULL = threshold("BwexporterNodeCapSaturated")

_TO_SLICE = link(SLICE, slice="${__value.raw}")
_TO_NODE = link(NODE, instance="${__value.raw}")


def fleet() -> Json:
    """Return the dashboard."""
    text = "All nodes: who eats the line, who is capped, is enforcement healthy, what would it be tomorrow."
    panels = [*_now(), *_who(), *_next(), *_nodes()]
    return grafana.dashboard(FLEET, "Fleet", text, [JOB, INSTANCES], panels, [STARTS])


def _now() -> list[Json]:
    trouble = (
        f"count(up{{{TARGET}}} == 0 or bwexporter_up{{{TARGET}}} == 0"
        f" or time() - bwexporter_last_turn_timestamp_seconds{{{TARGET}}} > {_STALE:g}) or vector(0)"
    )
    of_slices = f'{TARGET}, slice!~"_root|_default"'
    slices = f"count(count by (slice) (bwexporter_slice_capped{{{of_slices}}})) or vector(0)"
    return [
        grafana.stat("Nodes", "Nodes whose exporter answers.", [Query(f"sum(up{{{TARGET}}})")], "none"),
        grafana.stat(
            "Nodes in trouble",
            f"Nodes that do not answer, cannot read the kernel, or have taken no turn for {_STALE:g} s.",
            [Query(trouble)],
            "none",
            Looks(steps=[(None, GOOD), (1, BAD)]),
        ),
        grafana.stat("Slices", "Slices that have a class on some node.", [Query(slices)], "none"),
        grafana.stat(
            "Capped",
            "Slices that are held below their full rate, on some node and in some traffic, for what they have used.",
            [Query(f"count(max by (slice) ({capped(of_slices)}) > 0) or vector(0)")],
            "none",
            Looks(steps=[(None, GOOD), (1, CAPPED)]),
        ),
        grafana.stat(
            "Sending",
            "What all slices of all nodes send.",
            [Query(f"8 * sum(rate(bwexporter_slice_sent_bytes_total{{{TARGET}}}[$__rate_interval]))")],
            "bps",
        ),
        grafana.stat(
            "Fullest node cap",
            f"How much of its node cap the fullest device uses; an alert comes at {_FULL:.0%}.",
            [Query(f"max({cap_filled(TARGET)})")],
            "percentunit",
            Looks(steps=[(None, GOOD), (_FULL, BAD)], decimals=0),
        ),
    ]


def _who() -> list[Json]:
    return [
        grafana.timeseries(
            "Who eats the line",
            "The ten slices that send most, all nodes and both kinds of traffic together.",
            [Query(f"topk(10, {bits_sent('slice', TARGET)})", "{{slice}}")],
            "bps",
            size=(16, 9),
            stacked=True,
        ),
        grafana.bargauge(
            "How full each node cap is",
            f"Normal traffic against the node cap; an alert comes at {_FULL:.0%}.",
            Query(f"topk(10, {cap_filled(TARGET)})", "{{instance}} {{device}}"),
            "percentunit",
            steps=[(None, GOOD), (_FULL, BAD)],
            most=1,
        ),
    ]


def _next() -> list[Json]:
    lane = f"{{{TARGET}}}"
    left = f"clamp_min({ends_in(lane)}, 0)"
    used = f"bwexporter_slice_period_used_bytes{lane}"
    rate = f"rate(bwexporter_slice_sent_bytes_total{lane}[$__range])"
    threshold_bytes = f"(bwexporter_slice_period_threshold_bytes{lane} < +Inf)"
    coming = f"max by (slice) (({used} + {rate} * {left}) / {threshold_bytes})"
    figures: tuple[tuple[str, str, str, grafana.Names], ...] = (
        ("Used", used, "decbytes", {}),
        ("Allowance", f"bwexporter_slice_period_allowance_bytes{lane}", "decbytes", {}),
        ("Ceiling", f"8 * bwexporter_slice_ceiling_bytes_per_second{lane}", "bps", {}),
        ("Free in", ends_in(lane), "s", SLIDES),
    )
    return [
        grafana.table(
            "Capped now",
            "Lanes below their full rate because of what they have used. A row leads to the slice or to the node.",
            [
                Key("slice", "Slice", _TO_SLICE),
                Key("instance", "Node", _TO_NODE),
                Key("device", "Device", width=80),
                Key("traffic", "Traffic", width=80),
            ],
            [
                Column(name, only_capped(expression, TARGET), unit, names=names, width=95)
                for name, expression, unit, names in figures
            ],
            size=(14, 10),
            sort="Free in",
        ),
        grafana.bargauge(
            "What it would be at the period's end",
            "What is used, and what would come at the mean rate of the time shown, as a part of the threshold. "
            "At 100 % a slice is capped; the lane that is nearest counts.",
            Query(f"topk(10, {coming})", "{{slice}}"),
            "percentunit",
            size=(10, 10),
            steps=[(None, GOOD), (1, CAPPED)],
        ),
    ]


def _nodes() -> list[Json]:
    turn_age = f"time() - bwexporter_last_turn_timestamp_seconds{{{TARGET}}}"
    saved_age = f"time() - bwexporter_state_last_save_timestamp_seconds{{{TARGET}}}"
    not_saved = threshold("BwexporterStateNotSaved")
    return [
        grafana.heading("Is enforcement healthy?"),
        grafana.table(
            "Nodes",
            "One row a node. A row leads to the node.",
            [Key("instance", "Node", _TO_NODE)],
            [
                Column("Exporter", f"up{{{TARGET}}}", names=ANSWERS),
                Column("Kernel", f"bwexporter_up{{{TARGET}}}", names=READS),
                Column("Last turn", turn_age, "s", [(None, GOOD), (_STALE, BAD)]),
                Column("Saved", saved_age, "s", [(None, GOOD), (not_saved, BAD)]),
                Column("Lanes", f"count by (instance) (bwexporter_slice_capped{{{TARGET}}})", "none"),
                Column("Capped lanes", f"sum by (instance) ({capped(TARGET)})", "none"),
                Column("Sending", bits_sent("instance", TARGET), "bps"),
                Column("Cap filled", cap_filled(TARGET), "percentunit", [(None, GOOD), (_FULL, BAD)]),
            ],
            size=(24, 7),
            sort="Sending",
        ),
    ]
