"""Why a ceiling is what it is, said to people."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter import explain, telling
from bwexporter.core import events, policies, policy, rings
from bwexporter.core.lanes import UNLIMITED, Ledger, Reason, Tariffs
from bwexporter.core.plans import Policy
from bwexporter.explain import Figures, sentence
from bwexporter.units import print_rate, print_volume
from bwexporter.web import api
from tests.builders import DAY_SECONDS, NOON, make_accounts, make_ledger, make_tariffs
from tests.reports import LaneFigures, device_report, report

OVER = Figures(
    reason=Reason.OVER_THRESHOLD,
    used_bytes=9_000_000_000,
    allowance_bytes=10_800_000_000,
    threshold_bytes=8_640_000_000,
    remaining_seconds=43_200.0,
    full_bytes_per_second=12_500_000,
    floor_bytes_per_second=8_000,
    ceiling_bytes_per_second=41_472,
    enforced_ceiling_bytes_per_second=12_500_000,
)
QUIET = replace(OVER, reason=Reason.WITHIN, used_bytes=1_000_000, ceiling_bytes_per_second=12_500_000)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            QUIET,
            (
                "Within its volume: 1.00 MB of 10.8 GB used. It has the full rate, 100mbit: the threshold of 8.64 GB "
                "cannot be reached before the next look."
            ),
        ),
        (
            replace(QUIET, threshold_bytes=1_100_000, remaining_seconds=600.0),
            (
                "Within its volume: 1.00 MB of 10.8 GB used. It has the full rate, 100mbit: what is left is enough to "
                "send at that rate for the 10m to its period's end."
            ),
        ),
        (
            replace(QUIET, threshold_bytes=1_100_000, floor_bytes_per_second=12_500_000),
            (
                "Within its volume: 1.00 MB of 10.8 GB used. It has the full rate, 100mbit: its floor is no less than "
                "that."
            ),
        ),
        (
            replace(QUIET, allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED),
            "No allowance is configured: it has the full rate, 100mbit, is counted and never capped.",
        ),
        (
            replace(QUIET, reason=Reason.PACED, used_bytes=8_600_000_000, ceiling_bytes_per_second=3_333_333),
            (
                "Below its threshold, of which 40.0 MB are left: at the full rate, 100mbit, it could pass it "
                "before the next look, so until then it has 26.7mbit, which carries it there and spreads the rest "
                "of its volume."
            ),
        ),
        (
            replace(QUIET, reason=Reason.PACED, remaining_seconds=1.5, ceiling_bytes_per_second=9_000_000),
            (
                "Below its threshold, and its period ends in 1.5s: until the next look it has 72mbit, a ceiling "
                "that suits the new period as well."
            ),
        ),
        (
            replace(QUIET, window_seconds=21_600.0),
            (
                "Within its volume: 1.00 MB of 10.8 GB used in the last 6h. It has the full rate, 100mbit: the "
                "threshold of 8.64 GB cannot be reached before the next look."
            ),
        ),
        (
            replace(QUIET, reason=Reason.PACED, remaining_seconds=1.5, window_seconds=21_600.0, used_bytes=8 * 10**9),
            (
                "Below its threshold, of which 640 MB are left: at the full rate, 100mbit, it could pass it before the "
                "next look, so until then it has 100mbit, which carries it there and spreads the rest of its volume."
            ),
        ),
        (
            replace(
                OVER,
                window_seconds=86_400.0,
                room_bytes=3_600_000_000,
                room_seconds=50_400.0,
                ceiling_bytes_per_second=71_168,
            ),
            (
                "Over the threshold of 8.64 GB: 9.00 GB of 10.8 GB used in the last 1d. As bytes leave this window, "
                "there is room for 3.60 GB in the next 14h, and that is the most that it can keep up: 3.60 GB / 14h = "
                "571kbit, rounded down to 569kbit."
            ),
        ),
        (
            replace(
                OVER,
                reason=Reason.OVER_ALLOWANCE,
                window_seconds=86_400.0,
                used_bytes=11 * 10**9,
                ceiling_bytes_per_second=8_000,
            ),
            (
                "Its volume is spent: 11.0 GB of 10.8 GB used in the last 1d. It has the floor, 64kbit, until some of "
                "that leaves the window."
            ),
        ),
        (
            OVER,
            (
                "Over the threshold of 8.64 GB: the 1.80 GB left of 10.8 GB are spread over the 12h left of the "
                "period, 1.80 GB / 12h = 333kbit, rounded down to 332kbit."
            ),
        ),
        (
            replace(OVER, remaining_seconds=1.5, ceiling_bytes_per_second=622_592),
            (
                "Over the threshold of 8.64 GB: the 1.80 GB left of 10.8 GB are spread over the 1.5s left of the "
                "period, 1.80 GB / 1.5s = 9.6gbit; as the look at its end may be late, it has 4.98mbit, a ceiling that "
                "suits the new period as well."
            ),
        ),
        (
            replace(OVER, reason=Reason.OVER_ALLOWANCE, used_bytes=10_800_000_000, ceiling_bytes_per_second=8_000),
            "Its volume is spent: 10.8 GB of 10.8 GB used. It has the floor, 64kbit, until its period ends in 12h.",
        ),
        (
            replace(OVER, reason=Reason.CAPPED_BY_HAND, ceiling_bytes_per_second=1_000),
            "Capped by hand at 8kbit, which is lower than what its account would give it (9.00 GB of 10.8 GB used).",
        ),
        (
            replace(OVER, reason=Reason.RELEASED, ceiling_bytes_per_second=12_500_000),
            (
                "Released by hand: it has the full rate, 100mbit, and what it sends still counts (9.00 GB of 10.8 "
                "GB used)."
            ),
        ),
        (
            replace(OVER, reason=Reason.FROZEN, ceiling_bytes_per_second=1_250_000),
            (
                "Frozen: its ceiling stays as the kernel has it, 10mbit, because an operator froze the node or its "
                "earlier accounts were lost; what it sends still counts (9.00 GB of 10.8 GB used)."
            ),
        ),
        (
            replace(OVER, reason=Reason.FROZEN, ceiling_bytes_per_second=1_250_000, frozen_by=events.FROZEN_BY_LOSS),
            (
                "Frozen: its ceiling stays as the kernel has it, 10mbit, because its earlier accounts were lost, "
                "until its period ends in 12h; what it sends still counts (9.00 GB of 10.8 GB used)."
            ),
        ),
        (
            replace(OVER, reason=Reason.OFF, allowance_bytes=UNLIMITED, ceiling_bytes_per_second=12_500_000),
            "Switched off: it has the full rate, 100mbit, is counted and not capped (9.00 GB used).",
        ),
        (
            replace(OVER, shadow=True),
            (
                "Shadow, judged and not enforced: the kernel's ceiling stays at 100mbit. The verdict: Over the "
                "threshold of 8.64 GB: the 1.80 GB left of 10.8 GB are spread over the 12h left of the period, "
                "1.80 GB / 12h = 333kbit, rounded down to 332kbit."
            ),
        ),
    ],
    ids=lambda value: value.reason.name.lower() if isinstance(value, Figures) else "",
)
def test_every_verdict_is_said_with_its_figures(figures: Figures, said: str) -> None:
    """One sentence a verdict; a shadow says before it that nothing is enforced."""
    assert said == sentence(figures)


def test_every_reason_has_a_sentence() -> None:
    """A reason that is added later is not forgotten here."""
    assert all(sentence(replace(OVER, reason=reason)) for reason in Reason)


@settings(max_examples=300, deadline=None)
@given(
    used=st.integers(0, 30_000_000),
    remaining=st.floats(0.01, DAY_SECONDS) | st.floats(0.01, 200),
    full=st.sampled_from([500, 20_000, 2_500_000]),
    floor=st.sampled_from([1, 300, 8_000]),
)
def test_what_is_said_of_the_formula_is_what_the_law_did(used: int, remaining: float, full: int, floor: int) -> None:
    """The ceiling that the law finds stands in the sentence, and so does which part of the formula it came from."""
    figures = judged(used, remaining, full, floor)
    text = sentence(figures)

    assert print_rate(figures.ceiling_bytes_per_second) in text
    if "cannot be reached" in text:  # the next look comes in 10 s, and may be 2 s late
        assert figures.threshold_bytes - used >= 12 * full
    if figures.reason is Reason.OVER_THRESHOLD:
        plain = (figures.allowance_bytes - figures.used_bytes) / remaining
        assert ("so it has the floor" in text) == (plain < figures.ceiling_bytes_per_second <= floor)
        assert ("so it has that" in text) == (figures.ceiling_bytes_per_second >= full)
        if "rounded down" in text or text.endswith(f"= {print_rate(int(plain))}."):
            assert plain * 63 / 64 - 1 <= figures.ceiling_bytes_per_second <= plain
        if "run at" in text:
            assert remaining <= policy.TAIL_SECONDS
        if "; with bytes put by" in text:
            assert remaining > policy.TAIL_SECONDS
        if "suits the new period" in text:
            assert remaining < 12.0  # the next look, and its margin


@settings(max_examples=100, deadline=None)
@given(used=st.integers(0, 30_000_000), aged=st.floats(0.0, 2 * DAY_SECONDS), more=st.integers(0, 10_000_000))
def test_what_is_said_of_a_window_is_what_its_law_did(used: int, aged: float, more: int) -> None:
    """From the figures of the event, and over its threshold the very quotient that the ceiling is."""
    tariffs = make_tariffs(
        full_bytes_per_second=20_000,
        floor_bytes_per_second=30,
        guarantee_bytes_per_second=1,
        allowance_bytes=20_000_000,
        threshold_bytes=16_000_000,
        policies={0: Policy(sliding_seconds=DAY_SECONDS)},
    )
    ledger = rings.enrolled(make_ledger(make_accounts(used_bytes=used)), tariffs)
    now = NOON + aged
    held = rings.advanced(ledger.rings, np.array([more]), now)
    ledger = replace(ledger, ledger_seconds=now, rings=held)
    ends = make_accounts(period_end_at=now + 100.0, told_reason=np.array([Reason.OFF], np.int8))
    figures = told_of(replace(ledger, accounts=ends), tariffs)

    text = sentence(figures)

    assert print_rate(figures.ceiling_bytes_per_second) in text
    assert figures.used_bytes == used * (aged < DAY_SECONDS * 49 / 48) + more or 0 < aged - DAY_SECONDS < 1_800
    if figures.reason is Reason.OVER_THRESHOLD:
        plain = figures.room_bytes / figures.room_seconds
        assert plain * 63 / 64 - 1 <= figures.ceiling_bytes_per_second <= max(plain, figures.floor_bytes_per_second)
        assert print_volume(figures.room_bytes) in text
        assert "period" not in text


def told_of(ledger: Ledger, tariffs: Tariffs) -> Figures:
    """Let law and policies judge one lane, and read the event that is made of it."""
    one = np.full(1, DAY_SECONDS)
    law = policy.judge(
        ledger,
        tariffs,
        period_seconds=one,
        held_ceiling_bytes_per_second=np.full(1, 1),
        cap_bytes_per_second=20_000,
        line_rate_bytes_per_second=20_000,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=False,
    )
    look = policies.Look(one, np.full(1, 1), 10.0, 2.0, frozen=False, enforcing=True)
    (event,), _ = events.of_verdicts(
        ledger, tariffs, policies.judged(ledger, tariffs, law, look), outcomes_of=lambda rows: ["applied"] * len(rows)
    )
    return explain.of_inputs(event.inputs)


def judged(used_bytes: int, remaining_seconds: float, full: int, floor: int) -> Figures:
    """Let the law judge one lane of 20 MB a day, and read the event it makes of it."""
    tariffs = make_tariffs(
        full_bytes_per_second=full,
        floor_bytes_per_second=floor,
        guarantee_bytes_per_second=1,
        allowance_bytes=20_000_000,
        threshold_bytes=16_000_000,
    )
    end = NOON + remaining_seconds
    accounts = make_accounts(
        used_bytes=used_bytes,
        recent_bytes=1,
        period_start_at=end - DAY_SECONDS,
        period_end_at=end,
        told_reason=np.array([Reason.OFF], np.int8),
    )
    ledger = make_ledger(accounts)
    verdicts = policy.judge(
        ledger,
        tariffs,
        period_seconds=np.array([DAY_SECONDS]),
        held_ceiling_bytes_per_second=np.array([full]),
        cap_bytes_per_second=125_000_000,
        line_rate_bytes_per_second=125_000_000,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=False,
    )
    (event,), _ = events.of_verdicts(ledger, tariffs, verdicts, outcomes_of=lambda rows: ["applied"] * len(rows))
    return explain.of_inputs(event.inputs)


def test_a_row_of_the_api_and_an_event_give_the_same_figures() -> None:
    """Both ways lead to one sentence."""
    lane = LaneFigures(
        used_bytes=900_000_000,
        reason=Reason.OVER_THRESHOLD,
        ceiling_bytes_per_second=1_152,
        enforced_ceiling_bytes_per_second=1_152,
    )
    answer = api.slices(report(device_report([lane])))
    (row,) = answer["slices"]
    of_row = explain.of_row(row, answer)
    inputs = {
        "reason": "over_threshold",
        "used_bytes": 900_000_000,
        "allowance_bytes": 1_000_000_000,
        "threshold_bytes": 800_000_000,
        "remaining_seconds": 86_400.0,
        "full_bytes_per_second": 1_250_000,
        "floor_bytes_per_second": lane.floor_bytes_per_second,
        "ceiling_bytes_per_second": 1_152,
    }

    assert explain.of_inputs(inputs) == replace(of_row, enforced_ceiling_bytes_per_second=None)


@pytest.mark.parametrize(
    ("shadow", "said"),
    [
        pytest.param(False, " when its period ends.", id="its ceiling keeps it from that"),
        pytest.param(True, " when its period ends; it spends it all in 19.8s.", id="in shadow, nothing does"),
    ],
)
def test_a_lane_that_its_account_holds_is_not_said_to_spend_the_rest(said: str, *, shadow: bool) -> None:
    """The forecast is of what it would like to send, and the sentence before it says that it cannot."""
    lane = LaneFigures(
        used_bytes=900_000_000, reason=Reason.OVER_THRESHOLD, capped=True, shadow=shadow, seconds_to_allowance=19.8
    )
    foreseen = {"expected_used_bytes": np.array([2_000_000_000]), "earlier_periods": np.array([0])}
    shown = report(device_report([lane], **foreseen))
    (row,) = api.slices(shown)["slices"]

    assert telling.outlook_sentence(row).endswith(f"2.00 GB of 1.00 GB{said}")


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        pytest.param(True, "because an operator froze the node; what", id="by hand"),
        pytest.param(False, "because its earlier accounts were lost, until its period ends in 1d; what", id="lost"),
    ],
)
def test_a_row_says_what_freezes_its_lane(said: str, *, frozen: bool) -> None:
    """A node that is not frozen freezes the lanes whose accounts were lost, and no others."""
    shown = report(device_report([LaneFigures(reason=Reason.FROZEN)]), frozen=frozen)

    (lane,) = api.lanes_of(shown, "alice")
    answer = api.slices(shown)

    assert said in str(lane["why"])
    assert sentence(explain.of_row(answer["slices"][0], answer)) == lane["why"]


def test_the_worked_example_holds() -> None:
    """The docstring's example is run."""
    assert 0 == doctest.testmod(explain).failed
