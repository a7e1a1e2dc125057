"""The roll as the files alone say it: for `check` and `slices`, which touch nothing.

Turns a configuration into a roll without a device, a state file or a running program. Knows: what only they could tell
(a driver's speed, remembered ids) and what stands in for it. Does not know: what is printed.
"""

from __future__ import annotations

import time

from bwexporter.cli.users import user_ids
from bwexporter.config import Config, Device
from bwexporter.core.lanes import DeviceFacts
from bwexporter.errors import Problem
from bwexporter.kernel.addresses import addresses_of
from bwexporter.roster import Roll, Roster
from bwexporter.slices.combining import combine
from bwexporter.slices.gathering import Sources

_USUAL_LINE_BYTES_PER_SECOND = 125_000_000


def roll_of(config: Config, *, ask: bool = False) -> Roll:
    """Call the roll; where only the driver says the line rate, the cap or else 1 Gbit/s stands in for it.

    Servers are asked only where that is wanted; otherwise they say what a running program has kept of them.
    """
    facts = {device.name: _facts(device) for device in config.devices}
    roster = Roster(config, facts, dict, time.time, user_ids=user_ids, addresses=addresses_of)
    roll = roster.call(anew=False)
    if not ask:
        return roll
    for server in roster.polled():
        server.poll()
    return roster.call(anew=False)


def problems_of_slices(config: Config) -> tuple[Problem, ...]:
    """Return what is wrong with the slices by themselves, where no roll can be called with the configuration."""
    sources = Sources(config.state, time.time, user_ids, keeps=False)
    return combine(sources.read(config.sources), {})[1]


def _facts(device: Device) -> DeviceFacts:
    line_rate = device.line_rate_bytes_per_second or device.cap_bytes_per_second or _USUAL_LINE_BYTES_PER_SECOND
    return DeviceFacts(device.name, ifindex=0, line_rate_bytes_per_second=line_rate, gso_max_bytes=0)
