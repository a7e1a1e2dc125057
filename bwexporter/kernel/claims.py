"""Claims: whose traffic is whose.

Turns what slices' records say of their traffic into the wanted rules, and says for one slice why its traffic does not
reach its lane. Pure. Knows: whose claim stands where two want the same, which classes a slice has on a managed tree.
Does not know: how a packet is matched, what the kernel has, which users there are.

Of prefixes the longest counts, whoever claims it, as in routing. Of claims to the same mark, group, prefix, or to
overlapping users, the first stands.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE
from bwexporter.kernel.chains import CGROUPS, RANGES, frame, prefixes_place
from bwexporter.kernel.rules import Elements, Interval, Key, Rules, handle_text, key_text
from bwexporter.kernel.wire import TREE_HANDLE

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_LENGTHS = 4  # of prefixes: each costs a packet two look-ups
_CGROUP_ROOT = "/sys/fs/cgroup/"
_NORMAL, _EXEMPT = TREE_HANDLE | 0x1000, TREE_HANDLE | 0x8000


class Match(Protocol):
    """What a slice's record says of its traffic."""

    @property
    def user(self) -> str | None:
        """A user's name."""

    @property
    def uid(self) -> Interval | None:
        """First and last user id."""

    @property
    def cgroup(self) -> str | None:
        """A path in the v2 hierarchy."""

    @property
    def addresses(self) -> tuple[Network, ...]:
        """Prefixes of either version."""

    @property
    def mark(self) -> int | None:
        """A firewall mark."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The classes of a slice, and by what its traffic is known."""

    slice_name: str
    normal: int  # the handle of a class, as is the next
    exempt: int | None  # None: there is none, and everything goes through the normal class
    mark: int | None = None
    cgroup: str | None = None  # path below the root of the v2 hierarchy
    prefixes: tuple[Network, ...] = ()
    uids: tuple[Interval, ...] = ()
    troubles: tuple[str, ...] = ()  # what of the record means nothing on this node


def claim(slice_name: str, slice_id: int, match: Match, user_ids: Mapping[str, int]) -> Claim:
    """Return what a slice claims on a managed tree; a user that is not in `user_ids` does not exist on this node."""
    uids, troubles = [match.uid] if match.uid is not None else [], []
    if match.user is not None and match.user in user_ids:
        uids.append((user_ids[match.user], user_ids[match.user]))
    elif match.user is not None:
        troubles.append(f"there is no user {match.user} on this node")
    cgroup = _path(match.cgroup)
    if match.cgroup is not None and cgroup is None:
        troubles.append(f"{match.cgroup} is not the path of a control group below the root")
    return Claim(
        slice_name=slice_name,
        normal=_NORMAL + slice_id,
        exempt=_EXEMPT + slice_id,
        mark=match.mark,
        cgroup=cgroup,
        prefixes=match.addresses,
        uids=tuple(dict.fromkeys(uids)),
        troubles=tuple(troubles),
    )


def _path(written: str | None) -> str | None:
    """Return a control group's path below the root of its hierarchy; None where there is none that nft can be told."""
    path = (written or "").removeprefix(_CGROUP_ROOT).removeprefix("unified/").strip("/")
    return None if '"' in path or {"", ".", ".."} & set(path.split("/")) else path


def wanted(
    claims: Iterable[Claim],
    devices: Sequence[str],
    exempt_prefixes: Iterable[Network] = (),
    *,
    existing: Collection[int] | None = None,
) -> Rules:
    """Return the rules that the claims ask for.

    `existing` are the handles of the classes that there are (on any of the devices): a slice without its normal class
    waits, one without its exempt class sends everything through the normal one. None: all exist. A claim by nothing
    only says where the slice's exempt class is; that of the default lane takes what is unclassified and exempt.
    """
    claimed = _Claimed()
    waiting = set()
    for one in claims:
        if existing is not None and one.normal not in existing:
            waiting.add(one.slice_name)
            claimed.refuse(one, *one.troubles)
        else:
            claimed.take(one, has_exempt=existing is None or one.exempt in existing)
    maps = claimed.maps()
    exempt = [(prefix.version, _interval(prefix)) for prefix in exempt_prefixes]
    for version in (4, 6):
        maps[f"exempt{version}"] = dict.fromkeys(_merged(one for kind, one in exempt if kind == version), 0)
    return Rules(
        maps=maps,
        frame=frame(devices, maps),
        devices=tuple(devices),
        names=claimed.names,
        problems={name: tuple(texts) for name, texts in claimed.problems.items()},
        waiting=frozenset(waiting),
    )


