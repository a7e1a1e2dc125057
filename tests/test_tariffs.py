"""Tariffs and ids: from configuration and records to what each lane of a device may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.config import Config, load_config
from bwexporter.core.lanes import UNLIMITED, Lane, Tariffs, Traffic
from bwexporter.core.periods import Calendar, PeriodRule, Rolling, Unit
from bwexporter.errors import Problem
from bwexporter.slices.file import FileSource
from bwexporter.slices.ids import DEFAULT_ID, allot_ids
from bwexporter.slices.records import LARGEST_ID, SliceRecord, read_record
from bwexporter.slices.tariffs import assemble, slice_warnings

MBIT = 125_000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a node of two devices."""
    return write(tmp_path, "")


def write(tmp_path: Path, more: str) -> Config:
    """Return the configuration of a node of two devices with further keys."""
    path = tmp_path / "bwexporter.yml"
    devices = "devices: [{name: eth0, cap: 100mbit, default: 10mbit}, {name: eth1, cap: 50mbit}]\n"
    path.write_text(devices + more)
    return load_config(path)


def record(name: str, line: int = 1, **keys: Any) -> SliceRecord:
    """Return a record without faults."""
    found, faults = read_record({"name": name, **keys}, source="slices.yml", line=line)
    assert faults == []
    assert found is not None
    return found


def build(
    config: Config,
    *records: SliceRecord,
    device: str = "eth0",
    cap: int = 100 * MBIT,
    line_rate: int = 1000 * MBIT,
) -> tuple[Tariffs, tuple[PeriodRule, ...], tuple[Problem, ...]]:
    """Assemble with ids as allotted."""
    ids, _ = allot_ids(records, {})
    return assemble(
        config,
        records,
        ids,
        device=device,
        cap_bytes_per_second=cap,
        line_rate_bytes_per_second=line_rate,
    )


def row(tariffs: Tariffs, name: str, traffic: Traffic = Traffic.NORMAL) -> dict[str, int]:
    """Return the columns of one lane as numbers."""
    at = [(lane.slice_name, lane.traffic) for lane in tariffs.lanes].index((name, traffic))
    names = [name for name in Tariffs.__dataclass_fields__ if name not in {"lanes", "policies"}]
    return {name: int(getattr(tariffs, name)[at]) for name in names}


def test_the_nodes_own_lanes_come_first(config: Config) -> None:
    """`_root` and `_default` have both traffics on every device, and no allowance."""
    tariffs, _, _ = build(config, record("a"))
    assert tariffs.lanes == tuple(
        Lane("eth0", name, traffic)
        for name in ("_root", "_default", "a")
        for traffic in (Traffic.NORMAL, Traffic.EXEMPT)
    )
    assert tariffs.slice_id.tolist() == [0, 0, DEFAULT_ID, DEFAULT_ID, 1, 1]
    assert tariffs.allowance_bytes[:4].tolist() == tariffs.threshold_bytes[:4].tolist() == [UNLIMITED] * 4


def test_full_rates_of_the_nodes_own_lanes(config: Config) -> None:
    """Unclassified traffic has a ceiling of its own; the rest has the cap or the line rate."""
    tariffs, _, _ = build(config)
    assert tariffs.full_bytes_per_second.tolist() == [100 * MBIT, 1000 * MBIT, 10 * MBIT, 1000 * MBIT]
    other, _, _ = build(config, device="eth1", cap=50 * MBIT)
    assert other.full_bytes_per_second.tolist() == [50 * MBIT, 1000 * MBIT, 50 * MBIT, 1000 * MBIT]


def test_the_nodes_own_lanes_take_settings(config: Config) -> None:
    """A record of `_default` can give it an allowance and a ceiling."""
    tariffs, _, _ = build(config, record("_default", normal={"full": "5mbit", "allowance": "50GB"}))
    assert len(tariffs) == 4
    found = row(tariffs, "_default")
    assert found["full_bytes_per_second"] == 5 * MBIT
    assert (found["allowance_bytes"], found["threshold_bytes"]) == (50_000_000_000, 40_000_000_000)


def test_defaults_hold_where_a_record_is_silent(config: Config) -> None:
    """A slice with a name alone has PlanetLab's day: 10.8 GB normal, 32.4 GB exempt, and 80 % of each."""
    tariffs, rules, problems = build(config, record("a"))
    normal, exempt = row(tariffs, "a"), row(tariffs, "a", Traffic.EXEMPT)
    assert (normal["allowance_bytes"], normal["threshold_bytes"]) == (10_800_000_000, 8_640_000_000)
    assert (exempt["allowance_bytes"], exempt["threshold_bytes"]) == (32_400_000_000, 25_920_000_000)
    assert (normal["full_bytes_per_second"], exempt["full_bytes_per_second"]) == (100 * MBIT, 1000 * MBIT)
    assert (normal["guarantee_bytes_per_second"], normal["floor_bytes_per_second"], normal["share"]) == (125, 8000, 1)
    assert (rules, problems) == ((Rolling(86400),), ())


def test_by_hand_is_neutral(config: Config) -> None:
    """Nothing is capped, topped up or released by hand."""
    found = row(build(config, record("a"))[0], "a")
    assert (found["hand_cap_bytes_per_second"], found["hand_top_up_bytes"], found["released"]) == (UNLIMITED, 0, 0)


@pytest.mark.parametrize(
    ("settings", "threshold"),
    [
        ({"allowance": "1GB"}, 800_000_000),
        ({"allowance": "100GB"}, 80_000_000_000),
        ({"allowance": "1GB", "threshold": "50%"}, 500_000_000),
        ({"allowance": "1GB", "threshold": "900MB"}, 900_000_000),
        ({"allowance": "7B", "threshold": "3B"}, 3),
        ({"threshold": "1GB"}, 1_000_000_000),
        ({"allowance": "unlimited", "threshold": "50%"}, UNLIMITED),
    ],
)
def test_b8_the_threshold_follows_the_slices_own_allowance(
    config: Config, settings: dict[str, str], threshold: int
) -> None:
    """A lowered or raised allowance moves the threshold, unless that is set as well (B8)."""
    assert row(build(config, record("a", normal=settings))[0], "a")["threshold_bytes"] == threshold


def test_b8_a_tag_alone_moves_the_threshold(config: Config) -> None:
    """A slice with only net_max_kbyte is slowed at 80 % of that and not at the default's (B8)."""
    found = row(build(config, record("a", tags={"net_max_kbyte": 1_000_000}))[0], "a")
    assert (found["allowance_bytes"], found["threshold_bytes"]) == (1_024_000_000, 819_200_000)


def test_an_unlimited_default_keeps_its_percentage(tmp_path: Path) -> None:
    """Who has an allowance where others have none has the default's percentage of it."""
    config = write(tmp_path, "defaults: {normal: {allowance: unlimited, threshold: 60%}}\n")
    tariffs, _, _ = build(config, record("a", normal={"allowance": "10GB"}), record("b"))
    assert row(tariffs, "a")["threshold_bytes"] == 6_000_000_000
    assert row(tariffs, "b")["threshold_bytes"] == UNLIMITED


def test_full_rates_stay_below_the_parent(config: Config) -> None:
    """No lane's full rate passes the node cap or the line rate (B7), and its guarantee not its full rate."""
    asked = {"full": "10gbit", "guarantee": "2gbit"}
    tariffs, _, _ = build(config, record("a", normal=asked, exempt=asked))
    normal, exempt = row(tariffs, "a"), row(tariffs, "a", Traffic.EXEMPT)
    assert (normal["full_bytes_per_second"], normal["guarantee_bytes_per_second"]) == (100 * MBIT, 100 * MBIT)
    assert (exempt["full_bytes_per_second"], exempt["guarantee_bytes_per_second"]) == (1000 * MBIT, 1000 * MBIT)


def test_a_cap_above_the_line_rate_is_the_line_rate(config: Config) -> None:
    """What the driver says of the line bounds the cap too."""
    tariffs, _, _ = build(config, record("a"), line_rate=10 * MBIT)
    assert set(tariffs.full_bytes_per_second.tolist()) == {10 * MBIT}


def test_full_may_name_the_other_limit(config: Config) -> None:
    """An exempt lane may be held to the node cap."""
    tariffs, _, _ = build(config, record("a", exempt={"full": "cap"}))
    assert row(tariffs, "a", Traffic.EXEMPT)["full_bytes_per_second"] == 100 * MBIT


