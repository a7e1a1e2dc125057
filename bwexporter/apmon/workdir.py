"""How large a job's folder is, and the disk below it.

Turns a path into the `job_workdir_*` and `job_disk_*` parameters. Knows: blocks, hard links, how long a walk may take.
Does not know: jobs, processes. Links are not followed, except that of the path itself, and no program is run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 512
MIB = 1 << 20
BUDGET_SECONDS = 1.0


def size_mib(path: Path, *, budget_seconds: float = BUDGET_SECONDS) -> float | None:
    """Return what a folder and all in it takes on the disk; None where that cannot be told in the time."""
    deadline = time.monotonic() + budget_seconds
    try:
        blocks = path.stat().st_blocks
    except OSError:
        return None
    seen: set[tuple[int, int]] = set()  # files with several names
    for found in _below(path):
        if time.monotonic() > deadline:
            return None
        if found.st_nlink > 1 and not _is_folder(found):
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        blocks += found.st_blocks
    return blocks * BLOCK_BYTES / MIB


def _is_folder(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o040000


def _below(path: Path) -> Iterator[os.stat_result]:
    """Yield what is below a folder, without following links; what vanishes or is closed to us is passed over."""
    waiting = [os.fspath(path)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                yield found
                if _is_folder(found):
                    waiting.append(entry.path)


def disk(path: Path) -> dict[str, float]:
    """Return the disk's figures in MiB and percent, as df says them; nothing where there is none."""
    try:
        found = os.statvfs(path)
    except OSError:
        return {}
    mib = found.f_frsize / MIB
    used, free = (found.f_blocks - found.f_bfree) * mib, found.f_bavail * mib
    if not found.f_blocks:
        return {}
    return {
        "disk_total": found.f_blocks * mib,
        "disk_used": used,
        "disk_free": free,
        "disk_usage": 100.0 * used / (used + free) if used + free else 0.0,
    }
