"""The slice record: what a source says of one slice, checked.

Turns plain data of one slice, plain keys and PlanetLab tags alike, into a frozen SliceRecord and a list of faults.
Knows: the keys of a record, that a plain key beats a tag, which settings contradict each other. Does not know: files,
devices that exist, defaults, other slices.

A bad value costs its key alone, whose default then holds. A bad name or id costs the slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, StrictStr

from bwexporter import forms
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, Traffic
from bwexporter.settings import LaneSettings, contradictions
from bwexporter.slices.loans import Loan, read_loan
from bwexporter.slices.tags import SWITCH, TAGS, TAGS_FORM, read_tags, switches_off
from bwexporter.units import shown
from bwexporter.written import (
    DeviceName,
    Fault,
    Flag,
    Prefix,
    Text,
    Written,
    as_form,
    check,
    read_whole,
)
from bwexporter.yamlfile import KeyPath

SMALLEST_ID = 1
LARGEST_ID = 0x6FFE
RESERVED_NAMES = frozenset({ROOT_SLICE, DEFAULT_SLICE})

_LARGEST_USER = 2**32 - 2
_LABELS_OF_OURS = frozenset({"slice", "id", "owner_email", "source", "device", "traffic"})
_NOT_FOR_RESERVED = ("id", "match", "devices", "loans")


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


def _class(written: object) -> int:
    """Read the id of a class as tc writes it, `major:minor` in hexadecimal, into its handle."""
    match = re.fullmatch(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})", written) if isinstance(written, str) else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        raise ValueError(f'{shown(written)} is not the id of a class; write it as tc does and in quotes: "1:10"')
    return int(match[1], 16) << 16 | int(match[2], 16)


_CLASS = forms.text(r"[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}", "A class of somebody else's tree, as tc writes it.", "1:10")
_USERS = forms.either(
    "A user id, or a range of them.",
    forms.whole(0, _LARGEST_USER, "A user id."),
    forms.text(r"[0-9]{1,10}\s*-\s*[0-9]{1,10}", "A range.", "100000-165535"),
)
_OWNER = forms.text(r'[^\s@<>,;"]+@[^\s@<>,;"]+', "An e-mail address.", "pi@example.edu")
_LABEL = {
    "type": "string",
    "allOf": [{"pattern": r"^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$"}],
    "not": {"enum": sorted(_LABELS_OF_OURS)},
}
_MARK = forms.whole(1, 2**32 - 1, "A firewall mark.")
_ID = forms.whole(SMALLEST_ID, LARGEST_ID, "The number that the slice's classes are named after.")

LabelName = Annotated[str, PlainValidator(_label_name), as_form(_LABEL)]
MaybeClass = Annotated[int | None, PlainValidator(_class), as_form(_CLASS)]


class Match(Written):
    """What tells a slice's traffic from others'; whatever is given, any of it matches."""

    user: Text | None = None
    uid: Annotated[tuple[int, int] | None, PlainValidator(_users), as_form(_USERS)] = None  # first and last
    cgroup: Text | None = None
    addresses: tuple[Prefix, ...] = ()
    mark: Annotated[int | None, PlainValidator(partial(read_whole, least=1, most=2**32 - 1)), as_form(_MARK)] = None


def _as_it_is(written: object) -> object:
    return written


class _Keys(Written):
    """The keys of a record."""

    name: Annotated[Text, AfterValidator(_name)]
    id: Annotated[int | None, PlainValidator(partial(read_whole, least=SMALLEST_ID, most=LARGEST_ID)), as_form(_ID)] = (
        None
    )
    owners: tuple[Annotated[Text, AfterValidator(_owner), as_form(_OWNER)], ...] = ()
    labels: dict[LabelName, StrictStr] = Field(default_factory=dict)
    devices: tuple[DeviceName, ...] = ()
    match: Match = Match()
    normal: LaneSettings = LaneSettings()
    exempt: LaneSettings = LaneSettings()
    off: Flag = False
    shadow: Flag = False
    tags: Annotated[dict[str, Any], as_form(TAGS_FORM)] = Field(default_factory=dict)
    class_: MaybeClass = Field(default=None, alias="class")
    exempt_class: MaybeClass = None
    override: Flag = False
    loans: tuple[Annotated[Any, PlainValidator(_as_it_is, json_schema_input_type=Loan)], ...] = ()


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
    loans: tuple[Loan, ...]
    source: str
    line: int  # 0 where the source has no lines
    override: bool  # patches an earlier record of the name with the keys that it gives
    origins: Mapping[str, str]  # where each given key was given, as "normal.full": "slices.yml:3 (tag net_max_rate)"
    class_handle: int | None = None  # of its class in a tree that somebody else has built, as is the next
    exempt_class_handle: int | None = None

    @property
    def place(self) -> str:
        """Return where the record stands."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def settings(self, traffic: Traffic) -> LaneSettings:
        """Return what the record says of one traffic."""
        return self.normal if traffic is Traffic.NORMAL else self.exempt