def clashes(claims: Iterable[Claim]) -> dict[str, tuple[str, ...]]:
    """Return by slice what it claims and cannot have, because a slice before it claims the same."""
    claimed = _Claimed()
    for one in claims:
        claimed.take(replace(one, troubles=()) if one.troubles else one, has_exempt=False)
    return {name: tuple(texts) for name, texts in claimed.problems.items()}


def tells_apart(claims: Iterable[Claim], exempt_prefixes: Collection[Network]) -> bool:
    """Say whether there is anything to sort: some slice is told from others, or some destination is exempt."""
    return bool(exempt_prefixes) or any(
        _has_keys(one) or one.troubles for one in claims if one.slice_name != ROOT_SLICE
    )


def _has_keys(one: Claim) -> bool:
    return bool(one.uids or one.prefixes or one.cgroup is not None or one.mark is not None)


class Reasons(NamedTuple):
    """Why traffic does not reach its lane, or not all of it; nothing where it does."""

    normal: tuple[str, ...]
    exempt: tuple[str, ...]


def explain(claims: Iterable[Claim], wanted: Rules, actual: Rules | None) -> dict[str, Reasons]:
    """Say of each slice why its traffic does not reach its lanes."""
    common = list(_frame_troubles(wanted, actual))
    missing: dict[str, list[str]] = {}
    unexempt: dict[str | None, list[str]] = {}  # None: for all slices
    for place, elements in wanted.maps.items() if actual else ():
        held = actual.maps.get(place, {}) if actual else {}
        for key, handle in elements.items():
            if held.get(key) != handle:
                text = f"{place} {key_text(place, key)} {_found_instead(held.get(key), wanted)}"
                if not handle:
                    unexempt.setdefault(None, []).append(text)
                elif place == "exempts" and isinstance(key, int):
                    unexempt.setdefault(wanted.names[key], []).append(text)
                else:
                    missing.setdefault(wanted.names[handle], []).append(text)
    found = {}
    for one in claims:
        name = one.slice_name
        troubles = [*wanted.problems.get(name, ()), *_troubles_of(one)]
        if name in wanted.waiting:
            troubles.append(f"its class {handle_text(one.normal)} does not exist")
            found[name] = Reasons(tuple(troubles), tuple(troubles))
        else:
            normal = (*troubles, *common, *missing.get(name, ()))
            found[name] = Reasons(normal, (*normal, *unexempt.get(None, ()), *unexempt.get(name, ())))
    return found


def _troubles_of(one: Claim) -> Iterator[str]:
    if not (_has_keys(one) or one.troubles or one.slice_name == DEFAULT_SLICE):
        yield "nothing tells its traffic from others': it has no user, uid, cgroup, addresses or mark"


def _frame_troubles(wanted: Rules, actual: Rules | None) -> Iterator[str]:
    if actual is None:
        yield "there are no rules: the tables called bwexporter are missing"
        return
    hooks = {f"netdev chain egress{at}": device for at, device in enumerate(wanted.devices)}
    for place in sorted({*wanted.frame, *actual.frame}):
        if wanted.frame.get(place) != actual.frame.get(place):
            state = "is not as built" if place in actual.frame else "is missing"
            yield f"{place} {state}" + (f", so nothing on {hooks[place]} is classified" if place in hooks else "")


def _found_instead(handle: int | None, wanted: Rules) -> str:
    if handle is None:
        return "is missing"
    holder = wanted.names.get(handle)
    return f"leads to {handle_text(handle)}" + (f" of {holder}" if holder else "")


