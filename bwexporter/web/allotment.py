"""How many requests are answered in a span of time.

Turns requests into yes or no: each takes a token, one comes back after each interval, and no more than a burst of them
are kept. Knows: that, and nothing else. Does not know: who asks, what for, any clock.
"""

from __future__ import annotations


class Allotment:
    """The tokens; the event loop's thread alone takes them."""

    def __init__(self, interval_seconds: float, burst: int) -> None:
        self._interval_seconds = interval_seconds
        self._burst = burst
        self._tokens = float(burst)
        self._at_seconds = 0.0

    def grants(self, now_seconds: float) -> bool:
        """Take a token, if there is one; `now_seconds` is of a clock that never goes back.

        >>> allotment = Allotment(interval_seconds=2.0, burst=2)
        >>> [allotment.grants(at) for at in (100.0, 100.0, 100.0, 101.0, 102.0, 103.0, 110.0)]
        [True, True, False, False, True, False, True]
        """
        came_back = (now_seconds - self._at_seconds) / self._interval_seconds
        self._tokens, self._at_seconds = min(float(self._burst), self._tokens + came_back), now_seconds
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
