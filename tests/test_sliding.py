"""Sliding windows: what counts in them, and the law of it, against plain oracles."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import policies, policy, rings, sliding
from bwexporter.core.lanes import UNLIMITED, Ledger, Reason, Rings, Tariffs, Verdicts
from bwexporter.core.plans import LAW, Policy, Rung, Window, Windows
from tests.builders import DAY_SECONDS, GIGABIT, NOON, make_accounts, make_ledger, make_tariffs
from tests.oracle_policy import seven_bits
from tests.oracle_sliding import SLOTS, OneWindow, judge_window

DAY = 86_400.0
SLIDING = Policy(sliding_seconds=DAY)


def ledger_of(used: list[int], windows: list[float | None], *, at: float = NOON, **given_: Any) -> Ledger:
    """Return a ledger whose lanes have windows that hold what was used."""
    ledger = make_ledger(make_accounts(len(used), used_bytes=used, **given_), ledger_seconds=at)
    return rings.enrolled(ledger, tariffs_of(windows))


def tariffs_of(windows: list[float | None], **given_: Any) -> Tariffs:
    chosen = {row: Policy(sliding_seconds=seconds) for row, seconds in enumerate(windows) if seconds}
    return make_tariffs(len(windows), policies=chosen, **given_)


def counted(held: Rings, at: float, *sent: int) -> Rings:
    """Count a look."""
    found = rings.advanced(held, np.array(sent, np.int64), at)
    assert found is not None
    return found


def rings_of(ledger: Ledger) -> Rings:
    assert ledger.rings is not None
    return ledger.rings


# What counts.

windows_seconds = st.sampled_from([20.0, 3600.0, DAY, 31 * DAY]) | st.floats(1.0, 1e7)
looks = st.lists(st.tuples(st.floats(0.0, 1.2), st.integers(0, 10**12)), max_size=60)


@given(window=windows_seconds, start=st.floats(1e9, 2e9), happened=looks, often=st.booleans())
@settings(deadline=None)
def test_a_byte_counts_for_a_window_and_no_longer_than_a_slot_and_a_look_more(
    window: float, start: float, happened: list[tuple[float, int]], *, often: bool
) -> None:
    """What is held is never less than what was sent within the window, whenever between two looks that was."""
    held, at, sent = rings_of(ledger_of([0], [window], at=start)), start, list[tuple[float, float, int]]()
    for part, count in happened:
        before, at = at, at + part * (window / 20 if often else window)
        sent.append((before, at, count))
        held = counted(held, at, count)

        used = int(rings.used_bytes(held)[0])
        slack = 1e-6 * window
        assert used >= sum(count for _, ended, count in sent if ended > at - window + slack)
        assert used <= sum(count for _, ended, count in sent if ended >= at - window * (1 + 1 / SLOTS) - slack)
        assert np.all(held.past_bytes >= 0)


@given(windows_seconds, windows_seconds, st.floats(1e9, 2e9), looks, st.integers(0, 10**13))
@settings(deadline=None)
def test_a_window_that_is_changed_forgives_nothing(
    window: float, other: float, start: float, happened: list[tuple[float, int]], used: int
) -> None:
    """No byte leaves before it has been there for the new window, and what a longer one does not know counts as new."""
    ledger, at, sent = ledger_of([0], [window], at=start), start, list[tuple[float, int]]()
    for part, count in happened:
        at += part * window / 10
        sent.append((at, count))
        ledger = replace(ledger, rings=counted(rings_of(ledger), at, count))
    used = max(used, sum(count for _, count in sent))
    accounts = make_accounts(1, used_bytes=used)

    changed = rings.enrolled(replace(ledger, ledger_seconds=at, accounts=accounts), tariffs_of([other]))

    held = rings_of(changed)
    now = int(rings.used_bytes(held)[0])
    assert now >= sum(count for ended, count in sent if ended > at - min(other, window) * (1 - 1e-6))
    assert now <= max(used, int(rings.used_bytes(rings_of(ledger))[0]))
    if other > window:
        assert now >= used
    assert rings.enrolled(changed, tariffs_of([other])).rings is not None
    assert int(rings.used_bytes(counted(held, at + other * (1 + 2 / SLOTS), 0))[0]) == 0


def test_a_ring_begins_with_what_was_used_in_the_period() -> None:
    """It is held for a whole window from now on."""
    held = rings_of(ledger_of([70, 80], [DAY, DAY]))

    assert rings.used_bytes(held).tolist() == [70, 80]
    assert rings.used_bytes(counted(held, NOON + DAY - 1.0, 0, 0)).tolist() == [70, 80]
    assert rings.used_bytes(counted(held, NOON + DAY * (1 + 1 / SLOTS) + 1.0, 0, 5)).tolist() == [0, 5]


def test_no_lane_has_a_ring_where_none_asks_for_one() -> None:
    """The very ledger, the very verdicts; a lane without an allowance has none either."""
    ledger = make_ledger(make_accounts(2))

    assert rings.enrolled(ledger, make_tariffs(2)) is ledger
    assert rings.enrolled(ledger, tariffs_of([DAY, None], allowance_bytes=UNLIMITED)) is ledger
    assert policies.counting(ledger) is ledger
    assert rings.in_use(ledger) is None


def test_a_window_that_nobody_wants_any_more_is_counted_on_for_its_length() -> None:
    """Whoever leaves the policy and comes back within a window finds what he sent, and what he sent meanwhile."""
    ledger = ledger_of([100, 7], [DAY, DAY])
    left = rings.enrolled(ledger, tariffs_of([None, DAY]))
    later = replace(left, ledger_seconds=NOON + DAY / 2, rings=counted(rings_of(left), NOON + DAY / 2, 30, 0))

    back = rings.enrolled(replace(later, accounts=make_accounts(2)), tariffs_of([DAY, DAY]))
    never_back = counted(rings_of(later), NOON + 2 * DAY, 0, 0)

    assert policies.counting(later).accounts.used_bytes.tolist() == [100, 7]  # of the period, and of the window
    assert policies.counting(back).accounts.used_bytes.tolist() == [130, 7]
    assert never_back.account.tolist() == [1]


def test_the_last_ring_goes_with_its_window() -> None:
    left = rings.enrolled(ledger_of([100], [DAY]), make_tariffs(1))

    assert rings.advanced(left.rings, np.array([1]), NOON + DAY) is not None
    assert rings.advanced(left.rings, np.array([1]), NOON + 2 * DAY) is None


# The law.


@st.composite
def any_window(draw: st.DrawFn) -> OneWindow:
    """Draw a lane with a window, extremes included."""
    window = draw(windows_seconds)
    now = NOON + draw(st.floats(0.0, 1e6))
    ages = sorted(draw(st.lists(st.floats(0.0, 1.5), max_size=12)), reverse=True)
    allowance = draw(st.integers(1, 10**13))
    full = draw(st.integers(1, 10**10))
    threshold = draw(st.sampled_from([allowance, allowance * 4 // 5, 0]) | st.integers(0, allowance))
    some = st.integers(0, 2 * allowance // max(len(ages), 1)) | st.sampled_from([threshold // max(len(ages), 1), 0])
    return OneWindow(
        window=window,
        now=now,
        counts=tuple((now - age * window, draw(some)) for age in ages),
        allowance=allowance,
        threshold=threshold,
        full=full,
        guarantee=draw(st.just(1) | st.integers(0, full)),
        floor=draw(st.just(8_000) | st.integers(0, 10**9)),
        horizon=draw(st.just(12.0) | st.floats(0.0, 1e5)),
    )


def held_by(lane: OneWindow) -> Rings:
    """Return a ring that was counted look by look."""
    first = min([lane.now, *(at for at, _ in lane.counts)])
    held = rings_of(ledger_of([0], [lane.window], at=first))
    for at, sent in (*lane.counts, (lane.now, 0)):
        held = counted(held, at, sent)
    return held


def judged(lanes: list[OneWindow]) -> sliding.Judged:
    """Judge lanes of one instant as columns."""
    parts = [held_by(lane) for lane in lanes]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Rings.__dataclass_fields__}
    terms = sliding.Terms(
        *(
            np.array([getattr(lane, name) for lane in lanes], np.int64)
            for name in ("full", "allowance", "threshold", "guarantee", "floor")
        )
    )
    horizon = np.array([lane.horizon for lane in lanes])
    return sliding.judged(Rings(**columns), terms, time_now=lanes[0].now, horizon_seconds=horizon)


@settings(max_examples=100, deadline=None)
@given(st.lists(any_window(), min_size=1, max_size=4))
def test_the_columns_say_what_the_law_says_of_one_lane(lanes: list[OneWindow]) -> None:
    """Columns and plain numbers agree to the last bit, together and in another order."""
    now = lanes[0].now
    lanes = [replace(lane, now=now, counts=[(at + now - lane.now, sent) for at, sent in lane.counts]) for lane in lanes]

    found, backwards = judged(lanes), judged(lanes[::-1])

    for row, lane in enumerate(lanes):
        expected = judge_window(lane)
        assert (expected.ceiling, expected.reason, expected.floor, expected.used) == (
            int(found.ceiling[row]),
            Reason(int(found.reason[row])),
            int(found.floor[row]),
            int(found.used_bytes[row]),
        )
        assert 1 <= expected.ceiling <= lane.full or expected.ceiling == expected.floor == 0
    assert found.ceiling.tolist() == backwards.ceiling.tolist()[::-1]


@settings(deadline=None)
@given(any_window(), st.integers(1, 10**12))
def test_who_sends_more_now_never_has_a_higher_ceiling_for_it(lane: OneWindow, more: int) -> None:
    """And nothing can be sent but now."""
    (before,) = judged([lane]).ceiling.tolist()
    (after,) = judged([replace(lane, counts=sorted([*lane.counts, (lane.now, more)]))]).ceiling.tolist()

    assert after <= before


@settings(deadline=None)
@given(any_window(), st.floats(0.0, 1.0), st.integers(1, 10**12))
def test_who_has_sent_more_never_has_a_higher_even_rate(lane: OneWindow, age: float, more: int) -> None:
    """Whenever within the window it was."""
    counts = sorted([*lane.counts, (lane.now - age * lane.window, more)])

    (before,) = sliding.even_rate(held_by(lane), np.array([lane.allowance]), time_now=lane.now)
    sent_more = held_by(replace(lane, counts=counts))
    (after,) = sliding.even_rate(sent_more, np.array([lane.allowance]), time_now=lane.now)

    assert after <= before + 1e-12 * abs(before)


@settings(deadline=None)
@given(
    windows_seconds,
    st.integers(10**6, 10**13),
    st.floats(0.0, 1.0),
    st.floats(1e-3, 1e4),
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=80),
    st.floats(0.001, 0.2),
)
def test_no_window_ever_holds_more_than_the_allowance(
    window: float, allowance: int, part: float, speed: float, happened: list[tuple[float, float]], longest: float
) -> None:
    """Looks come when they like up to the horizon, and the lane sends what part it likes of what it may."""
    full, at = max(int(speed * allowance / window), 1), NOON
    threshold = int(part * allowance)
    floor = max(int((allowance - threshold) / (2 * window)), 0)
    lane = OneWindow(window, at, [], allowance, threshold, full, 0, floor, longest * window)
    held = held_by(lane)
    for soon, demand in happened:
        terms = sliding.Terms(*(np.array([one]) for one in (full, allowance, threshold, 0, floor)))
        found = sliding.judged(held, terms, time_now=at, horizon_seconds=np.array([lane.horizon]))
        seconds = soon * lane.horizon
        at += seconds
        held = counted(held, at, int(int(found.ceiling[0]) * seconds * demand))

        assert int(rings.used_bytes(held)[0]) <= allowance + window / SLOTS + seconds + 1


@settings(deadline=None)
@given(any_window())
def test_the_even_rate_can_be_kept_for_good_and_no_higher_one_can(lane: OneWindow) -> None:
    """Walked through for two windows, slot by slot, with every byte in the slot that it was sent in."""
    held = held_by(lane)
    rate = float(sliding.even_rate(held, np.array([lane.allowance]), time_now=lane.now)[0])
    if rate <= 0:
        assert int(rings.used_bytes(held)[0]) >= lane.allowance
        return
    assert most_held(lane, rate) <= lane.allowance * (1 + 1e-6) + 1
    assert most_held(lane, rate * 1.01) >= lane.allowance * (1 - 1e-6) - 1


def most_held(lane: OneWindow, rate: float) -> float:
    """Return the most that is held at a moment before a slot leaves, by one who sends at a rate."""
    running, width = lane.slot(lane.now), lane.width
    most = 0.0
    for slot in range(running - SLOTS, running + SLOTS + 2):
        leaves = lane.leaves(slot)
        if leaves <= 0:
            continue
        old = sum(sent for at, sent in lane.held() if at >= slot)
        since = max(slot * width - lane.now, 0.0)
        most = max(most, old + rate * (leaves - since))
    return most


@settings(deadline=None)
@given(any_window(), st.floats(0.0, 1e8), st.floats(0.0, 1.5))
def test_the_forecast_is_when_the_limit_is_first_held(lane: OneWindow, rate: float, part: float) -> None:
    """At the recent rate, with what leaves on the way; before each slot leaves, most is held."""
    limit = int(lane.allowance * part)

    (found,) = sliding.seconds_to(np.array([limit]), held_by(lane), np.array([rate]), time_now=lane.now)

    slack = 1e-6 * limit + 1e-3
    running = lane.slot(lane.now)
    for leaves in (lane.leaves(slot) for slot in range(running - SLOTS, running + 1)):
        if 0 <= leaves < found:
            assert held_in(lane, leaves, rate) <= limit + slack
    if np.isfinite(found):
        assert held_in(lane, found, rate) >= limit - slack


def held_in(lane: OneWindow, seconds: float, rate: float) -> float:
    """Return what is held after some time at a rate, with what leaves at that very moment."""
    return sum(sent for slot, sent in lane.held() if lane.leaves(slot) >= seconds - 1e-6) + rate * seconds


# Together with the rest.


def look(rows: int, **given_: Any) -> policies.Look:
    """Return a look of some lanes, with the next one in 10 s."""
    values = {
        "period_seconds": np.full(rows, DAY_SECONDS),
        "held_ceiling_bytes_per_second": np.full(rows, 777),
        "next_look_seconds": 10.0,
        "look_margin_seconds": 2.0,
        "frozen": False,
        "enforcing": True,
    }
    return policies.Look(**{**values, **given_})


def both(ledger: Ledger, tariffs: Tariffs, **given_: Any) -> Verdicts:
    """Ask the law, and then the policies."""
    asked = look(len(tariffs), **given_)
    law = policy.judge(
        ledger,
        tariffs,
        period_seconds=asked.period_seconds,
        held_ceiling_bytes_per_second=asked.held_ceiling_bytes_per_second,
        cap_bytes_per_second=GIGABIT,
        line_rate_bytes_per_second=GIGABIT,
        next_look_seconds=asked.next_look_seconds,
        look_margin_seconds=asked.look_margin_seconds,
        frozen=asked.frozen,
        enforcing=asked.enforcing,
    )
    return policies.judged(ledger, tariffs, law, asked)


def test_a_lane_is_judged_by_its_window_and_its_neighbour_by_the_period() -> None:
    """9 GB of 10.8 were used in both; the one has room for the rest until they leave, the other until midnight."""
    verdicts = both(ledger_of([9_000_000_000] * 2, [DAY, None]), tariffs_of([DAY, None]))

    assert verdicts.reason.tolist() == [Reason.OVER_THRESHOLD] * 2
    assert verdicts.ceiling_bytes_per_second.tolist() == [
        seven_bits(1_800_000_000 / (DAY * (1 + 1 / SLOTS) - NOON % (DAY / SLOTS))),
        seven_bits(1_800_000_000 / (DAY / 2)),
    ]
    assert verdicts.capped.tolist() == [True, True]
    assert verdicts.slid.used_bytes.tolist() == [9_000_000_000, 0]
    assert verdicts.slid.window_seconds.tolist() == [DAY, 0]


def test_a_period_that_ends_gives_nothing_back() -> None:
    """The account begins anew, the window does not."""
    ledger = ledger_of([10_800_000_000], [DAY])
    fresh = replace(ledger, accounts=make_accounts(1, used_bytes=0))

    verdicts = both(fresh, tariffs_of([DAY]))

    assert verdicts.reason.tolist() == [Reason.OVER_ALLOWANCE]
    assert verdicts.ceiling_bytes_per_second.tolist() == verdicts.floor_bytes_per_second.tolist() == [8_000]


@pytest.mark.parametrize(
    ("tariff", "given_", "ceiling", "reason"),
    [
        ({"hand_cap_bytes_per_second": 5_000}, {}, 5_000, Reason.CAPPED_BY_HAND),
        ({"released": True}, {}, GIGABIT, Reason.RELEASED),
        ({"off": True}, {}, GIGABIT, Reason.OFF),
        ({}, {"frozen": True}, 777, Reason.FROZEN),
        ({"hand_top_up_bytes": 10_800_000_000}, {}, GIGABIT, Reason.WITHIN),
    ],
)
def test_hand_and_switches_speak_last(
    tariff: dict[str, object], given_: dict[str, object], ceiling: int, reason: Reason
) -> None:
    verdicts = both(ledger_of([9_000_000_000], [DAY]), tariffs_of([DAY], **tariff), **given_)

    assert (int(verdicts.ceiling_bytes_per_second[0]), int(verdicts.reason[0])) == (ceiling, reason)


def test_in_shadow_it_is_judged_and_not_asked_for() -> None:
    verdicts = both(ledger_of([9_000_000_000], [DAY]), tariffs_of([DAY], shadow=True))

    assert int(verdicts.asked_ceiling_bytes_per_second[0]) == 777
    assert int(verdicts.ceiling_bytes_per_second[0]) < 100_000


def test_a_ladder_is_climbed_by_what_the_window_holds() -> None:
    """The period's use is nothing, and the rung that begins at 80 % speaks."""
    chosen = Policy(ladder=(Rung(0.8, 125_000),), sliding_seconds=DAY)
    ledger = ledger_of([9_000_000_000, 1_000], [DAY, DAY])
    fresh = replace(ledger, accounts=make_accounts(2, used_bytes=0))

    verdicts = both(fresh, make_tariffs(2, policies={0: chosen, 1: chosen}))

    assert verdicts.reason.tolist() == [Reason.ON_LADDER, Reason.WITHIN]
    assert verdicts.ceiling_bytes_per_second.tolist() == [125_000, GIGABIT]


