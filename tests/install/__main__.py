"""Install bwexporter on fresh systems in each way that the documentation tells, and see it work under the real systemd.

    python -m tests.install [--suite bookworm] [--way pip] ...

Turns a suite and a way into a running service, or a sentence that says what did not work; exit 1 then. Knows: the ways,
and what an operator would look at. Does not know: how a system is made. Needs root and debootstrap, and some minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.install import compose
from tests.install.image import Image
from tests.install.tree import Booted, Failed, Tree, is_one, run_here, say, wait_for

ROOT = Path(__file__).parent.parent.parent
SUITES = ("bookworm", "trixie")
IMAGE = "image"
CONFIG = """
devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]
state: /var/lib/bwexporter/state.db
interval: 1s
slices: [{file: slices.yml}]
"""
SLICES = "slices: [{name: ann, id: 1, match: {addresses: [10.9.9.1/32]}, normal: {full: %s, allowance: 5GB}}]\n"
PLAY = """
- hosts: localhost
  connection: local
  roles:
    - role: bwexporter
      vars:
        bwexporter_wheel: /root/%s
        bwexporter_constraints: /root/constraints.txt
        bwexporter_config:
          devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]
          state: /var/lib/bwexporter/state.db
          interval: 1s
          slices: [{file: slices.yml}]
        bwexporter_slices:
          - {name: ann, id: 1, match: {addresses: [10.9.9.1/32]}, normal: {full: 10mbit, allowance: 5GB}}
        bwexporter_start: false
- hosts: localhost
  connection: local
  tasks:
    - ansible.builtin.include_role: {name: bwexporter, tasks_from: discovery}
      vars: {bwexporter_group: all}
"""
URL = "http://127.0.0.1:10099"
ONE_CAPABILITY = 1 << 12  # CAP_NET_ADMIN

_SEND = "import socket; s = socket.socket(2, 2); [s.sendto(bytes(1000), ('10.9.9.2', 9)) for _ in range(100)]"
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def main() -> int:
    """Try the wanted ways on the wanted suites."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--way", action="append", choices=(*WAYS, IMAGE))
    given = parser.parse_args()
    if os.geteuid():
        say("this makes systems and boots them, and so needs root")
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bwexporter-install-") as name:
        for suite in given.suite or SUITES:
            for way in given.way or (*WAYS, IMAGE):
                folder = Path(name, way)
                folder.mkdir(exist_ok=True)
                began = time.monotonic()
                try:
                    try_image(suite, folder) if way == IMAGE else try_way(suite, way, folder)
                except Failed as error:
                    failed += 1
                    say(f"FAILED {suite} {way}: {error}")
                else:
                    say(f"ok {suite} {way} {time.monotonic() - began:.0f} s")
                finally:
                    run_here(["rm", "-rf", "--one-file-system", str(folder)])
    tried = len(given.suite or SUITES) * len(given.way or (*WAYS, IMAGE))
    print(f"{tried - failed} passed, {failed} failed")  # noqa: T201
    return 1 if failed else 0


def by_pip(tree: Tree) -> None:
    """Install the wheel into a virtual environment, and the unit by hand, as docs/install.md says."""
    deliver(tree)
    tree.run("python3", "-m", "venv", "/opt/bwexporter")
    tree.run("sh", "-ec", "cd /root && /opt/bwexporter/bin/pip install -q -c constraints.txt bwexporter-*.whl")
    tree.run("ln", "-s", "/opt/bwexporter/bin/bwexporter", "/usr/bin/bwexporter")
    by_hand(tree)


def by_pipx(tree: Tree) -> None:
    """Let pipx make the virtual environment."""
    deliver(tree)
    tree.run("apt-get", "install", "-qq", "-y", "--no-install-recommends", "pipx")
    where = ("PIPX_HOME=/opt/pipx", "PIPX_BIN_DIR=/usr/bin")
    tree.run("env", *where, "sh", "-ec", "cd /root && pipx install --pip-args='-c constraints.txt' ./bwexporter-*.whl")
    by_hand(tree)


def deliver(tree: Tree) -> None:
    """Put the wheel, the versions that were tested and the files for deployment into the tree."""
    wheel = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tree.root / "root"), str(ROOT)]
    run_here(wheel)
    tree.put(ROOT / "constraints.txt", "/root/constraints.txt")
    tree.put(ROOT / "deploy", "/root/deploy")


def by_hand(tree: Tree) -> None:
    """Make the user, put the units in place, and write the configuration."""
    tree.run(
        *("useradd", "--system", "--home-dir", "/var/lib/bwexporter", "--shell", "/usr/sbin/nologin", "bwexporter")
    )
    tree.run("sh", "-ec", "cp /root/deploy/systemd/*.service /root/deploy/systemd/*.socket /etc/systemd/system/")
    tree.run("cp", "/root/deploy/systemd/bwexporter.default", "/etc/default/bwexporter")
    configure(tree)


