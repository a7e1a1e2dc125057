"""Sorting: packets go to the lanes of the roll, as far as their classes exist.

Turns a roll's claims and the classes that there are into applied rules. Knows: which lanes may be named now, that a
node whose files tell no traffic apart is left alone, that the rules of a network namespace have one keeper. Does not
know: how a packet is matched, when to look.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from bwexporter.errors import DeviceRefused, KernelUnreadable
from bwexporter.kernel.claims import Claim, tells_apart, wanted
from bwexporter.kernel.classifier import Classifier
from bwexporter.kernel.rules import Rules
from bwexporter.lock import hold_classifier

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Sorted:
    """What became of the rules: how many differed though nobody asked for it, and what does not hold."""

    drift: int = 0
    problems: tuple[str, ...] = ()


class Sorting:
    """The classifier with the claims of the newest roll; one thread uses it.

    Where no claim tells any traffic apart and nothing is exempt, rules are neither made nor asked for: such a node may
    sort its packets by rules of its own, or another bwexporter may, for other devices.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._claims: tuple[Claim, ...] = ()
        self._devices: tuple[str, ...] = ()
        self._exempt: tuple[Network, ...] = ()
        self._wanted: tuple[frozenset[int], Rules] | None = None  # for the classes that there were
        self._applied = False
        self._held: socket.socket | None = None  # the rules are ours alone while it is open

    def close(self) -> None:
        """Leave the rules to whoever comes next; they stay as they are."""
        if self._held:
            self._held.close()
        self._held = None

    def enlist(self, claims: Sequence[Claim], devices: Sequence[str], exempt: Sequence[Network]) -> None:
        """Take over the claims of a roll; the next `apply` makes rules of them."""
        self._claims, self._devices, self._exempt = tuple(claims), tuple(devices), tuple(exempt)
        self._wanted = None

    @property
    def needed(self) -> bool:
        """Say whether there is anything to sort, or rules to take back."""
        return self._applied or self._tells_apart()

    def hold(self) -> None:
        """Hold the rules where any are needed, until `close`; raise DeviceRefused where another process does."""
        if self._held is None and self._tells_apart():
            self._held = hold_classifier()

    def remove(self) -> None:
        """Take the rules away, those of an earlier configuration too; not those that another process holds."""
        if self._held is None:
            try:
                self._held = hold_classifier()
            except DeviceRefused:
                return
        self._classifier.remove()
        self._applied = False
        self.close()

    def apply(self, existing: frozenset[int]) -> Sorted:
        """Make the rules name the lanes whose classes exist."""
        try:
            if not self._tells_apart():
                self.remove()
                return Sorted()
            self.hold()
            if self._wanted is None or self._wanted[0] != existing:
                self._wanted = existing, wanted(self._claims, self._devices, self._exempt, existing=existing)
            rules = self._wanted[1]
            self._applied = True
            outcome = self._classifier.apply(rules)
        except (DeviceRefused, KernelUnreadable) as error:
            return Sorted(problems=(str(error),))
        of_slices = (f"{name}: {text}" for name, texts in rules.problems.items() for text in texts)
        return Sorted(outcome.drift, (*outcome.problems, *of_slices))

    def _tells_apart(self) -> bool:
        return bool(self._devices) and tells_apart(self._claims, self._exempt)
