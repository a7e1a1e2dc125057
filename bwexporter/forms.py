"""Forms: how values are written, said in JSON Schema for people's editors.

Turns patterns and bounds into schemas of single values. Knows: JSON Schema (2020-12), regular expressions as editors
read them, how each quantity looks. Does not know: keys, models, what a value is read into.

A form says what can be said of a value alone: upper limits of quantities, and what contradicts what, it leaves to
`bwexporter check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Form = Mapping[str, Any]

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_NOT_ZERO = r"(?=[0-9.]*[1-9])"
_LONGEST_QUANTITY = 40
_RATE_UNIT = r"(?:(?:[kKmMgGtT][iI]?)?(?:[bB][iI][tT]|[bB][pP][sS])|[kMGT]?B/s)"
_VOLUME_UNIT = r"(?:[kKmMgGtT][iI]?)?[bB]"


def text(pattern: str, description: str, *examples: str) -> dict[str, Any]:
    """Return the form of text that matches a pattern from its beginning to its end.

    `patternErrorMessage` is what Visual Studio Code and the YAML language server say in place of the pattern.
    """
    return {
        "type": "string",
        "pattern": f"^{pattern}$",
        "patternErrorMessage": f"{description} Write for example {examples[0]}.",
        "description": description,
        "examples": list(examples),
    }


def whole(least: int, most: int, description: str) -> dict[str, Any]:
    """Return the form of a whole number between two bounds."""
    return {"type": "integer", "minimum": least, "maximum": most, "description": description}


def words(*known: str) -> dict[str, Any]:
    """Return the form of one of some words."""
    return {"enum": list(known)}


def either(description: str, *choices: Form) -> dict[str, Any]:
    """Return the form of what has one of several."""
    return {"anyOf": list(choices), "description": description}


def keys(description: str, properties: Mapping[str, Form]) -> dict[str, Any]:
    """Return the form of a mapping with these keys and no others."""
    return {
        "type": "object",
        "description": description,
        "properties": {key: dict(form) for key, form in properties.items()},
        "additionalProperties": False,
    }


def _quantity(pattern: str, description: str, *examples: str) -> dict[str, Any]:
    return {**text(pattern, description, *examples), "maxLength": _LONGEST_QUANTITY}


NUMBER: Form = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^(?=0*[1-9])[0-9]{1,18}$"}]}
"""A whole number above 0, which may be written as text."""

TEXT: Form = {"type": "string", "pattern": r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"}
DEVICE: Form = {"type": "string", "pattern": r"^(?!\.{1,2}$)[^/:\s\x00-\x1f\x7f-\x9f]{1,15}$"}
RATE: Form = _quantity(
    rf"\s*{_NOT_ZERO}{_NUMBER}\s*{_RATE_UNIT}\s*",
    "A rate with its unit: bit, kbit, mbit, gbit count bits a second, bps, kbps, mbps bytes.",
    "10mbit",
)
VOLUME: Form = _quantity(
    rf"\s*{_NOT_ZERO}{_NUMBER}\s*{_VOLUME_UNIT}\s*",
    "A volume with its unit: GB is 10^9 bytes, GiB is 2^30.",
    "5GB",
    "5GiB",
)
VOLUME_OR_NONE: Form = {**VOLUME, "pattern": VOLUME["pattern"].replace(_NOT_ZERO, "")}
DURATION_OR_NONE: Form = _quantity(
    rf"\s*(?:{_NUMBER}\s*(?:ms|[smhdw])\s*)+", "A duration with its unit.", "10s", "3h 12m"
)
DURATION: Form = {**DURATION_OR_NONE, "pattern": DURATION_OR_NONE["pattern"].replace("^", "^(?=.*[1-9])", 1)}
PERCENTAGE: Form = _quantity(
    r"\s*(?:0*[0-9]{1,2}(?:\.[0-9]+)?|0*100(?:\.0+)?)\s*%\s*", "A percentage, from 0% to 100%.", "80%", "12.5%"
)
TIME_OF_DAY: Form = text(r"(?:(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)", "A time of day, from 0:00 to 24:00.", "22:00")
PREFIX: Form = text(r"[0-9a-fA-F.:]+(?:/[0-9]+)?", "An IPv4 or IPv6 prefix, or one address.", "198.51.100.0/24")
ZONE: Form = {
    **text(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*", "A time zone.", "Europe/Paris"),
    "default": "UTC",
}
