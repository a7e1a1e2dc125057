"""A dashboard as Grafana's own published models read it: what they do not know, and what has another type.

Turns a dashboard's JSON into sentences about it, none where it is as Grafana Labs' types have it. Knows: how those
models are walked. Does not know: any dashboard. The models read whatever there is, so keys are compared after a round
trip, and values with the types that are declared.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator, Mapping

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard, DataTransformerConfig, Panel

register_default_plugins()

UNITS = frozenset(value for value in vars(units).values() if isinstance(value, str))
OTHERS_READ = frozenset(
    {
        ".annotations.list[].step",  # the Prometheus data source, as the title
        ".annotations.list[].titleFormat",
        ".templating.list[].definition",  # the list of variables in the settings
    }
)
"""What is not the dashboard's own, so that its models pass it over."""


def complaints(written: Mapping[str, typing.Any]) -> list[str]:
    """Return what is wrong with a dashboard."""
    read = Dashboard.from_json(json.loads(json.dumps(written)))
    again = json.loads(json.dumps(read, cls=JSONEncoder))
    return [*_lost(written, again, ""), *_misfits(read, Dashboard, ""), *_of_panels(read)]


def _lost(before: object, after: object, path: str) -> Iterator[str]:
    """Yield what a round trip did not keep; what it added are defaults."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in before.items():
            below = f"{path}.{key}"
            if key in after:
                yield from _lost(value, after[key], below)
            elif below not in OTHERS_READ:
                yield f"{below} is not known to Grafana"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from _lost(one, other, f"{path}[]")
    elif before != after:
        yield f"{path} is {before!r}, of which Grafana makes {after!r}"


def _of_panels(read: Dashboard) -> Iterator[str]:
    """Yield what is wrong in what each kind of panel declares for itself, and with units."""
    for panel in read.panels or []:
        if not isinstance(panel, Panel):
            continue
        own = [panel.options, *(panel.targets or [])]
        if panel.field_config is not None:
            own.append(panel.field_config.defaults.custom)
            unit = panel.field_config.defaults.unit
            if unit is not None and unit not in UNITS and not unit.startswith("suffix:"):
                yield f"{panel.title}: {unit!r} is no unit of Grafana's"
        for part in own:
            if part is not None and not isinstance(part, dict):
                yield from _misfits(part, type(part), f"{panel.title} ({panel.type_val})")


def _misfits(value: object, declared: typing.Any, path: str) -> Iterator[str]:
    """Yield the places where a value is not of the type that is declared."""
    origin, within = typing.get_origin(declared), typing.get_args(declared)
    if declared in (typing.Any, object) or (declared is DataTransformerConfig and isinstance(value, dict)):
        return
    if origin in (typing.Union, types.UnionType):
        yield from min((list(_misfits(value, one, path)) for one in _fitting(value, within)), key=len)
    elif origin is list and isinstance(value, list):
        for one in value:
            yield from _misfits(one, within[0], f"{path}[]")
    elif origin is dict and isinstance(value, dict):
        for key, one in value.items():
            yield from _misfits(one, within[1], f"{path}.{key}")
    elif not _is(value, declared, origin, within):
        yield f"{path} is {value!r}, and should be {declared}"
    elif hasattr(value, "from_json"):
        for name, inner in typing.get_type_hints(type(value)).items():
            yield from _misfits(getattr(value, name), inner, f"{path}.{name}")


def _fitting(value: object, declared: tuple[typing.Any, ...]) -> tuple[typing.Any, ...]:
    """Return the types of a union that come into question: the value's own, if it is one of them."""
    return tuple(one for one in declared if one is type(value)) or declared


def _is(value: object, declared: typing.Any, origin: typing.Any, within: tuple[typing.Any, ...]) -> bool:
    if origin is typing.Literal:
        return value in within
    if not isinstance(declared, type):
        return False
    if issubclass(declared, enum.Enum):
        return value in {one.value for one in declared}
    if declared in (int, float):
        return isinstance(value, (int, float) if declared is float else int) and not isinstance(value, bool)
    return isinstance(value, declared)
