"""What a look adds to the accounts, case by case; the properties stand in test_escape.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bwexporter.core import accounting, enrolment, periods
from bwexporter.core.accounting import Count
from bwexporter.core.lanes import Classes, Counts, Endings, Instant, Ledger, Snapshot, no_endings
from tests.builders import DAY_SECONDS, make_lanes, make_tariffs

T0 = 1_700_000_000.0
DAY = periods.Rolling(DAY_SECONDS)
PARENT = 0x1_0010
A, B = 0x1_1001, 0x1_1002


def instant(seconds: float, *, wall: float | None = None, boot_id: str = "boot") -> Instant:
    """Return the clocks so many seconds after the first look; `wall` where the wall clock says something else."""
    return Instant(T0 + (seconds if wall is None else wall), 100.0 + seconds, boot_id)


def look(
    *sent: int | None,
    leaves: tuple[int, ...] = (0x7001, 0x7002),
    parent_sent: int | None = None,
    endings: tuple[tuple[int, int, int], ...] = (),
    tree_endings: tuple[int, ...] = (),
    watched: bool = True,
    clean: bool = True,
    ifindex: int = 2,
) -> Snapshot:
    """Return a look at classes A, B, ... with so many bytes each (None: absent), in packets of 100 bytes."""
    rows = [(A + at, leaves[at], bytes_) for at, bytes_ in enumerate(sent) if bytes_ is not None]
    whole = sum(bytes_ for _, _, bytes_ in rows) if parent_sent is None else parent_sent
    handle = np.array([PARENT, *(row[0] for row in rows)])
    leaf = np.array([0, *(row[1] for row in rows)])
    counted = np.array([whole, *(row[2] for row in rows)])
    zero = np.zeros(len(handle), np.int64)
    parent = np.array([0x1_0001, *([PARENT] * len(rows))])
    ends = np.array([[handle, leaf, bytes_, bytes_ // 100, 0, 0] for handle, leaf, bytes_ in endings], np.int64)
    return Snapshot(
        device="eth0",
        ifindex=ifindex,
        tree_present=True,
        clean=clean,
        watched_since_last_look=watched,
        classes=Classes(handle, parent, zero + 1, zero + 1, zero, zero, zero, leaf),
        counts=Counts(counted, counted // 100, zero.copy(), zero.copy()),
        backlog_bytes=zero.copy(),
        endings=Endings(*ends.T.copy()) if endings else no_endings(),
        tree_endings_bytes=tree_endings,
        tree_sent_bytes=whole,
        direct_packets=0,
    )


def start(slices: int = 2, rule: periods.PeriodRule = DAY) -> Ledger:
    """Return a ledger of fresh lanes whose classes are A, B, ..."""
    ledger = enrolment.open_ledger("eth0", 2, instant(0))
    return enrolment.enrol(ledger, make_tariffs(slices), A + np.arange(slices), (rule,))


def count(ledger: Ledger, snapshot: Snapshot, now: Instant, rule: periods.PeriodRule = DAY) -> Count:
    """Count a look at lanes that share one period rule."""
    return accounting.advance(ledger, snapshot, now, period_rule=np.zeros(ledger.enrolled, np.int64), rules=(rule,))


def used(ledger: Ledger) -> list[int]:
    """Return the use of each row."""
    return ledger.accounts.used_bytes.tolist()


def test_the_increase_of_a_counter_is_what_was_used() -> None:
    """Two looks at growing counters add up to the counters themselves."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger
    ledger = count(ledger, look(1500, 200), instant(20)).ledger

    assert [1500, 200] == used(ledger)
    assert [1500, 200] == ledger.accounts.sent_bytes.tolist()
    assert [500, 200] == ledger.accounts.recent_bytes.tolist()


def test_counting_a_look_twice_adds_nothing() -> None:
    """A look that is repeated finds what it had found."""
    ledger = count(start(), look(1000, 300), instant(10)).ledger
    ledger = count(ledger, look(1000, 300), instant(10)).ledger

    assert [1000, 300] == used(ledger)


