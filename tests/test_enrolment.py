"""Which lane stands in which row, as slices come, go and move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import enrolment, periods
from bwexporter.core.lanes import Instant, Lane, Ledger, Tariffs, Traffic
from tests.builders import make_tariffs

NOW = Instant(1_700_000_000.0, 100.0, "boot")
HOUR = periods.Rolling(3600.0)
DAY = periods.Calendar(periods.Unit.DAY)
A, B, C = 0x1_1001, 0x1_1002, 0x1_1003


def lane(name: str) -> Lane:
    """Return a normal lane."""
    return Lane("eth0", name, Traffic.NORMAL)


def tariffs_of(*names: str, **given_: object) -> Tariffs:
    """Return tariffs of these slices."""
    return replace(make_tariffs(len(names), **given_), lanes=tuple(lane(name) for name in names))


def enrolled(ledger: Ledger, *classes: tuple[str, int], rules: tuple[periods.PeriodRule, ...] = (HOUR,)) -> Ledger:
    """Enrol slices with their classes."""
    tariffs = tariffs_of(*(name for name, _ in classes))
    return enrolment.enrol(ledger, tariffs, np.array([handle for _, handle in classes], np.int64), rules)


def fresh(*classes: tuple[str, int]) -> Ledger:
    """Return a ledger in which these slices were enrolled first."""
    return enrolled(enrolment.open_ledger("eth0", 2, NOW), *classes)


def grown(ledger: Ledger, **used: int) -> Ledger:
    """Return the ledger as if its classes had been seen and had sent so much."""
    rows = [used.get(one.slice_name, 0) for one in ledger.lanes]
    counters = ledger.counters
    return replace(
        ledger,
        accounts=replace(ledger.accounts, used_bytes=np.array(rows)),
        counters=replace(counters, alive=np.ones(len(counters), bool), sent_bytes=np.array(rows)[counters.account]),
    )


def used(ledger: Ledger) -> dict[str, int]:
    """Return the use by slice."""
    return {one.slice_name: int(count) for one, count in zip(ledger.lanes, ledger.accounts.used_bytes, strict=True)}


def feeds(ledger: Ledger) -> dict[int, str]:
    """Return which slice each class's bytes go to."""
    rows = zip(ledger.counters.handle.tolist(), ledger.counters.account.tolist(), strict=True)
    return {handle: ledger.lanes[row].slice_name for handle, row in rows}


def test_a_new_slice_begins_with_nothing_in_a_period_that_begins_now() -> None:
    """Rolling periods start at first sight."""
    ledger = fresh(("ann", A))

    assert {"ann": 0} == used(ledger)
    assert ([NOW.wall_seconds], [NOW.wall_seconds + 3600.0]) == (
        ledger.accounts.period_start_at.tolist(),
        ledger.accounts.period_end_at.tolist(),
    )
    assert not ledger.counters.alive.any()


def test_the_first_calendar_period_is_whole() -> None:
    """It began before the slice was seen."""
    ledger = enrolled(enrolment.open_ledger("eth0", 2, NOW), ("ann", A), rules=(DAY,))

    assert periods.calendar_bounds(DAY, NOW.wall_seconds) == (
        ledger.accounts.period_start_at[0],
        ledger.accounts.period_end_at[0],
    )


def test_each_lane_s_own_rule_says_its_period() -> None:
    """`period_rule` is an index into the rules."""
    tariffs = tariffs_of("ann", "bob", period_rule=[1, 0])
    ledger = enrolment.enrol(enrolment.open_ledger("eth0", 2, NOW), tariffs, np.array([A, B]), (HOUR, DAY))

    assert [86_400.0, 3600.0] == (ledger.accounts.period_end_at - ledger.accounts.period_start_at).tolist()


def test_lanes_in_another_order_keep_their_accounts_and_classes() -> None:
    """A row is a place, not an identity."""
    ledger = enrolled(grown(fresh(("ann", A), ("bob", B)), ann=5, bob=7), ("bob", B), ("new", C), ("ann", A))

    assert {"bob": 7, "new": 0, "ann": 5} == used(ledger)
    assert [7, 0, 5] == ledger.counters.sent_bytes.tolist()
    assert {B: "bob", C: "new", A: "ann"} == feeds(ledger)


