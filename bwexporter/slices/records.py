"""The slice record: what a source says of one slice, checked.

Turns plain data of one slice, plain keys and PlanetLab tags alike, into a frozen SliceRecord and a list of faults.
Knows: the keys of a record, the tags and their fixed units (kbit/s of 1000 bits, KByte of 1024 bytes). Does not know:
files, devices that exist, defaults, other slices.

A bad value costs its key alone, whose default then holds. A bad name or id costs the slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, PlainValidator, StrictStr

from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, Traffic
from bwexporter.settings import MOST_SHARES, LaneSettings, contradictions
from bwexporter.units import rate_of_kbit, shown, volume_of_kbyte
from bwexporter.written import (
    DeviceName,
    Fault,
    Flag,
    NotYet,
    Prefix,
    Text,
    Written,
    check,
    read_whole,
    unknown_key,
)
from bwexporter.yamlfile import KeyPath

SMALLEST_ID = 1
LARGEST_ID = 0x6FFE
RESERVED_NAMES = frozenset({ROOT_SLICE, DEFAULT_SLICE})

_LARGEST_USER = 2**32 - 2
_LABELS_OF_OURS = frozenset({"slice", "id", "owner_email", "source", "device", "traffic"})
_NOT_FOR_RESERVED = ("id", "match", "devices")


def _name(written: str) -> str:
    if len(written.encode()) > 255:
        raise ValueError(f"{shown(written)} is longer than 255 bytes")
    return written


def _owner(written: str) -> str:
    """Check an e-mail address as far as a mistake shows: one @ between two parts without blanks or brackets."""
    if len(written) > 254 or not re.fullmatch(r"[^\s@<>,;\"]+@[^\s@<>,;\"]+", written):
        raise ValueError(f"{shown(written)} is not an e-mail address")
    return written


def _label_name(written: object) -> str:
    """Check a label's name (https://prometheus.io/docs/concepts/data_model/)."""
    if not isinstance(written, str) or not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", written):
        raise ValueError(f"{shown(written)} is not a label's name; it has letters, digits and _, and no digit in front")
    if written in _LABELS_OF_OURS:
        raise ValueError(f"{shown(written)} is a label that bwexporter sets itself")
    return written


def _users(written: object) -> tuple[int, int]:
    """Read a user id, or a range of them as `100000-165535`, into its first and last."""
    if not isinstance(written, str):
        user = read_whole(written, 0, _LARGEST_USER)
        return user, user
    match = re.fullmatch(r"([0-9]{1,10})\s*-\s*([0-9]{1,10})", written)
    if match is None or not int(match[1]) <= int(match[2]) <= _LARGEST_USER:
        raise ValueError(f"{shown(written)} is not a range of user ids; write for example 100000-165535")
    return int(match[1]), int(match[2])


class Match(Written):
    """What tells a slice's traffic from others'; whatever is given, any of it matches."""

    user: Text | None = None
    uid: Annotated[tuple[int, int] | None, PlainValidator(_users)] = None  # first and last
    cgroup: Text | None = None
    addresses: tuple[Prefix, ...] = ()
    mark: Annotated[int | None, PlainValidator(partial(read_whole, least=1, most=2**32 - 1))] = None


