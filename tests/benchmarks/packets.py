"""What a packet costs, by the number of slices that rules tell apart.

Turns sizes of the classifier into costs of the very same load. Knows: rules, the device, the C program that sends. Does
not know: goals, how costs are shown.

The load is the same whatever the size: packets of one slice. Beside it stands a load that is spread over all slices,
which no cache of a processor holds.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bwexporter.errors import DeviceRefused
from bwexporter.kernel.claims import Claim, wanted
from bwexporter.kernel.classifier import Classifier
from tests.benchmarks import ground

DEVICE = "vpackets"
SIZES = (10, 1000, 10_000)
COUNT, REPEATS = 20_000, 4
NO_RULES = 0
_ADDRESSES = int(ipaddress.IPv4Address("10.64.0.0"))
_PREFIXES, _PREFIX_BYTES = int(ipaddress.IPv4Address("10.128.0.0")), 16
_USERS, _RANGES, _RANGE = 20_000, 100_000, 10
_OWN = int(ipaddress.IPv4Address(ground.NEAR))


class Load(NamedTuple):
    """What the sender is told: a user, the first source address, the step to the next, and how many there are."""

    uid: int
    source: int
    stride: int = 0
    spread: int = 1


LOADS: dict[str, Callable[[int], Load]] = {
    "an address": lambda _: Load(0, _ADDRESSES + 5),
    "a prefix": lambda _: Load(0, _PREFIXES + 5 * _PREFIX_BYTES + 3),
    "a user": lambda _: Load(_USERS + 5, _OWN),
    "a range of users": lambda _: Load(_RANGES + 5 * _RANGE + 1, _OWN),
    "all slices' addresses": lambda size: Load(0, _ADDRESSES, 1, max(size, 1)),
    "a user, the last of four keys": lambda _: Load(_USERS + 5, _OWN),
}
"""What tells all slices, and so the load's one slice; or the load is spread over all, or each slice has four keys."""

Costs = dict[tuple[str, int], list[float]]
"""Nanoseconds of processor time a packet, by load and number of slices."""


def measure(folder: Path, rounds: int, say: Callable[[str], None], sizes: tuple[int, ...] = SIZES) -> Costs:
    """Measure every load at every size, in rounds; empty where there is no compiler."""
    program = ground.compiled("flood", folder)
    costs: Costs = defaultdict(list)
    if program is None:
        say("there is no gcc: what a packet costs is not measured")
        return costs
    with ground.cable(DEVICE), _sender(program) as ask:
        _build()
        classifier = Classifier()
        for number in range(rounds):
            say(f"packets through rules for {', '.join(map(str, sizes))} slices, round {number + 1} of {rounds}")
            for size in (NO_RULES, *sizes):
                for name, load in LOADS.items():
                    try:
                        _sort(classifier, name, size)
                    except DeviceRefused as refused:
                        say(f"{size} slices: {refused}")
                        continue
                    # The least of some: what comes on top is other programs' doing.
                    costs[name, size].append(min(ask(load(size)) for _ in range(REPEATS)))
    classifier.remove()
    return costs


def ratio(costs: Costs, load: str, size: int, base: int = SIZES[0]) -> float | None:
    """Return how much dearer a load is than with the fewest slices: the median of the rounds' own ratios."""
    pairs = list(zip(costs.get((load, size), ()), costs.get((load, base), ()), strict=False))
    return median(one / other for one, other in pairs) if pairs else None


def _build() -> None:
    """Give the device a lane for a slice and for all others, and let the far end drop what comes early."""
    far = f"{DEVICE}p"
    ground.run("tc", "qdisc", "add", "dev", DEVICE, "root", "handle", "1:", "htb", "default", "7fff")
    for minor in ("1006", "7fff"):
        rate = ("rate", "100gbit", "burst", "10m", "cburst", "10m", "quantum", "60000")
        ground.run("tc", "class", "add", "dev", DEVICE, "parent", "1:", "classid", f"1:{minor}", "htb", *rate)
    ground.run("nft", "add", "table", "netdev", "quiet")
    hook = f"{{ type filter hook ingress device {far} priority 0 ; policy drop ; }}"
    ground.run("nft", "add", "chain", "netdev", "quiet", "in", *hook.split())


def _sort(classifier: Classifier, by: str, size: int) -> None:
    if size == NO_RULES:
        classifier.remove()
        return
    outcome = classifier.apply(wanted([_claim(by, number) for number in range(size)], [DEVICE]))
    assert not outcome.problems, outcome.problems


def _claim(by: str, number: int) -> Claim:
    first = _RANGES + number * _RANGE
    prefixes = {
        "address": ipaddress.ip_network((_ADDRESSES + number, 32)),
        "prefix": ipaddress.ip_network((_PREFIXES + number * _PREFIX_BYTES, 28)),
    }
    users = {"user": (_USERS + number, _USERS + number), "range": (first, first + _RANGE // 2)}
    everything = "four keys" in by
    return Claim(
        f"s{number}",
        0x11001 + number,
        0x18001 + number,
        prefixes=tuple(prefix for kind, prefix in prefixes.items() if everything or kind in by),
        uids=tuple(one for kind, one in users.items() if everything or (kind in by and by != "a range of users"))
        if by != "a range of users"
        else (users["range"],),
    )


@contextmanager
def _sender(program: Path) -> Iterator[Callable[[Load], float]]:
    with subprocess.Popen(
        [str(program), ground.FAR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(load: Load) -> float:
            process.stdin.write(f"{COUNT} {' '.join(map(str, load))}\n")
            process.stdin.flush()
            return float(process.stdout.readline().split()[1])

        yield ask
        process.stdin.close()
