"""The keys of `apmon:`: what is pushed to MonALISA, and under which names.

Turns what people write there into checked settings. Knows: the keys, the placeholders of names, which names would mix
figures up. Does not know: destinations, which a file of their own names, datagrams, when a push is due.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, StrictStr, model_validator

from bwexporter import forms
from bwexporter.fetch import shown_url
from bwexporter.units import parse_duration, print_duration, shown
from bwexporter.written import Fault, Flag, Misfit, Text, Written, as_form, read_positive, read_text

PLACEHOLDERS = ("node", "device", "slice", "traffic", "figure")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_SHORTEST_SECONDS = 1.0


def _template(written: str) -> str:
    """Check a name with placeholders."""
    read_text(written)
    words = _PLACEHOLDER.findall(written)
    if any(word not in PLACEHOLDERS for word in words) or re.search(r"[{}]", _PLACEHOLDER.sub("", written)):
        known = ", ".join(f"{{{word}}}" for word in PLACEHOLDERS)
        raise ValueError(f"{shown(written)} holds a placeholder that there is not; there are {known}")
    return written


def _every(written: object) -> float:
    seconds = read_positive(parse_duration)(written)
    if seconds < _SHORTEST_SECONDS:
        raise ValueError(f"is {print_duration(seconds)} and must be at least {print_duration(_SHORTEST_SECONDS)}")
    return seconds


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{shown(path)} must be an absolute path, such as /run/alice.pid")
    return path


def _some(sources: tuple[str, ...]) -> tuple[str, ...]:
    if not sources:
        raise ValueError("is empty; name a file or a URL that says where to send to")
    return sources


Template = Annotated[StrictStr, AfterValidator(_template)]


class ApmonKeys(Written):
    """What is written of the push; `sources` are as written until the configuration's folder is put before them."""

    sources: Annotated[tuple[Text, ...], AfterValidator(_some)]
    cluster: Template = "{node}"
    row: Template = Field(default="{slice}", alias="node")
    parameter: Template | None = None
    every_seconds: Annotated[float, PlainValidator(_every), as_form(forms.DURATION)] = Field(
        default=60.0, alias="every"
    )
    host: Flag = True
    host_cluster: Text = "ApMon_SysMon"
    jobs: Flag = True
    pid_files: Mapping[Text, Annotated[Text, AfterValidator(_absolute)]] = Field(default_factory=dict)
    lenient: Flag = False
    allow_http: Flag = False

    @model_validator(mode="after")
    def _agree(self) -> ApmonKeys:
        faults = []
        if self.parameter is not None:
            everywhere = f"{self.cluster}{self.row}{self.parameter}"
            lacking = [word for word in ("slice", "traffic", "figure") if f"{{{word}}}" not in everywhere]
            if lacking:
                text = f"{{{lacking[0]}}} stands in none of cluster, node and parameter, so figures would be mixed up"
                faults.append(Fault(("parameter",), text))
        for key, name in (("cluster", self.cluster), ("node", self.row)):
            if "{figure}" in name:
                faults.append(Fault((key,), "{figure} can stand in parameter alone"))
        faults += [
            Fault(("sources",), f"{shown_url(source)} has no TLS; write https, or allow_http: true")
            for source in self.sources
            if source.lower().startswith("http://") and not self.allow_http
        ]
        if faults:
            raise Misfit(faults)
        return self

    def parameter_of(self, devices: int) -> str:
        """Return the parameters' name: as written, or all that cluster and node do not tell apart."""
        if self.parameter is not None:
            return self.parameter
        needed = (*(("device",) if devices > 1 else ()), "slice", "traffic", "figure")
        return "_".join(f"{{{word}}}" for word in needed if f"{{{word}}}" not in f"{self.cluster}{self.row}")
