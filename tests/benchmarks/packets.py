"""What a packet costs, by the number of slices that rules tell apart.

Turns sizes of the classifier into costs of the very same load. Knows: rules, the device, the C program that sends. Does
not know: goals, how costs are shown.

The load is the same whatever the size: packets of one slice. Beside it stands a load that is spread over all slices,
which no cache of a processor holds.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bwexporter.errors import DeviceRefused
from bwexporter.kernel.claims import Claim, wanted
from bwexporter.kernel.classifier import CGROUP_PLACE, Classifier, cgroup_root
from tests.benchmarks import ground

DEVICE = "vpackets"
SIZES = (10, 1000, 10_000)
COUNT, REPEATS = 20_000, 4
NO_RULES = 0
_ADDRESSES = int(ipaddress.IPv4Address("10.64.0.0"))
_PREFIXES, _PREFIX_BYTES = int(ipaddress.IPv4Address("10.128.0.0")), 16
_SIX_LENGTHS, _SIX_BYTES = int(ipaddress.IPv4Address("10.160.0.0")), 64
_USERS, _RANGES, _RANGE = 20_000, 100_000, 10
_SUBORDINATES, _SUBORDINATE = 100_000, 65_536
_NOBODY = 99_999
_OWN = int(ipaddress.IPv4Address(ground.NEAR))
_GROUPS = f"bwexporter-bench-{os.getpid()}"


class Load(NamedTuple):
    """What the sender is told: a user, a mark, the first source address, the step to the next, how many there are."""

    uid: int = 0
    mark: int = 0
    source: int = _OWN
    stride: int = 0
    spread: int = 1


LOADS: dict[str, Callable[[int], Load]] = {
    "a mark": lambda _: Load(mark=_mark(5)),
    "a control group": lambda _: Load(),
    "an address": lambda _: Load(source=_ADDRESSES + 5),
    "a prefix": lambda _: Load(source=_PREFIXES + 5 * _PREFIX_BYTES + 3),
    "prefixes of six lengths": lambda _: Load(source=_SIX_LENGTHS + 5 * _SIX_BYTES + 1),
    "six lengths, and nobody sends": lambda _: Load(),
    "a user": lambda _: Load(_USERS + 5),
    "a range of 6 users": lambda _: Load(_RANGES + 5 * _RANGE + 1),
    "a range of 65,536 users": lambda _: Load(_SUBORDINATES + 5 * _SUBORDINATE + 1000),
    "a range, and nobody's user sends": lambda _: Load(_NOBODY),
    "an address each, and all send": lambda size: Load(source=_ADDRESSES, stride=1, spread=max(size, 1)),
    "four keys each, found by the last": lambda _: Load(_USERS + 5),
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
    with ExitStack() as things:
        things.enter_context(ground.cable(DEVICE))
        ask, process_id = things.enter_context(_sender(program))
        _build()
        classifier = Classifier()
        loads = dict(LOADS)
        try:
            groups = things.enter_context(_groups(max(sizes), process_id))
        except OSError as error:
            say(f"no control groups can be made here ({error.strerror}): packets told by them are not measured")
            del loads["a control group"]
        for number in range(rounds):
            say(f"packets through rules for {', '.join(map(str, sizes))} slices, round {number + 1} of {rounds}")
            for size in (NO_RULES, *sizes):
                for name, load in loads.items():
                    try:
                        _sort(classifier, name, size)
                    except DeviceRefused as refused:
                        say(f"{size} slices: {refused}")
                        continue
                    with groups(5) if "group" in name else nullcontext():
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
    """Return what a slice is told by, or by four keys."""
    first = _SUBORDINATES + number * _SUBORDINATE if "65,536" in by else _RANGES + number * _RANGE
    last = first + (_SUBORDINATE - 1 if "65,536" in by else _RANGE // 2)
    six = {"prefixes": (ipaddress.ip_network((_SIX_LENGTHS + number * _SIX_BYTES, 26 + number % 6)),)}
    keys: dict[str, dict[str, Any]] = {
        "a mark": {"mark": _mark(number)},
        "a control group": {"cgroup": f"{_GROUPS}/s{number}"},
        "an address": {"prefixes": (ipaddress.ip_network((_ADDRESSES + number, 32)),)},
        "a prefix": {"prefixes": (ipaddress.ip_network((_PREFIXES + number * _PREFIX_BYTES, 28)),)},
        "prefixes of six lengths": six,
        "six lengths": six,
        "a user": {"uids": ((_USERS + number, _USERS + number),)},
        "a range": {"uids": ((first, last),)},
    }
    told = {}
    for kind, key in keys.items():
        if by.startswith(kind):
            told = key
    if by.startswith("four keys"):
        told = {
            name: sum((key.get(name, ()) for key in keys.values() if key is not six), ())
            for name in ("prefixes", "uids")
        }
    return Claim(f"s{number}", 0x11001 + number, 0x18001 + number, **told)


def _mark(number: int) -> int:
    return number + 1


@contextmanager
def _groups(count: int, process_id: int) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """Make control groups for as many slices; what is yielded lets the sender be in one of them for a while."""
    top = CGROUP_PLACE / (cgroup_root() or "")
    home = next(
        (line[3:].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")),
        "",
    )

    @contextmanager
    def inside(number: int) -> Iterator[None]:
        (top / _GROUPS / f"s{number}" / "cgroup.procs").write_text(str(process_id))
        try:
            yield
        finally:
            (top / home / "cgroup.procs").write_text(str(process_id))

    made = []
    try:
        for name in ("", *(f"s{number}" for number in range(count))):
            (top / _GROUPS / name).mkdir()
            made.append(top / _GROUPS / name)
        yield inside
    finally:
        for group in reversed(made):
            group.rmdir()


@contextmanager
def _sender(program: Path) -> Iterator[tuple[Callable[[Load], float], int]]:
    """Start the sender; yield what asks it for a load, and its process id."""
    with subprocess.Popen(
        [str(program), ground.FAR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(load: Load) -> float:
            process.stdin.write(f"{COUNT} {' '.join(map(str, load))}\n")
            process.stdin.flush()
            return float(process.stdout.readline().split()[1])

        yield ask, process.pid
        process.stdin.close()
