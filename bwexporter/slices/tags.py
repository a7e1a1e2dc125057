"""PlanetLab's tags of a slice.

Turns the tags of a record into settings of its lanes. Knows: the tags' names, their fixed units (kbit/s of 1000 bits,
KByte of 1024 bytes), the switch of the slice `_default`. Does not know: where tags come from, plain keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from bwexporter import forms
from bwexporter.core.lanes import DEFAULT_SLICE, Traffic
from bwexporter.settings import MOST_SHARES
from bwexporter.units import rate_of_kbit, shown, volume_of_kbyte
from bwexporter.written import Fault, read_whole, unknown_key

SWITCH = "net_max_rate"
"""The tag that, at -1, switches everything off, as the ancestor's `_default` slice could."""


class Tag(NamedTuple):
    """What a tag sets."""

    traffic: Traffic
    setting: str  # a field of LaneSettings
    read: Callable[[int], int]


TAGS: Mapping[str, Tag] = {
    f"net_{infix}{ending}": Tag(traffic, setting, read)
    for traffic, infix in ((Traffic.NORMAL, ""), (Traffic.EXEMPT, "i2_"))
    for ending, setting, read in (
        ("min_rate", "guarantee_bytes_per_second", rate_of_kbit),
        ("max_rate", "full", rate_of_kbit),
        ("max_kbyte", "allowance_bytes", volume_of_kbyte),
        ("thresh_kbyte", "threshold", volume_of_kbyte),
        ("share", "share", partial(read_whole, least=1, most=MOST_SHARES)),
    )
}

TAGS_FORM: forms.Form = forms.keys(
    "PlanetLab's tags: rates in kbit/s, volumes in KByte of 1024 bytes; numbers may be written as text.",
    {
        name: {"anyOf": [*forms.NUMBER["anyOf"], {"enum": [-1, "-1"]}]} if name == SWITCH else forms.NUMBER
        for name in TAGS
    },
)


def read_tags(slice_name: str, tags: Mapping[str, Any]) -> tuple[dict[str, int], list[Fault]]:
    """Return the values of the tags in our units, by the tags' names; a bad one costs nothing but itself."""
    values, faults = {}, []
    for name, written in tags.items():
        if name == SWITCH and switches_off(slice_name, written):
            continue
        try:
            values[name] = _read_tag(name, written)
        except ValueError as trouble:
            faults.append(Fault(("tags", name), str(trouble)))
    return values, faults


def switches_off(slice_name: str, written: object) -> bool:
    """Tell whether a `net_max_rate` switches everything off, which only that of `_default` can."""
    return slice_name == DEFAULT_SLICE and not isinstance(written, bool) and written in (-1, "-1")


def _read_tag(name: str, written: object) -> int:
    """Read one tag; PLC hands out numbers as text."""
    tag = TAGS.get(name)
    if tag is None:
        raise ValueError(unknown_key(name, TAGS))
    number = int(written) if isinstance(written, str) and re.fullmatch(r"-?[0-9]{1,18}", written) else written
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"is {shown(written)} and must be a whole number without a unit")  # noqa: TRY004 - one kind
    return tag.read(number)
