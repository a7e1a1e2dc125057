"""The rules that are shipped: Prometheus takes them, every alert is tried, and they keep the usual manners."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import promql_parser
import pytest
import yaml

from bwexporter.cli.main import cli
from tests import promql

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
RULES_FILE = FOLDER / "bwexporter.rules.yml"
RUNBOOKS = {path.stem: path.read_text() for path in (ROOT / "deploy" / "runbooks").glob("*.md")}

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDINGS = {rule["record"]: rule for rule in RULES if "record" in rule}
CASES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "bwexporter.rules.test.yml").read_text())["tests"]
LONGEST_SCRAPE_INTERVAL = timedelta(minutes=1)
OF_BOTH = {
    *("abs", "absent", "absent_over_time", "avg_over_time", "ceil", "changes", "clamp_max", "clamp_min"),
    *("count_over_time", "delta", "deriv", "floor", "increase", "irate", "last_over_time", "max_over_time"),
    *("min_over_time", "rate", "resets", "round", "sum_over_time", "time", "timestamp"),
}
"""Functions that are neither renamed in 3 (holt_winters) nor newer than 2.42 nor experimental."""


def tree(rule: Mapping[str, Any]) -> Any:
    """Parse a rule's expression."""
    return promql_parser.parse(rule["expr"])


def known() -> dict[str, frozenset[str]]:
    """Return every series that a rule may read, with its labels: what is exposed, and what is recorded from it."""
    found = promql.exposed()
    for name, rule in RECORDINGS.items():
        # A recording that reads itself adds nothing to its labels.
        found[name] = frozenset()
        found[name] = promql.labels(tree(rule), found) | frozenset(rule.get("labels", {}))
    return found


KNOWN = known()
each_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
each_alert = pytest.mark.parametrize("name", sorted(ALERTS))


def promtool(*arguments: str) -> None:
    """Run promtool in the folder of the rules; it must have nothing to say."""
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class TestPromtool:
    """What Prometheus's own tool says."""

    def test_the_rules_are_good_style(self) -> None:
        """By its linter, with every check."""
        promtool("check", "rules", "--lint=all", "--lint-fatal", RULES_FILE.name)

    def test_the_unit_tests_of_the_rules_pass(self) -> None:
        """Every alert fires, stays silent, and ends; mails get their figures."""
        promtool("test", "rules", "bwexporter.rules.test.yml")

    def test_the_configuration_is_accepted(self) -> None:
        """With the rules that it names."""
        promtool("check", "config", "prometheus.yml")


@each_alert
def test_every_alert_is_seen_to_stay_silent_to_fire_and_to_end(name: str) -> None:
    """In one unit test of the rules, in this order."""

    def minutes(case: Mapping[str, Any], *, firing: bool) -> list[int]:
        tried = [one for one in case.get("alert_rule_test", ()) if one["alertname"] == name]
        return [int(one["eval_time"].removesuffix("m")) for one in tried if bool(one["exp_alerts"]) is firing]

    assert any(
        min(silent) < min(fires) < max(silent)
        for case in CASES
        if (fires := minutes(case, firing=True)) and (silent := minutes(case, firing=False))
    )


@each_rule
def test_a_rule_reads_only_what_is_exposed_or_recorded(rule: Mapping[str, Any]) -> None:
    """By metrics and labels that exist."""
    for one in promql.selected(tree(rule)):
        assert one.metric in KNOWN
        assert {label for label, _, _ in one.matchers} <= KNOWN[one.metric]
    for node in promql.every(tree(rule)):
        modifier = getattr(node, "modifier", None)
        named = set(getattr(modifier, "labels", ())) | set(getattr(getattr(modifier, "matching", None), "labels", ()))
        assert named | set(getattr(modifier, "group_labels", None) or ()) <= frozenset().union(*KNOWN.values())


@each_rule
def test_counters_are_read_as_rates_over_a_wide_enough_range(rule: Mapping[str, Any]) -> None:
    """And gauges never are; a range holds four scrapes at least."""
    for one in promql.selected(tree(rule)):
        rated = bool(promql.COUNTER_FUNCTIONS & set(one.functions))
        assert rated == one.metric.endswith("_total"), one
        assert one.range is None or one.range >= 4 * LONGEST_SCRAPE_INTERVAL


@each_rule
def test_a_rule_means_the_same_to_prometheus_2_and_3(rule: Mapping[str, Any]) -> None:
    """Functions that both have under one name, keys of 2.42, no subquery whose steps 3 aligns in another way."""
    for node in promql.every(tree(rule)):
        name = getattr(getattr(node, "func", None), "name", None)
        assert name is None or name in OF_BOTH
        assert not isinstance(node, promql_parser.SubqueryExpr)
    assert set(rule) <= {"alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"}


@each_rule
def test_a_regular_expression_is_used_where_one_is_needed(rule: Mapping[str, Any]) -> None:
    """A plain comparison says the rest better."""
    for one in promql.selected(tree(rule)):
        for _, operator, value in one.matchers:
            assert "~" not in operator or re.search(r"[.*+?|\[\](){}^$\\]", value)


