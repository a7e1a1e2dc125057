"""JSON Schemas of the two files that people write, for their editors.

Turns the models of the configuration and of slices' records into JSON Schema (2020-12). Knows: what an editor needs of
a schema and what not. Does not know: any key or form, which each type brings from where it is declared; what
contradicts what; `bwexporter check` does.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from bwexporter.keys import Keys as ConfigKeys
from bwexporter.slices.fleet import NodeKeys
from bwexporter.slices.records import _Keys as RecordKeys

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "#/$defs/"


def config_schema() -> dict[str, Any]:
    """Return the schema of the configuration."""
    made = {**_schema(ConfigKeys), "required": ["devices"]}
    return {"$schema": _DIALECT, "title": "The configuration of bwexporter", **made}


def slices_schema() -> dict[str, Any]:
    """Return the schema of a file of slices."""
    record, node = _schema(RecordKeys), _schema(NodeKeys)
    definitions = {**record.pop("$defs"), **node.pop("$defs", {}), "Node": node}
    return {
        "$schema": _DIALECT,
        "title": "The slices of bwexporter",
        "type": "object",
        "properties": {
            "slices": {"type": "array", "items": {"$ref": "#/$defs/Slice"}},
            "nodes": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Node"}]}},
        },
        "required": ["slices"],
        "additionalProperties": False,
        "$defs": {**definitions, "Slice": record},
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    made: dict[str, Any] = _for_editors(model.model_json_schema(schema_generator=_Generator, mode="validation"))
    return made


class _Generator(GenerateJsonSchema):
    """Says what is written, and not what it is read into."""

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Leave defaults out: they are values as they are read, not as they are written."""
        return self.generate_inner(schema["schema"])


def _for_editors(schema: Any) -> Any:
    """Return a schema without what tells an editor nothing: titles, and that a key may stand without a value.

    Editors show the names of definitions, so that these are words.
    """
    if isinstance(schema, list):
        return [_for_editors(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema:
        choices = [one for one in schema["anyOf"] if one != {"type": "null"}]
        rest = {name: value for name, value in schema.items() if name != "anyOf"}
        schema = {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}
    if "$ref" in schema:
        schema = {**schema, "$ref": _DEFINITIONS + _word(schema["$ref"].removeprefix(_DEFINITIONS))}
    if "$defs" in schema:
        schema = {**schema, "$defs": {_word(name): one for name, one in schema["$defs"].items()}}
    found = {name: _for_editors(value) for name, value in schema.items() if name not in {"title", "properties"}}
    if "properties" in schema:
        found["properties"] = {name: _for_editors(one) for name, one in schema["properties"].items()}
    return found


def _word(name: str) -> str:
    """Return what people call what a class of ours is named after.

    >>> _word("_PolicyKeys"), _word("LaneSettings")
    ('Policy', 'LaneSettings')
    """
    return name.removeprefix("_").removesuffix("Keys")
