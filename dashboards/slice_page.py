"""The Slice dashboard, for its owner: how much have I left, when am I free, why am I slow.

Turns the questions of a slice's owner into panels. Knows: what stands at the top. Does not know: the JSON.
"""

from __future__ import annotations

from dashboards import grafana
from dashboards.asked import (
    CAPS,
    ENDS_OF_CAPS,
    INSTANCES,
    IS_CAPPED,
    JOB,
    LANE,
    NODE,
    PERIODS,
    SLICE,
    SLIDES,
    TARGET,
    bits_sent,
    cap_filled,
    capped,
    ends_in,
    only_capped,
)
from dashboards.grafana import BAD, CAPPED, GOOD, PLAIN, Column, Json, Key, Looks, Query, link
from dashboards.thresholds import threshold

_FULL = threshold("BwexporterNodeCapSaturated")

_SLICE = grafana.variable(
    "slice", "Slice", 'label_values(bwexporter_slice_capped{job=~"$job"}, slice)', several=False, all_of_them=False
)
_STATES = {
    0.0: ("full rate", GOOD),
    1.0: ("capped", CAPPED),
    2.0: ("allowance spent", BAD),
    3.0: ("held by hand", CAPPED),
}
_LANE = f"{{{LANE}}}"
_USED = f"bwexporter_slice_period_used_bytes{_LANE}"
_ALLOWANCE = f"bwexporter_slice_period_allowance_bytes{_LANE}"
_THRESHOLD = f"bwexporter_slice_period_threshold_bytes{_LANE}"
_CEILING = f"8 * bwexporter_slice_ceiling_bytes_per_second{_LANE}"
_FULL_RATE = f"8 * bwexporter_slice_full_rate_bytes_per_second{_LANE}"
_ENDS_IN = ends_in(_LANE)


def slice_page() -> Json:
    """Return the dashboard."""
    text = "One slice: how much has it left, when is it free, why is it slow."
    panels = [*_now(), *_history(), _nodes(), *_queues(), _explained()]
    annotations = [CAPS, ENDS_OF_CAPS, PERIODS]
    return grafana.dashboard(SLICE, "Slice", text, [JOB, _SLICE, INSTANCES], panels, annotations)


def _now() -> list[Json]:
    size = (4, 5)
    spent = f"({_USED} >= bool {_ALLOWANCE})"
    by_hand = f'bwexporter_slice_hand_until_timestamp_seconds{{{LANE}, action="cap"}}'
    unenforced = f"0 * (bwexporter_slice_shadow{_LANE} == 1)"
    state = f"3 * ({by_hand} > bool time()) or {capped(LANE)} * (1 + {spent}) or {unenforced}"
    return [
        grafana.stat(
            "State",
            "The worst of all nodes. Capped: the threshold was passed. Held by hand: an operator has said so.",
            [Query(f"max by (traffic) ({state})", "{{traffic}}")],
            "none",
            Looks(names=_STATES),
            size=(5, 5),
        ),
        grafana.stat(
            "Left in this period",
            "What may still be sent, on the node that has least left.",
            [Query(f"min by (traffic) ({_ALLOWANCE} - {_USED} < +Inf)", "{{traffic}}")],
            "decbytes",
            Looks(nothing="no limit"),
            size=size,
        ),
        grafana.stat(
            "Free in",
            "When the period ends of the cap that lasts longest; then the full rate is back. "
            "A sliding window gives it back bit by bit.",
            [Query(f"max by (traffic) ({only_capped(_ENDS_IN, LANE)})", "{{traffic}}")],
            "s",
            Looks(steps=[(None, CAPPED)], names=SLIDES, nothing="not capped"),
            size=size,
        ),
        grafana.stat(
            "Ceiling now",
            "The lowest of all nodes, as the kernel has it.",
            [Query(f"min by (traffic) ({_CEILING})", "{{traffic}}")],
            "bps",
            size=size,
        ),
        grafana.stat(
            "Threshold in",
            "When the threshold is passed at the rate of the last minute, where that is in this period.",
            [Query(f"min by (traffic) (bwexporter_slice_seconds_to_threshold{_LANE} > 0 < +Inf)", "{{traffic}}")],
            "s",
            Looks(nothing="not in sight"),
            size=size,
        ),
        grafana.stat(
            "Node cap filled",
            "Of the fullest node that is chosen. A full one slows all slices, capped or not.",
            [Query(f"max({cap_filled(TARGET)})")],
            "percentunit",
            Looks(steps=[(None, GOOD), (_FULL, BAD)], decimals=0),
            size=(3, 5),
        ),
    ]


