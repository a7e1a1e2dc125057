"""The ground: a private network namespace, cables, compiled C, and what the machine is.

Turns a plain process into one that stands in a network namespace of its own. Knows: unshare, veth pairs, gcc. Does not
know: what is measured.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_INSIDE = "BWEXPORTER_BENCH_INSIDE"
NEAR, FAR = "10.9.0.1", "10.9.0.2"


def enter_namespace() -> None:
    """Start this program anew in a network namespace of its own; returns only inside of one."""
    if os.environ.get(_INSIDE):
        return
    if not all(map(shutil.which, ("unshare", "tc", "ip"))):
        sys.exit("the benchmarks need unshare, ip and tc (Debian: util-linux, iproute2)")
    environment = {**os.environ, _INSIDE: "1", "OPENBLAS_NUM_THREADS": "1"}
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    command = ["unshare", flags, "--", sys.executable, "-m", "tests.benchmarks", *sys.argv[1:]]
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted


@contextmanager
def cable(device: str) -> Iterator[None]:
    """Lay a veth pair whose near end is `device`; what is sent to FAR goes out there and is dropped at the far end.

    It is taken away afterwards: of two with the same address the older one would take the traffic of both.
    """
    run("ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}p", "address", "02:00:00:00:00:02")
    for end in (device, f"{device}p"):
        run("ip", "link", "set", end, "addrgenmode", "none", "up")
    run("ip", "address", "add", f"{NEAR}/24", "dev", device)
    run("ip", "neighbour", "replace", FAR, "lladdr", "02:00:00:00:00:02", "dev", device, "nud", "permanent")
    yield
    # It may be gone: the end of a far end's namespace takes both ends away.
    subprocess.run(["ip", "link", "delete", device], capture_output=True, check=False)


def run(*command: str) -> str:
    """Run a program to its end and return what it printed; its complaint ends the benchmarks."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout


def compiled(name: str, folder: Path, *flags: str) -> Path | None:
    """Compile a C file of this folder; None where there is no gcc or no kernel headers."""
    program = folder / name
    source = Path(__file__).with_name(f"{name}.c")
    if shutil.which("gcc") is None:
        return None
    ended = subprocess.run(["gcc", "-O2", *flags, "-o", str(program), str(source)], capture_output=True, check=False)
    return program if ended.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine is, in general terms."""

    cores: int
    architecture: str
    kernel: str
    python: str
    tools: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.cores} cores ({self.architecture}), kernel {self.kernel}, Python {self.python}, {self.tools}"


def machine() -> Machine:
    """Return what this machine is."""
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    names = ("numpy", "pyroute2", "prometheus_client")
    tools = ["iproute2 " + run("tc", "-V").split("iproute2-")[-1].split(",")[0].strip()]
    tools += [f"{name} {version(name)}" for name in names]
    return Machine(os.cpu_count() or 1, platform.machine(), kernel, platform.python_version(), ", ".join(tools))
