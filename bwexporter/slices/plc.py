"""Slices from a PlanetLab Central: PLCAPI, XML-RPC, the call `GetSlivers`.

Turns what PLC says of this node into records, the caps of its interfaces, exempt prefixes and the fleet. Knows: the
API's calls and fields, which slivers there are on a node, whose tag of a name holds. Does not know: tags' units, HTTP,
which device an interface is.

What is kept of an answer is what is needed here: no key, no account, no password of the site.
"""

from __future__ import annotations

import ipaddress
import json
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.parsers.expat import ExpatError

from bwexporter.core.lanes import DEFAULT_SLICE
from bwexporter.errors import ConfigError, Problem
from bwexporter.fetch import FetchError, fetch
from bwexporter.slices.fleet import FleetNode, read_node
from bwexporter.slices.plcauth import Auth, read_auth
from bwexporter.slices.records import SliceRecord, read_record
from bwexporter.slices.shelf import Kept
from bwexporter.slices.source import InterfaceCap, Reading
from bwexporter.slices.tags import TAGS
from bwexporter.sources import PlcAt
from bwexporter.units import print_rate, shown
from bwexporter.written import Network
from bwexporter.yamlfile import key_of

_LEAST_PLAUSIBLE_BITS = 500_000
"""Below this PLC itself refuses a node cap, except for 0."""

