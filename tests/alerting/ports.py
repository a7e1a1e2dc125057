"""Ports of loopback that are free now."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of loopback on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
