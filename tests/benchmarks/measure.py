"""The measurements: who is asked for what, in which order, how often.

Turns rounds of orders into samples. Knows: the contenders, and that they take turns within a round. Does not know: any
goal, how results are shown.

A burst is the same order several times in a row. Its first repetition comes after other programs have used the
processor's caches and is kept apart as `cold`; the others are the samples that goals are judged by.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import ground, idle
from tests.benchmarks.worker import BareWorker, Taken, Worker

READ_SIZE = 10
WRITE_COUNTS = (1, 100, 1000)
FORKS = 20
SCRAPES = 5
SETTLING_TURNS, FLAT_TURNS = 500, 1000


@dataclass
class Results:
    """Samples by what was done and how large the node was."""

    samples: dict[tuple[str, int], list[Taken]] = field(default_factory=lambda: defaultdict(list))
    cold: dict[tuple[str, int], list[Taken]] = field(default_factory=lambda: defaultdict(list))
    facts: dict[str, float] = field(default_factory=dict)

    def burst(self, what: str, size: int, taken: list[Taken]) -> None:
        """Keep a burst."""
        first, *others = taken
        self.cold[what, size].append(first)
        self.samples[what, size] += others or [first]

    def has(self, what: str, size: int) -> bool:
        """Say whether that was measured."""
        return bool(self.samples.get((what, size)))

    def median(self, what: str, size: int, part: str = "wall", *, cold: bool = False) -> float:
        """Return a median in seconds."""
        kept = (self.cold if cold else self.samples)[what, size]
        return statistics.median(taken[part] for taken in kept)


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    folder: Path
    bare: Path | None
    preload: Path | None
    rounds: int
    results: Results
    say: Callable[[str], None]

    @contextmanager
    def contenders(self, size: int, spare: int, what: str = "v") -> Iterator[dict[str, Any]]:
        """Build a node of that many slices, with the real tree, and start everybody who measures on it."""
        device = f"{what}{size}"
        self.say(f"building {size} slices")
        places = {name: self.folder / f"{device}-{name}" for name in ("ours", "bare", "tc", "library")}
        for place in places.values():
            place.mkdir()
        with ground.cable(device), ExitStack() as started:
            ours = started.enter_context(
                Worker("ours", places["ours"], device, str(size), preload=self.preload),
            )
            ours.ask("spare", spare)
            everybody = {"ours": ours, "tc": started.enter_context(Worker("ancestor", places["tc"], device))}
            everybody["library"] = started.enter_context(Worker("library", places["library"], device))
            if self.bare:
                everybody["bare"] = started.enter_context(BareWorker(self.bare, places["bare"], device))
            yield everybody

    def reads(self) -> None:
        """Measure reading a small node."""
        with self.contenders(READ_SIZE, 1, "r") as by:
            for _ in range(self.rounds):
                self._read(by, READ_SIZE, 40)

    def node(self, size: int) -> None:
        """Measure everything that is measured on a node of that size."""
        large = size > 3000
        changes = max(1, size // 50)  # one lane in a hundred
        burst = 4 if large else 8
        with self.contenders(size, changes) as by:
            self.say(f"turns of {size} slices")
            for number in range(self.rounds):
                self._round(by, size, changes, burst, with_library=number < 2 or not large)
            self._memory(by["ours"], size)
            self._other_ways_to_save(by["ours"], size)
            self._render(by, size, 2 if large else 4)
            self._beside_turns(by, size)
            if not large:
                self._scrapes(by, size)

    def _round(self, by: dict[str, Any], size: int, changes: int, burst: int, *, with_library: bool) -> None:
        ours, keep = by["ours"], self.results.burst
        ours.ask("send")
        if "bare" in by:
            keep("turn, C", size, by["bare"].ask("turn", changes, "kept", 0, burst))
        if self.preload:
            ours.ask("disk_waits", 0)
            keep("turn", size, ours.ask("turn", burst))
            ours.ask("disk_waits", 1)
        keep("turn, durable", size, ours.ask("turn", burst))
        if "bare" in by:
            keep("turn, C, durable", size, by["bare"].ask("turn", changes, "kept", 1, burst))
        self._read(by, size, burst)
        keep("turn, tc", size, by["tc"].ask("turn", changes, 2))
        if with_library:
            keep("turn, libraries", size, by["library"].ask("turn", changes, 1 if size > 3000 else 2))

    def _read(self, by: dict[str, Any], size: int, burst: int) -> None:
        if "bare" in by:
            self.results.burst("dump, C", size, by["bare"].ask("dump", burst))
        self.results.burst("read", size, by["ours"].ask("read", burst))
        self.results.burst("look", size, by["ours"].ask("look", burst))

    def _memory(self, ours: Worker, size: int) -> None:
        """Measure memory with the exposition made, and on a middling node whether it grows."""
        facts = self.results.facts
        ours.ask("turn_and_publish", 20)
        held = ours.ask("memory")
        facts[f"memory, {size}"] = held["now"] - held["imports"]
        facts["memory of the imports"] = held["imports"]
        if size == 1000:
            self.say(f"{SETTLING_TURNS} and {FLAT_TURNS} turns for the memory")
            ours.ask("turn_and_publish", SETTLING_TURNS)
            settled = ours.ask("memory")["now"]
            ours.ask("turn_and_publish", FLAT_TURNS)
            facts["memory grown in 1000 turns"] = ours.ask("memory")["now"] - settled

    def _other_ways_to_save(self, ours: Worker, size: int) -> None:
        if self.preload:
            ours.ask("disk_waits", 0)
        for name, taken in ours.ask("other_ways_to_save", 3).items():
            self.results.burst(f"save as {name}", size, taken)
        if self.preload:
            ours.ask("disk_waits", 1)

    def _render(self, by: dict[str, Any], size: int, burst: int) -> None:
        self.say(f"expositions of {size} slices")
        families, lanes, prefix = by["ours"].ask("shape")
        for _ in range(min(self.rounds, 3)):
            self.results.burst("render", size, by["ours"].ask("render", burst))
            self.results.burst("render, libraries", size, by["library"].ask("render", 2 if size <= 3000 else 1))
            if "bare" in by:
                self.results.burst("render, C", size, by["bare"].ask("render", families, lanes, prefix, burst))

    def _scrapes(self, by: dict[str, Any], size: int) -> None:
        """Measure a scrape beside the libraries' server, and a turn with a scrape or with scrapes without a pause."""
        self.say(f"scrapes of {size} slices")
        with Worker("bystander", self.folder) as scraper:
            ours, library = by["ours"].ask("open_web"), by["library"].ask("open_web")
            for _ in range(self.rounds):
                for gzip in (False, True):
                    form = ", gzip" if gzip else ""
                    self.results.burst(f"scrape{form}", size, scraper.ask("scrape", ours, SCRAPES, gzip))
                    self.results.burst(f"scrape, libraries{form}", size, scraper.ask("scrape", library, 2, gzip))
                self.results.burst("turn, undisturbed", size, by["ours"].ask("turn", 12))
                self.results.burst("turn, scraped", size, by["ours"].ask("scraped_turn", 12))
                scraper.tell("scrape_for", ours, 0.5)
                self.results.burst("turn, scraped without a pause", size, by["ours"].ask("turn", 12))
                scraper.hear()

    def _beside_turns(self, by: dict[str, Any], size: int) -> None:
        """Measure how long another user of rtnetlink waits while nothing, our turns or C's dumps run all the time."""
        other = f"o{size}"
        with ground.cable(other), Worker("bystander", self.folder) as bystander:
            bystander.ask("make_class", other)
            self._waits(bystander, other, size, "idle", lambda: None)
            self._waits(bystander, other, size, "turns", lambda: by["ours"].ask("turns_for", 3.0))
            if "bare" in by:
                repeat = int(3.0 / self.results.median("dump, C", size))
                self._waits(bystander, other, size, "C's dumps", lambda: by["bare"].ask("dump", repeat))

    def _waits(self, bystander: Worker, other: str, size: int, beside: str, work: Callable[[], object]) -> None:
        bystander.tell("change", other, 2.5)
        work()
        waits = sorted(bystander.hear())
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            at = min(len(waits) - 1, int(share * len(waits)))
            self.results.facts[f"wait beside {beside}, {size}, {name}"] = waits[at]

    def writes(self) -> None:
        """Measure changes of classes; our listener hears of the changes of all others, but where none is said to."""
        with self.contenders(0, max(WRITE_COUNTS)) as by:
            self.say("changes of classes")
            ours, tc, keep = by["ours"], by["tc"], self.results.burst
            for _ in range(self.rounds):
                for count in WRITE_COUNTS:
                    burst = 20 if count < 1000 else 6
                    ours.ask("look", 1)  # takes in what the others made it hear
                    if "bare" in by:
                        keep("write, C", count, by["bare"].ask("write", count, burst))
                        ours.ask("listen", 0)
                        keep("write, C, unheard", count, by["bare"].ask("write", count, burst))
                        ours.ask("listen", 1)
                    keep("write", count, ours.ask("write", count, burst))
                    keep("write, tc -batch", count, tc.ask("batch", count, 3))
                    ours.ask("look", 1)
                keep("write, forked tc", 1, tc.ask("write", 1, 5))
                keep("write, forked tc", FORKS, tc.ask("write", FORKS, 1))
            self.results.facts["errors told of their own class"] = float(ours.ask("errors_found", max(WRITE_COUNTS)))

    def idling(self, size: int) -> None:
        """Measure what the real daemon costs while nothing happens."""
        self.say("an idle daemon")
        device = f"i{size}"
        with ground.cable(device):
            self.results.facts |= idle.cost(self.folder / device, device, size)
