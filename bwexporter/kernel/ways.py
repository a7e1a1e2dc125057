"""Ways: which packets show that a rule holds.

Turns wanted rules into one packet of each kind for each class that they lead to. Pure. Knows: what a rule would match
and no rule before it. Does not know: how a packet is sent, where it went.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE
from bwexporter.kernel.chains import CGROUPS, by_prefix, length_of
from bwexporter.kernel.claims import Claim
from bwexporter.kernel.probe import SMALLEST_BYTES, Address, Probe
from bwexporter.kernel.rules import Interval, Key, Rules, key_text

_NOBODY = 65_534
_NOWHERE = int(ipaddress.IPv4Address("192.0.2.1"))  # TEST-NET-1
_TRIES = 1000


class Way(NamedTuple):
    """One kind of packet that should reach a class, in words too; its device and size are still open."""

    text: str
    probe: Probe


def ways(claims: Sequence[Claim], rules: Rules) -> dict[int, list[Way]]:
    """Return for each class one way of each kind; for exempt classes those to an exempt destination."""
    found: dict[int, list[Way]] = {}
    kinds: dict[int, set[str]] = {}
    for place, elements in rules.maps.items():
        kind = "" if place.startswith("exempt") else _kind(place)
        for key, handle in elements.items() if kind else ():
            if kind not in kinds.setdefault(handle, set()):
                way = _way(kind, place, key, rules)
                if way is not None:
                    kinds[handle].add(kind)
                    found.setdefault(handle, []).append(way)
    for one in claims:
        if one.slice_name in (ROOT_SLICE, DEFAULT_SLICE):
            root = 0 if rules.maps["uids"].get(0) == one.normal else None  # a slice may have that user
            uid = root if one.slice_name == ROOT_SLICE else _nobody(rules)
            found[one.normal] = list(_of_the_node(uid, rules))
    exempt = _exempt_destinations(rules)
    for normal, handle in rules.maps["exempts"].items():
        if isinstance(normal, int):
            found[handle] = [made for way in found.get(normal, ()) for made in _to_exempt(way, exempt)]
    return found


def _kind(place: str) -> str:
    if place.startswith(CGROUPS):
        return "the control group"
    if place.startswith(("addresses", "prefixes")):
        return "the address" if place.endswith("4") else "the IPv6 address"
    return "the mark" if place == "marks" else "the user"


def _way(kind: str, place: str, key: Key, rules: Rules) -> Way | None:
    """Make the way of a key; None where no packet could have it alone."""
    probe = Probe("", SMALLEST_BYTES)
    if place == "marks":
        probe = probe._replace(mark=_whole(key))
    elif place.startswith(CGROUPS):
        probe = probe._replace(group=str(key))
    elif kind == "the user":
        probe = probe._replace(uid=key[0] if isinstance(key, tuple) else _whole(key))
    else:
        source = _source(place, key, rules)
        if source is None:
            return None
        probe = probe._replace(source=source)
        return Way(f"{kind} {probe.source}", probe)
    return Way(f"{kind} {probe.uid if probe.uid is not None else key_text(place, key)}", probe)


def _whole(key: Key) -> int:
    assert isinstance(key, int)  # noqa: S101  # a map of single numbers
    return key


def _source(place: str, key: Key, rules: Rules) -> Address | None:
    """Return an address that is a key, or from the middle of what a key holds, and is not somebody else's."""
    version = 4 if place.endswith("4") else 6
    length = length_of(place)
    first, last = key if isinstance(key, tuple) else (_whole(key),) * 2
    if length is not None:
        last = first + (1 << (32 if version == 4 else 128) - length) - 1
    middle = first + (last - first) // 2
    for number in islice(range(middle, last + 1), _TRIES):
        if _place_of(number, version, rules) == place:
            return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)
    return None


def _place_of(number: int, version: int, rules: Rules) -> str | None:
    """Return the map in which the rules find an address first."""
    bits = 32 if version == 4 else 128
    for place in by_prefix(rules.maps, version):
        length = length_of(place)
        key = number if length is None else number >> bits - length << bits - length
        intervals = (one for one in rules.maps[place] if isinstance(one, tuple))
        if key in rules.maps[place] or (length is None and _held(number, intervals)):
            return place
    return None


def _nobody(rules: Rules) -> int | None:
    """Return a user that nobody claims."""
    ranges = [key for key in rules.maps["uid_ranges"] if isinstance(key, tuple)]
    users = range(_NOBODY, _NOBODY - _TRIES, -1)
    return next((uid for uid in users if uid not in rules.maps["uids"] and not _held(uid, ranges)), None)


def _of_the_node(uid: int | None, rules: Rules) -> Iterator[Way]:
    """Yield the way of a user from an address that nobody claims: the node's own may be a slice's."""
    free = (number for number in range(_NOWHERE, _NOWHERE + 254) if _place_of(number, 4, rules) is None)
    for number in islice(free, 1 if uid is not None else 0):
        source = ipaddress.IPv4Address(number)
        yield Way(f"the user {uid} from {source}", Probe("", SMALLEST_BYTES, uid=uid, source=source))


def _held(number: int, intervals: Iterable[Interval]) -> bool:
    return any(first <= number <= last for first, last in intervals)


def _exempt_destinations(rules: Rules) -> dict[int, Address]:
    found: dict[int, Address] = {}
    for version, made in ((4, ipaddress.IPv4Address), (6, ipaddress.IPv6Address)):
        for key in islice(rules.maps[f"exempt{version}"], 1):
            first, last = key if isinstance(key, tuple) else (_whole(key),) * 2
            found[version] = made(min(first + 1, last))
    return found


def _to_exempt(way: Way, exempt: Mapping[int, Address]) -> Iterator[Way]:
    source = way.probe.source
    by_address = source is not None and way.probe.uid is None
    for version in (source.version,) if source is not None and by_address else (4, 6):
        if version in exempt:
            kept = source if source is not None and source.version == version else None
            yield Way(f"{way.text} to {exempt[version]}", way.probe._replace(to=exempt[version], source=kept))
            return
