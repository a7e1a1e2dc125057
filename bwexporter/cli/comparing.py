"""The picture of a replay: rate and use as they were recorded, and as they would have been.

Turns what became of lanes under two configurations into a file. Knows: whose caps differ most, how many points a
picture can show, which kinds there are. Does not know: how it is drawn, how it was lived through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import numpy as np

from bwexporter import png
from bwexporter.chart import Chart, Course, Lived, drawn
from bwexporter.core.lanes import I8, UNLIMITED
from bwexporter.errors import BwexporterError
from bwexporter.reliving import Span
from bwexporter.replay import Told
from bwexporter.units import print_duration, print_volume

MOST_CHARTS = 4
_MOST_POINTS = 640
_LONGEST_NAME = 28

Pair = tuple[Told | None, Told]
"""A lane under the configuration that held, where it was there, and under the other."""


def picture(thens: Iterable[Told], told: Iterable[Told], span: tuple[int, int], name: str, most: int | None) -> str:
    """Draw lanes under the configuration that held and under the one called `name`; at most so many of them."""
    then_of = {one.lane: one for one in thens}
    pairs = [(then_of.get(one.lane), one) for one in told]
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    pairs = pairs if most is None else sorted(pairs, key=_difference, reverse=True)[:most]
    return drawn([_chart(then, other, span, name) for then, other in pairs])


def drawable(path: Path | None) -> Path | None:
    """Refuse a file of another kind, and a PNG where its library is not there, before anything is lived through."""
    if path is not None and path.suffix not in {".svg", ".png"}:
        raise click.BadParameter(
            f"{path} says no kind of picture that there is; write a name as {path.stem}.svg or .png"
        )
    if path is not None and path.suffix == ".png":
        png.require()
    return path


def draw(path: Path, drawn: str) -> None:
    """Write a picture in the kind that its name says."""
    content = png.png_of(drawn) if path.suffix == ".png" else drawn.encode()
    try:
        path.write_bytes(content)
    except OSError as trouble:
        raise BwexporterError(f"the picture cannot be written to {path}: {trouble.strerror}") from trouble


def _difference(pair: Pair) -> tuple[float, int, int]:
    """Return for how long one was capped and the other not; then bytes decide."""
    then, other = pair
    before = [] if then is None else then.spans
    return _apart_seconds(before, other.spans), other.less_bytes, other.recorded_bytes


def _apart_seconds(one: Sequence[Span], other: Sequence[Span]) -> float:
    """Return how long exactly one of two holds; the spans of each do not overlap.

    >>> _apart_seconds([(0, 10), (20, 30)], [(5, 25)])
    20
    """
    edges = sorted(at for spans in (one, other) for span in spans for at in span)
    return sum(until - since for since, until in zip(edges[::2], edges[1::2], strict=True))


def _chart(then: Told | None, other: Told, span: tuple[int, int], name: str) -> Chart:
    begin, end = span
    before = Lived("recorded", _rates(other.recorded_by_interval, span), *_used(then, span))
    after = Lived(f"under {name}", _rates(other.sent_by_interval, span), *_used(other, span))
    limits = [("allowance", other.allowance_bytes)]
    if then is not None and then.allowance_bytes != other.allowance_bytes:
        limits = [("allowance then", then.allowance_bytes), (f"allowance under {name}", other.allowance_bytes)]
    return Chart(_title(other), begin, end, [one for one in limits if one[1] < UNLIMITED], [before, after])


def _title(one: Told) -> str:
    lane, less = one.lane, print_volume(one.less_bytes)
    capped = f"capped for {print_duration(one.capped_seconds)}" if one.spans else "not capped"
    return f"{lane.slice_name}, {lane.traffic.value} traffic on {lane.device}: would have been {capped}, {less} less"


def _rates(sent_bytes: I8, span: tuple[int, int]) -> Course:
    """Return the mean rate of each part of the span."""
    begins, step = _parts(len(sent_bytes), span)
    means = np.add.reduceat(sent_bytes, begins) / (np.diff([*begins, len(sent_bytes)]) * step)
    return list(zip((span[0] + begins * step).tolist(), means.tolist(), strict=True))


def _used(one: Told | None, span: tuple[int, int]) -> tuple[Course, Sequence[Span]]:
    """Return what was used at the end of each part of the span, and when it was capped."""
    if one is None:
        return [], []
    begins, step = _parts(len(one.used_by_interval), span)
    ends = np.append(begins[1:], len(one.used_by_interval))
    used = one.used_by_interval[ends - 1].tolist()
    return list(zip((span[0] + ends * step).tolist(), used, strict=True)), one.spans


def _parts(intervals: int, span: tuple[int, int]) -> tuple[I8, float]:
    """Return at which interval each part begins that is a point of the picture, and how long an interval is."""
    return np.arange(0, intervals, -(-intervals // _MOST_POINTS)), (span[1] - span[0]) / intervals
