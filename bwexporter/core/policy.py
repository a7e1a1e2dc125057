"""The law of spec 4: which ceiling each lane should have now, and why.

Turns accounts and tariffs into verdicts, and into the time of the next look. Knows: pacing, the fitted floor, the
tail, the admission of guarantees, what is set by hand. Does not know: the clock, the kernel, who asked by hand, how
bytes were counted.

Two rules for whoever edits this file. Every comparison of bytes with an allowance stands here. And
tests/oracle_policy.py says the same law for one lane in plain numbers: keep the two in step.

Theory
------
A lane may send `allowance` bytes in its period. From `threshold` on, what is left (`slack`, at the threshold) is
spread over what remains of the period. A verdict holds from this look to the next, so that the law reckons with a
horizon h: the seconds to the next planned look and a margin for a look that comes late.

* Spread (rule 4): left / remaining. A worked example with the allowance of the ancestor's default, 1 Mbit/s for a day,
  whose threshold of 90 % is passed at once: 1.08 GB are left for 86 400 s, 12 500 B/s, which is 100 kbit/s.
* Pace (rules 2, 3): a lane that cannot reach its threshold within h has its full rate. Another one gets what is left
  to the threshold and the spread from there to h, evenly over h. Rule 4 is the same expression with nothing left to
  the threshold, and so the ceiling has no jump there: the more is used, the lower it is.
* The period's end is a look, but that look can be late as well, and then the ceiling runs on into the next period.
  Where h reaches beyond the end, the ceiling is also one that the next period's fresh account would get for the rest
  of h. Without this an idle lane of 20 MB at 1 Gbit/s is given its full rate just before the end, and a look that
  comes 0.4 s late finds 50 MB in the new period.
* Tail: a very low ceiling leaves an HTB class shut for up to a minute after it is raised, so the last 75 s of a capped
  period run at no less than 8 000 B/s (64 kbit/s), or at half of slack / 75 s where that is less. Those bytes are
  reserved: before the tail, where left / remaining is below the tail's rate, only the bytes beyond the reserve are
  spread over the time before the tail. A look is due where the tail begins. It holds over the allowance as well: what
  it then overspends is at most the reserve.
* Floor (rule 1): the configured one, lowered so far that a lane at its floor from its threshold on, with the tail, ends
  at its allowance; the guarantee may raise it again, and then overspends. It is fitted to the period's nominal length,
  or to what remains where that is longer (a shorter period that begins with the next one).
* Rounding (rule 6): down to 7 significant bits, never below the floor; the full rate is never rounded.
* Precedence: frozen, off, released, then the law, lowered by a cap by hand. The wider switch beats the narrower one. A
  cap by hand may go below the floor: the operator asked for it. It is not rounded.
* No allowance: the full rate, by a mask and not by arithmetic.
* By hand, a top-up raises the threshold in the allowance's proportion, and is gone in the next period.

All numbers are i8 outside and f8 inside. f8 has 53 bits: above 9 PB a byte count is rounded, which no ceiling shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import B1, F8, I8, UNLIMITED, Columns, Ledger, Reason, Tariffs, Traffic, Verdicts

TAIL_SECONDS = 75.0
TAIL_BYTES_PER_SECOND = 8_000

SOON_SECONDS = 1e-3  # time is divided by: no span is shorter, and no look is nearer
_SIGNIFICANT_BITS = 7
_KEPT = (Reason.RELEASED, Reason.FROZEN, Reason.OFF)

Reasons = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class _Terms(Columns):
    """What a lane's tariff comes to in a period, in floats; one row a lane."""

    full: F8
    allowance: F8
    threshold: F8
    slack: F8  # from threshold to allowance
    tail_seconds: F8
    tail_rate: F8


@dataclass(frozen=True, slots=True)
class Frame(Columns):
    """What the tariffs alone come to, in periods of these lengths: the same from turn to turn, and worth keeping."""

    tariffs: Tariffs
    parents_bytes_per_second: tuple[int, int]
    span_seconds: F8
    guarantee: I8  # as admitted
    allowance: I8  # with the top-up by hand, as is the next
    threshold: I8
    floor: I8
    terms: _Terms
    next_terms: _Terms  # of the next period, in which nothing is topped up
    plain: bool  # nothing is set by hand and no switch is thrown, for any lane
    admitted_ratio: float

    def fits(self, tariffs: Tariffs, span_seconds: F8, parents_bytes_per_second: tuple[int, int]) -> bool:
        """Say whether this is still what they come to."""
        same = self.tariffs is tariffs and self.parents_bytes_per_second == parents_bytes_per_second
        return same and np.array_equal(self.span_seconds, span_seconds)


