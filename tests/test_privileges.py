"""The capability that a program file gives: permitted is made effective, for children too."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import pytest

from tests.kernel.daemon_rig import NOBODY, readable_by_nobody

NET_ADMIN = 1 << 12
ONLY = ("--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin")
NONE = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")

# As a program file with cap_net_admin+p leaves its process: permitted, and neither effective nor for children.
SCRIPT = """
import ctypes, subprocess
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.prctl(47, 4, 0, 0, 0)
libc.capget(header, sets)
sets[0] = sets[2] = 0
assert libc.capset(header, sets) == 0
from bwexporter.cli.privileges import raise_net_admin
raise_net_admin()
print(open("/proc/thread-self/status").read())
print("--")
print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)
"""


def effective(status: str) -> int:
    """Return the effective capabilities that a process's status shows."""
    rows: Mapping[str, str] = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return int(rows["CapEff"], 16)


@pytest.mark.parametrize(("given", "expected"), [(ONLY, NET_ADMIN), (NONE, 0)])
def test_what_is_permitted_is_made_effective_for_the_program_and_its_children(
    given: tuple[str, ...], expected: int
) -> None:
    """And nothing is gained where nothing is permitted."""
    with readable_by_nobody() as readable:
        program = [*readable.enter, *NOBODY, *given, readable.python, "-c", SCRIPT]
        done = subprocess.run(program, capture_output=True, text=True, check=True, env=readable.environment, timeout=60)
    ours, childs = done.stdout.split("--\n")
    assert (effective(ours), effective(childs)) == (expected, expected)
