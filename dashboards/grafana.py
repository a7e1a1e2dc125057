"""Grafana's Classic dashboard JSON, as far as we use it.

Turns titles, texts and PromQL into panels, and panels into a dashboard. Knows: the JSON's words, the grid, one colour
for each state. Does not know: any metric, what is worth showing.

Panel types are those that can be drawn without a Grafana server as well: stat, timeseries, bargauge, table, text, row.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

COLUMNS = 24
GOOD, CAPPED, BAD, PLAIN = "green", "orange", "red", "blue"
"""One colour for each state, on every panel."""
TEXT = "text"  # the theme's own; in a table blue is a link

Steps = Sequence[tuple[float | None, str]]
"""Colours from values on; None is from the very lowest on."""
Names = Mapping[float, tuple[str, str]]
"""Words, with their colours, for values."""

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_TAG = "bwexporter"
_EVENTS = ("suffix:p/s", "suffix:/s")


@dataclass(frozen=True)
class Query:
    """One question to Prometheus, and how its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Looks:
    """How a large figure is shown; `nothing` is shown where there is none."""

    steps: Steps = ((None, PLAIN),)
    names: Names = field(default_factory=dict)
    nothing: str = "none"
    decimals: int | None = None


@dataclass(frozen=True)
class Column:
    """One figure of a table."""

    heading: str
    expression: str
    unit: str = "short"
    steps: Steps = ()
    names: Names = field(default_factory=dict)
    width: int = 0


@dataclass(frozen=True)
class Key:
    """One label of a table's rows."""

    label: str
    heading: str
    link: str = ""
    width: int = 0


def stat(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    looks: Looks = Looks(),
    *,
    size: tuple[int, int] = (4, 4),
) -> Json:
    """Return a panel of one or a few large figures."""
    defaults = _defaults(unit, looks.steps, looks.names) | {"noValue": looks.nothing}
    if looks.decimals is not None:
        defaults["decimals"] = looks.decimals
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    # Asked for now alone: over a range, the last value of a series that has ended would stay.
    targets = [_target(one, number, instant=True) for number, one in enumerate(queries)]
    return _panel("stat", title, text, size, targets, defaults, options)


