from __future__ import annotations

import doctest
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import policy
from bwexporter.core.lanes import UNLIMITED, Ledger, Reason, Tariffs, Traffic, Verdicts
from tests import oracle_policy
from tests.builders import DAY_SECONDS, GIGABIT, NOON, make_accounts, make_ledger, make_tariffs
from tests.oracle_policy import OneLane, judge_one

MBIT = 125_000
LAW = {Reason.WITHIN, Reason.PACED, Reason.OVER_THRESHOLD, Reason.OVER_ALLOWANCE}


@pytest.fixture(autouse=True)
def _strict_arithmetic() -> Iterator[None]:
    """Nothing may overflow, divide by zero or become a NaN on the way."""
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        yield


def judge(ledger: Ledger, tariffs: Tariffs, **given_: Any) -> Verdicts:
    """Judge with a look every 10 s on an idle gigabit, unless said otherwise."""
    usual = {
        "period_seconds": np.full(len(tariffs), DAY_SECONDS),
        "held_ceiling_bytes_per_second": tariffs.full_bytes_per_second,
        "cap_bytes_per_second": GIGABIT,
        "line_rate_bytes_per_second": GIGABIT,
        "next_look_seconds": 10.0,
        "look_margin_seconds": 2.0,
        "frozen": False,
    }
    return policy.judge(ledger, tariffs, **{**usual, **given_})


def judge_lane(
    used: int, remaining: float = DAY_SECONDS, *, look: dict[str, Any] | None = None, **tariff: Any
) -> Verdicts:
    """Judge one lane that has used so much with so many seconds to go."""
    ledger = make_ledger(make_accounts(used_bytes=used, period_end_at=NOON + remaining))
    return judge(ledger, make_tariffs(**tariff), **(look or {}))


def ceiling_of(verdicts: Verdicts) -> int:
    """Return the ceiling of the only lane."""
    return int(verdicts.ceiling_bytes_per_second[0])


def look_in(used: int = 0, remaining: float = DAY_SECONDS, recent: int = 1, **tariff: Any) -> float:
    """Return the seconds to the next look at one lane, at 10 s, 1 s and 2 s."""
    accounts = make_accounts(used_bytes=used, period_end_at=NOON + remaining, recent_bytes=recent)
    return policy.next_look_seconds(
        make_ledger(accounts),
        make_tariffs(**tariff),
        interval_seconds=10.0,
        shortest_interval_seconds=1.0,
        look_margin_seconds=2.0,
    )


GB = 1_000_000_000
DEFAULT = {"allowance_bytes": 10_800_000_000, "threshold_bytes": 8_640_000_000}
SMALL = {"allowance_bytes": 20_000_000, "threshold_bytes": 16_000_000, "guarantee_bytes_per_second": 1}


