"""All sources of the configuration, kept over its reloads.

Turns the sources that the configuration names into what they say, and into servers to ask. Knows: each kind of source,
which of them live on when the configuration changes. Does not know: what becomes of records, when servers are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bwexporter.slices.file import FileSource
from bwexporter.slices.http import HttpList
from bwexporter.slices.plc import PlcNode
from bwexporter.slices.polled import PolledSource
from bwexporter.slices.shelf import Kept, Shelf
from bwexporter.slices.source import Source, SourceResult
from bwexporter.sources import FileAt, HttpAt, SourceAt


class Sources:
    """The sources. What each last said that was good is kept beside the file `state`, where `keeps` says so.

    `accounts` gives the node's users.
    """

    def __init__(
        self,
        state: Path,
        wall_clock: Callable[[], float],
        accounts: Callable[[], Mapping[str, int]],
        *,
        keeps: bool,
    ) -> None:
        self._state = state
        self._wall_clock = wall_clock
        self._accounts = accounts
        self._keeps = keeps
        self._open: dict[SourceAt, Source] = {}

    def read(self, wanted: Sequence[SourceAt]) -> list[SourceResult]:
        """Return what the wanted sources say, in their order; those that are no longer wanted are forgotten."""
        before = self._open
        asked = ((at, source) for at, source in before.items() if isinstance(source, PolledSource))
        kept = {(type(at), at.polling.url): source.kept for at, source in asked if not isinstance(at, FileAt)}
        self._open = {at: before.get(at) or self._opened(at, kept) for at in wanted}
        return [source.read() for source in self._open.values()]

    @property
    def polled(self) -> tuple[PolledSource, ...]:
        """Return the servers to ask."""
        return tuple(source for source in self._open.values() if isinstance(source, PolledSource))

    def _opened(self, at: SourceAt, kept: Mapping[tuple[type, str], Kept | None]) -> Source:
        """Open a source; one that is asked in another way than before begins with what it had answered."""
        if isinstance(at, FileAt):
            return FileSource(at.path, Shelf(self._state, "file", at.name, keeps=self._keeps))
        kind, server = ("http", HttpList(at)) if isinstance(at, HttpAt) else ("plc", PlcNode(at, self._accounts))
        shelf = Shelf(self._state, kind, at.polling.url, keeps=self._keeps)
        before = kept.get((type(at), at.polling.url))
        return PolledSource(at.name, at.polling, server.ask, server.read, shelf, self._wall_clock, kept=before)
