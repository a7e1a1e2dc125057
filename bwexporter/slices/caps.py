"""Node caps that a source gives.

Turns interfaces, told by their addresses, into the cap of a device. Knows: that a hardware address tells more than a
network address, in small letters or capitals. Does not know: what else caps a device.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from bwexporter.errors import Problem
from bwexporter.slices.source import SourceResult


def cap_of(
    result: SourceResult, *, device: str, mac: str, ips: AbstractSet[str]
) -> tuple[int | None, tuple[Problem, ...]]:
    """Return the cap that a source gives a device, None where it gives none, and what is wrong about it."""
    caps = result.reading.caps
    of_mac = (one for one in caps if one.mac and one.mac.lower() == mac.lower())
    of_ip = (one for one in caps if one.ip in ips)
    found = next(of_mac, None) or next(of_ip, None)
    if found is None:
        known = mac or "no hardware address"
        text = f"names no interface with the addresses of {device} ({known}), so that it has no cap by it"
        return None, (Problem(result.source, 0, "interfaces", text),) if caps else ()
    return found.cap_bytes_per_second, ()
