"""The commands of the documentation work: each is run as it stands, on a node as the documentation describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.documented import PAGES, Line, lines_of
from tests.kernel.daemon_rig import skip_where_no_room_can_be_made, wait_for
from tests.kernel.documented_node import ROOT, DocumentedNode

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

INSTALL_CHECK = "it changes a whole system: make install-check runs it on fresh ones"
ITSELF = "it is a verb of the project's own, which make and CI run"
NAME = "it names the command; a line in full stands elsewhere and is run"
NOT_RUN: Mapping[str, str] = {
    r"apt install .*": INSTALL_CHECK,
    r"python3 -m venv /opt/bwexporter": INSTALL_CHECK,
    r"/opt/bwexporter/bin/pip install .*": INSTALL_CHECK,
    r"python3 -m build --wheel": INSTALL_CHECK,
    r"pip install 'bwexporter.*'": "it asks an index of packages, and tests need nothing outside the machine",
    r"pipx install.*": INSTALL_CHECK,
    r"ln -s /opt/.*": INSTALL_CHECK,
    r"useradd .*": INSTALL_CHECK,
    r"install -D -m 0640 -g bwexporter .*": INSTALL_CHECK,
    r"cp deploy/systemd/.*": INSTALL_CHECK,
    r"systemctl .*": f"no systemd runs on this node; {INSTALL_CHECK}",
    r"docker .*": "there is no container engine here; make install-check builds the image and runs it",
    r"ansible-doc .*": f"Ansible is no dependency; {INSTALL_CHECK}",
    r"editor .*": "it waits for a person",
    r"make .*": ITSELF,
    r"bwexporter run": "it is what answers all the others",
    r"bwexporter apmon decode --listen 8884": "it runs all the while, and hears what is sent",
    r"bwexporter demo": "tests/test_demo.py runs it",
    r"apt-get install .*": INSTALL_CHECK,
    r"bwexporter slice cap\|.*": NAME,
    r"bwexporter (replay --policy FILE|apmon send|freeze|why|slice lend)": NAME,
    r"nft \.\.\. meta priority": "a form of a rule, not a command",
}
"""What is not run here, and why: patterns of whole lines."""

ENDED = 143
UNTIL_ENDED = "timeout --preserve-status --signal=TERM 20"  # by then a command has begun, on a slow machine too
ENDLESS: Mapping[str, int] = {
    r"bwexporter run --shadow": 0,
    r"bwexporter status --watch": ENDED,
    r"tc monitor": ENDED,
    r"nft monitor": ENDED,
}
"""What goes on until it is ended, and how it then ends: by itself, or by the signal."""

BEFORE = r"bwexporter (run|tree build|tree remove)\b.*"
"""What is for a node on which nothing runs."""

DATAGRAM = (  # that of docs/apmon.md
    "00000009763a322e322e30703a00000000000007000000010000000163000000000000016e"
    "0000000000000100000001700000000000000200000005"
)
RULES_TEST = "promtool test rules bwexporter.rules.test.yml"
COMPLETED: Mapping[str, str] = {
    "cp -p state.db state.db.before": "cd /var/lib/bwexporter && cp -p state.db state.db.before",
    "bwexporter apmon encode --json datagram.json": (
        f"bwexporter apmon decode --json {DATAGRAM} > datagram.json && bwexporter apmon encode --json datagram.json"
    ),
    "promtool check web-config": "promtool check web-config deploy/web.yml",
    RULES_TEST: f"cd deploy/prometheus && {RULES_TEST}",
}
"""What a page names in a sentence that says the rest."""

SAY_NO: Mapping[str, str] = {
    r"bwexporter replay --policy .*--from 5m.*": "in that span",
    r"bwexporter tree check( --no-probe| --json| princeton_codeen)?": "nothing tells its traffic",
}
"""What may end with exit code 1 here, and what it then says: the node is young, and its slices are examples."""


def each_once() -> Iterator[Line]:
    """Yield the lines of all pages, each where it stands first."""
    seen = set[str]()
    for line in (line for page in PAGES for line in lines_of(page)):
        if line.text not in seen:
            yield line
        seen.add(line.text)


LINES = list(each_once())


def is_one_of(patterns: Mapping[str, object], line: str) -> bool:
    """Say whether a line is whole one of the patterns."""
    return any(re.fullmatch(pattern, line) for pattern in patterns)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentedNode]:
    """Return the node."""
    skip_where_no_room_can_be_made()
    with DocumentedNode(tmp_path_factory.mktemp("node")) as made:
        yield made


def trouble(node: DocumentedNode, line: Line) -> str:
    """Run a line; say what is wrong with how it went."""
    typed = COMPLETED.get(line.text, line.text)
    endless = next((code for pattern, code in ENDLESS.items() if re.fullmatch(pattern, line.text)), None)
    done = node.run(f"{UNTIL_ENDED} {typed}" if endless is not None else typed)
    refusal = next((said for pattern, said in SAY_NO.items() if re.fullmatch(pattern, line.text)), None)
    refused = done.returncode == 1 and refusal is not None and refusal in done.stdout + done.stderr
    if done.returncode != (endless or 0) and not refused:
        return f"{line.page}: {typed}: exit code {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
    said = {" ".join(one.split()) for one in done.stdout.splitlines()}
    missing = [one for one in line.answer if " ".join(one.split()) not in said]
    return f"{line.page}: {typed} does not answer {missing}: {done.stdout}" if missing else ""


def test_the_commands_work(node: DocumentedNode) -> None:
    """Those for a node on which nothing runs, then the others beside the running daemon, in the order of the pages."""
    to_run = [line for line in LINES if not is_one_of(NOT_RUN, line.text)]
    first = [line for line in to_run if re.fullmatch(BEFORE, line.text)]
    troubles = [trouble(node, line) for line in first]
    installed = [line for line in to_run if line.page == "docs/alerts.md" and line.text.startswith("install")]
    troubles += [trouble(node, line) for line in installed]
    node.start()
    discovery = (ROOT / "docs" / "discovery.md").read_text()
    by_http = next(block for block in re.findall(r"(?s)```yaml\n(.*?)```", discovery) if "http_sd" in block)
    node.start_prometheus(yaml.safe_load(by_http))
    discovered = {"node1.example.org:10099": "1", "node2.example.org:10100": "0"}  # the other one is not there
    wait_for(lambda: discovered.items() <= up(node).items(), what="a scrape of each that is discovered")
    others = [line for line in to_run if line not in (*first, *installed)]
    with ThreadPoolExecutor() as pool:  # what is ended after a while is waited for by the way
        waiting = [pool.submit(trouble, node, line) for line in others if is_one_of(ENDLESS, line.text)]
        troubles += [trouble(node, line) for line in others if not is_one_of(ENDLESS, line.text)]
        troubles += [one.result() for one in waiting]
    assert not any(troubles), "\n".join(filter(None, [*troubles, node.logs()]))


def up(node: DocumentedNode) -> dict[str, str]:
    """Return what Prometheus says of each node that it discovered."""
    answer = json.loads(node.asked("http://127.0.0.1:9090/api/v1/query?query=up"))
    return {one["metric"]["instance"]: one["value"][1] for one in answer["data"]["result"]}


def test_each_command_is_run_or_a_reason_given() -> None:
    """And no reason is left over from a line that has gone."""
    assert len([line for line in LINES if not is_one_of(NOT_RUN, line.text)]) > 50
    unused = [
        pattern
        for pattern in (*NOT_RUN, *ENDLESS, *SAY_NO)
        if not any(re.fullmatch(pattern, one.text) for one in LINES)
    ]
    assert [] == unused
    assert set(COMPLETED) <= {line.text for line in LINES}
