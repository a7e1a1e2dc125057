"""The roll as the files alone say it: for `check` and `slices`, which touch nothing.

Turns a configuration into a roll without a device, a state file or a running program. Knows: what only they could tell
(a driver's speed, remembered ids) and what stands in for it. Does not know: what is printed.
"""

from __future__ import annotations

from bwexporter.config import Config, Device
from bwexporter.core.lanes import DeviceFacts
from bwexporter.roster import Roll, Roster

_USUAL_LINE_BYTES_PER_SECOND = 125_000_000


def roll_of(config: Config) -> Roll:
    """Call the roll; where only the driver says the line rate, the cap or else 1 Gbit/s stands in for it."""
    facts = {device.name: _facts(device) for device in config.devices}
    return Roster(config, facts, remembered=dict, wall_clock=float).call(anew=False)


def _facts(device: Device) -> DeviceFacts:
    line_rate = device.line_rate_bytes_per_second or device.cap_bytes_per_second or _USUAL_LINE_BYTES_PER_SECOND
    return DeviceFacts(device.name, ifindex=0, line_rate_bytes_per_second=line_rate, gso_max_bytes=0)
