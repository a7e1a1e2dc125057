"""The full rates that nobody has written: those that classes of somebody else's trees were found with.

Turns a roll into one that has them, as far as they can be known. Knows: that a daemon remembers them in the state file,
that a class which none has seen has its owner's ceiling. Does not know: what is printed, how a ceiling is told from a
cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bwexporter.cli.running import door_of, memory_of
from bwexporter.config import Config
from bwexporter.core.lanes import Lane, Tariffs
from bwexporter.core.sights import Kept
from bwexporter.daemon import read_clocks
from bwexporter.errors import BwexporterError, StateRefused
from bwexporter.kernel.existing import ExistingTree
from bwexporter.keys import Device as ConfiguredDevice
from bwexporter.roster import Roll
from bwexporter.state import peek


def with_found(roll: Roll) -> tuple[Roll, frozenset[Lane]]:
    """Return the roll with the full rates that are found, and the lanes whose full rate cannot be known here."""
    sights = _remembered(roll.config)
    tariffs, unknown = dict(roll.tariffs), set[Lane]()
    for device in roll.config.devices:
        tree = roll.trees[device.name]
        if isinstance(tree, ExistingTree) and tree.as_found:
            of_device, rules = tariffs[device.name]
            fitted, known = _fitted(device, tree, of_device, sights)
            tariffs[device.name] = fitted, rules
            unknown |= tree.as_found - known
    return replace(roll, tariffs=tariffs), frozenset(unknown)


def _remembered(config: Config) -> Mapping[str, Kept] | None:
    """Return what a daemon has found; None where it is not known what it has found."""
    try:
        kept = peek(config.state)
    except StateRefused:
        return None
    return kept.sights if kept else {}


def _fitted(
    device: ConfiguredDevice, tree: ExistingTree, tariffs: Tariffs, sights: Mapping[str, Kept] | None
) -> tuple[Tariffs, frozenset[Lane]]:
    """Look at a device, which needs no privilege: the tariffs with what is found, and of which lanes it is."""
    if sights is None:
        return tariffs, frozenset()
    try:
        with door_of(device, take_over=False) as door:
            facts, look = door.facts(), door.look()
    except BwexporterError:
        return tariffs, frozenset()
    memory = memory_of(device.name, facts.ifindex, read_clocks().boot_id, sights, lambda *_: None)
    fitted = replace(tree, memory=memory).fitted(tariffs, look)
    seen = np.isin(tree.handles(tariffs), memory.sights.handle).tolist()
    return fitted, frozenset(lane for lane, is_seen in zip(tariffs.lanes, seen, strict=True) if is_seen)