def by_deb(tree: Tree) -> None:
    """Build the package in the tree, for its Python, and install it without what built it."""
    tree.put(ROOT, "/root/bwexporter")
    tree.run("apt-get", "install", "-qq", "-y", "--no-install-recommends", "debhelper", "dpkg-dev", "fakeroot")
    tree.run("/root/bwexporter/deploy/debian/build.sh", "/root/packages")
    tree.run("apt-get", "install", "-qq", "-y", "--no-install-recommends", "lintian")
    tree.run("sh", "-ec", "lintian --allow-root --fail-on error /root/packages/*.deb")
    tree.run(
        "sh", "-ec", "apt-get install -qq -y --no-install-recommends /root/packages/*.deb && rm -r /root/bwexporter"
    )
    tree.run("bwexporter", "check", "/etc/bwexporter/bwexporter.yml")
    configure(tree)


def by_ansible(tree: Tree) -> None:
    """Let the role install it on the system itself, twice: the second time nothing changes."""
    deliver(tree)
    tree.put(ROOT / "deploy" / "ansible", "/root/ansible")
    tree.run(
        "sh",
        "-ec",
        "python3 -m venv /root/ansible-tools && /root/ansible-tools/bin/pip install -q 'ansible-core>=2.16,<3'",
    )
    wheel = next((tree.root / "root").glob("*.whl")).name
    tree.write("/root/ansible/play.yml", PLAY % wheel)
    play = ["/root/ansible-tools/bin/ansible-playbook", "-i", "localhost,", "/root/ansible/play.yml"]
    tree.run(*play)
    is_one("second run", tree.run(*play), "changed=0")
    tree.run("bwexporter", "check")
    is_one("discovery", tree.run("cat", "/etc/prometheus/file_sd/bwexporter.json"), "localhost:10099")


WAYS: Mapping[str, Callable[[Tree], None]] = {"pip": by_pip, "pipx": by_pipx, "deb": by_deb, "ansible": by_ansible}


def try_way(suite: str, way: str, folder: Path) -> None:
    """Install it in one way, and see it work under systemd."""
    tree = Tree(suite, folder)
    WAYS[way](tree)
    with Booted(tree) as booted:
        see_it_work(booted)


def try_image(suite: str, folder: Path) -> None:
    """Build the container image, and see it work: alone, and with all of compose beside it."""
    image = Image(suite, folder)
    try:
        say(f"{suite}: the image has {image.megabytes} MB")
        image.see_it_work(folder, CONFIG, SLICES % "10mbit")
        compose.see_it_work(folder)
    finally:
        image.close()


def configure(tree: Tree) -> None:
    """Write the configuration of a small node."""
    tree.write("/etc/bwexporter/bwexporter.yml", CONFIG)
    tree.write("/etc/bwexporter/slices.yml", SLICES % "10mbit")
    tree.run("bwexporter", "check")


def see_it_work(booted: Booted) -> None:
    """Look at what an operator would look at, from the first start to the end."""
    booted.run("systemctl", "start", "bwexporter")  # returns when the first turn has ended: Type=notify
    assert_tells("up", booted, "bwexporter_up 1")
    is_one("class of the slice", booted.run("tc", "class", "show", "dev", "eth0"), "1:1001")
    see_its_cage(booted, ONE_CAPABILITY)
    before = used_bytes(booted)
    booted.run("python3", "-c", _SEND)
    sent = wait_for(lambda: used_bytes(booted) - before, "the account of what was sent")
    if sent < 100 * 1000:
        sent = wait_for(lambda: max(0, used_bytes(booted) - before - 99_999), "the rest of it") + 99_999
    used = used_bytes(booted)
    booted.run("systemctl", "kill", "--signal=KILL", "bwexporter")
    wait_for(lambda: shown(booted, "NRestarts") == "1" and shown(booted, "ActiveState") == "active", "the restart")
    if used_bytes(booted) < used:
        raise Failed("the account did not survive kill -9")
    booted.run("sh", "-c", f"cat > /etc/bwexporter/slices.yml <<'E'\n{SLICES % '20mbit'}E")
    booted.run("systemctl", "reload", "bwexporter")
    wait_for(lambda: "ceil 20Mbit" in booted.run("tc", "class", "show", "dev", "eth0"), "the new full rate")
    is_one(
        "status", booted.run("setpriv", "--reuid=65534", "--clear-groups", "bwexporter", "status", "--url", URL), "ann"
    )
    booted.run("systemctl", "stop", "bwexporter")
    is_one("class after the end", booted.run("tc", "class", "show", "dev", "eth0"), "1:1001")
    is_one("end", booted.run("journalctl", "-u", "bwexporter", "--no-pager"), "stopping")

    see_the_watchdog(booted)
    see_it_on_a_socket_of_systemd(booted)
    see_it_watch(booted)


