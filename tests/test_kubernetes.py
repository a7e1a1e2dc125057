"""The manifests for Kubernetes: each is what its API takes, and what they hold is good where it will be used."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from bwexporter import __version__
from bwexporter.cli.main import cli

ROOT = Path(__file__).parents[1]
MANIFESTS: dict[str, Any] = {
    one["kind"]: one for one in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "bwexporter.yml").read_text())
}
SCHEMA = json.loads((ROOT / "tests" / "data" / "kubernetes.schema.json").read_text())
POD = MANIFESTS["DaemonSet"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def errors(manifest: dict[str, Any]) -> list[str]:
    """Return what the API would refuse, unknown keys included."""
    schema = {"$ref": SCHEMA["kinds"][manifest["kind"]], "$defs": SCHEMA["$defs"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("kind", MANIFESTS)
def test_the_api_takes_each_manifest(kind: str) -> None:
    """By the schemas of Kubernetes and of the Prometheus operator."""
    assert {"Namespace", "ConfigMap", "DaemonSet", "PodMonitor"} == set(MANIFESTS)
    assert errors(MANIFESTS[kind]) == []


def test_a_mistake_is_found() -> None:
    """The schemas are closed, at any depth."""
    broken = copy.deepcopy(MANIFESTS["DaemonSet"])
    broken["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilites"] = {}
    assert errors(broken)
    monitor = copy.deepcopy(MANIFESTS["PodMonitor"])
    monitor["spec"]["podMetricsEndpoints"][0]["ports"] = "metrics"
    assert errors(monitor)


def test_the_files_of_the_map_are_good(tmp_path: Path) -> None:
    """`check` finds nothing wrong with them where they will lie."""
    for name, text in MANIFESTS["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    checked = CliRunner().invoke(cli, ["check", str(tmp_path / "bwexporter.yml")])
    assert checked.exit_code == 0, checked.output


def test_it_is_in_the_node_s_network_with_one_capability() -> None:
    """And may write nowhere but into its state and its /tmp."""
    assert POD["spec"]["hostNetwork"] is True
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {one["name"]: one for one in CONTAINER["volumeMounts"]}
    assert {one["name"] for one in POD["spec"]["volumes"]} == set(mounts)
    assert {name for name, one in mounts.items() if not one.get("readOnly")} == {"state", "tmp"}


def test_the_parts_name_each_other() -> None:
    """Labels, ports and this version's image."""
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["DaemonSet"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["PodMonitor"]["spec"]["selector"]["matchLabels"] == labels
    (port,) = CONTAINER["ports"]
    listen = yaml.safe_load(MANIFESTS["ConfigMap"]["data"]["bwexporter.yml"])["web"]["listen"]
    assert listen == [f"0.0.0.0:{port['containerPort']}"]
    assert {end["port"] for end in MANIFESTS["PodMonitor"]["spec"]["podMetricsEndpoints"]} == {port["name"]}
    assert CONTAINER["image"] == f"bwexporter:{__version__}"


def test_the_program_and_its_probes_are_there() -> None:
    """The arguments are a call of ours; the paths are answered (tests/test_web.py)."""
    name, *words = CONTAINER["args"]
    helped = CliRunner().invoke(cli, [*words, "--help"])
    assert (name, helped.exit_code) == ("bwexporter", 0)
    probes = [CONTAINER[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")]
    assert probes == ["/-/ready", "/-/healthy"]
