"""The page of one slice: what it used, why its ceilings are what they are, and what happened.

Turns a report and the past of a slice into HTML. Knows: what stands on the page, how figures are said to people. Does
not know: HTTP, who may see the page, how a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from bwexporter import telling
from bwexporter.core.lanes import UNLIMITED, Lane, Traffic
from bwexporter.core.report import Event, EventKind, Report
from bwexporter.units import print_duration, print_percent, print_rate, print_volume
from bwexporter.web import api, picture
from bwexporter.web.history import DAY_SECONDS, DAYS, History, Past
from bwexporter.web.pages import Surroundings, draw

SHOWN_EVENTS = 30
MOST_MARKS = 60
MOST_EVENTS = 500


def slice_page(
    report: Report,
    slice_name: str,
    history: History,
    around: Surroundings,
    *,
    key: str = "",
) -> str | None:
    """Draw the page of one slice; None where the node has no such slice.

    `key` is that of an owner's link: such a reader sees this slice and nothing else of the node.
    """
    now = report.at.wall_seconds
    events = history.events(0.0, now + 1, slice_name, limit=MOST_EVENTS)
    known = api.one_slice(report, slice_name, show_owners=around.show_owners, events=())
    if known is None:
        return None
    lanes = known["lanes"]
    several = len({lane["device"] for lane in lanes}) > 1
    shown = [_lane_card(lane, now, _past(history, lane, now, events), several) for lane in lanes]
    json_href = f"../api/v1/slices/{quote(slice_name, safe='')}"
    return draw(
        "slice.html",
        {
            "root": "..",
            "node": report.node,
            "slice": slice_name,
            "is_owner": bool(key),
            "owners": known["owners"],
            "notices": [
                *known["problems"],
                *(one["sentence"] for one in known["by_hand"]),
                *_slice_notices(report, lanes),
            ],
            "lanes": shown,
            "several": len(lanes) > 1,
            "events": [_event_line(event) for event in events[:SHOWN_EVENTS]],
            "json_href": f"{json_href}?{urlencode({'key': key})}" if key else json_href,
        },
    )


def _slice_notices(report: Report, lanes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    unread = {lane["device"] for lane in lanes} & {device.device for device in report.devices if device.trouble}
    if unread:
        yield "The kernel could not be read in the last turn; what is shown is that of the last good one."


def _past(history: History, lane: Mapping[str, Any], now: float, events: Sequence[Event]) -> Past:
    identity = Lane(lane["device"], lane["slice"], Traffic(lane["traffic"]))
    return history.past(identity, _span(lane, now)[0], now, lane["period_used_bytes"], events)


def _span(row: Mapping[str, Any], now: float) -> tuple[float, float]:
    """Return what a lane's picture is about: its period, or the last of what its sliding window holds."""
    window = row.get("window_seconds")
    if window:
        return now - window, now
    return row["period_start_timestamp_seconds"], row["period_end_timestamp_seconds"]


