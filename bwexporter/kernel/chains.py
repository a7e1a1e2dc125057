"""Chains: how a packet finds its class, as declarations and chains of nftables.

Turns devices and the names of maps into the frame of the two tables, in which the maps' elements then stand. Pure.
Knows: the order of the matches, what a packet is looked up in. Does not know: elements, how a script is written or run.

    netdev bwexporter   egress of each device, just before its queue: all but the control groups
    inet bwexporter     output: the control groups, which a packet no longer tells further down

The first match counts: firewall mark, control group, source and then destination prefix, user. What matches nothing
goes to the default lane, and what goes to an exempt destination to the exempt lane of its slice.

Single addresses, prefixes of each length and single users have hash maps of their own, as the cost of an interval grows
with the logarithm of their number, and nft reads all intervals to add one. Ranges of users, and prefixes of many
lengths, are intervals all the same, as they would be blocks of too many sizes. There a user or an address is looked up
once in ten seconds, and is then remembered: as `recent`, or as `strange` where no interval holds it.

The priority of a packet names its class. Output hands a class on under a major number of our own, the seal. Egress
honours it on packets that have come through output here: they alone have a route and a socket of this network
namespace. A packet socket's have no route, bridged and forwarded ones no such socket. Every other 1: is the sender's
own word and is taken back; 1:0 would even pass by all classes.

A TCP connection goes on sending after its process has closed the socket, and then tells no user any more (of 2 MB that
were written at once, 99 %). So egress remembers the class of every connection that a user sent on, in `flows`. The key
is a hash, as nft 1.0.6 stores no map by more than 16 bytes from a packet. The longest pause of TCP is 120 s.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bwexporter.kernel.tree import DEFAULT_MINOR
from bwexporter.kernel.wire import TREE_HANDLE

Frame = Mapping[str, tuple[str, ...]]
"""Declarations and chains with their lines, by names as `netdev chain lane`."""

MAKER = 'comment "made by bwexporter"'
"""What a table of ours says of itself; one of our name without it is a stranger's."""

SEAL_MAJOR = 0xB3E7
CGROUPS = "cgroups"
RANGES = "uid_ranges"
STALE = "#"
REMEMBERED = frozenset({"prefixes4", "prefixes6", RANGES})
"""Intervals that are searched once in a while for the same user or address."""
INTERVALS = REMEMBERED | {"exempt4", "exempt6"}

_FOR_A_WHILE = ("size 65536", "flags dynamic,timeout", "timeout 10s")
_SEALED = f"meta priority & ffff:0 == {SEAL_MAJOR:x}:0"
_IN_TREE = f"meta priority & ffff:0 == {TREE_HANDLE >> 16:x}:0"
# Of what a packet has not got the test fails; a number that is none lets all others pass.
_HAS_UID = f"meta skuid != {2**32 - 1}"
_FROM_OUTPUT = f"meta cgroup != {2**32 - 1} meta rtclassid != {2**32 - 1}"
_FLOW4 = f"jhash ip saddr . ip daddr . tcp sport . tcp dport mod {2**32 - 1} seed 0x1"
_FLOW6 = f"jhash ip6 saddr . ip6 daddr . tcp sport . tcp dport mod {2**32 - 1} seed 0x1"

_NETDEV: Frame = {
    "netdev table": (MAKER,),
    "netdev map marks": ("type mark : classid",),
    "netdev map addresses4": ("type ipv4_addr : classid",),
    "netdev map addresses6": ("type ipv6_addr : classid",),
    "netdev map uids": ("type uid : classid",),
    "netdev map uid_ranges": ("type uid : classid", "flags interval"),
    "netdev map recent_uids": ("type uid : classid", *_FOR_A_WHILE),
    "netdev set strange_uids": ("type uid", *_FOR_A_WHILE),
    "netdev map exempts": ("type classid : classid",),
    "netdev set exempt4": ("type ipv4_addr", "flags interval"),
    "netdev set exempt6": ("type ipv6_addr", "flags interval"),
    "netdev map flows": ("type classid : classid", "size 262144", "flags dynamic,timeout", "timeout 150s"),
    "netdev chain lane": (
        "ip daddr @exempt4 meta priority set meta priority map @exempts",
        "ip6 daddr @exempt6 meta priority set meta priority map @exempts",
    ),
    "netdev chain unclassified": (
        f"ip daddr @exempt4 meta priority set {TREE_HANDLE >> 16:x}:{DEFAULT_MINOR:x} goto lane",
        f"ip6 daddr @exempt6 meta priority set {TREE_HANDLE >> 16:x}:{DEFAULT_MINOR:x} goto lane",
    ),
    "netdev chain by_priority": (f"{_IN_TREE} goto lane", "goto unclassified"),
    "netdev chain remember": (
        f"update @flows {{ {_FLOW4} : meta priority }}",
        f"update @flows {{ {_FLOW6} : meta priority }}",
        "goto by_priority",
    ),
    "netdev chain of_user": ("meta l4proto 6 goto remember", "goto by_priority"),
    "netdev chain ranged": ("add @recent_uids { meta skuid : meta priority }", "goto of_user"),
    "netdev chain owned": (
        "meta priority set meta skuid map @uids goto of_user",
        "meta priority set meta skuid map @recent_uids goto of_user",
        "meta skuid @strange_uids goto of_user",
        "meta priority set meta skuid map @uid_ranges goto ranged",
        "add @strange_uids { meta skuid }",
        "goto of_user",
    ),
    "netdev chain closed": (
        f"meta priority set {_FLOW4}",
        f"meta priority set {_FLOW6}",
        "meta priority set meta priority map @flows goto remember",
        "meta priority set none",
        "goto unclassified",
    ),
}
_TAKE_BACK = f"{_IN_TREE} meta priority set none"
_BY_SOCKET = (
    f"{_HAS_UID} goto owned",
    f"meta l4proto 6 {_FROM_OUTPUT} goto closed",
    "goto unclassified",
)
_BY_MARK = "meta priority set meta mark map @marks goto lane"
_UNSEAL = f"{_SEALED} {_FROM_OUTPUT} meta priority set meta priority & 1:ffff | {TREE_HANDLE >> 16:x}:0 goto lane"
_TAKE_BACK_SEAL = f"{_SEALED} meta priority set none"