class _Keys(Written):
    """The keys of a record."""

    name: Annotated[Text, AfterValidator(_name)]
    id: Annotated[int | None, PlainValidator(partial(read_whole, least=SMALLEST_ID, most=LARGEST_ID))] = None
    owners: tuple[Annotated[Text, AfterValidator(_owner)], ...] = ()
    labels: dict[Annotated[str, PlainValidator(_label_name)], StrictStr] = Field(default_factory=dict)
    devices: tuple[DeviceName, ...] = ()
    match: Match = Match()
    normal: LaneSettings = LaneSettings()
    exempt: LaneSettings = LaneSettings()
    off: Flag = False
    shadow: Flag = False
    tags: dict[str, Any] = Field(default_factory=dict)
    class_: NotYet = Field(default=None, alias="class")
    exempt_class: NotYet = None
    override: NotYet = None


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One slice as a source gives it; settings that nobody gave are None.

    `everything_off` is the ancestor's switch: `net_max_rate: -1`, or `off: true`, of the slice `_default`.
    """

    name: str
    slice_id: int | None
    owners: tuple[str, ...]
    labels: Mapping[str, str]
    devices: tuple[str, ...]  # empty: the first of the configuration
    match: Match
    normal: LaneSettings
    exempt: LaneSettings
    everything_off: bool
    source: str
    line: int  # 0 where the source has no lines

    def settings(self, traffic: Traffic) -> LaneSettings:
        """Return what the record says of one traffic."""
        return self.normal if traffic is Traffic.NORMAL else self.exempt


def read_record(data: object, *, source: str, line: int) -> tuple[SliceRecord | None, list[Fault]]:
    """Check the plain data of one slice; None where its name or id is bad. Paths of faults count from the record."""
    keys, faults = check(_Keys, data)
    if keys is None or any(fault.path[:1] in {("name",), ("id",)} for fault in faults):
        return None, faults
    if keys.name in RESERVED_NAMES:
        misplaced = [key for key in _NOT_FOR_RESERVED if key in keys.model_fields_set]
        text = f"{keys.name} is on every device; only its settings can be given"
        faults += [Fault((key,), text) for key in misplaced]
        keys = keys.model_copy(update={key: _Keys.model_fields[key].default for key in misplaced})
    tags, tag_faults = _read_tags(keys)
    switched_off = _is_switch_off(keys.name, keys.tags.get("net_max_rate"))
    normal, normal_faults = _over_tags(keys, Traffic.NORMAL, tags)
    exempt, exempt_faults = _over_tags(keys, Traffic.EXEMPT, tags)
    record = SliceRecord(
        name=keys.name,
        slice_id=keys.id,
        owners=keys.owners,
        labels=keys.labels,
        devices=tuple(dict.fromkeys(keys.devices)),
        match=keys.match,
        normal=normal,
        exempt=exempt,
        everything_off=switched_off or (keys.off and keys.name == DEFAULT_SLICE),
        source=source,
        line=line,
    )
    return record, [*faults, *tag_faults, *normal_faults, *exempt_faults]


class _Tag(NamedTuple):
    traffic: Traffic
    setting: str  # a field of LaneSettings
    read: Callable[[int], int]


_TAGS: Mapping[str, _Tag] = {
    f"net_{infix}{ending}": _Tag(traffic, setting, read)
    for traffic, infix in ((Traffic.NORMAL, ""), (Traffic.EXEMPT, "i2_"))
    for ending, setting, read in (
        ("min_rate", "guarantee_bytes_per_second", rate_of_kbit),
        ("max_rate", "full", rate_of_kbit),
        ("max_kbyte", "allowance_bytes", volume_of_kbyte),
        ("thresh_kbyte", "threshold", volume_of_kbyte),
        ("share", "share", partial(read_whole, least=1, most=MOST_SHARES)),
    )
}


def _read_tags(keys: _Keys) -> tuple[dict[str, int], list[Fault]]:
    """Return the values of the tags in our units, by the tags' names."""
    values, faults = {}, []
    for name, written in keys.tags.items():
        if _is_switch_off(keys.name, written) and name == "net_max_rate":
            continue
        try:
            values[name] = _read_tag(name, written)
        except ValueError as trouble:
            faults.append(Fault(("tags", name), str(trouble)))
    return values, faults


def _is_switch_off(slice_name: str, written: object) -> bool:
    """Tell whether a `net_max_rate` switches everything off, which only that of `_default` can."""
    return slice_name == DEFAULT_SLICE and not isinstance(written, bool) and written in (-1, "-1")


def _read_tag(name: str, written: object) -> int:
    """Read one tag; PLC hands out numbers as text."""
    tag = _TAGS.get(name)
    if tag is None:
        raise ValueError(unknown_key(name, _TAGS))
    number = int(written) if isinstance(written, str) and re.fullmatch(r"-?[0-9]{1,18}", written) else written
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"is {shown(written)} and must be a whole number without a unit")  # noqa: TRY004 - one kind
    return tag.read(number)


def _over_tags(keys: _Keys, traffic: Traffic, tags: Mapping[str, int]) -> tuple[LaneSettings, list[Fault]]:
    """Return a traffic's plain settings, completed by its tags, without what then contradicts itself."""
    plain = keys.normal if traffic is Traffic.NORMAL else keys.exempt
    names = {_TAGS[name].setting: name for name in tags if _TAGS[name].traffic is traffic}
    names = {setting: name for setting, name in names.items() if getattr(plain, setting) is None}
    whole = {"off": plain.off or keys.off, "shadow": plain.shadow or keys.shadow}
    settings = plain.model_copy(update={**whole, **{setting: tags[name] for setting, name in names.items()}})
    settings_of = {field.alias or name: name for name, field in LaneSettings.model_fields.items()}
    faults: list[Fault] = []
    dropped: dict[str, None] = {}
    for fault in contradictions(settings) if names else []:
        setting = settings_of[str(fault.path[0])]
        path: KeyPath = ("tags", names[setting]) if setting in names else (traffic.value, *fault.path)
        faults.append(Fault(path, fault.text))
        dropped[setting] = None
    return settings.model_copy(update=dropped) if dropped else settings, faults
