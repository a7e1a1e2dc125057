"""Supervised: what a service manager is told (sd_notify(3)).

Turns the life of the program into datagrams on the socket that systemd names in the environment. Knows: the protocol,
and how often the watchdog wants to hear something. Does not know: what makes the program ready, or alive.

Where no service manager asks, nothing is sent. The variables are taken out of the environment, so that no child process
speaks for this one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

_SHARE_OF_THE_WATCHDOG = 0.5  # sd_watchdog_enabled(3) recommends half of what is allowed


class Supervisor:
    """The service manager that started this process, or nobody."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = self._address and microseconds.isdigit() and process in {"", str(os.getpid())}
        self.ping_seconds = int(microseconds) / 1e6 * _SHARE_OF_THE_WATCHDOG if ours else None
        """How often `alive` has to be called; None where no watchdog listens."""

    def ready(self, status: str) -> None:
        """Say that the start has ended."""
        self._tell("READY=1", f"STATUS={status}")

    def alive(self, status: str) -> None:
        """Keep the watchdog quiet, where there is one, and say how things stand."""
        if self.ping_seconds is not None:
            self._tell("WATCHDOG=1", f"STATUS={status}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> None:
        """Send; a service manager that cannot be told is no reason to stop counting."""
        if not self._address:
            return
        place = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), place)
