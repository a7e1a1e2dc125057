"""What lanes get: how close to their ceiling, in which shares, with which guarantee; beside the same senders unshaped.

Turns greedy senders through a real tree into figures. Knows: the lanes of each scene, the far end, what is counted
where there is no tree. Does not know: goals, how figures are shown.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from statistics import median

import numpy as np

from bwexporter.kernel.htb import Device
from tests.benchmarks import ground
from tests.builders import GIGABIT
from tests.load import Lane, Senders, Sink
from tests.stage import FIRST, GSO_BYTES, Look, look_at, set_lanes

DEVICE = "vshaping"
MEGABIT = 125_000
CEILINGS = {"1 mbit": MEGABIT, "10 mbit": 10 * MEGABIT, "100 mbit": 100 * MEGABIT, "1 gbit": GIGABIT}
PROTOCOLS = ("udp", "tcp")
_PACKET_BYTES = {"udp": 1442, "tcp": GSO_BYTES + 14}
CAP, GUARANTEE, GREEDY = 100 * MEGABIT, 20 * MEGABIT, 50
_SECONDS, _LOOKS = 3.0, 12
_SETTLE_SECONDS = 0.7
_HEADER_BYTES = 14  # that nftables do not count

Figures = dict[tuple[str, str], list[float]]
"""By what was measured, and `shaped`, `unshaped` or `highest`; percent, or Mbit/s where nothing was promised."""


def measure(rounds: int, say: Callable[[str], None]) -> Figures:
    """Measure every scene, in rounds."""
    figures: Figures = defaultdict(list)
    with ground.cable(DEVICE), _far_end() as inside, Sink(inside):
        for number in range(rounds):
            say(f"greedy senders through lanes and without, round {number + 1} of {rounds}")
            for protocol in PROTOCOLS:
                _closeness(figures, protocol)
                _shares(figures, protocol)
            _contention(figures)
    return figures


def middle(figures: Figures, what: str, side: str = "shaped") -> float | None:
    """Return the median of a figure."""
    found = figures.get((what, side))
    return median(found) if found else None


def _closeness(figures: Figures, protocol: str) -> None:
    """Let three ceilings be reached at once, and the largest alone."""
    for names in (("1 mbit", "10 mbit", "100 mbit"), ("1 gbit",)):
        ceilings = [CEILINGS[name] for name in names]
        lanes = [Lane(protocol, FIRST + at, ceiling) for at, ceiling in enumerate(ceilings)]
        looks = _shaped(lanes, ceilings)
        for at, (name, ceiling) in enumerate(zip(names, ceilings, strict=True)):
            what = f"{protocol} to a ceiling of {name}"
            waiting = [look for look in looks if look.queued(FIRST + at)]
            if len(waiting) > 1:
                figures[what, "shaped"].append(100 * _rate(waiting[0], waiting[-1], [FIRST + at]) / ceiling)
            figures[what, "highest"].append(_highest(looks, [FIRST + at], ceiling, _PACKET_BYTES[protocol]))
    (alone,) = _unshaped([Lane(protocol, FIRST)])
    for name in CEILINGS:
        figures[f"{protocol} to a ceiling of {name}", "unshaped"].append(8e-6 * alone)


def _shares(figures: Figures, protocol: str) -> None:
    """Let two lanes of shares 1 and 3 fill the node cap."""
    what = f"{protocol}, the larger of two shares 1:3"
    lanes = [Lane(protocol, FIRST), Lane(protocol, FIRST + 1)]
    looks = _shaped(lanes, [CAP, CAP], share=np.array([1, 3]))
    small, large = (_rate(looks[0], looks[-1], [handle]) for handle in (FIRST, FIRST + 1))
    figures[what, "shaped"] += _part(small, large)
    figures[what, "unshaped"] += _part(*_unshaped(lanes))


def _part(small: float, large: float) -> list[float]:
    """Return the larger part in percent; nothing where a starved machine has sent nothing."""
    return [100 * large / (small + large)] if small + large > 0 else []


def _contention(figures: Figures) -> None:
    """Let fifty greedy lanes fill the node cap; one of them has a guarantee."""
    guarantees = np.full(GREEDY, 125)
    guarantees[0] = GUARANTEE
    lanes = [Lane("tcp", FIRST + at) for at in range(GREEDY)]
    handles = [lane.handle for lane in lanes]
    looks = _shaped(lanes, [CAP] * GREEDY, guarantee_bytes_per_second=guarantees)
    kept, whole = _rate(looks[0], looks[-1], handles[:1]), _rate(looks[0], looks[-1], handles)
    first, *others = _unshaped(lanes)
    guarantee, cap = "a guarantee of 20 mbit among 50 greedy", "the node cap of 100 mbit under 50 greedy"
    figures[guarantee, "shaped"].append(100 * kept / GUARANTEE)
    figures[guarantee, "unshaped"].append(8e-6 * first)
    figures[cap, "shaped"].append(100 * whole / CAP)
    figures[cap, "highest"].append(_highest(looks, handles, CAP, _PACKET_BYTES["tcp"]))
    figures[cap, "unshaped"].append(8e-6 * (first + sum(others)))


def _rate(one: Look, other: Look, handles: Sequence[int]) -> float:
    """Return bytes per second between two looks, each taken to be in the middle of its dump."""
    seconds = (other.before + other.after - one.before - one.after) / 2
    return sum(other.sent(handle) - one.sent(handle) for handle in handles) / seconds


def _highest(looks: Sequence[Look], handles: Sequence[int], ceiling: int, packet_bytes: int) -> float:
    """Return the highest percentage of a ceiling between two looks; a burst and a packet begun are let through."""
    free = max(1600, ceiling // 1000) + packet_bytes
    sent = {
        (one.before, other.after): sum(other.sent(handle) - one.sent(handle) for handle in handles)
        for one, other in combinations(looks, 2)
    }
    return max(100 * (size - free) / (ceiling * (end - start)) for (start, end), size in sent.items())


def _shaped(lanes: Sequence[Lane], ceilings: Sequence[int], **given: object) -> list[Look]:
    """Let lanes send through a tree that has nothing else, and look again and again."""
    with Device(DEVICE) as device:
        cap = CAP if given else 2 * GIGABIT
        set_lanes(device, ceilings, cap=cap, line=2 * GIGABIT, **given)
        with Senders(ground.FAR, lanes):
            time.sleep(_SETTLE_SECONDS)
            looks = [look_at(device)]
            for _ in range(_LOOKS):
                time.sleep(_SECONDS / _LOOKS)
                looks.append(look_at(device))
    ground.run("tc", "qdisc", "del", "dev", DEVICE, "root")
    return looks


def _unshaped(lanes: Sequence[Lane]) -> list[float]:
    """Let lanes send where there is no tree; return the bytes per second of each, as nftables count them."""
    hook = f"{{ type filter hook egress device {DEVICE} priority 0 ; }}"
    ground.run("nft", "add", "table", "netdev", "unshaped")
    ground.run("nft", "add", "chain", "netdev", "unshaped", "out", *hook.split())
    for lane in lanes:
        rule = f"meta priority {lane.handle >> 16:x}:{lane.handle & 0xFFFF:x} counter"
        ground.run("nft", "add", "rule", "netdev", "unshaped", "out", *rule.split())
    with Senders(ground.FAR, lanes):
        time.sleep(_SETTLE_SECONDS)
        before, started = _counted(), time.monotonic()
        time.sleep(_SECONDS / 2)
        after, seconds = _counted(), time.monotonic() - started
    ground.run("nft", "delete", "table", "netdev", "unshaped")
    return [(later - earlier) / seconds for earlier, later in zip(before, after, strict=True)]


def _counted() -> list[int]:
    listed = json.loads(ground.run("nft", "-j", "list", "table", "netdev", "unshaped"))["nftables"]
    counters = (
        part["counter"] for item in listed for part in item.get("rule", {}).get("expr", ()) if "counter" in part
    )
    return [one["bytes"] + _HEADER_BYTES * one["packets"] for one in counters]


@contextmanager
def _far_end() -> Iterator[tuple[str, ...]]:
    """Put the far end of the cable into a network namespace of its own; yield the command that enters it."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout
    keeper.stdout.readline()
    inside = ("nsenter", f"--net=/proc/{keeper.pid}/ns/net")
    far = f"{DEVICE}p"
    ground.run("ip", "link", "set", far, "netns", str(keeper.pid))
    ground.run(*inside, "ip", "address", "add", f"{ground.FAR}/24", "dev", far)
    ground.run(*inside, "ip", "link", "set", far, "up")
    try:
        yield inside
    finally:
        keeper.communicate(b"")