@each_alert
def test_an_alert_compares_something(name: str) -> None:
    """Itself, or in the recording that it reads."""
    read = [RECORDINGS[one.metric] for one in promql.selected(tree(ALERTS[name])) if one.metric in RECORDINGS]

    assert any(promql.compares(tree(rule)) for rule in (ALERTS[name], *read))


@each_alert
def test_an_alert_says_what_it_is_and_where_to_go(name: str) -> None:
    """Its labels are few and never change with its value; its texts are whole."""
    rule = ALERTS[name]
    notes = rule["annotations"]

    assert re.fullmatch(r"Bwexporter([A-Z][a-z]+)+", name)
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["labels"]["notify"] in {"owner", "operator"}
    assert "{{" not in str(rule["labels"])
    assert "$value" not in notes["summary"]
    assert notes["summary"].endswith(".")
    assert notes["description"].endswith((".", "}}")), notes["description"]
    assert notes["runbook_url"].endswith(f"/{name}.md")
    assert re.match(r"https://grafana\.example\.org/d/bwexporter-(fleet|node|slice|exporter)", notes["dashboard_url"])


@each_alert
def test_the_labels_that_an_alert_names_are_there(name: str) -> None:
    """They survive the aggregations and joins of its expression."""
    named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[name]["annotations"])))

    assert named <= promql.labels(tree(ALERTS[name]), KNOWN)


@each_alert
def test_the_queries_in_an_alert_s_texts_read_what_is_exposed(name: str) -> None:
    """Figures come by queries of their own, which name every label of the lane."""
    for text in ALERTS[name]["annotations"].values():
        for metric in re.findall(r"bwexporter_\w+", text):
            assert metric in KNOWN
        for query in re.findall(r'printf "(last_over_time\([^"]*|8 \* last[^"]*)" \$of', text):
            selector = '{job="a",instance="b",device="c",slice="d",traffic="e"}[1h])'
            promql_parser.parse(query.replace("%s", selector))


@each_alert
def test_absence_is_told_after_a_while(name: str) -> None:
    """One scrape that is missed is no news."""
    absent = any(
        getattr(getattr(node, "func", None), "name", "") == "absent" for node in promql.every(tree(ALERTS[name]))
    )

    assert not absent or ALERTS[name].get("for")


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_a_recording_is_named_level_metric_operation(name: str) -> None:
    """And no counter's _total is left in the name of a rate."""
    level, metric, operation = name.split(":")

    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", level)
    assert re.fullmatch(r"bwexporter_[a-z_]+", metric)
    assert re.fullmatch(r"held|ratio|rate\d+m", operation)
    assert "_total" not in name


def test_no_rule_is_there_twice() -> None:
    """Neither by name nor by expression."""
    assert len(RULES) == len(ALERTS) + len(RECORDINGS)
    twice = [
        text
        for text, times in Counter(promql_parser.parse(rule["expr"]).prettify() for rule in RULES).items()
        if times > 1
    ]

    assert [] == twice


@pytest.mark.parametrize("name", sorted(name for name, rule in ALERTS.items() if rule["labels"]["notify"] == "owner"))
def test_what_owners_are_told_outlives_an_exporter_that_is_down(name: str) -> None:
    """Either the alert rests on what is held, or its end is not told at all (severity info)."""
    rule = ALERTS[name]
    held = {one.metric for one in promql.selected(tree(rule)) if one.metric.startswith("lane:")}

    assert rule["labels"]["severity"] == "info" or (held and all(metric.endswith(":held") for metric in held))
    assert seconds(rule["keep_firing_for"]) > 4 * 15


def seconds(written: str) -> int:
    """Read a duration of one unit."""
    return int(written[:-1]) * {"s": 1, "m": 60, "h": 3600}[written[-1]]


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """Each says what it means, what to look at, and what to do."""
    assert set(ALERTS) == set(RUNBOOKS)
    for name, text in RUNBOOKS.items():
        assert text.startswith(f"# {name}\n")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert ["What it means", "What to look at", "What to do"] == headings


def test_runbooks_name_alerts_and_commands_that_exist() -> None:
    """A runbook that sends one to a command that is not there is worse than none."""
    text = "\n".join(RUNBOOKS.values())

    assert set(re.findall(r"\bBwexporter\w+", text)) <= set(ALERTS)
    assert set(re.findall(r"`bwexporter (\w+)", text)) <= set(cli.commands)


def test_what_runbooks_tell_one_to_type_is_understood() -> None:
    """Every command of ours with its arguments; --help stands in for doing it."""
    for line in re.findall(r"`bwexporter ([^`]+)`", "\n".join(RUNBOOKS.values())):
        command, words = cli, line.split()
        while isinstance(command, click.Group) and words:
            command = command.commands[words.pop(0)]
        assert not isinstance(command, click.Group), line
        command.make_context(line, words)
