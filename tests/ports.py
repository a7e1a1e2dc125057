"""Ports of loopback for the servers of a test.

Turns nothing into the number of a port. Knows: which ports the kernel gives by itself, what other processes of the
tests have asked for. Does not know: who listens.

A port that is free now is no good where tests run beside each other: the kernel may give it to anybody's connection
before the server that it is meant for has begun, or while that one is started again.
"""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from random import SystemRandom

_KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _LAST = 10_000, 65_535
_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that is free, and that nobody gets from here or by chance while this process lives."""
    low, high = map(int, _KERNELS_OWN.read_text().split())
    ports = [*range(_FIRST, low), *range(high + 1, _LAST + 1)]
    return next(port for port in SystemRandom().sample(ports, len(ports)) if _is_free(port) and _is_claimed(port))


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with closing(socket.socket(socket.AF_INET, kind)) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def _is_claimed(port: int) -> bool:
    """Claim a port by a name that ends with this process; say whether no other process of the tests has it."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0port {port} of bwexporter's tests")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True
