"""What an operator looks at, on a system where bwexporter was installed and systemd runs.

Turns a booted system into nothing, or into a sentence that says what is not as it should be. Knows: systemd's and tc's
words, and the metrics. Does not know: how it was installed.
"""

from __future__ import annotations

import re

from bwexporter import __version__
from tests.install.tree import Booted, Failed, is_one, wait_for
from tests.install.ways import SLICES

URL = "http://127.0.0.1:10099"
ONE_CAPABILITY = 1 << 12  # CAP_NET_ADMIN

_SEND = "import socket; s = socket.socket(2, 2); [s.sendto(bytes(1000), ('10.9.9.2', 9)) for _ in range(100)]"
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def see_it_work(booted: Booted) -> None:
    """Look at what an operator would look at, from the first start to the end."""
    is_one("version", booted.run("bwexporter", "--version"), __version__)
    booted.run("systemctl", "start", "bwexporter")  # returns when the first turn has ended: Type=notify
    assert_tells("up", booted, "bwexporter_up 1")
    is_one("class of the slice", booted.run("tc", "class", "show", "dev", "eth0"), "1:1001")
    see_its_cage(booted, ONE_CAPABILITY)
    before = used_bytes(booted)
    send(booted)
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


def see_that_no_byte_is_lost(booted: Booted) -> None:
    """See that it has counted every byte that the kernel has, after all that was done, and those sent without it."""
    send(booted)
    booted.run("systemctl", "start", "bwexporter")
    wait_for(lambda: sent_bytes(booted, "ann") == class_bytes(booted, "1:1001") > 0, "the account of every byte")
    booted.run("systemctl", "stop", "bwexporter")


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


def send(booted: Booted) -> None:
    """Send 100 packets of 1000 bytes and their headers from the slice's address."""
    booted.run("python3", "-c", _SEND)


def used_bytes(booted: Booted) -> int:
    """Return what the slice has used, as it is published."""
    return told(booted, 'bwexporter_slice_period_used_bytes{device="eth0",slice="ann",traffic="normal"}')


def sent_bytes(booted: Booted, slice_name: str) -> int:
    """Return what a slice has sent since it was first seen, as it is published."""
    return told(booted, f'bwexporter_slice_sent_bytes_total{{device="eth0",slice="{slice_name}",traffic="normal"}}')


def class_bytes(booted: Booted, class_id: str) -> int:
    """Return what a class has sent, as the kernel has it."""
    classes = booted.run("tc", "-s", "class", "show", "dev", "eth0")
    found = re.search(rf"class htb {class_id} .*\n Sent (\d+) bytes", classes)
    if not found:
        raise Failed(f"there is no class {class_id}: {classes}")
    return int(found[1])


def told(booted: Booted, series: str) -> int:
    """Return the value of a series."""
    lines = booted.run("python3", "-c", _ASK, f"{URL}/metrics").splitlines()
    found = [line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} ")]
    if not found:
        raise Failed(f"the metrics lack {series}")
    return int(float(found[0]))


def assert_tells(what: str, booted: Booted, line: str) -> None:
    """See a line among the metrics."""
    lines = asked(booted).splitlines()
    if line not in lines:
        raise Failed(f"{what}: the metrics lack {line!r}")