def timeseries(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    size: tuple[int, int] = (12, 9),
    stacked: bool = False,
    lines: Mapping[str, str] | None = None,
    legend: str = "right",
) -> Json:
    """Return a graph. Legends that begin as `lines` say are drawn as plain dashed lines of a colour."""
    custom: Json = {
        "drawStyle": "line",
        "fillOpacity": 30 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    if unit in _EVENTS:
        custom["axisSoftMax"] = 1  # where nothing happens the axis does not go to a hundred
    defaults = _defaults(unit, ((None, GOOD),), {}) | {"custom": custom, "min": 0, "color": {"mode": "palette-classic"}}
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"] if legend == "right" else [],
            "displayMode": "table" if legend == "right" else "list",
            "placement": legend,
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [_line(name, colour) for name, colour in (lines or {}).items()]
    targets = [_target(one, number) for number, one in enumerate(queries)]
    return _panel("timeseries", title, text, size, targets, defaults, options, overrides)


def bargauge(
    title: str,
    text: str,
    query: Query,
    unit: str,
    *,
    size: tuple[int, int] = (8, 9),
    steps: Steps,
    most: float | None = None,
) -> Json:
    """Return bars of what is now, one a series."""
    defaults = _defaults(unit, steps, {}) | {"min": 0}
    if most is not None:
        defaults["max"] = most
    options = {
        "displayMode": "basic",
        "maxVizHeight": 36,
        "minVizHeight": 16,
        "orientation": "horizontal",
        "sizing": "manual",
        "text": {"titleSize": 13, "valueSize": 16},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "color",
    }
    return _panel("bargauge", title, text, size, [_target(query, 0, instant=True)], defaults, options)


def table(
    title: str,
    text: str,
    keys: Sequence[Key],
    columns: Sequence[Column],
    *,
    size: tuple[int, int] = (24, 10),
    sort: str = "",
) -> Json:
    """Return a table: a row for each set of the keys' labels, a column for each figure."""
    refs = string.ascii_uppercase
    by = ", ".join(key.label for key in keys)
    targets = [
        _target(Query(f"max by ({by}) ({column.expression})"), number, instant=True, as_table=True)
        for number, column in enumerate(columns)
    ]
    names = [key.label for key in keys] + [f"Value #{refs[number]}" for number in range(len(columns))]
    headings = [key.heading for key in keys] + [column.heading for column in columns]
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: number for number, name in enumerate(names)},
        "renameByName": dict(zip(names, headings, strict=True)),
    }
    overrides = [_key_override(key) for key in keys] + [_column_override(column) for column in columns]
    options = {
        "cellHeight": "sm",
        "footer": {"show": False},
        "showHeader": True,
        "sortBy": [{"desc": True, "displayName": sort}] if sort else [],
    }
    defaults = _defaults("short", [(None, PLAIN)], {}) | {"custom": {"minWidth": 60}}
    panel = _panel("table", title, text, size, targets, defaults, options, overrides)
    panel["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
    return panel


def words(title: str, markdown: str, *, size: tuple[int, int]) -> Json:
    """Return a panel of text."""
    options = {"code": {"language": "plaintext"}, "content": markdown, "mode": "markdown"}
    return {"type": "text", "title": title, "description": title, "options": options, "gridPos": _size(size)}


def heading(title: str) -> Json:
    """Return a row's heading."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _size((COLUMNS, 1))}


def variable(name: str, label: str, query: str, *, several: bool = True, all_of_them: bool = True) -> Json:
    """Return a variable whose values Prometheus knows."""
    found: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "definition": query,
        "multi": several,
        "includeAll": all_of_them,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "current": {},
        "options": [],
    }
    if all_of_them:
        found |= {"allValue": ".+", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return found


def annotation(name: str, expression: str, colour: str, title: str) -> Json:
    """Return marks on all graphs, where an expression has a series."""
    return {
        "name": name,
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": colour,
        "expr": expression,
        "step": "15s",
        "titleFormat": title,
    }


def dashboard(
    uid: str,
    title: str,
    text: str,
    variables: Sequence[Json],
    panels: Sequence[Json],
    annotations: Sequence[Json],
) -> Json:
    """Return a dashboard: panels are laid from left to right, line by line, in their order."""
    datasource = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"}
    return {
        "uid": uid,
        "title": f"bwexporter / {title}",
        "description": text,
        "tags": [_TAG],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "links": [_links()],
        "annotations": {"list": list(annotations)},
        "templating": {"list": [datasource | {"current": {}, "options": [], "refresh": 1}, *variables]},
        "panels": _laid(panels),
    }


def link(uid: str, **variables: str) -> str:
    """Return the address of another dashboard with these variables, at the same time range."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?${{__url_time_range}}{chosen}"


def _laid(panels: Sequence[Json]) -> list[Json]:
    laid: list[Json] = []
    x = y = tallest = 0
    for number, panel in enumerate(panels, start=1):
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        laid.append(panel | {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, tallest = x + width, max(tallest, height)
    return laid


def _panel(
    kind: str,
    title: str,
    text: str,
    size: tuple[int, int],
    targets: list[Json],
    defaults: Json,
    options: Json,
    overrides: Sequence[Json] = (),
) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        "gridPos": _size(size),
    }


def _size(size: tuple[int, int]) -> Json:
    return {"w": size[0], "h": size[1]}


def _target(query: Query, number: int, *, instant: bool = False, as_table: bool = False) -> Json:
    return {
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": query.expression,
        "format": "table" if as_table else "time_series",
        "instant": instant,
        "range": not instant,
        "legendFormat": query.legend or "__auto",
        "refId": string.ascii_uppercase[number],
    }


def _defaults(unit: str, steps: Steps, names: Names) -> Json:
    return {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": _steps(steps)},
        "mappings": _mappings(names),
    }


def _steps(steps: Steps) -> list[Json]:
    return [{"color": colour, "value": value} for value, colour in steps]


def _mappings(names: Names) -> list[Json]:
    if not names:
        return []
    options = {
        f"{value:g}": {"text": word, "color": colour, "index": number}
        for number, (value, (word, colour)) in enumerate(names.items())
    }
    return [{"type": "value", "options": options}]


def _line(name: str, colour: str) -> Json:
    properties = {
        "color": {"mode": "fixed", "fixedColor": colour},
        "custom.fillOpacity": 0,
        "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
        "custom.lineWidth": 2,
        "custom.stacking": {"group": "B", "mode": "none"},
    }
    return _override(f"/^{name}\\b/", properties, by="byRegexp")


def _override(name: str, properties: Mapping[str, Any], by: str = "byName") -> Json:
    return {
        "matcher": {"id": by, "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _key_override(key: Key) -> Json:
    properties: Json = {}
    if key.link:
        properties["links"] = [{"title": "Look at ${__value.text}", "url": key.link}]
    if key.width:
        properties["custom.width"] = key.width
    return _override(key.heading, properties)


def _column_override(column: Column) -> Json:
    properties: Json = {"unit": column.unit}
    if column.names:
        properties["mappings"] = _mappings(column.names)
    if column.steps or column.names:
        properties["thresholds"] = {"mode": "absolute", "steps": _steps(column.steps or ((None, TEXT),))}
        properties |= {"color": {"mode": "thresholds"}, "custom.cellOptions": {"type": "color-text"}}
    if column.width:
        properties["custom.width"] = column.width
    return _override(column.heading, properties)


def _links() -> Json:
    return {
        "type": "dashboards",
        "title": "bwexporter",
        "tags": [_TAG],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }
