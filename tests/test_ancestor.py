"""The ancestor's bugs, one named test each: what it did, what we do.

Each test ends with what a model of the ancestor (ancestor_bwmon.py) makes of the same: none of them could pass on its
behaviour. Bugs that concern counting, judging, applying, time or state stand below. The others belong to other rooms:

| bug | about | room |
| --- | --- | --- |
| B12 | traffic that no classifier matches, IPv6 | the classifier |
| B29, B30, B31 | which mail is sent, to whom and when | alert rules; that each lane tells its own events is B28 here |
| B38 | defaults taken from PLC's interfaces | test_sources_plc.py; that no reading changes a default stands here |
| B39 | MAC addresses in capitals | test_sources_plc.py |
| B40 | loans | test_loans.py |
"""

from __future__ import annotations

import errno
import re
import sqlite3
from contextlib import closing
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwexporter.config import load_config
from bwexporter.core import policy
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, UNLIMITED, Act, Reason, Traffic, Verdicts
from bwexporter.core.periods import Rolling
from bwexporter.core.report import Event, EventKind, Report
from bwexporter.kernel.tree import DEFAULT_ID, ManagedTree
from bwexporter.slices.ids import allot_ids
from bwexporter.slices.records import LARGEST_ID, SMALLEST_ID, read_record
from bwexporter.slices.tariffs import assemble
from bwexporter.stages import Pace
from bwexporter.state import open_state
from tests.ancestor_bwmon import (
    DEFAULT_THRESHOLD_BYTES,
    KIB,
    Bwmon,
    Slivers,
    by_number,
    change,
    differs_in_kind,
    differs_in_text,
    differs_in_units,
    exempt_ceiling_bit,
    full_kbit,
    kbyte_bytes,
    load,
    passes_for,
    poll_the_cap,
    read_tags,
    remove_orphans,
    save_as_text,
    set_ceiling,
    share_differs,
    shares,
    switch_all_off,
    threshold_bytes,
    unhandled,
)
from tests.ancestor_bwmon import guarantees as quartered
from tests.ancestor_bwmon import handles as classes_of
from tests.builders import DAY_SECONDS, GIGABIT, NOON, make_accounts, make_ledger, make_tariffs, table
from tests.fake_kernel import FakeClass
from tests.node import DEVICE, Node
from tests.state_cases import save

MBIT = 125_000
MEGABYTE = 1_000_000
SOON: dict[str, Any] = {"allowance_bytes": 100 * MEGABYTE, "threshold_bytes": 5 * MEGABYTE}


def running(ids: dict[str, int] | None = None, **given: Any) -> Node:
    """Return a node whose tree has been built and seen."""
    node = Node(ids or {"ann": 1, "bob": 2}, **{**SOON, **given})
    turn(node)
    turn(node)
    return node


def turn(node: Node, seconds: float = 1.0) -> Report:
    """Take a turn some time later."""
    node.pass_seconds(seconds)
    return node.whole_turn()


def send(node: Node, name: str = "ann", size: int = 8 * MEGABYTE, traffic: Traffic = Traffic.NORMAL) -> int:
    """Send for as long as it takes; return what passed."""
    sent = node.kernel.offer(DEVICE, node.class_of(name, traffic), size, seconds=1e4)
    assert sent == size
    return sent


def ceiling(node: Node, name: str = "ann", traffic: Traffic = Traffic.NORMAL) -> int:
    """Return the ceiling that the kernel has."""
    root = node.kernel.links[DEVICE].root
    assert root is not None
    return root.classes[node.class_of(name, traffic)].ceiling


def reason(report: Report, node: Node, name: str = "ann", traffic: Traffic = Traffic.NORMAL) -> Reason:
    """Return why a lane's ceiling is what it is."""
    return Reason(int(report.devices[0].verdicts.reason[node.row(name, traffic)]))


def judge_one(used: int, remaining: float, **tariff: Any) -> Verdicts:
    """Judge one lane that has used so much with so many seconds to go."""
    ledger = make_ledger(make_accounts(used_bytes=used, period_end_at=NOON + remaining))
    tariffs = make_tariffs(**tariff)
    return policy.judge(
        ledger,
        tariffs,
        period_seconds=np.array([DAY_SECONDS]),
        held_ceiling_bytes_per_second=tariffs.full_bytes_per_second,
        cap_bytes_per_second=GIGABIT,
        line_rate_bytes_per_second=GIGABIT,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=False,
    )


def records_of(*written: dict[str, Any]) -> list[Any]:
    """Read records; what is wrong with them costs what the record's rules say."""
    return [read_record(one, source="slices.yml", line=1)[0] for one in written]


