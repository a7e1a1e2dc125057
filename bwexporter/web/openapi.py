"""The API, described for programs: an OpenAPI 3.1 document.

Turns nothing into anything: it names paths, parameters and fields. Knows: what every field means and which may be null.
Does not know: how answers are made; a test compares them with this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bwexporter import __version__
from bwexporter.core.report import EventKind
from bwexporter.web.browse import CAPPED, MOST_ROWS, SORTS, VERDICTS

_Schema = Mapping[str, Any]


def _field(kind: str, text: str, *, nullable: bool = False) -> _Schema:
    return {"type": [kind, "null"] if nullable else kind, "description": text}


_LABELS: Mapping[str, _Schema] = {
    "device": _field("string", "The network device."),
    "slice": _field("string", "The slice."),
    "traffic": {"type": "string", "enum": ["normal", "exempt"]},
}
WOULD_BE_FIELDS: Mapping[str, _Schema] = {
    "from": _field("number", "Unix time since when: its period's start, or later, when the shadow began."),
    "ceiling_bytes_per_second": _field("integer", "Ceiling that it would have now; null: no limit.", nullable=True),
    "recorded_bytes": _field("integer", "Sent since then."),
    "sent_bytes": _field("integer", "Of these, what its ceilings would have let through."),
    "less_bytes": _field("integer", "The difference."),
    "capped_seconds": _field("number", "For how long it would have been capped."),
    "capped": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}},
        "description": "From when to when, in Unix time.",
    },
    "capped_now": _field("boolean", "It would be capped now."),
    "sentence": _field("string", "The same in words."),
}
LANE_FIELDS: Mapping[str, _Schema] = {
    **_LABELS,
    "verdict": {"type": "string", "enum": list(VERDICTS), "description": "Why the ceiling is what it is."},
    "capped": _field("boolean", "The intended ceiling is below the full rate because of the account."),
    "shadow": _field("boolean", "Judged and not enforced."),
    "sent_bytes_total": _field("integer", "Sent over the life of the account."),
    "sent_packets_total": _field("integer", "Packets sent over the life of the account."),
    "dropped_packets_total": _field("integer", "Packets that found the queue full."),
    "overlimit_total": _field("integer", "Times the class reached its ceiling."),
    "backlog_bytes": _field("integer", "Queued in the class at the last look."),
    "period_used_bytes": _field("integer", "Used in the running period; what a sliding window holds, if there is one."),
    "period_allowance_bytes": _field("integer", "May be sent in the running period; null: no limit.", nullable=True),
    "period_threshold_bytes": _field("integer", "From which on the ceiling is lowered.", nullable=True),
    "period_start_timestamp_seconds": _field(
        "number", "Start of the account's running period, in Unix time; beside a sliding window it frees nothing."
    ),
    "period_end_timestamp_seconds": _field(
        "number", "End of the account's running period, in Unix time; beside a sliding window it frees nothing."
    ),
    "full_rate_bytes_per_second": _field("integer", "Ceiling while nothing lowers it; null: no limit.", nullable=True),
    "guarantee_bytes_per_second": _field("integer", "Rate under contention, as admitted."),
    "floor_bytes_per_second": _field("integer", "Lowest ceiling that a cap goes to, as fitted."),
    "ceiling_bytes_per_second": _field("integer", "Ceiling in force; null: the kernel has no class.", nullable=True),
    "intended_ceiling_bytes_per_second": _field("integer", "Ceiling that the verdict asks for.", nullable=True),
    "seconds_to_threshold": _field("number", "Forecast; null: not in this period.", nullable=True),
    "seconds_to_allowance": _field("number", "Forecast; null: not in this period.", nullable=True),
    "expected_used_bytes": _field("integer", "Forecast of what it would like to have used at the end.", nullable=True),
    "earlier_periods": _field(
        "integer", "Whose same hours speak in the forecasts beside the recent rate.", nullable=True
    ),
    "would_be": {
        "type": ["object", "null"],
        "description": "What would be, were the lane enforced, as a replay says it; null: it is enforced.",
        "required": list(WOULD_BE_FIELDS),
        "properties": dict(WOULD_BE_FIELDS),
    },
}
POLICY_FIELDS: Mapping[str, _Schema] = {
    "counted_part": _field("number", "Part of what is sent now that counts, by windows of the day."),
    "window_seconds": _field("number", "Length of the sliding window; null: the lane has none.", nullable=True),
    "room_bytes": _field("integer", "What may be sent in the next `room_seconds`: a lane's even rate.", nullable=True),
    "room_seconds": _field("number", "See `room_bytes`; 0 where the threshold is out of reach.", nullable=True),
}
"""Fields of lanes that are there where a lane of the device has a policy that they are about."""
HEAD_FIELDS: Mapping[str, _Schema] = {
    "node": _field("string", "The node's name."),
    "taken_at": _field("number", "Unix time of the turn that this was found in."),
    "enforcing": _field("boolean", "False: the whole node is in shadow."),
    "frozen": _field("boolean", "By order, nothing in the kernel is changed."),
    "up": _field("boolean", "Every device could be read in the last turn."),
    "troubles": {"type": "object", "description": "By device, what kept it from being read."},
}
EVENT_FIELDS: Mapping[str, _Schema] = {
    "at_timestamp_seconds": _field("number", "Unix time."),
    "kind": _field("string", "What happened: verdict, ceiling, period_rolled, counter_restarted and others."),
    "device": _field("string", "The network device; null for what concerns the node.", nullable=True),
    "slice": _field("string", "The slice; null for what concerns the device or the node.", nullable=True),
    "traffic": _field("string", "The traffic; null for what concerns the device or the node.", nullable=True),
    "inputs": {"type": "object", "description": "The figures that it followed from."},
    "sentence": _field("string", "The same in words."),
}
_BY_HAND: _Schema = {
    "type": "array",
    "items": {"type": "object"},
    "description": "Orders by hand that are in force, each with its sentence.",
}
_DEVICE_FIELDS: Mapping[str, _Schema] = {
    "device": _field("string", "The network device."),
    "trouble": _field("string", "What kept it from being read, or empty."),
    "cap_bytes_per_second": _field("integer", "Node cap."),
    "line_rate_bytes_per_second": _field("integer", "Rate of the line."),
    "guarantees_admitted_ratio": _field("number", "Smallest scale that guarantees were multiplied by to fit."),
    "direct_sent_packets_total": _field("integer", "Packets that passed the tree unshaped."),
    "lanes": _field("integer", "Lanes on the device."),
    "capped": _field("integer", "Of these, capped because of their account."),
    "verdicts": {"type": "object", "description": "Lanes by verdict."},
}
SOURCE_FIELDS: Mapping[str, _Schema] = {
    "source": _field("string", "The source of slices."),
    "up": _field("boolean", "Read at the last try."),
    "slices": _field("integer", "Slices that it gives."),
    "problems": {"type": "array", "items": {"type": "string"}},
    "last_success_timestamp_seconds": _field("number", "Unix time at which it was last read."),
}


def _list(fields: Mapping[str, _Schema], optional: Mapping[str, _Schema] | None = None) -> _Schema:
    return {"type": "array", "items": _object(fields, optional)}


def _object(fields: Mapping[str, _Schema], optional: Mapping[str, _Schema] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": {**fields, **(optional or {})}}


SLICES_FIELDS: Mapping[str, _Schema] = {
    **HEAD_FIELDS,
    "by_hand": _BY_HAND,
    "total": _field("integer", "Lanes that fit the query, of which these are a part."),
    "offset": _field("integer", "Lanes left out before the first."),
    "slices": _list(LANE_FIELDS, POLICY_FIELDS),
}
SLICE_FIELDS: Mapping[str, _Schema] = {
    **HEAD_FIELDS,
    "slice": _field("string", "The slice."),
    "id": _field("integer", "The id that its classes are numbered by."),
    "source": _field("string", "Where its record came from."),
    "owners": {"type": "array", "items": {"type": "string"}, "description": "Only if metrics.owner_email is on."},
    "labels": {"type": "object", "description": "What its record says of it."},
    "problems": {"type": "array", "items": {"type": "string"}},
    "by_hand": _BY_HAND,
    "lanes": _list({**LANE_FIELDS, "why": _field("string", "The verdict in one sentence.")}, POLICY_FIELDS),
    "events": _list(EVENT_FIELDS),
}
EVENTS_FIELDS: Mapping[str, _Schema] = {
    "offset": _field("integer", "Events left out before the first."),
    "events": _list(EVENT_FIELDS),
}
USE_FIELDS: Mapping[str, _Schema] = {
    **_LABELS,
    "step_seconds": _field("integer", "Length of each span."),
    "use": _list(
        {"start_timestamp_seconds": _field("integer", "Unix time."), "sent_bytes": _field("integer", "Sent.")}
    ),
}
STATUS_FIELDS: Mapping[str, _Schema] = {
    **HEAD_FIELDS,
    "version": _field("string", "Of bwexporter."),
    "ready": _field("boolean", "Turns run."),
    "ready_text": _field("string", "The same in one sentence."),
    "turn_duration_seconds": _field("number", "Time that the last full turn took."),
    "turn_stage_duration_seconds": {"type": "object", "description": "The same by stage."},
    "devices": _list(_DEVICE_FIELDS),
    "sources": _list(SOURCE_FIELDS),
    "sorting_problems": {"type": "array", "items": {"type": "string"}},
    "saved": _field("boolean", "The last full turn was saved in time."),
    "save_trouble": _field("string", "What was wrong with saving, or empty."),
    "state_last_save_timestamp_seconds": _field("number", "Unix time."),
    "config_last_reload_successful": _field("boolean", "The configuration was accepted at the last load."),
    "config_last_reload_success_timestamp_seconds": _field("number", "Unix time."),
}

TARGET_FIELDS: Mapping[str, _Schema] = {
    "targets": {"type": "array", "items": {"type": "string"}, "description": "host:port of each."},
    "labels": {"type": "object", "description": "Labels of these targets; __metrics_path__ and __scheme__ say how."},
}


def _parameter(name: str, text: str, schema: _Schema, where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "description": text, "schema": schema}


_WHOLE: _Schema = {"type": "integer", "minimum": 0}
_NAME = _parameter("name", "The slice's name.", {"type": "string"}, "path")
_KEY = _parameter("key", "The key of an owner's link, in place of a password.", {"type": "string"})
_SPAN = [
    _parameter("since", "From this instant on, Unix seconds.", {"type": "number"}),
    _parameter("until", "Before this instant, Unix seconds.", {"type": "number"}),
]
_OFFSET = _parameter("offset", "Leave out so many before the first; the Link header leads on.", _WHOLE)
_QUERY = [
    _parameter("search", "Part of the slice's name.", {"type": "string"}),
    _parameter("verdict", "Only these.", {"type": "string", "enum": [*VERDICTS, CAPPED]}),
    _parameter("device", "Only lanes of this device.", {"type": "string"}),
    _parameter("traffic", "Only this traffic.", {"type": "string", "enum": ["normal", "exempt"]}),
    _parameter("sort", "Sort by this; otherwise as configured.", {"type": "string", "enum": list(SORTS)}),
    _parameter("order", "Ascending unless said otherwise.", {"type": "string", "enum": ["asc", "desc"]}),
    _OFFSET,
    _parameter("limit", "At most so many; otherwise all.", {"type": "integer", "minimum": 1, "maximum": MOST_ROWS}),
]
_STEP: _Schema = {"type": "integer", "multipleOf": 300}


def document(telemetry_path: str) -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bwexporter",
            "version": __version__,
            "description": "Bytes, bytes per second, seconds and Unix time, as the names say. "
            f"Fields are named as the metrics at {telemetry_path}, without bwexporter_ and slice_.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/api/v1/status": _get("How the node stands.", STATUS_FIELDS, []),
            "/api/v1/targets": _get_all("Nodes to scrape, as Prometheus discovers them by HTTP.", _list(TARGET_FIELDS)),
            "/api/v1/slices": _get("Lanes, a row each: device, slice and traffic.", SLICES_FIELDS, _QUERY),
            "/api/v1/slices/{name}": _get("One slice, its lanes and last events.", SLICE_FIELDS, [_NAME, _KEY]),
            "/api/v1/use/{name}": _get(
                "What a lane sent over time; a day in steps of five minutes unless said otherwise.",
                USE_FIELDS,
                [
                    _NAME,
                    _KEY,
                    _parameter("device", "Of the lane.", {"type": "string"}),
                    _parameter("traffic", "Of the lane.", {"type": "string", "enum": ["normal", "exempt"]}),
                    *_SPAN,
                    _parameter("step", "Length of each span in seconds.", _STEP),
                ],
            ),
            "/api/v1/events": _get(
                "What happened, newest first.",
                EVENTS_FIELDS,
                [
                    *_SPAN,
                    _parameter("slice", "Only of this slice.", {"type": "string"}),
                    _parameter(
                        "kind", "Only of this kind.", {"type": "string", "enum": [kind.value for kind in EventKind]}
                    ),
                    _OFFSET,
                    _parameter("limit", "At most so many, 100 unless said otherwise.", _WHOLE),
                ],
            ),
        },
        "components": {"securitySchemes": {"password": {"type": "http", "scheme": "basic"}}},
    }


def _get(text: str, fields: Mapping[str, _Schema], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return _get_all(text, _object(fields), parameters)


def _get_all(text: str, schema: _Schema, parameters: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    def answer(said: str, schema: _Schema) -> dict[str, Any]:
        return {"description": said, "content": {"application/json": {"schema": schema}}}

    error = _object({"error": _field("string", "What is wrong, in one sentence.")})
    answers = {
        "200": answer(text, schema),
        "304": {"description": "As in the answer of this ETag (If-None-Match)."},
        "400": answer("A parameter that cannot be used.", error),
        "404": answer("There is no such slice.", error),
        "503": answer("No turn has ended yet.", error),
    }
    return {"get": {"summary": text, "parameters": list(parameters), "responses": answers}}