def see_the_watchdog(booted: Booted) -> None:
    """See that a program which stands still is started anew."""
    place = "/run/systemd/system/bwexporter.service.d"
    limit = f"mkdir -p {place}; printf '[Service]\\nWatchdogSec=3s\\n' > {place}/watchdog.conf; systemctl daemon-reload"
    booted.run("sh", "-ec", limit)
    booted.run("systemctl", "restart", "bwexporter")
    before = shown(booted, "MainPID")
    booted.run("systemctl", "kill", "--signal=STOP", "bwexporter")
    wait_for(lambda: shown(booted, "MainPID") not in {before, "0"}, "the watchdog")
    wait_for(lambda: shown(booted, "ActiveState") == "active", "the start after the watchdog")
    is_one("end", booted.run("journalctl", "-u", "bwexporter", "--no-pager"), "Watchdog timeout")
    booted.run("systemctl", "stop", "bwexporter")
    booted.run("sh", "-ec", f"rm -r {place}; systemctl daemon-reload")


def see_it_on_a_socket_of_systemd(booted: Booted) -> None:
    """See that a scrape starts it, where systemd listens."""
    booted.run("sed", "-i", "s/^ARGS=.*/ARGS=--web.systemd-socket/", "/etc/default/bwexporter")
    booted.run("systemctl", "start", "bwexporter.socket")
    if shown(booted, "ActiveState") != "inactive":
        raise Failed("it runs before anybody has asked")
    wait_for(lambda: "bwexporter_up 1" in asked(booted), "an answer over the socket of systemd")
    booted.run("systemctl", "stop", "bwexporter.socket", "bwexporter.service")
    booted.run("sed", "-i", "s/^ARGS=.*/ARGS=/", "/etc/default/bwexporter")


def see_it_watch(booted: Booted) -> None:
    """See that it judges and publishes without any capability, and changes nothing."""
    if not booted.run("systemctl", "list-unit-files", "bwexporter-watch.service", check=False).count("watch"):
        raise Failed("there is no unit that only watches")
    classes = booted.run("tc", "class", "show", "dev", "eth0")
    booted.run("systemctl", "start", "bwexporter-watch")
    assert_tells("watching", booted, 'bwexporter_slice_shadow{device="eth0",slice="ann",traffic="normal"} 1')
    see_its_cage(booted, 0, "bwexporter-watch")
    booted.run("systemctl", "stop", "bwexporter-watch")
    if booted.run("tc", "class", "show", "dev", "eth0") != classes:
        raise Failed("it changed a class though it only watches")


def see_its_cage(booted: Booted, capabilities: int, unit: str = "bwexporter") -> None:
    """See that it runs as its own user, with these capabilities and a filter of system calls."""
    process = shown(booted, "MainPID", unit)
    status = dict(
        line.split(":\t", 1) for line in booted.run("cat", f"/proc/{process}/status").splitlines() if ":\t" in line
    )
    if status["Uid"].split()[0] == "0" or int(status["CapEff"], 16) != capabilities:
        raise Failed(f"it runs with Uid {status['Uid']} and capabilities {status['CapEff']}")
    if (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) != ("1", "2"):
        raise Failed("it may gain privileges, or no filter of system calls is in force")


def shown(booted: Booted, name: str, unit: str = "bwexporter") -> str:
    """Return what systemd says of the service."""
    return booted.run("systemctl", "show", "-P", name, unit).strip()


def asked(booted: Booted) -> str:
    """Return the metrics; nothing where nobody answers."""
    return booted.run("python3", "-c", _ASK, f"{URL}/metrics", check=False)


def used_bytes(booted: Booted) -> int:
    """Return what the slice has used, as it is published."""
    lines = booted.run("python3", "-c", _ASK, f"{URL}/metrics").splitlines()
    wanted = 'bwexporter_slice_period_used_bytes{device="eth0",slice="ann",traffic="normal"} '
    return next(int(float(line.removeprefix(wanted))) for line in lines if line.startswith(wanted))


def assert_tells(what: str, booted: Booted, line: str) -> None:
    """See a line among the metrics."""
    lines = asked(booted).splitlines()
    if line not in lines:
        raise Failed(f"{what}: the metrics lack {line!r}")


if __name__ == "__main__":
    sys.exit(main())
