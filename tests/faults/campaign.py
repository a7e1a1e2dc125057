"""The campaign of kills: a program that is killed again and again, and must know every byte each time it is back.

Turns a number of kills into the differences that were found, of which there should be none. It is run in a network
namespace of its own: `unshare --net python -m tests.faults.campaign --kills 200 FOLDER`. Knows: when to kill. Does not
know: how the program works inside.

Each round: the queues are empty; the program starts from what was saved and takes a turn; every account has to be what
arrived at the far end of the cable, in its old period, with its cap in force; then it takes turns while packets pass,
until it is killed in the stage of its turn that this round aims at, or as it starts.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import mmap
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bwexporter.turn import STAGES
from tests.faults.machine import FIRST_PORT, Machine
from tests.faults.program import Files, Remote, forked, limited

SLICES = {"ann": 1, "bob": 2, "cyd": 3, "free": 4}
LANES = tuple(f"{name} {traffic}" for name in SLICES for traffic in ("normal", "exempt"))
PORTS = {lane: FIRST_PORT + number for number, lane in enumerate(LANES)}
AIMS = (*STAGES, "between", "start")
STRIKE_SECONDS = {"save": 0.005, "act": 0.001, "look": 0.0005}  # how deep into a stage a kill may fall
DRIFTS = 0.6  # how often a stranger has set the ceilings before the blow, so that there is something to act upon
STRANGERS = 0.15  # how often a stranger ends a class in a round, in the life of the program or after it
LATEST_SECONDS = 0.1  # how long a stage is waited for
LONGEST_START_SECONDS = 0.06


def class_of(lane: str, slices: Mapping[str, int] = SLICES) -> int:
    """Return the class of a lane."""
    name, traffic = lane.split()
    return 0x1_0000 | ((0x1000 if traffic == "normal" else 0x8000) + slices[name])


def differences(said: Mapping[str, Any], machine: Machine, periods: dict[str, tuple[float, float]]) -> Iterator[str]:
    """Yield what is wrong: bytes, periods, ceilings. `periods` remembers those that were seen first."""
    if said["trouble"] or not said["saved"]:
        yield f"trouble: {said['trouble']} {said['save_trouble']}"
    kernel = machine.classes()
    for name, lane in said["lanes"].items():
        arrived = machine.arrived[PORTS[name]] if name in PORTS else 0
        if not lane["used"] == lane["sent"] == arrived:
            yield f"{name}: used {lane['used']}, sent {lane['sent']}, but {arrived} arrived"
        period = (lane["start"], lane["end"])
        if periods.setdefault(name, period) != period:
            yield f"{name}: period {period}, but it was {periods[name]}"
        enforced = kernel[lane["handle"]].ceiling if lane["handle"] in kernel else None
        if enforced != lane["asked"]:
            yield f"{name}: the kernel has {enforced}, the verdict is {lane['asked']}"
        yield from _wrong_cap(name, lane, said["now"])


def _wrong_cap(name: str, lane: Mapping[str, Any], now: float) -> Iterator[str]:
    """Say where a cap is not what the law's plainest words make of it."""
    over = limited(lane) and lane["used"] >= lane["threshold"]
    if over != (lane["reason"] == "over_threshold"):
        yield f"{name}: {lane['used']} of {lane['threshold']} used, and the reason is {lane['reason']}"
    spread = (lane["allowance"] - lane["used"]) / (lane["end"] - now)
    if over and not 0.98 * spread <= lane["ceiling"] <= spread:
        yield f"{name}: the ceiling is {lane['ceiling']}, not {spread:.0f}"
    if not over and lane["reason"] not in {"within", "paced"}:
        yield f"{name}: {lane['reason']}, though nothing is over"


