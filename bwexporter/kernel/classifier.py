"""Classifier: the nftables rules that send each packet to its lane.

Turns wanted rules into the kernel's, and the kernel's into rules. Knows: what of the wanted can be written now (devices
and control groups that are there), when the kernel's need not be read again, what has drifted. Does not know: what a
rule says, whose traffic it is.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel.chains import CGROUPS, FILLED_BY_PACKETS, INTERVALS, MAKER, STALE, Frame, frame
from bwexporter.kernel.nft import FAMILIES, TABLE, Nft, NftRefused, intervals
from bwexporter.kernel.rules import Edit, Elements, Key, Rules, diff, differences, forgetting, script, seal

CGROUP_PLACE = Path("/sys/fs/cgroup")  # nft looks nowhere else
_MOUNTS = Path("/proc/thread-self/mountinfo")
_READS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply has done. `drift` counts what differed from what was last applied, though nobody asked for it."""

    edits: tuple[Edit, ...]  # written
    drift: int
    problems: tuple[str, ...]  # what could not be written, or does not hold; each says why


class _Here(NamedTuple):
    """What of the wanted rules can be written now."""

    rules: Rules
    inodes: Mapping[str, int]  # of control groups, by path
    cgroup_root: str
    ifindexes: tuple[int, ...]
    missing_devices: tuple[str, ...]
    missing_groups: Mapping[str, tuple[str, ...]]  # by slice

    @property
    def problems(self) -> tuple[str, ...]:
        """Say what cannot be written, a line each."""
        groups = (f"{name}: {text}" for name, texts in self.missing_groups.items() for text in texts)
        return (*self.missing_devices, *groups)


class _Seen(NamedTuple):
    """What the kernel had at a generation; control groups stand by their inode."""

    generation: int
    frame: Frame
    elements: Mapping[str, Elements]


class Classifier:
    """The tables `netdev bwexporter` and `inet bwexporter` of the network namespace that the calling thread is in.

    Methods may be called from any thread, one at a time. They raise DeviceRefused where nft is missing or refuses, and
    KernelUnreadable where the kernel does not answer; nothing is then half done. Tables of these names that somebody
    else made are refused, unless `take_over`: then they are replaced.
    """

    def __init__(self, nft: Nft | None = None, *, take_over: bool = False) -> None:
        self._nft = nft or Nft()
        self._take_over = take_over
        self._lock = threading.Lock()
        self._applied: _Here | None = None
        self._generation = 0  # when that was read back
        self._printed: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}  # chains as this nft prints ours

    def read(self, wanted: Rules | None = None) -> Rules | None:
        """Return what the kernel has, None where it has no table of ours.

        Control groups are named by the paths that the wanted rules have; others stand as `#` and their inode.
        """
        with self._lock:
            inodes = _inodes(wanted, cgroup_root()) if wanted else {}
            return self._rules(self._look(), inodes)

    def possible(self, wanted: Rules) -> Rules:
        """Return what of the wanted rules can be written now; its problems say of each slice what cannot."""
        here = _here(wanted)
        problems = dict(wanted.problems)
        for name, texts in here.missing_groups.items():
            problems[name] = (*problems.get(name, ()), *texts)
        return replace(here.rules, problems=problems)

    def foresee(self, wanted: Rules) -> tuple[Edit, ...]:
        """Return what an apply would do."""
        with self._lock:
            here = _here(wanted)
            return diff(here.rules, self._rules(self._look(), here.inodes))

    def apply(self, wanted: Rules) -> Outcome:
        """Make the kernel's rules the wanted ones, in one transaction, and read back what was written.

        A device or a control group that is not there costs its own rules alone, until an apply finds it.
        """
        with self._lock:
            here = _here(wanted)
            if here == self._applied and self._nft.generation() == self._generation:
                return Outcome((), 0, here.problems)
            try:
                return self._apply(here)
            except NftRefused:
                # A control group may have gone since it was looked for, and one that is not there fails the whole.
                again = _here(wanted)
                if again == here:
                    raise
                return self._apply(again)

    def remove(self) -> None:
        """Delete both tables; what is not there is removed already, and what is not ours is left alone."""
        with self._lock:
            self._applied = None
            found = [family for family in FAMILIES if self._nft.has_table(family)]
            found = [family for family in found if _is_ours(self._nft.frame(family), family)]
            if found:
                lines = (f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in found)
                self._nft.run("".join(lines))

    def _apply(self, here: _Here) -> Outcome:
        seen = self._look()
        before = self._applied
        drift = len(differences(before.rules, self._rules(seen, before.inodes))) if before else 0
        actual = self._rules(seen, here.inodes)
        edits = diff(here.rules, actual)
        problems = here.problems
        if edits:
            self._nft.run(script(edits, here.rules, actual, cgroup_root=here.cgroup_root))
            again = forgetting(edits)
            if again:
                self._nft.run(again)
            seen = self._look()
            self._learn(here.rules.frame, seen.frame)
            problems += tuple(f"does not hold: {edit}" for edit in diff(here.rules, self._rules(seen, here.inodes)))
        self._applied, self._generation = here, seen.generation
        return Outcome(edits, drift, problems)

    def _look(self) -> _Seen:
        """Read everything; again where others changed tables meanwhile, as several questions make one look."""
        for _ in range(_READS):
            generation = self._nft.generation()
            found: dict[str, tuple[str, ...]] = {}
            for family in FAMILIES:
                found |= self._frame(family)
            elements = {}
            for family, kind, name in (place.split(" ") for place in found if place.count(" ") == 2):
                if kind != "chain" and name not in FILLED_BY_PACKETS:
                    elements[name] = self._elements(family, name)
            if self._nft.generation() == generation:
                break
        return _Seen(generation, found, elements)

    def _frame(self, family: str) -> Frame:
        """Read a table's frame; refuse that of a stranger, unless it is empty: then nobody misses it."""
        found = self._nft.frame(family)
        if len(found) > 1 and not _is_ours(found, family) and not self._take_over:
            raise DeviceRefused(
                f"there is a table {family} {TABLE} that bwexporter did not make; nothing was touched. Give it another "
                f"name, or delete it with `nft delete table {family} {TABLE}`, or start with --take-over"
            )
        return found

    def _elements(self, family: str, name: str) -> Elements:
        found = self._nft.elements(family, name)
        if name in INTERVALS:
            return dict(intervals(found))
        order: Literal["little", "big"] = "big" if name.startswith(("addresses", "prefixes")) else sys.byteorder
        return {int.from_bytes(key, order): value for key, value, _ in found}

    def _rules(self, seen: _Seen, inodes: Mapping[str, int]) -> Rules | None:
        if not seen.frame:
            return None
        paths = {inode: path for path, inode in inodes.items()}
        maps = dict(seen.elements)
        for name in [name for name in maps if name.startswith(CGROUPS)]:
            maps[name] = {
                paths.get(inode, f"{STALE}{inode}") if isinstance(inode, int) else inode: seal(value)
                for inode, value in maps[name].items()
            }
        return Rules(maps, {name: self._printed.get((name, lines), lines) for name, lines in seen.frame.items()})

    def _learn(self, written: Frame, seen: Frame) -> None:
        """Remember how this version of nft prints what has just been written, where it has words of its own."""
        for name, lines in written.items():
            printed = seen.get(name, lines)
            if printed != lines:
                self._printed[name, printed] = lines


