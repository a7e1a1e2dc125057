"""Loans: what one slice gains another gives, each as a whole or not at all, and a refusal says why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.config import load_config
from bwexporter.core.lanes import DeviceFacts, Lane, Tariffs, Traffic
from bwexporter.roster import Roll, Roster
from bwexporter.slices.loans import Lending, Loan, Parents, Promise, lend, read_loan
from bwexporter.slices.records import SETTINGS, read_record
from bwexporter.slices.tags import TAGS
from bwexporter.units import _RATE_IN_BITS, _RATE_PER_SECOND_IN_BITS
from tests.builders import GIGABIT, make_tariffs

MBIT = 125_000
PARENTS = Parents(normal=GIGABIT, exempt=GIGABIT)
COLUMNS = ("full_bytes_per_second", "guarantee_bytes_per_second", "share")


def tariffs_of(names: Sequence[str], device: str = "eth0", **given: Any) -> Tariffs:
    """Return tariffs of normal lanes."""
    lanes = tuple(Lane(device, name, Traffic.NORMAL) for name in names)
    usual = {"full_bytes_per_second": 10 * MBIT, "guarantee_bytes_per_second": 2 * MBIT, "share": 5}
    return make_tariffs(len(names), lanes=lanes, **{**usual, **given})


def promise(lender: str, to: str, **normal: Any) -> Promise:
    """Return a loan of normal traffic."""
    return Promise(lender, Loan.model_validate({"to": to, "normal": normal}))


def lent(*promises: Promise, parents: Parents = PARENTS, **given: Any) -> Lending:
    """Carry out loans between ann, bob and cyd."""
    return lend(promises, {"eth0": tariffs_of(["ann", "bob", "cyd"], **given)}, {"eth0": parents})


def column(lending: Lending, name: str) -> list[int]:
    """Return a column of eth0."""
    return [int(value) for value in getattr(lending.tariffs["eth0"], name)]


def test_what_one_gains_another_gives() -> None:
    """As Sirius lends 2 Mbit/s to the slice of the hour; both can see what and from whom."""
    lending = lent(promise("ann", "bob", guarantee="1mbit", full="2mbit", share=2))
    assert lending.refused == ()
    assert column(lending, "guarantee_bytes_per_second") == [1 * MBIT, 3 * MBIT, 2 * MBIT]
    assert column(lending, "full_bytes_per_second") == [8 * MBIT, 12 * MBIT, 10 * MBIT]
    assert column(lending, "share") == [3, 7, 5]
    ann, bob, _ = lending.tariffs["eth0"].lanes
    assert lending.notes[ann, "full"] == ("2mbit of full rate lent to bob",)
    assert lending.notes[bob, "guarantee"] == ("1mbit of guarantee borrowed from ann",)
    assert lending.notes[bob, "share"] == ("2 shares borrowed from ann",)


@pytest.mark.parametrize(
    ("lender", "to", "normal", "why"),
    [
        ("ann", "bob", {"guarantee": "2mbit"}, "ann has 2mbit of guarantee of its own and is to keep 1kbit"),
        ("ann", "bob", {"full": "10mbit"}, "is to keep 8kbit of full rate"),
        ("ann", "bob", {"share": 5}, "ann has 5 shares of its own and is to keep 1 share"),
        ("ann", "bob", {"full": "9mbit"}, "ann would be left with less than its guarantee 2mbit"),
        ("ann", "zoe", {"share": 1}, "zoe has no lanes on eth0"),
        ("zoe", "ann", {"share": 1}, "zoe has no lanes"),
        ("ann", "bob", {"share": 1, "full": "10mbit"}, "of full rate"),
    ],
)
def test_b40_what_cannot_be_lent_is_refused_as_a_whole(lender: str, to: str, normal: dict[str, Any], why: str) -> None:
    """Nothing is changed by halves, and the reason names who and how much (B40)."""
    lending = lent(promise(lender, to, **normal))
    ((refused, said),) = lending.refused
    assert (refused.lender, refused.loan.to) == (lender, to)
    assert why in said
    assert lending.tariffs["eth0"] is not None
    assert column(lending, "share") == [5, 5, 5]
    assert column(lending, "full_bytes_per_second") == [10 * MBIT] * 3
    assert lending.notes == {}


@pytest.mark.parametrize(
    ("parents", "normal", "why"),
    [
        (Parents(10 * MBIT, GIGABIT), {"full": "1mbit"}, "bob would have 11mbit of full rate, more than 10mbit"),
        (
            Parents(10 * MBIT, GIGABIT),
            {"guarantee": "1mbit"},
            "more than 2.5mbit, a quarter of the node cap",
        ),
    ],
)
def test_b40_a_borrower_is_told_what_it_may_not_have(parents: Parents, normal: dict[str, Any], why: str) -> None:
    """A quarter of the node cap is the most that can be guaranteed: that is said, not silently cut (B40)."""
    ((_, said),) = lent(promise("ann", "bob", **normal), parents=parents).refused
    assert why in said


def test_what_is_borrowed_is_not_lent_on() -> None:
    """Only a slice's own."""
    lending = lent(promise("ann", "bob", share=4), promise("bob", "cyd", share=5), promise("bob", "cyd", share=4))
    assert column(lending, "share") == [1, 5, 9]
    assert [said for _, said in lending.refused] == ["bob has 5 shares of its own and is to keep 1 share"]