@dataclass
class Campaign:
    """Kills, and what was found after each."""

    machine: Machine
    files: Files
    seed: int
    strangers: float = STRANGERS
    kills: int = 0
    found: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)  # where kills fell, by stage
    periods: dict[str, tuple[float, float]] = field(default_factory=dict)
    start_seconds: float = 0.0
    slowest_seconds: float = 0.0
    most_descriptors: int = 0
    ended_lives: int = 0
    journal: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write the files, and share a page with the programs."""
        self.chance = random.Random(self.seed)
        self.stages = mmap.mmap(-1, mmap.PAGESIZE)
        self.files.write(SLICES)

    def round(self) -> None:
        """Start, check, let it run in traffic, kill."""
        self.machine.settle()
        began = time.monotonic()
        program = forked(self.files.config, self.stages)
        self.check(program)
        self.start_seconds = time.monotonic() - began
        self.slowest_seconds = max(self.slowest_seconds, self.start_seconds)
        aim = self.chance.choice(AIMS)
        deletes = self.chance.choice(("alive", "dead")) if self.chance.random() < self.strangers else "never"
        self._write_down(f"aim {aim}, a stranger deletes: {deletes}")
        if deletes == "alive":
            program.say("run")
            self._delete_classes()
        if aim == "start":
            program.kill()
            program = forked(self.files.config, self.stages)
            time.sleep(self.chance.uniform(0, 1.5 * self.start_seconds))
        elif aim == "between":
            program.say("run")
            self._pass()
        else:
            if self.chance.random() < DRIFTS:
                self.machine.drift([class_of(lane) for lane in LANES], self.chance.randrange(1_000_000, 50_000_000))
            program.say("run", aim=aim, part=self.chance.random(), passed_by=self.chance.randrange(3))
            deadline = time.monotonic() + LATEST_SECONDS
            while not program.is_dead() and time.monotonic() < deadline:
                self._pass()
        program.kill()
        if deletes == "dead":
            self._delete_classes()
        self._write_down(f"killed in {(*STAGES, 'between')[self.stages[0]]}")
        self.kills += 1
        self.struck[aim if aim == "start" else (*STAGES, "between")[self.stages[0]]] += 1

    def _write_down(self, text: str) -> None:
        """Keep what happened in the last rounds, for whoever has to find out why."""
        self.journal = [*self.journal[-40:], f"{self.kills}: {text}"]

    def check(self, program: Remote) -> None:
        """Hold the program's first turn, and what the kernel then has, against the truth."""
        beginning = program.hear()
        if beginning.get("refused") or beginning["recovered"]:
            self.found.append(f"after kill {self.kills}: {beginning}")
        said = program.turn()
        self.most_descriptors = max(self.most_descriptors, said["process"]["descriptors"])
        wrong = [f"after kill {self.kills}: {one}" for one in differences(said, self.machine, self.periods)]
        if wrong and not self.found:
            self.found += self.journal
        self.found += wrong
        self._mark_anew(program)

    def _mark_anew(self, program: Remote) -> None:
        """End the lives that strangers began, so that each class has a leaf queue of ours again.

        Lives that follow each other without one are told apart by the trunk alone, which cannot say whose they were.
        """
        handles = {class_of(lane) for lane in LANES}
        unmarked = [handle for handle, one in self.machine.classes().items() if handle in handles and not one.leaf]
        for handle in unmarked:
            self.machine.delete_class(handle)
        for _ in range(2 if unmarked else 0):  # one turn makes the classes, the next one sees them
            _take_saved_turn(program)

    def _delete_classes(self) -> None:
        """Let a stranger end a life below each trunk, and perhaps begin another one that regrows.

        What the dead lives had counted unseen is known from their trunks, exactly where it is one life in each.
        """
        for traffic in ("normal", "exempt"):
            if self.chance.random() < 0.7:
                lane = self.chance.choice([lane for lane in LANES if lane.endswith(traffic)])
                self.machine.settle()
                self.machine.delete_class(class_of(lane))
                self.machine.remake_class(class_of(lane))
                self.ended_lives += 1
                packets = self.chance.choice((0, 5, 60))
                self._write_down(f"{lane} ended, made anew, {packets} packets of 1400")
                if packets:
                    self.machine.send(class_of(lane), packets, size=1400, port=PORTS[lane])

    def _pass(self) -> None:
        """Let packets pass."""
        lane = self.chance.choice(LANES)
        size, packets = self.chance.randrange(60, 1500), self.chance.randrange(1, 15)
        self.machine.send(class_of(lane), packets, size=size, port=PORTS[lane])
        self._write_down(f"{lane} sent {packets} packets of {size}")
        time.sleep(self.chance.uniform(0, 0.004))

    def summary(self) -> dict[str, Any]:
        """Say what happened."""
        return {
            "kills": self.kills,
            "differences": len(self.found),
            "first_differences": self.found[:60],
            "struck": dict(self.struck),
            "lives_ended_by_strangers": self.ended_lives,
            "arrived_bytes": sum(self.machine.arrived.values()),
            "slowest_start_and_check_seconds": round(self.slowest_seconds, 3),
            "most_descriptors": self.most_descriptors,
            "state_bytes": sum(one.stat().st_size for one in self.files.folder.glob(f"{self.files.device}.db*")),
        }


def _take_saved_turn(program: Remote) -> None:
    """Take turns until one is saved: on a starved machine a turn does not wait for the disk for ever.

    Else two lives below one trunk may end after the last save, and then nobody can say which bytes were whose.
    """
    while not program.turn()["saved"]:
        continue


def prepare() -> None:
    """Load what a program would load late, and let forks share it."""
    import pyroute2.iproute.linux  # noqa: PLC0415 - as the door does, but once for all forks

    assert pyroute2.iproute.linux
    logging.disable(logging.ERROR)
    gc.collect()
    gc.freeze()


def main() -> int:
    """Run a campaign; print its summary as JSON; exit 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    prepare()
    machine = Machine()
    campaign = Campaign(machine, Files(given.folder), given.seed)
    while campaign.kills < given.kills and len(campaign.found) < 10:
        campaign.round()
    machine.settle()
    last = forked(campaign.files.config)
    campaign.check(last)
    last.end()
    print(json.dumps({"seed": given.seed, **campaign.summary()}))  # noqa: T201 - it is read by who started this
    return 1 if campaign.found else 0


if __name__ == "__main__":
    sys.exit(main())
