"""Several sources as one: a name stands once, what runs stays, and a record may patch an earlier one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from bwexporter.errors import Problem
from bwexporter.slices.combining import combine
from bwexporter.slices.file import FileSource
from bwexporter.slices.records import SliceRecord


class Files:
    """Files of slices that are read together, again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sources: dict[str, FileSource] = {}
        self.running: dict[str, SliceRecord] = {}
        self.problems: tuple[Problem, ...] = ()

    def read(self, **files: list[dict[str, Any]] | str) -> dict[str, SliceRecord]:
        """Write some files anew and read all, in the order in which they came."""
        for name, slices in files.items():
            path = self._folder / f"{name}.yml"
            path.write_text(slices if isinstance(slices, str) else yaml.safe_dump({"slices": slices}))
            self._sources.setdefault(name, FileSource(path))
        records, self.problems = combine([source.read() for source in self._sources.values()], self.running)
        self.running = {record.name: record for record in records}
        return self.running

    @property
    def said(self) -> list[str]:
        """Return the problems without the folder."""
        return [str(problem).replace(f"{self._folder}/", "") for problem in self.problems]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return no files yet."""
    return Files(tmp_path)


def test_of_a_name_in_two_sources_the_one_that_runs_stays(files: Files) -> None:
    """Also where the other source comes first."""
    files.read(first=[], second=[{"name": "a", "id": 2}])
    assert files.read(first=[{"name": "a", "id": 1}])["a"].slice_id == 2
    (said,) = files.said
    assert said.startswith("second.yml:2: name: a stands at first.yml:2 already; the record that runs stays")
    assert files.read(second=[])["a"].slice_id == 1
    assert files.said == []


def test_of_a_name_that_is_new_twice_the_first_holds(files: Files) -> None:
    """Nobody runs yet."""
    assert files.read(first=[{"name": "a", "id": 1}], second=[{"name": "a", "id": 2}])["a"].slice_id == 1
    assert "that one holds" in files.said[0]


@pytest.mark.parametrize("broken", [{"id": 0}, {"id": "one"}, {"id": 99_999}])
def test_a_record_that_becomes_unusable_removes_nobody(files: Files, broken: dict[str, Any]) -> None:
    """The slice goes on as it runs, and the problem is said; a new one is left out."""
    files.read(first=[{"name": "a", "id": 1, "normal": {"allowance": "5GB"}}])
    records = files.read(first=[{"name": "a", "normal": {"allowance": "9GB"}, **broken}, {"name": "b", **broken}])
    assert {name: record.normal.allowance_bytes for name, record in records.items()} == {"a": 5_000_000_000}
    assert len(files.said) == 2
    assert files.read(first=[]) == {}


class TestOverride:
    """A record that patches an earlier one."""

    def test_it_sets_the_keys_that_it_has(self, files: Files) -> None:
        """And leaves the others; each key says where it was given."""
        base = {
            "name": "a",
            "id": 1,
            "owners": ["pi@example.org"],
            "labels": {"site": "x", "project": "p"},
            "match": {"user": "a"},
            "normal": {"full": "10mbit", "allowance": "5GB"},
            "shadow": True,
        }
        patch = {
            "name": "a",
            "override": True,
            "owners": [],
            "labels": {"site": "y"},
            "match": {"mark": 7},
            "normal": {"full": "20mbit", "threshold": "50%"},
            "shadow": False,
        }
        record = files.read(first=[base], second=[patch])["a"]
        assert files.said == []
        assert (record.slice_id, record.owners, record.labels) == (1, (), {"site": "y", "project": "p"})
        assert (record.match.user, record.match.mark) == ("a", 7)
        assert (record.normal.full, record.normal.allowance_bytes) == (2_500_000, 5_000_000_000)
        assert (record.normal.threshold, record.normal.shadow, record.exempt.shadow) == (Fraction(1, 2), False, False)
        origins = {key: Path(place).name for key, place in record.origins.items()}
        assert (origins["normal.full"], origins["normal.allowance"]) == ("second.yml:2", "first.yml:2")

    def test_a_tag_patches_a_plain_key(self, files: Files) -> None:
        """The later record wins, whichever way it says it."""
        base = {"name": "a", "normal": {"full": "10mbit"}}
        record = files.read(first=[base], second=[{"name": "a", "override": True, "tags": {"net_max_rate": 5000}}])["a"]
        assert record.normal.full == 625_000
        assert record.origins["normal.full"].endswith("second.yml:2 (tag net_max_rate)")

    def test_several_patches_come_in_their_order(self, files: Files) -> None:
        """The last one wins; one file may hold both."""
        one, two = ({"name": "a", "override": True, "normal": {"share": share}} for share in (2, 3))
        assert files.read(first=[{"name": "a"}, one], second=[two])["a"].normal.share == 3

    def test_a_patch_of_nobody_is_a_problem(self, files: Files) -> None:
        """It makes no slice."""
        assert files.read(first=[{"name": "a", "override": True}]) == {}
        assert files.said == ["first.yml:2: override: a is in no earlier source, so that there is nothing to override"]

    def test_the_reserved_slices_are_always_there(self, files: Files) -> None:
        """Nobody needs to name them first; a later record may switch everything on again."""
        off = {"name": "_default", "off": True}
        assert files.read(first=[{"name": "_root", "override": True, "normal": {"share": 5}}, off])["_root"]
        assert files.running["_default"].everything_off
        files.read(second=[{"name": "_default", "override": True, "off": False}])
        assert (files.said, files.running["_default"].everything_off) == ([], False)

    @pytest.mark.parametrize(
        ("base", "patch", "key"),
        [
            ({"full": "10mbit", "guarantee": "1mbit"}, {"full": "500kbit"}, "normal.full"),
            ({"full": "10mbit"}, {"guarantee": "20mbit"}, "normal.guarantee"),
            ({"allowance": "5GB", "threshold": "4GB"}, {"allowance": "3GB"}, "normal.allowance"),
            ({"allowance": "5GB"}, {"threshold": "6GB"}, "normal.threshold"),
        ],
    )
    def test_a_patch_that_contradicts_the_rest_costs_its_key(
        self, files: Files, base: dict[str, Any], patch: dict[str, Any], key: str
    ) -> None:
        """What ran stays, and the problem is the patch's."""
        before = files.read(first=[{"name": "a", "normal": base}])["a"].normal
        after = files.read(second=[{"name": "a", "override": True, "normal": {**patch, "share": 2}}])["a"].normal
        assert after == before.model_copy(update={"share": 2})
        (said,) = files.said
        assert said.startswith(f"second.yml:2: {key}: a: ")
