"""The first ApMon's companion, which measured hosts and jobs, as its defects are described.

Turns the figures that a test gives it, in place of what the programs that it ran printed, into what it made of them.
Written from the description of its behaviour, not from its source. It is no way to measure anything.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

TWO_TO_THE_32ND = 2**32


def count_processes(states: Iterable[str]) -> dict[str, int]:
    """Count processes by the five states that there were."""
    found = dict.fromkeys("DRSTZ", 0)
    for state in states:
        found[state] += 1
    return {"processes": sum(found.values()), **{f"processes_{state}": count for state, count in found.items()}}


def tree_of(pid: int | str, parents: Mapping[str, str]) -> list[int | str] | None:
    """Return a job's processes by the texts of pids and of their parents; None where the job is dropped.

    The test whether it lives is the wrong way round, and a number equals no text.
    """
    if pid in parents:
        return None
    return [pid, *(child for child, parent in parents.items() if parent == pid)]


def later_tree_of(pid: int, parents: Mapping[int, int]) -> list[int]:
    """Return what later versions found: children, and none of theirs."""
    return [pid, *(child for child, parent in parents.items() if parent == pid)]


def folder_kib(folder: str) -> int:
    """Ask du, by a line for the shell that the folder's name stands in as it is."""
    line = f"du -Lsck {folder} | tail -1 | cut -f 1"
    said = subprocess.run(line, shell=True, capture_output=True, text=True, check=False).stdout  # noqa: S602
    return int(said)


def disk_usage_percent(folder: str) -> float:
    """Ask df, and divide its percent by 1024 as if they were KiB."""
    said = subprocess.run(["df", "-k", "-P", folder], capture_output=True, text=True, check=False).stdout
    return int(said.splitlines()[1].split()[4].rstrip("%")) / 1024


def open_files(proc: Path, pids: Iterable[int]) -> int:
    """Count descriptors; those of a process that may not be seen are None, and are added all the same."""
    count = 0
    for pid in pids:
        folder = proc / str(pid) / "fd"
        count += len(list(folder.iterdir())) if folder.is_dir() else None  # type: ignore[operator]
    return count


def rates(
    now: Mapping[str, int], before: Mapping[str, int], seconds: float, shared: MutableMapping[str, float]
) -> MutableMapping[str, float]:
    """Return a second's share of each counter's growth, in the dictionary that all destinations share.

    A counter that fell is taken for one of 32 bits that wrapped. In no time there are no rates: those of the last time
    are deleted, also where there was none.
    """
    for name, counter in now.items():
        if seconds <= 0:
            del shared[name]
            continue
        grown = counter - before[name]
        shared[name] = (grown if grown >= 0 else grown + TWO_TO_THE_32ND) / seconds
    return shared


def job_cpu_seconds(live: Iterable[float]) -> float:
    """Add up the CPU time of the processes that live."""
    return sum(live)


def job_rss_kib(rows: Iterable[tuple[float, int, int, str]]) -> int:
    """Add up memory, of processes that look alike once: percent, resident, virtual, command."""
    return sum(resident for _, resident, _, _ in set(rows))


def uptime_days(proc: Path) -> float | None:
    """Take the first word of a text for a number; only a file that cannot be read is thought of."""
    try:
        text = (proc / "uptime").read_text()
    except OSError:
        return None
    return float(text.split()[0]) / 86400


def host_name() -> str:
    """Ask for this host's name, at each update."""
    return socket.getfqdn(os.uname().nodename)
