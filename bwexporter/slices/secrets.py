"""The files beside the configuration that asking a server needs: secrets, certificates.

Turns a source into what is wrong with its files. Knows: which files each kind has. Does not know: the servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bwexporter.credentials import read_secret
from bwexporter.errors import Problem
from bwexporter.fetch import FetchError, trusted
from bwexporter.slices.plcauth import read_auth
from bwexporter.sources import FileAt, HttpAt, SourceAt


def problems_of_files(sources: Sequence[SourceAt]) -> Iterator[Problem]:
    """Yield what keeps servers from being asked; no secret is repeated."""
    for at in sources:
        for look in _looks(at):
            try:
                look()
            except FetchError as trouble:
                yield Problem(at.name, 0, "", str(trouble))


def _looks(at: SourceAt) -> Iterator[Callable[[], object]]:
    if isinstance(at, FileAt):
        return
    ca_file = at.polling.ca_file
    if ca_file:
        yield partial(trusted, ca_file)
    if isinstance(at, HttpAt):
        for path in filter(None, (at.token_file, at.password_file)):
            yield partial(read_secret, path)
    else:
        yield partial(read_auth, at.auth_file)
