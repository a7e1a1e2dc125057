"""Who is to be scraped: this node and its fleet, in the form that Prometheus discovers targets in.

Turns where this node listens, and the nodes that sources name, into target groups, the JSON of http_sd_configs and
file_sd_configs. Knows: their form, the labels that say how a target is scraped. Does not know: who asks, how sources
are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bwexporter.keys import Listen
from bwexporter.slices.fleet import FleetNode

USUAL_PORT = 10099
METRICS = "/metrics"

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Scraped:
    """How this node is scraped; the others of a fleet are taken to be alike."""

    node: str
    listen: Sequence[Listen]
    telemetry_path: str = METRICS
    tls: bool = False


def groups(here: Scraped, fleet: Sequence[FleetNode]) -> list[dict[str, Any]]:
    """Return the target groups: those with the same labels together, this node first unless the fleet names it.

    >>> groups(Scraped("node1", [Listen("", 9000)]), [FleetNode("node2"), FleetNode("2001:db8::1", 80)])
    [{'targets': ['node1:9000', 'node2:9000', '[2001:db8::1]:80'], 'labels': {}}]
    """
    ends = [listen for listen in here.listen if not listen.path]
    port = ends[0].port if ends else USUAL_PORT
    itself = [FleetNode(_reached_at(end, here.node), end.port) for end in ends[:1]]
    own = [] if any(node.host == here.node for node in fleet) else itself
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for node in (*own, *fleet):
        target = str(Listen(node.host, node.port or port))
        found.setdefault(tuple(sorted(node.labels.items())), []).append(target)
    return [{"targets": targets, "labels": {**dict(labels), **_how(here)}} for labels, targets in found.items()]


def _reached_at(listen: Listen, node: str) -> str:
    """Return the host that a node is reached at: its name where it listens on every address."""
    return node if listen.host in _EVERY_ADDRESS else listen.host


def _how(here: Scraped) -> Mapping[str, str]:
    """Return the labels by which Prometheus scrapes otherwise than usual."""
    path = {} if here.telemetry_path == METRICS else {"__metrics_path__": here.telemetry_path}
    return {**path, **({"__scheme__": "https"} if here.tls else {})}
