"""The sliding window: the law without a period.

Turns what was sent in each window into ceilings, and into forecasts. Knows: at which rate no window ever holds more
than the allowance. Does not know: how a window's slots are filled and left, hand and switches, the hours of the day.

Theory
------
What a lane sent in the last W seconds counts, and becomes free again as it leaves the window, slot by slot. Now U bytes
count. The k-th slot leaves in x_k seconds, the bytes that are left by then (without its own) are b_k; the last of them
is the slot that runs, with which what is sent from now on begins to leave.

* Even rate (rule 4): the highest rate that can be kept for good. Until each slot leaves, r x_k <= A - U + b_k; after
  the last, when only what was sent at this rate counts, r (W + w) <= A, with the width w of a slot. So it is the least
  of these quotients. Where it is obeyed it never has to be lowered again on account of what was sent before: what is
  said of x_k holds after some seconds at r as well. A worked example: nothing was sent for a day, then 80 of 100 MB at
  once: 20 MB are left for the 24.5 hours until these leave, 227 B/s, and then it has its full rate again.
* Below the threshold (rules 2, 3) a lane has its full rate, as under the law, where the threshold cannot be reached
  before the next look. Where it can, the ceiling is the average of the full rate up to the threshold and of the even
  rate from there to the horizon: what it sends evenly is never more than it would send in that order.
* Floor (rule 1): what the slack between threshold and allowance carries for W + w. A lane that comes to its threshold
  then has an even rate of at least the floor, whatever it sent before, so that the floor alone overspends no window.
* There is no end of a period, so there is no tail, and a look that comes late changes nothing for a lane over its
  threshold: its ceiling could be kept for good.

What counts is at least what was sent in the true window (core/rings.py), so that a true window never holds more than
what is promised here; a lane that sends all it may gets at least W / (W + w + a look's interval) of its allowance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bwexporter.core import rings as ringing
from bwexporter.core.lanes import F8, I8, UNLIMITED, Rings
from bwexporter.core.policy import SOON_SECONDS, Reasons, reason_of, rounded


class Terms(NamedTuple):
    """What each ring's lane may do."""

    full: I8
    allowance: I8
    threshold: I8
    guarantee: I8  # as admitted
    floor: I8  # as configured


class Judged(NamedTuple):
    """What is said of each ring's lane; its even rate is `room_bytes` in the next `room_seconds`, 0 where not asked."""

    ceiling: I8
    reason: Reasons
    floor: I8
    used_bytes: I8
    room_bytes: I8
    room_seconds: F8


class _Room(NamedTuple):
    """What may be sent, and within how long: their quotient is the even rate."""

    sent_bytes: F8
    seconds: F8


def judged(rings: Rings, terms: Terms, *, time_now: float, horizon_seconds: F8) -> Judged:
    """Judge lanes by what was sent in their windows."""
    used, full = ringing.used_bytes(rings), terms.full.astype(np.float64)
    ahead = np.maximum(terms.threshold - used, 0)
    horizon = np.maximum(horizon_seconds, SOON_SECONDS)
    limited = terms.allowance < UNLIMITED
    floor, rate = _floor(rings, terms), full.copy()
    room_bytes, room_seconds = np.zeros(len(rings), np.int64), np.zeros(len(rings))
    near = np.flatnonzero(limited & (ahead < horizon * full))
    if len(near):
        until = ahead[near] / full[near]
        base = np.maximum(used[near], terms.threshold[near])
        room = _room(rings.take(near), base, terms.allowance[near], time_now, until)
        even = room.sent_bytes / room.seconds
        paced = (ahead[near] + even * (horizon[near] - until)) / horizon[near]
        rate[near] = np.where(even >= full[near], full[near], np.minimum(paced, full[near]))
        room_bytes[near], room_seconds[near] = np.maximum(room.sent_bytes, 0).astype(np.int64), room.seconds
    ceiling = rounded(rate, terms.full, floor)
    reason = reason_of(used, terms.allowance, terms.threshold, ceiling < terms.full)
    return Judged(ceiling, reason, floor, used, room_bytes, room_seconds)


def even_rate(rings: Rings, allowance: I8, *, time_now: float) -> F8:
    """Return the rate that each lane can keep for good, from now on: what a program that stops leaves behind."""
    room = _room(rings, ringing.used_bytes(rings), allowance, time_now, np.zeros(len(rings)))
    return room.sent_bytes / room.seconds


def seconds_to(limit_bytes: I8, rings: Rings, recent_bytes_per_second: F8, *, time_now: float) -> F8:
    """Return the seconds until each window holds its limit at the recent rate: 0 where it does, infinity for never.

    What leaves on the way is reckoned with; when all that counts now has left, the window holds what it ever will.
    """
    used = ringing.used_bytes(rings)
    seconds = np.where(used >= limit_bytes, 0.0, np.inf)
    span = rings.window_seconds + ringing.slot_seconds(rings)
    rows = np.flatnonzero((used < limit_bytes) & (limit_bytes <= used + recent_bytes_per_second * span))
    if not len(rows):
        return seconds
    leaves, before = ringing.leaving(rings.take(rows), time_now)
    reached = ((limit_bytes - used)[rows, None] + before) / recent_bytes_per_second[rows, None]
    seconds[rows] = np.where(reached <= leaves, reached, np.inf).min(axis=1)
    return seconds


def _floor(rings: Rings, terms: Terms) -> I8:
    """Rule 1: what the slack carries from one use of the threshold until that leaves."""
    slack = np.where(terms.allowance >= UNLIMITED, UNLIMITED, terms.allowance - terms.threshold)
    fitted = np.minimum(terms.floor, slack / (rings.window_seconds + ringing.slot_seconds(rings)))
    return np.minimum(terms.full, np.maximum(terms.guarantee, fitted)).astype(np.int64)


def _room(rings: Rings, used: I8, allowance: I8, time_now: float, after_seconds: F8) -> _Room:
    """Rule 4: what bounds the even rate of lanes that will have used so much after some seconds, with nothing left."""
    leaves, before = ringing.leaving(rings, time_now)
    seconds = leaves - after_seconds[:, None]
    left = (allowance - used)[:, None] + before
    rates = np.divide(left, seconds, out=np.full(left.shape, np.inf), where=seconds > 0)
    tightest = rates.argmin(axis=1)
    rows = np.arange(len(rings))
    sent, within = left[rows, tightest].astype(np.float64), seconds[rows, tightest]
    span = rings.window_seconds + ringing.slot_seconds(rings)
    for_good = (within <= 0) | (sent * span > allowance * within)
    return _Room(np.where(for_good, allowance, sent), np.where(for_good, span, within))