def tariffs_of(tmp_path: Path, *written: dict[str, Any], defaults: str = "") -> Any:
    """Return the tariffs of eth0 for these records, a row a lane."""
    path = tmp_path / "bwexporter.yml"
    path.write_text("devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\n" + defaults)
    records = [record for record in records_of(*written) if record is not None]
    ids, _ = allot_ids(records, {})
    limits = {"cap_bytes_per_second": 100 * MBIT, "line_rate_bytes_per_second": GIGABIT}
    return assemble(load_config(path), records, ids, device="eth0", **limits)[0]


def row_of(tariffs: Any, name: str, traffic: Traffic = Traffic.NORMAL) -> int:
    """Return the row of a lane."""
    rows = [row for row, lane in enumerate(tariffs.lanes) if (lane.slice_name, lane.traffic) == (name, traffic)]
    return rows[0]


def removed_and_back(node: Node, name: str = "ann", seconds: float = 60.0) -> None:
    """Remove a slice, and bring it back later under another id."""
    turn(node)
    number = node.ids.pop(name)
    node.enlist()
    turn(node, seconds)
    node.ids[name] = number + 50
    node.enlist()
    turn(node)
    turn(node)


def test_b01_a_slice_that_is_deleted_and_created_again_gets_no_fresh_quota() -> None:
    """It had a full quota, a fresh day and no cap; ours has its use, its period and its cap."""
    node = running()
    sent = send(node)
    began = node.account("ann")["period_start_at"]
    removed_and_back(node)
    account = node.account("ann")
    assert (account["used_bytes"], account["period_start_at"]) == (sent, began)
    assert reason(turn(node), node) is Reason.OVER_THRESHOLD
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0})
    old.take_a_pass(1.0, {"ann": sent})
    assert old.accounts["ann"].ceiling < GIGABIT
    old.take_a_pass(2.0, {})
    old.take_a_pass(62.0, {"ann": 0})
    theirs = old.accounts["ann"]
    assert (theirs.used_bytes, theirs.started_at, theirs.ceiling) == (0, 62.0, GIGABIT)


def test_b02_a_returned_slice_breaks_no_turn_and_old_accounts_are_forgotten_in_time() -> None:
    """It raised a TypeError in every pass and kept the dead for ever; ours forgets them as their period ends."""
    node = running(rule=Rolling(3600.0))
    send(node)
    turn(node)
    del node.ids["ann"]
    node.enlist()
    turn(node)
    assert "ann" in {lane.slice_name for lane in node.turns.desks[DEVICE].ledger.lanes}
    turn(node, 3600.0)
    turn(node)
    assert "ann" not in {lane.slice_name for lane in node.turns.desks[DEVICE].ledger.lanes}
    old = Bwmon(**SOON, version="S1")
    old.take_a_pass(0.0, {"ann": 0})
    old.take_a_pass(60.0, {})
    assert unhandled(lambda: old.take_a_pass(120.0, {"ann": 0})) == "TypeError"
    old.take_a_pass(10 * DAY_SECONDS, {})
    assert "ann" in old.dead


def test_b03_a_slice_that_returns_after_its_period_has_its_class_at_once() -> None:
    """It had no class for a poll, 10 to 15 minutes in the default class; ours is made in the very turn."""
    node = running(rule=Rolling(3600.0))
    turn(node)
    del node.ids["ann"]
    node.enlist()
    turn(node, 3601.0)
    node.ids["ann"] = 1
    node.enlist()
    turn(node)
    assert ceiling(node) > 0
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0})
    old.take_a_pass(60.0, {})
    old.take_a_pass(DAY_SECONDS + 1.0, {}, wanted={"ann"}, read_again={"ann": 0})
    assert "ann" not in old.accounts


@pytest.mark.parametrize("reboot", [False, True])
def test_b04_a_rebuilt_tree_or_a_reboot_is_no_escape(*, reboot: bool) -> None:
    """It reset every slice's period; ours goes on with used and period, and caps the new class."""
    node = running()
    sent = send(node)
    turn(node)
    began = node.account("ann")["period_start_at"]
    if reboot:
        node.kernel.remove_link(DEVICE)
        node.kernel.add_link(DEVICE)
        node.boot_id, node.boot_seconds = "boot 2", 5.0
        node.start()
    else:
        node.kernel.delete_root(DEVICE)
    turn(node)
    account = node.account("ann")
    assert (account["used_bytes"], account["period_start_at"]) == (sent, began)
    assert ceiling(node) < GIGABIT
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": MEGABYTE})
    old.take_a_pass(1.0, {"ann": MEGABYTE + sent})
    assert old.accounts["ann"].ceiling < GIGABIT
    old.take_a_pass(2.0, {"ann": 0})
    theirs = old.accounts["ann"]
    assert (theirs.used_bytes, theirs.started_at, theirs.ceiling) == (0, 2.0, GIGABIT)


