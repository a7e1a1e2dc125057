"""Sources: files and URLs that say where datagrams go, read again and again.

Turns a list of sources into the setup of the first one that can be used, and keeps the last good one. Knows: the order
of sources, when they are due again, what is logged. Does not know: the grammar of a file, sockets.

A source is used when it names a destination and, unless reading is lenient, nothing in it is wrong. The order is that
of the list, so that two sources that differ do not take turns. Reading anew happens at most every 30 s, and ever more
rarely while it fails.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from bwexporter.apmon.destinations import Setup, read_text
from bwexporter.apmon.options import SMALLEST_RECHECK_SECONDS
from bwexporter.errors import BwexporterError, Problem
from bwexporter.fetch import MOST_BYTES, FetchError, fetch, shown_url
from bwexporter.regular import open_regular

log = logging.getLogger("bwexporter.apmon")

NO_DESTINATION = "names no destination; write a line as mona.example.org:8884"
_LONGEST_BACK_OFF = 5  # times the interval


class SourceError(BwexporterError):
    """A source that cannot be used; the text has a line for each problem."""


class Sources:
    """The sources of one sender; one thread reads them, any thread may ask for `setup`."""

    def __init__(
        self,
        sources: Sequence[str],
        clock: Callable[[], float],
        *,
        lenient: bool = False,
        allow_http: bool = False,
    ) -> None:
        self.setup = Setup()
        self.troubles: tuple[str, ...] = ()  # of the last reading, one for each source that could not be used
        self._sources = tuple(sources)
        self._clock = clock
        self._lenient = lenient
        self._allow_http = allow_http
        self._due_at = 0.0
        self._failures = 0
        self._warned: set[str] = set()

    def seconds_until_due(self) -> float:
        """Return the time until the sources are to be read again."""
        return max(0.0, self._due_at - self._clock())

    def refresh(self) -> bool:
        """Read the sources if that is due; say whether the setup has changed."""
        return self.seconds_until_due() <= 0 and self.read()

    def read(self) -> bool:
        """Read the sources now; say whether the setup has changed. Nothing usable keeps the last good setup."""
        setup, troubles = self._first_usable()
        if setup is None:
            self._fail(troubles)
            return False
        return self._install(setup, troubles)

    def read_once(self) -> Setup:
        """Return the first setup that can be used; SourceError, with what is wrong with each, where there is none."""
        setup, troubles = self._first_usable()
        if setup is None:
            raise SourceError("\n".join(troubles))
        self._install(setup, troubles)
        return setup

    def _first_usable(self) -> tuple[Setup | None, tuple[str, ...]]:
        troubles: list[str] = []
        for source in self._sources:
            try:
                return self._read(source), tuple(troubles)
            except SourceError as error:
                troubles.append(str(error))
        return None, tuple(troubles)

    def _install(self, setup: Setup, troubles: tuple[str, ...]) -> bool:
        if self._failures:
            log.info("destinations are read again")
        self._note(troubles, "the next source is used")
        self._failures = 0
        self._due_at = self._clock() + self._interval(setup) if setup.for_all.conf_recheck else float("inf")
        changed, self.setup = setup != self.setup, setup
        return changed

    def _fail(self, troubles: tuple[str, ...]) -> None:
        self._failures += 1
        kept = "the last good destinations are kept" if self.setup.destinations else "there are no destinations"
        self._note(troubles, kept)
        back_off = min(_LONGEST_BACK_OFF, 2 ** (self._failures - 1))
        self._due_at = self._clock() + (
            self._interval(self.setup) * back_off if self.setup.destinations else SMALLEST_RECHECK_SECONDS * back_off
        )

    def _interval(self, setup: Setup) -> int:
        return max(SMALLEST_RECHECK_SECONDS, setup.for_all.recheck_interval)

    def _note(self, troubles: tuple[str, ...], kept: str) -> None:
        """Log troubles once, until they change."""
        for trouble in troubles:
            if trouble not in self.troubles:
                log.error("%s; %s", trouble, kept)
        self.troubles = troubles

    def _read(self, source: str) -> Setup:
        is_url = source.lower().startswith(("http://", "https://"))
        name = shown_url(source) if is_url else source
        text = self._fetched(source, name) if is_url else _read_file(source)
        reading = read_text(text, name=name, lenient=self._lenient)
        if reading.problems:
            raise SourceError("\n".join(str(problem) for problem in reading.problems))
        self._warn(reading.warnings)
        setup = reading.setup
        if not setup.destinations:
            raise SourceError(f"{name} {NO_DESTINATION}")
        if any(one.password for one in setup.destinations):
            self._warn_of_passwords(name, Path(source) if not is_url else None)
        return setup

    def _fetched(self, url: str, name: str) -> str:
        if url.lower().startswith("http://") and not self._allow_http:
            text = "without TLS anybody on the way decides where figures and passwords go; write https, or allow http"
            raise SourceError(f"{name} is not fetched: {text}")
        try:
            return _text(name, fetch(url).body)
        except FetchError as error:
            raise SourceError(str(error)) from None

    def _warn(self, warnings: Sequence[Problem]) -> None:
        for warning in warnings:
            self._warn_once(str(warning))

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def _warn_of_passwords(self, name: str, path: Path | None) -> None:
        self._warn_once(f"{name}: passwords go over the network in plain text, as ApMon's protocol has it")
        try:
            mode = 0 if path is None else path.stat().st_mode
        except OSError:
            return
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            self._warn_once(f"{name} holds passwords and others may read or change it; run chmod o-rwx,g-w on it")


def check_file(source: str, *, lenient: bool) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return what keeps a file from being used, and what is doubtful in it."""
    try:
        reading = read_text(_read_file(source), name=source, lenient=lenient)
    except SourceError as error:
        return (Problem(source, 0, "", str(error).removeprefix(source).lstrip(" :")),), ()
    if not reading.problems and not reading.setup.destinations:
        return (Problem(source, 0, "", NO_DESTINATION),), reading.warnings
    return reading.problems, reading.warnings


def _read_file(source: str) -> str:
    try:
        with open_regular(Path(source)) as file:
            return _text(source, file.read(MOST_BYTES + 1))
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror}") from None


def _text(name: str, content: bytes) -> str:
    if len(content) > MOST_BYTES:
        raise SourceError(f"{name} is larger than {MOST_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{name}:{line}: is not UTF-8") from None