def test_a_loan_holds_on_all_devices_of_the_lender_or_on_none() -> None:
    """A borrower that is missing on one of them gets nothing."""
    two = {"eth0": tariffs_of(["ann", "bob"]), "eth1": tariffs_of(["ann"], "eth1")}
    lending = lend([promise("ann", "bob", share=1)], two, {"eth0": PARENTS, "eth1": PARENTS})
    assert [said for _, said in lending.refused] == ["bob has no lanes on eth1"]
    assert all((lending.tariffs[device].share == 5).all() for device in two)


@given(
    st.lists(st.integers(1, 40), min_size=4, max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from("abcd"),
            st.fixed_dictionaries(
                {},
                optional={
                    "full": st.integers(1, 30).map("{}mbit".format),
                    "guarantee": st.integers(1, 3000).map("{}kbit".format),
                    "share": st.integers(1, 50),
                },
            ).filter(bool),
        ).filter(lambda one: one[0] != one[1]),
        max_size=8,
    ),
    st.sampled_from([20 * MBIT, GIGABIT]),
)
def test_loans_make_and_lose_nothing(sizes: list[int], loans: list[tuple[str, str, dict[str, Any]]], cap: int) -> None:
    """Whatever is lent: sums stay, each keeps some, none has more than it may, and a refused one leaves no trace."""
    before = tariffs_of(
        "abcd",
        full_bytes_per_second=[size * MBIT for size in sizes],
        guarantee_bytes_per_second=[size * 1250 for size in sizes],
        share=sizes,
    )
    promises = [promise(lender, to, **normal) for lender, to, normal in loans]
    lending = lend(promises, {"eth0": before}, {"eth0": Parents(cap, cap)})
    after = lending.tariffs["eth0"]
    for name in COLUMNS:
        assert getattr(after, name).sum() == getattr(before, name).sum()
        assert (getattr(after, name) >= 1).all()
    gained = after.full_bytes_per_second > before.full_bytes_per_second
    assert (after.full_bytes_per_second[gained] <= cap).all()
    assert (after.guarantee_bytes_per_second <= after.full_bytes_per_second).all()
    carried_out = [one for one in promises if not any(one is refused for refused, _ in lending.refused)]
    again = lend(carried_out, {"eth0": before}, {"eth0": Parents(cap, cap)})
    assert again.refused == ()
    assert all(np.array_equal(getattr(again.tariffs["eth0"], name), getattr(after, name)) for name in COLUMNS)


@pytest.mark.parametrize(
    ("loan", "key", "text"),
    [
        ({"to": "b"}, "loans[0]", "lends nothing"),
        ({"to": "b", "normal": {"full": 5}}, "loans[0].normal.full", "has no unit"),
        ({"to": "b", "normal": {"allowance": "5GB"}}, "loans[0].normal.allowance", "is not a key here"),
        ({"to": "b", "normal": {"share": -1}}, "loans[0].normal.share", "whole number from 1"),
        ({"to": "b", "normal": {"full": "1mbit", "share": 0}}, "loans[0].normal.share", "whole number from 1"),
        ({"normal": {"share": 1}}, "loans[0].to", "is missing"),
        ({"to": "a", "normal": {"share": 1}}, "loans[0].to", "is a itself"),
        ("b", "loans[0]", "must be a mapping"),
        ({"to": "b", "normal": {"full": "cap"}}, "loans[0].normal.full", "is not a rate"),
        ({"to": "b", "tags": {"net_max_kbyte": 5}}, "loans[0].tags.net_max_kbyte", "volumes are not lent"),
        ({"to": "b", "tags": {"net_min_rates": 5}}, "loans[0].tags.net_min_rates", 'did you mean "net_min_rate"'),
        ({"to": "b", "tags": {"net_min_rate": "2mbit"}}, "loans[0].tags.net_min_rate", "without a unit"),
        ({"to": "b", "tags": {"net_max_rate": -1}}, "loans[0].tags.net_max_rate", "is not a rate in kbit/s"),
        ({"to": "b", "tags": {"net_share": 0, "net_max_rate": 5}}, "loans[0].tags.net_share", "whole number from 1"),
        ({"to": "b", "tags": {}}, "loans[0]", "lends nothing"),
    ],
)
def test_a_loan_that_is_miswritten_costs_itself(loan: object, key: str, text: str) -> None:
    """Its slice and the other loans stay."""
    good = {"to": "c", "normal": {"share": 1}}
    record, faults = read_record({"name": "a", "loans": [loan, good]}, source="s", line=1)
    assert record
    assert [one.to for one in record.loans] == ["c"]
    assert [(".".join(map(str, fault.path)).replace(".0", "[0]")) for fault in faults] == [key]
    assert text in faults[0].text