def prefixes_place(version: int, length: int | None = None) -> str:
    """Name the map of prefixes of one length, or that of intervals."""
    return f"prefixes{version}" if length is None else f"prefixes{length}_{version}"


def length_of(place: str) -> int | None:
    """Return of which length the prefixes of a map are, None where it is not such a map."""
    head, _, version = place.partition("_")
    return int(head.removeprefix("prefixes")) if version in ("4", "6") and head.startswith("prefixes") else None


def by_prefix(maps: Iterable[str], version: int) -> list[str]:
    """Return the maps that addresses of a version are looked up in, in this order: the longest prefix counts."""
    found = [place for place in maps if place.startswith(("prefixes", "addresses")) and place.endswith(f"{version}")]
    return sorted(found, key=lambda place: (place.startswith("prefixes"), -(length_of(place) or 0)))


class _Side(NamedTuple):
    """An address of a packet, as nft names it."""

    version: int
    protocol: str
    name: str
    bits: int

    def lines(self, maps: Iterable[str]) -> Iterator[str]:
        """Yield the look-ups of this address, the longest prefix first."""
        for place in by_prefix(maps, self.version):
            length = length_of(place)
            if place in INTERVALS:
                recent, strange = remembered_in(place)
                yield f"meta priority set {self} map @{recent} goto lane"
                yield f"{self} != @{strange} meta priority set {self} map @{place} goto {self.chain}"
                yield f"add @{strange} {{ {self} }}"
                continue
            mask = ""
            if length is not None:
                number = (1 << self.bits) - (1 << self.bits - length)
                mask = f" & {ipaddress.IPv4Address(number) if self.version == 4 else ipaddress.IPv6Address(number)}"
            yield f"meta priority set {self}{mask} map @{place} goto lane"

    @property
    def chain(self) -> str:
        """Name the chain in which a look-up in intervals is remembered."""
        return f"by_{self.name}{self.version}"

    def __str__(self) -> str:
        """Write it as nft does."""
        return f"{self.protocol} {self.name}"


_SIDES = [
    _Side(version, protocol, name, bits)
    for version, protocol, bits in ((4, "ip", 32), (6, "ip6", 128))
    for name in ("saddr", "daddr")
]


def remembered_in(place: str) -> tuple[str, str]:
    """Return where it is remembered what was found in intervals, and what was not; both are filled by the kernel.

    >>> remembered_in("uid_ranges"), remembered_in("prefixes4")
    (('recent_uids', 'strange_uids'), ('recent4', 'strange4'))
    """
    what = "_uids" if place == RANGES else place.removeprefix("prefixes")
    return f"recent{what}", f"strange{what}"


FILLED_BY_PACKETS = frozenset({"flows", *(name for place in REMEMBERED for name in remembered_in(place))})


def _remembering(place: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what intervals of prefixes need beside them."""
    recent, strange = remembered_in(place)
    kind = f"type ipv{place[-1]}_addr"
    yield f"netdev map {recent}", (f"{kind} : classid", *_FOR_A_WHILE)
    yield f"netdev set {strange}", (kind, *_FOR_A_WHILE)
    for side in _SIDES:
        if side.version == int(place[-1]):
            yield f"netdev chain {side.chain}", (f"add @{recent} {{ {side} : meta priority }}", "goto lane")


def frame(devices: Sequence[str], maps: Collection[str]) -> Frame:
    """Return the declarations and chains for devices; for control groups and prefixes only where maps are there."""
    levels = sorted((int(name.removeprefix(CGROUPS)) for name in maps if name.startswith(CGROUPS)), reverse=True)
    by_cgroup = (_UNSEAL,) if levels else ()
    by_address = (line for side in _SIDES for line in side.lines(maps))
    classify = (_BY_MARK, *by_cgroup, _TAKE_BACK_SEAL, _TAKE_BACK, *by_address, *_BY_SOCKET)
    prefixes = [place for version in (4, 6) for place in by_prefix(maps, version) if place.startswith("prefixes")]
    found = dict(_NETDEV)
    for place in prefixes:
        kind = f"type ipv{place[-1]}_addr : classid"
        found[f"netdev map {place}"] = (kind, "flags interval") if place in INTERVALS else (kind,)
        found |= _remembering(place) if place in INTERVALS else ()
    found["netdev chain classify"] = classify
    for at, device in enumerate(devices):
        hook = f'type filter hook egress device "{device}" priority 0; policy accept;'
        found[f"netdev chain egress{at}"] = (hook, "goto classify")
    if levels:
        found["inet table"] = (MAKER,)
        found |= {f"inet map {CGROUPS}{level}": ("type cgroupsv2 : classid",) for level in levels}
        found["inet chain output"] = (
            "type filter hook output priority 300; policy accept;",
            _TAKE_BACK_SEAL,
            # The group deepest in the hierarchy is the closest.
            *(f"meta priority set socket cgroupv2 level {level} map @{CGROUPS}{level} accept" for level in levels),
        )
    return found
