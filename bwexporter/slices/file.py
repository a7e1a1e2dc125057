"""Slices from files that a person writes.

Turns a YAML file into records and problems, and changes on disk into a call. Knows: how editors and mounted volumes
replace files. Does not know: what stands in the file, who wants to hear of a change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

import watchfiles

from bwexporter.errors import ConfigError, Problem
from bwexporter.slices.listing import read_listing
from bwexporter.slices.shelf import NOT_KEPT, Kept, Shelf
from bwexporter.slices.source import NOTHING, Reading, SourceResult
from bwexporter.yamlfile import parse_yaml, read_content

Identity = tuple[int, ...] | None

_LOOK_AGAIN_MS = 2000
_SETTLE_MS = 200
_STEP_MS = 250  # watchfiles looks through what the kernel has told as often as this; its own 50 ms cost an idle node


class FileSource:
    """One file of slices, with its last good reading. With a shelf that one outlives the program."""

    def __init__(self, path: Path, shelf: Shelf | None = None) -> None:
        self.path = path
        self.name = str(path)
        self._shelf = shelf
        self._good: Reading | None = None
        self._content: bytes | None = None  # which that was read from
        self._is_kept = False
        self._trouble = ""  # what kept it from being kept

    def read(self) -> SourceResult:
        """Read the file anew; one that cannot be used as a whole leaves the last good records as they are."""
        try:
            content = read_content(self.path)
            if self._good is None or content != self._content:
                self._good = read_listing(parse_yaml(content, file=self.name))
                self._content, self._is_kept = content, False
        except ConfigError as refused:
            if self._good is None:
                self._good = self._of_another_day()
            return SourceResult(self.name, self._good, refused.problems, up=False, unkept=bool(self._trouble))
        problems = (*self._good.problems, *self._keep(content))
        return SourceResult(self.name, self._good, problems, up=True, unkept=bool(self._trouble))

    def _of_another_day(self) -> Reading:
        """Return what the file said when the program ran last; the file has not been good since it was started."""
        kept = self._shelf.take() if self._shelf else None
        try:
            return read_listing(parse_yaml(kept.text.encode(), file=self.name)) if kept else NOTHING
        except ConfigError:
            return NOTHING

    def _keep(self, content: bytes) -> tuple[Problem, ...]:
        """Keep what is good for the next start, and return what is wrong with that."""
        if self._shelf is not None and not self._is_kept:
            self._trouble = self._shelf.put(Kept(content.decode()))
            self._is_kept = not self._trouble
        return (Problem(self.name, 0, "", f"{NOT_KEPT}: {self._trouble}"),) if self._trouble else ()


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
    on_change: Callable[[frozenset[Path]], object],
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
