"""What all pages share: templates, the files that pages refer to, the page that says what went wrong.

Turns values into HTML by the templates of this package, which escape all they are given. Knows: where templates and
files are. Does not know: HTTP, what any page shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bwexporter import __version__

STATIC: Mapping[str, tuple[bytes, str]] = {
    name: (files("bwexporter.web").joinpath("static", name).read_bytes(), kind)
    for name, kind in (("style.css", "text/css"), ("live.js", "text/javascript"), ("icon.svg", "image/svg+xml"))
}
"""Files that pages refer to, with their types."""

_STAMP = hashlib.sha256(b"".join(content for content, _ in STATIC.values())).hexdigest()[:12]
_ENVIRONMENT = Environment(
    loader=PackageLoader("bwexporter.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What pages say beside the report."""

    ready: tuple[bool, str]
    telemetry_path: str = "/metrics"
    show_owners: bool = False


def trouble(heading: str, text: str, *, root: str, back: bool) -> str:
    """Draw a page that says what went wrong."""
    return draw("trouble.html", {"root": root, "heading": heading, "text": text, "back": back})


def draw(template: str, values: Mapping[str, Any]) -> str:
    """Draw a page by its template."""
    return _ENVIRONMENT.get_template(template).render(version=__version__, stamp=_STAMP, **values)
