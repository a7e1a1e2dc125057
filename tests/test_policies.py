"""Ladder, windows and carry: each against a plain oracle, and all of them in days of the real turn."""

from __future__ import annotations

import doctest
import random
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import carry, ladder, policies, policy, windows
from bwexporter.core.lanes import UNLIMITED, Ledger, Reason, Tariffs, Verdicts
from bwexporter.core.plans import Policy, Rung, Window, Windows
from bwexporter.kernel.existing import ExistingTree, Memory
from tests import pictures
from tests.builders import DAY_SECONDS, GIGABIT, NOON, make_accounts, make_ledger, make_tariffs
from tests.node import DEVICE, Node, plain_tariffs
from tests.simulation import Days, Sender, Sends, simulate

MEGABYTE = 1_000_000
DAY = 86_400.0
STEPS = Policy(ladder=(Rung(0.8, 125_000), Rung(1.0, 12_500)))
NIGHTS = Windows((Window(22 * 60, 6 * 60, 0.0), Window(18 * 60, 22 * 60, 0.25)))


# The ladder.


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**7)), min_size=1, max_size=5),
    st.integers(0, 10**9),
    st.integers(1, 10**8),
    st.floats(0.1, 600.0),
)
def test_the_average_rate_is_that_of_climbing_the_ladder_byte_by_byte(
    rungs: list[tuple[int, int]], used: int, full: int, horizon: float
) -> None:
    """The oracle walks from rung to rung with a clock."""
    steps = [(part, min(rate, full)) for part, rate in sorted(dict(rungs).items())]
    at, clock = float(used), 0.0
    while clock < horizon - 1e-9:
        rate = next((rate for begins, rate in reversed(steps) if begins <= at), full)
        ahead = min((begins - at for begins, _ in steps if begins > at), default=float("inf"))
        seconds = min(horizon - clock, ahead / rate)
        clock, at = clock + seconds, (at + ahead if seconds * rate >= ahead - 1e-9 else at + rate * seconds)
        if seconds <= 0:
            break

    found = ladder.carried_by(steps, used, full, horizon)

    # Rounded down to a whole number: what a hair too little, as floats have it, makes one less than it is.
    assert found == pytest.approx(max((at - used) / horizon, 1.0), rel=1e-6, abs=1.0 + 1e-6)
    assert 1 <= found <= full


def judged(used: int, chosen: Policy, *, at: float = NOON, **given_: object) -> Verdicts:
    """Judge one lane of 10.8 GB and 1 Gbit/s with a look every 10 s."""
    tariffs = make_tariffs(policies={0: chosen}, **given_)
    ledger = make_ledger(make_accounts(used_bytes=used), ledger_seconds=at)
    return both(ledger, tariffs)


def both(ledger: Ledger, tariffs: Tariffs, *, frozen: bool = False) -> Verdicts:
    """Ask the law, and then the policies."""
    look = policies.Look(
        period_seconds=np.full(len(tariffs), DAY_SECONDS),
        held_ceiling_bytes_per_second=np.full(len(tariffs), 777),
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=frozen,
        enforcing=True,
    )
    law = policy.judge(
        ledger,
        tariffs,
        period_seconds=look.period_seconds,
        held_ceiling_bytes_per_second=look.held_ceiling_bytes_per_second,
        cap_bytes_per_second=GIGABIT,
        line_rate_bytes_per_second=GIGABIT,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=frozen,
    )
    return policies.judged(ledger, tariffs, law, look)