def test_slices_are_on_the_devices_they_name(config: Config) -> None:
    """A slice has lanes on its devices, and on the first if it names none."""
    records = [record("a"), record("b", devices=["eth1"]), record("c", devices=["eth0", "eth1"])]
    on = {}
    for device in ("eth0", "eth1"):
        tariffs, _, _ = build(config, *records, device=device)
        on[device] = [lane.slice_name for lane in tariffs.lanes if lane.traffic is Traffic.NORMAL][2:]
    assert on == {"eth0": ["a", "c"], "eth1": ["b", "c"]}


def test_a_device_that_is_not_there_costs_its_mention(config: Config) -> None:
    """A slice that names only devices nobody knows is on the first, and that is said once."""
    tariffs, _, problems = build(config, record("a", line=7, devices=["eht1"]))
    assert "a" in [lane.slice_name for lane in tariffs.lanes]
    assert [str(problem) for problem in problems] == [
        "slices.yml:7: devices[0]: a: eht1 is not a device of the configuration; it has eth0, eth1",
    ]
    assert build(config, record("a", devices=["eht1"]), device="eth1", cap=50 * MBIT)[2] == ()


def test_a_threshold_above_the_default_allowance_is_left_at_its_default(config: Config) -> None:
    """A threshold in bytes that the default allowance never reaches costs itself alone."""
    tariffs, _, problems = build(config, record("a", normal={"threshold": "20GB", "share": 3}))
    assert (row(tariffs, "a")["threshold_bytes"], row(tariffs, "a")["share"]) == (8_640_000_000, 3)
    assert [problem.key for problem in problems] == ["normal.threshold"]


def test_periods_of_lanes(tmp_path: Path) -> None:
    """A lane's own period comes before its traffic's default, and that before the node's."""
    config = write(tmp_path, "period: 1h\ndefaults: {exempt: {period: 2h}}\n")
    month = {"calendar": "month", "timezone": "Europe/Paris"}
    tariffs, rules, _ = build(config, record("a"), record("b", normal={"period": month}))
    assert rules == (Rolling(3600), Rolling(7200), Calendar(Unit.MONTH, 1, "Europe/Paris"))
    of = {lane: rules[rule] for lane, rule in zip(tariffs.lanes, tariffs.period_rule, strict=True)}
    assert of[Lane("eth0", "a", Traffic.NORMAL)] == of[Lane("eth0", "_root", Traffic.NORMAL)] == rules[0]
    assert of[Lane("eth0", "a", Traffic.EXEMPT)] == rules[1]
    assert of[Lane("eth0", "b", Traffic.NORMAL)] == rules[2]


def test_switches(config: Config) -> None:
    """Off and shadow hold for the lanes they were given to."""
    tariffs, _, _ = build(config, record("a", off=True), record("b", exempt={"shadow": True}), record("c", shadow=True))
    slices = [lane.slice_name for lane in tariffs.lanes]
    assert [name for name, off in zip(slices, tariffs.off, strict=True) if off] == ["a", "a"]
    assert [name for name, shadow in zip(slices, tariffs.shadow, strict=True) if shadow] == ["b", "c", "c"]


def test_everything_off(config: Config) -> None:
    """The ancestor's -1 on the default slice switches every lane off and leaves default traffic its ceiling."""
    tariffs, _, _ = build(config, record("a"), record("_default", tags={"net_max_rate": -1}))
    assert tariffs.off.all()
    assert row(tariffs, "_default")["full_bytes_per_second"] == 10 * MBIT


def test_a_slice_without_an_id_has_no_lanes(config: Config) -> None:
    """A refused id costs its slice alone."""
    tariffs, _, _ = build(config, record("a", id=5), record("b", id=5), record("c"))
    assert {lane.slice_name for lane in tariffs.lanes} == {"_root", "_default", "a", "c"}


def test_the_examples_go_together() -> None:
    """The two commented examples give every slice of theirs a lane, without a problem."""
    deploy = Path(__file__).parents[1] / "deploy"
    result = FileSource(deploy / "slices.yml").read()
    tariffs, rules, problems = build(load_config(deploy / "bwexporter.yml"), *result.records)
    assert (problems, len(rules)) == ((), 2)
    assert {lane.slice_name for lane in tariffs.lanes} == {record.name for record in result.records}


