"""A source that a server is asked for, now and then.

Turns answers into the reading that holds, which no failure, no half answer and no accident at the server's takes away.
Knows: that an answer is taken as a whole or not at all, that the last good one outlives the program. Does not know: the
server's language, when it is asked, who acts on a change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bwexporter.errors import ConfigError, Problem
from bwexporter.fetch import FetchError
from bwexporter.slices.guard import drops_too_many
from bwexporter.slices.shelf import NOT_KEPT, Kept, Shelf
from bwexporter.slices.source import NOTHING, Reading, SourceResult
from bwexporter.sources import Polling

Ask = Callable[[Kept | None], Kept | None]
"""Asks the server; None where it says that nothing has changed; FetchError."""
Read = Callable[[str], Reading]
"""Reads an answer; ConfigError where it cannot be used as a whole."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What the source knows; replaced as a whole, so that any thread may read it."""

    kept: Kept | None = None
    reading: Reading = NOTHING
    troubles: tuple[Problem, ...] = ()  # of the last try, where it failed as a whole
    shelf_trouble: str = ""
    refused_names: frozenset[str] | None = None  # slices of an answer that the guard did not believe
    up: bool = False


class PolledSource:
    """A server's slices. One thread polls, any thread reads."""

    def __init__(
        self,
        name: str,
        polling: Polling,
        ask: Ask,
        read: Read,
        shelf: Shelf,
        wall_clock: Callable[[], float],
        *,
        kept: Kept | None = None,
    ) -> None:
        """Begin with the answer that is given, or with that on the shelf."""
        self.name = name
        self.every_seconds = polling.every_seconds
        self._guarded = polling.guard
        self._ask = ask
        self._read = read
        self._shelf = shelf
        self._wall_clock = wall_clock
        self._held = self._from(kept or shelf.take())

    def read(self) -> SourceResult:
        """Return what the server said last; it is not asked."""
        held = self._held
        problems = (*held.troubles, *held.reading.problems)
        if held.shelf_trouble:
            problems = (*problems, Problem(self.name, 0, "", f"{NOT_KEPT}: {held.shelf_trouble}"))
        at = held.kept.taken_at_wall_seconds if held.kept else 0.0
        return SourceResult(self.name, held.reading, problems, held.up, at, unkept=bool(held.shelf_trouble))

    @property
    def kept(self) -> Kept | None:
        """Return the last good answer, be it of another day; None where there is none."""
        return self._held.kept

    def poll(self) -> bool:
        """Ask the server; say whether what the source says has changed."""
        before = self._held
        try:
            self._held = self._after(before, self._ask(before.kept))
        except (FetchError, ConfigError) as trouble:
            self._held = replace(before, troubles=self._said(trouble), up=False)
        return _telling(before) != _telling(self._held)

    def _after(self, before: _Held, answer: Kept | None) -> _Held:
        """Return what is known after an answer; `answer` is None where the last one still holds."""
        kept = answer or before.kept
        if kept is None:
            raise FetchError(f"{self.name} says that nothing has changed, and was never asked before")
        kept = replace(kept, taken_at_wall_seconds=self._wall_clock())
        reading = self._read(kept.text)
        refusal = drops_too_many(before.reading.names, reading.names) if self._guarded else ""
        if refusal and before.refused_names != reading.names:
            trouble = Problem(self.name, 0, "", refusal)
            return replace(before, troubles=(trouble,), refused_names=reading.names, up=False)
        return _Held(kept, reading, (), self._shelf.put(kept), up=True)

    def _from(self, kept: Kept | None) -> _Held:
        try:
            return _Held(kept, self._read(kept.text)) if kept else _Held()
        except ConfigError:
            return _Held()

    def _said(self, trouble: FetchError | ConfigError) -> tuple[Problem, ...]:
        if isinstance(trouble, ConfigError):
            return trouble.problems
        return (Problem(self.name, 0, "", str(trouble).removeprefix(self.name).strip()),)


def _telling(held: _Held) -> tuple[object, ...]:
    """Return what of it others act on; how it is down is told once, when it goes down."""
    return held.up, held.reading, held.shelf_trouble