class Steered(NamedTuple):
    """Ceilings as hand and switches leave them."""

    ceiling: I8
    asked: I8
    reason: Reasons
    capped: B1


class Evenly(NamedTuple):
    """Lanes whose use, and the rate that they can keep, are not those of a period."""

    rows: I8
    used_bytes: I8
    bytes_per_second: F8


class _Case(NamedTuple):
    """The lanes that the law has to be asked for, with the columns of those alone."""

    rows: I8
    full: I8
    used: I8
    remaining_seconds: F8
    terms: _Terms


def judge(  # noqa: PLR0913 - a verdict has this many inputs, each a fact of its own
    ledger: Ledger,
    tariffs: Tariffs,
    *,
    period_seconds: F8,
    held_ceiling_bytes_per_second: I8,
    cap_bytes_per_second: int,
    line_rate_bytes_per_second: int,
    next_look_seconds: float | F8,
    look_margin_seconds: float,
    frozen: bool | B1,
    enforcing: bool = True,
    kept: Frame | None = None,
) -> Verdicts:
    """Return the verdict of each enrolled lane; rows are those of the tariffs.

    `period_seconds` are nominal lengths; `held_ceiling_bytes_per_second` is what the kernel enforces now, 0 where the
    class is absent; both have a row a lane. `next_look_seconds` and `frozen` are for all lanes or for each. `cap` and
    `line_rate` are the ceilings of the parents of normal and exempt lanes. `enforcing` is false while the whole node is
    in shadow. `kept` is the frame of an earlier judgement, which spares reckoning it anew.
    """
    frame = framed(
        ledger,
        tariffs,
        period_seconds=period_seconds,
        cap_bytes_per_second=cap_bytes_per_second,
        line_rate_bytes_per_second=line_rate_bytes_per_second,
        kept=kept,
    )
    return judge_within(
        frame,
        ledger,
        held_ceiling_bytes_per_second=held_ceiling_bytes_per_second,
        horizon_seconds=next_look_seconds + look_margin_seconds,
        frozen=frozen,
        enforcing=enforcing,
    )


def judge_within(
    frame: Frame,
    ledger: Ledger,
    *,
    held_ceiling_bytes_per_second: I8,
    horizon_seconds: float | F8,
    frozen: bool | B1,
    enforcing: bool,
) -> Verdicts:
    """Return the verdict of each enrolled lane, where it is known already what the tariffs come to.

    A lane that can reach neither its threshold nor its period's end before the next look has its full rate (rule 2).
    Those are most lanes of most nodes, so that the rest of the law is asked for the others alone.
    """
    tariffs, terms = frame.tariffs, frame.terms
    full = tariffs.full_bytes_per_second
    used, remaining = ledger.accounts.used_bytes[: len(tariffs)], _remaining_seconds(ledger)
    away = (frame.threshold - used) / terms.full >= np.maximum(horizon_seconds, SOON_SECONDS)
    rows = np.flatnonzero(~(away & (remaining >= horizon_seconds)))
    ceiling, reason = full.copy(), np.full(len(full), Reason.WITHIN.value, np.int8)
    if len(rows):
        case = _Case(rows, full[rows], used[rows], remaining[rows], terms.take(rows))
        horizon = horizon_seconds[rows] if isinstance(horizon_seconds, np.ndarray) else horizon_seconds
        ceiling[rows], reason[rows] = _ruled(case, frame, horizon)
    found = Steered(ceiling, ceiling, reason, _capped(ceiling, reason, tariffs))
    if not (frame.plain and enforcing) or (frozen is not False and np.any(frozen)):
        found = steered(tariffs, ceiling, reason, held_ceiling_bytes_per_second, frozen=frozen, enforcing=enforcing)
    return Verdicts(
        ceiling_bytes_per_second=found.ceiling,
        asked_ceiling_bytes_per_second=found.asked,
        reason=found.reason,
        floor_bytes_per_second=frame.floor,
        guarantee_bytes_per_second=frame.guarantee,
        allowance_bytes=frame.allowance,
        threshold_bytes=frame.threshold,
        capped=found.capped,
        admitted_ratio=frame.admitted_ratio,
    )


