"""Rules: which packet belongs to which lane, as elements in tables of nftables.

Turns wanted and actual rules into the smallest edits, and edits into a script for nft. Pure. Knows: how nft writes a
key, in which order a table is edited. Does not know: slices, what a chain says, what the kernel has, how a script is
run, which devices and control groups are there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from bwexporter.kernel.chains import CGROUPS, INTERVALS, RANGES, REMEMBERED, SEAL_MAJOR, STALE, Frame, remembered_in
from bwexporter.kernel.nft import FAMILIES, TABLE
from bwexporter.kernel.wire import TREE_HANDLE

Interval = tuple[int, int]  # first and last
Key = int | str | Interval
Elements = Mapping[Key, int]

_FEW_STALE = 64
_FEW_GONE = 100  # nft 1.0.6 deletes intervals one by one out of a list: 5 000 of 10 000 took it more than a minute


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
    """Write what makes the kernel search intervals anew for what it remembers of them; nothing where they stay.

    It is to be run once more after the edits: a packet that was under way may have remembered what held before.
    """
    lines = []
    for place in sorted({edit.place for edit in edits if edit.place in REMEMBERED}):
        recent, strange = remembered_in(place)
        lines += [f"flush map netdev {TABLE} {recent}\n", f"flush set netdev {TABLE} {strange}\n"]
    return "".join(lines)


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
