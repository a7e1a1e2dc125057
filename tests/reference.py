"""The reference of what people write and read, made from the program's own data: `make reference`.

Turns the JSON Schemas of both files into docs/configuration.md (every key, what it takes, whether it must be there),
and the catalogue of metrics into the README's table. Knows: JSON Schema as far as ours use it, where in the README the
table stands. Does not know: what a key is for, which the commented examples say; what a metric says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bwexporter.metrics import metrics_table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"
FILES = (("bwexporter.yml", "bwexporter.schema.json"), ("slices.yml", "slices.schema.json"))
HEAD = """# Every key of the two files

Made from the JSON Schemas by `make reference`.
The complete examples say in comments what each key is for, and what holds where it is left out:
[deploy/bwexporter.yml](../deploy/bwexporter.yml) and [deploy/slices.yml](../deploy/slices.yml).
"""

README = ROOT / "README.md"
BEGINS, ENDS = "<!-- The catalogue of metrics, by `make reference`: -->\n", "<!-- The end of the catalogue. -->\n"

Schema = Mapping[str, Any]


def readme() -> str:
    """Return the whole README, with the table of metrics between its marks."""
    before, rest = README.read_text().split(BEGINS)
    _, after = rest.split(ENDS)
    return f"{before}{BEGINS}\n{metrics_table()}\n{ENDS}{after}"


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_section(name, json.loads((ROOT / "deploy" / file).read_text())) for name, file in FILES)


def _section(name: str, schema: Schema) -> str:
    keys = _keys(schema, schema)
    rows = "".join(f"| `{key}` | {takes} | {'yes' if needed else ''} |\n" for key, takes, needed in keys)
    return f"\n## {name}\n\n| key | takes | needed |\n| --- | --- | --- |\n{rows}"


def _keys(schema: Schema, whole: Schema, path: str = "") -> Iterator[tuple[str, str, bool]]:
    for key, inner in schema.get("properties", {}).items():
        one, here = _resolved(inner, whole), f"{path}{key}"
        yield here, _takes(one, whole), key in schema.get("required", ())
        for form in _forms(one, whole):
            if "properties" in form:
                yield from _keys(form, whole, f"{here}.")
            for items in _forms(_resolved(form.get("items", {}), whole), whole):
                if "properties" in items:
                    yield from _keys(items, whole, f"{here}[].")


def _resolved(schema: Schema, whole: Schema) -> Schema:
    reference = schema.get("$ref", "")
    return whole["$defs"][reference.rpartition("/")[2]] if reference else schema


def _forms(schema: Schema, whole: Schema) -> list[Schema]:
    several = schema.get("anyOf") or schema.get("oneOf")
    return [_resolved(form, whole) for form in several] if several else [schema]


def _takes(schema: Schema, whole: Schema) -> str:
    return ", or ".join(dict.fromkeys(_form(form, whole) for form in _forms(schema, whole)))


def _form(schema: Schema, whole: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(dict.fromkeys(f"`{value}`" for value in schema.get("enum", [schema.get("const")])))
    if "pattern" in schema:
        examples = ", ".join(f"`{example}`" for example in schema.get("examples", ()))
        said = str(schema.get("description", "text")).rstrip(".").split(": ")[0]
        return f"{said[0].lower()}{said[1:]} ({examples})" if examples else said
    if "minimum" in schema:
        return f"a whole number from {schema['minimum']} to {schema['maximum']}" if "maximum" in schema else "a number"
    if schema.get("type") == "array":
        return f"a list, each {_takes(_resolved(schema.get('items', {}), whole), whole)}"
    return _KINDS.get(schema.get("type", ""), "see the example")


_KINDS = {
    "object": "keys of its own",
    "boolean": "`true`, `false`",
    "integer": "a number",
    "number": "a number",
    "string": "text",
}


if __name__ == "__main__":
    PAGE.write_text(page())
    README.write_text(readme())
