"""Elements of SVG.

Turns numbers and words into lines, texts, grids and whole pictures. Knows: scales, round steps, how times are written,
that a picture says the same in words. Does not know: what is drawn, where the figures came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

_DAY_SECONDS = 86_400
_HEADROOM = 1.06


@dataclass(frozen=True, slots=True)
class Plot:
    """Where in a picture instants and values stand; what lies beyond an edge is drawn on it."""

    left: float
    right: float
    top: float
    bottom: float
    start: float
    end: float
    most: float

    @classmethod
    def over(cls, edges: tuple[float, float, float, float], span: tuple[float, float], values: Sequence[float]) -> Plot:
        """Leave room above the highest of what is shown."""
        start, end = span
        return cls(*edges, start, max(end, start + 1), max([*values, 1]) * _HEADROOM)

    def x(self, at: float) -> float:
        """Return where an instant stands."""
        part = (at - self.start) / (self.end - self.start)
        return self.left + (self.right - self.left) * min(max(part, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Return where a value stands."""
        return self.bottom - (self.bottom - self.top) * min(value / self.most, 1.0)

    def points(self, course: Sequence[tuple[float, float]]) -> str:
        """Return where values at instants stand, as a polyline has them."""
        return " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in course)


def grid(plot: Plot, written: Callable[[int], str], most_steps: int = 6) -> Iterator[Markup]:
    """Draw lines at round values, with what is written beside them."""
    for value in round_steps(plot.most, most_steps):
        y = plot.y(value)
        yield line("axis" if not value else "grid", plot.left, y, plot.right, y)
        yield text("tick end", plot.left - 8, y + 4, written(value))


def times(plot: Plot) -> Iterator[Markup]:
    """Write five instants below a plot."""
    length = plot.end - plot.start
    form = "%H:%M:%S" if length < 900 else "%H:%M" if length <= 2 * _DAY_SECONDS else "%d %b"
    for quarter in range(5):
        at = plot.start + length * quarter / 4
        place = ("start", "middle", "middle", "middle", "end")[quarter]
        yield line("grid", plot.x(at), plot.bottom, plot.x(at), plot.bottom + 5)
        yield text(f"tick {place}", plot.x(at), plot.bottom + 20, when(at, form))


def round_steps(most: float, most_steps: int = 6) -> list[int]:
    """Return up to so many round values from 0 on, and 0.

    >>> round_steps(10_800_000_000)
    [0, 2000000000, 4000000000, 6000000000, 8000000000, 10000000000]
    """
    power = 10 ** max(len(str(int(most))) - 1, 0)
    factors = (2, 5, 10, 20, 50)
    step = next((power * factor / 10 for factor in factors if most / (power * factor / 10) <= most_steps), power)
    step = max(int(step), 1)
    return [step * number for number in range(int(most // step) + 1)]


def when(at: float, form: str) -> str:
    """Write an instant, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime(form)


def line(name: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """Draw a straight line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"></line>').format(
        name, x1, y1, x2, y2
    )


def text(name: str, x: float, y: float, words: str) -> Markup:
    """Write words."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, x, y, words)


def polyline(name: str, points: str) -> Markup:
    """Draw a line through points."""
    return Markup('<polyline class="{}" points="{}"></polyline>').format(name, points)


def box(name: str, corner: tuple[float, float], size: tuple[float, float], words: str) -> Markup:
    """Draw a rectangle that says something when pointed at."""
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>',
    ).format(name, *corner, *size, words)


def picture(width: int, height: int, words: str, parts: Sequence[Markup]) -> Markup:
    """Put a picture together that stands in a page, whose stylesheet has its colours."""
    opened = Markup('<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, words)
    return opened + Markup("").join(parts) + Markup("</svg>")


def document(width: int, height: int, words: str, parts: Sequence[Markup], style: str) -> Markup:
    """Put a picture together that is a file of its own; `style` is ours, and not escaped."""
    opened = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" '
        'aria-label="{2}">\n',
    ).format(width, height, words)
    styled = Markup("<style>\n{}</style>\n").format(Markup(style))  # noqa: S704
    return opened + styled + Markup("\n").join(parts) + Markup("\n</svg>\n")
