"""A process that serves while it takes turns, and says how it fares.

Turns a word on its standard input into figures on its standard output. Knows: the real server, the real exposition, and
work that stands for a turn. Does not know: who attacks it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bwexporter.metrics import Exposition
from bwexporter.state import open_state
from bwexporter.web.guard import Guard
from bwexporter.web.listening import bind
from bwexporter.web.server import Server
from bwexporter.web.webconfig import WebConfig, WebFile
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.web import Facts, app_of

TURN_SECONDS = 0.02
MOST_FILES = 1024  # what a service may open unless somebody allows more


def main() -> None:
    """Serve until the standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
    with tempfile.TemporaryDirectory() as folder:
        state = open_state(Path(folder) / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
        told = report(device_report([LaneFigures(f"slice_{number}") for number in range(2_000)]))
        facts = Facts(state, report=told)
        exposition = Exposition(["eth0"])
        facts.rendered = exposition.render(told)
        current = WebFile(Path(sys.argv[1])).current if len(sys.argv) > 1 else WebConfig
        listening = bind("127.0.0.1:0")
        server = Server(Guard(app_of(facts), current, None), [listening], current=current)
        server.start()
        turns = [0]
        threading.Thread(target=_take_turns, args=(turns,), daemon=True).start()
        _say(listening.getsockname()[1])
        for _ in sys.stdin:
            _say({"turns": turns[0], "files": len(os.listdir("/proc/self/fd")), "resident_bytes": _resident_bytes()})  # noqa: PTH208
        server.stop()
        state.close()


def _take_turns(turns: list[int]) -> None:
    """Do what a turn does to the interpreter: many short steps over columns."""
    column = np.arange(20_000)
    while True:
        start = time.monotonic()
        for _ in range(60):
            column = column * 3 % 1_000_003
        turns[0] += 1
        time.sleep(max(0.0, TURN_SECONDS - (time.monotonic() - start)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
