"""Checks written data against a model and says every fault in plain words.

Turns plain data and a pydantic model into a checked value and a list of faults, each with the path of its key. Knows:
pydantic, and how to say its errors to people. Does not know: files, lines, what any key is for.

A faulty key is left out and the rest is checked again, so that one bad value costs nothing but itself.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainValidator,
    StrictBool,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from bwexporter import forms
from bwexporter.units import parse_duration, parse_percent, parse_rate, parse_volume, shown
from bwexporter.yamlfile import KeyPath, Step

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Fault(NamedTuple):
    """One thing wrong at a path of the data that was checked."""

    path: KeyPath
    text: str


class Misfit(ValueError):
    """Values that are right by themselves and wrong together, or inside; paths count from where it is raised."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.text for fault in faults))
        self.faults = tuple(faults)


class Written(BaseModel):
    """Keys that people write; unknown ones are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


M = TypeVar("M", bound=Written)
N = TypeVar("N", int, float)

MISSING = "is missing"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NO_MAPPING = "must be a mapping of keys to values and is {value}"
_NO_LIST = "must be a list and is {value}"
_SAYINGS: Mapping[str, str] = {
    "missing": MISSING,
    "model_type": _NO_MAPPING,
    "dict_type": _NO_MAPPING,
    "tuple_type": _NO_LIST,
    "list_type": _NO_LIST,
    "string_type": "must be text and is {value}; put it in quotes",
    "bool_type": "must be true or false and is {value}",
    "enum": "is {value} and must be {expected}",
}


def check(model: type[M], data: object) -> tuple[M | None, list[Fault]]:
    """Return the model with every faulty key left at its default, and the faults; None if the rest makes no model."""
    faults: list[Fault] = []
    thinned: set[KeyPath] = set()  # lists that items were left out of: places in them have moved
    for attempt in range(4):
        try:
            return model.model_validate(data), faults
        except ValidationError as error:
            details = error.errors(include_url=False)
        for fault in (fault for detail in details for fault in _faults(model, detail)):
            # What is missing after something was left out was not forgotten by anybody.
            artefact = attempt and (fault.text == MISSING or _is_inside(fault.path, thinned))
            if not artefact and fault not in faults:
                faults.append(fault)
        left_out = {path for detail in details for path in _to_leave_out(detail, whole=attempt > 0)}
        thinned |= {path[:-1] for path in left_out if path and isinstance(path[-1], int)}
        data = _without(data, left_out)
    return None, faults


def _is_inside(path: KeyPath, containers: set[KeyPath]) -> bool:
    return any(path[:length] in containers for length in range(len(path)))


def _faults(model: type[Written], detail: ErrorDetails) -> list[Fault]:
    """Say one error of pydantic; an error that carries faults of its own stands for these."""
    path = _path(detail)
    trouble = detail.get("ctx", {}).get("error")
    if isinstance(trouble, Misfit):
        return [Fault(path + fault.path, fault.text) for fault in trouble.faults]
    return [Fault(path, str(trouble) if trouble is not None else _say(model, detail, path))]


def _path(detail: ErrorDetails) -> KeyPath:
    """Return the path of an error; pydantic marks an error of a mapping's key itself with one step more."""
    path = detail["loc"]
    marked = path[-1:] == ("[key]",) and detail["type"] != "extra_forbidden"
    return path[:-1] if marked else path


def _to_leave_out(detail: ErrorDetails, *, whole: bool) -> list[KeyPath]:
    """Return what to leave out: of values that do not fit together those at fault, and if that was no help all."""
    path = _path(detail)
    trouble = detail.get("ctx", {}).get("error")
    if isinstance(trouble, Misfit) and not whole:
        return [path + fault.path for fault in trouble.faults]
    return [path[:-1] if detail["type"] == "missing" else path]