@pytest.mark.parametrize(
    ("used", "remaining", "tariff", "ceiling", "reason"),
    [
        pytest.param(0, DAY_SECONDS, DEFAULT, GIGABIT, Reason.WITHIN, id="a fresh day has the full rate"),
        pytest.param(
            9_720_000_000,
            DAY_SECONDS,
            {**DEFAULT, "threshold_bytes": 9_720_000_000},
            12_416,  # 12 500 B/s in 7 bits
            Reason.OVER_THRESHOLD,
            id="the ancestor's example: 90 % at once leaves 100 kbit/s for the day",
        ),
        pytest.param(
            8_640_000_000, 34_560.0, DEFAULT, 62_464, Reason.OVER_THRESHOLD, id="2.16 GB for 9.6 hours are 62.5 kB/s"
        ),
        pytest.param(8_640_000_000 - 125_000_000, DAY_SECONDS, DEFAULT, 10_354_688, Reason.PACED, id="a second short"),
        pytest.param(
            8_640_000_000 - 1_500_000_000, DAY_SECONDS, DEFAULT, GIGABIT, Reason.WITHIN, id="exactly 12 s short"
        ),
        pytest.param(10_800_000_000, DAY_SECONDS, DEFAULT, 8_000, Reason.OVER_ALLOWANCE, id="all used: the floor"),
        pytest.param(99 * GB, DAY_SECONDS, DEFAULT, 8_000, Reason.OVER_ALLOWANCE, id="B14: far over it: the floor"),
        pytest.param(
            99 * GB, 0.0, DEFAULT, 8_000, Reason.OVER_ALLOWANCE, id="B13: no time left divides nothing by zero"
        ),
        pytest.param(
            9 * GB,
            60.0,
            {**DEFAULT, "full_bytes_per_second": MBIT},
            MBIT,
            Reason.OVER_THRESHOLD,
            id="B7: much left and little time is the slice's own full rate at most",
        ),
        pytest.param(20_000_000, DAY_SECONDS, SMALL, 39, Reason.OVER_ALLOWANCE, id="a floor that 4 MB carry for a day"),
        pytest.param(16_000_000, DAY_SECONDS, SMALL, 39, Reason.OVER_THRESHOLD, id="4 MB less 600 kB for the tail"),
        pytest.param(
            19_400_000, 75.0, SMALL, 8_000, Reason.OVER_THRESHOLD, id="the tail's reserve is sent in the tail"
        ),
        pytest.param(19_400_000, 76.0, SMALL, 39, Reason.OVER_THRESHOLD, id="and not a second before"),
        pytest.param(20_000_000, 75.0, SMALL, 8_000, Reason.OVER_ALLOWANCE, id="the tail comes over the allowance too"),
        pytest.param(
            0, DAY_SECONDS, {"allowance_bytes": 0, "threshold_bytes": 0}, 125, Reason.OVER_ALLOWANCE, id="none"
        ),
        pytest.param(
            5 * GB,
            DAY_SECONDS,
            {"allowance_bytes": UNLIMITED, "threshold_bytes": UNLIMITED, "full_bytes_per_second": 50 * GB},
            50 * GB,
            Reason.WITHIN,
            id="unlimited is counted and never capped",
        ),
    ],
)
def test_worked_figures(used: int, remaining: float, tariff: dict[str, int], ceiling: int, reason: Reason) -> None:
    """The figures of spec 4, of the ancestor and of its bugs come out of the law."""
    verdicts = judge_lane(used, remaining, **tariff)

    assert (ceiling, reason) == (ceiling_of(verdicts), verdicts.reason[0])


@pytest.mark.parametrize(
    ("tariff", "floor"),
    [
        pytest.param({"allowance_bytes": 691_200_000, "threshold_bytes": 0}, 8_000, id="64 kbit/s all day is 691 MB"),
        pytest.param({"allowance_bytes": 691_100_000, "threshold_bytes": 0}, 7_998, id="with less it is lowered"),
        pytest.param({**SMALL, "guarantee_bytes_per_second": 125}, 125, id="the guarantee raises it"),
        pytest.param(
            {"guarantee_bytes_per_second": GIGABIT, "full_bytes_per_second": MBIT}, MBIT, id="to full at most"
        ),
        pytest.param({"allowance_bytes": UNLIMITED, "threshold_bytes": UNLIMITED}, 8_000, id="unlimited keeps it"),
    ],
)
def test_the_floor_is_fitted_so_that_it_alone_cannot_overspend(tariff: dict[str, int], floor: int) -> None:
    """The configured floor comes down to what the slack carries; the guarantee raises it again."""
    assert [floor] == judge_lane(0, **tariff).floor_bytes_per_second.tolist()


def test_the_floor_is_fitted_to_a_running_period_that_is_longer_than_the_rule_says() -> None:
    """After 1 d became 1 h in the configuration, the running day still ends in the evening."""
    hour = {"look": {"period_seconds": np.array([3600.0])}}

    assert [39] == judge_lane(20_000_000, DAY_SECONDS, **SMALL, **hour).floor_bytes_per_second.tolist()


def test_a_check_sees_the_floors_that_a_turn_would_judge_by() -> None:
    """The floor that a check shows is the one that a verdict holds."""
    tariffs = make_tariffs(**SMALL)

    assert [39] == policy.fitted_floor(tariffs, np.array([DAY_SECONDS])).tolist()