def _is_ours(frame: Frame, family: str) -> bool:
    return frame.get(f"{family} table") == (MAKER,)


def _here(wanted: Rules) -> _Here:
    devices, missing_devices = {}, []
    for device in wanted.devices:
        try:
            devices[device] = socket.if_nametoindex(device)
        except OSError:
            missing_devices.append(f"device {device} is not there; nothing is classified on it")
    for device in [device for device in devices if '"' in device]:
        del devices[device]
        missing_devices.append(f"device {device} has a name that nft cannot write; nothing is classified on it")
    if wanted.devices and not devices:
        raise KernelUnreadable(f"device {' or '.join(wanted.devices)} is not there")
    root = cgroup_root()
    inodes = _inodes(wanted, root)
    maps, missing_groups = dict(wanted.maps), dict[str, tuple[str, ...]]()
    for name in [name for name in maps if name.startswith(CGROUPS)]:
        missing = {path: handle for path, handle in maps[name].items() if path not in inodes}
        for path, handle in missing.items():
            holder = wanted.names.get(handle, "a slice")
            missing_groups[holder] = (*missing_groups.get(holder, ()), _missing_group(path, root))
        if missing:
            maps[name] = {path: handle for path, handle in maps[name].items() if path not in missing}
    rules = wanted
    if missing_devices or missing_groups:
        rules = replace(wanted, maps=maps, devices=tuple(devices), frame=frame(tuple(devices), maps))
    return _Here(rules, inodes, root or "", tuple(devices.values()), tuple(missing_devices), missing_groups)


def _missing_group(path: Key, root: str | None) -> str:
    if root is None:
        return f"no cgroup v2 hierarchy is mounted at or below {CGROUP_PLACE}"
    return f"the control group {CGROUP_PLACE / root / str(path)} is not there"


def cgroup_root() -> str | None:
    """Return what stands before a group's path below /sys/fs/cgroup, as `unified/`; None where there is no v2."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, kind = line.partition(" - ")
        place = Path(mount.split(" ")[4])
        if kind.startswith("cgroup2 ") and place.is_relative_to(CGROUP_PLACE):
            below = place.relative_to(CGROUP_PLACE)
            return f"{below}/" if below.parts else ""
    return None


def _inodes(wanted: Rules, root: str | None) -> dict[str, int]:
    """Return the inodes of the control groups that are there, by path."""
    found: dict[str, int] = {}
    for name, elements in wanted.maps.items():
        if name.startswith(CGROUPS) and root is not None:
            for path in elements:
                try:
                    found[str(path)] = (CGROUP_PLACE / root / str(path)).stat().st_ino
                except OSError:
                    continue
    return found
