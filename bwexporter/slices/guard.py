"""The guard against answers that are small by accident.

Turns the slices before and after into a refusal, or into nothing. Knows: how many may go at once. Does not know: where
slices come from, what becomes of a refused answer.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

FEWEST = 10
"""So few slices may go at once whatever their part."""


def drops_too_many(before: AbstractSet[str], now: AbstractSet[str]) -> str:
    """Say what is wrong with an answer that drops more than half of ten or more slices; empty if nothing.

    >>> drops_too_many({"a", "b"}, set())
    ''
    """
    gone = len(before - now)
    if len(before) < FEWEST or 2 * gone <= len(before):
        return ""
    return f"would drop {gone} of {len(before)} slices at once; they stay, unless the next poll says the same"
