"""What holds of every sequence of looks; the columns are held to the scalar oracle of oracle_accounting.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core import accounting, enrolment, lives, periods
from bwexporter.core.accounting import Count
from bwexporter.core.lanes import Classes, Counts, Endings, Instant, Ledger, Snapshot
from tests import oracle_accounting as oracle
from tests.builders import make_lanes, make_tariffs
from tests.oracle_accounting import Account, Clocks, Reading

T0 = 1_700_000_000.0
PARENT, FIRST = 0x1_0010, 0x1_1001

RULES = (
    (periods.Rolling(60.0), 60.0, None),
    (periods.Rolling(3600.0), 3600.0, None),
    (periods.Calendar(periods.Unit.DAY), None, oracle.utc_day),
    (periods.Calendar(periods.Unit.WEEK), None, oracle.utc_week),
    (periods.Calendar(periods.Unit.MONTH), None, oracle.utc_month),
)

amounts = st.integers(0, 2_000) | st.integers(0, 10**14)
# Sixty-fourths of a second are exact in floats, also as sums; what passes a boundary by rounding is no matter of law.
spans = st.sampled_from([0.0, 1 / 64, 1.0, 59.0, 60.0, 61.0, 600.0, 3600.0, 86_400.0]) | st.integers(0, 64 * 7200).map(
    lambda sixty_fourths: sixty_fourths / 64
)
long_spans = spans | st.integers(0, 40 * 86_400).map(float)


@dataclass(frozen=True)
class Step:
    """What happens until the next look; of each lane: what every life that ends sends, then what the last one sends."""

    seconds: float
    stepped: float
    reboot: bool
    lives: tuple[tuple[int, ...], ...]


def steps(lanes: int, seconds: st.SearchStrategy[float]) -> st.SearchStrategy[list[Step]]:
    """Draw what happens between looks at some lanes."""
    sending = st.lists(amounts, min_size=1, max_size=1) | st.lists(amounts, min_size=1, max_size=3)
    stepping = st.just(0.0) | st.sampled_from([-90_000.0, -3600.0, -0.75, -0.25, 0.25, 0.75, 3600.0, 2_800_000.0])
    one = st.builds(
        Step,
        seconds=seconds,
        stepped=stepping,
        reboot=st.sampled_from([False] * 7 + [True]),
        lives=st.tuples(*[sending.map(tuple) for _ in range(lanes)]),
    )
    return st.lists(one, min_size=1, max_size=12)


class Machine:
    """Counters and clocks that steps move; packets are of 100 bytes, begun ones counted."""

    def __init__(self, lanes: int) -> None:
        self.bytes = [0] * lanes
        self.clocks = Clocks(T0, 100.0, "boot 0")

    def move(self, step: Step) -> tuple[list[Reading], Clocks]:
        """Return what a look finds after a step."""
        if step.reboot:
            self.bytes = [0] * len(self.bytes)
        readings = []
        for lane, sent in enumerate(step.lives):
            # A reboot tells no ends: what lives between two boots sent nobody knows.
            told, (*before, last) = [], sent[-1:] if step.reboot else sent
            for amount in before:
                told.append(_counted(self.bytes[lane] + amount))
                self.bytes[lane] = 0
            self.bytes[lane] += last
            readings.append(Reading(tuple(told), _counted(self.bytes[lane])))
        clocks = self.clocks
        boot = (10.0, clocks.boot_id + "'") if step.reboot else (clocks.boot + step.seconds, clocks.boot_id)
        self.clocks = Clocks(clocks.wall + step.seconds + step.stepped, *boot)
        return readings, self.clocks


def _counted(sent: int) -> tuple[int, int]:
    return sent, -(-sent // 100)


def snapshot_of(readings: list[Reading], ifindex: int = 2) -> Snapshot:
    """Return the look that finds these readings, one class a lane, all notifications heard."""
    rows = len(readings)
    zero, handle = np.zeros(rows, np.int64), FIRST + np.arange(rows)
    sent = np.array([reading.now[0] for reading in readings])
    packets = np.array([reading.now[1] for reading in readings])
    ends = [(FIRST + at, 0, *ended, 0, 0) for at, reading in enumerate(readings) for ended in reading.ended]
    return Snapshot(
        device="eth0",
        ifindex=ifindex,
        tree_present=True,
        clean=True,
        watched_since_last_look=True,
        classes=Classes(handle, zero + PARENT, zero + 1, zero + 1, zero, zero, zero, zero.copy()),
        counts=Counts(sent, packets, zero.copy(), zero.copy()),
        backlog_bytes=zero.copy(),
        endings=Endings(*np.array(ends, np.int64).reshape(-1, 6).T.copy()),
        tree_endings_bytes=(),
        tree_sent_bytes=int(sent.sum()),
        direct_packets=0,
    )


def instant(clocks: Clocks) -> Instant:
    """Return the clocks as the core reads them."""
    return Instant(clocks.wall, clocks.boot, clocks.boot_id)


class Columns:
    """The accounts of some lanes as the core keeps them; lane k has the rule `rules[k]`."""

    def __init__(self, rules: list[int], clocks: Clocks, order: list[int] | None = None) -> None:
        self.order = order or list(range(len(rules)))
        self.rules = tuple(rule for rule, _, _ in RULES)
        self.period_rule = np.array(rules)[self.order]
        lanes = make_lanes(len(rules))
        tariffs = make_tariffs(
            len(rules), lanes=tuple(lanes[at] for at in self.order), period_rule=self.period_rule.copy()
        )
        ledger = enrolment.open_ledger("eth0", 2, instant(clocks))
        self.ledger: Ledger = enrolment.enrol(ledger, tariffs, FIRST + np.array(self.order), self.rules)

    def count(self, snapshot: Snapshot, clocks: Clocks) -> Count:
        """Count a look, and go on from there."""
        counted = accounting.advance(
            self.ledger, snapshot, instant(clocks), period_rule=self.period_rule, rules=self.rules
        )
        self.ledger = counted.ledger
        return counted

    def column(self, name: str) -> list[float]:
        """Return a column of the accounts in the lanes' own order."""
        column = getattr(self.ledger.accounts, name)
        return [column[self.order.index(lane)] for lane in range(len(self.order))]


