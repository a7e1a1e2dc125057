"""The Exporter dashboard, for operators: is the program itself well, and does the kernel do what it is told.

Turns the questions about the program into panels. Knows: what stands at the top. Does not know: the JSON.
"""

from __future__ import annotations

from dashboards import grafana
from dashboards.asked import ANSWERS, EXPORTER, INSTANCES, JOB, READS, STARTS, TARGET
from dashboards.grafana import BAD, CAPPED, GOOD, Column, Json, Key, Looks, Names, Query, Steps
from dashboards.thresholds import threshold

_STALE = threshold("BwexporterTurnsStale")
_NOT_SAVED = threshold("BwexporterStateNotSaved")


def exporter() -> Json:
    """Return the dashboard."""
    text = "The program itself: its turns, what the kernel answers, its state, its sources, what it pushes."
    panels = [*_now(), *_turns(), *_kernel(), *_sources(), *_process()]
    return grafana.dashboard(EXPORTER, "Exporter", text, [JOB, INSTANCES], panels, [STARTS])


def _per_second(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate(bwexporter_{metric}_total{{{TARGET}}}[$__rate_interval]))"


def _in_all(metric: str) -> str:
    return f"sum(rate(bwexporter_{metric}_total{{{TARGET}}}[$__rate_interval]))"


def _in_the_time_shown(metric: str) -> str:
    return f"sum(increase(bwexporter_{metric}_total{{{TARGET}}}[$__range]))"


def _now() -> list[Json]:
    never = ((None, GOOD), (1.0, CAPPED))
    configured = {0.0: ("refused", BAD), 1.0: ("good", GOOD)}
    return [
        _figure("Exporter", "The worst of the nodes: whether it answers.", f"min(up{{{TARGET}}})", names=ANSWERS),
        _figure(
            "Kernel", "The worst of the nodes: whether it can be read.", f"min(bwexporter_up{{{TARGET}}})", names=READS
        ),
        _age("Last turn", "last_turn_timestamp_seconds", _STALE),
        _age("Saved", "state_last_save_timestamp_seconds", _NOT_SAVED),
        _figure(
            "Configuration",
            "Whether the last reload was accepted on every node.",
            f"min(bwexporter_config_last_reload_successful{{{TARGET}}})",
            names=configured,
        ),
        _figure(
            "Refused changes",
            "What the kernel refused in the time shown.",
            _in_the_time_shown("change_failures"),
            steps=never,
        ),
        _figure(
            "Drift put right",
            "What somebody else had changed, in the time shown.",
            _in_the_time_shown("drift_repairs"),
            steps=never,
        ),
        _figure(
            "Late turns",
            "Turns that did not begin in time, in the time shown.",
            _in_the_time_shown("turn_misfires"),
            steps=never,
        ),
    ]


def _figure(
    title: str, text: str, expression: str, *, steps: Steps = ((None, GOOD),), names: Names | None = None
) -> Json:
    looks = Looks(steps=steps, names=names or {}, decimals=0)
    return grafana.stat(title, text, [Query(expression)], "none", looks, size=(3, 4))


def _age(title: str, metric: str, most: float) -> Json:
    text = f"The oldest of the nodes; an alert comes at {most:g} s."
    looks = Looks(steps=((None, GOOD), (most, BAD)), decimals=1)
    return grafana.stat(title, text, [Query(f"max(time() - bwexporter_{metric}{{{TARGET}}})")], "s", looks, size=(3, 4))


def _turns() -> list[Json]:
    bucket = f"rate(bwexporter_turn_duration_seconds_bucket{{{TARGET}}}[$__rate_interval])"
    stages, turns = (
        f"sum by (stage) (rate(bwexporter_turn_stage_duration_seconds_{part}{{{TARGET}}}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return [
        grafana.timeseries(
            "How long a turn takes",
            "Half of the turns, and all but one in a hundred, are faster than this.",
            [
                Query(f"histogram_quantile(0.5, sum by (le) ({bucket}))", "half"),
                Query(f"histogram_quantile(0.99, sum by (le) ({bucket}))", "99 of 100"),
            ],
            "s",
            size=(8, 8),
            legend="bottom",
        ),
        grafana.timeseries(
            "Where the time goes",
            "The mean of each stage; together they are a turn.",
            [Query(f"{stages} / {turns}", "{{stage}}")],
            "s",
            size=(8, 8),
            stacked=True,
        ),
        grafana.timeseries(
            "Turns",
            "Turns a second, early looks included, and those that failed, by stage.",
            [
                Query(_per_second("turns", "instance"), "{{instance}}"),
                Query(f"{_per_second('turn_failures', 'stage')} > 0", "failed in {{stage}}"),
            ],
            "suffix:/s",
            size=(8, 8),
            legend="bottom",
        ),
    ]


