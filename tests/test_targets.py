"""Who is to be scraped: the nodes that sources name, as Prometheus takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bwexporter.cli.main import cli
from bwexporter.keys import Listen
from bwexporter.slices.fleet import FleetNode, each_once
from bwexporter.slices.listing import read_listing
from bwexporter.targets import Scraped, groups
from bwexporter.yamlfile import parse_yaml

CONFIG = "devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\nnode: node1\nstate: state.db\n"


def listing(text: str) -> tuple[tuple[FleetNode, ...], list[str]]:
    """Return the nodes that a file of slices names, and what is wrong with it."""
    reading = read_listing(parse_yaml(text.encode(), file="slices.yml"))
    return reading.fleet, [str(problem) for problem in reading.problems]


def targets(folder: Path, *flags: str, slices: str = "slices: []\n", config: str = "") -> Result:
    """Run the command on two files."""
    (folder / "bwexporter.yml").write_text(f"{CONFIG}slices: [{{file: slices.yml}}]\n{config}")
    (folder / "slices.yml").write_text(slices)
    return CliRunner().invoke(cli, ["targets", "--config", str(folder / "bwexporter.yml"), *flags])


def test_a_node_is_a_name_or_has_keys() -> None:
    """A port and labels of its own."""
    nodes, problems = listing("slices: []\nnodes: [node1, {name: 2001:db8::1, port: 80, labels: {site: lyon}}]\n")
    assert nodes == (FleetNode("node1"), FleetNode("2001:db8::1", 80, {"site": "lyon"}))
    assert problems == []


@pytest.mark.parametrize(
    ("node", "kept", "said"),
    [
        ("'http://node1/'", [], 'slices.yml:3: nodes[0]: "http://node1/" is not a host'),
        ("'node1:80'", [], "a port goes into the key port (this node is left out)"),
        ("7", [], "this node is left out"),
        ("{port: 80}", [], "nodes[0].name: is missing"),
        ("{name: node1, port: 0}", [FleetNode("node1")], "must be a whole number from 1 to 65535 (node node1)"),
        ("{name: node1, labels: {slice: x}}", [FleetNode("node1")], "is a label that bwexporter sets itself"),
        ("{name: node1, prt: 80}", [FleetNode("node1")], 'did you mean "port"?'),
    ],
)
def test_a_bad_node_costs_itself_and_a_bad_key_the_key(node: str, kept: list[FleetNode], said: str) -> None:
    """Other nodes and all slices stay."""
    nodes, (problem,) = listing(f"slices: [{{name: ann}}]\nnodes:\n  - {node}\n  - node2\n")
    assert list(nodes) == [*kept, FleetNode("node2")]
    assert said in problem


def test_of_a_host_that_is_named_twice_the_later_word_holds() -> None:
    """As a file of the operator corrects what a server says."""
    named = [FleetNode("a", 1), FleetNode("b"), FleetNode("a", 2)]
    assert each_once(named) == (FleetNode("a", 2), FleetNode("b"))


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        (Listen("", 10099), "node1:10099"),
        (Listen("::", 10099), "node1:10099"),
        (Listen("0.0.0.0", 9000), "node1:9000"),  # noqa: S104 - compared, not bound
        (Listen("127.0.0.1", 10099), "127.0.0.1:10099"),
        (Listen("2001:db8::1", 10099), "[2001:db8::1]:10099"),
    ],
)
def test_this_node_is_where_it_listens(listen: Listen, target: str) -> None:
    """By its name where it listens on every address."""
    assert groups(Scraped("node1", [listen]), []) == [{"targets": [target], "labels": {}}]


def test_a_node_that_listens_on_a_path_alone_is_no_target() -> None:
    """Prometheus cannot reach it; the whole list is then empty, not absent."""
    assert groups(Scraped("node1", [Listen("", 0, "/run/web.sock")]), []) == []


def test_the_list_of_the_fleet_says_how_this_node_is_reached() -> None:
    """It is not there twice; nodes with the same labels stand together, each with how it is scraped."""
    here = Scraped("node1", [Listen("127.0.0.1", 9000)], "/probe", tls=True)
    how = {"__metrics_path__": "/probe", "__scheme__": "https"}
    nodes = [FleetNode("node1"), FleetNode("node2", labels={"site": "lyon"}), FleetNode("node3", 80)]
    assert groups(here, nodes) == [
        {"targets": ["node1:9000", "node3:80"], "labels": how},
        {"targets": ["node2:9000"], "labels": {"site": "lyon", **how}},
    ]


def test_the_command_prints_what_prometheus_reads(tmp_path: Path) -> None:
    """As a table, as JSON, and as a file for file_sd_configs."""
    slices = "slices: []\nnodes: [{name: node2, labels: {site: lyon}}]\n"
    wanted = [
        {"targets": ["127.0.0.1:10099"], "labels": {}},
        {"targets": ["node2:10099"], "labels": {"site": "lyon"}},
    ]
    assert json.loads(targets(tmp_path, "--json", slices=slices).stdout) == wanted
    lines = targets(tmp_path, slices=slices).stdout.splitlines()
    assert [line.split() for line in lines] == [["target", "labels"], ["127.0.0.1:10099"], ["node2:10099", "site=lyon"]]
    written = targets(tmp_path, "--output", str(tmp_path / "sd.json"), slices=slices)
    assert (written.exit_code, written.output) == (0, "")
    assert json.loads((tmp_path / "sd.json").read_text()) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bwexporter.yml", "sd.json", "slices.yml"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """In one sentence."""
    refused = targets(tmp_path, "--output", str(tmp_path / "none" / "sd.json"))
    assert str(refused.exception).endswith("none/sd.json: No such file or directory")


def keys_of(groups_: list[Mapping[str, Any]]) -> set[str]:
    """Return the labels of all groups."""
    return {name for group in groups_ for name in group["labels"]}


def test_the_command_says_by_which_way_metrics_are_reached(tmp_path: Path) -> None:
    """The path and the scheme are those of the files."""
    config = "web: {telemetry_path: /probe, config_file: web.yml}\n"
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: a.crt, key_file: unreadable.key}\n")
    answer = targets(tmp_path, "--json", config=config)
    assert keys_of(json.loads(answer.stdout)) == {"__metrics_path__", "__scheme__"}
