"""The dashboards that are shipped: written by the Python beside them, in the usual manners, from what is exposed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest

from dashboards import thresholds
from dashboards.__main__ import FOLDER, files
from tests import grafana_models, promql
from tests.test_rules import ALERTS, KNOWN

BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
DRAWN = {"stat", "timeseries", "bargauge", "table", "text", "row"}
UNITS = {"none", "short", "bps", "decbytes", "bytes", "percentunit", "s", "pps", "suffix:/s", "suffix:p/s"}
ASKED_BY_GRAFANA = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+", "$slice": "codeen"}

each_board = pytest.mark.parametrize("uid", sorted(BOARDS))


def panels(uid: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that ask something."""
    return [panel for panel in BOARDS[uid]["panels"] if panel["type"] not in {"row", "text"}]


def expressions(uid: str) -> Iterator[tuple[str, str]]:
    """Yield every expression of a dashboard, with what it is for: panels, variables, annotations."""
    for panel in panels(uid):
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for mark in BOARDS[uid]["annotations"]["list"]:
        yield mark["name"], mark["expr"]
    for variable in BOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            yield variable["name"], f"count by ({label}) ({selector})"


def filled(expression: str) -> str:
    """Put values for variables."""
    for name, value in ASKED_BY_GRAFANA.items():
        expression = expression.replace(name, value)
    return expression


EXPRESSIONS = [(uid, title, filled(expression)) for uid in BOARDS for title, expression in expressions(uid)]
each_expression = pytest.mark.parametrize(("uid", "title", "expression"), EXPRESSIONS)


def test_the_files_are_what_the_python_writes() -> None:
    """`make dashboards` changes nothing."""
    assert files() == {path.name: path.read_text() for path in FOLDER.glob("*.json")}


@each_board
def test_grafana_s_own_models_read_every_word(uid: str) -> None:
    """As Grafana Labs publishes them: no key is unknown, no value of another type, no unit invented."""
    assert [] == grafana_models.complaints(BOARDS[uid])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda board: board.update(refersh="30s"), "refersh is not known"),
        (lambda board: board["panels"][0]["options"].update(colourMode="value"), "colourMode is not known"),
        (lambda board: board["panels"][0]["options"].update(colorMode="red"), "BigValueColorMode"),
        (lambda board: board["panels"][0]["gridPos"].update(w="4"), "should be <class 'int'>"),
        (lambda board: board["panels"][0]["fieldConfig"]["defaults"].update(unit="bit/s"), "no unit of Grafana's"),
        (lambda board: board["panels"][0]["targets"][0].update(format="series"), "PromQueryFormat"),
        (lambda board: board["templating"]["list"][0].update(type="source"), "VariableType"),
    ],
)
def test_what_grafana_does_not_read_is_found(spoil: Callable[[dict[str, Any]], None], complaint: str) -> None:
    """The check above is one that can fail."""
    board = copy.deepcopy(BOARDS["bwexporter-fleet"])
    spoil(board)

    assert complaint in " ".join(grafana_models.complaints(board))


def test_there_are_four_and_their_uids_never_change() -> None:
    """Links in mails and wikis lead to them."""
    assert {f"bwexporter-{name}" for name in ("fleet", "node", "slice", "exporter")} == set(BOARDS)
    assert all(board["uid"] == uid for uid, board in BOARDS.items())


@each_board
def test_a_dashboard_has_the_usual_manners(uid: str) -> None:
    """As dashboard-linter asks: variables, links, marks, read-only, with no id of one Grafana's."""
    board = BOARDS[uid]
    variables = {one["name"]: one for one in board["templating"]["list"]}

    assert list(variables)[:2] == ["datasource", "job"]
    assert "instance" in variables
    assert all(one["refresh"] == 2 for one in variables.values() if one["type"] == "query")
    assert not board["editable"]
    assert "id" not in board
    assert board["tags"] == ["bwexporter"]
    assert board["description"]
    assert [link["tags"] for link in board["links"] if link["keepTime"] and link["includeVars"]] == [["bwexporter"]]
    assert board["annotations"]["list"]
    assert "__inputs" not in board