_MALFORMED = (ExpatError, xmlrpc.client.Error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What the decoder of the standard library raises for an answer that is no XML-RPC."""

_IN_SERVICE = "boot"
_KEPT_OF_SLIVER = ("name", "instantiation")
_KEPT_OF_TAG = ("tagname", "value", "node_id", "nodegroup_id")
_KEPT_OF_INTERFACE = ("mac", "ip", "bwlimit")
_LEVELS = (("node_id", "node"), ("nodegroup_id", "group"))

Data = Mapping[str, Any]


class PlcNode:
    """What a PlanetLab Central says of one node. `accounts` gives the users that there are on it."""

    def __init__(self, at: PlcAt, accounts: Callable[[], Mapping[str, int]]) -> None:
        self._at = at
        self._accounts = accounts

    def ask(self, _: Kept | None) -> Kept:
        """Ask for the slivers of the node, and for the addresses of its exempt group; FetchError."""
        auth = read_auth(self._at.auth_file)
        slivers = self._call("GetSlivers", auth, self._at.node)
        try:
            kept = _needed(slivers)
        except _Strange as strange:
            raise FetchError(f"{self._at.name} answers GetSlivers with what it does not promise: {strange}") from None
        if self._at.exempt_group in kept["groups"]:
            kept["exempt"] = self._addresses(auth)
        if self._at.fleet:
            kept["fleet"] = self._nodes(auth)
        return Kept(json.dumps(kept))

    def read(self, text: str) -> Reading:
        """Read what was kept of an answer; ConfigError."""
        try:
            return _Reader(self._at, self._accounts()).read(json.loads(text))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ConfigError([Problem(self._at.name, 0, "", "what was kept of its answer is damaged")]) from None

    def _addresses(self, auth: Auth) -> list[str]:
        """Ask for the addresses of all members of the exempt group."""
        try:
            found = _list(self._call("GetNodeGroups", auth, [self._at.exempt_group], ["node_ids"]), "node groups")
            node_ids = [number for one in found for number in _list(_mapping(one, "group").get("node_ids"), "node_ids")]
            interfaces = _list(self._call("GetInterfaces", auth, {"node_id": node_ids}, ["ip"]), "interfaces")
            return [str(ip) for one in interfaces if (ip := _mapping(one, "interface").get("ip"))]
        except _Strange as strange:
            raise FetchError(f"{self._at.name} answers with what it does not promise: {strange}") from None

    def _nodes(self, auth: Auth) -> list[str]:
        """Ask for the names of all nodes that are in service."""
        try:
            found = _list(self._call("GetNodes", auth, {}, ["hostname", "boot_state"]), "nodes")
            nodes = [_mapping(one, "node") for one in found]
        except _Strange as strange:
            raise FetchError(f"{self._at.name} answers GetNodes with what it does not promise: {strange}") from None
        return [str(one.get("hostname")) for one in nodes if one.get("boot_state", _IN_SERVICE) == _IN_SERVICE]

    def _call(self, method: str, auth: Auth, *arguments: object) -> object:
        polling = self._at.polling
        content = xmlrpc.client.dumps((dict(auth.struct), *arguments), method, allow_none=True).encode()  # type: ignore[arg-type]
        answer = fetch(
            polling.url,
            headers={"content-type": "text/xml"},
            content=content,
            ca_file=polling.ca_file,
            most_bytes=polling.largest_bytes,
            seconds=polling.timeout_seconds,
        )
        if b"<!DOCTYPE" in answer.body or b"<!ENTITY" in answer.body:
            raise FetchError(f"{self._at.name} answers {method} with entities of its own, which are not read")
        try:
            values, _ = xmlrpc.client.loads(answer.body)
            return values[0]
        except xmlrpc.client.Fault as fault:
            said = auth.hidden(str(fault.faultString))
            raise FetchError(f"{self._at.name} refuses {method}: {shown(said)} (fault {fault.faultCode})") from None
        except _MALFORMED:
            raise FetchError(f"{self._at.name} does not answer {method} in XML-RPC") from None


class _Strange(Exception):
    """PLC says something else than its documentation does."""


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Strange(f"{what} should be a list and is {shown(value)}")
    return value


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Strange(f"each {what} should be a struct and is {shown(value)}")
    return value


def _needed(answer: object) -> dict[str, Any]:
    """Return what is needed of GetSlivers' answer. Older APIs call the interfaces networks."""
    data = _mapping(answer, "node")
    if "slivers" not in data:
        raise _Strange("slivers are missing")
    interfaces = data.get("interfaces", data.get("networks")) or []
    return {
        "groups": [str(group) for group in _list(data.get("groups") or [], "groups")],
        "interfaces": [
            _plain(_mapping(one, "interface"), _KEPT_OF_INTERFACE) for one in _list(interfaces, "interfaces")
        ],
        "slivers": [_sliver(_mapping(one, "sliver")) for one in _list(data["slivers"], "slivers")],
        "exempt": [],
    }


def _sliver(sliver: Data) -> dict[str, Any]:
    attributes = [_mapping(one, "attribute") for one in _list(sliver.get("attributes") or [], "attributes")]
    return {
        **_plain(sliver, _KEPT_OF_SLIVER),
        "attributes": [
            _plain(one, _KEPT_OF_TAG) for one in attributes if str(one.get("tagname", "")).startswith("net_")
        ],
    }


def _plain(data: Data, keys: Sequence[str]) -> dict[str, Any]:
    """Return some keys, with what XML-RPC has beside JSON's types as text."""
    plain = {key: data[key] for key in keys if data.get(key) is not None}
    return {key: value if isinstance(value, str | int | float) else str(value) for key, value in plain.items()}


class _Reader:
    """Reads what was kept of one answer."""

    def __init__(self, at: PlcAt, accounts: Mapping[str, int]) -> None:
        self._at = at
        self._accounts = accounts
        self._problems: list[Problem] = []

    def read(self, data: Data) -> Reading:
        """Return what it says."""
        records, refused = self._records(data["slivers"])
        caps = tuple(self._caps(data["interfaces"]))
        exempt = tuple(self._exempt(data["exempt"]))
        fleet = tuple(self._fleet(data.get("fleet", [])))
        present = frozenset(record.name for record in records if record.name in self._accounts)
        return Reading(records, tuple(self._problems), refused, caps, exempt, present, fleet)

    def _problem(self, path: tuple[str | int, ...], text: str) -> None:
        self._problems.append(Problem(self._at.name, 0, key_of(path), text))

    def _records(self, slivers: Sequence[Data]) -> tuple[tuple[SliceRecord, ...], frozenset[str]]:
        records, refused = dict[str, SliceRecord](), set[str]()
        for at, sliver in enumerate(slivers):
            if not self._is_here(sliver):
                continue
            record = self._record(at, sliver)
            if record is None:
                refused.add(str(sliver.get("name", "")))
            elif record.name in records:
                self._problem(("slivers", at, "name"), f"{record.name} stands in the answer twice; the first holds")
            else:
                records[record.name] = record
        return tuple(records.values()), frozenset(refused)

    def _is_here(self, sliver: Data) -> bool:
        """Say whether a sliver is on this node.

        Those that PLC instantiates are, or will be at once. Those of another authority (delegated, of a controller) are
        when their account is. The default slice is a switch, wherever it is.
        """
        name, kind = sliver.get("name"), sliver.get("instantiation", "plc-instantiated")
        if kind == "plc-instantiated" or name == self._default:
            return True
        return kind != "not-instantiated" and name in self._accounts

    @property
    def _default(self) -> str:
        return f"{self._at.slice_prefix}_default"

    def _record(self, at: int, sliver: Data) -> SliceRecord | None:
        tags, levels = _holding(sliver["attributes"])
        if sliver.get("name") == self._default:
            data: dict[str, Any] = {"name": DEFAULT_SLICE, "tags": tags}
        else:
            data = {"name": sliver.get("name"), "match": {"user": sliver.get("name")}, "tags": tags}
        record, faults = read_record(data, source=self._at.name, line=0, levels=levels)
        for fault in faults:
            if fault.path[:1] != ("match",):  # a name that is no user's is no slice's, which is said of the name
                who = f"slice {sliver.get('name')}" if record else "this record is left out"
                self._problem(("slivers", at, *fault.path), f"{fault.text} ({who})")
        return record

    def _caps(self, interfaces: Sequence[Data]) -> Iterator[InterfaceCap]:
        for at, interface in enumerate(interfaces):
            bits = interface.get("bwlimit")
            if isinstance(bits, bool) or not isinstance(bits, int | None):
                self._problem(("interfaces", at, "bwlimit"), f"is {shown(bits)} and must be a number of bit/s")
                bits = None
            elif bits is not None and bits <= 0:
                text = f"is {bits}: a node without bandwidth cannot be meant; the interface has no cap by PLC"
                self._problem(("interfaces", at, "bwlimit"), text)
                bits = None
            elif bits is not None and bits < _LEAST_PLAUSIBLE_BITS:
                text = f"{print_rate(bits // 8 or 1)} is suspiciously little, and holds; was it meant in kbit/s?"
                self._problem(("interfaces", at, "bwlimit"), text)
            cap = None if bits is None else max(bits // 8, 1)
            yield InterfaceCap(str(interface.get("mac", "")).lower(), str(interface.get("ip", "")), cap)

    def _exempt(self, addresses: Sequence[str]) -> Iterator[Network]:
        for at, address in enumerate(dict.fromkeys(addresses)):
            try:
                yield ipaddress.ip_network(address)
            except ValueError:
                self._problem(("exempt", at), f"{shown(address)} is not an address; it is left out")

    def _fleet(self, names: Sequence[str]) -> Iterator[FleetNode]:
        for at, name in enumerate(dict.fromkeys(names)):
            node, faults = read_node(name)
            for fault in faults:
                self._problem(("nodes", at), f"{fault.text} (this node is left out)")
            if node:
                yield node


def _holding(attributes: Sequence[Data]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of each tag that holds, and at which level it was given where the API says it.

    That of the node holds before that of a group of nodes, and that before the slice's. The API gives them in this
    order, and some versions give a tag of the slice also where a group has it: among equals the first holds.
    """
    tags, levels, ranks = dict[str, Any](), dict[str, str](), dict[str, int]()
    for attribute in attributes:
        name = str(attribute.get("tagname"))
        rank = next((at for at, (key, _) in enumerate(_LEVELS) if attribute.get(key) is not None), len(_LEVELS))
        if rank < ranks.get(name, len(_LEVELS) + 1):
            ranks[name] = rank
            tags[name] = attribute.get("value")
            if rank < len(_LEVELS):
                levels[name] = _LEVELS[rank][1]
    return {name: value for name, value in tags.items() if name in TAGS or _looks_like_ours(name)}, levels


def _looks_like_ours(name: str) -> bool:
    """Say whether a tag that is none of ours is near one, and so may be a mistake."""
    return any(name.startswith(known) or known.startswith(name) for known in TAGS)