def steered(
    tariffs: Tariffs,
    ceiling: I8,
    reason: Reasons,
    held_ceiling_bytes_per_second: I8,
    *,
    frozen: bool | B1,
    enforcing: bool,
) -> Steered:
    """Return what hand and switches make of the ceilings that accounts come to."""
    full = tariffs.full_bytes_per_second
    held = np.where(held_ceiling_bytes_per_second > 0, held_ceiling_bytes_per_second, full)
    ceiling, reason = _lowered_by_hand(tariffs, ceiling, reason)
    ceiling, reason = _switched(tariffs, ceiling, reason, held, frozen=frozen)
    asked = np.where(tariffs.shadow | (not enforcing), held, ceiling)
    return Steered(ceiling, asked, reason, _capped(ceiling, reason, tariffs))


def rounded(rate: F8, full: I8, floor: I8 | None = None) -> I8:
    """Rule 6: return rates as ceilings, down to 7 significant bits below the full rate, not below floor or 1."""
    return _ceiling(rate, np.ones_like(full) if floor is None else floor, full)


def framed(
    ledger: Ledger,
    tariffs: Tariffs,
    *,
    period_seconds: F8,
    cap_bytes_per_second: int,
    line_rate_bytes_per_second: int,
    kept: Frame | None,
) -> Frame:
    """Return what the tariffs come to; the very `kept` where it fits."""
    span, parents = (
        np.maximum(period_seconds, _remaining_seconds(ledger)),
        (cap_bytes_per_second, line_rate_bytes_per_second),
    )
    if kept is not None and kept.fits(tariffs, span, parents):
        return kept
    guarantee, ratio = admit(
        tariffs.guarantee_bytes_per_second,
        np.array([lane.traffic is Traffic.EXEMPT for lane in tariffs.lanes], np.bool_),
        cap_bytes_per_second=cap_bytes_per_second,
        line_rate_bytes_per_second=line_rate_bytes_per_second,
    )
    allowance, threshold = topped_up(tariffs)
    full = tariffs.full_bytes_per_second
    terms = _terms(full, allowance, threshold, span)
    floor = _fitted_floor(terms, span, guarantee, tariffs.floor_bytes_per_second)
    next_terms = _next_terms(tariffs, span) if tariffs.hand_top_up_bytes.any() else terms
    switched = tariffs.off | tariffs.released | tariffs.shadow
    plain = not (switched | (tariffs.hand_cap_bytes_per_second < full)).any()
    return Frame(tariffs, parents, span, guarantee, allowance, threshold, floor, terms, next_terms, plain, ratio)


def _ruled(case: _Case, frame: Frame, horizon_seconds: float | F8) -> tuple[I8, Reasons]:
    """Return the ceilings and reasons of the law alone."""
    rows, allowance, threshold = case.rows, frame.allowance[case.rows], frame.threshold[case.rows]
    rate = _pace(case.terms, case.used, case.remaining_seconds, horizon_seconds)
    into_next = horizon_seconds - case.remaining_seconds
    if (into_next > 0).any():
        # The ceiling also has to suit the next period's fresh account, for the rest of the horizon.
        fresh = _pace(frame.next_terms.take(rows), np.zeros(len(rows)), frame.span_seconds[rows], into_next)
        rate = np.where(into_next > 0, np.minimum(rate, fresh), rate)
    rate = np.where(allowance >= UNLIMITED, case.terms.full, rate)
    ceiling = _ceiling(rate, frame.floor[rows], case.full)
    return ceiling, reason_of(case.used, allowance, threshold, ceiling < case.full)


