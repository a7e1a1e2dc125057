"""`make stack` and the compose file: one command each for all that watches a node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerting.servers import DEPLOY

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.kernel
@pytest.mark.timeout(180)
def test_the_stack_shows_mails_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Until Ctrl-C: its processes, and its files, are gone then."""
    if os.geteuid():
        pytest.skip("test_demo.py shows that the demo runs for an ordinary user")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.alerting"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "greedy_tcp@slices.example.org: [bwexporter] greedy_tcp: capped on" in line:
                break
        assert re.search(r"greedy_tcp: capped on 127\.0\.0\.1:\d+", lines[-1]), "".join(lines)
        assert all(any(line.startswith(name) for line in lines) for name in ("exporter", "Prometheus", "Alertmanager"))
        family = _family(process.pid)
        assert len(family) >= 6

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) == 0
        assert [] == list(tmp_path.iterdir())
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{one}").exists() for one in family):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()


def _family(ancestor: int) -> list[int]:
    """Return the processes below one."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    family = [ancestor]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family[1:]


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


def _flag(service: str, name: str) -> str:
    (flag,) = [flag for flag in SERVICES[service]["command"] if flag.startswith(f"--{name}=")]
    return str(flag.partition("=")[2])