def test_an_idle_slice_s_ceiling_rises_again() -> None:
    """With the same bytes left and less time to go, the ceiling is higher."""
    ceilings = [ceiling_of(judge_lane(9 * GB, remaining, **DEFAULT)) for remaining in (DAY_SECONDS, 43_200.0, 3_600.0)]

    assert [20_736, 41_472, 499_712] == ceilings


def test_a_look_at_the_end_that_comes_late_cannot_spend_the_next_period() -> None:
    """An idle 20 MB lane could send 50 MB in the 0.4 s by which the look at the end may be late."""
    verdicts = judge_lane(0, 0.1, look={"next_look_seconds": 0.1}, **SMALL)

    assert Reason.PACED == verdicts.reason[0]
    assert ceiling_of(verdicts) * 2.0 <= 16_100_000


def test_an_end_in_sight_costs_a_lane_of_ordinary_size_nothing() -> None:
    """A lane whose threshold is far away keeps its full rate through the end of its period."""
    verdicts = judge_lane(0, 0.1, look={"next_look_seconds": 0.1}, **DEFAULT)

    assert GIGABIT == ceiling_of(verdicts)


@pytest.mark.parametrize(
    ("given_", "ceiling", "asked", "reason"),
    [
        pytest.param({}, 25_088, 25_088, Reason.OVER_THRESHOLD, id="the law"),
        pytest.param(
            {"hand_cap_bytes_per_second": 5_000}, 5_000, 5_000, Reason.CAPPED_BY_HAND, id="a cap may pass the floor"
        ),
        pytest.param(
            {"hand_cap_bytes_per_second": 0}, 1, 1, Reason.CAPPED_BY_HAND, id="a cap of nothing is a byte a second"
        ),
        pytest.param(
            {"hand_cap_bytes_per_second": 50_000}, 25_088, 25_088, Reason.OVER_THRESHOLD, id="a cap above the law"
        ),
        pytest.param(
            {"released": True, "hand_cap_bytes_per_second": 9}, GIGABIT, GIGABIT, Reason.RELEASED, id="released"
        ),
        pytest.param({"off": True, "released": True}, GIGABIT, GIGABIT, Reason.OFF, id="off"),
        pytest.param({"shadow": True}, 25_088, 777, Reason.OVER_THRESHOLD, id="shadow asks for what is there"),
        pytest.param(
            {"look": {"enforcing": False}}, 25_088, 777, Reason.OVER_THRESHOLD, id="the node's shadow as well"
        ),
        pytest.param({"look": {"frozen": True}}, 777, 777, Reason.FROZEN, id="frozen is what is there"),
        pytest.param({"look": {"frozen": True}, "released": True}, 777, 777, Reason.FROZEN, id="freeze beats release"),
        pytest.param({"look": {"frozen": True}, "off": True}, 777, 777, Reason.FROZEN, id="freeze is wider than off"),
    ],
)
def test_what_is_set_by_hand_and_switched(given_: dict[str, Any], ceiling: int, asked: int, reason: Reason) -> None:
    """Frozen beats off, off beats released, released beats the law; a cap lowers the law."""
    look = {"held_ceiling_bytes_per_second": np.array([777]), **given_.get("look", {})}

    verdicts = judge_lane(8_640_000_000, 86_000.0, **{**DEFAULT, **given_, "look": look})

    assert (ceiling, asked, reason) == (
        ceiling_of(verdicts),
        verdicts.asked_ceiling_bytes_per_second[0],
        verdicts.reason[0],
    )


def test_frozen_and_shadow_give_an_absent_class_its_full_rate() -> None:
    """A class that the kernel lacks has nothing to keep."""
    absent = {"held_ceiling_bytes_per_second": np.array([0])}

    assert GIGABIT == ceiling_of(judge_lane(9 * GB, look={**absent, "frozen": True}))
    assert [GIGABIT] == judge_lane(9 * GB, look=absent, shadow=True).asked_ceiling_bytes_per_second.tolist()


