"""The addresses of the node's devices, by which others know them.

Turns device names into hardware and network addresses. Knows: pyroute2's dumps of links and addresses. Does not know:
who else names an interface by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Addresses:
    """What one device is known by."""

    mac: str  # in lower case
    ips: frozenset[str]


def addresses_of(devices: Sequence[str]) -> dict[str, Addresses]:
    """Return the addresses of those devices that are there."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - rarely needed, and 0.1 s to load
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        with IPRoute() as route:
            links = {link["index"]: link for link in route.get_links() if link.get_attr("IFLA_IFNAME") in devices}
            ips: dict[int, set[str]] = {index: set() for index in links}
            for address in route.get_addr():
                if address["index"] in ips:
                    ips[address["index"]].add(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS") or "")
    except (NetlinkError, OSError):
        return {}  # The turn says what is wrong with netlink.
    return {
        link.get_attr("IFLA_IFNAME"): Addresses((link.get_attr("IFLA_ADDRESS") or "").lower(), frozenset(ips[index]))
        for index, link in links.items()
    }
