"""Slices from files: bad files keep the last good records, names are unique, changes on disk are noticed."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest
import yaml

from bwexporter.slices.combining import combine
from bwexporter.slices.file import FileSource, identities, watch
from bwexporter.slices.shelf import Shelf
from tests.waiting import PATIENCE_SECONDS

DATA = Path(__file__).parent / "data"
DEPLOY = Path(__file__).parents[1] / "deploy"

BAD = [
    ("no_list", 1, "slices", "must be a list"),
    ("missing", 1, "slice", 'did you mean "slices"'),
    ("empty", 0, "", "is empty"),
    ("scalar", 1, "", "must be a mapping"),
    ("duplicate_key", 3, "name", "stands here and at line 2"),
]


@pytest.mark.parametrize(("rule", "line", "key", "text"), BAD)
def test_a_bad_file_keeps_the_last_good_records(tmp_path: Path, rule: str, line: int, key: str, text: str) -> None:
    """A file that cannot be used as a whole removes nobody, and says what is wrong with it."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}, {name: b}]")
    source = FileSource(path)
    assert source.read().up
    path.write_bytes((DATA / f"bad_slices_{rule}.yml").read_bytes())
    result = source.read()
    assert not result.up
    assert [record.name for record in result.records] == ["a", "b"]
    problem = result.problems[0]
    assert (problem.file, problem.line, problem.key) == (str(path), line, key)
    assert text in problem.text


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
HOSTILE = [
    pytest.param(b"slices: [{name: c}]\n" + b" " * (17 << 20), 0, "is larger than 16 MiB", id="large"),
    pytest.param(BOMB.encode(), 7, "holds more than 2000000 values", id="aliases that multiply"),
    pytest.param("slices: []".encode("utf-16"), 1, "is not UTF-8 text", id="UTF-16"),
    pytest.param("slices: [{name: Jörg}]".encode("latin-1"), 1, "is not UTF-8 text", id="Latin-1"),
    pytest.param(b"slices: []\x00", 1, "is not YAML here", id="a zero byte"),
    pytest.param(b"slices: " + b"[" * 10_000, 1, "is nested deeper than 32 levels", id="nested without end"),
    pytest.param(b"slices: [{name: c}\n", 1, "is not YAML here", id="half a file"),
    pytest.param(b"slices:\n\t- name: c\n", 2, "is not YAML here", id="a tab"),
    pytest.param(b"slices: *all\n", 1, "stands for nothing", id="an anchor that there is not"),
    pytest.param(b"slices: &a [*a]\n", 1, "stands for something that holds it", id="an alias of itself"),
    pytest.param(b"slices: !!python/object/apply:os.system [id]\n", 1, "is not known here", id="a tag that runs"),
    pytest.param(b"slices: []\n---\nslices: []\n", 2, "a second document begins here", id="two documents"),
    pytest.param(b"slices: []\nslices: []\n", 2, "stands here and at line 1", id="a key twice"),
    pytest.param(b"? [a]\n: b\n", 1, "a key must be text", id="a list as a key"),
]