def test_a_class_made_anew_that_regrew_past_its_old_value_is_counted_to_the_byte() -> None:
    """B6: the notification of its end carries the final counters; the new life counts whole."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger

    found = count(ledger, look(2000, 0, leaves=(0, 0x7002), endings=((A, 0x7001, 1100),)), instant(20))

    assert [3100, 0] == used(found.ledger)
    assert [0] == found.restarted.tolist()


def test_several_lives_between_two_looks_are_all_counted() -> None:
    """Each end is credited in its order, the first as an increase, the others whole."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger
    ends = ((A, 0x7001, 1100), (A, 0, 5000), (A, 0, 70))

    assert [1100 + 5000 + 70 + 3, 0] == used(count(ledger, look(3, 0, leaves=(0, 2), endings=ends), instant(20)).ledger)


def test_another_leaf_tells_a_restart_where_notifications_were_lost_and_the_parent_says_what_is_missing() -> None:
    """2 000 bytes regrown over 1 000 seen, 1 100 sent in the dead life: the inner class grew by 2 100."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger

    unseen = look(2000, 0, leaves=(0, 0x7002), parent_sent=3100, watched=False)

    assert [3100, 0] == used(count(ledger, unseen, instant(20)).ledger)


def test_a_leaf_queue_replaced_by_hand_is_not_a_restart() -> None:
    """The inner class grew by the increase alone, so the class lived on: nothing is counted twice."""
    ledger = count(start(), look(1000, 500), instant(10)).ledger

    unseen = look(1200, 500, leaves=(0x99, 0x7002), watched=False)

    assert [1200, 500] == used(count(ledger, unseen, instant(20)).ledger)


def test_a_leaf_queue_replaced_under_our_eyes_is_not_a_restart() -> None:
    """With every notification heard, only an end is an end."""
    ledger = count(start(), look(1000, 500), instant(10)).ledger

    assert [1200, 500] == used(count(ledger, look(1200, 500, leaves=(0x99, 0x98)), instant(20)).ledger)


@pytest.mark.parametrize("watched", [True, False])
def test_a_counter_that_fell_has_restarted(watched: bool) -> None:  # noqa: FBT001 - the two cases of one fact
    """B4, B5: what is in the counter again is added, what was used stays used."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger

    assert [1040, 0] == used(count(ledger, look(40, 0, parent_sent=1040, watched=watched), instant(20)).ledger)


def test_a_class_absent_from_a_dump_that_was_disturbed_is_not_gone() -> None:
    """Dumps miss classes while others come and go: the next look finds the same life."""
    ledger = count(start(), look(1000, 700), instant(10)).ledger
    ledger = count(ledger, look(None, 700, clean=False), instant(20)).ledger

    assert [1500, 700] == used(count(ledger, look(1500, 700), instant(30)).ledger)


def test_a_class_absent_from_a_clean_dump_is_gone_and_its_next_life_counts_whole() -> None:
    """What it had sent since the last look is what its inner class shows beyond the leaves."""
    ledger = count(start(), look(1000, 700), instant(10)).ledger
    ledger = count(ledger, look(None, 700, parent_sent=1900, watched=False), instant(20)).ledger

    assert [1200, 700] == used(ledger)
    assert [1250, 700] == used(count(ledger, look(50, 700, parent_sent=1950), instant(30)).ledger)


