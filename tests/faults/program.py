"""The program under faults: the rooms as `bwexporter run` assembles them, told when to take a turn.

Turns words that come through a pipe into turns, and what they found into answers. Knows: the assembly of
`cli/running.py`, which it uses as it stands. Does not know: who sends packets, what the accounts should be.

`forked` starts a program in a few milliseconds out of a process that has loaded everything; `started` runs it as a
process of its own, perhaps in other namespaces.
"""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bwexporter.cli import running
from bwexporter.config import load_config
from bwexporter.core.lanes import UNLIMITED, Reason
from bwexporter.core.report import Report
from bwexporter.daemon import read_clocks
from bwexporter.errors import BwexporterError
from bwexporter.slices.file import identities
from bwexporter.state import open_state
from bwexporter.turn import STAGES

ROOT = Path(__file__).parents[2]
BETWEEN = len(STAGES)  # neither in a stage nor out of the turn: the number of no stage
LATE = "the turn was still being saved after"
SHORTEST_SECONDS = 0.0002  # an act upon nothing is shorter than the timer is exact
ALLOWANCE_BYTES, THRESHOLD_BYTES = 100_000_000_000, 100_000
CAP, LINE_RATE = 100_000_000, 125_000_000


@dataclass(frozen=True, slots=True)
class Files:
    """What the program is given: its configuration, in a folder of its own."""

    folder: Path
    device: str = "eth0"

    @property
    def config(self) -> Path:
        """The configuration's path."""
        return self.folder / f"{self.device}.yml"

    @property
    def state(self) -> Path:
        """The state's path."""
        return self.folder / f"{self.device}.db"

    def write(self, slices: Mapping[str, int], **further: Any) -> None:
        """Write the configuration. Slices have a threshold that is soon reached; those called free have none."""
        config = {
            "node": "node",
            "state": str(self.state),
            "interval": "20ms",
            "shortest_interval": "5ms",
            "look_margin": "20ms",
            "period": "1d",
            "devices": [{"name": self.device, "cap": "800mbit", "line_rate": "1gbit"}],
            "defaults": {
                traffic: {"allowance": f"{ALLOWANCE_BYTES}B", "threshold": f"{THRESHOLD_BYTES}B"}
                for traffic in ("normal", "exempt")
            },
            "slices": [{"file": f"{self.device}-slices.yml"}],
            "web": {"listen": ["127.0.0.1:0"]},
            **further,
        }
        self.config.write_text(yaml.safe_dump(config))
        self.write_slices(slices)

    def write_slices(self, slices: Mapping[str, int]) -> None:
        """Write the slices with their ids, beside the file and then in its place."""
        free = {"allowance": "unlimited"}
        records = [
            {"name": name, "id": number, **({"normal": free, "exempt": free} if name.startswith("free") else {})}
            for name, number in slices.items()
        ]
        path = self.folder / f"{self.device}-slices.yml"
        beside = path.with_suffix(".new")
        beside.write_text(yaml.safe_dump({"slices": records}))
        beside.replace(path)