def test_only_the_account_makes_a_lane_capped() -> None:
    """Pacing, a cap by hand and a slow full rate are no caps."""
    capped = [
        judge_lane(used, **tariff).capped.tolist()
        for used, tariff in (
            (9 * GB, {}),
            (99 * GB, {}),
            (8_640_000_000 - 1, {}),
            (0, {"hand_cap_bytes_per_second": 1000}),
            (9 * GB, {"full_bytes_per_second": 10_000}),
        )
    ]

    assert [[True], [True], [False], [False], [False]] == capped


def test_a_top_up_moves_the_threshold_in_proportion_and_keeps_the_use() -> None:
    """1.2 GB more of allowance are 0.96 GB more to the threshold of 80 %."""
    verdicts = judge_lane(9 * GB, hand_top_up_bytes=1_200_000_000)

    assert ([12_000_000_000], [9_600_000_000]) == (verdicts.allowance_bytes.tolist(), verdicts.threshold_bytes.tolist())
    assert Reason.PACED == judge_lane(9_599_000_000, hand_top_up_bytes=1_200_000_000).reason[0]


def test_a_top_up_without_bounds_is_an_unlimited_allowance() -> None:
    """The largest top-up overflows nothing and is never reached."""
    verdicts = judge_lane(99 * GB, hand_top_up_bytes=UNLIMITED)

    assert ([UNLIMITED], GIGABIT, Reason.WITHIN) == (
        verdicts.allowance_bytes.tolist(),
        ceiling_of(verdicts),
        verdicts.reason[0],
    )


def test_rows_of_removed_slices_are_not_judged() -> None:
    """Only enrolled rows have a verdict."""
    ledger = make_ledger(make_accounts(3, used_bytes=[0, 9 * GB, 99 * GB]), enrolled=2)

    assert 2 == len(judge(ledger, make_tariffs(2)))


def test_a_node_without_slices_is_judged_too() -> None:
    """No lanes, no verdicts, and every guarantee admitted."""
    ledger, tariffs = make_ledger(make_accounts(0), enrolled=0), make_tariffs(0)

    verdicts = judge(ledger, tariffs)

    assert (0, 1.0) == (len(verdicts), verdicts.admitted_ratio)
    assert 0 == len(policy.hold(ledger, tariffs, verdicts))


# Looks.


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        pytest.param({}, 10.0, id="nothing to hurry for"),
        pytest.param({"remaining": 3.25}, 3.25, id="the period's end"),
        pytest.param({"remaining": 0.25}, 0.25, id="the period's end is not held back"),
        pytest.param({"remaining": -5.0}, 0.001, id="an end that has passed"),
        pytest.param({"used": 8_640_000_000 - 625_000_000}, 3.0, id="5 s to the threshold, less the margin"),
        pytest.param({"used": 8_640_000_000 - 125_000}, 1.0, id="at least the shortest interval"),
        pytest.param({"used": 8_640_000_000 - 625_000_000, "recent": 0}, 10.0, id="only of lanes that sent"),
        pytest.param({"used": 8_640_000_000}, 10.0, id="over its threshold a lane asks for none"),
        pytest.param({"used": 8_640_000_000 - 625_000_000, "off": True}, 10.0, id="off"),
        pytest.param({"used": 8_640_000_000 - 625_000_000, "released": True}, 10.0, id="released"),
        pytest.param({"used": 8_640_000_000 - 625_000_000, "allowance_bytes": UNLIMITED}, 10.0, id="unlimited"),
        pytest.param(
            {"used": 8_640_000_000 - 625_000_000, "hand_cap_bytes_per_second": 100_000_000},
            4.25,
            id="a cap by hand makes the way to the threshold longer",
        ),
        pytest.param({"used": 8_640_000_000, "hand_top_up_bytes": 625_000_000}, 2.0, id="a top-up counts"),
        pytest.param({"used": 18_000_000, "remaining": 80.0, **SMALL}, 10.0, id="fast enough without a tail"),
        pytest.param({"used": 19_400_000, "remaining": 80.0, **SMALL}, 5.0, id="where the tail begins"),
        pytest.param({"used": 19_400_000, "remaining": 75.5, **SMALL}, 1.0, id="which is not worth hurrying for"),
        pytest.param({"used": 19_400_000, "remaining": 75.0, **SMALL}, 10.0, id="in the tail"),
    ],
)
def test_the_next_look(given_: dict[str, Any], seconds: float) -> None:
    """The interval, a period's end, or an early look that a lane asks for."""
    assert pytest.approx(seconds) == look_in(**given_)


