"""The node as it stands, for commands that look and change nothing.

Turns a configuration, the saved accounts and the kernel into desks of a node, as a start of the daemon would find them.
Knows: that looking holds no device and no state file, so that a running daemon is not disturbed. Does not know: what
is printed, how anything is changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bwexporter.cli.running import Opened, alive_ids, door_of, first_desk, ledger_of, memory_of
from bwexporter.cli.users import user_ids
from bwexporter.config import load_config
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Instant
from bwexporter.core.sights import Kept
from bwexporter.daemon import read_clocks
from bwexporter.desk import Desk
from bwexporter.kernel.addresses import addresses_of
from bwexporter.roster import Roll, Roster
from bwexporter.state import NOTHING_SAVED, peek


@dataclass(frozen=True, slots=True)
class Standing:
    """Who may send what, and a desk for each device, looked at and not yet counted."""

    roll: Roll
    now: Instant
    desks: Mapping[str, Desk]
    hand: Hand | None


@contextmanager
def standing(config_path: Path, *, take_over: bool = False) -> Iterator[Standing]:
    """Look at everything that a daemon starts from; the errors of a start say what could not be had."""
    config = load_config(config_path)
    kept = peek(config.state) or NOTHING_SAVED
    with ExitStack() as open_things:
        doors = [open_things.enter_context(door_of(one, take_over=take_over)) for one in config.devices]
        facts = {door.name: door.facts() for door in doors}
        remembered = alive_ids(kept.ids, kept.ledgers.values())
        now = read_clocks()
        memories = {
            name: memory_of(name, one.ifindex, now.boot_id, kept.sights, _unkept) for name, one in facts.items()
        }
        roster = Roster(
            config,
            facts,
            lambda: remembered,
            time.time,
            user_ids=user_ids,
            addresses=addresses_of,
            memories=memories,
        )
        roll = roster.call(anew=False)
        desks = {
            door.name: first_desk(
                Opened(door, door.look()),
                roll,
                ledger_of(kept.ledgers, facts[door.name], now),
                kept.lost_at_wall_seconds,
            )
            for door in doors
        }
        yield Standing(roll, now, desks, kept.hand)


def _unkept(device: str, kept: Kept) -> None:
    """Keep nothing: whoever only looks leaves it to the daemon what it remembers."""
    del device, kept
