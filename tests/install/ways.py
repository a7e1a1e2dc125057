"""The ways to install it that docs/install.md tells.

Turns a minimal system into one with bwexporter, configured for a small node, not yet started. Knows: the steps of each
way, and what they promise of themselves. Does not know: how it is looked at once it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.install.tree import Failed, Tree, is_one, run_here

ROOT = Path(__file__).parent.parent.parent
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
FETCH = ("apt-get", "install", "-qq", "-y", "--no-install-recommends")


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
    tree.run(*FETCH, "pipx")
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
    tree.run(*FETCH, "debhelper", "dpkg-dev", "fakeroot")
    tree.run("/root/bwexporter/deploy/debian/build.sh", "/root/packages")
    tree.run(*FETCH, "lintian")
    tree.run("sh", "-ec", "lintian --allow-root --fail-on error /root/packages/*.deb")
    tree.run("sh", "-ec", f"{' '.join(FETCH)} /root/packages/*.deb && rm -r /root/bwexporter")
    tree.run("bwexporter", "check", "/etc/bwexporter/bwexporter.yml")
    configure(tree)


def by_ansible(tree: Tree) -> None:
    """Let the role install it on the system itself, twice: the second time nothing changes."""
    deliver(tree)
    tree.put(ROOT / "deploy" / "ansible", "/root/ansible")
    tools = "/root/ansible-tools/bin"
    tree.run("sh", "-ec", f"python3 -m venv /root/ansible-tools && {tools}/pip install -q 'ansible-core>=2.16,<3'")
    described = tree.run(f"{tools}/ansible-doc", "-t", "role", "-r", "/root/ansible/roles", "bwexporter")
    is_one("what ansible-doc says", described, "bwexporter_slices")
    wheel = next((tree.root / "root").glob("*.whl")).name
    play = [f"{tools}/ansible-playbook", "-i", "localhost,", "/root/ansible/play.yml"]
    good = PLAY % wheel
    refuse(
        tree, play, good.replace("bwexporter_wheel", "bwexporter_weel"), "missing required arguments: bwexporter_wheel"
    )
    tree.write("/root/ansible/play.yml", good)
    tree.run(*play)
    is_one("second run", tree.run(*play), "changed=0")
    written = tree.run("cat", "/etc/bwexporter/bwexporter.yml")
    refuse(tree, play, good.replace("cap: 100mbit", "cap: 100zbit"), "failed to validate")
    is_one("the configuration after a bad one", tree.run("cat", "/etc/bwexporter/bwexporter.yml"), written)
    tree.run("bwexporter", "check")
    is_one("discovery", tree.run("cat", "/etc/prometheus/file_sd/bwexporter.json"), "localhost:10099")


def refuse(tree: Tree, play: list[str], text: str, reason: str) -> None:
    """See a play fail for a reason."""
    tree.write("/root/ansible/play.yml", text)
    try:
        tree.run(*play)
    except Failed as error:
        is_one("the refusal", str(error), reason)
    else:
        raise Failed(f"the role took what it should refuse: {reason}")


def configure(tree: Tree) -> None:
    """Write the configuration of a small node."""
    tree.write("/etc/bwexporter/bwexporter.yml", CONFIG)
    tree.write("/etc/bwexporter/slices.yml", SLICES % "10mbit")
    tree.run("bwexporter", "check")


WAYS: Mapping[str, Callable[[Tree], None]] = {"pip": by_pip, "pipx": by_pipx, "deb": by_deb, "ansible": by_ansible}