@pytest.mark.parametrize(("content", "line", "text"), HOSTILE)
def test_a_hostile_file_is_one_clear_problem(tmp_path: Path, content: bytes, line: int, text: str) -> None:
    """Whatever it holds: the running slices stay, and one sentence says what it is."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}, {name: b}]")
    source = FileSource(path)
    source.read()
    path.write_bytes(content)
    result = source.read()
    assert (result.up, [record.name for record in result.records]) == (False, ["a", "b"])
    (problem,) = result.problems
    assert (problem.file, problem.line) == (str(path), line)
    assert text in problem.text


def test_a_file_of_100_mb_is_not_read_whole(tmp_path: Path) -> None:
    """It is refused after its first 16 MiB."""
    path = tmp_path / "slices.yml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    (problem,) = FileSource(path).read().problems
    assert str(problem) == f"{path}: is larger than 16 MiB"


def test_a_vanished_file_keeps_the_last_good_records(tmp_path: Path) -> None:
    """A file that is gone removes nobody, and one that is back is believed."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}]")
    source = FileSource(path)
    source.read()
    path.unlink()
    result = source.read()
    assert (result.up, [record.name for record in result.records]) == (False, ["a"])
    path.write_text("slices: []")
    assert source.read().records == ()


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, _bind], ids=["a pipe", "a folder", "a socket"])
def test_what_is_no_file_keeps_the_last_good_records(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe without a writer in a file's place holds nobody up: it is a source that is down."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}]")
    source = FileSource(path)
    source.read()
    path.unlink()
    make(path)
    result = source.read()
    assert (result.up, [record.name for record in result.records]) == (False, ["a"])
    assert [f"{path}: cannot be read: not a regular file; write the path of one"] == [
        str(one) for one in result.problems
    ]


def test_a_file_that_is_bad_at_the_start_is_as_it_was(tmp_path: Path) -> None:
    """A program that is started again while a file is bad goes on with what that said; `check` keeps nothing."""
    path, shelf = tmp_path / "slices.yml", Shelf(tmp_path / "state.db", "file", "slices.yml")
    path.write_text("slices: [{name: a}]")
    FileSource(path).read()
    assert shelf.take() is None
    FileSource(path, shelf).read()
    path.write_text("slices: [")
    result = FileSource(path, shelf).read()
    assert (result.up, [record.name for record in result.records]) == (False, ["a"])
    path.write_text("slices: []")
    source = FileSource(path, shelf)
    assert (source.read().records, source.read().problems) == ((), ())


def test_what_cannot_be_kept_for_the_next_start_is_a_problem(tmp_path: Path) -> None:
    """The file holds all the same."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}]")
    source = FileSource(path, Shelf(tmp_path / "gone" / "state.db", "file", "slices.yml"))
    result = source.read()
    assert (result.up, len(result.records), result.unkept) == (True, 1, True)
    assert "cannot be kept for the next start: No such file or directory" in str(result.problems[0])
    (tmp_path / "gone").mkdir()
    assert (source.read().unkept, source.read().problems) == (False, ())


def test_problems_name_the_slice(tmp_path: Path) -> None:
    """Whoever reads the log need not open the file to know whose value is bad."""
    path = tmp_path / "slices.yml"
    path.write_text("slices:\n  - name: a\n    normal: {share: 0}\n  - {name: b, id: 0}\n")
    assert [str(problem) for problem in FileSource(path).read().problems] == [
        f"{path}:3: slices[0].normal.share: is 0 and must be a whole number from 1 to 10000 (slice a)",
        f"{path}:4: slices[1].id: is 0 and must be a whole number from 1 to 28670 (this record is left out)",
    ]


def test_a_name_stands_once_in_a_file(tmp_path: Path) -> None:
    """The second of a name is an error that names both places; the first stays."""
    path = tmp_path / "slices.yml"
    path.write_text("slices:\n  - {name: a, id: 1}\n  - {name: a, id: 2}\n")
    records, problems = combine([FileSource(path).read()], {})
    assert [record.slice_id for record in records] == [1]
    assert f"{path}:3" in str(problems[0])
    assert f"{path}:2" in problems[0].text


def test_a_name_stands_in_one_source(tmp_path: Path) -> None:
    """A name in two sources is an error that names both places; the first stays."""
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    first.write_text("slices: [{name: a, id: 1}]")
    second.write_text("slices:\n  - name: b\n  - name: a\n")
    records, problems = combine([FileSource(first).read(), FileSource(second).read()], {})
    assert [(record.name, record.slice_id) for record in records] == [("a", 1), ("b", None)]
    text = f"{second}:3: name: a stands at {first}:1 already; that one holds (override: true would patch it)"
    assert [str(problem) for problem in problems] == [text]


def test_a_file_that_is_down_keeps_its_names(tmp_path: Path) -> None:
    """While a source is down its records still stand before those of later sources."""
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    first.write_text("slices: [{name: a, id: 1}]")
    second.write_text("slices: [{name: a, id: 2}]")
    source = FileSource(first)
    source.read()
    first.write_text("slices: [")
    records, problems = combine([source.read(), FileSource(second).read()], {})
    assert [record.slice_id for record in records] == [1]
    assert len(problems) == 2


def test_the_example_is_right() -> None:
    """The commented example of all keys has no problem."""
    result = FileSource(DEPLOY / "slices.yml").read()
    assert result.problems == ()
    assert [record.name for record in result.records][-2:] == ["_root", "_default"]


def test_json_is_yaml(tmp_path: Path) -> None:
    """A generated file may be JSON."""
    path = tmp_path / "slices.json"
    path.write_text('{"slices": [{"name": "a", "normal": {"allowance": "5GB"}}]}')
    assert FileSource(path).read().records[0].normal.allowance_bytes == 5_000_000_000


def test_ten_thousand_slices_are_all_read(tmp_path: Path) -> None:
    """A large node's file is read whole, each record with its line."""
    path = tmp_path / "slices.yml"
    lines = (f"  - {{name: s{number}, normal: {{allowance: 5GB}}}}\n" for number in range(10_000))
    path.write_text("slices:\n" + "".join(lines))
    result = FileSource(path).read()
    assert (len(result.records), result.problems) == (10_000, ())
    assert (result.records[-1].name, result.records[-1].line) == ("s9999", 10_001)


def test_a_large_file_is_read_in_a_time_that_nobody_notices(tmp_path: Path) -> None:
    """Read, checked and with their lines they cost less than twice PyYAML's own loading of the plain data."""
    record = (
        "  - {{name: s{n}, id: {n}, owners: [pi@example.edu], match: {{mark: {n}}}, "
        "normal: {{full: 10mbit, allowance: 5GB, threshold: 80%, share: 2}}, tags: {{net_i2_share: 5}}}}\n"
    )
    path = tmp_path / "slices.yml"
    path.write_text("slices:\n" + "".join(record.format(n=number) for number in range(1, 1001)))
    content = path.read_bytes()

    def loaded() -> None:
        yaml.load(content, Loader=yaml.CSafeLoader)

    def read() -> None:
        assert len(FileSource(path).read().records) == 1000

    taken = [(_seconds_of(read), _seconds_of(loaded)) for _ in range(5)]  # in turns: both have the same neighbours
    assert min(ours for ours, _ in taken) < 2 * min(theirs for _, theirs in taken)


def _seconds_of(work: Callable[[], None]) -> float:
    """Return the time of this thread alone that some work takes."""
    gc.collect()
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def test_a_file_that_is_as_it_was_is_the_reading_that_it_was(tmp_path: Path) -> None:
    """A reload for another file's sake costs the large ones nothing; what is written anew is read."""
    path = tmp_path / "slices.yml"
    path.write_text("slices: [{name: a}]")
    source = FileSource(path)
    first = source.read().reading
    assert source.read().reading is first
    path.write_text("slices: [{name: b}]")
    assert [record.name for record in source.read().records] == ["b"]


class Watched:
    """A running watch whose calls can be awaited."""

    def __init__(self, *paths: Path) -> None:
        self.calls: Queue[frozenset[Path]] = Queue()
        self.stop = Event()
        since = identities(paths)
        self.thread = Thread(target=watch, args=(paths, self.stop, self.calls.put), kwargs={"since": since})
        self.thread.start()

    def next(self) -> frozenset[Path]:
        """Wait for a call."""
        return self.calls.get(timeout=PATIENCE_SECONDS)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Watch slices.yml and bwexporter.yml in a directory where only the first exists."""
    (tmp_path / "slices.yml").write_text("slices: []")
    running = Watched(tmp_path / "slices.yml", tmp_path / "bwexporter.yml")
    yield running
    running.stop.set()
    running.thread.join(PATIENCE_SECONDS)
    assert not running.thread.is_alive()


def test_a_rewritten_file_is_noticed(tmp_path: Path, watched: Watched) -> None:
    """A file written in place is told, once it differs."""
    (tmp_path / "slices.yml").write_text("slices: [{name: a}]")
    assert watched.next() == {tmp_path / "slices.yml"}


def test_a_renamed_file_is_noticed(tmp_path: Path, watched: Watched) -> None:
    """Editors write beside and rename over."""
    (tmp_path / ".slices.yml.swp").write_text("slices: [{name: a}]")
    (tmp_path / ".slices.yml.swp").rename(tmp_path / "slices.yml")
    assert watched.next() == {tmp_path / "slices.yml"}


def test_a_new_file_is_noticed_and_a_neighbour_is_not(tmp_path: Path, watched: Watched) -> None:
    """A file that appears is told; one that nobody asked for is not."""
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bwexporter.yml").write_text("x")
    assert watched.next() == {tmp_path / "bwexporter.yml"}


def test_a_swapped_symlink_is_noticed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links through ..data, and swaps that; each of two swaps is told."""
    for version in ("1", "2", "3"):
        (tmp_path / f"..v{version}").mkdir()
        (tmp_path / f"..v{version}" / "slices.yml").write_text(f"slices: [{{name: v{version}}}]")
    (tmp_path / "..data").symlink_to("..v1")
    path = tmp_path / "slices.yml"
    path.symlink_to("..data/slices.yml")
    running = Watched(path)
    try:
        for version in ("2", "3"):
            (tmp_path / "..data_tmp").symlink_to(f"..v{version}")
            (tmp_path / "..data_tmp").replace(tmp_path / "..data")
            assert running.next() == {path}
            assert FileSource(path).read().records[0].name == f"v{version}"
    finally:
        running.stop.set()
        running.thread.join(PATIENCE_SECONDS)


def test_a_directory_that_comes_later_is_noticed(tmp_path: Path) -> None:
    """A file in a directory that does not exist yet is told when both are there."""
    path = tmp_path / "later" / "slices.yml"
    running = Watched(path)
    try:
        path.parent.mkdir()
        path.write_text("slices: []")
        assert running.next() == {path}
    finally:
        running.stop.set()
        running.thread.join(PATIENCE_SECONDS)
