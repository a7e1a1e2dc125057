"""The landing page: how the node stands, and one page of the table of its lanes.

Turns a report and a query into HTML. Knows: what the table shows, how figures are said to people, the addresses of its
other pages and orders. Does not know: HTTP, which lanes fit a query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from markupsafe import Markup

from bwexporter import telling
from bwexporter.core.report import DeviceReport, Report
from bwexporter.units import print_duration, print_percent, print_rate, print_volume
from bwexporter.web import api, browse, picture
from bwexporter.web.browse import CAPPED, VERDICTS, Query
from bwexporter.web.pages import Surroundings, draw

PAGE_ROWS = 100

_FIRST = Query(sort="share", descending=True, limit=PAGE_ROWS)
_ASCENDING_FIRST = frozenset({"slice", "threshold", "end"})


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
    return draw("landing.html", shared | (_table(report, query) if report else {}))


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
        "ends_in": telling.ends_in(row, now),
    }


def _bar(used: int, allowance: int | None, threshold: int | None) -> Markup | None:
    if not allowance or threshold is None:
        return None
    state = "bad" if used >= allowance else "warn" if used >= threshold else "good"
    return picture.bar(used / allowance, threshold / allowance, state)
