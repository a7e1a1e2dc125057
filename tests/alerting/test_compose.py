"""deploy/compose.yml: each service is run as compose asks for it, on one network, with the files that are shipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.alerting.container import IMAGES, running
from tests.alerting.servers import DEPLOY
from tests.kernel.daemon_rig import Room, skip_where_no_room_can_be_made, wait_for
from tests.waiting import PATIENCE_SECONDS

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROVIDER_KEYS = {
    *("name", "type", "orgId", "folder", "folderUid", "editable", "options", "disableDeletion"),
    *("updateIntervalSeconds", "allowUiUpdates"),
}
DATASOURCE_KEYS = {
    *("orgId", "orgName", "version", "name", "type", "access", "url", "user", "database", "basicAuth", "basicAuthUser"),
    *("withCredentials", "isDefault", "correlations", "jsonData", "secureJsonData", "editable", "uid"),
}
"""What Grafana reads of its provisioning files (pkg/services/provisioning, types.go); it says nothing of other keys."""

UNDERSTOOD = {
    *("build", "image", "command", "network_mode", "cap_drop", "cap_add", "read_only", "volumes", "tmpfs", "restart"),
    "environment",
}
EXPORTER, PROMETHEUS, ALERTMANAGER = (f"http://127.0.0.1:{port}" for port in (10099, 9090, 9093))


class Node:
    """A host with a device of the name that the example has, and what runs on it."""

    def __init__(self, room: Room, logs: Mapping[str, Path]) -> None:
        self._room, self._logs = room, logs
        with room.entered():  # sockets are made by the thread that asks, and asked they are in there
            self._client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False)

    def ask(self, url: str, **parameters: str) -> Any:
        """Ask a server of the node; None where it does not answer yet."""
        with self._room.entered(), suppress(httpx.TransportError):
            answer = self._client.get(url, params=parameters)
            if answer.status_code == 200:
                return answer.json() if answer.headers["content-type"].startswith("application/json") else answer.text
        return None

    def wait_for(self, happened: Callable[[], Any], what: str) -> Any:
        """Wait for something; where it does not happen, say what the services said."""
        try:
            return wait_for(happened, seconds=2 * PATIENCE_SECONDS, what=what)
        except AssertionError as error:
            said = "".join(f"\n{name}:\n{log.read_text()[-2000:]}" for name, log in self._logs.items())
            raise AssertionError(f"{error}{said}") from error

    def classes(self) -> str:
        """Return what tc says of the device."""
        return self._room.run("tc class show dev eth0")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run every service but Grafana, which Debian has not."""
    if os.geteuid():
        pytest.skip("a root folder of its own is made by root alone")
    skip_where_no_room_can_be_made()
    folder = tmp_path_factory.mktemp("compose")
    with Room() as room, ExitStack() as open_things:
        for command in ("ip link add eth0 type veth peer name far", "ip link set far up", "ip link set eth0 up"):
            room.run(command)
        logs = {name: open_things.enter_context(running(name, SERVICES[name], room.enter, folder)) for name in IMAGES}
        made = Node(room, logs)
        for url in (EXPORTER, PROMETHEUS, ALERTMANAGER):
            made.wait_for(lambda url=url: made.ask(f"{url}/-/ready"), f"{url} to be ready")
        yield made


@pytest.mark.kernel
@pytest.mark.timeout(600)
class TestServices:
    """What runs, and whom it found."""

    def test_the_exporter_shapes_the_device_of_the_host(self, node: Node) -> None:
        """As its user with one capability, on a root that cannot be written to."""
        node.wait_for(lambda: "bwexporter_up 1" in (node.ask(f"{EXPORTER}/metrics") or ""), "a turn")
        node.wait_for(lambda: "1:1011" in node.classes(), "the class of the slice with id 17")

    def test_prometheus_has_the_rules_and_has_found_both(self, node: Node) -> None:
        """By the addresses in its configuration."""
        (group,) = node.wait_for(lambda: node.ask(f"{PROMETHEUS}/api/v1/targets")["data"]["activeTargets"], "a target")
        rules = node.wait_for(lambda: node.ask(f"{PROMETHEUS}/api/v1/rules")["data"]["groups"], "rules")
        found = node.wait_for(
            lambda: node.ask(f"{PROMETHEUS}/api/v1/alertmanagers")["data"]["activeAlertmanagers"], "an Alertmanager"
        )

        assert group["scrapeUrl"] == f"{EXPORTER}/metrics"
        assert any(found["rules"] for found in rules)
        assert [one["url"] for one in found] == [f"{ALERTMANAGER}/api/v2/alerts"]

    def test_alertmanager_has_its_routes_and_templates(self, node: Node) -> None:
        """It does not start where one of them cannot be read."""
        assert "owner-alias" in node.ask(f"{ALERTMANAGER}/api/v2/status")["config"]["original"]


def test_every_key_of_compose_is_one_that_is_tried() -> None:
    """A key that nobody tries could say anything; Grafana alone is not run here."""
    assert {key for service in SERVICES.values() for key in service} <= UNDERSTOOD
    assert set(SERVICES) - set(IMAGES) == {"grafana"}
    assert all("environment" not in SERVICES[name] for name in IMAGES)


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_mounts_what_is_there_and_listens_on_loopback(service: str) -> None:
    """Every file that is mounted is shipped, read-only; every volume is declared."""
    for mount in SERVICES[service]["volumes"]:
        source, _, target = mount.partition(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert target.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
    assert SERVICES[service]["network_mode"] == "host"
    for flag in SERVICES[service].get("command", ()):
        assert "web.listen-address" not in flag or "=127.0.0.1:" in flag


def test_the_exporter_has_one_capability_and_no_more() -> None:
    """The image is the project's own."""
    exporter = SERVICES["bwexporter"]

    assert (["ALL"], ["NET_ADMIN"]) == (exporter["cap_drop"], exporter["cap_add"])
    assert (DEPLOY / exporter["build"]["context"] / exporter["build"]["dockerfile"]).exists()


def test_everybody_finds_everybody() -> None:
    """Addresses and paths in the files are those of the services."""
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "bwexporter.yml").read_text())["providers"][0]
    listens = {name: _flag(name, "web.listen-address") for name in ("prometheus", "alertmanager")}
    exporter = yaml.safe_load((DEPLOY / "bwexporter.yml").read_text())["web"]["listen"]

    assert source["url"] == f"http://{listens['prometheus']}"
    targets = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert targets == [listens["alertmanager"]]
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == exporter
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in SERVICES["grafana"]["volumes"])


def test_grafana_is_given_keys_that_it_reads() -> None:
    """A misspelt one would be passed over in silence."""
    folder = DEPLOY / "grafana" / "provisioning"
    providers = yaml.safe_load((folder / "dashboards" / "bwexporter.yml").read_text())
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())

    assert {"apiVersion", "providers"} == set(providers)
    assert {"apiVersion", "datasources"} == set(sources)
    assert all(set(one) <= PROVIDER_KEYS and one["options"].keys() == {"path"} for one in providers["providers"])
    assert all(set(one) <= DATASOURCE_KEYS for one in sources["datasources"])
    assert {one["type"] for one in sources["datasources"]} == {"prometheus"}


def _flag(service: str, name: str) -> str:
    (flag,) = [flag for flag in SERVICES[service]["command"] if flag.startswith(f"--{name}=")]
    return str(flag.partition("=")[2])
