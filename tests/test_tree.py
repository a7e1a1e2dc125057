from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.lanes import UNLIMITED, Classes, Tariffs, Traffic, Verdicts
from bwexporter.kernel.tree import DEFAULT_ID, ManagedTree, burst_ns
from tests.builders import GIGABIT, make_tariffs, table

BOTH = (Traffic.NORMAL, Traffic.EXEMPT)


def make_tree(cap: int = GIGABIT // 10, line: int = GIGABIT, default: int = GIGABIT // 100) -> ManagedTree:
    """Return the tree of a device."""
    return ManagedTree("eth0", cap, line, default, 65_536)


def wanted(
    tariffs: Tariffs, tree: ManagedTree | None = None, ceiling: int = 1_000_000, guarantee: int = 125
) -> Classes:
    """Return what the tree wants under one ceiling for all."""
    settings = {"asked_ceiling_bytes_per_second": ceiling, "guarantee_bytes_per_second": guarantee}
    verdicts = table(Verdicts, len(tariffs.lanes), {"admitted_ratio": 1.0}, settings)
    return (tree or make_tree()).wanted(tariffs, verdicts)


def test_lanes_stand_where_the_layout_says() -> None:
    """Normal lanes at 0x1000 + id, exempt ones at 0x8000 + id."""
    tariffs = make_tariffs(4, traffic=[*BOTH, *BOTH], slice_id=[0, 0, DEFAULT_ID, DEFAULT_ID])
    assert list(map(hex, make_tree().handles(tariffs))) == ["0x11000", "0x18000", "0x17fff", "0x1efff"]


def test_the_trunk_comes_first_and_parents_before_children() -> None:
    """So that a plan in this order can be carried out."""
    classes = wanted(make_tariffs(2, traffic=BOTH))
    assert list(map(hex, classes.handle)) == ["0x10001", "0x10010", "0x10020", "0x11001", "0x18002"]
    assert list(map(hex, classes.parent)) == ["0x10000", "0x10001", "0x10001", "0x10010", "0x10020"]
    assert classes.leaf.tolist() == [0, 0, 0, 1, 1]


def test_the_trunk_holds_the_node_cap_and_the_line() -> None:
    """1:1 and 1:20 go up to the line rate, 1:10 to the node cap."""
    classes = wanted(make_tariffs(1))
    assert classes.ceiling_bytes_per_second[:3].tolist() == [GIGABIT, GIGABIT // 10, GIGABIT]


@pytest.mark.parametrize("cap", [1, 125, GIGABIT // 2, GIGABIT - 1, GIGABIT, 2 * GIGABIT, UNLIMITED])
def test_the_rates_below_the_line_never_sum_above_it(cap: int) -> None:
    """Whatever the node cap is, and no rate is 0."""
    rate = wanted(make_tariffs(1), make_tree(cap=cap)).rate_bytes_per_second[:3]
    assert rate[0] == GIGABIT >= rate[1] + rate[2]
    assert (rate > 0).all()


def test_a_lane_has_its_verdict() -> None:
    """The ceiling that was asked for and the guarantee that was admitted, which the kernel needs to be above 0."""
    classes = wanted(make_tariffs(1), ceiling=77_777, guarantee=0)
    assert (classes.ceiling_bytes_per_second[3], classes.rate_bytes_per_second[3]) == (77_777, 1)


def test_unclassified_traffic_has_a_ceiling_of_its_own() -> None:
    """The normal lane of _default never goes above it; nobody else is concerned."""
    tariffs = make_tariffs(3, traffic=[*BOTH, Traffic.NORMAL], slice_id=[DEFAULT_ID, DEFAULT_ID, 5])
    ceilings = wanted(tariffs, make_tree(default=9_999)).ceiling_bytes_per_second[3:]
    assert ceilings.tolist() == [9_999, 1_000_000, 1_000_000]


@pytest.mark.parametrize("shares", [[1, 3], [1, 16], [2, 5, 7]])
def test_shares_are_held_for_packets_of_any_size(shares: list[int]) -> None:
    """A quantum is a whole number of the largest packets."""
    quantum = wanted(make_tariffs(len(shares), share=shares)).quantum_bytes[3:]
    assert quantum.tolist() == [share * 65_536 for share in shares]


def test_large_shares_are_normalised() -> None:
    """The largest quantum is 16 packets, the others stay in ratio, down to one small packet."""
    quantum = wanted(make_tariffs(3, share=[1, 500, 1000])).quantum_bytes[3:]
    assert quantum.tolist() == [1514, 8 * 65_536, 16 * 65_536]


def test_a_huge_share_overflows_nothing() -> None:
    """Shares are user input."""
    quantum = wanted(make_tariffs(2, share=[1 << 62, 1])).quantum_bytes[3:]
    assert quantum.tolist() == [16 * 65_536, 1514]


@given(st.integers(1, UNLIMITED))
def test_a_burst_is_what_the_kernel_holds(rate: int) -> None:
    """A multiple of 64 ns, at least 1 ms and 1600 bytes, up to 32 bits of ticks."""
    (burst,) = burst_ns(np.array([rate])).tolist()
    assert burst % 64 == 0
    assert 1_000_000 <= burst <= 0xFFFFFFFF * 64
    assert burst * rate >= 1600 * 10**9 or burst == 0xFFFFFFFF * 64


def test_the_tree_owns_its_trunk_and_where_lanes_stand() -> None:
    """Whatever else is in the tree belongs to somebody else."""
    ours = [0x10001, 0x10010, 0x10020, 0x11000, 0x17FFF, 0x18000, 0x1EFFF]
    others = [0x10000, 0x10002, 0x10030, 0x10FFF, 0x1F000, 0x1FFFF, 0x21001]
    assert make_tree().owns(np.array(ours)).all()
    assert not make_tree().owns(np.array(others)).any()


def test_a_tree_without_lanes_is_the_trunk() -> None:
    """And every column is made of integers."""
    classes = wanted(make_tariffs(0))
    assert len(classes) == 3
    assert {getattr(classes, field.name).dtype for field in fields(classes)} == {np.dtype(np.int64)}
