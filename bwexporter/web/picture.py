"""Pictures of use over time, as SVG.

Turns points, limits and marks into elements of SVG. Knows: scales, ticks, how a picture says the same in words. Does
not know: where the figures came from, colours (the stylesheet has them, by class).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from bwexporter.core.lanes import UNLIMITED
from bwexporter.units import print_volume
from bwexporter.web.history import Point

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 86, 16, 22, 34
BARS_HEIGHT = 120
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an instant: drawn on the curve, told when pointed at."""

    at: float
    text: str
    lowers: bool


@dataclass(frozen=True, slots=True)
class Period:
    """What the picture of a period shows; limits are UNLIMITED where there is none."""

    start: float
    end: float
    now: float
    used_bytes: int
    allowance_bytes: int
    threshold_bytes: int
    ceiling_bytes_per_second: int
    capped: bool
    curve: Sequence[Point]
    marks: Sequence[Mark]


def period_picture(period: Period) -> Markup:
    """Draw used bytes over the period, against threshold and allowance, with the changes of the ceiling."""
    scale = _Scale.over(period)
    parts = [
        *_grid(scale),
        *_limits(period, scale),
        *_curve(period, scale),
        *_outlook(period, scale),
        *_marks(period, scale),
    ]
    return _svg(WIDTH, HEIGHT, _in_words(period), parts)


def day_bars(days: Sequence[tuple[int, int]], first_day: int, count: int) -> Markup:
    """Draw what was sent on each of `count` UTC days from the one that begins at `first_day`."""
    sent = dict(days)
    most = max([*sent.values(), 1])
    step = (WIDTH - LEFT - RIGHT) / count
    base = BARS_HEIGHT - BOTTOM
    parts = [_text("tick end", LEFT - 8, TOP + 4, print_volume(most)), _line("axis", LEFT, base, WIDTH - RIGHT, base)]
    for number in range(count):
        day = first_day + number * _DAY_SECONDS
        height = (base - TOP) * sent.get(day, 0) / most
        x, label = LEFT + number * step, f"{_when(day, '%d %b')}: {print_volume(sent.get(day, 0))}"
        parts.append(
            Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
            .format(x + step * 0.12, base - height, step * 0.76, height, label),
        )  # fmt: skip
        if number % 2 == (count - 1) % 2:
            parts.append(_text("tick middle", x + step / 2, base + 16, _when(day, "%d %b")))
    words = "Sent each day (UTC): " + ", ".join(f"{_when(day, '%d %b')} {print_volume(sent[day])}" for day in sent)
    return _svg(WIDTH, BARS_HEIGHT, words, parts)


def bar(part: float, mark: float, state: str) -> Markup:
    """Draw a small bar of the part used, with a mark where the threshold is."""
    filled, at = 100 * min(max(part, 0.0), 1.0), 100 * min(max(mark, 0.0), 1.0)
    return Markup(
        '<svg class="usebar {}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"></rect><rect class="fill" width="{:.2f}" height="10"></rect>'
        '<rect class="mark" x="{:.2f}" width="0.8" height="10"></rect></svg>',
    ).format(state, filled, min(at, 99.2))