class Program:
    """The assembled rooms, in the process that serves words."""

    def __init__(self, config_path: Path, stages: mmap.mmap | None = None) -> None:
        self._open_things = ExitStack()
        wanted = running.Wanted(config_path)
        read_since = identities([config_path])
        config = load_config(config_path)
        state = open_state(config.state, now_wall_seconds=time.time())
        self._open_things.callback(state.close)
        doors = {device.name: running._open_door(device, wanted, self._open_things) for device in config.devices}
        node = running.Node(config, wanted, state, doors, read_since)
        self._daemon, self._turns = node._daemon, node._turns
        self.beginning = {"recovered": state.recovered, "lost": state.lost}
        self._aim, self._part, self._passed_by = "", 0.0, 0
        self._began, self._took = 0.0, dict.fromkeys(STAGES, SHORTEST_SECONDS)
        if stages is not None:
            self._turns._stopwatch = lambda: self._mark(stages)

    def _mark(self, stages: mmap.mmap) -> float:
        """Write down which stage begins, or that it has ended; asked for the time, at both ends of a stage.

        In the stage that is aimed at, a timer of the kernel is set to kill this process before the stage has ended.
        """
        stage, now = self._turns.stage, time.perf_counter()
        if stages[0] == STAGES.index(stage):
            stages[0] = BETWEEN
            self._took[stage] = max(SHORTEST_SECONDS, now - self._began)
        else:
            stages[0], self._began = STAGES.index(stage), now
            if stage == self._aim and self._passed_by == 0:
                die_in(self._part * self._took[stage])
            self._passed_by -= stage == self._aim
        return now

    def obey(self, word: Mapping[str, Any], words: FileIO) -> dict[str, Any]:
        """Do what a word says, and answer."""
        match word["do"]:
            case "turn":
                return self._turn()
            case "run":
                self._aim, self._part = word.get("aim", ""), word.get("part", 0.0)
                self._passed_by = word.get("passed_by", 0)
                self._run(words)
            case "reload":
                if (called := self._daemon.reload()) is not None:
                    called.result()
                self._daemon.take_turn()
                return self._turn()
            case "finish":
                saving = self._turns.finish(read_clocks(), hold=word["hold"])
                return {"saved": saving.saved, "save_trouble": saving.trouble}
        return {}

    def _turn(self) -> dict[str, Any]:
        report = self._turns.take(read_clocks(), sources=self._daemon._roll.sources, info=self._daemon._roll.info)
        self._daemon._tell(report)
        return said(report) | {"process": said_of_process()}

    def _run(self, words: FileIO) -> None:
        """Take turns as they are due until the next word comes."""
        wait = 0.0
        while not select.select([words], [], [], wait)[0]:
            self._daemon.take_turn()
            wait = self._turns.next_look_seconds(read_clocks())

    def close(self) -> None:
        """Close everything."""
        self._open_things.close()


def said(report: Report) -> dict[str, Any]:
    """Put a turn into plain words: one entry a lane, and what concerns the device."""
    (device,) = report.devices
    accounts, enrolled = device.ledger.accounts, device.ledger.enrolled
    columns = {
        "used": accounts.used_bytes,
        "sent": accounts.sent_bytes,
        "start": accounts.period_start_at,
        "end": accounts.period_end_at,
        "ceiling": device.verdicts.ceiling_bytes_per_second,
        "asked": device.verdicts.asked_ceiling_bytes_per_second,
        "enforced": device.enforced_ceiling_bytes_per_second,
        "handle": device.ledger.counters.handle,
        "capped": device.verdicts.capped,
        "allowance": device.verdicts.allowance_bytes,
        "threshold": device.verdicts.threshold_bytes,
    }
    lanes = {}
    for row, lane in enumerate(device.ledger.lanes[:enrolled]):
        lane_said = {name: column[row].item() for name, column in columns.items()}
        lane_said["reason"] = Reason(int(device.verdicts.reason[row])).name.lower()
        lanes[f"{lane.slice_name} {lane.traffic.value}"] = lane_said
    departed = {
        f"{lane.slice_name} {lane.traffic.value}": int(accounts.used_bytes[enrolled + row])
        for row, lane in enumerate(device.ledger.lanes[enrolled:])
    }
    return {
        "lanes": lanes,
        "departed": departed,
        "now": device.ledger.ledger_seconds,
        "wall": report.at.wall_seconds,
        "trouble": device.trouble,
        "saved": report.saved,
        "save_trouble": report.save_trouble,
        "events": [event.kind.value for event in report.events],
        "changes": len(device.changes),
        "refused": [] if device.outcomes is None else np.unique(device.outcomes.errno).tolist(),
    }


def said_of_process() -> dict[str, int]:
    """Return what this process holds: resident memory in KiB, open descriptors."""
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {"resident_kib": int(resident.split()[1]), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}


def serve(config_path: Path, words: FileIO, answers: FileIO, stages: mmap.mmap | None = None) -> None:
    """Be the program until the words end."""
    try:
        program = Program(config_path, stages)
        _answer(answers, program.beginning)
        while line := words.readline():
            _answer(answers, program.obey(json.loads(line), words))
        program.close()
    except BwexporterError as error:
        _answer(answers, {"refused": str(error)})
    except Exception:  # noqa: BLE001 - whoever started the program has to see what broke it
        _answer(answers, {"broken": traceback.format_exc()})


