"""Watch: says at once when somebody else changes what is ours.

Turns doors that have something to hear into calls. Knows: how to wait for several doors without a busy loop. Does not
know: what was changed, when a look is due.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from bwexporter.errors import KernelUnreadable

PAUSE_SECONDS = 0.05
"""Between two hearings: however much others do elsewhere, each device is asked twenty times a second at most."""


class Watched(Protocol):
    """A door that hears."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to hear."""

    def disturbed(self) -> bool:
        """Take in what there is to hear; say whether somebody else changed anything since the last look."""


class Watch:
    """Waits in a thread of its own from `start` to `close`, and calls `wake` where a door was disturbed."""

    def __init__(self, doors: Sequence[Watched], wake: Callable[[], None]) -> None:
        self._doors = {door.fileno(): door for door in doors}
        self._wake = wake
        self._ended, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="kernel watch", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def close(self) -> None:
        """End; the doors are closed by whoever opened them."""
        self._end.close()
        if self._thread.is_alive():
            self._thread.join()
        self._ended.close()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._ended.fileno(), *self._doors], [], [])
            if self._ended.fileno() in ready:
                return
            if any([_disturbed(self._doors[number]) for number in ready]):  # noqa: C419 - every one has to be heard
                self._wake()
            select.select([self._ended], [], [], PAUSE_SECONDS)


def _disturbed(door: Watched) -> bool:
    try:
        return door.disturbed()
    except KernelUnreadable:
        return True
