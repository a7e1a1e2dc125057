"""Prometheus and Alertmanager as processes on loopback, with the files that are shipped.

Turns shipped files and a few settings into two running servers. Knows: their flags, and what is changed in the files so
that nobody waits for minutes. Does not know: what is scraped, where mails go.
"""

from __future__ import annotations

import copy
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Haste:
    """How much faster than shipped everything goes."""

    scrape: str = "500ms"
    waits: str = "1s"  # whatever an alert or a group waits for
    digest: str = "1s"
    resend: str = "5s"


class Server:
    """One program that answers on a port of loopback."""

    def __init__(self, program: str, folder: Path, flags: Sequence[str], **known_by: Any) -> None:
        """`known_by` is how one that speaks TLS is asked whether it is ready: what httpx takes."""
        self.port = free_port()
        self.url = f"{'https' if known_by else 'http'}://127.0.0.1:{self.port}"
        self.log_file = folder / f"{program}.log"
        self._command = [*ENDS_WITH_US, program, f"--web.listen-address=127.0.0.1:{self.port}", *flags]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS, trust_env=False, **known_by)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log_file.open("ab") as log_file:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log_file, stderr=log_file)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self.log_file.read_text()[-2000:]
            assert time.monotonic() < deadline, f"{self._command[3]} is not ready"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=PATIENCE_SECONDS)

    def get(self, path: str, **parameters: str | float) -> Any:
        """Ask its API."""
        return self._client.get(path, params=parameters).json()

    def _is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == 200
        return False


class Chain:
    """Both servers, over copies of the shipped files in a folder of theirs.

    `targets` are scraped, `smtp_address` takes the mails. `edit` may change Alertmanager's configuration before it is
    written.
    """

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        smtp_address: str,
        *,
        haste: Haste = Haste(),
        edit: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self._open = ExitStack()
        shutil.copytree(DEPLOY / "alertmanager" / "templates", folder / "templates")
        _write(folder / "alertmanager.yml", alertmanager_config(smtp_address, haste, edit))
        _write(folder / "bwexporter.rules.yml", rules(haste))
        flags = [f"--storage.path={folder / 'alertmanager'}", "--cluster.listen-address="]
        self.alertmanager = Server(
            "prometheus-alertmanager", folder, ["--config.file=alertmanager.yml", *flags, "--data.retention=1080h"]
        )
        _write(folder / "prometheus.yml", prometheus_config(targets, self.alertmanager.port, haste))
        flags = [f"--storage.tsdb.path={folder / 'prometheus'}", f"--rules.alert.resend-delay={haste.resend}"]
        self.prometheus = Server("prometheus", folder, ["--config.file=prometheus.yml", *flags])

    def __enter__(self) -> Self:
        """Start both."""
        for server in (self.alertmanager, self.prometheus):
            self._open.callback(server.stop)
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both."""
        self._open.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask Prometheus for the series of an expression now."""
        answer = self.prometheus.get("/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def firing(self, alert: str) -> list[dict[str, str]]:
        """Return the labels of an alert as Alertmanager has it, each time that it fires."""
        alerts = self.alertmanager.get("/api/v2/alerts", filter=f'alertname="{alert}"')
        return [one["labels"] for one in alerts]


def rules(haste: Haste) -> dict[str, Any]:
    """Return the shipped rules with shorter waits; what they ask and say is the same."""
    written: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "bwexporter.rules.yml").read_text())
    for group in written["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") != "BwexporterAbsent":  # true for a moment wherever Prometheus has just started
                rule.update({name: haste.waits for name in ("for", "keep_firing_for") if name in rule})
    return written


def alertmanager_config(smtp_address: str, haste: Haste, edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the shipped configuration with shorter waits and another mail server."""
    written: dict[str, Any] = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    written["global"]["smtp_smarthost"] = smtp_address
    waits = {"group_wait": "0s", "group_interval": haste.waits}
    written["route"].update(waits)
    for route in written["route"]["routes"]:
        if route["receiver"] == "operators-digest":
            route.update(group_wait=haste.digest, group_interval=haste.digest)
    edit(written)
    return copy.deepcopy(written)


def prometheus_config(targets: Sequence[str], alertmanager_port: int, haste: Haste) -> Mapping[str, Any]:
    """Return the shipped configuration with shorter waits and these targets."""
    written: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    written["global"] = {"scrape_interval": haste.scrape, "evaluation_interval": haste.scrape}
    written["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager_port}"]
    written["scrape_configs"][0]["static_configs"][0]["targets"] = list(targets)
    return written


def _write(path: Path, written: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(written), sort_keys=False, allow_unicode=True))
