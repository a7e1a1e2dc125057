"""deploy/compose.yml by a real engine: its services are started from images, and find each other.

Turns a built image into running containers, or a sentence that says what did not work. Knows: podman-compose, what
podman needs where it may do little (no control groups of its own), and which images stand in for those of Prometheus
and Alertmanager: Debian's programs with the users and folders of theirs. Does not know: what the services are for.
Grafana's service is left out: neither Debian nor any registry of packages has the program.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.install.image import children_of
from tests.install.tree import Failed, is_one, run_here, wait_for

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "deploy" / "compose.yml"
EXPORTER, PROMETHEUS, ALERTMANAGER = (f"http://127.0.0.1:{port}" for port in (10099, 9090, 9093))
SERVICES = ("bwexporter", "prometheus", "alertmanager")
_SETTINGS = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_STORE = """
[storage]
driver = "{driver}"
graphroot = "{folder}/store"
runroot = "{folder}/run"
"""
_WATCHERS = """
FROM localhost/bwexporter-base AS packages
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends prometheus prometheus-alertmanager \
 && rm -rf /etc/prometheus && install -d -o nobody -g nogroup /prometheus /alertmanager
FROM packages AS prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
FROM packages AS alertmanager
USER nobody
WORKDIR /alertmanager
VOLUME /alertmanager
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
"""
# crun takes control groups of both versions side by side for a machine that it does not know.
_UP = """
mount --make-rprivate /
umount --recursive /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; ip link set eth0 up
"$0" "$@"
exec cat
"""
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def see_it_work(folder: Path, driver: str) -> None:
    """Start all services but Grafana's with one command, as they stand in the file, and ask each what it knows."""
    engine = _engine(folder, driver)
    _build_watchers(folder, engine)
    tools = folder / "compose-tools"
    run_here([sys.executable, "-m", "venv", str(tools)])
    run_here([str(tools / "bin" / "pip"), "install", "-q", "podman-compose>=1.5,<2"])  # Debian's takes no host network
    up = [
        str(tools / "bin" / "podman-compose"),
        "-p",
        "bwexporter",
        "-f",
        str(FILE),
        "up",
        "--no-build",
        "-d",
        *SERVICES,
    ]
    rooms = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    with (folder / "compose.log").open("wb") as log:
        process = subprocess.Popen(
            [*engine, *rooms, "sh", "-ec", _UP, *up], stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    try:
        _look_at(process)
    except Failed as error:
        raise Failed(f"{error}: {(folder / 'compose.log').read_text()[-3000:]}") from error
    finally:
        process.kill()
        process.wait()


def _engine(folder: Path, driver: str) -> list[str]:
    """Return what gives podman its settings and the store of the built image."""
    settings, store = folder / "containers.conf", folder / "storage.conf"
    settings.write_text(_SETTINGS)
    store.write_text(_STORE.format(folder=folder, driver=driver))
    return ["env", f"CONTAINERS_CONF={settings}", f"CONTAINERS_STORAGE_CONF={store}"]


def _build_watchers(folder: Path, engine: Sequence[str]) -> None:
    """Build what stands in for images of registries, under the names that the file has, and give ours its name too."""
    file = folder / "watchers"
    file.write_text(_WATCHERS)
    for name in SERVICES[1:]:
        image = yaml.safe_load(FILE.read_text())["services"][name]["image"]
        build = ["podman", "build", "--isolation=chroot", "--network=host", f"--target={name}"]
        run_here([*engine, *build, "-t", f"docker.io/{image}", "-f", str(file), str(folder)])
    run_here([*engine, "podman", "tag", "localhost/bwexporter", "localhost/bwexporter_bwexporter"])


def _look_at(process: subprocess.Popen[bytes]) -> None:
    """See each service ready, the device shaped, and Prometheus with its rules, its target and its Alertmanager."""
    for url in (EXPORTER, PROMETHEUS, ALERTMANAGER):
        ready = f"{url}/-/ready"
        wait_for(lambda at=ready: _ask(process, at), ready, seconds=400)  # for each container its image is copied
    is_one("metrics", _ask(process, f"{EXPORTER}/metrics"), "bwexporter_up 1")
    is_one("class of the slice with id 17", _inside(process, "tc", "class", "show", "dev", "eth0"), "1:1011")
    is_one("rules", _ask(process, f"{PROMETHEUS}/api/v1/rules"), "BwexporterSliceCapped")
    target, found = f'"{EXPORTER}/metrics"', f"{ALERTMANAGER}/api/v2/alerts"
    wait_for(lambda: target in _ask(process, f"{PROMETHEUS}/api/v1/targets"), "a target")
    wait_for(lambda: found in _ask(process, f"{PROMETHEUS}/api/v1/alertmanagers"), "an Alertmanager")
    is_one("routes", _ask(process, f"{ALERTMANAGER}/api/v2/status"), "owner-alias")
    wait_for(lambda: '"health":"up"' in _ask(process, f"{PROMETHEUS}/api/v1/targets"), "a scrape")


def _ask(process: subprocess.Popen[bytes], url: str) -> str:
    """Return what a server says, nothing where it does not answer."""
    try:
        return _inside(process, sys.executable, "-c", _ASK, url)
    except Failed:
        return ""


def _inside(process: subprocess.Popen[bytes], *command: str) -> str:
    """Run a command of this machine in the network of the containers."""
    if process.poll() is not None:
        raise Failed("compose ended")
    children = children_of(process)
    return run_here(["nsenter", "-t", str(children[0]), "--net", *command]) if children else ""
