"""Records: a bad value costs its key, a bad name or id its slice, and tags mean what plain keys mean."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.lanes import UNLIMITED
from bwexporter.core.periods import Rolling
from bwexporter.slices.file import FileSource
from bwexporter.slices.records import SliceRecord, read_record
from bwexporter.written import Fault

DATA = Path(__file__).parent / "data"

BAD = [
    ("no_name", 3, "name", "is missing", None),
    ("name_number", 3, "name", "put it in quotes", None),
    ("name_empty", 3, "name", "is empty", None),
    ("name_control", 3, "name", "control character", None),
    ("name_long", 3, "name", "longer than 255 bytes", None),
    ("id_zero", 4, "id", "from 1 to 28670", None),
    ("id_large", 4, "id", "from 1 to 28670", None),
    ("id_text", 4, "id", "from 1 to 28670", None),
    ("owner", 5, "owners[0]", "not an e-mail address", "a"),
    ("owners_text", 4, "owners", "must be a list", "a"),
    ("label_name", 5, "labels.my-label", "not a label's name", "a"),
    ("label_ours", 5, "labels.slice", "bwexporter sets itself", "a"),
    ("label_value", 5, "labels.site", "put it in quotes", "a"),
    ("device", 4, "devices[0]", "not a device's name", "a"),
    ("match_key", 5, "match.usr", 'did you mean "user"', "a"),
    ("match_uid", 5, "match.uid", "not a range of user ids", "a"),
    ("match_address", 5, "match.addresses[0]", "not an address prefix", "a"),
    ("match_mark", 5, "match.mark", "whole number from 1", "a"),
    ("lane_key", 5, "normal.alowance", 'did you mean "allowance"', "a"),
    ("lane_bare", 5, "normal.full", "has no unit", "a"),
    ("lane_text", 4, "normal", "must be a mapping", "a"),
    ("lane_threshold", 6, "normal.threshold", "more than the allowance", "a"),
    ("lane_guarantee", 6, "exempt.guarantee", "more than the full rate", "a"),
    ("lane_period", 7, "normal.period.starts_on", "from 1 to 31", "a"),
    ("lane_off", 5, "normal.off", "must be true or false", "a"),
    ("tag_unknown", 5, "tags.net_max_kbytes", 'did you mean "net_max_kbyte"', "a"),
    ("tag_unit", 5, "tags.net_max_rate", "without a unit", "a"),
    ("tag_zero", 5, "tags.net_max_kbyte", "the smallest is 1", "a"),
    ("tag_huge", 5, "tags.net_max_kbyte", "is not a volume", "a"),
    ("tag_minus_one", 5, "tags.net_max_rate", "is not a rate", "a"),
    ("tag_threshold", 6, "tags.net_thresh_kbyte", "more than the allowance", "a"),
    ("class", 4, "class", 'as tc does and in quotes: "1:10"', "a"),
    ("override", 4, "override", "must be true or false", "a"),
    ("policy_text", 5, "normal.policy", "write law, sliding, or a mapping", "a"),
    ("policy_key", 6, "normal.policy.cary", 'did you mean "carry"', "a"),
    ("policy_rung", 7, "normal.policy.ladder[0].rate", "is missing", "a"),
    ("policy_rate", 7, "exempt.policy.ladder[0].rate", "has no unit", "a"),
    ("policy_window", 7, "normal.policy.windows[0].to", "not a time of day", "a"),
    ("loan_unit", 6, "loans[0].normal.full", "has no unit", "a"),
    ("loan_cap", 6, "loans[0].normal.full", "is not a rate", "a"),
    ("loan_tag", 6, "loans[0].tags.net_min_rate", "without a unit", "a"),
    ("loan_volume", 7, "loans[0].tags.net_max_kbyte", "volumes are not lent", "a"),
    ("root_id", 4, "id", "only its settings", "_root"),
    ("no_mapping", 3, "", "must be a mapping", None),
]


@pytest.mark.parametrize(("rule", "line", "key", "text", "kept"), BAD)
def test_each_rule_costs_its_key_or_its_slice(rule: str, line: int, key: str, text: str, kept: str | None) -> None:
    """A file whose second slice breaks one rule keeps the others; the problem says where and what."""
    path = DATA / f"bad_record_{rule}.yml"
    result = FileSource(path).read()
    (problem,) = result.problems
    assert (problem.file, problem.line) == (str(path), line)
    assert problem.key == "slices[1]" + (f".{key}" if key else "")
    assert text in problem.text
    assert result.up
    assert [record.name for record in result.records] == ["before", *([kept] if kept else []), "after"]


def test_every_bad_file_stands_in_the_table() -> None:
    """No file of a rule is left untested."""
    assert {path.name for path in DATA.glob("bad_record_*")} == {f"bad_record_{rule}.yml" for rule, *_ in BAD}


def read(**keys: Any) -> SliceRecord:
    """Return the record of keys that have no fault."""
    record, faults = read_record({"name": "a", **keys}, source="s", line=1)
    assert faults == []
    assert record is not None
    return record


def read_faulty(**keys: Any) -> tuple[SliceRecord, list[Fault]]:
    """Return a record and what is wrong with it."""
    record, faults = read_record({"name": "a", **keys}, source="s", line=1)
    assert record is not None
    return record, faults


def test_plain_keys() -> None:
    """Every plain key becomes what it says, in bytes and seconds."""
    record = read(
        id=5,
        owners=["pi@example.edu"],
        labels={"site": "utah"},
        devices=["eth1", "eth0", "eth1"],
        match={"user": "u", "uid": "100-200", "cgroup": "a/b", "addresses": ["192.0.2.0/28", "2001:db8::1"], "mark": 7},
        normal={"full": "10mbit", "allowance": "5GB", "threshold": "50%", "period": "1h", "share": 3},
        exempt={"allowance": "unlimited", "off": True},
    )
    assert (record.slice_id, record.owners, record.labels) == (5, ("pi@example.edu",), {"site": "utah"})
    assert record.devices == ("eth1", "eth0")
    assert (record.match.user, record.match.uid, record.match.mark) == ("u", (100, 200), 7)
    assert record.match.addresses == (ip_network("192.0.2.0/28"), ip_network("2001:db8::1/128"))
    assert (record.normal.full, record.normal.allowance_bytes, record.normal.share) == (1_250_000, 5_000_000_000, 3)
    assert (record.normal.threshold, record.normal.period) == (Fraction(1, 2), Rolling(3600))
    assert (record.exempt.allowance_bytes, record.exempt.off, record.normal.off) == (UNLIMITED, True, False)


def test_tags_mean_the_same() -> None:
    """Tags' rates are kbit/s of 1000 bits and volumes KByte of 1024 bytes (B17); i2 is exempt, its share too (B24)."""
    record = read(
        tags={
            "net_min_rate": 10,
            "net_max_rate": "5000",
            "net_max_kbyte": 1_000_000,
            "net_thresh_kbyte": 900_000,
            "net_share": 2,
            "net_i2_max_rate": 50_000,
            "net_i2_share": 7,
        },
    )
    assert (record.normal.guarantee_bytes_per_second, record.normal.full) == (1250, 625_000)
    assert (record.normal.allowance_bytes, record.normal.threshold) == (1_024_000_000, 921_600_000)
    assert (record.exempt.full, record.exempt.share, record.normal.share) == (6_250_000, 7, 2)


