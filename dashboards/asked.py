"""Parts of PromQL that several dashboards use, their variables and their marks.

Turns the labels that a dashboard lets one choose into selectors, variables and annotations. Knows: metrics and labels.
Does not know: panels.
"""

from __future__ import annotations

from dashboards import grafana
from dashboards.grafana import BAD, CAPPED, GOOD, PLAIN

FLEET, NODE, SLICE, EXPORTER = (f"bwexporter-{name}" for name in ("fleet", "node", "slice", "exporter"))
"""The dashboards' uids: what links name, so they never change."""

TARGET = 'job=~"$job", instance=~"$instance"'
LANE = 'job=~"$job", instance=~"$instance", slice=~"$slice"'

SLIDES = {-1.0: ("slides", PLAIN)}
"""How the end of a period is shown where there is none."""

JOB = grafana.variable("job", "Job", "label_values(bwexporter_up, job)")
INSTANCES = grafana.variable("instance", "Node", 'label_values(bwexporter_up{job=~"$job"}, instance)')
INSTANCE = grafana.variable(
    "instance", "Node", 'label_values(bwexporter_up{job=~"$job"}, instance)', several=False, all_of_them=False
)

STARTS = grafana.annotation(
    "Starts of the exporter",
    f"changes(process_start_time_seconds{{{TARGET}}}[1m]) > 0",
    PLAIN,
    "{{instance}} started",
)
CAPS = grafana.annotation(
    "Caps",
    f"changes(bwexporter_slice_capped{{{LANE}}}[1m]) > 0 and bwexporter_slice_capped{{{LANE}}} == 1",
    CAPPED,
    "{{slice}} {{traffic}} capped on {{instance}}",
)
ENDS_OF_CAPS = grafana.annotation(
    "Ends of caps",
    f"changes(bwexporter_slice_capped{{{LANE}}}[1m]) > 0 and bwexporter_slice_capped{{{LANE}}} == 0",
    GOOD,
    "{{slice}} {{traffic}} free again on {{instance}}",
)
PERIODS = grafana.annotation(
    "New periods",
    f"changes(bwexporter_slice_period_start_timestamp_seconds{{{LANE}}}[1m]) > 0",
    PLAIN,
    "{{slice}} {{traffic}}: a new period on {{instance}}",
)

ANSWERS = {0.0: ("down", BAD), 1.0: ("up", GOOD)}
READS = {0.0: ("unreadable", BAD), 1.0: ("read", GOOD)}
IS_CAPPED = {0.0: ("no", GOOD), 1.0: ("capped", CAPPED)}


def bits_sent(by: str, selector: str) -> str:
    """Return what is sent now in bits per second, summed by labels."""
    return f"8 * sum by ({by}) (rate(bwexporter_slice_sent_bytes_total{{{selector}}}[$__rate_interval]))"


def cap_filled(selector: str) -> str:
    """Return how much of the node cap normal traffic fills, 0 to 1, by device."""
    normal = f'{selector}, traffic="normal"'
    return (
        f"sum by (job, instance, device) (rate(bwexporter_slice_sent_bytes_total{{{normal}}}[$__rate_interval]))"
        f" / on (job, instance, device) bwexporter_device_cap_bytes_per_second{{{selector}}}"
    )


def line_filled(selector: str) -> str:
    """Return how much of the line all traffic fills, 0 to 1, by device."""
    return (
        f"sum by (job, instance, device) (rate(bwexporter_slice_sent_bytes_total{{{selector}}}[$__rate_interval]))"
        f" / on (job, instance, device) bwexporter_device_line_rate_bytes_per_second{{{selector}}}"
    )


def capped(selector: str) -> str:
    """Return 1 or 0 for each lane that is enforced: what is judged in shadow is not capped."""
    return (
        f"(bwexporter_slice_capped{{{selector}}}"
        f" unless on (job, instance, device, slice, traffic) bwexporter_slice_shadow{{{selector}}} == 1)"
    )


def ends_in(selector: str) -> str:
    """Return the seconds until the period of each lane ends, -1 where a sliding window takes its place."""
    end = f"bwexporter_slice_period_end_timestamp_seconds{selector}"
    return f"(clamp_min({end} - time(), 0) or 0 * bwexporter_slice_capped{selector} - 1)"


def only_capped(expression: str, selector: str) -> str:
    """Return an expression of lanes for those that are capped."""
    return f"{expression} and on (job, instance, device, slice, traffic) ({capped(selector)} == 1)"
