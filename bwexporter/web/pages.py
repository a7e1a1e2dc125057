"""The pages: what stands on them.

Turns reports, queries and history into HTML by the templates of this package, which escape all they are given. Knows:
what each page shows and how figures are said to people. Does not know: HTTP, who may see a page.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bwexporter import __version__, telling
from bwexporter.core.lanes import UNLIMITED, Lane, Traffic
from bwexporter.core.report import DeviceReport, Event, EventKind, Report
from bwexporter.units import print_duration, print_percent, print_rate, print_volume
from bwexporter.web import api, browse, picture
from bwexporter.web.browse import CAPPED, VERDICTS, Query
from bwexporter.web.history import DAY_SECONDS, DAYS, History, Past

PAGE_ROWS = 100
SHOWN_EVENTS = 30
MOST_MARKS = 60
MOST_EVENTS = 500

STATIC: Mapping[str, tuple[bytes, str]] = {
    name: (files("bwexporter.web").joinpath("static", name).read_bytes(), kind)
    for name, kind in (("style.css", "text/css"), ("live.js", "text/javascript"), ("icon.svg", "image/svg+xml"))
}
"""Files that pages refer to, with their types."""

_STAMP = hashlib.sha256(b"".join(content for content, _ in STATIC.values())).hexdigest()[:12]
_ENVIRONMENT = Environment(
    loader=PackageLoader("bwexporter.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_FIRST = Query(sort="share", descending=True, limit=PAGE_ROWS)
_ASCENDING_FIRST = frozenset({"slice", "threshold", "end"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What pages say beside the report."""

    ready: tuple[bool, str]
    telemetry_path: str = "/metrics"
    show_owners: bool = False