def test_b05_a_lost_state_lifts_no_cap(tmp_path: Path) -> None:
    """It took the counters as its baseline and lifted the caps; ours keep their ceilings, and used is the counter."""
    node = running()
    sent = send(node)
    turn(node)
    capped = ceiling(node)
    node.shelf.ledgers.clear()
    node.start()
    (tmp_path / "state.db").write_bytes(b"nothing of ours")
    state = open_state(tmp_path / "state.db", now_wall_seconds=node.wall_seconds)
    desk = node.turns.desks[DEVICE]
    node.turns.desks[DEVICE] = replace(desk, lost_at_wall_seconds=state.lost_at_wall_seconds)
    state.close()
    assert state.lost
    report = turn(node)
    assert (ceiling(node), reason(report, node)) == (capped, Reason.FROZEN)
    assert node.account("ann")["used_bytes"] == sent
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0})
    old.take_a_pass(1.0, {"ann": sent})
    assert old.accounts["ann"].ceiling < GIGABIT
    old.lose_state()
    old.take_a_pass(2.0, {"ann": sent})
    assert (old.accounts["ann"].used_bytes, old.accounts["ann"].ceiling) == (0, GIGABIT)


def test_b06_a_counter_that_regrew_past_its_old_value_is_a_new_counter() -> None:
    """It counted 9.4 GB of 10.4 GB; ours counts both lives."""
    node = running()
    sent = send(node, size=3 * MEGABYTE)
    turn(node)
    handle = node.class_of("ann")
    node.kernel.delete_class(DEVICE, handle)
    node.kernel.create_class(DEVICE, FakeClass(handle, 0x10010, GIGABIT, GIGABIT, ceiling_burst_ns=10**6))
    sent += send(node, size=4 * MEGABYTE)
    turn(node)
    assert node.account("ann")["used_bytes"] == sent
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": MEGABYTE})
    old.take_a_pass(1.0, {"ann": 4 * MEGABYTE})
    old.take_a_pass(2.0, {"ann": 4 * MEGABYTE})
    assert (old.accounts["ann"].used_bytes, sent) == (3 * MEGABYTE, 7 * MEGABYTE)


def test_b07_a_cap_is_never_above_the_slices_own_full_rate() -> None:
    """Late in the period bytes left / seconds left made 2.2 Mbit/s of 1 Mbit/s; ours is the full rate at most."""
    verdicts = judge_one(8_700_000_000, 100.0, full_bytes_per_second=MBIT)
    assert verdicts.ceiling_bytes_per_second.tolist() == [MBIT]
    assert not verdicts.capped.any()
    old = Bwmon(allowance_bytes=10_800_000_000, threshold_bytes=8_640_000_000, full=MBIT)
    assert old.ceiling(8_700_000_000, DAY_SECONDS - 100.0) > MBIT


def test_b08_the_threshold_follows_the_slices_own_allowance(tmp_path: Path) -> None:
    """A slice with net_max_kbyte=1000000 ran free to 9.5 GB; ours is at its threshold at 80 % of its own."""
    tariffs = tariffs_of(tmp_path, {"name": "ann", "tags": {"net_max_kbyte": 1_000_000}})
    row = row_of(tariffs, "ann")
    assert tariffs.allowance_bytes[row] == 1_024_000_000
    assert tariffs.threshold_bytes[row] == 819_200_000
    assert threshold_bytes({"net_max_kbyte": 1_000_000}) > 9 * tariffs.allowance_bytes[row]


def test_b09_the_next_look_comes_before_a_slice_can_run_away() -> None:
    """It sampled every 10 to 15 minutes, in which 112 GB pass; ours paces a lane that could, however long the wait."""
    node = running(pace=Pace(600.0, 1.0, 2.0))
    turn(node, 600.0)
    sent = node.kernel.offer(DEVICE, node.class_of("ann"), 10**12, seconds=600.0)
    assert sent <= SOON["threshold_bytes"] * 1.3
    assert turn(node, 600.0).next_look_seconds < 600.0 or ceiling(node) < GIGABIT
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0})
    assert old.accounts["ann"].ceiling * 600.0 == 750 * SOON["allowance_bytes"]


