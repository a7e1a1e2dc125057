"""Carry: unused volume that is there in the next period, up to a bound.

Turns accounts whose period ended into accounts with what they carry over, and tariffs into tariffs with it. Knows: what
was unused. Does not know: how a period ends, what else adds to an allowance.

What is carried is spent like the allowance itself, with the threshold in proportion, and what is left of it at the end
of that period counts as unused again: a slice that is idle for long has its allowance and the bound, never more. A
top-up by hand is gone with its period and is not carried.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bwexporter.core.accounting import Count
from bwexporter.core.lanes import UNLIMITED, Accounts, Tariffs


def carried_over(count: Count, tariffs: Tariffs) -> Accounts:
    """Return the accounts of a count, where those that rolled carry over what their policies let them."""
    accounts, policies = count.ledger.accounts, tariffs.policies
    if not len(count.rolled) or not (policies or accounts.carried_bytes.any()):
        return accounts
    carried = accounts.carried_bytes.copy()
    ended = zip(count.rolled.tolist(), count.ended_used_bytes.tolist(), count.ended_periods.tolist(), strict=True)
    for row, used, periods in ended:
        limited = row in policies and row < len(tariffs) and tariffs.allowance_bytes[row] < UNLIMITED
        allowance = int(tariffs.allowance_bytes[row]) if limited else 0
        bound = int(allowance * policies[row].carry_part) if limited else 0
        carried[row] = left_over(int(carried[row]), used, allowance, bound, periods)
    return replace(accounts, carried_bytes=carried)


def left_over(before: int, used: int, allowance: int, bound: int, periods: int) -> int:
    """Return what is there after some periods, of which the first was used and the others not at all.

    >>> left_over(0, 30, 100, 50, 1), left_over(50, 130, 100, 50, 1)
    (50, 20)
    >>> left_over(0, 90, 100, 50, 1), left_over(0, 90, 100, 50, 3)
    (10, 50)
    """
    after_first = min(max(allowance + before - used, 0), bound)
    return min(after_first + (periods - 1) * allowance, bound)


def over(tariffs: Tariffs, accounts: Accounts) -> Tariffs:
    """Return tariffs with what each lane carries; the very tariffs where nothing is carried."""
    carried = accounts.carried_bytes[: len(tariffs)]
    if not carried.any():
        return tariffs
    more = np.where(tariffs.allowance_bytes < UNLIMITED, carried, 0)
    return replace(tariffs, hand_top_up_bytes=tariffs.hand_top_up_bytes + more)