def test_a_deleted_tree_says_its_sum_and_the_sender_of_late_is_charged() -> None:
    """One notification for the whole tree: 300 bytes more than the last look knew, all from lane A."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger
    ledger = count(ledger, look(None, None, parent_sent=0, tree_endings=(1300,)), instant(20)).ledger

    assert [1300, 0] == used(ledger)
    assert [1320, 0] == used(count(ledger, look(20, 0, leaves=(8, 9)), instant(30)).ledger)


def test_what_passes_between_the_root_and_its_leaves_is_not_counted_twice() -> None:
    """The root queue is read before the leaves: what a look counted beyond it is in the sum of a deleted tree."""
    ledger = count(start(), look(1000, 0), instant(10)).ledger
    ledger = count(ledger, replace(look(1500, 0), tree_sent_bytes=1400), instant(20)).ledger
    ledger = count(ledger, look(None, None, parent_sent=0, tree_endings=(1600,)), instant(30)).ledger

    assert [1600, 0] == used(ledger)


def test_a_tree_rebuilt_while_nobody_watched_counts_whole() -> None:
    """Every leaf is another one, so the inner class is no witness: the readings are new lives."""
    ledger = count(start(), look(1000, 500), instant(10)).ledger

    assert [2500, 1300] == used(count(ledger, look(1500, 800, leaves=(0, 0), watched=False), instant(20)).ledger)


@pytest.mark.parametrize(
    ("snapshot", "now"),
    [
        (look(1500, 20, ifindex=9), instant(20)),
        (look(1500, 20, watched=False), Instant(T0 + 20, 3.0, "another boot")),
    ],
)
def test_after_a_reboot_or_on_another_interface_all_that_is_counted_is_new(snapshot: Snapshot, now: Instant) -> None:
    """B4: neither a reboot nor an interface that went and came back starts a period or forgives a byte."""
    ledger = count(start(), look(1000, 10), instant(10)).ledger

    found = count(ledger, snapshot, now).ledger

    assert [2500, 30] == used(found)
    assert ledger.accounts.period_end_at.tolist() == found.accounts.period_end_at.tolist()


def test_32_bit_counts_wrap_and_go_on() -> None:
    """Drops and overlimits are 32-bit in the kernel."""
    ledger = start(1)
    high = replace(look(100).counts, dropped_packets=np.array([0, 2**32 - 5]), overlimits=np.array([0, 7]))
    low = replace(look(100).counts, dropped_packets=np.array([0, 10]), overlimits=np.array([0, 9]))
    ledger = count(ledger, replace(look(100), counts=high), instant(10)).ledger
    ledger = count(ledger, replace(look(100), counts=low), instant(20)).ledger

    assert [2**32 + 10] == ledger.accounts.dropped_packets.tolist()
    assert [9] == ledger.accounts.overlimits.tolist()


def test_bytes_of_a_look_that_straddles_the_end_are_split_by_time() -> None:
    """B10: the look comes 2.5 s after the end of the period, 7.5 s of the 10 belong to the old one."""
    rule = periods.Rolling(100.0)
    ledger = count(start(1, rule), look(500), instant(92.5), rule).ledger

    found = count(ledger, look(1503), instant(102.5), rule)

    assert [1003 - 752] == used(found.ledger)
    assert ([0], [500 + 752], [1]) == (
        found.rolled.tolist(),
        found.ended_used_bytes.tolist(),
        found.ended_periods.tolist(),
    )
    assert T0 + 200 == found.ledger.accounts.period_end_at[0]


def test_several_ended_periods_are_split_alike() -> None:
    """1 000 bytes over 400 s that pass three ends leave the last 50 s' part, one eighth."""
    rule = periods.Rolling(100.0)
    ledger = count(start(1, rule), look(0), instant(50), rule).ledger

    found = count(ledger, look(1000), instant(450), rule)

    assert ([125], [125], [4]) == (used(found.ledger), found.ended_used_bytes.tolist(), found.ended_periods.tolist())
    assert T0 + 500 == found.ledger.accounts.period_end_at[0]


@pytest.mark.parametrize("step", [-86_400.0, -3600.0, -1.0, 1.0, 3600.0, 10 * 86_400.0])
def test_a_stepped_wall_clock_moves_no_rolling_period(step: float) -> None:
    """B15: elapsed time is the boot clock's; the period's end moves along on the wall."""
    ledger = count(start(1), look(500), instant(10)).ledger

    found = count(ledger, look(600), instant(20, wall=20 + step))

    assert [600] == used(found.ledger)
    assert step == pytest.approx(found.stepped_seconds)
    assert T0 + DAY_SECONDS == found.ledger.accounts.period_end_at[0]
    assert T0 + DAY_SECONDS + step == pytest.approx(
        found.ledger.accounts.period_end_at[0] + found.ledger.wall_offset_seconds,
    )


def test_a_stepped_wall_clock_moves_a_calendar_account_with_its_use() -> None:
    """Three days ahead, the account is in that day's period and has what it had."""
    rule = periods.Calendar(periods.Unit.DAY)
    ledger = count(start(1, rule), look(500), instant(10), rule).ledger

    found = count(ledger, look(600), instant(20, wall=20 + 3 * DAY_SECONDS), rule)

    wall_end = found.ledger.accounts.period_end_at[0] + found.ledger.wall_offset_seconds
    assert [600] == used(found.ledger)
    assert periods.calendar_bounds(rule, T0 + 3 * DAY_SECONDS)[1] == pytest.approx(wall_end)
    assert [] == found.rolled.tolist()