def opened(rules: list[int], clocks: Clocks) -> list[Account]:
    """Return the oracle's accounts."""
    return [oracle.open_account(clocks, *RULES[rule][1:]) for rule in rules]


THREE = st.lists(st.integers(0, len(RULES) - 1), min_size=3, max_size=3)


@settings(max_examples=300, deadline=None)
@given(rules=THREE, happened=steps(3, long_spans))
def test_the_columns_equal_the_oracle(rules: list[int], happened: list[Step]) -> None:
    """Whatever happens between looks, every account is what the law says of that lane alone."""
    machine = Machine(3)
    columns, accounts = Columns(rules, machine.clocks), opened(rules, machine.clocks)

    for step in happened:
        readings, clocks = machine.move(step)
        columns.count(snapshot_of(readings), clocks)
        accounts = [oracle.count(account, reading, clocks) for account, reading in zip(accounts, readings, strict=True)]

        assert [account.used for account in accounts] == columns.column("used_bytes")
        assert [account.sent for account in accounts] == columns.column("sent_bytes")
        assert [account.packets for account in accounts] == columns.column("sent_packets")
        assert [account.start for account in accounts] == columns.column("period_start_at")
        assert [account.end for account in accounts] == columns.column("period_end_at")


@settings(max_examples=150, deadline=None)
@given(rules=THREE, happened=steps(3, spans), order=st.permutations(range(3)))
def test_row_order_does_not_matter(rules: list[int], happened: list[Step], order: list[int]) -> None:
    """Lanes in another order have the same accounts."""
    machine = Machine(3)
    straight, shuffled = Columns(rules, machine.clocks), Columns(rules, machine.clocks, order)

    for step in happened:
        readings, clocks = machine.move(step)
        straight.count(snapshot_of(readings), clocks)
        shuffled.count(snapshot_of(readings), clocks)

    for name in ("used_bytes", "sent_bytes", "sent_packets", "period_start_at", "period_end_at", "recent_bytes"):
        assert straight.column(name) == shuffled.column(name)


@settings(max_examples=150, deadline=None)
@given(rules=THREE, happened=steps(3, spans))
def test_two_advances_over_one_snapshot_equal_one(rules: list[int], happened: list[Step]) -> None:
    """A look that is counted twice, the second time without its news, changes no account."""
    machine = Machine(3)
    once, twice = Columns(rules, machine.clocks), Columns(rules, machine.clocks)

    for step in happened:
        readings, clocks = machine.move(step)
        once.count(snapshot_of(readings), clocks)
        twice.count(snapshot_of(readings), clocks)
        twice.count(snapshot_of([replace(reading, ended=()) for reading in readings]), clocks)

        for name in ("used_bytes", "sent_bytes", "sent_packets", "period_start_at", "period_end_at"):
            assert once.column(name) == twice.column(name)


