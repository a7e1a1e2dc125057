"""Rules: which packet belongs to which lane, as tables of nftables.

Turns devices and maps into chains, wanted and actual rules into the smallest edits, and edits into a script for nft.
Pure. Knows: the order of the matches, the chains, how nft writes a key. Does not know: slices, what the kernel has, how
a script is run, which devices and control groups are there.

The first match counts: firewall mark, control group, source and then destination prefix, user. What matches nothing
goes to the default lane, and what goes to an exempt destination to the exempt lane of its slice. Single addresses,
prefixes of each length and single users have hash maps of their own, as the cost of an interval grows with the
logarithm of their number, and nft reads all intervals to add one. Ranges of users are intervals, as one that begins
anywhere would be a dozen blocks of as many sizes; so a user is looked up there once in ten seconds, and is then
remembered, in `recent` or, where the user is in no range, among the `strangers`.

    netdev bwexporter   egress of each device, just before its queue: all but the control groups
    inet bwexporter     output: the control groups, which a packet no longer tells further down

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from bwexporter.kernel.nft import FAMILIES, TABLE
from bwexporter.kernel.tree import DEFAULT_MINOR
from bwexporter.kernel.wire import TREE_HANDLE

Interval = tuple[int, int]  # first and last
Key = int | str | Interval
Elements = Mapping[Key, int]
Frame = Mapping[str, tuple[str, ...]]
"""Declarations and chains with their lines, by names as `netdev chain lane`."""

MAKER = 'comment "made by bwexporter"'
"""What a table of ours says of itself; one of our name without it is a stranger's."""

SEAL_MAJOR = 0xB3E7
CGROUPS = "cgroups"
RANGES = "uid_ranges"
STALE = "#"
INTERVALS = frozenset({"prefixes4", "prefixes6", RANGES, "exempt4", "exempt6"})

