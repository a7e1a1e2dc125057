"""Pictures of use over time, as SVG.

Turns points, limits and marks into elements of SVG. Knows: what a period and days look like, and how that is said in
words. Does not know: where the figures came from, colours (the stylesheet has them, by class).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bwexporter import svg
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
    limits = [value for value in (period.allowance_bytes, period.threshold_bytes) if value < UNLIMITED]
    edges = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM)
    scale = svg.Plot.over(edges, (period.start, period.end), [*limits, period.used_bytes])
    parts = [
        *svg.grid(scale, print_volume),
        *svg.times(scale),
        *_limits(period, scale),
        *_curve(period, scale),
        *_outlook(period, scale),
        *_marks(period, scale),
    ]
    return svg.picture(WIDTH, HEIGHT, _in_words(period), parts)


def day_bars(days: Sequence[tuple[int, int]], first_day: int, count: int) -> Markup:
    """Draw what was sent on each of `count` UTC days from the one that begins at `first_day`."""
    sent = dict(days)
    most = max([*sent.values(), 1])
    step = (WIDTH - LEFT - RIGHT) / count
    base = BARS_HEIGHT - BOTTOM
    parts = [
        svg.text("tick end", LEFT - 8, TOP + 4, print_volume(most)),
        svg.line("axis", LEFT, base, WIDTH - RIGHT, base),
    ]
    for number in range(count):
        day = first_day + number * _DAY_SECONDS
        height = (base - TOP) * sent.get(day, 0) / most
        x, label = LEFT + number * step, f"{svg.when(day, '%d %b')}: {print_volume(sent.get(day, 0))}"
        parts.append(svg.box("bar", (x + step * 0.12, base - height), (step * 0.76, height), label))
        if number % 2 == (count - 1) % 2:
            parts.append(svg.text("tick middle", x + step / 2, base + 16, svg.when(day, "%d %b")))
    words = "Sent each day (UTC): " + ", ".join(f"{svg.when(day, '%d %b')} {print_volume(sent[day])}" for day in sent)
    return svg.picture(WIDTH, BARS_HEIGHT, words, parts)


def bar(part: float, mark: float, state: str) -> Markup:
    """Draw a small bar of the part used, with a mark where the threshold is."""
    filled, at = 100 * min(max(part, 0.0), 1.0), 100 * min(max(mark, 0.0), 1.0)
    return Markup(
        '<svg class="usebar {}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"></rect><rect class="fill" width="{:.2f}" height="10"></rect>'
        '<rect class="mark" x="{:.2f}" width="0.8" height="10"></rect></svg>',
    ).format(state, filled, min(at, 99.2))


def _limits(period: Period, scale: svg.Plot) -> Iterator[Markup]:
    for name, limit in (("allowance", period.allowance_bytes), ("threshold", period.threshold_bytes)):
        if limit < UNLIMITED:
            yield svg.line(name, LEFT, scale.y(limit), WIDTH - RIGHT, scale.y(limit))
            yield svg.text(f"label {name}", LEFT + 6, scale.y(limit) - 5, f"{name} {print_volume(limit)}")


def _curve(period: Period, scale: svg.Plot) -> Iterator[Markup]:
    points = scale.points(period.curve)
    base, last = HEIGHT - BOTTOM, scale.x(period.now)
    yield Markup('<polygon class="area" points="{},{} {} {:.1f},{}"></polygon>').format(LEFT, base, points, last, base)
    yield svg.polyline("used", points)
    yield Markup('<circle class="now" cx="{:.1f}" cy="{:.1f}" r="4"></circle>').format(last, scale.y(period.used_bytes))


def _outlook(period: Period, scale: svg.Plot) -> Iterator[Markup]:
    """Draw where a capped lane ends that sends all it may."""
    if not period.capped or period.end <= period.now:
        return
    reach = period.used_bytes + period.ceiling_bytes_per_second * (period.end - period.now)
    here, there = (scale.x(period.now), scale.y(period.used_bytes)), (scale.x(period.end), scale.y(reach))
    yield svg.line("outlook", *here, *there)


def _marks(period: Period, scale: svg.Plot) -> Iterator[Markup]:
    used_at = dict(period.curve)
    for mark in period.marks:
        used = used_at.get(mark.at, period.used_bytes)
        x, y = scale.x(mark.at), scale.y(used)
        shape = (-5, -13, 5, -13, 0, -5) if mark.lowers else (-5, -5, 5, -5, 0, -13)
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in zip(shape[::2], shape[1::2], strict=True))
        yield Markup('<polygon class="change {}" points="{}"><title>{}</title></polygon>').format(
            "lowered" if mark.lowers else "raised",
            points,
            f"{svg.when(mark.at, '%d %b %H:%M:%S')} UTC: {mark.text}",
        )


def _in_words(period: Period) -> str:
    parts = [f"{print_volume(period.used_bytes)} used"]
    if period.allowance_bytes < UNLIMITED:
        parts.append(f"of an allowance of {print_volume(period.allowance_bytes)}")
        parts.append(f"with the threshold at {print_volume(period.threshold_bytes)}")
    changes = len(period.marks)
    return f"{' '.join(parts)}; the ceiling changed {changes} time{'s' * (changes != 1)} in this period."