@given(
    tags=st.dictionaries(
        st.sampled_from([name for name in TAGS if "kbyte" not in name]), st.integers(1, 10_000), min_size=1
    ),
    as_text=st.booleans(),
)
def test_a_loan_in_tags_is_the_loan_in_plain_keys(tags: dict[str, int], *, as_text: bool) -> None:
    """Tags' rates are kbit/s of 1000 bits, as everywhere; PLC's numbers may be text."""
    plain: dict[str, dict[str, object]] = {"normal": {}, "exempt": {}}
    for name, number in tags.items():
        key = {"min_rate": "guarantee", "max_rate": "full", "share": "share"}[
            name.removeprefix("net_").removeprefix("i2_")
        ]
        plain["exempt" if "i2" in name else "normal"][key] = number if key == "share" else f"{number}kbit"
    written = {name: str(number) if as_text else number for name, number in tags.items()}

    of_tags, faults = read_loan({"to": "b", "tags": written}, "a")
    of_keys, _ = read_loan({"to": "b", **plain}, "a")

    assert faults == []
    assert of_tags
    assert of_keys
    assert all(of_tags.lent(traffic) == of_keys.lent(traffic) for traffic in Traffic)


@pytest.mark.parametrize("unit", [*_RATE_IN_BITS, *_RATE_PER_SECOND_IN_BITS])
@pytest.mark.parametrize("key", ["full", "guarantee"])
def test_a_loan_takes_every_unit_that_a_record_takes(unit: str, key: str) -> None:
    """The same amount, to the byte."""
    record, faults = read_record({"name": "b", "normal": {key: f"80{unit}"}}, source="s", line=1)
    loan, loan_faults = read_loan({"to": "b", "normal": {key: f"80{unit}"}}, "a")

    assert faults == loan_faults == []
    assert record
    assert loan
    assert loan.lent(Traffic.NORMAL)[key] == getattr(record.normal, SETTINGS[key])


def test_a_plain_key_of_a_loan_beats_its_tag() -> None:
    """As in a record; what only the tag says holds."""
    loan, _ = read_loan({"to": "b", "normal": {"guarantee": "1mbit"}, "tags": {"net_min_rate": 5, "net_share": 2}}, "a")
    assert loan
    assert loan.lent(Traffic.NORMAL) == {"guarantee": 1 * MBIT, "share": 2}


SLICES = """
slices:
  - name: ann
    normal: {guarantee: 2mbit, full: 10mbit}
    loans:
      - {to: bob, normal: {guarantee: 1mbit}}
      - {to: bob, normal: {guarantee: 5mbit}}
  - {name: bob, normal: {guarantee: 1mbit, full: 10mbit}}
"""


def called(folder: Path) -> Roll:
    """Call the roll of two slices of which one lends twice."""
    (folder / "slices.yml").write_text(SLICES)
    config = folder / "bwexporter.yml"
    config.write_text("devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\nslices: [{file: slices.yml}]\n")
    facts = {"eth0": DeviceFacts("eth0", 2, GIGABIT, 65_536)}
    return Roster(load_config(config), facts, dict, lambda: 0.0).call(anew=False)


def test_records_lend_and_both_sides_hear_of_a_refusal(tmp_path: Path) -> None:
    """In the log, in the count of the source's problems, and at both slices."""
    roll = called(tmp_path)
    of_device, _ = roll.tariffs["eth0"]
    rows = {lane.slice_name: row for row, lane in enumerate(of_device.lanes) if lane.traffic is Traffic.NORMAL}
    guarantees = of_device.guarantee_bytes_per_second
    assert (guarantees[rows["ann"]], guarantees[rows["bob"]]) == (1 * MBIT, 2 * MBIT)
    text = "the loan of ann to bob is refused: ann has 1mbit of guarantee of its own and is to keep 1kbit of guarantee"
    assert [str(problem) for problem in roll.problems] == [f"{tmp_path}/slices.yml:3: loans: {text}"]
    assert (roll.info["ann"].problems, roll.info["bob"].problems) == ((text,), (text,))
    assert len(roll.sources[0].problems) == 1