def test_a_calendar_period_rolls_at_local_midnight() -> None:
    """The next period begins where the calendar says, and the bytes are split there."""
    rule = periods.Calendar(periods.Unit.DAY, timezone="Europe/Berlin")
    end = periods.calendar_bounds(rule, T0)[1] - T0
    ledger = count(start(1, rule), look(0), instant(end - 5), rule).ledger

    found = count(ledger, look(1000), instant(end + 5), rule)

    assert [500] == used(found.ledger)
    assert DAY_SECONDS == found.ledger.accounts.period_end_at[0] - found.ledger.accounts.period_start_at[0]


def test_a_changed_period_length_counts_from_the_running_periods_end() -> None:
    """The running period ends when it was to end; the next one has the new length."""
    ledger = count(start(1, periods.Rolling(100.0)), look(10), instant(50), periods.Rolling(30.0)).ledger
    assert T0 + 100 == ledger.accounts.period_end_at[0]

    ledger = count(ledger, look(10), instant(101), periods.Rolling(30.0)).ledger
    assert T0 + 130 == ledger.accounts.period_end_at[0]


def test_a_removed_slice_that_comes_back_has_its_old_account() -> None:
    """B1: same use, same period, whatever happened to its class meanwhile."""
    tariffs = make_tariffs(2)
    ledger = count(start(), look(1000, 5), instant(10)).ledger
    only_b = tariffs.take(np.array([1]))
    only_b = replace(only_b, lanes=tariffs.lanes[1:])
    gone = enrolment.enrol(ledger, only_b, np.array([B]), (DAY,))
    gone = count(gone, look(None, 9, parent_sent=1309, endings=((A, 0x7001, 1300),)), instant(20)).ledger

    back = enrolment.enrol(gone, tariffs, np.array([A, B]), (DAY,))
    back = count(back, look(40, 9, leaves=(0x7003, 0x7002)), instant(30)).ledger

    assert [1340, 9] == used(back)
    assert ledger.accounts.period_end_at.tolist() == back.accounts.period_end_at.tolist()


def test_a_removed_slices_account_ends_with_its_period() -> None:
    """After its period it is nobody's; a slice of that name then begins anew."""
    ledger = count(start(), look(1000, 5), instant(10)).ledger
    only_b = replace(make_tariffs(2).take(np.array([1])), lanes=make_lanes(2)[1:])
    ledger = enrolment.enrol(ledger, only_b, np.array([B]), (DAY,))
    ledger = count(ledger, look(None, 9, endings=((A, 0x7001, 1000),)), instant(20)).ledger
    assert 2 == len(ledger.lanes)

    ledger = count(ledger, look(None, 9), instant(DAY_SECONDS + 20)).ledger
    assert ("s1",) == tuple(lane.slice_name for lane in ledger.lanes)


def test_a_slice_that_moves_to_another_class_keeps_its_account_and_both_classes_count() -> None:
    """A changed id: until the old class is gone, what either sends is the slice's."""
    ledger = count(start(1), look(1000), instant(10)).ledger
    moved = enrolment.enrol(ledger, make_tariffs(1), np.array([B]), (DAY,))
    moved = count(moved, look(1100, 50), instant(20)).ledger
    assert [1150] == used(moved)

    moved = count(moved, look(None, 60, parent_sent=1190, endings=((A, 0x7001, 1130),)), instant(30)).ledger
    assert [1190] == used(moved)
    assert 1 == len(moved.counters)


def test_slices_that_swap_their_classes_are_not_charged_twice() -> None:
    """Each class goes on as it was last seen, for its new lane."""
    ledger = count(start(), look(1000, 500), instant(10)).ledger
    swapped = enrolment.enrol(ledger, make_tariffs(2), np.array([B, A]), (DAY,))

    assert [1000 + 7, 500 + 30] == used(count(swapped, look(1030, 507), instant(20)).ledger)


def test_an_impossible_gain_is_named() -> None:
    """Ten seconds at 1 Gbit/s are 1.25 GB; 100 GB are not believable."""
    ledger = count(start(), look(0, 0), instant(10)).ledger

    found = count(ledger, look(100_000_000_000, 1_000_000_000), instant(20))

    assert [0] == accounting.implausible_rows(ledger, found, 125_000_000).tolist()
    assert [100_000_000_000, 1_000_000_000] == used(found.ledger)