@pytest.mark.parametrize(
    ("used", "ceiling", "reason", "capped"),
    [
        (0, GIGABIT, Reason.WITHIN, False),
        (8_640_000_000 - 125_000_000, (125_000_000 + 11 * 125_000) // 12, Reason.PACED, False),
        (8_640_000_000, 125_000, Reason.ON_LADDER, True),
        (10_800_000_000 - 600_000, (600_000 + int(7.2 * 12_500)) // 12, Reason.ON_LADDER, True),
        (10_800_000_000, 12_500, Reason.ON_LADDER, True),
        (99_000_000_000, 12_500, Reason.ON_LADDER, True),
    ],
)
def test_each_rung_has_its_rate_and_none_is_overshot(used: int, ceiling: int, reason: Reason, *, capped: bool) -> None:
    verdicts = judged(used, STEPS)

    assert (int(verdicts.ceiling_bytes_per_second[0]), Reason(int(verdicts.reason[0]))) == (ceiling, reason)
    assert bool(verdicts.capped[0]) is capped


def test_a_ladder_without_an_allowance_is_the_law() -> None:
    verdicts = judged(99, STEPS, allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED)

    assert (int(verdicts.ceiling_bytes_per_second[0]), int(verdicts.reason[0])) == (GIGABIT, Reason.WITHIN)


# Windows.


@given(
    st.lists(st.tuples(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, 1)), min_size=1, max_size=3),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
    st.integers(0, 365 * 1440),
    st.integers(1, 3 * 1440),
)
@settings(deadline=None, max_examples=60)
def test_the_mean_over_a_span_is_that_of_its_minutes(
    spans: list[tuple[int, int, float]], timezone: str, first: int, minutes: int
) -> None:
    """A plain sum over minutes, on days on which no clock is changed."""
    chosen = Windows(tuple(Window(*span) for span in spans if span[0] != span[1]), timezone)
    since = 1_672_531_200.0 + 60.0 * first
    zone = ZoneInfo(timezone)
    offsets = {
        datetime.fromtimestamp(at, UTC).astimezone(zone).utcoffset() for at in (since, since + 60 * minutes + 2 * DAY)
    }
    if not chosen.spans or len(offsets) > 1:
        return

    mean = windows.mean_part(chosen, since, since + 60.0 * minutes)

    assert mean == pytest.approx(
        np.mean([windows.part_at(chosen, since + 60.0 * minute + 1.0) for minute in range(minutes)]), abs=1e-6
    )


@pytest.mark.parametrize(("month", "day"), [(3, 26), (10, 29)])
def test_on_the_days_on_which_clocks_change_every_span_ends_and_edges_move_on(month: int, day: int) -> None:
    """Berlin, 2023: no edge is found twice, whatever the local time does."""
    chosen = Windows((Window(150, 190, 0.5), Window(0, 60, 0.0)), "Europe/Berlin")
    at = datetime(2023, month, day, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    end = at + DAY
    edges = []
    while (at := windows.next_edge(chosen, at)) < end:
        edges.append(at)

    assert edges == sorted(set(edges))
    assert 2 <= len(edges) <= 4
    assert 0.0 <= windows.mean_part(chosen, end - DAY, end) <= 1.0


def test_where_nothing_counts_the_full_rate_is_given_whatever_was_used() -> None:
    midnight = datetime(2023, 11, 14, 23, 30, tzinfo=UTC).timestamp()
    verdicts = judged(99_000_000_000, Policy(windows=NIGHTS), at=midnight)

    assert (int(verdicts.ceiling_bytes_per_second[0]), int(verdicts.reason[0])) == (GIGABIT, Reason.UNCOUNTED)


def test_where_a_quarter_counts_a_ceiling_is_worth_four_times_as_much() -> None:
    """By day 62.5 kB/s, as the law has it; in the evening four times that, to seven bits."""
    noon = datetime(2023, 11, 14, 12, 0, tzinfo=UTC).timestamp()
    evening = datetime(2023, 11, 14, 19, 0, tzinfo=UTC).timestamp()
    ends = {"period_start_at": noon - DAY / 2}
    by_day, by_evening = (
        both(
            make_ledger(
                make_accounts(used_bytes=8_640_000_000, period_end_at=at + 34_560.0, **ends), ledger_seconds=at
            ),
            make_tariffs(policies={0: Policy(windows=NIGHTS)}),
        )
        for at in (noon, evening)
    )

    assert int(by_day.ceiling_bytes_per_second[0]) == 62_464
    assert int(by_evening.ceiling_bytes_per_second[0]) == pytest.approx(4 * 62_464, rel=1 / 64)
    assert by_evening.counted_part is not None
    assert by_evening.counted_part.tolist() == [0.25]


# The carry.


@given(st.integers(0, 100), st.integers(0, 400), st.integers(1, 200), st.integers(0, 100), st.integers(1, 6))
def test_what_is_carried_is_what_a_loop_over_periods_says(
    before: int, used: int, allowance: int, bound: int, periods: int
) -> None:
    carried = before
    for sent in (used, *[0] * (periods - 1)):
        carried = max(0, min(bound, allowance + carried - sent))

    assert carried == carry.left_over(before, used, allowance, bound, periods)


# All of them.


POLICIES = st.builds(
    Policy,
    ladder=st.sampled_from([(), STEPS.ladder, (Rung(0.0, 50_000),)]),
    windows=st.sampled_from([None, NIGHTS]),
    carry_part=st.sampled_from([0.0, 0.5]),
)


@given(
    st.lists(POLICIES, min_size=3, max_size=3),
    st.lists(st.integers(0, 2 * 10**10), min_size=3, max_size=3),
    st.floats(0.0, DAY),
)
@settings(deadline=None)
def test_a_verdict_stays_between_one_byte_and_the_full_rate_and_lanes_do_not_matter_to_each_other(
    chosen: list[Policy], used: list[int], hour: float
) -> None:
    """Judged together in either order, or alone, each comes to the same."""
    at = NOON + hour

    def ledger(rows: list[int]) -> Ledger:
        ends = {"period_start_at": at - 1.0, "period_end_at": at + DAY - 1.0}
        return make_ledger(make_accounts(len(rows), used_bytes=[used[row] for row in rows], **ends), ledger_seconds=at)

    def tariffs(rows: list[int]) -> Tariffs:
        return make_tariffs(len(rows), policies={at: chosen[row] for at, row in enumerate(rows)})

    together = both(ledger([0, 1, 2]), tariffs([0, 1, 2]))
    backwards = both(ledger([2, 1, 0]), tariffs([2, 1, 0]))
    alone = [both(ledger([row]), tariffs([row])) for row in range(3)]

    ceilings = together.ceiling_bytes_per_second.tolist()
    assert all(1 <= ceiling <= GIGABIT for ceiling in ceilings)
    assert ceilings == backwards.ceiling_bytes_per_second.tolist()[::-1]
    assert ceilings == [int(one.ceiling_bytes_per_second[0]) for one in alone]


@pytest.mark.parametrize(
    ("tariff", "frozen", "ceiling", "reason"),
    [
        ({"hand_cap_bytes_per_second": 5_000}, False, 5_000, Reason.CAPPED_BY_HAND),
        ({"released": True}, False, GIGABIT, Reason.RELEASED),
        ({"off": True}, False, GIGABIT, Reason.OFF),
        ({}, True, 777, Reason.FROZEN),
    ],
)
def test_hand_and_switches_speak_last(tariff: dict[str, object], ceiling: int, reason: Reason, *, frozen: bool) -> None:
    ledger = make_ledger(make_accounts(used_bytes=9_000_000_000))

    verdicts = both(ledger, make_tariffs(policies={0: STEPS}, **tariff), frozen=frozen)

    assert (int(verdicts.ceiling_bytes_per_second[0]), int(verdicts.reason[0])) == (ceiling, reason)


def test_without_a_policy_the_very_verdicts_of_the_law_are_returned() -> None:
    """No lane with the law is any slower for it."""
    ledger, tariffs = make_ledger(make_accounts(2)), make_tariffs(2)
    law = both(ledger, tariffs)

    assert policies.judged(ledger, tariffs, law, replace_look()) is law
    assert policies.counted_parts(ledger, tariffs, ledger.at) is None
    assert policies.next_change_seconds(ledger, tariffs) == float("inf")


def replace_look() -> policies.Look:
    """Return a look of two lanes."""
    two = np.full(2, DAY_SECONDS)
    return policies.Look(two, np.full(2, 1), 10.0, 2.0, frozen=False, enforcing=True)


# A day in a second.


def days(cast: list[Sender], *, periods: int) -> Days:
    """Live through days of the real turn, with a look every ten minutes."""
    return simulate(cast, interval_seconds=600.0, period_seconds=DAY, periods=periods)


def test_a_ladder_gives_each_rung_its_rate_and_the_volume_that_comes_of_it() -> None:
    """80 MB of 100 at once, 20 MB at 125 kB/s, and the rest of the day at 12.5 kB/s."""
    greedy = Sender(100 * MEGABYTE, policy=STEPS)
    promised = 100 * MEGABYTE + (DAY - 80 / 125 - 20 * MEGABYTE / 125_000) * 12_500

    found = days([greedy], periods=1)

    assert found.sent_fraction[0, 0] * 100 * MEGABYTE == pytest.approx(promised, rel=0.003)
    assert found.uncounted_bytes[0] == 0


def test_who_climbs_slowly_is_looked_at_no_oftener_than_others() -> None:
    """Its threshold is half a second of its full rate away all day, and fifteen hours at the rate of its rung."""
    slow = Sender(100 * MEGABYTE, policy=Policy(ladder=(Rung(0.2, 1_000),)))

    found = days([slow], periods=1)

    assert found.sent_fraction[0, 0] * 100 * MEGABYTE == pytest.approx(20 * MEGABYTE + DAY * 1_000, rel=0.003)
    assert found.looks < 1.1 * DAY / 600


def test_with_windows_a_greedy_sender_lands_on_its_allowance_in_counted_bytes() -> None:
    """What counts is all of its allowance and no more; at night it sends what it likes."""
    by_night = Sender(1_000 * MEGABYTE, policy=Policy(windows=NIGHTS))
    evenings = Sender(1_000 * MEGABYTE, policy=Policy(windows=Windows((Window(18 * 60, 22 * 60, 0.25),))))

    found = days([by_night, evenings], periods=1)

    assert found.used_fraction.max() <= 1.001
    assert found.used_fraction.min() >= 0.996
    assert found.sent_fraction[0, 1] > 1.05
    assert found.sent_fraction[0, 0] > 100


def test_what_is_not_used_is_carried_over_up_to_its_bound() -> None:
    """Idle for a day, greedy in the next: an allowance and a half; idle for two, no more than that."""
    half = Policy(carry_part=0.5)
    cast = [Sender(100 * MEGABYTE, since=days_idle * DAY + 2.0, policy=half) for days_idle in range(3)]

    found = days(cast, periods=3)

    assert found.used_fraction.T.tolist() == [
        pytest.approx(fractions, abs=0.003) for fractions in ([1.0, 1.0, 1.0], [0.0, 1.5, 1.0], [0.0, 0.0, 1.5])
    ]


def test_what_is_carried_is_there_in_somebody_elses_tree_whose_full_rates_differ_from_those_written() -> None:
    """What is found there takes the place of what is written, and of nothing else."""
    node = Node({"a": 1})
    node.turn()
    node.pass_seconds(10.0)
    node.turn()
    desk, row = node.turns.desks[DEVICE], node.row("a")
    classes = dict(zip(desk.tariffs.lanes, desk.tree.handles(desk.tariffs).tolist(), strict=True))
    memory = Memory(None, lambda _: None, boot_id=node.boot_id, ifindex=node.kernel.links[DEVICE].ifindex)
    tree = ExistingTree(DEVICE, GIGABIT, GIGABIT, classes, frozenset({desk.tariffs.lanes[row]}), memory)
    carried = np.where(np.arange(len(desk.ledger.accounts.carried_bytes)) == row, MEGABYTE, 0)
    ledger = replace(desk.ledger, accounts=replace(desk.ledger.accounts, carried_bytes=carried))
    written = plain_tariffs(node.ids, full_bytes_per_second=2 * GIGABIT)
    node.turns.enlist(replace(desk, ledger=ledger, tree=tree, tariffs=written))

    node.pass_seconds(10.0)
    report = node.turn()

    assert report.tariffs.full_bytes_per_second[row] < 2 * GIGABIT
    assert report.tariffs.hand_top_up_bytes[row] == MEGABYTE


def test_what_is_carried_survives_a_kill_and_a_reload() -> None:
    cast = [Sender(100 * MEGABYTE, since=1.3 * DAY, policy=Policy(carry_part=0.5))]
    loop = Sends(cast, 600.0, DAY, random.Random(1))
    while loop.seconds < 1.2 * DAY:
        loop.wait(0.4)
    loop.node.start()
    loop.enlist()
    loop.report = loop.look(anew=True)

    verdicts = loop.report.devices[0].verdicts
    row = loop.node.row("s0")

    assert int(verdicts.allowance_bytes[row]) == 150 * MEGABYTE
    assert int(verdicts.threshold_bytes[row]) == 120 * MEGABYTE


def test_all_three_together_keep_their_promises() -> None:
    """A ladder with windows and a carry: rungs are parts of what there is, their rates are those on the wire.

    The node's days begin at 22:13; it sends from 06:13 of the second one on: 150 MB up to the last rung, of which 30
    on the first, then 12.5 kB/s until six in the evening and a quarter of that until ten.
    """
    together = replace(STEPS, windows=NIGHTS, carry_part=0.5)
    seconds = 11 * 3600.0 + 2_800.0 - 30 * MEGABYTE / 125_000 + 4 * 3600.0 / 4
    promised = 150 * MEGABYTE + seconds * 12_500

    found = days([Sender(100 * MEGABYTE, since=DAY + 8 * 3600.0, policy=together)], periods=2)

    assert found.used_fraction[1, 0] * 100 * MEGABYTE == pytest.approx(promised, rel=0.005)


def test_the_worked_examples_hold() -> None:
    assert [0] * 3 == [doctest.testmod(room).failed for room in (ladder, windows, carry)]


@pytest.mark.parametrize("name", sorted(pictures.POLICIES))
def test_the_pictures_of_the_documentation_are_what_the_program_does(name: str) -> None:
    """Drawn anew they are the very same."""
    assert pictures.drawn(name) == (pictures.DOCS / f"policy-{name}.svg").read_text()