def _answer(answers: FileIO, answer: Mapping[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[answers.write(data) or 0 :]


def die_in(seconds: float) -> None:
    """Have the kernel kill this process, -9, after so many seconds; an interval timer knows milder signals only."""
    libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    event = (ctypes.c_int * 16)(0, 0, signal.SIGKILL, 0)  # struct sigevent: value, signal, SIGEV_SIGNAL
    assert libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
    nanoseconds = max(1, int(seconds * 1e9))
    when = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, 10**9))  # struct itimerspec: once
    assert libc.timer_settime(timer, 0, when, None) == 0


class Remote:
    """A program in another process, as seen from the process that started it."""

    def __init__(self, process_id: int, words: FileIO, answers: FileIO, popen: subprocess.Popen[bytes] | None) -> None:
        self.process_id = process_id
        self._words = words
        self._answers = answers
        self._popen = popen  # None for a fork
        self._unanswered = 0

    def hear(self) -> dict[str, Any]:
        """Wait for an answer; what broke the program is an error here."""
        line = self._answers.readline()
        assert line, "the program has ended without an answer"
        answer: dict[str, Any] = json.loads(line)
        assert "broken" not in answer, answer["broken"]
        return answer

    def ask(self, what: str, **further: Any) -> dict[str, Any]:
        """Say a word and wait for its answer."""
        self.say(what, **further)
        while self._unanswered > 1:
            self.hear()
            self._unanswered -= 1
        self._unanswered = 0
        return self.hear()

    def say(self, what: str, **further: Any) -> None:
        """Say a word; its answer is heard later."""
        self._words.write(json.dumps({"do": what, **further}).encode() + b"\n")
        self._unanswered += 1

    def turn(self) -> dict[str, Any]:
        """Let it take a whole turn, and another one where the disk of a machine that stalls was waited for in vain."""
        said = self.ask("turn")
        while LATE in said["save_trouble"]:
            again = self.ask("turn")
            said = again | {"events": said["events"] + again["events"], "changes": said["changes"] + again["changes"]}
        return said

    def kill(self) -> None:
        """Kill it as the kernel would, at whatever it does now."""
        if self._popen is None:
            os.kill(self.process_id, signal.SIGKILL)
            os.waitpid(self.process_id, 0)
        else:
            self._popen.kill()
            self._popen.wait()
        self._close()

    def is_dead(self) -> bool:
        """Say whether it has died, of which nothing is left to be waited for."""
        return os.waitid(os.P_PID, self.process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """Let it end in order."""
        self._words.close()
        if self._popen is None:
            os.waitpid(self.process_id, 0)
        else:
            self._popen.wait(timeout=60)
        self._close()

    def _close(self) -> None:
        self._words.close()
        self._answers.close()


def forked(config_path: Path, stages: mmap.mmap | None = None) -> Remote:
    """Start a program out of this process, which should have one thread."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    process_id = os.fork()
    if process_id == 0:
        os.close(ours_out)
        os.close(ours_in)
        serve(config_path, FileIO(theirs_in, "r"), FileIO(theirs_out, "w"), stages)
        os._exit(0)
    os.close(theirs_in)
    os.close(theirs_out)
    return Remote(process_id, FileIO(ours_out, "w"), FileIO(ours_in, "r"), None)


def started(config_path: Path, *, inside: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Remote:
    """Start a program as a process of its own, `inside` a command such as unshare."""
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "tests.faults.program", str(config_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(env or {})},
    )
    assert isinstance(process.stdin, FileIO)
    assert isinstance(process.stdout, FileIO)
    return Remote(process.pid, process.stdin, process.stdout, process)


def limited(lane: Mapping[str, Any]) -> bool:
    """Say whether a lane has an allowance."""
    return bool(lane["allowance"] < UNLIMITED)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve(Path(sys.argv[1]), FileIO(0, "r", closefd=False), FileIO(1, "w", closefd=False))