def _history() -> list[Json]:
    return [
        grafana.timeseries(
            "Used in the period",
            "It falls to nothing as a period ends. Past its threshold the slice is capped, and lands on its allowance. "
            "Where nodes differ in these two, the lowest are shown.",
            [
                Query(f"max by (traffic, instance) ({_USED})", "{{traffic}} {{instance}}"),
                Query(f"min by (traffic) ({_THRESHOLD} < +Inf)", "threshold {{traffic}}"),
                Query(f"min by (traffic) ({_ALLOWANCE} < +Inf)", "allowance {{traffic}}"),
            ],
            "decbytes",
            lines={
                f"{word} {kind}": colour
                for word, colour in (("threshold", CAPPED), ("allowance", BAD))
                for kind in ("normal", "exempt")
            },
        ),
        grafana.timeseries(
            "Sent, and the ceiling",
            "What is sent, and the ceiling that the kernel of each node has for it, of traffic that has an allowance.",
            [
                Query(bits_sent("traffic, instance", LANE), "{{traffic}} {{instance}}"),
                Query(
                    f"min by (traffic, instance) ({_CEILING} and {_ALLOWANCE} < +Inf)",
                    "ceiling {{traffic}} {{instance}}",
                ),
            ],
            "bps",
            lines={"ceiling normal": CAPPED, "ceiling exempt": PLAIN},
        ),
    ]


def _nodes() -> Json:
    return grafana.table(
        "On each node",
        "Each node has accounts of its own for the slice. A row leads to the node.",
        [
            Key("instance", "Node", link(NODE, instance="${__value.raw}")),
            Key("device", "Device", width=90),
            Key("traffic", "Traffic", width=90),
        ],
        [
            Column("Used", _USED, "decbytes"),
            Column("Threshold", f"{_THRESHOLD} < +Inf", "decbytes"),
            Column("Allowance", f"{_ALLOWANCE} < +Inf", "decbytes"),
            Column("Of the threshold", f"{_USED} / ({_THRESHOLD} < +Inf)", "percentunit", [(None, GOOD), (1, CAPPED)]),
            Column("Capped", capped(LANE), names=IS_CAPPED, width=90),
            Column("Ceiling", _CEILING, "bps"),
            Column("Full rate", _FULL_RATE, "bps"),
            Column("Period ends in", _ENDS_IN, "s", names=SLIDES),
        ],
        size=(24, 7),
    )


def _queues() -> list[Json]:
    size = (8, 8)
    dropped = f"rate(bwexporter_slice_dropped_packets_total{_LANE}[$__rate_interval])"
    return [
        grafana.timeseries(
            "Queued",
            "What waits in the slice's classes: more than sent at the ceiling in a moment is delay.",
            [Query(f"max by (traffic, instance) (bwexporter_slice_backlog_bytes{_LANE})", "{{traffic}} {{instance}}")],
            "decbytes",
            size=size,
            legend="bottom",
        ),
        grafana.timeseries(
            "Dropped",
            "Packets that found the queue full: the slice sends faster than its ceiling.",
            [Query(f"sum by (traffic, instance) ({dropped})", "{{traffic}} {{instance}}")],
            "suffix:p/s",
            size=size,
            legend="bottom",
        ),
    ]


def _explained() -> Json:
    text = (
        "Capped: the threshold is passed. What is left of the allowance is spread over the rest of the period, so "
        "that nothing is cut off. Send less and the ceiling rises by itself.\n\n"
        "Full rate, and slow: the node cap is filled by all slices together, or packets are dropped because the "
        "slice sends faster than its full rate.\n\n"
        "Free in: when the period ends, the full rate is back."
    )
    return grafana.words("Why is it slow?", text, size=(8, 8))
