"""The ancestor's monitor of bandwidth as its bugs are described: a small model that the tests of ours are held against.

Turns slices' counters into accounts and ceilings as it did, one pass after the other, and what it printed, compared and
saved into what came of that. Written from the description of its behaviour, not from its source. Rates are bytes a
second, as here, except where a bug is one of units. `version` is one of its ages: F is the last.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY_SECONDS = 86_400.0
KIB = 1024
DEFAULT_THRESHOLD_BYTES = 9_492_187 * KIB
UNKNOWN_CAP_KBIT = 1_000_000
CLASSES_OF_NO_SLICE = ("_root", "_default")


@dataclass
class Account:
    """What it knew of a slice: counters at the beginning of its period, of both kinds."""

    base_bytes: int
    base_exempt_bytes: int
    started_at: float
    ceiling: int
    exempt_ceiling: int
    capped: int = 0
    used_bytes: int = 0
    used_exempt_bytes: int = 0


class Bwmon:
    """All slices of a node; `told` are those whose owners got a mail."""

    def __init__(
        self,
        *,
        allowance_bytes: int,
        threshold_bytes: int,
        full: int = 125_000_000,
        guarantee: int = 125,
        version: str = "F",
    ) -> None:
        self.allowance_bytes, self.threshold_bytes = allowance_bytes, threshold_bytes
        self.full, self.guarantee = full, guarantee
        self.version = version
        self.accounts: dict[str, Account] = {}
        self.dead: dict[str, Account] = {}
        self.told: list[str] = []
        self.saved = 0

    def take_a_pass(
        self,
        now: float,
        counters: Mapping[str, int | tuple[int, int]],
        wanted: Iterable[str] | None = None,
        *,
        read_again: Mapping[str, int | tuple[int, int]] | None = None,
    ) -> None:
        """Look twice, follow the wish, reset or cap each slice, save; `read_again` is what the second look saw."""
        names = set(counters) if wanted is None else set(wanted)
        for name in set(self.accounts) - names:
            self.dead[name] = self.accounts.pop(name)
        for name in sorted(names - set(self.accounts)):
            self._take_up(name, now, *_both(counters.get(name, 0)))
        if self.version != "S1":
            self.dead = {name: one for name, one in self.dead.items() if now < one.started_at + DAY_SECONDS}
        second = counters if read_again is None else read_again
        for name in [name for name in self.accounts if name not in CLASSES_OF_NO_SLICE]:
            self._follow(name, now, *_both(second[name]))
        self.saved += 1

    def _take_up(self, name: str, now: float, counter: int, exempt: int) -> None:
        """Begin at the counters as they are; one that was dead is revived, if its period still runs."""
        dead = self.dead.get(name)
        if dead is None:
            self.accounts[name] = Account(counter, exempt, now, self.full, self.full)
        elif now < dead.started_at + DAY_SECONDS:
            if self.version == "S1":
                dead["used"]  # type: ignore[index]
            del self.dead[name]
            self.accounts[name] = Account(
                dead.used_bytes * 1000, dead.used_exempt_bytes, dead.started_at, self.full, self.full
            )  # what was used is taken for where the counter stood

    def _follow(self, name: str, now: float, counter: int, exempt: int) -> None:
        account = self.accounts[name]
        fell = counter < account.base_bytes or exempt < account.base_exempt_bytes
        if fell or now >= account.started_at + DAY_SECONDS:
            self.accounts[name] = Account(counter, exempt, now, self.full, self.full)
            return
        account.used_bytes = counter - account.base_bytes
        account.used_exempt_bytes = exempt - account.base_exempt_bytes
        elapsed = now - account.started_at
        account.ceiling = self.ceiling(account.used_bytes, elapsed)
        account.exempt_ceiling = self.ceiling(account.used_exempt_bytes, elapsed)
        account.capped += account.used_bytes >= self.threshold_bytes
        account.capped += account.used_exempt_bytes >= self.threshold_bytes
        if account.capped == True and name not in self.told:  # noqa: E712 - one is equal to it, two are not
            self.told.append(name)

    def ceiling(self, used_bytes: int, elapsed_seconds: float) -> int:
        """Return bytes left by seconds left, at least the guarantee, or the full rate below the threshold."""
        if used_bytes < self.threshold_bytes:
            return self.full
        rate = int((self.allowance_bytes - used_bytes) / (DAY_SECONDS - elapsed_seconds))
        return rate if self.version == "S0" else max(self.guarantee, rate)

    def lose_state(self) -> None:
        """Be installed anew."""
        self.accounts, self.dead = {}, {}


def _both(counters: int | tuple[int, int]) -> tuple[int, int]:
    return counters if isinstance(counters, tuple) else (counters, 0)


# Tags and units


def threshold_bytes(tags: Mapping[str, int]) -> int:
    """Return the threshold: the default of all, whatever the slice's own allowance is."""
    return tags.get("net_thresh_kbyte", DEFAULT_THRESHOLD_BYTES // KIB) * KIB


def full_kbit(cap_bit: int) -> int:
    """Return the full rate under a node cap, of which -1 / 1000 was to say that it is unknown."""
    kbit = int(cap_bit / 1000)
    return UNKNOWN_CAP_KBIT if kbit == -1 else kbit


def kbyte_bytes(kbyte: int, *, by: str) -> int:
    """Return the bytes of a KByte: the monitor's, or those of PLC's own converters."""
    return kbyte * (KIB if by == "bwmon" else 1000)


def shares(tags: Mapping[str, int]) -> tuple[int, int]:
    """Return the shares of the normal and of the exempt class."""
    tags.get("net_i2_share")
    return (tags.get("net_share", 1),) * 2


def exempt_ceiling_bit(max_bytes: int, used_bytes: int, seconds_left: float) -> int:
    """Return the exempt cap of an early version: of the normal bytes, with the wrong sign."""
    return int((used_bytes - max_bytes) * 8 / seconds_left)


def read_tags(of: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Read each slice's allowance; a changed exempt share is logged by a name that there is not, and the pass ends."""
    found = {}
    for name, tags in of.items():
        if "net_i2_share" in tags:
            tags.i2_share  # type: ignore[attr-defined] # noqa: B018
        found[name] = int(tags["net_max_kbyte"]) * KIB
    return found


class Slivers:
    """Reads a node's slivers over defaults that are one for all readings, and that a reading changes."""

    default_net_max_rate = 1_000_000

    def read(self, networks: Iterable[Mapping[str, int]]) -> int:
        """Return the default rate, in kbit/s."""
        for network in networks:
            type(self).default_net_max_rate = network["bwlimit"] // 1000
        return self.default_net_max_rate


# Classes and tc


def handles(xid: int) -> tuple[int, int]:
    """Return the classes of a slice: its number in twelve bits, wherever it ends."""
    return 0x1000 | xid, 0x2000 | xid


def guarantees(wanted: Iterable[int], cap: int) -> list[int]:
    """Return the guarantees, of which each is at most a quarter of the node cap."""
    return [min(one, cap // 4) for one in wanted]


def differs_in_units(full: int, running: int) -> bool:
    """Compare kbit/s with bit/s."""
    return full * 8 // 1000 != running * 8


def differs_in_kind(guarantee: int, running_ceiling: int) -> bool:
    """Compare the least rate with the running greatest one."""
    return guarantee != running_ceiling


def read_back_bit(rate_bit: int) -> int:
    """Return a rate as it was read: cut to bytes by the kernel, and to kbit by tc's text."""
    return rate_bit // 8 * 8 if rate_bit < 10_000 else rate_bit // 8 * 8 // 1000 * 1000


def differs_in_text(wanted_bit: int) -> bool:
    """Compare a wanted rate with what was read of it just after it was set."""
    return wanted_bit != read_back_bit(wanted_bit)


def poll_the_cap(wanted_bit: int, running_bit: int, counters: dict[int, int]) -> dict[int, int]:
    """Return the counters behind a poll: where the cap is another one the tree is made anew."""
    return dict.fromkeys(counters, 0) if wanted_bit != read_back_bit(running_bit) else counters


def share_differs(wanted: int, running: int) -> bool:
    """Compare, having set the running share to the wanted one."""
    running = wanted
    return running != wanted


def set_ceiling(known: Mapping[str, int], ceiling: int) -> dict[str, int]:
    """Set the greatest rate alone; what is not said has its default."""
    return {**dict.fromkeys(known, 1), "rate": 125, "ceiling": ceiling}


def change(ceilings: Mapping[str, int], refused: set[str]) -> list[str]:
    """Change classes by tc, and return what went wrong: nobody asks."""
    for name in ceilings:
        if name in refused:
            continue
    return []


def switch_all_off(classes: Iterable[int]) -> set[int]:
    """Return the classes that are left when everything is off: every one is deleted, the default's too."""
    return set(classes) - set(classes)


def remove_orphans(classes: list[int], known: set[int]) -> list[int]:
    """Return what is left, from which the removed ones are not."""
    for one in classes:
        if one not in known:
            continue
    return classes


def by_number(numbers: Mapping[str, int | None]) -> dict[int | None, str]:
    """Key slices by their numbers, also those that have none yet."""
    return {number: name for name, number in numbers.items()}


# State and trigger


def save_as_text(path: Path, state: object) -> None:
    """Save as Python 3 did: a pickle into a file of text."""
    with path.open("w") as file:
        pickle.dump(state, file)  # type: ignore[arg-type]


def load(path: Path) -> Any:
    """Load a state; its version is compared with itself."""
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301


def passes_for(triggers: Iterable[float], pass_seconds: float) -> list[float]:
    """Return when passes begin; a trigger is cleared behind the pass, with all that came meanwhile."""
    began: list[float] = []
    for at in sorted(triggers):
        if not began or at >= began[-1] + pass_seconds:
            began.append(at)
    return began


def unhandled(call: Callable[[], object]) -> str:
    """Return the name of what a call raises, or nothing."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the pass ends
        return type(error).__name__
    return ""
