"""The nodes of a fleet, as sources name them beside the slices.

Turns a host's name, or a mapping with its port and labels, into a FleetNode. Knows: what a target of Prometheus may be
called. Does not know: who is scraped how, where the list comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, StrictStr

from bwexporter import forms
from bwexporter.slices.records import LabelName
from bwexporter.units import shown
from bwexporter.written import Fault, Text, Written, as_form, check, read_whole

_HOST = re.compile(r"(?:[a-zA-Z0-9_]|[a-zA-Z0-9_][a-zA-Z0-9._-]{0,251}[a-zA-Z0-9_])|[0-9a-fA-F:]{2,39}")


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A node that runs bwexporter; without a port it listens where the node that tells of it does."""

    host: str
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def _host(written: str) -> str:
    if not _HOST.fullmatch(written):
        raise ValueError(f"{shown(written)} is not a host's name or address; a port goes into the key port")
    return written


_PORT = forms.whole(1, 65535, "Where the node listens; otherwise as the node that tells of it.")


class NodeKeys(Written):
    """The keys of a node."""

    name: Annotated[Text, AfterValidator(_host)]
    port: Annotated[int | None, PlainValidator(partial(read_whole, least=1, most=65535)), as_form(_PORT)] = None
    labels: dict[LabelName, StrictStr] = Field(default_factory=dict)


def read_node(data: object) -> tuple[FleetNode | None, list[Fault]]:
    """Check a node, a name or its keys; None where the name is bad. Paths of faults count from the node."""
    keys, faults = check(NodeKeys, {"name": data} if isinstance(data, str) else data)
    if isinstance(data, str):
        faults = [Fault((), fault.text) for fault in faults]
    if keys is None or any(fault.path[:1] in {(), ("name",)} for fault in faults):
        return None, faults
    return FleetNode(keys.name, keys.port, keys.labels), faults


def each_once(nodes: Iterable[FleetNode]) -> tuple[FleetNode, ...]:
    """Return the nodes of all sources, each once: of a host that is named again the later word holds."""
    return tuple({node.host: node for node in nodes}.values())
