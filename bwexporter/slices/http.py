"""Slices from a list at a URL.

Turns a URL and its credentials into an answer, and an answer into records. Knows: how HTTP asks for what has changed.
Does not know: what becomes of the records, when to ask again.
"""

from __future__ import annotations

import json
from typing import NoReturn

from bwexporter.credentials import Credentials
from bwexporter.errors import ConfigError, Problem
from bwexporter.fetch import FetchError, fetch
from bwexporter.slices.listing import read_listing
from bwexporter.slices.shelf import Kept
from bwexporter.slices.source import Reading
from bwexporter.sources import HttpAt
from bwexporter.units import shown
from bwexporter.yamlfile import Document


class HttpList:
    """A list of slices at a URL, in the form of a file of slices; servers write it as JSON."""

    def __init__(self, at: HttpAt) -> None:
        self._at = at

    def ask(self, kept: Kept | None) -> Kept | None:
        """Ask for the list; None where it is the one that is known; FetchError."""
        polling = self._at.polling
        way_in = Credentials(self._at.token_file, self._at.user, self._at.password_file)
        headers = {"accept": "application/json", **way_in.headers()}
        if kept and kept.version:
            headers["if-none-match"] = kept.version
        elif kept and kept.modified:
            headers["if-modified-since"] = kept.modified
        answer = fetch(
            polling.url,
            headers=headers,
            ca_file=polling.ca_file,
            other_hosts=True,
            most_bytes=polling.largest_bytes,
            seconds=polling.timeout_seconds,
        )
        if answer.unchanged:
            return None
        try:
            text = answer.body.decode()
        except UnicodeDecodeError:
            raise FetchError(f"{self._at.name} does not answer with UTF-8 text") from None
        return Kept(text, answer.headers.get("etag", ""), answer.headers.get("last-modified", ""))

    def read(self, text: str) -> Reading:
        """Read a list; ConfigError."""
        return read_listing(_document(text, self._at.name))


def _document(text: str, name: str) -> Document:
    """Read JSON (RFC 8259), a key in a mapping once; ConfigError. What is JSON to servers need not be YAML: tabs."""
    try:
        return Document(name, json.loads(text, object_pairs_hook=_mapping, parse_constant=_no_number), {})
    except json.JSONDecodeError as trouble:
        problem = Problem(name, trouble.lineno, "", f"is not JSON here: {trouble.msg}")
    except RecursionError:
        problem = Problem(name, 0, "", "is not JSON that can be read: it is nested too deep")
    except ValueError as trouble:
        problem = Problem(name, 0, "", str(trouble))
    raise ConfigError([problem]) from None


def _mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise ValueError(f"has the key {shown(again)} twice in one mapping; a key may stand once")
    return mapping


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no number of JSON")