def _lane_card(row: Mapping[str, Any], now: float, past: Past, several: bool) -> dict[str, Any]:  # noqa: FBT001
    """Say one lane as a section of the slice's page."""
    start, end = _span(row, now)
    drawn = picture.Period(
        start=start,
        end=end,
        now=min(max(now, start), end),
        used_bytes=row["period_used_bytes"],
        allowance_bytes=_or_unlimited(row["period_allowance_bytes"]),
        threshold_bytes=_or_unlimited(row["period_threshold_bytes"]),
        ceiling_bytes_per_second=_or_unlimited(row["intended_ceiling_bytes_per_second"]),
        capped=row["capped"],
        curve=past.curve,
        marks=[
            picture.Mark(event.at_wall_seconds, telling.sentence(event.kind, event.inputs), _lowers(event))
            for event in past.verdicts[-MOST_MARKS:]
        ],
    )
    first_day = (int(now) // DAY_SECONDS - DAYS + 1) * DAY_SECONDS
    where = f" on {row['device']}" if several else ""
    return {
        "title": f"{_TITLES[row['traffic']]}{where}",
        "verdict": row["verdict"],
        "why": row["why"],
        "would_be": row["would_be"]["sentence"] if row["would_be"] else "",
        "facts": list(_facts(row, now)),
        "period": f"{_span_name(row)}, {_when(start)} to {_when(end)} UTC",
        "limited": row["period_allowance_bytes"] is not None,
        "capped": row["capped"],
        "picture": picture.period_picture(drawn),
        "bars": picture.day_bars(past.days, first_day, DAYS) if any(sent for _, sent in past.days) else None,
    }


def _span_name(row: Mapping[str, Any]) -> str:
    return "The last window" if row.get("window_seconds") else "This period"


_TITLES = {"normal": "Normal traffic", "exempt": "Exempt traffic"}


class _Fact(NamedTuple):
    """One figure with its name."""

    name: str
    value: str
    more: str = ""
    strong: bool = False


def _facts(row: Mapping[str, Any], now: float) -> Iterator[_Fact]:
    used, allowance = row["period_used_bytes"], row["period_allowance_bytes"]
    ceiling, full = row["ceiling_bytes_per_second"], row["full_rate_bytes_per_second"]
    share = f"of {print_volume(allowance)}, {print_percent(used / allowance)}" if allowance else "no allowance"
    yield _Fact("Used", print_volume(used), share)
    if allowance is not None:
        yield _Fact("Threshold", print_volume(row["period_threshold_bytes"]))
    yield _Fact(
        "Ceiling now",
        "none: the kernel has no class" if ceiling is None else print_rate(ceiling),
        "" if full is None else f"of {print_rate(full)}",
        strong=ceiling is not None and full is not None and ceiling < full,
    )
    yield _Fact("Guarantee", print_rate(row["guarantee_bytes_per_second"]))
    if row.get("window_seconds"):
        yield _Fact("Free again", print_duration(row["window_seconds"]), "after it was sent")
    else:
        yield _Fact("Period ends in", telling.ends_in(row, now), f"{_when(row['period_end_timestamp_seconds'])} UTC")
    for name, forecast in (("Threshold in", "seconds_to_threshold"), ("Allowance spent in", "seconds_to_allowance")):
        if row[forecast] and not telling.is_held(row):
            yield _Fact(name, print_duration(row[forecast]), _as_of(row["earlier_periods"]))
    if allowance is not None and row["expected_used_bytes"] is not None:
        yield _Fact("Expected at the end", print_volume(row["expected_used_bytes"]), _as_of(row["earlier_periods"]))


def _as_of(earlier_periods: int | None) -> str:
    """Say where a forecast is from."""
    if not earlier_periods:
        return "at the recent rate"
    return (
        f"at the recent rate and as in the same hours of {earlier_periods} earlier period{'s' * (earlier_periods != 1)}"
    )


def _or_unlimited(value: int | None) -> int:
    return UNLIMITED if value is None else value


def _kind(event: Event) -> str:
    """Name an event; a verdict by its reason."""
    return str(event.inputs["reason"]) if event.kind is EventKind.VERDICT else event.kind.value


def _lowers(event: Event) -> bool:
    """Say whether a ceiling came down; the first verdict of all comes down from the full rate."""
    before, after = (int(event.inputs[f"{name}_bytes_per_second"]) for name in ("old_ceiling", "ceiling"))
    return not before or after < before


def _event_line(event: Event) -> dict[str, str]:
    at = datetime.fromtimestamp(event.at_wall_seconds, UTC)
    return {
        "iso": at.isoformat(timespec="seconds"),
        "when": at.strftime("%d %b %H:%M:%S"),
        "what": _kind(event).replace("_", " "),
        "why": telling.sentence(event.kind, event.inputs),
        "lane": event.lane.traffic.value if event.lane else "",
    }


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M")
