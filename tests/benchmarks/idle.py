"""The idle daemon: what `bwexporter run` costs while no slice sends.

Turns a running daemon into its share of a core. Knows: /proc, the daemon's log lines. Does not know: the rooms.

Two daemons are watched: one whose next turn is far off, for what it costs to wait, and one whose turns come every fifth
of a second, for what a turn costs with all that goes with it (log, exposition, schedule). From both follows the share
of a core at a turn every 10 s, in less time than it would take to watch enough of those.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.ours import write_files
from tests.benchmarks.worker import ROOT

USUAL_INTERVAL_SECONDS = 10.0
_SHORT_INTERVAL = "200ms"
_SETTLE_SECONDS, _WATCH_SECONDS = 2.0, 6.0


@dataclass(frozen=True, slots=True)
class _Watched:
    busy_seconds: float
    seconds: float
    turns: int


def cost(folder: Path, device: str, slices: int) -> dict[str, float]:
    """Return the daemon's share of a core, and what it is made of."""
    waiting = _watch(folder.with_suffix(".waiting"), device, slices, "1h")
    turning = _watch(folder.with_suffix(".turning"), device, slices, _SHORT_INTERVAL)
    waiting_share = waiting.busy_seconds / waiting.seconds
    turn_seconds = (turning.busy_seconds - waiting_share * turning.seconds) / max(turning.turns, 1)
    return {
        "idle, waiting, share of a core": waiting_share,
        "idle, one turn, cpu seconds": turn_seconds,
        "idle, turns watched": turning.turns,
        "idle, share of a core": waiting_share + turn_seconds / USUAL_INTERVAL_SECONDS,
    }


def _watch(folder: Path, device: str, slices: int, interval: str) -> _Watched:
    folder.mkdir()
    write_files(folder, device, slices)
    config = folder / "bwexporter.yml"
    config.write_text(f"interval: {interval}\nperiod: 1w\nweb: {{listen: ['127.0.0.1:0']}}\n" + config.read_text())
    (folder / "state").mkdir()  # apart from the files that are watched, as on a node
    config.write_text(config.read_text().replace("state: state.db", "state: state/state.db"))
    with _daemon(config) as (process, log):
        time.sleep(_SETTLE_SECONDS)
        busy, turns, start = _busy_seconds(process), _turns(log), time.perf_counter()
        time.sleep(_WATCH_SECONDS)
        watched = _Watched(_busy_seconds(process) - busy, time.perf_counter() - start, _turns(log) - turns)
        if process.poll() is not None:
            sys.exit(f"the daemon has ended:\n{log.read_text()}")
    return watched


@contextmanager
def _daemon(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = config.with_name("log")
    command = [sys.executable, "-m", "bwexporter", "run", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written, env=environment, cwd=config.parent)
    try:
        deadline = time.monotonic() + 30.0
        while not _turns(log) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _turns(log: Path) -> int:
    return sum(" turn lanes=" in line for line in log.read_text().splitlines())


def _busy_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time of all threads, from the scheduler's own count in nanoseconds."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
