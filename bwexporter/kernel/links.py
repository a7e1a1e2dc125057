"""Virtual links of the current network namespace, for the demo and the tests.

Turns names into veth pairs with addresses. Knows: pyroute2's link calls. Does not know: HTB, what the links are for.
"""

from __future__ import annotations

from pyroute2 import IPRoute


def bring_up(name: str, addresses: tuple[tuple[str, int], ...] = ()) -> None:
    """Set a link up, and give it addresses (address, prefix length) first."""
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        for address, prefix_length in addresses:
            # A tentative IPv6 address cannot send for a second; there is nobody here who could have the same one.
            no_detection = {"flags": 0x02} if ":" in address else {}
            route.addr("add", index=index, address=address, prefixlen=prefix_length, **no_detection)
        route.link("set", index=index, state="up")


def make_pair(name: str, peer: str, *, peer_process: int) -> None:
    """Make a veth pair whose peer is in the network namespace of another process."""
    with IPRoute() as route:
        route.link("add", ifname=name, kind="veth", peer={"ifname": peer, "net_ns_pid": peer_process})