def hold(
    ledger: Ledger, tariffs: Tariffs, verdicts: Verdicts, *, enforcing: bool = True, evenly: Evenly | None = None
) -> Verdicts:
    """Return verdicts for a program that stops and keeps hold: ceilings that carry each lane to its period's end.

    That is the spread of rule 4, between floor and full rate, also below the threshold. The reserve of the tail stays
    put by: the program may be back before the tail begins. What is off, frozen or released stays as it is, and so does
    what is asked of lanes in shadow.
    """
    accounts, remaining = ledger.accounts, _remaining_seconds(ledger)
    used, full, allowance = accounts.used_bytes[: len(tariffs)], tariffs.full_bytes_per_second, verdicts.allowance_bytes
    span = np.maximum((accounts.period_end_at - accounts.period_start_at)[: len(tariffs)], remaining)
    terms = _terms(full, allowance, verdicts.threshold_bytes, span)
    spread = _spread(terms, np.maximum(terms.allowance - used, 0.0), remaining)
    if evenly is not None:
        used = used.copy()
        used[evenly.rows], spread[evenly.rows] = evenly.used_bytes, evenly.bytes_per_second
    rate = np.where(allowance >= UNLIMITED, full, np.minimum(full, spread))
    ceiling = _ceiling(rate, verdicts.floor_bytes_per_second, full)
    reason = reason_of(used, allowance, verdicts.threshold_bytes, ceiling < full)
    ceiling, reason = _lowered_by_hand(tariffs, ceiling, reason)

    kept = np.isin(verdicts.reason, _KEPT)
    ceiling = np.where(kept, verdicts.ceiling_bytes_per_second, ceiling)
    reason = np.where(kept, verdicts.reason, reason)
    unasked = tariffs.shadow | (not enforcing)
    return replace(
        verdicts,
        ceiling_bytes_per_second=ceiling,
        asked_ceiling_bytes_per_second=np.where(unasked, verdicts.asked_ceiling_bytes_per_second, ceiling),
        reason=reason,
        capped=_capped(ceiling, reason, tariffs),
    )


def next_look_seconds(
    ledger: Ledger,
    tariffs: Tariffs,
    *,
    interval_seconds: float,
    shortest_interval_seconds: float,
    look_margin_seconds: float,
    kept: Frame | None = None,
) -> float:
    """Return the seconds from the ledger's last look to the next planned one.

    That is the regular interval, or the first end of a period of an enrolled lane, or an early look that is at least
    `shortest_interval_seconds` away: `look_margin_seconds` before a lane that sent in the last turn can reach its
    threshold, or where the tail of a lane begins that is too slow for it. A lane without an allowance, off or released
    asks for no early look; one capped by hand reaches its threshold no faster than its cap lets it. `kept` is a frame
    of these tariffs, which spares reckoning the top-ups anew.
    """
    if len(tariffs) == 0:
        return interval_seconds
    accounts, remaining = ledger.accounts, _remaining_seconds(ledger)
    used = accounts.used_bytes[: len(tariffs)]
    allowance, threshold = (kept.allowance, kept.threshold) if kept is not None else topped_up(tariffs)
    nears = threshold - used < (interval_seconds + look_margin_seconds) * tariffs.full_bytes_per_second
    rows = np.flatnonzero(nears | (allowance - used < TAIL_BYTES_PER_SECOND * remaining))  # the others ask for no look
    early = _early_look_seconds(
        tariffs, rows, allowance[rows], threshold[rows], used[rows], remaining[rows],
        sent=accounts.recent_bytes[rows] > 0, look_margin_seconds=look_margin_seconds,
    )  # fmt: skip
    held_back = max(float(early.min(initial=np.inf)), shortest_interval_seconds)
    return max(min(interval_seconds, float(remaining.min()), held_back), SOON_SECONDS)


def admit(
    asked_bytes_per_second: I8,
    exempt: B1,
    *,
    cap_bytes_per_second: int,
    line_rate_bytes_per_second: int,
) -> tuple[I8, float]:
    """Return the guarantees that the parents can keep, and the smallest scale that one had to be multiplied by.

    The parent of exempt lanes is the line rate, of normal ones the cap. One guarantee is at most a quarter of it; if
    the sum still exceeds it, all of that parent are scaled down. Each keeps 1 byte a second, the least that the kernel
    takes: only with more lanes than the parent has bytes a second is the sum larger than the parent.

    >>> guarantees, ratio = admit(np.array([40, 25, 25, 25, 25]), np.zeros(5, bool), cap_bytes_per_second=100,
    ...                           line_rate_bytes_per_second=1000)
    >>> guarantees.tolist(), ratio
    ([20, 20, 20, 20, 20], 0.5)
    """
    asked = np.maximum(asked_bytes_per_second, 1)
    scaled = np.empty(len(asked))
    scaled[exempt] = _scaled(asked[exempt], line_rate_bytes_per_second)
    scaled[~exempt] = _scaled(asked[~exempt], cap_bytes_per_second)
    ratio = float(np.min(scaled / asked)) if len(asked) else 1.0
    return np.minimum(scaled.astype(np.int64), asked), ratio