def _kernel() -> list[Json]:
    return [
        grafana.heading("Does the kernel do what it is told?"),
        grafana.timeseries(
            "Changes",
            "Changes of classes a second, and those that the kernel refused, by its answer.",
            [
                Query(_per_second("changes", "instance"), "{{instance}}"),
                Query(f"{_per_second('change_failures', 'errno')} > 0", "refused: {{errno}}"),
            ],
            "suffix:/s",
            size=(12, 8),
        ),
        grafana.timeseries(
            "What others do",
            "Classes and rules put right, classes of nobody removed, readings faster than the line, by node.",
            [
                Query(_per_second("drift_repairs", "instance"), "put right {{instance}}"),
                Query(_per_second("orphans_removed", "instance"), "of nobody {{instance}}"),
                Query(_per_second("implausible_readings", "instance"), "implausible {{instance}}"),
            ],
            "suffix:/s",
            size=(12, 8),
        ),
    ]


def _sources() -> list[Json]:
    source = f"{{{TARGET}}}"
    age = f"time() - bwexporter_source_last_success_timestamp_seconds{source}"
    return [
        grafana.heading("Where slices come from, and what is told to others"),
        grafana.table(
            "Sources of slices",
            "A source that is down goes on with its last good records.",
            [Key("instance", "Node", width=140), Key("source", "Source")],
            [
                Column(
                    "State", f"bwexporter_source_up{source}", names={0.0: ("down", BAD), 1.0: ("read", GOOD)}, width=80
                ),
                Column("Slices", f"bwexporter_source_slices{source}", "none", width=80),
                Column("Faults", f"bwexporter_source_problems{source}", "none", [(None, GOOD), (1, CAPPED)], width=80),
                Column("Last read", age, "s", width=80),
            ],
            size=(14, 7),
        ),
        grafana.timeseries(
            "Pushed to MonALISA, and orders by hand",
            "Datagrams sent and dropped, and orders by hand that were refused; nothing where there are none.",
            [
                Query(f"{_in_all('apmon_datagrams')} or vector(0)", "datagrams"),
                Query(f"{_per_second('apmon_dropped_datagrams', 'reason')} > 0", "dropped: {{reason}}"),
                Query(f"{_in_all('control_refusals')} or vector(0)", "orders refused"),
            ],
            "suffix:/s",
            size=(10, 7),
        ),
    ]


def _process() -> list[Json]:
    return [
        grafana.heading("The process"),
        grafana.timeseries(
            "Processor",
            "Parts of one processor.",
            [Query(f"rate(process_cpu_seconds_total{{{TARGET}}}[$__rate_interval])", "{{instance}}")],
            "percentunit",
            size=(8, 7),
            legend="bottom",
        ),
        grafana.timeseries(
            "Memory",
            "What the process holds in memory.",
            [Query(f"process_resident_memory_bytes{{{TARGET}}}", "{{instance}}")],
            "bytes",
            size=(8, 7),
            legend="bottom",
        ),
        grafana.table(
            "Versions",
            "What runs where.",
            [Key("instance", "Node", width=140), Key("version", "bwexporter"), Key("python", "Python")],
            [
                Column("Running for", _with_version("time() - process_start_time_seconds"), "s"),
                Column("Memory", _with_version("process_resident_memory_bytes"), "bytes"),
            ],
            size=(8, 7),
        ),
    ]


def _with_version(expression: str) -> str:
    """Return a figure of the process with the labels of what runs."""
    build = f"bwexporter_build_info{{{TARGET}}}"
    return f"{expression}{{{TARGET}}} + on (job, instance) group_right () 0 * {build}"
