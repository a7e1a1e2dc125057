"""A node as the documentation describes it, to try its command lines on.

Turns the shipped examples into a running node in namespaces of its own: a device eth0, /etc/bwexporter, the daemon at
127.0.0.1:10099, and beside it a Prometheus that discovers it, an Alertmanager, a receiver of ApMon. Knows: which files
lie where. Does not know: what is typed.

/etc, /var and /run are the node's own, in memory, and go with it; nothing of this machine's is changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.certificates import Authority
from tests.kernel.daemon_rig import wait_for

ROOT = Path(__file__).parent.parent.parent
HOSTS = "127.0.0.1 localhost mona.example.org prometheus.example.org node1.example.org node1\n"
NAMED_IN_PAGES = "  - {name: ann, match: {mark: 0x7}}\n"
"""Slices of the pages' examples that are not among the shipped ones."""

_OF_ETC = "alternatives group passwd nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d localtime login.defs prometheus"
_HOLD = f"""
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt; mkdir -p /mnt/etc /mnt/var/lib/bwexporter /mnt/var/log /mnt/var/tmp /mnt/run
for one in {_OF_ETC}; do cp -a /etc/$one /mnt/etc/ 2>/dev/null || true; done
mount --bind /mnt/etc /etc; mount --bind /mnt/var /var; mount --bind /mnt/run /run
ip link set lo up
ip link add eth0 address 02:00:00:00:00:01 type veth peer name far
ip link set far addrgenmode none up; ip link set eth0 addrgenmode none up
ip address add 192.0.2.1/24 dev eth0; ip route add default dev eth0
echo there; exec cat
"""


class DocumentedNode:
    """The node; `folder` is where a reader stands, with the checkout's files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.folder.mkdir()
        for name in ("deploy", "docs", "dashboards"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("*.png", "__pycache__"))
        Authority(self.folder / "deploy", "clients").sign("server")
        self._logs = folder
        self._started: list[subprocess.Popen[bytes]] = []
        program = folder / "bin" / "bwexporter"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bwexporter "$@"\n')
        program.chmod(0o755)
        path = f"{program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._environment = {
            "PATH": path,
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"there\n", "no namespaces"
        self._write_files()

    def __enter__(self) -> Self:
        """Return the node; nothing runs on it yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all that runs on it, and so the node."""
        for process in self._started:
            process.kill()
            process.wait()
        self._holder.kill()
        self._holder.communicate()

    def run(self, line: str, *, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell there."""
        command = [*self._enter, "bash", "-o", "pipefail", "-c", f"cd {self.folder} && {line}"]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds, env=self._environment
        )

    def put(self, path: str, text: str) -> None:
        """Write a file of the node."""
        command = [*self._enter, "sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path]
        subprocess.run(command, input=text, text=True, check=True)

    def start(self) -> None:
        """Start the daemon and those beside it, and wait until Prometheus has scraped what it discovered."""
        self._start("bwexporter run")
        self._start("bwexporter apmon decode --listen 8884")
        self._start("prometheus-alertmanager --config.file=/etc/prometheus/alertmanager.yml --cluster.listen-address= "
                    "--storage.path=/var/tmp/alertmanager --web.listen-address=127.0.0.1:9093")  # fmt: skip
        wait_for(lambda: self._answers("http://127.0.0.1:10099/-/ready"), what="the daemon")
        wait_for(lambda: self._answers("http://127.0.0.1:9093/-/ready"), what="Alertmanager")

    def start_prometheus(self, scrape_config: Mapping[str, Any]) -> None:
        """Start Prometheus with what a page says that it is to scrape."""
        config = {"global": {"scrape_interval": "500ms"}, **scrape_config}
        self.put("/var/tmp/prometheus.yml", yaml.safe_dump(config))
        self._start("prometheus --config.file=/var/tmp/prometheus.yml --storage.tsdb.path=/var/tmp/prometheus "
                    "--web.listen-address=127.0.0.1:9090")  # fmt: skip
        wait_for(lambda: self._answers("http://127.0.0.1:9090/-/ready"), what="Prometheus")

    def asked(self, url: str) -> str:
        """Return what a server of the node answers."""
        done = self.run(f"curl -s -S -f '{url}'")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> str:
        """Return the last lines of what runs."""
        return "".join(path.read_text()[-3000:] for path in sorted(self._logs.glob("*.log")))

    @property
    def _enter(self) -> Sequence[str]:
        return ("nsenter", f"--target={self._holder.pid}", "--mount", "--net")

    def _answers(self, url: str) -> bool:
        for process in self._started:
            assert process.poll() is None, self.logs()
        return self.run(f"curl -s -f {url}").returncode == 0

    def _start(self, line: str) -> None:
        with (self._logs / f"{line.split(maxsplit=1)[0]}-{len(self._started)}.log").open("wb") as log:
            command = [*self._enter, "setpriv", "--pdeathsig=KILL", "sh", "-c", f"cd {self.folder} && exec {line}"]
            self._started.append(subprocess.Popen(command, stdout=log, stderr=log, env=self._environment))

    def _write_files(self) -> None:
        """Put the shipped examples where the pages say."""
        config = (ROOT / "deploy" / "bwexporter.yml").read_text()
        slices = (ROOT / "deploy" / "slices.yml").read_text()
        before, nodes, after = slices.partition("\n# Nodes of the fleet")
        self.put("/etc/hosts", HOSTS)
        self.put("/etc/bwexporter/bwexporter.yml", config.replace("# owner_secret_file", "owner_secret_file"))
        self.put("/etc/bwexporter/slices.yml", before + NAMED_IN_PAGES + nodes + after)
        self.put("/etc/bwexporter/web.yml", (ROOT / "deploy" / "web.yml").read_text())
        self.put("/etc/bwexporter/apmon.conf", "mona.example.org:8884 password\n")