def test_plain_keys_beat_tags() -> None:
    """What stands plainly in a record is what its writer meant."""
    record = read(normal={"full": "1mbit"}, tags={"net_max_rate": 5000, "net_share": 2})
    assert (record.normal.full, record.normal.share) == (125_000, 2)


def test_a_tag_that_contradicts_a_plain_key_is_dropped() -> None:
    """A threshold by tag above the plain allowance costs the tag alone."""
    record, faults = read_faulty(normal={"allowance": "1MB"}, tags={"net_thresh_kbyte": 2000, "net_share": 2})
    assert [fault.path for fault in faults] == [("tags", "net_thresh_kbyte")]
    assert (record.normal.allowance_bytes, record.normal.threshold, record.normal.share) == (1_000_000, None, 2)


def test_a_bad_key_leaves_its_neighbours() -> None:
    """One lane with three mistakes keeps its fourth key."""
    record, faults = read_faulty(normal={"full": 5, "floor": "x", "nonsense": 1, "share": 4})
    assert sorted(fault.path[1] for fault in faults) == ["floor", "full", "nonsense"]
    assert (record.normal.full, record.normal.share) == (None, 4)


def test_everything_off_is_the_default_slices_switch() -> None:
    """`net_max_rate` -1 and `off` of `_default` switch all off; `off` of another slice switches that slice off."""
    assert read(name="_default", tags={"net_max_rate": -1}).everything_off
    assert read(name="_default", tags={"net_max_rate": "-1"}).everything_off
    assert read(name="_default", off=True).everything_off
    assert not read(name="_default", normal={"off": True}).everything_off
    other = read(off=True)
    assert (other.everything_off, other.normal.off, other.exempt.off) == (False, True, True)


def test_shadow_of_a_slice_is_that_of_both_lanes() -> None:
    """A record's shadow holds for both traffics."""
    record = read(shadow=True)
    assert (record.normal.shadow, record.exempt.shadow) == (True, True)


def test_names_may_be_any_text() -> None:
    """Slices are not named in English only."""
    assert read(name="Überwachung 監視 🛰").name == "Überwachung 監視 🛰"


WORDS = st.sampled_from(
    [
        *("name", "id", "owners", "labels", "devices", "match", "normal", "exempt", "tags", "off", "shadow"),
        *("full", "share", "threshold", "allowance", "period", "calendar", "starts_on", "uid", "addresses"),
        *("net_max_rate", "net_share", "[key]"),
    ],
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["10mbit", "5GB", "80%", "1d", "unlimited", "cap", "-1", "month", "a@b", "_default", "10.0.0.0/8"],
    )
)
DATA_OF_ANY_SHAPE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=15,
)
LANE = st.dictionaries(WORDS, SCALARS | st.dictionaries(WORDS, SCALARS, max_size=3), max_size=5)


@given(
    DATA_OF_ANY_SHAPE
    | st.dictionaries(WORDS, DATA_OF_ANY_SHAPE | LANE, max_size=6).map(lambda keys: {"name": "a", **keys}),
)
def test_no_data_raises(data: object) -> None:
    """Whatever a source hands out becomes a record, or faults that say something."""
    record, faults = read_record(data, source="s", line=1)
    assert record is not None or faults
    assert all(fault.text for fault in faults)
