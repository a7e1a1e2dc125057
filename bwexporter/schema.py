"""JSON Schemas of the two files that people write, for their editors.

Turns the models of the configuration and of slices' records into JSON Schema (2020-12). Knows: how each value is
written, which a model that reads text by functions of its own cannot say. Does not know: what contradicts what;
`bwexporter check` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from bwexporter.config import _Keys as ConfigKeys
from bwexporter.settings import MOST_SHARES
from bwexporter.slices.loans import Loan
from bwexporter.slices.records import LARGEST_ID, SMALLEST_ID
from bwexporter.slices.records import _Keys as RecordKeys
from bwexporter.slices.tags import TAGS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER = r"^\s*[0-9]+(\.[0-9]+)?\s*"


def _text(pattern: str, description: str, *examples: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "description": description, "examples": list(examples)}


def _whole(least: int, most: int, description: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


_RATE = _text(
    rf"{_NUMBER}([kKmMgGtT]i?)?([bB][iI][tT]|[bB][pP][sS]|B/s)\s*$",
    "A rate with its unit: bit, kbit, mbit, gbit count bits a second, bps, kbps, mbps bytes.",
    "10mbit",
)
_VOLUME = _text(
    rf"{_NUMBER}([kKmMgGtT][iI]?)?[bB]\s*$", "A volume with its unit: GB is 10^9 bytes, GiB is 2^30.", "5GB", "5GiB"
)
_DURATION = _text(r"^\s*([0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d|w)\s*)+$", "A duration with its unit.", "10s", "3h 12m")
_PREFIX = _text(r"^[0-9a-fA-F.:]+(/[0-9]+)?$", "An IPv4 or IPv6 prefix, or one address.", "198.51.100.0/24")
_CLASS = _text(r"^[0-9a-fA-F]+:[0-9a-fA-F]+$", "A class of somebody else's tree, as tc writes it.", "1:10")
_ZONE = {"type": "string", "description": "A time zone.", "examples": ["Europe/Paris"], "default": "UTC"}
_CALENDAR = {
    "type": "object",
    "properties": {
        "calendar": {"enum": ["day", "week", "month"]},
        "starts_on": _whole(1, 31, "The day on which a week (1 is Monday) or a month starts."),
        "timezone": _ZONE,
    },
    "required": ["calendar"],
    "additionalProperties": False,
}

FORMS: Mapping[str, dict[str, Any]] = {
    **dict.fromkeys(("interval", "shortest_interval", "look_margin", "every", "timeout"), _DURATION),
    **dict.fromkeys(("cap", "line_rate", "default", "guarantee", "floor"), _RATE),
    **dict.fromkeys(("class", "exempt_class"), _CLASS),
    "full": {
        "anyOf": [_RATE, {"enum": ["cap", "line_rate"]}],
        "description": "The ceiling while nothing lowers it: a rate, or the device's node cap or line rate.",
    },
    "allowance": {
        "anyOf": [_VOLUME, {"const": "unlimited"}],
        "description": "What may be sent in a period; unlimited is counted and never capped.",
    },
    "threshold": {
        "anyOf": [_text(rf"{_NUMBER}%\s*$", "A part of the allowance.", "80%"), _VOLUME],
        "description": "From here on the ceiling falls.",
    },
    "largest": _VOLUME,
    "share": _whole(1, MOST_SHARES, "The weight among slices that want more than there is."),
    "period": {"anyOf": [_DURATION, _CALENDAR], "description": "The span over which a volume is counted."},
    "timezone": _ZONE,
    "id": _whole(SMALLEST_ID, LARGEST_ID, "The number that the slice's classes are named after."),
    "uid": {
        "anyOf": [_whole(0, 2**32 - 2, "A user id."), _text(r"^[0-9]+\s*-\s*[0-9]+$", "A range.", "100000-165535")],
    },
    "mark": _whole(1, 2**32 - 1, "A firewall mark."),
    "tags": {
        "type": "object",
        "description": "PlanetLab's tags: rates in kbit/s, volumes in KByte of 1024 bytes.",
        "properties": {
            name: {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]+$"}]} for name in TAGS
        },
        "additionalProperties": False,
    },
}
"""How values are written, by their keys."""

ITEMS: Mapping[str, dict[str, Any]] = {
    "listen": _text(r":[0-9]+$", "host:port, [::1]:port, or :port for every address.", "127.0.0.1:10099"),
    "prefixes": _PREFIX,
    "addresses": _PREFIX,
}
"""How the items of lists are written, by the lists' keys."""


def config_schema() -> dict[str, Any]:
    """Return the schema of the configuration."""
    return _schema(ConfigKeys, "The configuration of bwexporter", required=["devices"])


def slices_schema() -> dict[str, Any]:
    """Return the schema of a file of slices."""
    record = _schema(RecordKeys, "")
    loan = _schema(Loan, "")
    definitions = {**record.pop("$defs", {}), **loan.pop("$defs", {}), "Loan": _bare(loan)}
    record["properties"]["loans"] = {"type": "array", "items": {"$ref": "#/$defs/Loan"}}
    return {
        "$schema": _DIALECT,
        "title": "The slices of bwexporter",
        "type": "object",
        "properties": {"slices": {"type": "array", "items": {"$ref": "#/$defs/Slice"}}},
        "required": ["slices"],
        "additionalProperties": False,
        "$defs": {**definitions, "Slice": _bare(record)},
    }


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in {"$schema", "title"}}


def _schema(model: type[BaseModel], title: str, required: list[str] | None = None) -> dict[str, Any]:
    made = model.model_json_schema(schema_generator=_Generator, mode="validation")
    made = _for_editors(made)
    return {"$schema": _DIALECT, "title": title, **made, **({"required": required} if required else {})}


class _Generator(GenerateJsonSchema):
    """Says nothing of values that a function reads; FORMS does."""

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Leave defaults out: they are values as they are read, not as they are written."""
        return self.generate_inner(schema["schema"])

    def handle_invalid_for_json_schema(self, *_: object) -> JsonSchemaValue:
        """Return a schema that everything fits."""
        return {}


def _for_editors(schema: Any, key: str = "") -> Any:
    """Return a schema with the forms of values, and without what tells an editor nothing."""
    if isinstance(schema, list):
        return [_for_editors(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if key in FORMS:
        return FORMS[key]
    if "anyOf" in schema:  # no key may stand without a value
        choices = [one for one in schema["anyOf"] if one != {"type": "null"}]
        rest = {name: value for name, value in schema.items() if name != "anyOf"}
        schema = {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}
    found = {name: _for_editors(value) for name, value in schema.items() if name not in {"title", "properties"}}
    if key in ITEMS and found.get("type") == "array":
        found["items"] = ITEMS[key]
    if "properties" in schema:
        found["properties"] = {name: _for_editors(one, name) for name, one in schema["properties"].items()}
    return found
