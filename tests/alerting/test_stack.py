"""`make stack`: one command for all that watches a node.

The stack is also where every dashboard and every rule is asked of a real Prometheus that scrapes the demo.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest

from tests import promql
from tests.test_dashboards import BOARDS, expressions, panels
from tests.test_rules import RULES
from tests.waiting import PATIENCE_SECONDS, wait_until

ASKED = {"$__rate_interval": "8s", "$__range": "20s", "$job": ".+", "$instance": ".+", "$slice": ".+"}
ONLY_AT_TIMES = {
    "bwexporter_apmon_dropped_datagrams_total",
    "bwexporter_apmon_last_success_timestamp_seconds",
    "lane:bwexporter_slice_over_allowance:held",
}
"""What there is only where something is pushed, or only while something is wrong."""


class Stack:
    """A running `make stack`, until the first slice's owner has been told of its cap."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process, self.scratch = process, scratch
        self.lines: list[str] = []
        assert process.stdout
        for line in process.stdout:
            self.lines.append(line)
            if "greedy_tcp@slices.example.org: [bwexporter] greedy_tcp: capped on" in line:
                break
        found = re.search(r"^Prometheus +(\S+)/alerts$", self.said(), re.MULTILINE)
        assert found, self.said()
        self._client = httpx.Client(base_url=found[1], timeout=PATIENCE_SECONDS, trust_env=False)

    def said(self) -> str:
        """Return what it has printed."""
        return "".join(self.lines)

    def ask(self, expression: str) -> bool:
        """Say whether an expression has a series now; a bad one is an error."""
        for name, value in ASKED.items():
            expression = expression.replace(name, value)
        answer = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return bool(answer["data"]["result"])

    def silent(self, expressions: Iterable[str]) -> set[str]:
        """Return the expressions that have no series, and get none for a while: what was scraped is a gap at times."""
        left = set(expressions)

        def all_speak() -> bool:
            left.difference_update([one for one in left if self.ask(one)])
            return not left

        with suppress(AssertionError):
            wait_until(all_speak)
        return left

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule as Prometheus has it."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def family(self) -> list[int]:
        """Return the processes that it has started."""
        parents = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                except (FileNotFoundError, ProcessLookupError):
                    continue
        family = [self.process.pid]
        for one in family:
            family += [child for child, parent in parents.items() if parent == one]
        return family[1:]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start it as `make stack` does."""
    if os.geteuid():
        pytest.skip("test_demo.py shows that the demo runs for an ordinary user")
    scratch = tmp_path_factory.mktemp("scratch")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.alerting"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # a terminal's Ctrl-C reaches every process of the group
    )
    try:
        yield Stack(process, scratch)
    finally:
        process.terminate()
        process.communicate(timeout=2 * PATIENCE_SECONDS)


@pytest.mark.kernel
@pytest.mark.timeout(600)
class TestStack:
    """The whole chain beside the demo."""

    def test_it_says_where_one_can_look_and_shows_mails(self, stack: Stack) -> None:
        """With a browser, while it runs."""
        assert re.search(r"greedy_tcp: capped on 127\.0\.0\.1:\d+", stack.lines[-1]), stack.said()
        for name in ("exporter", "Prometheus", "Alertmanager"):
            assert re.search(rf"^{name} +http://127\.0\.0\.1:\d+/", stack.said(), re.MULTILINE)

    def test_every_panel_shows_something(self, stack: Stack) -> None:
        """A target that shows trouble alone (`> 0`) may be empty; a panel may not."""
        asked = [
            (uid, panel["title"], one["expr"]) for uid in BOARDS for panel in panels(uid) for one in panel["targets"]
        ]
        silent = stack.silent([one[2] for one in asked if not one[2].endswith("> 0")])

        assert [] == [one for one in asked if one[2] in silent]

    def test_every_variable_has_values(self, stack: Stack) -> None:
        """Or a dashboard would be empty from the start; the marks need a change to show, test_mail.py makes one."""
        asked = []
        for uid in BOARDS:
            names = {one["name"] for one in BOARDS[uid]["templating"]["list"] if one["type"] == "query"}
            asked += [(uid, title, expression) for title, expression in expressions(uid) if title in names]
        silent = stack.silent([one[2] for one in asked])

        assert [] == [one for one in asked if one[2] in silent]

    def test_every_metric_that_a_rule_reads_is_there(self, stack: Stack) -> None:
        """Those of the program and those that rules record, but for what is there only at times."""
        read = {one.metric for rule in RULES for one in promql.selected(promql_parser.parse(rule["expr"]))}

        assert set() == stack.silent(read - ONLY_AT_TIMES)

    def test_no_rule_is_in_error(self, stack: Stack) -> None:
        """Prometheus says of each rule how its last evaluation went."""
        rules = stack.rules()

        assert len(RULES) == len(rules)
        assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}

    def test_ctrl_c_leaves_nothing_behind(self, stack: Stack) -> None:
        """Its processes and its files are gone; the last test, as the others need it."""
        family = stack.family()
        assert len(family) >= 6

        os.killpg(stack.process.pid, signal.SIGINT)
        assert stack.process.wait(timeout=2 * PATIENCE_SECONDS) == 0
        wait_until(lambda: not any(Path(f"/proc/{one}").exists() for one in family))
        wait_until(lambda: [] == list(stack.scratch.iterdir()))
