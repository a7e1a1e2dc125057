"""Which class of somebody else's tree is which lane's, as the records say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bwexporter.config import Config, load_config
from bwexporter.core.lanes import Lane, Traffic
from bwexporter.slices.adoption import Adoption, adopted, misplaced_classes
from bwexporter.slices.file import FileSource
from bwexporter.slices.records import SliceRecord

CONFIG = """\
devices:
  - {name: eth0, cap: 10mbit, line_rate: 10mbit}
  - {name: eth1, tree: existing, line_rate: 10mbit}
"""


def read(folder: Path, slices: str, config: str = CONFIG) -> tuple[Config, tuple[SliceRecord, ...]]:
    """Return a configuration and records."""
    (folder / "bwexporter.yml").write_text(config)
    (folder / "slices.yml").write_text(slices)
    result = FileSource(folder / "slices.yml").read()
    assert result.problems == ()
    return load_config(folder / "bwexporter.yml"), result.records


def adoption(folder: Path, slices: str, config: str = CONFIG) -> Adoption:
    """Return the adoption of eth1."""
    return adopted(*read(folder, slices, config), "eth1")


def lane(name: str, traffic: Traffic = Traffic.NORMAL) -> Lane:
    """Return a lane of eth1."""
    return Lane("eth1", name, traffic)


def test_lanes_are_where_a_record_names_a_class(tmp_path: Path) -> None:
    """One for each class that it names, written as tc writes it; the unclassified only where named."""
    found = adoption(
        tmp_path,
        'slices: [{name: a, devices: [eth1], class: "1:10", exempt_class: "a:fF"}, {name: _default, class: "1:1"}]',
    )
    assert found.classes == {lane("a"): 0x10010, lane("a", Traffic.EXEMPT): 0xA00FF, lane("_default"): 0x10001}
    assert found.problems == ()


def test_a_full_rate_that_nobody_has_written_is_the_one_that_is_found(tmp_path: Path) -> None:
    """A rate, or a limit, that the record or the defaults say holds."""
    slices = (
        'slices: [{name: a, devices: [eth1], class: "1:1"}, '
        '{name: b, devices: [eth1], class: "1:2", normal: {full: 1mbit}}, '
        '{name: c, devices: [eth1], class: "1:3", normal: {full: cap}}]'
    )
    assert adoption(tmp_path, slices).as_found == {lane("a")}
    assert adoption(tmp_path, slices, CONFIG + "defaults: {normal: {full: 2mbit}}\n").as_found == frozenset()


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ("{name: a, devices: [eth1]}", 'a: has no class on eth1, whose tree is existing; name it, as class: "1:10"'),
        (
            '{name: b, devices: [eth1], class: "1:1"}, {name: a, devices: [eth1], exempt_class: "1:1"}',
            "a: the class is that of b (normal) already; a class is counted once",
        ),
    ],
)
def test_a_slice_without_a_class_of_its_own_is_named(tmp_path: Path, slices: str, said: str) -> None:
    """With file and line; the others are adopted."""
    (problem,) = adoption(tmp_path, f"slices: [{slices}]").problems
    assert said in str(problem)


def test_a_class_in_a_tree_of_ours_means_nothing(tmp_path: Path) -> None:
    """There bwexporter numbers the classes."""
    (problem,) = misplaced_classes(*read(tmp_path, 'slices: [{name: a, class: "1:10"}, {name: b}]'))
    assert "a: names a class, and none of its devices has tree: existing" in str(problem)