def test_b10_a_period_ends_at_its_end_and_nobodys_bytes_are_hidden() -> None:
    """Bytes between the end and the next pass were forgiven; ours are split by time, and direct packets are told."""
    node = running(rule=Rolling(3600.0), allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED)
    ends_at = node.account("ann")["period_end_at"]
    before = ends_at - node.turns.desks[DEVICE].ledger.ledger_seconds
    send(node, size=9 * MEGABYTE)
    send(node, DEFAULT_SLICE, size=MEGABYTE)
    turn(node, before + before / 2)
    assert (node.account("ann")["period_start_at"], node.account("ann")["used_bytes"]) == (ends_at, 3 * MEGABYTE)
    assert node.account(DEFAULT_SLICE)["sent_bytes"] == MEGABYTE
    root = node.kernel.links[DEVICE].root
    assert root is not None
    root.direct_packets += 7
    turn(node)
    assert node.turns.desks[DEVICE].ledger.direct_packets == 7
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0, DEFAULT_SLICE: 0})
    old.take_a_pass(DAY_SECONDS + before / 2, {"ann": 9 * MEGABYTE, DEFAULT_SLICE: MEGABYTE})
    theirs = old.accounts["ann"]
    assert (theirs.started_at, theirs.used_bytes) == (DAY_SECONDS + before / 2, 0)
    assert old.accounts[DEFAULT_SLICE].used_bytes == 0


def test_b11_the_end_of_one_period_and_the_start_of_the_next_are_no_double_quota_in_a_moment() -> None:
    """All at the end and all at the start were twice the quota in minutes; ours paces both sides of the boundary."""
    remaining = 1.0
    last = judge_one(0, remaining, **SOON).ceiling_bytes_per_second[0]
    assert last * remaining < 2 * SOON["allowance_bytes"]
    assert last * (12.0 - remaining) <= SOON["allowance_bytes"]
    old = Bwmon(**SOON)
    sides = [old.ceiling(0, DAY_SECONDS - remaining) * remaining, old.ceiling(0, 0.0) * (12.0 - remaining)]
    assert min(sides) > SOON["allowance_bytes"]


def test_b13_no_time_is_divided_by_nothing() -> None:
    """The clock was read twice, and 24 h - 24 h raised ZeroDivisionError; ours reads once and divides by no zero."""
    with np.errstate(divide="raise", invalid="raise"):
        for remaining in (0.0, 1e-12, -5.0):
            assert judge_one(9_000_000_000, remaining).ceiling_bytes_per_second[0] > 0
    assert unhandled(lambda: Bwmon(**SOON).ceiling(9_000_000_000, DAY_SECONDS)) == "ZeroDivisionError"


def test_b14_over_the_allowance_the_ceiling_is_the_floor_and_no_negative_number() -> None:
    """Only the smallest rate saved the negative quotient; ours is the floor, with a reason of its own."""
    verdicts = judge_one(20_000_000_000, 40_000.0, guarantee_bytes_per_second=1)
    assert verdicts.ceiling_bytes_per_second.tolist() == verdicts.floor_bytes_per_second.tolist()
    assert verdicts.ceiling_bytes_per_second[0] > 0
    assert Reason(int(verdicts.reason[0])) is Reason.OVER_ALLOWANCE
    old = Bwmon(allowance_bytes=10_800_000_000, threshold_bytes=8_640_000_000, version="S0")
    assert old.ceiling(20_000_000_000, DAY_SECONDS - 40_000.0) < 0


@pytest.mark.parametrize("step", [-3 * 86_400.0, 3 * 86_400.0])
def test_b15_a_stepped_clock_neither_lifts_a_cap_nor_prolongs_it(step: float) -> None:
    """Forward lifted all caps, backward extended them by the jump; ours does not notice."""
    node = running()
    send(node)
    turn(node)
    capped, ends_at = ceiling(node), node.account("ann")["period_end_at"]
    node.wall_seconds += step
    report = turn(node)
    assert (ceiling(node), node.account("ann")["period_end_at"]) == (capped, ends_at)
    assert EventKind.CLOCK_STEPPED in {event.kind for event in report.events}
    turn(node, 86_400.0)
    assert node.account("ann")["used_bytes"] == 0
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0})
    old.take_a_pass(1.0, {"ann": 8 * MEGABYTE})
    old.take_a_pass(2.0 + step, {"ann": 8 * MEGABYTE})
    assert (old.accounts["ann"].ceiling == GIGABIT) == (step > 0)
    if step < 0:
        old.take_a_pass(2.0 + step + DAY_SECONDS, {"ann": 8 * MEGABYTE})
        assert (old.accounts["ann"].started_at, old.accounts["ann"].used_bytes) == (0.0, 8 * MEGABYTE)


def test_b16_an_unknown_rate_is_no_number(tmp_path: Path) -> None:
    """int(-1 / 1000) became 0, a rate of nothing; ours: -1 is refused, and the default holds."""
    record, faults = read_record({"name": "ann", "tags": {"net_max_rate": -1}}, source="slices.yml", line=1)
    assert record is not None
    assert len(faults) == 1
    tariffs = tariffs_of(tmp_path, {"name": "ann", "tags": {"net_max_rate": -1}})
    assert tariffs.full_bytes_per_second[row_of(tariffs, "ann")] == 100 * MBIT
    assert full_kbit(-1) == 0