def test_without_slices_the_next_look_is_the_regular_one() -> None:
    """The periods of removed slices ask for no look."""
    ledger = make_ledger(make_accounts(2, period_end_at=NOON + 1), enrolled=0)

    assert 7.0 == policy.next_look_seconds(
        ledger, make_tariffs(0), interval_seconds=7.0, shortest_interval_seconds=1.0, look_margin_seconds=2.0
    )


# Stopping.


@pytest.mark.parametrize(
    ("used", "tariff", "ceiling", "reason"),
    [
        pytest.param(0, {}, 249_856, Reason.PACED, id="10.8 GB for half a day"),
        pytest.param(9 * GB, {}, 41_472, Reason.OVER_THRESHOLD, id="1.8 GB for half a day"),
        pytest.param(11 * GB, {}, 8_000, Reason.OVER_ALLOWANCE, id="the floor"),
        pytest.param(0, {"full_bytes_per_second": MBIT}, MBIT, Reason.WITHIN, id="the full rate where it suffices"),
        pytest.param(0, {"allowance_bytes": UNLIMITED}, GIGABIT, Reason.WITHIN, id="unlimited"),
        pytest.param(0, {"released": True}, GIGABIT, Reason.RELEASED, id="released"),
        pytest.param(9 * GB, {"off": True}, GIGABIT, Reason.OFF, id="off"),
        pytest.param(0, {"hand_cap_bytes_per_second": 1_000}, 1_000, Reason.CAPPED_BY_HAND, id="capped by hand"),
    ],
)
def test_a_stopping_program_holds_each_lane_to_its_period_s_end(
    used: int, tariff: dict[str, Any], ceiling: int, reason: Reason
) -> None:
    """What is left of the allowance is spread over the rest of the period, also below the threshold."""
    ledger, tariffs = make_ledger(make_accounts(used_bytes=used)), make_tariffs(**tariff)

    held = policy.hold(ledger, tariffs, judge(ledger, tariffs))

    assert (ceiling, reason) == (ceiling_of(held), held.reason[0])
    assert held.ceiling_bytes_per_second.tolist() == held.asked_ceiling_bytes_per_second.tolist()


@pytest.mark.parametrize("quiet", [{"tariff": {"shadow": True}}, {"enforcing": False}, {"frozen": True}])
def test_a_stopping_program_asks_nothing_new_where_it_changes_nothing(quiet: dict[str, Any]) -> None:
    """Shadow and freeze hold for the last turn as well."""
    ledger, tariffs = make_ledger(make_accounts()), make_tariffs(**quiet.get("tariff", {}))
    look = {"frozen": quiet.get("frozen", False), "enforcing": quiet.get("enforcing", True)}
    before = judge(ledger, tariffs, held_ceiling_bytes_per_second=np.array([777]), **look)

    held = policy.hold(ledger, tariffs, before, enforcing=look["enforcing"])

    assert [777] == held.asked_ceiling_bytes_per_second.tolist()


# Guarantees.

Guarantees = tuple[list[int], float]


def admit(asked: list[int], exempt: list[bool] | None = None, cap: int = 1_000, line_rate: int = 10_000) -> Guarantees:
    """Admit guarantees to a cap of 1000 B/s and a line rate of 10 000 B/s."""
    rows = np.array(exempt if exempt is not None else [False] * len(asked), np.bool_)
    guarantees, ratio = policy.admit(
        np.array(asked, np.int64), rows, cap_bytes_per_second=cap, line_rate_bytes_per_second=line_rate
    )
    return guarantees.tolist(), ratio