_FEW_STALE = 64
_FEW_GONE = 100  # nft 1.0.6 deletes intervals one by one out of a list: 5 000 of 10 000 took it more than a minute
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
    "netdev map recent": ("type uid : classid", "size 65536", "flags dynamic,timeout", "timeout 10s"),
    "netdev set strangers": ("type uid", "size 65536", "flags dynamic,timeout", "timeout 10s"),
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
    "netdev chain ranged": ("add @recent { meta skuid : meta priority }", "goto of_user"),
    "netdev chain owned": (
        "meta priority set meta skuid map @uids goto of_user",
        "meta priority set meta skuid map @recent goto of_user",
        "meta skuid @strangers goto of_user",
        "meta priority set meta skuid map @uid_ranges goto ranged",
        "add @strangers { meta skuid }",
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


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules, wanted or actual. Elements stand by map and key; their value is a handle, 0 in a set.

    Keys: a mark, a user, an address (`prefixes24_4` holds the first of each /24); a handle (`exempts`: of the normal
    class, to that of the exempt one); first and last of an interval; the path of a control group (`cgroups2` holds
    those two levels below the root), or `#82` for a group that is gone.
    """

    maps: Mapping[str, Elements]
    frame: Frame
    devices: tuple[str, ...] = ()  # of wanted rules, as is all below
    names: Mapping[int, str] = field(default_factory=dict)  # the slice of each normal class
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by slice: what was left out, and why
    waiting: frozenset[str] = frozenset()  # slices whose class does not exist


class Edit(NamedTuple):
    """One difference: an element, or a declaration or chain as a whole, which has no key and a value of 0."""

    place: str
    key: Key | None
    before: int | None
    after: int | None

    @property
    def family(self) -> str:
        """The table that it is in."""
        return family_of(self.place) if self.key is not None else self.place.partition(" ")[0]

    def __str__(self) -> str:
        """Say it in a line, as `uids 1000: add 1:1011`."""
        what = self.place if self.key is None else f"{self.place} {key_text(self.place, self.key)}"
        words = [f" {handle_text(value)}" if value else "" for value in (self.before, self.after)]
        if self.before is None:
            return f"{what}: add{words[1]}"
        if self.after is None:
            return f"{what}: remove{words[0]}"
        return f"{what}:{words[0]} becomes{words[1]}" if self.after else f"{what}: repair"


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


def _address_lines(maps: Iterable[str], version: int) -> Iterator[str]:
    protocol, bits = ("ip", 32) if version == 4 else ("ip6", 128)
    for side in ("saddr", "daddr"):
        for place in by_prefix(maps, version):
            length, mask = length_of(place), ""
            if length is not None:
                number = (1 << bits) - (1 << bits - length)
                mask = f" & {ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)}"
            yield f"meta priority set {protocol} {side}{mask} map @{place} goto lane"


def frame(devices: Sequence[str], maps: Mapping[str, Elements]) -> Frame:
    """Return the declarations and chains for devices; for control groups and prefixes only where some are matched."""
    levels = sorted((int(name.removeprefix(CGROUPS)) for name in maps if name.startswith(CGROUPS)), reverse=True)
    by_cgroup = (_UNSEAL,) if levels else ()
    by_address = (line for version in (4, 6) for line in _address_lines(maps, version))
    classify = (_BY_MARK, *by_cgroup, _TAKE_BACK_SEAL, _TAKE_BACK, *by_address, *_BY_SOCKET)
    found = {**_NETDEV, "netdev chain classify": classify}
    for place in (place for version in (4, 6) for place in by_prefix(maps, version) if place.startswith("prefixes")):
        kind = f"type ipv{place[-1]}_addr : classid"
        found[f"netdev map {place}"] = (kind, "flags interval") if place in INTERVALS else (kind,)
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


def differences(wanted: Rules, actual: Rules | None) -> tuple[Edit, ...]:
    """Return each element, declaration and chain that differs."""
    held = actual or Rules({}, {})
    elements = (_element_edits(place, wanted, held.maps.get(place, {})) for place in sorted(wanted.maps))
    return (*_frame_edits(wanted.frame, held.frame), *chain.from_iterable(elements))


def diff(wanted: Rules, actual: Rules | None) -> tuple[Edit, ...]:
    """Return what is to be done so that the kernel has the wanted rules; nothing where it has them.

    A table in which a declaration is another one is made anew, with all its elements.
    """
    edits = differences(wanted, actual)
    rebuilt = _to_rebuild(edits)
    if not actual or not rebuilt:
        return edits
    kept = {place: elements for place, elements in actual.maps.items() if family_of(place) not in rebuilt}
    return differences(wanted, replace(actual, maps=kept))


def _frame_edits(wanted: Frame, held: Frame) -> Iterator[Edit]:
    for place in sorted({*wanted, *held}):
        if wanted.get(place) != held.get(place):
            yield Edit(place, None, 0 if place in held else None, 0 if place in wanted else None)


def _to_rebuild(edits: Sequence[Edit]) -> set[str]:
    """Return the tables that are not ours yet, and those in which something is declared in another way."""
    return {
        edit.family
        for edit in edits
        if edit.key is None and (edit.place.endswith(" table") or (not _is_chain(edit.place) and _is_repair(edit)))
    }


def _is_chain(place: str) -> bool:
    return place.split(" ")[1] == "chain"


def _is_repair(edit: Edit) -> bool:
    return edit.before is not None and edit.after is not None


def _element_edits(place: str, rules: Rules, held: Elements) -> Iterator[Edit]:
    wanted = rules.maps[place]
    for key in held.keys() - wanted.keys() - _harmless(place, rules, held):
        yield Edit(place, key, held[key], None)
    for key, value in wanted.items():
        if held.get(key) != value:
            yield Edit(place, key, held.get(key), value)


def _harmless(place: str, rules: Rules, held: Elements) -> set[Key]:
    """Return groups that are gone and whose slices are not: sockets made in them may live, an inode never returns.

    When there are many they are removed.
    """
    if not place.startswith(CGROUPS):
        return set()
    stale = {key for key, value in held.items() if str(key).startswith(STALE) and value in rules.names}
    return stale if len(stale) <= len(rules.maps[place]) + _FEW_STALE else set()


def script(edits: Sequence[Edit], wanted: Rules, actual: Rules | None, *, cgroup_root: str = "") -> str:
    """Write edits for nft. Run as a whole it leaves no moment in which a packet is classified otherwise.

    `cgroup_root` is what nft wants in front of a control group's path.
    """
    lines: list[str] = []
    rebuilt = _to_rebuild(edits)
    held = actual.frame if actual else {}
    for family in FAMILIES:
        names = [name for name in wanted.frame if name.startswith(f"{family} ")]
        if family in rebuilt:
            lines += [f"table {family} {TABLE}", f"delete table {family} {TABLE}", *_block(family, names, wanted.frame)]
        elif any(edit.key is None and edit.family == family for edit in edits):
            gone = [name for name in held if name.startswith(f"{family} ") and name not in wanted.frame]
            gone += [name for name in names if _is_chain(name) and name in held]
            lines.append(f"flush table {family} {TABLE}")
            lines += [f"delete {kind} {family} {TABLE} {name}" for _, kind, name in map(str.split, sorted(gone))]
            made = [name for name in names if _is_chain(name) or name not in held]
            lines += _block(family, made, wanted.frame)
    by_place: dict[str, list[Edit]] = {}
    for edit in edits:
        by_place.setdefault(edit.place, []).append(edit)
    for place in wanted.maps:
        lines += _element_lines(place, by_place.get(place, ()), wanted.maps[place], cgroup_root)
    return "\n".join(lines) + "\n" + forgetting(edits)


def forgetting(edits: Sequence[Edit]) -> str:
    """Write what makes the kernel look users up in their ranges anew; nothing where those stay as they are.

    It is to be run once more after the edits: a packet that was under way may have remembered what held before.
    """
    if not any(edit.place == RANGES for edit in edits):
        return ""
    return f"flush map netdev {TABLE} recent\nflush set netdev {TABLE} strangers\n"


def _block(family: str, names: Sequence[str], frame: Frame) -> list[str]:
    if not names:
        return []
    lines = [f"table {family} {TABLE} {{"]
    for name in names:
        if name == f"{family} table":
            lines += [f"\t{line}" for line in frame[name]]
        else:
            lines += [f"\t{name.partition(' ')[2]} {{", *(f"\t\t{line}" for line in frame[name]), "\t}"]
    return [*lines, "}"]


def _element_lines(place: str, edits: Sequence[Edit], wanted: Elements, cgroup_root: str) -> Iterator[str]:
    """Write the edits of one map; all are written anew where control groups are gone, which cannot be named any more.

    So they are where many intervals go, which is quicker, and no less atomic.
    """
    address = f"{family_of(place)} {TABLE} {place}"
    gone = [edit.key for edit in edits if edit.before is not None and edit.key is not None]
    made: Elements = {edit.key: edit.after for edit in edits if edit.after is not None and edit.key is not None}
    if (gone and place.startswith(CGROUPS)) or (len(gone) > _FEW_GONE and place in INTERVALS):
        yield f"flush {'set' if place.startswith('exempt') else 'map'} {address}"
        made = wanted  # what has just been flushed
    elif gone:
        yield f"delete element {address} {{ {', '.join(key_text(place, key) for key in gone)} }}"
    if made:
        if place.startswith(CGROUPS):
            made = {f"{cgroup_root}{key}": seal(value) for key, value in made.items()}
        yield f"add element {address} {{ {', '.join(_element_text(place, *item) for item in made.items())} }}"


def _element_text(place: str, key: Key, value: int) -> str:
    return f"{key_text(place, key)} : {handle_text(value)}" if value else key_text(place, key)


def seal(handle: int) -> int:
    """Put a handle under the seal, or take it out again.

    >>> hex(seal(0x11011)), hex(seal(0xB3E71011))
    ('0xb3e71011', '0x11011')
    """
    return handle ^ SEAL_MAJOR << 16 ^ TREE_HANDLE


def family_of(place: str) -> str:
    """Return the table of a map."""
    return "inet" if place.startswith(CGROUPS) else "netdev"


def handle_text(handle: int) -> str:
    """Write a handle as tc and nft do.

    >>> handle_text(0x11011)
    '1:1011'
    """
    return f"{handle >> 16:x}:{handle & 0xFFFF:x}"


def key_text(place: str, key: Key) -> str:
    """Write a key as nft does.

    >>> key_text("prefixes4", (0x0A000000, 0x0AFFFFFF)), key_text("uid_ranges", (1000, 1999)), key_text("marks", 16)
    ('10.0.0.0/8', '1000-1999', '0x10')
    """
    if isinstance(key, str):
        return f'"{key}"'
    if isinstance(key, int):
        return _number_text(place, key)
    first, last = key
    if first == last:
        return _number_text(place, first)
    size = last - first + 1
    if place == RANGES or size & (size - 1) or first % size:
        return f"{_number_text(place, first)}-{_number_text(place, last)}"
    return f"{_number_text(place, first)}/{(32 if place.endswith('4') else 128) - size.bit_length() + 1}"


def _number_text(place: str, number: int) -> str:
    if place.endswith("4"):
        return str(ipaddress.IPv4Address(number))
    if place.endswith("6"):
        return str(ipaddress.IPv6Address(number))
    return handle_text(number) if place == "exempts" else f"{number:#x}" if place == "marks" else str(number)