def test_b17_a_kbyte_of_planetlab_is_1024_bytes_and_the_law_knows_bytes_alone(tmp_path: Path) -> None:
    """Two programs disagreed by 2.4 %; ours converts at the door, and volumes elsewhere say their unit."""
    tags = tariffs_of(tmp_path, {"name": "ann", "tags": {"net_max_kbyte": 1_000_000}})
    plain = tariffs_of(tmp_path, {"name": "ann", "normal": {"allowance": "1000000KiB"}})
    assert tags.allowance_bytes[row_of(tags, "ann")] == plain.allowance_bytes[row_of(plain, "ann")] == 1_024_000_000
    assert [kbyte_bytes(1_000_000, by=whom) for whom in ("bwmon", "plc")] == [1_024_000_000, 1_000_000_000]


def assert_nothing_is_changed_twice(node: Node) -> None:
    """See that a look just after a turn finds nothing to change, of a capped lane and of one that is not."""
    send(node)
    outcomes = turn(node).devices[0].outcomes
    assert outcomes is not None
    assert not outcomes.errno.any()
    changes = turn(node, 0.0).devices[0].changes
    assert (len(changes), changes.build_tree) == (0, False)


def test_b18_what_is_right_already_is_left_alone() -> None:
    """It compared kbit/s with bit/s, so that all differed always; ours knows bytes per second alone."""
    assert_nothing_is_changed_twice(running())
    assert differs_in_units(GIGABIT, GIGABIT)


def test_b19_a_guarantee_is_compared_with_a_guarantee() -> None:
    """It compared the least rate with the running greatest one; ours compares like with like."""
    assert_nothing_is_changed_twice(running(guarantee_bytes_per_second=12_345))
    assert differs_in_kind(12_345, GIGABIT)


def test_b20_a_verdict_is_what_the_kernel_can_hold() -> None:
    """Unrounded and unclamped rates never equalled the running ones; ours are rounded as the kernel holds them."""
    assert_nothing_is_changed_twice(running(full_bytes_per_second=124_999))
    assert differs_in_text(124_999 * 8)


def test_b21_a_node_cap_that_prints_badly_is_a_node_cap() -> None:
    """1234567 bit/s, printed as 1234Kbit, re-made the tree at each poll; ours is read back as a number."""
    assert_nothing_is_changed_twice(running(cap_bytes_per_second=154_320))
    assert poll_the_cap(1_234_567, 1_234_567, {0x11001: MEGABYTE}) == {0x11001: 0}


def test_b21_another_node_cap_rebuilds_nothing_and_loses_no_counter() -> None:
    """It deleted the tree, every counter and so every slice's day; ours changes one ceiling in place."""
    node = running()
    sent = send(node, size=MEGABYTE)
    turn(node)
    root = node.kernel.links[DEVICE].root
    desk = node.turns.desks[DEVICE]
    tree = ManagedTree(DEVICE, 1_234_567, GIGABIT, 1_234_567, 65_536)
    full = np.minimum(desk.tariffs.full_bytes_per_second, 1_234_567)
    node.turns.enlist(replace(desk, tree=tree, tariffs=replace(desk.tariffs, full_bytes_per_second=full)))
    report = turn(node)
    assert Act.CREATE not in report.devices[0].changes.act
    assert node.kernel.links[DEVICE].root is root
    assert root is not None
    assert root.classes[node.class_of("ann")].sent_bytes == sent
    assert root.classes[0x10010].ceiling == 1_234_567
    assert poll_the_cap(1_234_567 * 8, GIGABIT * 8, {0x11001: sent}) == {0x11001: 0}


def test_b22_a_share_that_somebody_changed_is_repaired() -> None:
    """It copied the running share over the wanted one before it compared; ours compares wanted with actual."""
    node = running()
    root = node.kernel.links[DEVICE].root
    assert root is not None
    known = root.classes[node.class_of("ann")]
    quantum, known.quantum = known.quantum, 77
    report = turn(node)
    assert known.quantum == quantum
    assert EventKind.DRIFT in {event.kind for event in report.events}
    assert not share_differs(quantum, 77)


