"""Waiting for the very thing that a test asserts.

Turns a question into its first true answer. Knows: how long a machine that stalls may take for what comes at once
elsewhere. Does not know: what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0


def wait_until(happened: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Ask again and again until the answer is true; fail after a while."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:.0f} s"
        time.sleep(0.005)