@dataclass(frozen=True, slots=True)
class _Scale:
    """From seconds and bytes to the picture's units."""

    start: float
    end: float
    most_bytes: float

    @classmethod
    def over(cls, period: Period) -> _Scale:
        """Leave room above the highest of what is shown."""
        limits = [value for value in (period.allowance_bytes, period.threshold_bytes) if value < UNLIMITED]
        return cls(period.start, max(period.end, period.start + 1), max([*limits, period.used_bytes, 1]) * 1.06)

    def x(self, at: float) -> float:
        """Return where an instant stands."""
        part = (at - self.start) / (self.end - self.start)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(part, 0.0), 1.0)

    def y(self, volume_bytes: float) -> float:
        """Return where a volume stands."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(volume_bytes / self.most_bytes, 1.0)


def _grid(scale: _Scale) -> Iterator[Markup]:
    base = HEIGHT - BOTTOM
    for volume in _round_steps(scale.most_bytes):
        y = scale.y(volume)
        yield _line("axis" if not volume else "grid", LEFT, y, WIDTH - RIGHT, y)
        yield _text("tick end", LEFT - 8, y + 4, print_volume(volume))
    length = scale.end - scale.start
    form = "%H:%M:%S" if length < 900 else "%H:%M" if length <= 2 * _DAY_SECONDS else "%d %b"
    for quarter in range(5):
        at = scale.start + length * quarter / 4
        place = ("start", "middle", "middle", "middle", "end")[quarter]
        yield _line("grid", scale.x(at), base, scale.x(at), base + 5)
        yield _text(f"tick {place}", scale.x(at), base + 20, _when(at, form))


def _round_steps(most: float) -> list[int]:
    """Return up to six round volumes from 0 on.

    >>> _round_steps(10_800_000_000)
    [0, 2000000000, 4000000000, 6000000000, 8000000000, 10000000000]
    """
    power = 10 ** max(len(str(int(most))) - 1, 0)
    step = next((power * factor / 10 for factor in (2, 5, 10, 20, 50) if most / (power * factor / 10) <= 6), power)
    step = max(int(step), 1)
    return [step * number for number in range(int(most // step) + 1)]


def _limits(period: Period, scale: _Scale) -> Iterator[Markup]:
    for name, limit in (("allowance", period.allowance_bytes), ("threshold", period.threshold_bytes)):
        if limit < UNLIMITED:
            yield _line(name, LEFT, scale.y(limit), WIDTH - RIGHT, scale.y(limit))
            yield _text(f"label {name}", LEFT + 6, scale.y(limit) - 5, f"{name} {print_volume(limit)}")


def _curve(period: Period, scale: _Scale) -> Iterator[Markup]:
    points = " ".join(f"{scale.x(at):.1f},{scale.y(used):.1f}" for at, used in period.curve)
    base, last = HEIGHT - BOTTOM, scale.x(period.now)
    yield Markup('<polygon class="area" points="{},{} {} {:.1f},{}"></polygon>').format(LEFT, base, points, last, base)
    yield Markup('<polyline class="used" points="{}"></polyline>').format(points)
    yield Markup('<circle class="now" cx="{:.1f}" cy="{:.1f}" r="4"></circle>').format(last, scale.y(period.used_bytes))


def _outlook(period: Period, scale: _Scale) -> Iterator[Markup]:
    """Draw where a capped lane ends that sends all it may."""
    if not period.capped or period.end <= period.now:
        return
    reach = period.used_bytes + period.ceiling_bytes_per_second * (period.end - period.now)
    here, there = (scale.x(period.now), scale.y(period.used_bytes)), (scale.x(period.end), scale.y(reach))
    yield _line("outlook", *here, *there)


def _marks(period: Period, scale: _Scale) -> Iterator[Markup]:
    used_at = dict(period.curve)
    for mark in period.marks:
        used = used_at.get(mark.at, period.used_bytes)
        x, y = scale.x(mark.at), scale.y(used)
        shape = (-5, -13, 5, -13, 0, -5) if mark.lowers else (-5, -5, 5, -5, 0, -13)
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in zip(shape[::2], shape[1::2], strict=True))
        yield Markup('<polygon class="change {}" points="{}"><title>{}</title></polygon>').format(
            "lowered" if mark.lowers else "raised",
            points,
            f"{_when(mark.at, '%d %b %H:%M:%S')} UTC: {mark.text}",
        )


def _in_words(period: Period) -> str:
    parts = [f"{print_volume(period.used_bytes)} used"]
    if period.allowance_bytes < UNLIMITED:
        parts.append(f"of an allowance of {print_volume(period.allowance_bytes)}")
        parts.append(f"with the threshold at {print_volume(period.threshold_bytes)}")
    changes = len(period.marks)
    return f"{' '.join(parts)}; the ceiling changed {changes} time{'s' * (changes != 1)} in this period."


def _when(at: float, form: str) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"></line>').format(
        name, x1, y1, x2, y2
    )


def _text(name: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, x, y, text)


def _svg(width: int, height: int, words: str, parts: Sequence[Markup]) -> Markup:
    opened = Markup('<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, words)
    return opened + Markup("").join(parts) + Markup("</svg>")
