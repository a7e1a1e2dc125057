"""Slices from files that a person writes.

Turns a YAML file into records and problems, several sources' results into one set of records, and changes on disk
into a call. Knows: the file's outer keys, how editors and mounted volumes replace files. Does not know: what a record
holds, who wants to hear of a change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import watchfiles

from bwexporter.errors import ConfigError, Problem
from bwexporter.slices.records import SliceRecord, read_record
from bwexporter.written import Fault, unknown_key
from bwexporter.yamlfile import Document, load_yaml

Identity = tuple[int, ...] | None

_LOOK_AGAIN_MS = 2000
_SETTLE_MS = 200
_STEP_MS = 250  # watchfiles looks through what the kernel has told as often as this; its own 50 ms cost an idle node


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What a source says now: records of the last good reading, and every problem of this one."""

    source: str
    records: tuple[SliceRecord, ...]
    problems: tuple[Problem, ...]
    up: bool  # false: this reading failed as a whole, and the records are older


class FileSource:
    """One file of slices, with its last good reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._good: tuple[SliceRecord, ...] = ()

    def read(self) -> SourceResult:
        """Read the file anew; one that cannot be used as a whole leaves the last good records as they are."""
        name = str(self.path)
        try:
            document = load_yaml(self.path)
            items = _items(document)
        except ConfigError as refused:
            return SourceResult(name, self._good, refused.problems, up=False)
        self._good, problems = _read_items(document, items)
        return SourceResult(name, self._good, tuple(sorted(problems, key=lambda problem: problem.line)), up=True)


def _items(document: Document) -> list[object]:
    """Return the list below `slices`; ConfigError."""
    data = document.data
    if data is None:
        raise ConfigError([Problem(document.file, 0, "", "is empty; write slices: [] if there are none")])
    if not isinstance(data, dict):
        raise ConfigError([Problem(document.file, 1, "", "must be a mapping with the key slices")])
    problems = [document.problem((key,), unknown_key(key, ["slices"])) for key in data if key != "slices"]
    if "slices" not in data:
        raise ConfigError([*problems, Problem(document.file, 1, "slices", "is missing; write slices: [] for none")])
    items = data["slices"]
    if problems or not isinstance(items, list):
        wrong = [] if isinstance(items, list) else [document.problem(("slices",), "must be a list; write [] for none")]
        raise ConfigError([*problems, *wrong])
    return items


def _read_items(document: Document, items: Sequence[object]) -> tuple[tuple[SliceRecord, ...], list[Problem]]:
    records, problems = [], []
    for at, item in enumerate(items):
        place = ("slices", at)
        record, faults = read_record(item, source=document.file, line=document.line_of(place))
        problems += [document.problem(place + fault.path, _naming(fault, record)) for fault in faults]
        if record is not None:
            records.append(record)
    kept, again = _first_of_each_name(records)
    return kept, problems + again


def _naming(fault: Fault, record: SliceRecord | None) -> str:
    """Say whose fault it is, and that a slice without a record is left out for it."""
    return f"{fault.text} (slice {record.name})" if record else f"{fault.text} (this slice is left out)"


def _first_of_each_name(records: Iterable[SliceRecord]) -> tuple[tuple[SliceRecord, ...], list[Problem]]:
    """Return the first record of each name, and a problem for each further one that names both places."""
    first: dict[str, SliceRecord] = {}
    problems = []
    for record in records:
        known = first.setdefault(record.name, record)
        if known is not record:
            text = f"{record.name} stands at {known.source}:{known.line} already; that one holds"
            problems.append(Problem(record.source, record.line, "name", text))
    return tuple(first.values()), problems


def combine(results: Sequence[SourceResult]) -> tuple[tuple[SliceRecord, ...], tuple[Problem, ...]]:
    """Return the records of all sources in their order and all problems; of one name the first record stays."""
    records, again = _first_of_each_name(record for result in results for record in result.records)
    return records, (*(problem for result in results for problem in result.problems), *again)


def identities(paths: Sequence[Path]) -> Mapping[Path, Identity]:
    """Return what differs between two versions of each file, behind all symlinks; None where there is none."""
    return {path: _identity(path) for path in paths}


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def watch(
    paths: Sequence[Path],
    stop_event: Event,
    on_change: Callable[[frozenset[Path]], None],
    *,
    since: Mapping[Path, Identity] | None = None,
) -> None:
    """Call `on_change` with the paths whose content may differ, until the event is set; blocks, so give it a thread.

    `since` are the identities taken before the files were first read, so that no change is lost in between; without
    them changes count from this call on.
    The directories are watched and the files compared, because editors rename a new file over the old one, and
    because a Kubernetes ConfigMap swaps a symlink beside it. What no notification tells is found within two seconds.
    """
    known = dict(identities(paths) if since is None else since)
    while not stop_event.is_set():
        directories = _directories(paths)
        for _ in _bursts(directories, stop_event):
            now = identities(paths)
            changed = frozenset(path for path in paths if now[path] != known.get(path))
            known = dict(now)
            if changed and not stop_event.is_set():
                on_change(changed)
            if _directories(paths) != directories:
                break


def _directories(paths: Sequence[Path]) -> frozenset[Path]:
    """Return the directories in which paths, and the files that they lead to, can be replaced."""
    real = (Path(os.path.realpath(path)) for path in paths)
    return frozenset(path.parent for path in [*paths, *real] if path.parent.is_dir())


def _bursts(directories: frozenset[Path], stop_event: Event) -> Iterator[None]:
    """Yield after each burst of changes in directories, and at least every two seconds, until the event is set.

    Where the kernel gives no notifications (a directory that is gone, no inotify watch left) the two seconds remain.
    """
    try:
        if directories:
            yield from (
                None
                for _ in watchfiles.watch(
                    *directories,
                    watch_filter=None,
                    debounce=_SETTLE_MS,
                    step=_STEP_MS,
                    rust_timeout=_LOOK_AGAIN_MS,
                    yield_on_timeout=True,
                    stop_event=stop_event,
                    recursive=False,
                    raise_interrupt=False,
                )
            )
    except (OSError, RuntimeError):
        pass  # Said in the docstring: looking every two seconds does as well, only later.
    stop_event.wait(_LOOK_AGAIN_MS / 1000)
    yield