class _Claimed:
    """Claims, first come first served."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.problems: dict[str, list[str]] = {}
        self._hashed: dict[str, dict[Key, int]] = {"marks": {}, "exempts": {}}
        self._prefixes: dict[int, dict[Interval, int]] = {4: {}, 6: {}}
        self._uids: list[tuple[int, int, int]] = []  # first, last, handle: sorted, no two overlap

    def take(self, one: Claim, *, has_exempt: bool) -> None:
        self.names[one.normal] = one.slice_name
        self.refuse(one, *one.troubles)
        if has_exempt and one.exempt is not None:
            self._hashed["exempts"][one.normal] = one.exempt
        ours = one.normal
        if one.mark is not None and (holder := self._hashed["marks"].setdefault(one.mark, ours)) != ours:
            self._refuse_taken(one, f"the mark {one.mark:#x}", holder)
        if one.cgroup is not None:
            level = self._hashed.setdefault(f"{CGROUPS}{one.cgroup.count('/') + 1}", {})
            if (holder := level.setdefault(one.cgroup, ours)) != ours:
                self._refuse_taken(one, f"the control group {one.cgroup}", holder)
        for prefix in one.prefixes:
            if (holder := self._prefixes[prefix.version].setdefault(_interval(prefix), ours)) != ours:
                self._refuse_taken(one, f"the prefix {prefix}", holder)
        for uids in one.uids:
            self._give_uids(one, uids)

    def refuse(self, one: Claim, *texts: str) -> None:
        if texts:
            self.problems.setdefault(one.slice_name, []).extend(texts)

    def maps(self) -> dict[str, Elements]:
        maps: dict[str, Elements] = {**self._hashed}
        for version, found in self._prefixes.items():
            maps[f"addresses{version}"] = {key[0]: handle for key, handle in found.items() if key[0] == key[1]}
            maps |= _prefix_maps(version, {key: found[key] for key in found if key[0] < key[1]})
        maps["uids"] = {first: handle for first, last, handle in self._uids if first == last}
        maps[RANGES] = {(first, last): handle for first, last, handle in self._uids if first < last}
        return maps

    def _refuse_taken(self, one: Claim, what: str, holder: int) -> None:
        self.refuse(one, f"{what} is claimed by {self.names[holder]} already")

    def _give_uids(self, one: Claim, uids: Interval) -> None:
        first, last = uids
        at = bisect_right(self._uids, (last, 2**32, 2**32))
        # Those before `at` begin no later than our last; as none overlap, the one just before reaches furthest.
        before = self._uids[at - 1] if at else None
        if before is None or before[1] < first:
            self._uids.insert(at, (first, last, one.normal))
        elif one.slice_name == ROOT_SLICE:
            return  # a slice may have the node's own user; that is no clash
        elif before[2] != one.normal or not before[0] <= first <= last <= before[1]:
            holder = f"{key_text('uid_ranges', before[:2])} is claimed by {self.names[before[2]]} already"
            self.refuse(one, f"the users {key_text('uid_ranges', uids)} cannot be had as {holder}")


def _interval(prefix: Network) -> Interval:
    first = int(prefix.network_address)
    return first, first | ((1 << (prefix.max_prefixlen - prefix.prefixlen)) - 1)


def _prefix_maps(version: int, prefixes: Mapping[Interval, int]) -> dict[str, Elements]:
    """Put prefixes into a map for each length, as long as there are few lengths; else into one of intervals."""
    by_length: dict[str, dict[Key, int]] = {}
    for (first, last), handle in prefixes.items():
        length = (32 if version == 4 else 128) - (last - first).bit_length()
        by_length.setdefault(prefixes_place(version, length), {})[first] = handle
    if len(by_length) > _MOST_LENGTHS or prefixes_place(version, 0) in by_length:
        return {prefixes_place(version): _longest_first(prefixes)}
    return dict(by_length)


def _longest_first(prefixes: Mapping[Interval, int]) -> Elements:
    """Cut nested prefixes into intervals that do not overlap; each belongs to the longest prefix that it is in.

    >>> _longest_first({(0, 15): 1, (4, 7): 2})
    {(0, 3): 1, (4, 7): 2, (8, 15): 1}
    """
    found: dict[Key, int] = {}
    outer: list[tuple[int, int]] = []  # last and handle of the prefixes that we are in
    at = 0

    def close(until: int) -> None:
        nonlocal at
        while outer and outer[-1][0] < until:
            last, handle = outer.pop()
            keep(last, handle)

    def keep(last: int, handle: int) -> None:
        nonlocal at
        if at <= last:
            found[at, last] = handle
        at = last + 1

    ordered = sorted((first, -last, handle) for (first, last), handle in prefixes.items())
    for first, negative_last, handle in ordered:
        close(first)
        if outer:
            keep(first - 1, outer[-1][1])
        at = first
        outer.append((-negative_last, handle))
    close(1 << 129)
    return found


def _merged(intervals: Iterable[Interval]) -> list[Key]:
    """Unite intervals that overlap or touch."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return list(found)
