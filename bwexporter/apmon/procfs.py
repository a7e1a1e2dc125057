"""The kernel's figures as they stand in /proc.

Turns files below /proc into numbers, and processes into rows. Knows: the files and their fields (man 5 proc), the
kernel's clock. Does not know: ApMon's names and units, rates, intervals. A file that is not there gives nothing, and so
does a process that ends while it is read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CPU_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a network interface has counted."""

    received_bytes: int
    sent_bytes: int
    errors: int  # both ways


@dataclass(frozen=True, slots=True)
class Process:
    """One process; its start tells it from a later one with the same number."""

    pid: int
    start_ticks: int  # since boot
    parent: int
    state: str
    own_ticks: int  # of CPU time
    reaped_ticks: int  # of children that have ended and been waited for
    virtual_bytes: int

    @property
    def identity(self) -> tuple[int, int]:
        """Return what no other process has until the next boot."""
        return self.pid, self.start_ticks


def read(path: Path) -> str:
    """Return a file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_ticks(proc: Path) -> Mapping[str, int]:
    """Return the CPU time of the whole machine by what it was spent on."""
    for line in read(proc / "stat").splitlines():
        if line.startswith("cpu "):
            return dict(zip(CPU_FIELDS, map(int, line.split()[1:]), strict=False))
    return {}


def totals(proc: Path) -> Mapping[str, int]:
    """Return interrupts and context switches since boot."""
    found = {}
    for line in read(proc / "stat").splitlines():
        name, _, rest = line.partition(" ")
        if name in ("intr", "ctxt"):
            found[name] = int(rest.split(" ", 1)[0])
    return found


def loads(proc: Path) -> tuple[float, ...]:
    """Return the load of 1, 5 and 15 minutes."""
    return tuple(float(word) for word in read(proc / "loadavg").split()[:3])


def memory_kib(proc: Path) -> Mapping[str, int]:
    """Return /proc/meminfo."""
    fields = (line.split() for line in read(proc / "meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in fields if len(words) >= 2 and words[1].isdigit()}


def paging(proc: Path) -> Mapping[str, int]:
    """Return what /proc/vmstat counts of paging and swapping."""
    wanted = ("pgpgin", "pgpgout", "pswpin", "pswpout")
    fields = (line.split() for line in read(proc / "vmstat").splitlines())
    return {words[0]: int(words[1]) for words in fields if len(words) == 2 and words[0] in wanted}


def interfaces(proc: Path) -> Mapping[str, Traffic]:
    """Return the counters of every network interface."""
    found = {}
    for line in read(proc / "net" / "dev").splitlines()[2:]:
        name, _, rest = line.rpartition(":")
        words = rest.split()
        if len(words) >= 11:
            counts = [int(word) for word in words]
            found[name.strip()] = Traffic(counts[0], counts[8], counts[2] + counts[10])
    return found


def socket_lines(proc: Path, kind: str) -> Iterator[str]:
    """Yield the lines of a table of sockets, as tcp, udp6 or unix."""
    return iter(read(proc / "net" / kind).splitlines()[1:])


def uptime_seconds() -> float:
    """Return the time since boot, of the clock that processes' starts are told by.

    /proc/uptime may be another's: where a container has one of its own it says how old the container is.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def processes(proc: Path) -> Iterator[Process]:
    """Yield every process that can be seen."""
    try:
        names = os.listdir(proc)  # noqa: PTH208 - some thousand names, which need not be paths
    except OSError:
        return
    for name in names:
        if name.isdecimal():
            found = process(proc, int(name))
            if found is not None:
                yield found


def process(proc: Path, pid: int) -> Process | None:
    """Return one process, None where there is none; its name, which may hold anything, is passed over."""
    _, _, rest = read(proc / str(pid) / "stat").rpartition(")")
    words = rest.split()
    if len(words) < 21:
        return None
    return Process(
        pid=pid,
        start_ticks=int(words[19]),
        parent=int(words[1]),
        state=words[0],
        own_ticks=int(words[11]) + int(words[12]),
        reaped_ticks=int(words[13]) + int(words[14]),
        virtual_bytes=int(words[20]),
    )


def resident_bytes(proc: Path, pid: int) -> int:
    """Return a process's memory; `statm` is exact where `stat` lags behind by some pages a CPU."""
    words = read(proc / str(pid) / "statm").split()
    return int(words[1]) * PAGE_BYTES if len(words) > 1 else 0


def user_of(proc: Path, pid: int) -> int | None:
    """Return the real user id of a process."""
    for line in read(proc / str(pid) / "status").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return None


def open_files(proc: Path, pid: int) -> int | None:
    """Return how many descriptors a process has; None where that may not be seen."""
    try:
        return len(os.listdir(proc / str(pid) / "fd"))  # noqa: PTH208 - they are only counted
    except OSError:
        return None
