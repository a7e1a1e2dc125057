"""The goals: what the measurements must come to, and whether they do.

Turns results into ratios with a limit each. Knows: every goal's number and limit. Does not know: how anything was
measured or is shown. A limit is on a ratio of two medians of the same run, on a share, on memory or on a wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.benchmarks.measure import FORKS, Results

MEGABYTE = 1e6
AT_MOST, AT_LEAST = "<=", ">="


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: `measured` against `limit`, both in `unit`."""

    number: str
    text: str
    measured: float
    sense: str
    limit: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Say whether it is reached."""
        return self.measured <= self.limit if self.sense == AT_MOST else self.measured >= self.limit


class _Compared(NamedTuple):
    """A goal on the ratio of two medians, for each size that has a limit."""

    number: str
    text: str
    one: str
    other: str
    sense: str
    limits: Mapping[int, float]


_TURN = "turn"  # stands for the turn that does not wait for the disk, where that could be measured
_C_TURN = "turn, C"
_NODES = (
    _Compared("G1", "turn / a whole turn in C", _TURN, _C_TURN, AT_MOST, {1000: 2.0, 10_000: 1.35}),
    _Compared("G2", "tc as text, forks, gauges / turn", "turn, tc, gauges", _TURN, AT_LEAST, {1000: 25, 10_000: 15}),
    _Compared("G2", "pyroute2 and gauges / turn", "turn, libraries", _TURN, AT_LEAST, {1000: 100, 10_000: 80}),
    _Compared("G3", "read and decode / C", "read", "dump, C", AT_MOST, {10: 2.5, 1000: 1.4, 10_000: 1.25}),
    _Compared("G6", "gauges, generate_latest / text", "render, libraries", "text", AT_LEAST, {1000: 30, 10_000: 30}),
    _Compared("G6", "text / C", "text", "render, C", AT_MOST, {1000: 10, 10_000: 10}),
    _Compared("G6", "prometheus_client's scrape / ours", "scrape, libraries", "scrape", AT_LEAST, {1000: 40}),
    _Compared("G6", "the same with gzip", "scrape, libraries, gzip", "scrape, gzip", AT_LEAST, {1000: 40}),
    _Compared("G7", "turn with a scrape / turn", "turn, scraped", "turn, undisturbed", AT_MOST, {100: 1.2, 1000: 1.2}),
    _Compared("G9", "SQLite row by row / save", "save as rows", "save", AT_LEAST, {1000: 8, 10_000: 8}),
    _Compared("G9", "JSON / save", "save as json", "save", AT_LEAST, {1000: 8, 10_000: 8}),
)
_WRITES = (
    _Compared("G4", "changes / C", "write", "write, C", AT_MOST, {1000: 3}),
    _Compared("G4", "tc -batch / changes", "write, tc -batch", "write", AT_LEAST, {1000: 8}),
    _Compared("G5", "one change / C", "write", "write, C", AT_MOST, {1: 10}),
    _Compared("G5", "forked tc / one change", "write, forked tc", "write", AT_LEAST, {1: 100}),
)


def reached(results: Results) -> list[Goal]:
    """Return every goal that this run measured, in the order of their numbers."""
    parts = (_ratios(results, _NODES, "slices"), _ratios(results, _WRITES, "changes"), _forks(results))
    others = (_memory(results), _shares(results), _waits(results), _idle(results))
    found = [goal for part in (*parts, *others) for goal in part]
    return sorted(found, key=lambda goal: (not goal.number[1:].isdigit(), goal.number[1:].zfill(4)))


def turn_name(results: Results, size: int) -> str:
    """Return the turn that goals are about: without waiting for the disk, where that could be measured."""
    return "turn" if results.has("turn", size) else "turn, durable"


def _ratios(results: Results, goals: tuple[_Compared, ...], of: str) -> Iterator[Goal]:
    for goal in goals:
        for size, limit in goal.limits.items():
            one, other = _seconds(results, goal.one, size), _seconds(results, goal.other, size)
            if one is not None and other is not None:
                yield Goal(goal.number, f"{goal.text}, {size} {of}", one / other, goal.sense, limit)


def _seconds(results: Results, what: str, size: int) -> float | None:
    """Return a median; some names stand for a part of what was measured, or for a sum."""
    turn = turn_name(results, size)
    if what == _C_TURN and turn != _TURN:
        what = "turn, C, durable"
    named = {
        _TURN: (turn, "wall"),
        "save": (turn, "save"),
        "text": ("render", "text"),
        "turn, tc, gauges": ("turn, tc", "wall"),
    }
    measured, part = named.get(what, (what, "wall"))
    if not results.has(measured, size):
        return None
    more = results.median(measured, size, "gauges") if what == "turn, tc, gauges" else 0.0
    return results.median(measured, size, part) + more


def _forks(results: Results) -> Iterator[Goal]:
    if results.has("write", 1000):
        forked = results.median("write, forked tc", FORKS) / FORKS * 1000
        text = f"forked tc / changes, 1000 changes (from {FORKS})"
        yield Goal("G4", text, forked / results.median("write", 1000), AT_LEAST, 1000)
        told = results.facts["errors told of their own class"]
        yield Goal("G4", "every refusal is told of its own class", told, AT_LEAST, 1, "")


def _memory(results: Results) -> Iterator[Goal]:
    for size, limit in ((1000, 50), (10_000, 150)):
        held = results.facts.get(f"memory, {size}")
        if held is not None:
            yield Goal("G8", f"memory over the imports, {size} slices", held / MEGABYTE, AT_MOST, limit, " MB")
    grown = results.facts.get("memory grown in 1000 turns")
    if grown is not None:
        yield Goal("G8", "memory grown in 1000 turns, 1000 slices", grown / MEGABYTE, AT_MOST, 1, " MB")


def _shares(results: Results) -> Iterator[Goal]:
    turn = turn_name(results, 10_000)
    if results.has(turn, 10_000):
        share = results.median(turn, 10_000, "save") / results.median(turn, 10_000)
        yield Goal("G9", "save / turn, 10000 slices", 100 * share, AT_MOST, 15, " %")


def _waits(results: Results) -> Iterator[Goal]:
    for size in (100, 1000, 10_000):
        wait = results.facts.get(f"wait beside turns, {size}, p99")
        if wait is not None:
            yield Goal("G10", f"p99 of others' wait beside turns, {size} slices", 1e3 * wait, AT_MOST, 1.0, " ms")


def _idle(results: Results) -> Iterator[Goal]:
    share = results.facts.get("idle, share of a core")
    if share is not None:
        yield Goal("idle", "share of a core, 100 slices, a turn every 10 s", 100 * share, AT_MOST, 0.3, " %")
