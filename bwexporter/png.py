"""Pictures as PNG, of the pictures that there are as SVG.

Turns an SVG file of ours into pixels. Knows: the elements and style rules that our charts have, Pillow. Does not know:
what is drawn.

Pillow does not smooth edges, so all is drawn larger and then made smaller. Its own font knows Latin letters alone;
where the system has DejaVu that is taken instead.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from bwexporter.errors import BwexporterError

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

PIXELS = 2
"""A side of a pixel of the SVG, so that the picture is sharp on a screen of today."""

_SMOOTHING = 2
_SCALE = PIXELS * _SMOOTHING
_SPACE = "{http://www.w3.org/2000/svg}"
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_FONTS = {"bold": "DejaVuSans-Bold.ttf"}
_FONT = "DejaVuSans.ttf"

Look = Mapping[str, str]
Point = tuple[float, float]


def require() -> None:
    """Raise BwexporterError where Pillow is not there."""
    if importlib.util.find_spec("PIL") is None:
        raise BwexporterError(
            "a PNG needs the library Pillow: pip install 'bwexporter[png]' (Debian: python3-pil); an SVG needs nothing"
        )


def png_of(drawn: str) -> bytes:
    """Return a picture of ours as a PNG, where Pillow is there."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - optional

    root = ET.fromstring(drawn)  # noqa: S314 - our own
    size = int(root.get("width", "0")), int(root.get("height", "0"))
    image = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), "#ffffff")
    pen, rules = ImageDraw.Draw(image), list(_rules(root.findtext(f"{_SPACE}style") or ""))
    for element in root:
        kind = element.tag.removeprefix(_SPACE)
        if kind in _DRAWN:
            _DRAWN[kind](pen, element, _look(rules, kind, (element.get("class") or "").split()))
    small = image.resize((size[0] * PIXELS, size[1] * PIXELS), Image.Resampling.BOX)
    written = io.BytesIO()
    small.save(written, "png", optimize=True)
    return written.getvalue()


def _rules(style: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the rules of a stylesheet of ours: an element, a class (either may be empty), what is said of them."""
    for selectors, body in _RULE.findall(style):
        said = {
            name.strip(): value.strip() for name, _, value in (one.partition(":") for one in body.split(";")) if value
        }
        for selector in selectors.split(","):
            element, _, name = selector.strip().partition(".")
            yield element, name, said


def _look(rules: list[tuple[str, str, dict[str, str]]], kind: str, classes: list[str]) -> dict[str, str]:
    """Return what the rules say of an element; of two, the one that says more of it counts."""
    fitting = [
        (bool(name) + bool(element), said)
        for element, name, said in rules
        if element in {"", kind} and (not name or name in classes)
    ]
    return {key: value for _, said in sorted(fitting, key=lambda one: one[0]) for key, value in said.items()}


def _line(pen: ImageDraw.ImageDraw, element: ET.Element, look: Look) -> None:
    here, there = ((_at(element, f"x{end}"), _at(element, f"y{end}")) for end in (1, 2))
    pattern = [float(one) * _SCALE for one in look.get("stroke-dasharray", "").split()]
    for start, end in _dashes(here, there, pattern):
        pen.line([start, end], fill=look["stroke"], width=_width(look))


def _dashes(start: Point, end: Point, pattern: list[float]) -> Iterator[tuple[Point, Point]]:
    """Yield the parts of a level line that are drawn."""
    if not pattern:
        yield start, end
        return
    x = start[0]
    while x < end[0]:
        yield (x, start[1]), (min(x + pattern[0], end[0]), end[1])
        x += sum(pattern)


def _polyline(pen: ImageDraw.ImageDraw, element: ET.Element, look: Look) -> None:
    points = [tuple(float(one) * _SCALE for one in point.split(",")) for point in element.get("points", "").split()]
    if points:
        pen.line([(x, y) for x, y in points], fill=look["stroke"], width=_width(look), joint="curve")


def _rect(pen: ImageDraw.ImageDraw, element: ET.Element, look: Look) -> None:
    left, top = _at(element, "x"), _at(element, "y")
    right, bottom = left + _at(element, "width") - 1, top + _at(element, "height") - 1
    pen.rectangle([left, top, max(right, left), max(bottom, top)], fill=look["fill"])


def _text(pen: ImageDraw.ImageDraw, element: ET.Element, look: Look) -> None:
    size = float(look.get("font-size", "12px").removesuffix("px")) * _SCALE
    halo = look.get("stroke")
    pen.text(
        (_at(element, "x"), _at(element, "y")),
        element.text or "",
        fill=look["fill"],
        font=_font(size, look.get("font-weight", "")),
        anchor=_ANCHORS[look.get("text-anchor", "start")],
        stroke_width=_width(look) // 2 if halo else 0,
        stroke_fill=halo,
    )


_DRAWN: Mapping[str, Any] = {"line": _line, "polyline": _polyline, "rect": _rect, "text": _text}


@cache
def _font(size: float, weight: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont  # noqa: PLC0415 - optional

    try:
        return ImageFont.truetype(_FONTS.get(weight, _FONT), size)
    except OSError:
        return ImageFont.load_default(size)


def _at(element: ET.Element, name: str) -> float:
    return float(element.get(name, "0")) * _SCALE


def _width(look: Look) -> int:
    return round(float(look.get("stroke-width", "1").removesuffix("px")) * _SCALE)
