"""Rolls that are called beside the turns: reading ten thousand slices takes longer than a turn may.

Turns wishes for a reload into rolls for the turn's thread. Knows: that a wish which comes while files are being read
needs one more reading, and many such wishes no more than one. Does not know: how a roll is called, what becomes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from bwexporter.roster import Roll

Called = Roll | Exception
"""A roll, or what kept it from being called."""


class Calling:
    """Calls rolls in a thread of its own, one after the other; any thread may ask. `tells` hears of each in it."""

    def __init__(self, call_roll: Callable[[], Roll], tells: Callable[[], None]) -> None:
        self._call_roll, self._tells = call_roll, tells
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "roll")
        self._next: Future[None] | None = None
        self._newest: Called | None = None
        self._closed = False

    def ask(self) -> Future[None] | None:
        """Ask for a roll of what is written by now; what is returned is done once it is there. None after the end."""
        with self._lock:
            if self._closed:
                return None
            if self._next is None or self._next.running() or self._next.done():
                self._next = self._thread.submit(self._call)
            return self._next

    @property
    def waiting(self) -> bool:
        """Say whether a roll waits to be taken."""
        return self._newest is not None

    def take(self) -> Called | None:
        """Take the newest roll, or the trouble that there was instead; None where nobody has asked since."""
        with self._lock:
            newest, self._newest = self._newest, None
        return newest

    def close(self) -> None:
        """Call no more."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _call(self) -> None:
        try:
            called: Called = self._call_roll()
        except Exception as trouble:  # noqa: BLE001 - raised again in the turn's thread, where troubles are counted
            called = trouble
        with self._lock:
            self._newest = called
        self._tells()
