"""The picture of rate and use over time, under one configuration or two.

Turns courses into an SVG file: for each chart the rate, when it was capped, and what was used of how much. Knows:
where they stand, colours, a legend. Does not know: any rule, where the figures came from, files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bwexporter import svg
from bwexporter.core.lanes import UNLIMITED
from bwexporter.units import print_rate, print_volume

WIDTH, LEFT, RIGHT = 760, 86, 744
HEAD, RATE, BAND, USED, FOOT = 52, 110, 10, 130, 44  # heights, from the top of a chart to its bottom
ABOVE_BAND, BELOW_BAND = 10, 18
_STYLE = """svg { background: #ffffff; font: 12px system-ui, sans-serif; }
text { fill: #57606a; } .title { fill: #1b1f24; font-weight: bold; font-size: 13px; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: #d8dee4; } .axis { stroke: #8c959f; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.course0 { stroke: #6e7781; } rect.course0, text.course0 { fill: #6e7781; }
polyline.course1 { stroke: #0969da; } rect.course1, text.course1 { fill: #0969da; }
line.limit { stroke: #cf222e; stroke-dasharray: 6 4; }
text.limit { fill: #cf222e; stroke: #ffffff; stroke-width: 3px; paint-order: stroke; }
"""

Course = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Lived:
    """How it went under one configuration."""

    name: str
    rates: Course  # from when on, bytes per second; the last one until the end
    used: Course  # when, bytes
    capped: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """One lane over a span, under the configuration that held (where there are two) and another."""

    title: str
    start: float
    end: float
    limits: Sequence[tuple[str, int]]  # of use: what it is called, and how much
    lived: Sequence[Lived]


def drawn(charts: Sequence[Chart]) -> str:
    """Draw charts one below the other."""
    height = HEAD + RATE + ABOVE_BAND + BELOW_BAND + USED + FOOT + max(len(chart.lived) for chart in charts) * BAND
    parts = [part for number, chart in enumerate(charts) for part in _chart(chart, number * height)]
    words = " ".join(_in_words(chart) for chart in charts)
    return str(svg.document(WIDTH, height * len(charts), words, parts, _STYLE))


def _chart(chart: Chart, top: float) -> Iterator[Markup]:
    yield svg.text("title", LEFT, top + 20, chart.title)
    yield from _legend(chart, top + 40)
    span = (chart.start, chart.end)
    bits = [8 * rate for lived in chart.lived for _, rate in lived.rates]
    rate = svg.Plot.over((LEFT, RIGHT, top + HEAD, top + HEAD + RATE), span, bits)
    yield from svg.grid(rate, lambda value: print_rate(value // 8) if value else "0", 4)
    for number, lived in enumerate(chart.lived):
        steps = [(at, 8 * value) for at, value in _steps(lived.rates, chart.end)]
        yield svg.polyline(f"rate {_colour(chart, number)}", rate.points(steps))
    band = rate.bottom + ABOVE_BAND
    yield svg.text("tick end", LEFT - 8, band + len(chart.lived) * BAND / 2 + 4, "capped")
    for number, lived in enumerate(chart.lived):
        yield from _spans(lived, rate, _colour(chart, number), band + number * BAND)
    base = band + len(chart.lived) * BAND + BELOW_BAND
    most = [used for lived in chart.lived for _, used in lived.used] + [
        limit for _, limit in chart.limits if limit < UNLIMITED
    ]
    used = svg.Plot.over((LEFT, RIGHT, base, base + USED), span, most)
    yield from svg.grid(used, print_volume, 5)
    yield from svg.times(used)
    for number, lived in enumerate(chart.lived):
        yield svg.polyline(f"used {_colour(chart, number)}", used.points(lived.used))
    for name, limit in chart.limits:
        if limit < UNLIMITED:
            yield svg.line("limit", LEFT, used.y(limit), RIGHT, used.y(limit))
            yield svg.text("limit", LEFT + 6, used.y(limit) - 5, f"{name} {print_volume(limit)}")


def _legend(chart: Chart, y: float) -> Iterator[Markup]:
    yield svg.text("tick end", RIGHT, y, "above: rate; below: used of the allowance (times are UTC)")
    for number, lived in enumerate(chart.lived):
        yield svg.text(_colour(chart, number), LEFT + number * 130, y, f"\N{BLACK SQUARE} {lived.name}")


def _colour(chart: Chart, number: int) -> str:
    """Return the class of a course: what held is grey where something stands beside it."""
    return f"course{number + 2 - len(chart.lived)}"


def _steps(rates: Course, end: float) -> Iterator[tuple[float, float]]:
    """Yield both ends of each step."""
    ends = [at for at, _ in rates[1:]] + [end]
    for (at, rate), until in zip(rates, ends, strict=True):
        yield at, rate
        yield until, rate


def _spans(lived: Lived, plot: svg.Plot, name: str, y: float) -> Iterator[Markup]:
    for since, until in lived.capped:
        words = f"{lived.name}: capped from {svg.when(since, '%d %b %H:%M')} to {svg.when(until, '%d %b %H:%M')} UTC"
        left = plot.x(since)
        yield svg.box(f"capped {name}", (left, y + 1), (max(plot.x(until) - left, 1.0), BAND - 2), words)


def _in_words(chart: Chart) -> str:
    said = [
        f"{lived.name}: capped {len(lived.capped)} time{'s' * (len(lived.capped) != 1)}, "
        f"{print_volume(int(max((used for _, used in lived.used), default=0)))} used at most in a period"
        for lived in chart.lived
    ]
    return f"{chart.title}. {'; '.join(said)}."