@pytest.mark.parametrize(
    ("admitted", "asked"),
    [
        pytest.param(([125, 250], 1.0), admit([125, 250]), id="as asked"),
        pytest.param(([250, 100], 0.5), admit([500, 100]), id="one is a quarter of its parent at most"),
        pytest.param(([200] * 5, 0.8), admit([250] * 5), id="five quarters are a whole"),
        pytest.param(([250, 2_500], 0.25), admit([1_000, 2_500], [False, True]), id="each has its own parent"),
        pytest.param(([1, 1], 1.0), admit([0, 1]), id="none is the least that the kernel takes"),
        pytest.param(([1] * 5, 1 / 200), admit([200] * 5, cap=3), id="more lanes than bytes a second"),
        pytest.param(([], 1.0), admit([]), id="nobody"),
    ],
)
def test_guarantees_are_admitted(admitted: Guarantees, asked: Guarantees) -> None:
    """A quarter of the parent each, the whole of it together, and told by how much they shrank."""
    assert admitted == (asked[0], pytest.approx(asked[1]))


def test_a_verdict_holds_the_guarantee_that_was_admitted_and_its_floor_the_same() -> None:
    """The floor is no lower than what was admitted, not than what was asked."""
    tariffs = make_tariffs(2, traffic=[Traffic.NORMAL, Traffic.EXEMPT], guarantee_bytes_per_second=GIGABIT)

    verdicts = judge(make_ledger(make_accounts(2)), tariffs, cap_bytes_per_second=10 * MBIT)

    assert [2.5 * MBIT, 250 * MBIT] == verdicts.guarantee_bytes_per_second.tolist()
    assert [2.5 * MBIT, 250 * MBIT] == verdicts.floor_bytes_per_second.tolist()
    assert 0.0025 == verdicts.admitted_ratio