def read_record(
    data: object, *, source: str, line: int, levels: Mapping[str, str] | None = None
) -> tuple[SliceRecord | None, list[Fault]]:
    """Check the plain data of one slice; None where its name or id is bad. Paths of faults count from the record.

    `levels` says of tags at which level they were given, as "node", where the source knows levels.
    """
    keys, faults = check(_Keys, data)
    if keys is None or any(fault.path[:1] in {("name",), ("id",)} for fault in faults):
        return None, faults
    if keys.name in RESERVED_NAMES:
        misplaced = [key for key in _NOT_FOR_RESERVED if key in keys.model_fields_set]
        text = f"{keys.name} is on every device; only its settings can be given"
        faults += [Fault((key,), text) for key in misplaced]
        keys = keys.model_copy(update={key: _Keys.model_fields[key].default for key in misplaced})
    tags, tag_faults = read_tags(keys.name, keys.tags)
    loans, loan_faults = _to_others(keys)
    switched_off = switches_off(keys.name, keys.tags.get(SWITCH))
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
        loans=loans,
        source=source,
        line=line,
        override=keys.override,
        origins={},
        class_handle=keys.class_,
        exempt_class_handle=keys.exempt_class,
    )
    given = _origins(keys, record, tags, levels or {}, switched_off=switched_off)
    return replace(record, origins=dict(given)), [*faults, *tag_faults, *loan_faults, *normal_faults, *exempt_faults]


def _to_others(keys: _Keys) -> tuple[tuple[Loan, ...], list[Fault]]:
    """Return the loans to other slices; one that is wrong costs itself."""
    read = [read_loan(written, keys.name) for written in keys.loans]
    faults = [
        Fault(("loans", at, *fault.path), fault.text) for at, (_, of_loan) in enumerate(read) for fault in of_loan
    ]
    return tuple(loan for loan, _ in read if loan), faults


SETTINGS: Mapping[str, str] = {field.alias or name: name for name, field in LaneSettings.model_fields.items()}
"""The settings of a lane, by the keys that people write."""

_WHOLE = ("off", "shadow")
"""Settings that a record can give for both kinds of traffic at once."""


def _over_tags(keys: _Keys, traffic: Traffic, tags: Mapping[str, int]) -> tuple[LaneSettings, list[Fault]]:
    """Return a traffic's plain settings, completed by its tags, without what then contradicts itself."""
    plain = keys.normal if traffic is Traffic.NORMAL else keys.exempt
    names = {TAGS[name].setting: name for name in tags if TAGS[name].traffic is traffic}
    names = {setting: name for setting, name in names.items() if getattr(plain, setting) is None}
    completed: dict[str, object] = {"off": plain.off or keys.off, "shadow": plain.shadow or keys.shadow}
    completed |= {setting: tags[name] for setting, name in names.items()}
    more = {setting: value for setting, value in completed.items() if getattr(plain, setting) != value}
    settings = plain.model_copy(update=more) if more else plain  # mostly the one that all records share
    faults: list[Fault] = []
    dropped: dict[str, None] = {}
    for fault in contradictions(settings) if names else []:
        setting = SETTINGS[str(fault.path[0])]
        path: KeyPath = ("tags", names[setting]) if setting in names else (traffic.value, *fault.path)
        faults.append(Fault(path, fault.text))
        dropped[setting] = None
    return settings.model_copy(update=dropped) if dropped else settings, faults


def _origins(
    keys: _Keys, record: SliceRecord, tags: Mapping[str, int], levels: Mapping[str, str], *, switched_off: bool
) -> Iterator[tuple[str, str]]:
    """Yield each key that holds, with where it was given."""
    here = record.place
    for key in ("id", "owners", "devices", "class_", "exempt_class", "loans"):
        if key in keys.model_fields_set:
            yield key.rstrip("_"), here
    yield from ((f"match.{key}", here) for key in keys.match.model_fields_set)
    yield from ((f"labels.{key}", here) for key in keys.labels)
    if switched_off or "off" in keys.model_fields_set:
        yield "everything_off", here
    for traffic, plain in ((Traffic.NORMAL, keys.normal), (Traffic.EXEMPT, keys.exempt)):
        of_tags = {TAGS[name].setting: name for name in tags if TAGS[name].traffic is traffic}
        given = plain.model_fields_set | (keys.model_fields_set & set(_WHOLE))
        for key, setting in SETTINGS.items():
            if getattr(record.settings(traffic), setting) is None:
                continue
            if setting in given:
                yield f"{traffic.value}.{key}", here
            elif setting in of_tags:
                name = of_tags[setting]
                level = f" of the {levels[name]}" if name in levels else ""
                yield f"{traffic.value}.{key}", f"{here} (tag {name}{level})"