def _say(model: type[Written], detail: ErrorDetails, path: KeyPath) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return unknown_key(str(path[-1]), _keys_at(model, path[:-1]))
    if value is None:
        return "has no value; give it one or leave the key out"
    words = {**detail.get("ctx", {}), "value": shown(value), "msg": detail["msg"]}
    return _SAYINGS.get(kind, "{value}: {msg}").format_map(words)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a key is not known, and which one may have been meant."""
    words = sorted(known)
    close = close_to(key, words)
    hint = f'did you mean "{close[0]}"?' if close else f"the keys here are {', '.join(words)}"
    return f"{shown(key)} is not a key here; {hint}"


def close_to(key: str, known: Iterable[str]) -> list[str]:
    """Return the known key that may have been meant by one that is not known, if there is such a one."""
    return difflib.get_close_matches(key.lower(), sorted(known), n=1)


def _keys_at(model: type[Written], path: KeyPath) -> list[str]:
    """Return the keys that the model has at a path."""
    for step in path:
        if isinstance(step, str):
            inner = next((f for name, f in model.model_fields.items() if (f.alias or name) == step), None)
            found = _model_in(inner.annotation) if inner else None
            model = found or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[Written] | None:
    """Return the model that an annotation such as `tuple[Model, ...]` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Written):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _without(data: object, paths: set[KeyPath]) -> object:
    """Return data without what stands at the paths."""
    if not paths:
        return data
    inner: dict[Step, set[KeyPath]] = {}
    for path in paths:
        if path:
            inner.setdefault(path[0], set()).add(path[1:])
    gone = {step for step, rests in inner.items() if () in rests}
    if isinstance(data, dict):
        return {key: _without(value, inner.get(key, set())) for key, value in data.items() if key not in gone}
    if isinstance(data, list):
        return [_without(value, inner.get(at, set())) for at, value in enumerate(data) if at not in gone]
    return data


def read_positive(parse: Callable[[object], N]) -> Callable[[object], N]:
    """Return a reader that refuses 0 as well."""

    def read(written: object) -> N:
        value = parse(written)
        if value <= 0:
            raise ValueError(f"is {shown(written)} and must be more than 0")
        return value

    return read


def read_whole(written: object, least: int, most: int) -> int:
    """Read a whole number between two bounds."""
    if not isinstance(written, int) or isinstance(written, bool) or not least <= written <= most:
        raise ValueError(f"is {shown(written)} and must be a whole number from {least} to {most}")
    return written


def read_text(written: str) -> str:
    """Refuse text that is empty or would break a line of a log or a table."""
    if not written.strip():
        raise ValueError("is empty")
    if _CONTROL.search(written):
        raise ValueError(f"{shown(written)} holds a control character")
    return written


def read_network(written: object) -> Network:
    """Read an IPv4 or IPv6 prefix, or one address."""
    if not isinstance(written, str) or "%" in written:
        raise ValueError(f"{shown(written)} is not an address prefix; write for example 198.51.100.0/24")
    try:
        return ipaddress.ip_network(written)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(written, strict=False)
    except ValueError:
        raise ValueError(f"{shown(written)} is not an address prefix; write for example 198.51.100.0/24") from None
    raise ValueError(f"{shown(written)} has bits set behind its prefix; did you mean {meant}?")


def read_timezone(written: object) -> str:
    """Check the name of a time zone."""
    try:
        return ZoneInfo(written).key if isinstance(written, str) and written else _no_timezone(written)
    except (OSError, KeyError, ValueError):
        return _no_timezone(written)


def _no_timezone(written: object) -> str:
    raise ValueError(f"{shown(written)} is not a time zone; write for example Europe/Paris")


def read_device_name(written: str) -> str:
    """Check a network device's name as the kernel does (dev_valid_name, net/core/dev.c)."""
    if not 0 < len(written.encode("utf-8", "replace")) <= 15 or written in {".", ".."} or re.search(r"[/:\s]", written):
        raise ValueError(f"{shown(written)} is not a device's name; it has 1 to 15 bytes, no blank, slash or colon")
    return read_text(written)


def read_part(written: object) -> float:
    """Read a percentage into a part of one."""
    return float(parse_percent(written))


def as_form(form: forms.Form) -> WithJsonSchema:
    """Say how a value is written; whoever declares a type says it there, and the files' schemas have it."""
    return WithJsonSchema(dict(form))


Text = Annotated[StrictStr, AfterValidator(read_text), as_form(forms.TEXT)]
DeviceName = Annotated[StrictStr, AfterValidator(read_device_name), as_form(forms.DEVICE)]
Flag = StrictBool
Rate = Annotated[int, PlainValidator(read_positive(parse_rate)), as_form(forms.RATE)]
MaybeRate = Annotated[int | None, PlainValidator(read_positive(parse_rate)), as_form(forms.RATE)]
Volume = Annotated[int, PlainValidator(read_positive(parse_volume)), as_form(forms.VOLUME)]
Duration = Annotated[float, PlainValidator(read_positive(parse_duration)), as_form(forms.DURATION)]
MaybeDuration = Annotated[float | None, PlainValidator(read_positive(parse_duration)), as_form(forms.DURATION)]
Part = Annotated[float, PlainValidator(read_part), as_form(forms.PERCENTAGE)]
Prefix = Annotated[Network, PlainValidator(read_network), as_form(forms.PREFIX)]
Zone = Annotated[str, PlainValidator(read_timezone), as_form(forms.ZONE)]