def landing_query(parameters: Mapping[str, str]) -> Query:
    """Read the parameters of the landing page; what cannot be used is left out, since people edit addresses."""
    known = {name: value for name, value in parameters.items() if name != "limit"}
    try:
        query = browse.read_query(known)
    except browse.BadQuery:
        query = Query(search=parameters.get("search", "").strip()[: browse.LONGEST_SEARCH])
    if not query.sort:
        query = replace(query, sort=_FIRST.sort, descending=_FIRST.descending)
    return replace(query, limit=PAGE_ROWS, offset=query.offset // PAGE_ROWS * PAGE_ROWS)


def landing(report: Report | None, query: Query, around: Surroundings) -> str:
    """Draw the landing page: how the node stands, and one page of the table of slices."""
    is_ready, sentence = around.ready
    shared: dict[str, Any] = {
        "root": ".",
        "node": report.node if report else "",
        "ready": is_ready,
        "sentence": sentence,
        "telemetry_path": around.telemetry_path,
        "query": query,
        "tiles": [],
        "notices": [],
    }
    return _draw("landing.html", shared | (_table(report, query) if report else {}))


def _table(report: Report, query: Query) -> dict[str, Any]:
    picked = browse.pick(report, query)
    several = len(report.devices) > 1
    counts = _counts(report)
    filtered = bool(query.search or query.verdict or query.device or query.traffic)
    return {
        "notices": list(_notices(report)),
        "tiles": _tiles(report, counts, query),
        "verdicts": _verdict_options(counts),
        "filtered": filtered,
        "headings": {name: _heading(query, name) for name in browse.SORTS},
        "counted": _counted(picked, query, filtered=filtered),
        "rows": [_line(row, report.at.wall_seconds, several) for row in api.rows_of(report, picked.lanes)],
        "pages": _pages(picked.total, query),
    }


def _counts(report: Report) -> dict[str, int]:
    counts = dict.fromkeys((*VERDICTS, CAPPED), 0)
    for device in report.devices:
        for verdict, number in api.verdict_counts(device).items():
            counts[verdict] += number
        counts[CAPPED] += int(device.verdicts.capped.sum())
    return counts


def _tiles(report: Report, counts: Mapping[str, int], query: Query) -> list[dict[str, Any]]:
    """Say how many lanes there are in all and of each telling kind; each is a link to just those."""
    lanes = sum(len(device.tariffs) for device in report.devices)
    shown = [("", "lanes" if lanes != 1 else "lane", lanes), (CAPPED, "capped", counts[CAPPED])]
    telling = ("paced", "over_allowance", "capped_by_hand", "released", "frozen", "off")
    shown += [(name, name.replace("_", " "), counts[name]) for name in telling if counts[name]]
    return [
        {
            "href": _href(replace(_FIRST, verdict=verdict)),
            "number": number,
            "label": label,
            "current": query.verdict == verdict,
        }
        for verdict, label, number in shown
    ]


def _verdict_options(counts: Mapping[str, int]) -> list[dict[str, str]]:
    return [
        {"value": name, "label": f"{name.replace('_', ' ')} ({number})"}
        for name, number in counts.items()
        if number or name == CAPPED
    ]


def _notices(report: Report) -> Iterator[str]:
    """Say what an operator should know before reading the table."""
    if not report.enforcing:
        yield "Shadow: verdicts are judged and published, nothing in the kernel is changed."
    yield from (telling.order_row(one)["sentence"] for one in report.by_hand if one.order.lane is None)
    for device in report.devices:
        yield from _device_notices(device)
    for source in report.sources:
        if not source.up:
            yield f"The source {source.name} could not be read; its last good records go on."
    if not report.config_reload_successful:
        yield "The configuration could not be reloaded; the running one is kept."


def _device_notices(device: DeviceReport) -> Iterator[str]:
    if device.trouble:
        yield f"{device.device}: {device.trouble}; what is shown is that of the last good turn."
    if device.verdicts.admitted_ratio < 1:
        scale = print_percent(device.verdicts.admitted_ratio)
        yield f"{device.device}: guarantees were scaled down to fit, the smallest to {scale} of what was asked."


def _heading(query: Query, name: str) -> dict[str, str]:
    here = query.sort == name
    descending = not query.descending if here else name not in _ASCENDING_FIRST
    return {
        "href": _href(replace(query, sort=name, descending=descending, offset=0)),
        "sorted": ("descending" if query.descending else "ascending") if here else "",
    }


def _href(query: Query) -> str:
    """Return the address of the landing page with this query; what is usual is left out."""
    values = {
        "search": query.search,
        "verdict": query.verdict,
        "device": query.device,
        "traffic": query.traffic,
        "sort": query.sort,
        "order": "desc" if query.descending else "asc",
        "offset": query.offset,
    }
    if (query.sort, query.descending) == (_FIRST.sort, _FIRST.descending):
        del values["sort"], values["order"]
    written = urlencode({name: value for name, value in values.items() if value})
    return f"./?{written}" if written else "./"


def _counted(picked: browse.Picked, query: Query, *, filtered: bool) -> str:
    lanes = f"{picked.total} lane{'s' * (picked.total != 1)}"
    if not picked.total:
        return "No slice fits the search." if filtered else "There are no slices yet."
    first, last = query.offset + 1, query.offset + len(picked.lanes)
    part = "" if last - first + 1 == picked.total else f", {first} to {last} shown"
    return f"{lanes}{' found' if filtered else ''}{part}"


class _PageLink(NamedTuple):
    """One link of the table's pages; without an address it is a gap, or the page that is shown."""

    label: str
    href: str = ""
    rel: str = ""
    current: bool = False


def _pages(total: int, query: Query) -> list[_PageLink]:
    """Return links to the pages around this one, the first and the last."""
    pages, here = math.ceil(total / PAGE_ROWS), query.offset // PAGE_ROWS
    if pages < 2 and not query.offset:
        return []
    links = [_PageLink("Previous", _page(query, here - 1), "prev")] if here else []
    before = -1
    for page in sorted({0, here - 2, here - 1, here, here + 1, here + 2, pages - 1}):
        if 0 <= page < pages:
            if page - before > 1:
                links.append(_PageLink("…"))
            current = page == here
            links.append(_PageLink(str(page + 1), "" if current else _page(query, page), current=current))
            before = page
    if here + 1 < pages:
        links.append(_PageLink("Next", _page(query, here + 1), "next"))
    return links


def _page(query: Query, page: int) -> str:
    return _href(replace(query, offset=page * PAGE_ROWS))


def _line(row: Mapping[str, Any], now: float, several: bool) -> dict[str, Any]:  # noqa: FBT001 - of devices
    """Say one lane as a row of the table."""
    used, allowance, threshold = (row[f"period_{name}_bytes"] for name in ("used", "allowance", "threshold"))
    ceiling, full, ahead = (
        row["ceiling_bytes_per_second"],
        row["full_rate_bytes_per_second"],
        row["seconds_to_threshold"],
    )
    device = row["device"] if several else ""
    return {
        "slice": row["slice"],
        "href": f"./slices/{quote(row['slice'], safe='')}",
        "traffic": row["traffic"],
        "device": device,
        "lane": f"{row['traffic']} {device}".strip(),
        "bar": _bar(used, allowance, threshold),
        "percent": print_percent(used / allowance) if allowance else "",
        "used": print_volume(used),
        "allowance": "no limit" if allowance is None else print_volume(allowance),
        "ceiling": "none" if ceiling is None else print_rate(ceiling),
        "lowered": ceiling is not None and full is not None and ceiling < full,
        "full": "no limit" if full is None else print_rate(full),
        "verdict": row["verdict"],
        "shadow": row["shadow"],
        "to_threshold": print_duration(ahead) if ahead else "-",
        "ends_in": _ends_in(row, now),
    }


def _bar(used: int, allowance: int | None, threshold: int | None) -> Markup | None:
    if not allowance or threshold is None:
        return None
    state = "bad" if used >= allowance else "warn" if used >= threshold else "good"
    return picture.bar(used / allowance, threshold / allowance, state)


def _ends_in(row: Mapping[str, Any], now: float) -> str:
    return print_duration(max(0.0, row["period_end_timestamp_seconds"] - now))


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
    return _draw(
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
    return history.past(identity, lane["period_start_timestamp_seconds"], now, lane["period_used_bytes"], events)


def _lane_card(row: Mapping[str, Any], now: float, past: Past, several: bool) -> dict[str, Any]:  # noqa: FBT001
    """Say one lane as a section of the slice's page."""
    start, end = row["period_start_timestamp_seconds"], row["period_end_timestamp_seconds"]
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
        "period": f"{_when(start)} to {_when(end)} UTC",
        "limited": row["period_allowance_bytes"] is not None,
        "capped": row["capped"],
        "picture": picture.period_picture(drawn),
        "bars": picture.day_bars(past.days, first_day, DAYS) if any(sent for _, sent in past.days) else None,
    }


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
    yield _Fact("Period ends in", _ends_in(row, now), f"{_when(row['period_end_timestamp_seconds'])} UTC")
    for name, forecast in (("Threshold in", "seconds_to_threshold"), ("Allowance spent in", "seconds_to_allowance")):
        if row[forecast]:
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


def trouble(heading: str, text: str, *, root: str, back: bool) -> str:
    """Draw a page that says what went wrong."""
    return _draw("trouble.html", {"root": root, "heading": heading, "text": text, "back": back})


def _draw(template: str, values: Mapping[str, Any]) -> str:
    return _ENVIRONMENT.get_template(template).render(version=__version__, stamp=_STAMP, **values)