def test_b23_a_change_sends_every_setting() -> None:
    """It set the greatest rates alone, and lost share and least rate; ours keep all of them."""
    node = running(guarantee_bytes_per_second=5000, share=3)
    root = node.kernel.links[DEVICE].root
    assert root is not None
    before = replace(root.classes[node.class_of("ann")])
    send(node)
    turn(node)
    after = root.classes[node.class_of("ann")]
    assert after.ceiling < before.ceiling
    assert (
        (after.rate, after.quantum, after.burst_ns)
        == (before.rate, before.quantum, before.burst_ns)
        == (
            5000,
            before.quantum,
            before.burst_ns,
        )
    )
    known = {"rate": 5000, "share": 3, "ceiling": GIGABIT}
    assert set_ceiling(known, after.ceiling) == {"rate": 125, "share": 1, "ceiling": after.ceiling}


def test_b24_the_exempt_lane_has_a_share_of_its_own(tmp_path: Path) -> None:
    """net_i2_share was read and never applied; ours stands in the exempt class's quantum."""
    tariffs = tariffs_of(tmp_path, {"name": "ann", "tags": {"net_share": 1, "net_i2_share": 4}})
    tree = ManagedTree("eth0", 100 * MBIT, GIGABIT, 100 * MBIT, 65_536)
    given = {"asked_ceiling_bytes_per_second": MBIT, "guarantee_bytes_per_second": 125}
    wanted = tree.wanted(tariffs, table(Verdicts, len(tariffs), {"admitted_ratio": 1.0}, given))
    quantum = dict(zip(wanted.handle.tolist(), wanted.quantum_bytes.tolist(), strict=True))
    handles = tree.handles(tariffs)
    normal, exempt = (quantum[int(handles[row_of(tariffs, "ann", traffic)])] for traffic in Traffic)
    assert exempt == 4 * normal
    assert shares({"net_share": 1, "net_i2_share": 4}) == (1, 1)