@each_board
def test_every_panel_says_what_it_shows_in_a_unit(uid: str) -> None:
    """Title, description, unit, data source, and a type that can be drawn anywhere."""
    for panel in BOARDS[uid]["panels"]:
        assert panel["type"] in DRAWN
        assert panel["title"]
    for panel in panels(uid):
        defaults = panel["fieldConfig"]["defaults"]
        overrides = [one for o in panel["fieldConfig"]["overrides"] for one in o["properties"] if one["id"] == "unit"]
        assert panel["description"].endswith(".")
        assert {defaults["unit"], *(one["value"] for one in overrides)} <= UNITS
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_board
def test_panels_lie_side_by_side_and_never_on_one_another(uid: str) -> None:
    """In 24 columns, each with a number of its own."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[uid]["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in BOARDS[uid]["panels"]]
    assert len(set(numbers)) == len(numbers)


@each_expression
def test_an_expression_reads_only_what_is_exposed(uid: str, title: str, expression: str) -> None:
    """By metrics and labels that exist, for the nodes that were chosen, counters as rates."""
    for one in promql.selected(promql_parser.parse(expression)):
        named = {label for label, _, _ in one.matchers}
        assert one.metric in KNOWN
        assert named <= KNOWN[one.metric]
        assert "instance" in named or title in {"job", "instance", "slice"}
        assert "job" in named or title == "job"
        assert bool(promql.COUNTER_FUNCTIONS & set(one.functions)) == (
            one.metric.endswith(("_total", "_bucket", "_sum", "_count"))
        )
    assert "bwexporter" in expression or "process_" in expression or "up{" in expression, uid


@each_expression
def test_labels_that_an_expression_gathers_by_are_there(uid: str, title: str, expression: str) -> None:
    """Gathering by a label that does not exist gives one row for all."""
    for node in promql.every(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= promql.labels(node.expr, KNOWN), (uid, title)


@each_board
def test_legends_and_keys_name_labels_that_are_there(uid: str) -> None:
    """A legend of a label that is not there is empty."""
    for panel in panels(uid):
        for target in panel["targets"]:
            left = promql.labels(promql_parser.parse(filled(target["expr"])), KNOWN)
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left, panel["title"]


@each_board
def test_rates_ask_grafana_for_their_range(uid: str) -> None:
    """Fixed ranges are too short on one zoom and too long on another; marks have fixed steps."""
    for panel in panels(uid):
        for target in panel["targets"]:
            assert all(span.startswith("$__") for span in re.findall(r"\[([^\]]+)\]", target["expr"]))


@each_board
def test_links_lead_to_dashboards_and_variables_that_are_there(uid: str) -> None:
    """Down to the slice, across to the node, at the same time range."""
    found = re.findall(r'"/d/([\w-]+)\?([^"]*)"', json.dumps(BOARDS[uid]))

    for target, question in found:
        variables = {one["name"] for one in BOARDS[target]["templating"]["list"]}
        assert "${__url_time_range}" in question
        assert set(re.findall(r"var-(\w+)=", question)) <= variables
    assert found or uid == "bwexporter-exporter"


def test_alerts_lead_to_dashboards_and_variables_that_are_there() -> None:
    """The links in the alerts name dashboards of ours by uid."""
    for rule in ALERTS.values():
        uid, _, question = rule["annotations"]["dashboard_url"].rpartition("/")[2].partition("?")
        variables = {one["name"] for one in BOARDS[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", question)) <= variables


@each_board
def test_every_colour_that_means_trouble_begins_where_a_rule_does(uid: str) -> None:
    """A number in a panel is one of the rules', or one that speaks for itself: 1 of something, the whole of it."""
    of_rules = {thresholds.threshold(name) for name in ALERTS if re.search(r"\d\s*$", ALERTS[name]["expr"])}
    allowed = of_rules | {1.0, thresholds.threshold("BwexporterDirectTraffic") / 900}
    for steps in re.findall(r'"steps": (\[.*?\])', json.dumps(BOARDS[uid])):
        assert {float(one["value"]) for one in json.loads(steps) if one["value"] is not None} <= allowed


@each_board
def test_a_state_has_one_colour_on_every_panel(uid: str) -> None:
    """Green is well, orange is capped, red is trouble."""
    colours: dict[str, str] = {}
    for text, colour in re.findall(r'"color": "(\w+)", "index": \d+, "text": "([^"]+)"', json.dumps(BOARDS[uid])):
        assert colours.setdefault(colour, text) == text