def test_in_an_hour_in_which_a_quarter_counts_a_ceiling_is_worth_four_times_as_much() -> None:
    hour = int(NOON % DAY // 60)
    chosen = Policy(windows=Windows((Window(hour - 60, hour + 60, 0.25),)), sliding_seconds=DAY)
    ledger = ledger_of([9_000_000_000] * 3, [DAY] * 3)

    verdicts = both(ledger, make_tariffs(3, policies={0: chosen, 1: SLIDING, 2: LAW}))

    assert verdicts.reason.tolist() == [Reason.OVER_THRESHOLD] * 3
    in_part, in_full, _ = verdicts.ceiling_bytes_per_second.tolist()
    assert in_part == pytest.approx(4 * in_full, rel=1 / 32)


def test_a_program_that_stops_and_holds_leaves_the_rate_that_can_be_kept() -> None:
    """Below the threshold too; what is off or frozen stays as it is."""
    ledger = ledger_of([1_800_000_000] * 3, [DAY] * 3)
    tariffs = tariffs_of([DAY] * 3, off=[False, True, False], hand_cap_bytes_per_second=[UNLIMITED, UNLIMITED, 999])
    verdicts = both(ledger, tariffs)

    held = policies.hold(ledger, tariffs, verdicts)

    even = 9_000_000_000 / (DAY * (1 + 1 / SLOTS) - NOON % (DAY / SLOTS))
    assert held.ceiling_bytes_per_second.tolist() == [seven_bits(even), GIGABIT, 999]
    assert held.reason.tolist() == [Reason.PACED, Reason.OFF, Reason.CAPPED_BY_HAND]


@pytest.mark.parametrize(
    ("held", "seconds"),
    [(7_500_000_000, 7.12), (8_640_000_000 - 5 * GIGABIT, 60.0), (8_640_000_000, 60.0), (11_000_000_000, 60.0)],
)
def test_a_look_is_due_before_the_threshold_of_the_window_but_not_for_who_hovers_there(
    held: int, seconds: float
) -> None:
    """The period's use, which is just below its own threshold, asks for none."""
    ledger = ledger_of([held], [DAY], recent_bytes=1)
    used_up = replace(ledger, accounts=make_accounts(1, used_bytes=8_600_000_000, recent_bytes=1))
    tariffs = tariffs_of([DAY])

    found = policy.next_look_seconds(
        policies.awaiting(used_up, tariffs, tariffs.allowance_bytes, tariffs.threshold_bytes),
        tariffs,
        interval_seconds=60.0,
        shortest_interval_seconds=1.0,
        look_margin_seconds=2.0,
    )

    assert found == pytest.approx(seconds)


def test_a_forecast_is_of_the_window_and_its_neighbour_s_of_the_period() -> None:
    """At 1 MB/s; nothing is expected of a period's end, which is none of the window's."""
    ledger = ledger_of([1_000_000_000] * 2, [DAY, None], recent_bytes_per_second=1e6)
    over = make_accounts(2, used_bytes=9_000_000_000, recent_bytes_per_second=1e6)
    ledger = replace(ledger, accounts=over)
    tariffs = tariffs_of([DAY, None])

    seen = policies.foreseen(ledger, tariffs.lanes, both(ledger, tariffs), None)

    assert seen.seconds_to_threshold.tolist() == [pytest.approx(7_640.0), 0.0]
    assert seen.seconds_to_allowance.tolist() == [pytest.approx(9_800.0), pytest.approx(1_800.0)]
    assert seen.expected_used_bytes.tolist() == [UNLIMITED, pytest.approx(9_000_000_000 + 43_200 * 10**6)]


def test_the_worked_examples_hold() -> None:
    assert 0 == doctest.testmod(rings).failed