def test_a_removed_slice_stays_behind_the_enrolled_rows_and_its_class_goes_on_feeding_it() -> None:
    """Until its class is gone and its period has ended."""
    ledger = enrolled(grown(fresh(("ann", A), ("bob", B)), ann=5, bob=7), ("bob", B))

    assert 1 == ledger.enrolled
    assert {"bob": 7, "ann": 5} == used(ledger)
    assert {B: "bob", A: "ann"} == feeds(ledger)


def test_a_removed_slice_whose_class_was_never_seen_has_no_counter_left() -> None:
    """There is nothing of it to count."""
    ledger = enrolled(fresh(("ann", A), ("bob", B)), ("bob", B))

    assert {B: "bob"} == feeds(ledger)


def test_a_slice_with_another_id_is_fed_by_both_classes() -> None:
    """What is still queued in the old one is its own."""
    ledger = enrolled(grown(fresh(("ann", A)), ann=5), ("ann", B))

    assert {"ann": 5} == used(ledger)
    assert {B: "ann", A: "ann"} == feeds(ledger)
    assert [False, True] == ledger.counters.alive.tolist()


def test_a_class_that_becomes_another_slice_s_is_handed_over_as_it_was_seen() -> None:
    """What it had counted was its old slice's, and stays there."""
    ledger = enrolled(grown(fresh(("ann", A), ("bob", B)), ann=5, bob=7), ("bob", A))

    assert {"bob": 7, "ann": 5} == used(ledger)
    assert {A: "bob", B: "bob"} == feeds(ledger)
    assert 5 == ledger.counters.sent_bytes[0]


def test_a_ledger_without_slices_is_a_ledger() -> None:
    """All slices may be removed."""
    ledger = enrolled(grown(fresh(("ann", A)), ann=5))

    assert (0, {"ann": 5}) == (ledger.enrolled, used(ledger))


@pytest.mark.parametrize(("alive", "stays"), [(True, True), (False, False)])
def test_an_ended_departed_account_stays_while_a_class_feeds_it(*, alive: bool, stays: bool) -> None:
    """Its bytes would otherwise be nobody's."""
    ledger = enrolled(grown(fresh(("ann", A), ("bob", B)), ann=5, bob=7), ("bob", B))
    counters = replace(ledger.counters, alive=np.array([True, alive]))

    pruned, moved_to = enrolment.pruned(replace(ledger, counters=counters), ended_rows=np.array([0, 1]))

    assert stays == ("ann" in used(pruned))
    assert [0, 1 if stays else -1] == moved_to.tolist()
    assert {"bob": 7}.items() <= used(pruned).items()


def test_a_departed_account_whose_period_runs_stays() -> None:
    """It waits for the slice's return."""
    ledger = enrolled(grown(fresh(("ann", A), ("bob", B)), ann=5, bob=7), ("bob", B))
    counters = replace(ledger.counters, alive=np.array([True, False]))

    pruned, _ = enrolment.pruned(replace(ledger, counters=counters), ended_rows=np.array([0]))

    assert {"bob": 7, "ann": 5} == used(pruned)
    assert {B: "bob"} == feeds(pruned)


NAMES = ("ann", "bob", "cyd", "dan")
rosters = st.lists(st.sampled_from(NAMES), unique=True).flatmap(
    lambda names: st.permutations([A, B, C, 0x1_1004, 0x1_1005]).map(
        lambda handles: tuple(zip(names, handles, strict=False))
    )
)


@settings(max_examples=200, deadline=None)
@given(rolls=st.lists(rosters, min_size=1, max_size=6), amounts=st.lists(st.integers(1, 100), min_size=4, max_size=4))
def test_whatever_the_roster_becomes_no_account_is_lost_and_each_class_feeds_one(
    rolls: list[tuple[tuple[str, int], ...]], amounts: list[int]
) -> None:
    """Slices come, go, return, swap classes; used bytes and periods are those of the name."""
    ledger = enrolment.open_ledger("eth0", 2, NOW)
    books: dict[str, int] = {}
    for roll in rolls:
        ledger = enrolled(ledger, *roll)
        for name in (one.slice_name for one in ledger.lanes):
            books.setdefault(name, amounts[NAMES.index(name)])
        ledger = grown(ledger, **books)

        assert books == used(ledger)
        assert [name for name, _ in roll] == [one.slice_name for one in ledger.lanes[: ledger.enrolled]]
        assert [handle for _, handle in roll] == ledger.counters.handle[: ledger.enrolled].tolist()
        assert len(set(ledger.counters.handle.tolist())) == len(ledger.counters)
        assert len(set(ledger.lanes)) == len(ledger.lanes)