@settings(max_examples=150, deadline=None)
@given(rules=THREE, happened=steps(3, spans))
def test_used_falls_only_where_a_period_has_ended(rules: list[int], happened: list[Step]) -> None:
    """Neither a step of the clock nor a reboot nor a class made anew gives anything back; sent never falls at all."""
    machine = Machine(3)
    columns = Columns(rules, machine.clocks)

    for step in happened:
        used, sent = columns.column("used_bytes"), columns.column("sent_bytes")
        readings, clocks = machine.move(step)
        rolled = columns.count(snapshot_of(readings), clocks).rolled.tolist()

        assert all(
            after >= before
            for row, (before, after) in enumerate(zip(used, columns.column("used_bytes"), strict=True))
            if row not in rolled
        )
        assert all(after >= before for before, after in zip(sent, columns.column("sent_bytes"), strict=True))


@settings(max_examples=150, deadline=None)
@given(rules=THREE, happened=steps(3, long_spans))
def test_the_parts_of_a_straddling_look_sum_to_the_whole(rules: list[int], happened: list[Step]) -> None:
    """What the ended period got, what the middle ones got and what the new one begins with are all that was sent."""
    machine = Machine(3)
    columns, accounts = Columns(rules, machine.clocks), opened(rules, machine.clocks)

    for step in happened:
        before = columns.column("used_bytes")
        readings, clocks = machine.move(step)
        counted = columns.count(snapshot_of(readings), clocks)
        accounts = [oracle.count(account, reading, clocks) for account, reading in zip(accounts, readings, strict=True)]

        for at, row in enumerate(counted.rolled.tolist()):
            first, *middle, last = accounts[row].parts
            gained = counted.ledger.accounts.recent_bytes[row]
            assert counted.ended_used_bytes[at] == before[row] + first
            assert counted.ended_periods[at] == 1 + len(middle)
            assert first + sum(middle) + last == gained
            assert min(first, *middle, last) >= 0


@settings(max_examples=60, deadline=None)
@given(happened=st.lists(st.tuples(st.integers(1, 59 * 64), amounts), min_size=30, max_size=120))
def test_over_many_rolled_periods_the_sum_is_what_was_sent(happened: list[tuple[int, int]]) -> None:
    """Every byte of an hour of looks stands in exactly one of its minutes."""
    machine = Machine(1)
    columns, ended = Columns([0], machine.clocks), 0

    for sixty_fourths, amount in happened:
        readings, clocks = machine.move(Step(sixty_fourths / 64, 0.0, reboot=False, lives=((amount,),)))
        counted = columns.count(snapshot_of(readings), clocks)
        ended += int(counted.ended_used_bytes.sum())

    assert sum(amount for _, amount in happened) == ended + columns.column("used_bytes")[0]


@settings(max_examples=100, deadline=None)
@given(happened=steps(2, spans), uncounted=st.integers(0, 11))
def test_a_look_that_was_not_counted_loses_nothing(happened: list[Step], uncounted: int) -> None:
    """What ended before it is taken along by the next look, which then finds what both would have found."""
    quiet = [replace(step, reboot=False, stepped=0.0) for step in happened]
    machine = Machine(2)
    columns, every = Columns([1, 1], machine.clocks), Columns([1, 1], machine.clocks)
    kept = None

    for at, step in enumerate(quiet):
        readings, clocks = machine.move(step)
        seen = snapshot_of(readings)
        every.count(seen, clocks)
        if at == uncounted and at < len(quiet) - 1:
            kept = seen
            continue
        columns.count(lives.joined(kept, seen) if kept else seen, clocks)
        kept = None

    assert every.column("sent_bytes") == columns.column("sent_bytes")


@pytest.mark.parametrize("rule", range(len(RULES)))
def test_the_oracle_agrees_on_where_the_first_period_lies(rule: int) -> None:
    """A rolling period begins at first sight, a calendar's is whole."""
    columns, (account,) = Columns([rule], Clocks(T0, 1.0, "b")), opened([rule], Clocks(T0, 1.0, "b"))

    assert (account.start, account.end) == (
        columns.column("period_start_at")[0],
        columns.column("period_end_at")[0],
    )
