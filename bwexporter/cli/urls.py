"""The option that names a bwexporter by its URL.

Turns what was written into a URL of HTTP, or into a sentence that says what to write. Knows: what such a URL has. Does
not know: who is asked there, or whether anybody answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from bwexporter.units import shown


def url_option(example: str, text: str) -> Callable[[Any], Any]:
    """Return an option --url; `text` explains it."""

    def read(_context: click.Context, _parameter: click.Parameter, written: str | None) -> str | None:
        if written is not None and not _is_url(written):
            named = shown(_without_user(written))
            raise click.BadParameter(f"{named} is not a URL of http or https with a host, as {example}")
        return written

    return click.option("--url", metavar="URL", callback=read, help=text)


def _is_url(written: str) -> bool:
    """Say whether it is http or https, with a host, and with a port that there can be."""
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError:
        return False
    is_plain = written.isprintable() and " " not in written
    return is_plain and parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0


def _without_user(written: str) -> str:
    """Leave out what stands before an @: it may be a password."""
    before, at, rest = written.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    return f"{scheme}//{rest}" if at and slashes else rest
