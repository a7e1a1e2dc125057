"""The Debian package over its life: a later version put over a running one, and all of it taken away.

Turns a booted system with the package into nothing, or into a sentence that says what went wrong. Knows: dpkg. Does not
know: how the package is built.
"""

from __future__ import annotations

from tests.install.looks import class_bytes, send, sent_bytes, shown
from tests.install.tree import Booted, Failed, is_one, wait_for

NAME = "prometheus-bwexporter"
WRITTEN = "/etc/bwexporter/slices.yml"
_LATER = (
    "dpkg-deb -R /root/packages/*.deb /root/later && sed -i 's/^Version: .*/&+later/' /root/later/DEBIAN/control"
    " && dpkg-deb -Znone -b /root/later /root/later.deb && rm -r /root/later"
)


def see_an_upgrade(booted: Booted) -> None:
    """Put a later version over the running one: what was written stays, and every byte is counted."""
    is_one("files of the package", booted.run("dpkg", "-L", NAME), "/usr/share/man/man1/bwexporter.1.gz")
    for shell in ("bash-completion/completions/bwexporter", "zsh/vendor-completions/_bwexporter"):
        is_one("files of the package", booted.run("dpkg", "-L", NAME), shell)
    booted.run("sh", "-ec", _LATER)
    written = booted.run("cat", WRITTEN)
    booted.run("systemctl", "start", "bwexporter")
    send(booted)
    before = shown(booted, "MainPID")
    booted.run("dpkg", "-i", "/root/later.deb")
    if shown(booted, "MainPID") != before:
        raise Failed("the upgrade ended the running program")
    send(booted)
    booted.run("systemctl", "restart", "bwexporter")
    is_one("version", booted.run("dpkg-query", "-W", "-f", "${Version}", NAME), "+later")
    is_one("what was written", booted.run("cat", WRITTEN), written)
    wait_for(lambda: sent_bytes(booted, "ann") == class_bytes(booted, "1:1001") > 0, "the account over the upgrade")
    booted.run("systemctl", "stop", "bwexporter")


def see_it_purged(booted: Booted) -> None:
    """Take it away while it runs, with its files and its state; ceilings stay."""
    booted.run("systemctl", "start", "bwexporter")
    booted.run("dpkg", "--purge", NAME)
    if shown(booted, "ActiveState") == "active":
        raise Failed("it runs though it was taken away")
    for place in ("/usr/bin/bwexporter", "/usr/lib/prometheus-bwexporter", "/etc/bwexporter", "/var/lib/bwexporter"):
        if booted.run("ls", "-d", place, check=False):
            raise Failed(f"{place} was left behind")
    is_one("class after the end", booted.run("tc", "class", "show", "dev", "eth0"), "1:1007")
