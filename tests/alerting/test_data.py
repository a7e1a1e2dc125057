"""Every dashboard and every rule finds something in a real Prometheus that scrapes the demo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest

from tests import promql
from tests.alerting.mailbox import Mailbox
from tests.alerting.servers import Chain, Haste
from tests.kernel.daemon_rig import wait_for
from tests.test_dashboards import BOARDS, expressions, panels
from tests.test_demo import running
from tests.test_rules import RULES

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

ASKED = {"$__rate_interval": "8s", "$__range": "20s", "$job": ".+", "$instance": ".+", "$slice": ".+"}
ONLY_AT_TIMES = {
    "bwexporter_apmon_dropped_datagrams_total",
    "bwexporter_apmon_last_success_timestamp_seconds",
    "lane:bwexporter_slice_over_allowance:held",
}
"""What there is only where something is pushed, or only while something is wrong."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Give a Prometheus that has seen the demo's first slice capped."""
    if os.geteuid():
        pytest.skip("test_demo.py shows that the demo runs for an ordinary user")
    folder, scratch = tmp_path_factory.mktemp("chain"), tmp_path_factory.mktemp("scratch")
    with running(scratch) as demo, Mailbox() as mailbox:
        target = demo.first_line.split("http://")[1].split("/")[0]
        with Chain(Path(folder), [target], mailbox.address, haste=Haste(scrape="1s")) as started:
            wait_for(lambda: started.query("bwexporter_slice_capped == 1"), seconds=90, what="the first cap")
            wait_for(lambda: started.query("lane:bwexporter_slice_capped:held"), seconds=30, what="the rules")
            yield started


def asked(chain: Chain, expression: str) -> bool:
    """Say whether an expression has a series now; a bad one is an error."""
    for name, value in ASKED.items():
        expression = expression.replace(name, value)
    return bool(chain.query(expression))


def test_every_panel_shows_something(chain: Chain) -> None:
    """A target that shows trouble alone (`> 0`) may be empty; a panel may not."""
    silent = [
        (uid, panel["title"], target["expr"])
        for uid in BOARDS
        for panel in panels(uid)
        for target in panel["targets"]
        if not asked(chain, target["expr"]) and not target["expr"].endswith("> 0")
    ]

    assert [] == silent


def test_every_variable_has_values(chain: Chain) -> None:
    """Or a dashboard would be empty from the start; the marks need a change to show, test_mail.py makes one."""
    for uid in BOARDS:
        names = {one["name"] for one in BOARDS[uid]["templating"]["list"] if one["type"] == "query"}
        for title, expression in expressions(uid):
            assert title not in names or asked(chain, expression), (uid, title)


def test_every_metric_that_a_rule_reads_is_there(chain: Chain) -> None:
    """Those of the program and those that rules record, but for what is there only while something is wrong."""
    read = {one.metric for rule in RULES for one in promql.selected(promql_parser.parse(rule["expr"]))}
    missing = {metric for metric in read if not chain.query(f"count({metric})")}

    assert missing <= ONLY_AT_TIMES


def test_no_rule_is_in_error(chain: Chain) -> None:
    """Prometheus says of each rule how its last evaluation went."""
    rules = [rule for group in chain.prometheus.get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]

    assert len(RULES) == len(rules)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}