def test_b25_no_id_is_another_ones_class_and_no_sum_of_guarantees_breaks_the_cap() -> None:
    """Ids from 0x1000 on were other slices' classes, and guarantees were never summed; ours cannot meet."""
    tree = ManagedTree(DEVICE, GIGABIT, GIGABIT, GIGABIT, 65_536)
    ids = [0, SMALLEST_ID, 0xFFF, 0x1000, 0x1234, 0x2001, LARGEST_ID, DEFAULT_ID]
    traffics = [traffic for _ in ids for traffic in Traffic]
    tariffs = make_tariffs(2 * len(ids), traffic=traffics, slice_id=np.repeat(ids, 2))
    handles = tree.handles(tariffs).tolist()
    assert len(set(handles) - {0x10001, 0x10010, 0x10020}) == len(handles)
    guarantees, ratio = policy.admit(
        np.full(10, GIGABIT // 4),
        np.zeros(10, bool),
        cap_bytes_per_second=GIGABIT,
        line_rate_bytes_per_second=GIGABIT,
    )
    assert guarantees.sum() <= GIGABIT
    assert ratio < 1.0
    assert classes_of(0x1234)[0] == classes_of(0x234)[0]
    assert classes_of(0x2001)[1] == classes_of(1)[1]
    assert sum(quartered([GIGABIT // 4] * 10, GIGABIT)) > GIGABIT


def test_b26_a_refused_change_is_told_and_the_rest_is_done() -> None:
    """Failures of tc were swallowed, or raised a TypeError later; ours are outcomes, events and another attempt."""
    node = running()
    sent = [send(node, name) for name in ("ann", "bob")]
    node.kernel.refusals[node.class_of("ann")] = errno.ENOBUFS
    report = turn(node)
    told = [event.inputs["outcome"] for event in report.events if event.kind is EventKind.REFUSED]
    assert told == ["ENOBUFS"]
    assert ceiling(node, "bob") < GIGABIT
    assert [node.account(name)["used_bytes"] for name in ("ann", "bob")] == sent
    assert change({"ann": 1, "bob": 1}, refused={"ann"}) == []


def test_b27_switching_everything_off_leaves_the_default_class_and_shapes_it() -> None:
    """It deleted the default class, whose traffic then passed unshaped; ours keeps every class and counts on."""
    node = running(off=True)
    send(node, size=MEGABYTE)
    report = turn(node)
    assert reason(report, node) is Reason.OFF
    assert ceiling(node) == GIGABIT
    assert ceiling(node, DEFAULT_SLICE) > 0
    assert node.account("ann")["used_bytes"] == MEGABYTE
    assert switch_all_off({0x1000, 0x1001, 0x1FFF}) == set()


def test_b28_two_lanes_over_in_one_turn_are_two_events_and_the_flag_falls_again() -> None:
    """True + True was 2 and not True, so nobody was told, and the flag never fell; ours are two lanes, told apart."""
    node = running()
    for traffic in Traffic:
        send(node, "ann", traffic=traffic)
    report = turn(node)
    over = [event.lane.traffic for event in report.events if _is_cap(event) and event.lane]
    assert sorted(over, key=str) == sorted(Traffic, key=str)
    assert not any(_is_cap(event) for event in turn(node).events), "told once"
    report = turn(node, DAY_SECONDS)
    assert not report.devices[0].verdicts.capped.any()
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": (0, 0), "bob": (0, 0)})
    for seconds in (1.0, 2.0):
        old.take_a_pass(seconds, {"ann": (8 * MEGABYTE, 8 * MEGABYTE), "bob": (8 * MEGABYTE, 0)})
    assert (old.told, old.accounts["ann"].capped, old.accounts["bob"].capped) == (["bob"], 4, 2)


def _is_cap(event: Event) -> bool:
    return event.kind is EventKind.VERDICT and event.inputs["reason"] == "over_threshold"


def test_b32_one_slices_bad_tag_costs_that_key_alone(tmp_path: Path) -> None:
    """A changed net_i2_share aborted every pass: one tag disabled capping on the node; ours caps the neighbours."""
    bad = {"name": "bad", "tags": {"net_i2_share": "many", "net_max_kbyte": 1000}}
    tariffs = tariffs_of(tmp_path, bad, {"name": "good", "tags": {"net_max_kbyte": 2000}})
    assert tariffs.allowance_bytes[row_of(tariffs, "bad")] == 1_024_000
    assert tariffs.allowance_bytes[row_of(tariffs, "good")] == 2_048_000
    tags = {"bad": bad["tags"], "good": {"net_max_kbyte": 2000}}
    assert unhandled(lambda: read_tags(tags)) == "AttributeError"


def test_b33_a_class_that_is_missing_stops_no_other_slice() -> None:
    """A KeyError in the final loop left the rest unprocessed and unsaved; ours makes it anew and goes on."""
    node = running()
    sent = send(node, "bob")
    node.kernel.delete_class(DEVICE, node.class_of("ann"))
    saves = node.shelf.saves
    turn(node)
    assert ceiling(node, "ann") > 0
    assert ceiling(node, "bob") < GIGABIT
    assert (node.account("bob")["used_bytes"], node.shelf.saves) == (sent, saves + 1)
    old = Bwmon(**SOON)
    old.take_a_pass(0.0, {"ann": 0, "bob": 0})
    once = {"ann": 0, "bob": sent}
    assert unhandled(lambda: old.take_a_pass(1.0, once, read_again={"bob": sent})) == "KeyError"
    assert (old.accounts["bob"].ceiling, old.saved) == (GIGABIT, 1)


def test_b34_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    """The last version truncated its file at each save, so that no cap was ever applied; ours comes back whole."""
    node = running()
    sent = send(node)
    turn(node)
    capped = ceiling(node)
    path = tmp_path / "state.db"
    state = open_state(path, now_wall_seconds=node.wall_seconds)
    assert save(state, list(node.shelf.ledgers.values()), [], node.wall_seconds).saved
    state.close()
    again = open_state(path, now_wall_seconds=node.wall_seconds)
    node.shelf.ledgers = again.load()
    again.close()
    node.start()
    report = turn(node, 0.1)
    assert (node.account("ann")["used_bytes"], reason(report, node)) == (sent, Reason.OVER_THRESHOLD)
    assert ceiling(node) == pytest.approx(capped, rel=0.02)
    pickled = tmp_path / "bwmon.pickle"
    assert unhandled(lambda: save_as_text(pickled, {"ann": sent})) == "TypeError"
    assert pickled.stat().st_size == 0


def test_b35_the_state_has_a_version_and_runs_no_code(tmp_path: Path) -> None:
    """Each commit of its source was an amnesty, and loading the file ran its code; ours is tables with a version."""
    path = tmp_path / "state.db"
    open_state(path, now_wall_seconds=NOON).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] >= 1
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    state = open_state(path, now_wall_seconds=NOON)
    state.close()
    assert state.lost
    assert not (tmp_path / "run").exists()
    assert list(tmp_path.glob("state.db.damaged-*")), "what was damaged is kept"
    pickled = tmp_path / "bwmon.pickle"
    pickled.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    load(pickled)
    assert (tmp_path / "run").exists()


def test_b36_a_look_that_becomes_due_during_a_turn_is_not_forgotten() -> None:
    """Its trigger was cleared after the pass; ours is when the next look is due, which the turn reckons at its end."""
    node = running(rule=Rolling(3600.0))
    remaining = node.account("ann")["period_end_at"] - node.turns.desks[DEVICE].ledger.ledger_seconds
    report = turn(node, remaining - 3.0)
    assert report.next_look_seconds == pytest.approx(3.0, abs=0.01)
    assert passes_for([0.0, 3.0], pass_seconds=5.0) == [0.0]


def test_b37_two_slices_without_an_id_get_one_each() -> None:
    """Slices not yet instantiated shared the key None, and only the last was kept; ours have ids that differ."""
    records = records_of({"name": "ann"}, {"name": "bob"}, {"name": "cyd"})
    ids, problems = allot_ids(records, {})
    assert not problems
    assert len({ids[name] for name in ("ann", "bob", "cyd")}) == 3
    assert by_number(dict.fromkeys(("ann", "bob", "cyd"))) == {None: "cyd"}


def test_b37_a_class_of_nobody_is_removed_and_stays_removed() -> None:
    """The removed orphan stayed in the result of the removal; ours is gone from the kernel and from the plan."""
    node = running()
    node.kernel.create_class(DEVICE, FakeClass(0x11777, 0x10010, 1000, 1000))
    turn(node)
    root = node.kernel.links[DEVICE].root
    assert root is not None
    assert 0x11777 not in root.classes
    assert len(turn(node, 0.0).devices[0].changes) == 0
    assert remove_orphans([0x11001, 0x11777], {0x11001}) == [0x11001, 0x11777]


def test_b38_a_default_cannot_be_changed_by_a_reading(tmp_path: Path) -> None:
    """A reading overwrote the module's own default; ours are frozen values, each configuration has its own."""
    path = tmp_path / "bwexporter.yml"
    path.write_text("devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\n")
    defaults = load_config(path).defaults[Traffic.NORMAL]
    with pytest.raises(FrozenInstanceError):
        defaults.allowance_bytes = 1  # type: ignore[misc]

    class OfThisTest(Slivers):
        pass

    assert [OfThisTest().read(networks) for networks in ((), [{"bwlimit": 5_000_000}], ())] == [1_000_000, 5000, 5000]


def test_b41_each_lane_is_judged_by_its_own_bytes() -> None:
    """The exempt formula used the normal bytes with the wrong sign; ours has one account a lane."""
    node = running()
    send(node, "ann", traffic=Traffic.EXEMPT)
    report = turn(node)
    assert reason(report, node, traffic=Traffic.EXEMPT) is Reason.OVER_THRESHOLD
    assert reason(report, node) in {Reason.WITHIN, Reason.PACED}
    assert node.account("ann")["used_bytes"] == 0
    assert exempt_ceiling_bit(SOON["allowance_bytes"], used_bytes=0, seconds_left=1000.0) < 0


def test_b42_the_nodes_own_and_unclassified_traffic_have_accounts() -> None:
    """Traffic that escaped classification was nobody's; ours are lanes, counted, with a ceiling of their own."""
    node = running()
    sent = {name: send(node, name, size=MEGABYTE) for name in (ROOT_SLICE, DEFAULT_SLICE)}
    turn(node)
    assert {name: node.account(name)["used_bytes"] for name in sent} == sent
    tree = node.turns.desks[DEVICE].tree
    bounded = ManagedTree(DEVICE, tree.cap_bytes_per_second, GIGABIT, 12_500, 65_536)
    node.turns.enlist(replace(node.turns.desks[DEVICE], tree=bounded))
    turn(node)
    assert ceiling(node, DEFAULT_SLICE) == 12_500
    old = Bwmon(**SOON)
    for seconds, counter in ((0.0, 0), (1.0, 8 * MEGABYTE)):
        old.take_a_pass(seconds, {DEFAULT_SLICE: counter, ROOT_SLICE: counter})
    assert {(one.used_bytes, one.ceiling) for one in old.accounts.values()} == {(0, GIGABIT)}


def test_the_model_of_the_ancestor_caps_as_was_measured() -> None:
    """By its own defaults: 100 kbit/s for the day at the threshold at once, 1 kbit/s beyond the allowance."""
    old = Bwmon(allowance_bytes=10_546_875 * KIB, threshold_bytes=DEFAULT_THRESHOLD_BYTES)
    assert 8 * old.ceiling(DEFAULT_THRESHOLD_BYTES, 0.0) == pytest.approx(100_000, rel=0.001)
    assert 8 * old.ceiling(10_546_875 * KIB, 0.0) == 1000


def test_each_bug_is_held_against_the_ancestor() -> None:
    """Every number is tested here, with the model, or named in the table above as another room's."""
    elsewhere = {12, 29, 30, 31, 39, 40}
    source = Path(__file__).read_text()
    imported = source.partition("import (")[2].partition(")")[0].replace(",", " ").split()
    names = {*imported, "quartered", "classes_of"}
    tests = re.split(r"(?m)^def (?=test_)", source)[1:]
    held = {
        int(test[6:8]) for test in tests if re.match(r"test_b\d\d_", test) and names & set(re.findall(r"\w+", test))
    }
    assert held == set(range(1, 43)) - elsewhere
