"""The key `policy`, as people write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bwexporter.config import load_config
from bwexporter.core.lanes import Traffic
from bwexporter.core.plans import LAW, THE_PERIOD, Policy, Rung, Window, Windows
from bwexporter.errors import ConfigError
from bwexporter.planned import read_policy
from bwexporter.written import Misfit

EVERYTHING = {
    "ladder": [{"from": "80%", "rate": "1mbit"}, {"from": "100%", "rate": "64kbit"}],
    "windows": [{"from": "22:00", "to": "06:00", "counts": "0%"}, {"from": "6:30", "to": "24:00", "counts": "12.5%"}],
    "timezone": "Europe/Berlin",
    "carry": "50%",
}


def test_everything_there_is() -> None:
    assert read_policy(EVERYTHING) == Policy(
        ladder=(Rung(0.8, 125_000), Rung(1.0, 8_000)),
        windows=Windows((Window(1320, 360, 0.0), Window(390, 0, 0.125)), "Europe/Berlin"),
        carry_part=0.5,
    )


def test_law_is_none_of_it_and_so_is_nothing() -> None:
    assert read_policy("law") == read_policy({}) == LAW


def test_a_sliding_window_is_as_long_as_the_period_or_as_it_says() -> None:
    """By one word too; a ladder and windows go with it."""
    assert read_policy("sliding") == read_policy({"sliding": "period"}) == Policy(sliding_seconds=THE_PERIOD)
    assert read_policy({"sliding": "6h"}) == Policy(sliding_seconds=21_600.0)
    together = {**EVERYTHING, "carry": "0%", "sliding": "6h"}
    assert read_policy(together) == replace(read_policy({**EVERYTHING, "carry": "0%"}), sliding_seconds=21_600.0)


MISTAKES: list[tuple[dict[str, object], str, str]] = [
    (
        {"ladder": [{"from": "80%", "rate": "1mbit"}, {"from": "80%", "rate": "1mbit"}]},
        "ladder.1.from",
        "not above",
    ),
    ({"ladder": [{"from": "80%", "rate": 5}]}, "ladder.0.rate", "unit"),
    ({"ladder": [{"from": 80, "rate": "1mbit"}]}, "ladder.0.from", "80%"),
    ({"ladder": [{"from": "80%"}]}, "ladder.0.rate", "is missing"),
    ({"ladder": [{"from": f"{n}%", "rate": "1mbit"} for n in range(9)]}, "ladder.8", "one too many"),
    ({"windows": [{"from": "22:00", "to": "22:00", "counts": "0%"}]}, "windows.0.to", "no length"),
    ({"windows": [{"from": "0:00", "to": "24:00", "counts": "0%"}]}, "windows.0.to", "no length"),
    ({"windows": [{"from": "25:00", "to": "6:00", "counts": "0%"}]}, "windows.0.from", "write for example 22:00"),
    ({"windows": [{"from": "24:30", "to": "6:00", "counts": "0%"}]}, "windows.0.from", "write for example 22:00"),
    ({"windows": [{"from": 22, "to": "6:00", "counts": "0%"}]}, "windows.0.from", "write for example 22:00"),
    ({"windows": [{"from": "22:00", "to": "6:00", "counts": "120%"}]}, "windows.0.counts", "more than 100%"),
    ({"timezone": "Mars/Olympus"}, "timezone", "is not a time zone"),
    ({"carry": "5GB"}, "carry", "percentage"),
    ({"cary": "5%"}, "cary", 'did you mean "carry"?'),
    ({"sliding": "1d", "carry": "5%"}, "carry", "does not go with sliding"),
    ({"sliding": 5}, "sliding", "or period"),
    ({"sliding": "0s"}, "sliding", "must be more than 0"),
    ({"slide": "1d"}, "slide", 'did you mean "sliding"?'),
]
"""What is written, the key that is at fault, and words of what is said of it."""


@pytest.mark.parametrize(("written", "key", "words"), MISTAKES)
def test_what_makes_no_sense_is_named_by_its_key(written: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(Misfit) as refused:
        read_policy(written)

    (fault,) = refused.value.faults
    assert ".".join(map(str, fault.path)) == key
    assert words in fault.text


@pytest.mark.parametrize("written", ["ladder", 5, None, []])
def test_what_is_no_policy_says_what_to_write(written: object) -> None:
    with pytest.raises(ValueError, match="write law, sliding, or a mapping with ladder, windows, carry or sliding"):
        read_policy(written)


def test_a_default_is_every_slice_s_and_a_fault_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bwexporter.yml"
    good = (
        "devices:\n  - {name: eth0, cap: 100mbit, line_rate: 1gbit}\ndefaults:\n  normal:\n    policy: {carry: 50%}\n"
    )
    path.write_text(good)
    defaults = load_config(path).defaults
    path.write_text(good.replace("50%", "soon"))

    with pytest.raises(ConfigError) as refused:
        load_config(path)

    assert (defaults[Traffic.NORMAL].policy, defaults[Traffic.EXEMPT].policy) == (Policy(carry_part=0.5), LAW)
    assert [(5, "defaults.normal.policy.carry")] == [(one.line, one.key) for one in refused.value.problems]


def test_a_window_is_no_shorter_than_the_interval_and_a_floor_is_fitted_to_it(tmp_path: Path) -> None:
    path = tmp_path / "bwexporter.yml"
    good = (
        "interval: 10s\ndevices:\n  - {name: eth0, cap: 100mbit, line_rate: 1gbit}\n"
        "defaults:\n  normal:\n    {allowance: 100MB, floor: 64kbit, policy: {sliding: 1h}}\n"
    )
    path.write_text(good)
    warnings = [one.text for one in load_config(path).warnings if one.key == "defaults.normal.floor"]
    path.write_text(good.replace("1h", "5s"))

    with pytest.raises(ConfigError) as refused:
        load_config(path)

    assert ["64kbit would overspend the allowance and is lowered to 44.4kbit"] == warnings
    (problem,) = refused.value.problems
    assert (problem.key, problem.text) == ("defaults.normal.policy.sliding", "5s is less than the interval 10s")
