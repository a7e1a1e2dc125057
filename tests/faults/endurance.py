"""Endurance: one real daemon that lives for long while everything around it goes wrong, and must grow in nothing.

Turns time into the differences that were found in what the daemon publishes, and into what it held of memory,
descriptors and disk. Knows: what a daemon may be made to suffer without losing a byte. Does not know: its insides; it
is a process of its own, seen through /metrics, the kernel and /proc.
"""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.campaign import LANES, PORTS, SLICES, class_of
from tests.faults.machine import Machine, wait_for
from tests.faults.program import Files

PORT = 10_099
URL = f"http://127.0.0.1:{PORT}/metrics"
AGREEMENT_SECONDS = 60.0
WARM_SECONDS = 45.0  # until then a daemon may still load, fill its pools and make its first copy
MOST_GROWTH_KIB = 12_000
MOST_FURTHER_DESCRIPTORS = 4
MOST_LOG_BYTES = 24_000_000  # SQLite's log is folded into the file from some size on
MOST_FILE_BYTES, MOST_EVENT_BYTES = 2_000_000, 1_000  # what is kept: use and accounts, and each event
SAMPLE_SECONDS = 5.0
_LANE = re.compile(r'bwexporter_(\w+)\{device="eth1",slice="(\w+)",traffic="(\w+)"\} (\S+)')
_PLAIN = re.compile(r"^bwexporter_(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass
class Endurance:
    """A daemon on eth1, and what became of it."""

    machine: Machine
    files: Files
    seed: int
    found: list[str] = field(default_factory=list)
    checks: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)  # seconds, KiB, descriptors, disk bytes
    periods: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Start the daemon."""
        self.chance = random.Random(self.seed)
        self.slices = dict(SLICES)
        interval = {"interval": "100ms", "shortest_interval": "20ms", "look_margin": "50ms"}
        self.files.write(self.slices, web={"listen": [f"127.0.0.1:{PORT}"]}, **interval)
        self._log = (self.files.folder / "daemon.log").open("wb")
        command = [sys.executable, "-m", "bwexporter", "run", "--config", str(self.files.config)]
        self._daemon = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        wait_for(self._answers, seconds=60)
        self.check()

    def _answers(self) -> bool:
        try:
            return "bwexporter_slice_sent_bytes_total{" in scrape()
        except OSError:
            return False

    def step(self) -> None:
        """Let packets pass, let something happen, and hold everything against the truth."""
        for _ in range(self.chance.randrange(1, 6)):
            lane = self.chance.choice(self._lanes())
            packets, size = self.chance.randrange(1, 20), self.chance.randrange(60, 1500)
            self.machine.send(class_of(lane, self.slices), packets, size=size, port=PORTS[lane])
        act: Callable[[], None] = self.chance.choices(*zip(*self._possible(), strict=True))[0]
        act()
        self.acts[act.__name__] += 1
        self.check()
        if not self.samples or self._seconds() - self.samples[-1][0] > SAMPLE_SECONDS:
            self.samples.append((self._seconds(), *self._held()))

    def _possible(self) -> list[tuple[Callable[[], None], float]]:
        return [
            (self.nothing, 8),
            (self.class_deleted, 2),
            (self.class_remade, 3),
            (self.ceilings_drift, 2),
            (self.tree_deleted, 0.5),
            (self.slice_removed, 0.5),
            (self.slice_returns, 1),
            (self.id_changed, 0.3),
            (self.bad_file, 0.3),
            (self.link_replaced, 0.1),
            (self.notifications_flood, 0.05),
        ]

    def _lanes(self) -> list[str]:
        return [lane for lane in LANES if lane.split()[0] in self.slices]

    def nothing(self) -> None:
        """Leave it alone."""

    def class_deleted(self) -> None:
        """A class is deleted, and the daemon makes it anew."""
        self.machine.settle()
        handle = class_of(self.chance.choice(self._lanes()), self.slices)
        self.machine.delete_class(handle)
        wait_for(lambda: handle in self.machine.classes())

    def class_remade(self) -> None:
        """A class is deleted, made anew and sends more than it had."""
        lane = self.chance.choice(self._lanes())
        self.machine.settle()
        self.machine.delete_class(class_of(lane, self.slices))
        self.machine.remake_class(class_of(lane, self.slices))
        self.machine.send(class_of(lane, self.slices), 30, size=1400, port=PORTS[lane])

    def ceilings_drift(self) -> None:
        """Somebody sets all ceilings."""
        self.machine.drift([class_of(lane, self.slices) for lane in self._lanes()], 30_000_000)

    def tree_deleted(self) -> None:
        """The root queue is deleted, when everything has been counted; the daemon builds it anew."""
        self.check()
        self.machine.delete_tree()
        self._wait_for_classes()

    def link_replaced(self) -> None:
        """The device is deleted and comes back, when everything has been counted."""
        self.check()
        self.machine.remove_link()
        self.machine.add_link()
        self._wait_for_classes()

    def slice_removed(self) -> None:
        """A slice is removed by the file."""
        self.check()
        if len(self.slices) > 1:
            name = self.chance.choice(list(self.slices))
            handles = {class_of(f"{name} {traffic}", self.slices) for traffic in ("normal", "exempt")}
            del self.slices[name]
            self.files.write_slices(self.slices)
            wait_for(lambda: not handles & set(self.machine.classes()))

    def slice_returns(self) -> None:
        """All slices are there."""
        self.check()
        self.slices = {**SLICES, **self.slices}
        self.files.write_slices(self.slices)
        self._wait_for_classes()

    def id_changed(self) -> None:
        """A slice gets another id."""
        self.check()
        name = self.chance.choice(list(self.slices))
        self.slices[name] = 100 * (self.slices[name] // 100 + 1) % 20_000 + SLICES[name]
        self.files.write_slices(self.slices)
        self._wait_for_classes()

    def bad_file(self) -> None:
        """The slices' file is nonsense for a moment."""
        path = self.files.folder / f"{self.files.device}-slices.yml"
        path.write_text("slices: [{name: ")
        self.check()
        self.files.write_slices(self.slices)

    def notifications_flood(self) -> None:
        """More happens than a listener can hold."""
        for _ in range(60):
            self.machine.drift([class_of(lane, self.slices) for lane in self._lanes()] * 120, 30_000_000)

    def _wait_for_classes(self) -> None:
        wanted = {class_of(lane, self.slices) for lane in self._lanes()}
        wait_for(lambda: wanted <= set(self.machine.classes()), seconds=AGREEMENT_SECONDS)

    def check(self) -> None:
        """Wait until what is published is the truth; what still differs after a while is a difference."""
        self.machine.settle()
        deadline = time.monotonic() + AGREEMENT_SECONDS
        while (wrong := list(self._wrong())) and time.monotonic() < deadline:
            assert self._daemon.poll() is None, f"the daemon has ended with {self._daemon.returncode}"
            time.sleep(0.02)
        self.found += [f"after {self._seconds():.0f} s: {one}" for one in wrong]
        self.checks += 1

    def _wrong(self) -> Iterator[str]:
        text, kernel = scrape(), self.machine.classes()
        published: dict[str, dict[str, float]] = {}
        for name, slice_name, traffic, value in _LANE.findall(text):
            published.setdefault(f"{slice_name} {traffic}", {})[name] = float(value)
        if set(self._lanes()) - set(published):
            yield f"lanes are missing: {sorted(set(self._lanes()) - set(published))}"
        for lane, said in published.items():
            yield from self._wrong_lane(lane, said)
        for lane in set(self._lanes()) & set(published):
            handle = class_of(lane, self.slices)
            intended = published[lane]["slice_intended_ceiling_bytes_per_second"]
            if handle not in kernel or kernel[handle].ceiling != intended:
                yield f"{lane}: intended {intended}, the kernel has {kernel.get(handle)}"

    def _wrong_lane(self, lane: str, said: dict[str, float]) -> Iterator[str]:
        arrived = self.machine.arrived[PORTS[lane]] if lane in PORTS else 0
        if not said["slice_period_used_bytes"] == said["slice_sent_bytes_total"] == arrived:
            yield (
                f"{lane}: used {said['slice_period_used_bytes']:.0f}, sent {said['slice_sent_bytes_total']:.0f}, "
                f"but {arrived} arrived"
            )
        if (
            abs(
                self.periods.setdefault(lane, said["slice_period_start_timestamp_seconds"])
                - said["slice_period_start_timestamp_seconds"]
            )
            > 0.01
        ):
            yield f"{lane}: a new period began"
        over = said["slice_period_used_bytes"] >= said["slice_period_threshold_bytes"]
        if over != bool(said["slice_capped"]):
            yield f"{lane}: capped is {said['slice_capped']}"

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _held(self) -> tuple[int, int, int]:
        here = Path(f"/proc/{self._daemon.pid}")
        resident = re.search(r"VmRSS:\s+(\d+)", (here / "status").read_text())
        assert resident
        disk = sum(one.stat().st_size for one in self.files.folder.glob(f"{self.files.device}.db*"))
        return int(resident[1]), len(list((here / "fd").iterdir())), disk

    def end(self) -> None:
        """End the daemon in order, and look for what grew."""
        self.check()
        text = scrape()
        plain = {name: float(value) for name, value in _PLAIN.findall(text)}
        self.turns = int(plain.get("turns_total", 0))
        # A look that falls into the moment between a link's end and its return is a turn that cannot look.
        forgiven = {"turn_failures_total": self.acts["link_replaced"], "state_failures_total": 0}
        for name, most in forgiven.items():
            total = sum(float(value) for found, value in _PLAIN.findall(text) if found == name)
            if total > most:
                self.found.append(f"{name} is {total:.0f}, and {most} can be explained")
        self.samples.append((self._seconds(), *self._held()))
        self._daemon.send_signal(signal.SIGTERM)
        code = self._daemon.wait(timeout=60)
        if code:
            self.found.append(f"the daemon ended with {code}")
        self._log.close()
        self.found += [*self._growth(), *self._stored()]

    def _growth(self) -> Iterator[str]:
        warm = [sample for sample in self.samples if sample[0] > WARM_SECONDS]
        if len(warm) < 4:
            return
        quarter = max(1, len(warm) // 4)
        early, late = warm[:quarter], warm[-quarter:]
        growth = max(one[1] for one in late) - max(one[1] for one in early)
        if growth > MOST_GROWTH_KIB:
            yield f"memory grew by {growth} KiB"
        further = min(one[2] for one in late) - max(one[2] for one in early)
        if further > MOST_FURTHER_DESCRIPTORS:
            yield f"{further} more descriptors are open"

    def _stored(self) -> Iterator[str]:
        """Yield what the state holds beyond what it is to keep."""
        with closing(sqlite3.connect(self.files.state)) as connection:
            (self.events,) = connection.execute("SELECT count(*) FROM events").fetchone()
        self.file_bytes = self.files.state.stat().st_size
        if self.file_bytes > MOST_FILE_BYTES + MOST_EVENT_BYTES * self.events:
            yield f"the state file has {self.file_bytes} bytes with {self.events} events"
        most_log = max(one[3] for one in self.samples)
        if most_log > 3 * self.file_bytes + MOST_LOG_BYTES:
            yield f"state, copies and log had {most_log} bytes"

    def summary(self) -> dict[str, Any]:
        """Say what happened."""
        warm = [sample for sample in self.samples if sample[0] > WARM_SECONDS] or self.samples
        _, *held = zip(*warm, strict=True)
        columns = dict(zip(("resident_kib", "descriptors", "state_with_log_and_copies_bytes"), held, strict=True))
        return {
            "seconds": round(self._seconds()),
            "turns": self.turns,
            "checks": self.checks,
            "differences": len(self.found),
            "first_differences": self.found[:10],
            "acts": dict(self.acts),
            "arrived_bytes": sum(self.machine.arrived.values()),
            "events": self.events,
            "state_file_bytes": self.file_bytes,
            **{name: {"first": column[0], "most": max(column), "last": column[-1]} for name, column in columns.items()},
        }


def scrape() -> str:
    """Return what the daemon publishes."""
    with urllib.request.urlopen(URL, timeout=60) as answer:
        return str(answer.read().decode())