def topped_up(tariffs: Tariffs) -> tuple[I8, I8]:
    """Return allowance and threshold with the top-up by hand; the threshold keeps its proportion to the allowance."""
    top_up = np.clip(tariffs.hand_top_up_bytes, 0, UNLIMITED)
    allowance = np.minimum(tariffs.allowance_bytes, UNLIMITED - top_up) + top_up
    threshold = np.minimum(tariffs.threshold_bytes, tariffs.allowance_bytes)
    moved = (threshold * (allowance / np.maximum(tariffs.allowance_bytes, 1))).astype(np.int64)
    threshold = np.minimum(np.where(top_up > 0, moved, threshold), allowance)
    return allowance, np.where(allowance >= UNLIMITED, UNLIMITED, threshold)


def fitted_floor(tariffs: Tariffs, period_seconds: F8) -> I8:
    """Return the floors that the tariffs come to, before top-ups and with guarantees as asked: what a check shows."""
    terms = _next_terms(tariffs, period_seconds)
    guarantee = np.maximum(tariffs.guarantee_bytes_per_second, 1)
    return _fitted_floor(terms, period_seconds, guarantee, tariffs.floor_bytes_per_second)


def _scaled(asked: I8, parent_bytes_per_second: int) -> F8:
    """Rule 7 for the children of one parent: what each asks for beyond 1 byte a second is scaled down."""
    each = np.minimum(asked, max(parent_bytes_per_second // 4, 1)).astype(np.float64)
    lanes, total = float(len(each)), float(np.sum(each))
    if total <= max(parent_bytes_per_second, lanes):
        return each
    return 1 + (each - 1) * (max(parent_bytes_per_second - lanes, 0.0) / (total - lanes))


def _remaining_seconds(ledger: Ledger) -> F8:
    """Return the seconds to the end of each enrolled lane's period: never zero, whatever the accounts say."""
    return np.maximum(ledger.accounts.period_end_at[: ledger.enrolled] - ledger.ledger_seconds, SOON_SECONDS)


def _terms(full: I8, allowance: I8, threshold: I8, span_seconds: F8) -> _Terms:
    """Return the terms of a period of that length; all of the slack of a lane without an allowance is there for it."""
    slack, tail_seconds = _slack(allowance, threshold), np.minimum(TAIL_SECONDS, span_seconds)
    return _Terms(
        full=full.astype(np.float64),
        allowance=allowance.astype(np.float64),
        threshold=threshold.astype(np.float64),
        slack=slack,
        tail_seconds=tail_seconds,
        tail_rate=_tail_rate(full, slack, tail_seconds),
    )


def _slack(allowance: I8, threshold: I8) -> F8:
    return np.where(allowance >= UNLIMITED, UNLIMITED, allowance - threshold).astype(np.float64)


def _tail_rate(full: I8, slack: F8, tail_seconds: F8) -> F8:
    return np.minimum(np.minimum(full, TAIL_BYTES_PER_SECOND), slack / (2 * tail_seconds))


def _next_terms(tariffs: Tariffs, span_seconds: F8) -> _Terms:
    """Return the terms of the next period, in which nothing is topped up."""
    threshold = np.minimum(tariffs.threshold_bytes, tariffs.allowance_bytes)
    return _terms(tariffs.full_bytes_per_second, tariffs.allowance_bytes, threshold, span_seconds)


def _fitted_floor(terms: _Terms, span_seconds: F8, guarantee: I8, configured: I8) -> I8:
    """Rule 1: what the slack carries all period long, with the tail's bytes put by."""
    affordable = np.minimum(configured, _spread(terms, terms.slack, span_seconds))
    return np.minimum(terms.full, np.maximum(guarantee, affordable)).astype(np.int64)


def _spread(terms: _Terms, left: F8, remaining_seconds: F8) -> F8:
    """Rule 4: what is left, over what remains, with the tail's reserve; left may be negative.

    Before the tail the smaller of both rates is the reserved one exactly where the plain one is below the tail's rate.
    """
    plain = left / remaining_seconds
    before_tail = np.maximum(remaining_seconds - terms.tail_seconds, SOON_SECONDS)
    reserved = np.maximum(left - terms.tail_rate * terms.tail_seconds, 0.0) / before_tail
    in_tail = remaining_seconds <= terms.tail_seconds
    return np.where(in_tail, np.maximum(plain, terms.tail_rate), np.minimum(plain, reserved))


def _pace(terms: _Terms, used: I8 | F8, remaining_seconds: F8, horizon_seconds: float | F8) -> F8:
    """Rules 2, 3 and 4 in one: the rate for the horizon, at most the full rate."""
    ahead = np.maximum(terms.threshold - used, 0.0)
    to_threshold = ahead / terms.full
    horizon = np.maximum(np.minimum(horizon_seconds, remaining_seconds), SOON_SECONDS)
    beyond = horizon - to_threshold
    left = np.minimum(terms.slack, terms.allowance - used)
    spread = _spread(terms, left, np.maximum(remaining_seconds - to_threshold, SOON_SECONDS))
    paced = np.where(ahead > 0, (ahead + spread * beyond) / horizon, spread)
    return np.where((beyond <= 0) | (spread >= terms.full), terms.full, np.minimum(paced, terms.full))


def _ceiling(rate: F8, floor: I8, full: I8) -> I8:
    """Rule 6: rounded down to 7 significant bits, not below the floor; the full rate as it is."""
    mantissa, exponent = np.frexp(np.maximum(np.floor(rate), 0.0))
    kept_bits = np.minimum(exponent, _SIGNIFICANT_BITS)
    rounded = np.ldexp(np.floor(np.ldexp(mantissa, kept_bits)), exponent - kept_bits).astype(np.int64)
    return np.where(rate >= full, full, np.minimum(np.maximum(rounded, floor), full))


def reason_of(used: I8, allowance: I8, threshold: I8, lowered: B1) -> Reasons:
    """Say which rule spoke; a lane without an allowance is always within it."""
    below = (used < threshold) | (allowance >= UNLIMITED)
    above = np.where(used >= allowance, Reason.OVER_ALLOWANCE.value, Reason.OVER_THRESHOLD.value)
    return np.where(below, np.where(lowered, Reason.PACED.value, Reason.WITHIN.value), above).astype(np.int8)


def _lowered_by_hand(tariffs: Tariffs, ceiling: I8, reason: Reasons) -> tuple[I8, Reasons]:
    """Rule 8: a cap by hand where it is lower than the law."""
    cap = np.maximum(tariffs.hand_cap_bytes_per_second, 1)
    binds = cap < ceiling
    return np.where(binds, cap, ceiling), np.where(binds, Reason.CAPPED_BY_HAND.value, reason).astype(np.int8)


def _switched(
    tariffs: Tariffs,
    ceiling: I8,
    reason: Reasons,
    held: I8,
    *,
    frozen: bool | B1,
) -> tuple[I8, Reasons]:
    """Rules 8 and 9: frozen before off before released before the law."""
    full = tariffs.full_bytes_per_second
    reason = np.where(tariffs.off, Reason.OFF.value, np.where(tariffs.released, Reason.RELEASED.value, reason))
    ceiling = np.where(tariffs.off | tariffs.released, full, ceiling)
    return np.where(frozen, held, ceiling), np.where(frozen, Reason.FROZEN.value, reason).astype(np.int8)


def _capped(ceiling: I8, reason: Reasons, tariffs: Tariffs) -> B1:
    """Say where the account is why a lane has less than its full rate; pacing and the hand are other causes."""
    over: B1 = (reason == Reason.OVER_THRESHOLD.value) | (reason == Reason.OVER_ALLOWANCE.value)
    over |= reason == Reason.ON_LADDER.value
    return over & (ceiling < tariffs.full_bytes_per_second)


def _early_look_seconds(
    tariffs: Tariffs,
    rows: I8,
    allowance: I8,
    threshold: I8,
    used: I8,
    remaining_seconds: F8,
    *,
    sent: B1,
    look_margin_seconds: float,
) -> F8:
    """Return when each lane asks for an early look, infinity where it asks for none; `sent` marks those that sent."""
    full, hand_cap = tariffs.full_bytes_per_second[rows], tariffs.hand_cap_bytes_per_second[rows]
    can_be_capped = (allowance < UNLIMITED) & ~(tariffs.off | tariffs.released)[rows]

    to_threshold = (threshold - used) / np.minimum(full, np.maximum(hand_cap, 1))
    nears = can_be_capped & sent & (used < threshold)

    tail_rate = _tail_rate(full, _slack(allowance, threshold), np.minimum(TAIL_SECONDS, remaining_seconds))
    slow = (allowance - used) / remaining_seconds < tail_rate
    to_tail = remaining_seconds - TAIL_SECONDS
    awaits_tail = can_be_capped & slow & (to_tail > 0)
    return np.minimum(
        np.where(nears, to_threshold - look_margin_seconds, np.inf),
        np.where(awaits_tail, to_tail, np.inf),
    )