def test_warnings_of_slices(config: Config) -> None:
    """A guarantee that overspends a slice's own allowance is said with its line."""
    odd = record("a", line=9, normal={"allowance": "100MB", "guarantee": "8kbit"})
    assert [(warning.line, warning.key) for warning in slice_warnings(config, [odd, record("b")])] == [
        (9, "normal.floor"),
        (9, "normal.guarantee"),
    ]


def test_given_ids_win() -> None:
    """A given id is had, and others are allotted from the lowest free one."""
    ids, problems = allot_ids([record("a"), record("b", id=1), record("c")], {})
    assert ids == {"_root": 0, "_default": DEFAULT_ID, "b": 1, "a": 2, "c": 3}
    assert problems == []


def test_remembered_ids_are_kept_and_not_used_again() -> None:
    """A slice keeps its id; that of a slice that is gone is kept for it."""
    ids, _ = allot_ids([record("new"), record("old")], {"old": 7, "gone": 1})
    assert (ids["old"], ids["new"]) == (7, 2)
    returned, _ = allot_ids([record("new"), record("old"), record("gone")], {**ids, "gone": 1})
    assert returned == {**ids, "gone": 1}


def test_a_given_id_beats_a_remembered_one() -> None:
    """The slice that only remembers the id gets another."""
    ids, problems = allot_ids([record("a"), record("b", id=1)], {"a": 1})
    assert (ids["b"], ids["a"], problems) == (1, 2, [])


def test_a_given_id_twice_names_both() -> None:
    """The second of an id is refused, and the problem names both slices and places."""
    ids, problems = allot_ids([record("a", line=3, id=5), record("b", line=9, id=5)], {})
    assert "b" not in ids
    assert [str(problem) for problem in problems] == [
        "slices.yml:9: id: b: the id 5 is that of a (slices.yml:3); give another or none",
    ]


def test_of_a_given_id_twice_the_running_slice_keeps_it() -> None:
    """A newcomer before it in the file does not take a running slice's id."""
    ids, problems = allot_ids([record("new", id=5), record("old", id=5)], {"old": 5})
    assert (ids.get("old"), ids.get("new"), len(problems)) == (5, None, 1)


def test_the_id_of_a_gone_slice_is_refused() -> None:
    """An id is not used again before the old account's period ends."""
    ids, problems = allot_ids([record("a", id=5)], {"gone": 5})
    assert "a" not in ids
    assert "kept for gone" in problems[0].text


def test_ids_run_out_loudly() -> None:
    """When no id is left the slices that get none are named."""
    remembered = {f"gone{number}": number for number in range(1, LARGEST_ID)}
    ids, problems = allot_ids([record("a"), record("b")], remembered)
    assert (ids["a"], "b" in ids) == (LARGEST_ID, False)
    assert "b: all 28670 ids are in use" in str(problems[0])


NAMES = st.sampled_from("abcdef")
IDS = st.integers(1, 6)


@given(
    st.dictionaries(NAMES, st.none() | IDS, max_size=6),
    st.dictionaries(NAMES, IDS | st.sampled_from([0, DEFAULT_ID, -1, 10**9]), max_size=6),
)
def test_ids_are_one_to_one(given_ids: dict[str, int | None], remembered: dict[str, int]) -> None:
    """No id is had twice or fits no class, none of a gone slice is had; who is refused one keeps its own."""
    records = [record(name, **({} if number is None else {"id": number})) for name, number in given_ids.items()]
    ids, problems = allot_ids(records, remembered)
    assert len(set(ids.values())) == len(ids)
    had = {name: number for name, number in ids.items() if not name.startswith("_")}
    assert all(1 <= number <= LARGEST_ID for number in had.values())
    assert not set(had.values()) & {number for name, number in remembered.items() if name not in given_ids}
    assert len(problems) == sum(had.get(name, 0) != (number or had.get(name)) for name, number in given_ids.items())
    assert all(had[name] == remembered[name] for name in had if given_ids[name] not in {None, had[name]})
    assert allot_ids(records, {**remembered, **had})[0] == ids
