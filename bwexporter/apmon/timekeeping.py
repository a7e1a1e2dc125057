"""Whether somebody keeps this node's clock: receivers store figures under its time.

Turns what the kernel says of its clock into yes, no or unknown. Knows: adjtimex(2). Does not know: who keeps the clock,
what is done about it. Nothing is set.
"""

from __future__ import annotations

import ctypes

_TIME_ERROR = 5  # what adjtimex answers while no time service tells the kernel that the clock is right
_STRUCTURE_BYTES = 512  # more than it has on any machine; all zero, it asks and sets nothing


def is_synchronised() -> bool | None:
    """Say whether a time service keeps the clock; None where the kernel may not be asked, as in a sandbox.

    >>> is_synchronised() in (True, False, None)
    True
    """
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_STRUCTURE_BYTES))
    return None if state < 0 else state != _TIME_ERROR
