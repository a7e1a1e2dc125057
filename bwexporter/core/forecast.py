"""How long a lane takes to reach a limit if it goes on as of late.

Turns a limit, an account and a rate into seconds. Knows: that a period which ends first forgets the use. Does not know:
the ceiling, which may come down on the way: this says what the owner should expect to happen, not when the cap lifts.
"""

from __future__ import annotations

import numpy as np

from bwexporter.core.lanes import F8, I8, UNLIMITED


def seconds_to(limit_bytes: I8, used_bytes: I8, recent_bytes_per_second: F8, remaining_seconds: F8) -> F8:
    """Return the seconds until each lane's limit at its recent rate: 0 where reached, infinity if not in this period.

    >>> seconds_to(np.array([1_000]), np.array([400]), np.array([20.0]), np.array([3600.0])).tolist()
    [30.0]
    """
    left = np.maximum(limit_bytes - used_bytes, 0)
    seconds = np.where(left == 0, 0.0, np.inf)
    moving = np.flatnonzero((recent_bytes_per_second > 0) & (left > 0) & (limit_bytes < UNLIMITED))
    rate, remaining = recent_bytes_per_second[moving], remaining_seconds[moving]
    within_reach = (remaining > 0) & (left[moving] <= rate * remaining)
    reaching = moving[within_reach]
    seconds[reaching] = left[reaching] / rate[within_reach]
    return seconds