@settings(deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(0, 50 * GB) | st.just(UNLIMITED), st.booleans()), min_size=1, max_size=40),
    cap=st.integers(1, 50 * GB),
    line_rate=st.integers(1, 50 * GB),
)
def test_admitted_guarantees_fit_their_parents(asked: list[tuple[int, bool]], cap: int, line_rate: int) -> None:
    """Whatever is asked, the sum of the admitted is at most the parent, and the ratio is 1 only if nothing shrank."""
    exempt = [row[1] for row in asked]

    guarantees, ratio = admit([row[0] for row in asked], exempt, cap, line_rate)

    for parent, rows in ((cap, [not row for row in exempt]), (line_rate, exempt)):
        mine = [guarantee for guarantee, row in zip(guarantees, rows, strict=True) if row]
        assert sum(mine) <= max(parent, len(mine))
        assert all(1 <= guarantee <= max(parent // 4, 1) for guarantee in mine)
    assert (ratio == 1.0) == all(max(row[0], 1) == guarantee for row, guarantee in zip(asked, guarantees, strict=True))


# Properties over any lane.

rates = st.integers(1, 50 * GB) | st.sampled_from([1, 125, 8_000, GIGABIT, 50 * GB, UNLIMITED])
volumes = st.integers(0, 10**14) | st.sampled_from([0, 1, UNLIMITED - 1, UNLIMITED])
spans = st.floats(0, 4e6) | st.sampled_from([0.0, 1e-9, 1.0, 75.0, 75.0001, 86_400.0])


@st.composite
def any_lane(draw: st.DrawFn) -> OneLane:
    """Draw a lane, extremes included; the threshold is a share of the allowance, or all of it."""
    allowance = draw(volumes)
    threshold = draw(st.sampled_from([allowance, allowance * 4 // 5, 0]) | st.integers(0, max(allowance, 1)))
    full = draw(rates)
    near = [threshold, threshold - 1, allowance, threshold - full, allowance + 1, threshold + 1]
    return OneLane(
        used=draw(volumes | st.sampled_from([min(max(value, 0), UNLIMITED) for value in near])),
        allowance=allowance,
        threshold=threshold,
        full=full,
        guarantee=draw(st.integers(0, 50 * GB)),
        floor=draw(st.sampled_from([0, 8_000]) | st.integers(0, 50 * GB)),
        remaining=draw(spans | st.just(-1.0)),
        period=draw(spans),
        horizon=0.0,
        top_up=draw(st.just(0) | volumes),
        hand_cap=draw(st.just(UNLIMITED) | st.integers(0, 50 * GB)),
        released=draw(st.sampled_from([False, False, False, True])),
        off=draw(st.sampled_from([False, False, False, True])),
        shadow=draw(st.booleans()),
        held=draw(st.just(0) | rates),
    )


def columns_of(lanes: list[OneLane]) -> tuple[Ledger, Tariffs]:
    """Return the ledger and the tariffs that say what these lanes say; the ledger begins at 0: nothing is rounded."""

    def each(name: str) -> list[Any]:
        return [getattr(lane, name) for lane in lanes]

    accounts = make_accounts(len(lanes), used_bytes=each("used"), recent_bytes=1, period_end_at=each("remaining"))
    tariffs = make_tariffs(
        len(lanes),
        full_bytes_per_second=each("full"),
        guarantee_bytes_per_second=each("guarantee"),
        floor_bytes_per_second=each("floor"),
        allowance_bytes=each("allowance"),
        threshold_bytes=each("threshold"),
        hand_cap_bytes_per_second=each("hand_cap"),
        hand_top_up_bytes=each("top_up"),
        released=each("released"),
        off=each("off"),
        shadow=each("shadow"),
    )
    return make_ledger(accounts, ledger_seconds=0.0), tariffs


def judge_all(lanes: list[OneLane], **look: Any) -> Verdicts:
    """Judge lanes as columns."""
    return judge(
        *columns_of(lanes),
        period_seconds=np.array([lane.period for lane in lanes]),
        held_ceiling_bytes_per_second=np.array([lane.held for lane in lanes]),
        **look,
    )


@settings(max_examples=300, deadline=None)
@given(
    lanes=st.lists(any_lane(), min_size=1, max_size=6),
    next_look=st.floats(0, 1e5),
    frozen=st.booleans(),
    enforcing=st.booleans(),
)
def test_the_columns_say_what_the_law_says_of_one_lane(
    lanes: list[OneLane],
    next_look: float,
    *,
    frozen: bool,
    enforcing: bool,
) -> None:
    """Columns and plain numbers agree to the last bit, extremes and switches included."""
    verdicts = judge_all(lanes, next_look_seconds=next_look, frozen=frozen, enforcing=enforcing)

    for row, lane in enumerate(lanes):
        admitted = replace(lane, guarantee=int(verdicts.guarantee_bytes_per_second[row]), horizon=next_look + 2.0)
        expected = judge_one(admitted, frozen=frozen, enforcing=enforcing)
        assert expected == oracle_policy.OneVerdict(
            ceiling=int(verdicts.ceiling_bytes_per_second[row]),
            asked=int(verdicts.asked_ceiling_bytes_per_second[row]),
            reason=Reason(verdicts.reason[row]),
            floor=int(verdicts.floor_bytes_per_second[row]),
            allowance=int(verdicts.allowance_bytes[row]),
            threshold=int(verdicts.threshold_bytes[row]),
            capped=bool(verdicts.capped[row]),
        )


@settings(deadline=None)
@given(st.lists(any_lane(), min_size=1, max_size=6), st.floats(0, 1e5))
def test_a_verdict_of_the_law_is_between_floor_and_full_rate(lanes: list[OneLane], next_look: float) -> None:
    """No lane is cut off and none gets more than its full rate, in the turn and when stopping."""
    lanes = [replace(lane, hand_cap=UNLIMITED, off=False, released=False) for lane in lanes]
    ledger, tariffs = columns_of(lanes)

    verdicts = judge_all(lanes, next_look_seconds=next_look)

    for verdict in (verdicts, policy.hold(ledger, tariffs, verdicts)):
        assert set(verdict.reason.tolist()) <= LAW
        assert np.all(verdict.floor_bytes_per_second >= 1)
        assert np.all(verdict.floor_bytes_per_second <= verdict.ceiling_bytes_per_second)
        assert np.all(verdict.ceiling_bytes_per_second <= tariffs.full_bytes_per_second)


@settings(deadline=None)
@given(st.lists(any_lane(), min_size=1, max_size=6), st.floats(0, 1e5))
def test_a_lowered_ceiling_has_seven_bits_or_is_the_floor(lanes: list[OneLane], next_look: float) -> None:
    """Few distinct ceilings make few changes in the kernel."""
    lanes = [replace(lane, hand_cap=UNLIMITED, off=False, released=False) for lane in lanes]
    verdicts = judge_all(lanes, next_look_seconds=next_look)

    rows = zip(lanes, verdicts.ceiling_bytes_per_second.tolist(), verdicts.floor_bytes_per_second.tolist(), strict=True)
    for lane, ceiling, floor in rows:
        assert ceiling in {lane.full, floor} or ceiling == oracle_policy.seven_bits(ceiling)


@settings(deadline=None)
@given(any_lane(), st.lists(st.integers(0, 2_000), min_size=2, max_size=12), st.floats(0, 1e5))
def test_who_has_used_more_never_has_a_higher_ceiling(lane: OneLane, permille: list[int], next_look: float) -> None:
    """At equal time the ceiling falls with use, across the threshold and the allowance."""
    allowance = min(lane.allowance, 10**15)
    lane = replace(lane, allowance=allowance, threshold=min(lane.threshold, allowance), off=False, released=False)
    lanes = [replace(lane, used=allowance * part // 1_000) for part in sorted(permille)]

    ceilings = judge_all(lanes, next_look_seconds=next_look).ceiling_bytes_per_second.tolist()

    assert sorted(ceilings, reverse=True) == ceilings


@settings(deadline=None)
@given(st.lists(any_lane(), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(lanes: list[OneLane], chance: Any) -> None:
    """A verdict depends on its own row."""
    lanes = [replace(lane, guarantee=0) for lane in lanes]  # the sum of guarantees may differ in its last bit
    order = list(range(len(lanes)))
    chance.shuffle(order)

    shuffled = judge_all([lanes[row] for row in order])

    straight = judge_all(lanes).take(np.array(order))
    assert straight.ceiling_bytes_per_second.tolist() == shuffled.ceiling_bytes_per_second.tolist()
    assert straight.reason.tolist() == shuffled.reason.tolist()


@settings(deadline=None)
@given(st.lists(any_lane(), min_size=1, max_size=6), st.floats(0.001, 1e4), st.floats(0.001, 10))
def test_the_next_look_comes_by_the_interval_and_by_the_first_period_s_end(
    lanes: list[OneLane], interval: float, shortest: float
) -> None:
    """Whatever the lanes ask for, it is neither later nor sooner than the shortest interval."""
    ledger, tariffs = columns_of(lanes)

    seconds = policy.next_look_seconds(
        ledger, tariffs, interval_seconds=interval, shortest_interval_seconds=shortest, look_margin_seconds=2.0
    )

    latest = max(min(interval, *(lane.remaining for lane in lanes)), 0.001)
    assert min(shortest, latest) <= seconds <= latest


@settings(deadline=None)
@given(st.integers(0, 10**13), st.floats(0.05, 1.0), st.floats(100, 3e6), st.floats(0, 1))
def test_a_lane_at_its_floor_from_its_threshold_on_ends_within_its_allowance(
    allowance: int, proportion: float, period: float, crossed_at: float
) -> None:
    """Whenever it crosses, floor to the tail and the tail's rate through it cost no more than the slack."""
    threshold = int(allowance * proportion)
    tariff = {"allowance_bytes": allowance, "threshold_bytes": threshold, "guarantee_bytes_per_second": 1}
    look = {"period_seconds": np.array([period])}
    remaining = period * (1 - crossed_at)
    tail = min(75.0, remaining)
    tail_rate = ceiling_of(judge_lane(allowance, 75.0, look=look, **tariff))
    floor = int(judge_lane(allowance, period, look=look, **tariff).floor_bytes_per_second[0])

    spent = floor * (remaining - tail) + tail_rate * tail

    assert spent <= (allowance - threshold) + period  # the guarantee of 1 B/s is the only thing that may exceed it


def test_the_worked_examples_in_the_room_s_texts_hold() -> None:
    """The formulae's examples are run as doctests."""
    assert 0 == doctest.testmod(policy).failed
