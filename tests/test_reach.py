"""Whether traffic reaches its lane: packets that show it, and lanes in which they are found again."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.lanes import Lane, Traffic
from bwexporter.kernel.chains import CGROUPS
from bwexporter.kernel.claims import Claim, wanted
from bwexporter.kernel.probe import Probe
from bwexporter.kernel.rules import Key, Rules
from bwexporter.kernel.ways import ways
from bwexporter.reach import Finding, Verdict, Watched, findings
from tests.fake_kernel import FakeClass, FakeDevice, FakeKernel, FakeRoot

ROOT, DEFAULT = Claim("_root", 0x11000, 0x18000, uids=((0, 0),)), Claim("_default", 0x17FFF, 0x1EFFF)
EXEMPT = (ipaddress.ip_network("10.9.0.64/26"), ipaddress.ip_network("fd00::/8"))


def class_of(probe: Probe, rules: Rules) -> int:
    """Return where rules send a packet: an oracle of the chains, which looks at every key."""
    in_map = {"marks": probe.mark, **{place: probe.group for place in rules.maps if place.startswith(CGROUPS)}}
    if probe.source is not None:
        version = probe.source.version
        in_map[f"addresses{version}"] = int(probe.source)
        for length in range(probe.source.max_prefixlen, 0, -1):
            first = int(ipaddress.ip_network((probe.source, length), strict=False).network_address)
            in_map[f"prefixes{length}_{version}"] = first
        in_map[f"prefixes{version}"] = int(probe.source)
    in_map |= {"uids": probe.uid, "uid_ranges": probe.uid}
    found = next(
        (hit for place, value in in_map.items() if (hit := looked_up(rules.maps.get(place, {}), value))), 0x17FFF
    )
    exempt = probe.to is not None and looked_up(rules.maps[f"exempt{probe.to.version}"], int(probe.to)) is not None
    return rules.maps["exempts"].get(found, found) if exempt else found


def looked_up(elements: Mapping[Key, int], value: int | str | None) -> int | None:
    """Look a value up among single keys and intervals."""
    for key, handle in elements.items():
        if key == value or (isinstance(key, tuple) and isinstance(value, int) and key[0] <= value <= key[1]):
            return handle
    return None


def networks() -> st.SearchStrategy[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return prefixes of either version, nested often."""
    few4 = st.builds(lambda bits, size: ipaddress.ip_network((bits << 24, size), strict=False), byte(), bits_of(32))
    few6 = st.builds(lambda bits, size: ipaddress.ip_network((bits << 120, size), strict=False), byte(), bits_of(128))
    return st.one_of(few4, few6)


def byte() -> st.SearchStrategy[int]:
    """Return a number that is in few ranges."""
    return st.integers(0, 255)


def bits_of(most: int) -> st.SearchStrategy[int]:
    """Return the length of a prefix: of one that holds many, or of a single address."""
    return st.sampled_from([1, 4, 7, 8, most])


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), byte()),
            st.one_of(st.none(), st.sampled_from(["a", "a/b", "c"])),
            st.lists(networks(), max_size=3),
            st.lists(st.tuples(byte(), byte()).map(lambda pair: (min(pair), max(pair))), max_size=2),
        ),
        max_size=5,
    )
)
def test_each_way_leads_to_its_class_and_to_no_other(
    keys: list[tuple[int | None, str | None, list[ipaddress.IPv4Network], list[tuple[int, int]]]],
) -> None:
    """Whatever slices claim beside each other, nested prefixes and single addresses in them too."""
    claims = [
        Claim(f"s{at}", 0x11001 + at, 0x18001 + at, mark or None, group, tuple(some), tuple(uids))
        for at, (mark, group, some, uids) in enumerate(keys)
    ]
    rules = wanted([*claims, ROOT, DEFAULT], ["eth0"], EXEMPT)
    for handle, several in ways([*claims, ROOT, DEFAULT], rules).items():
        for way in several:
            source = way.probe.source
            if source is None or not any(source in net for net in EXEMPT if net.version == source.version):
                assert class_of(way.probe, rules) == handle, way


@dataclass
class Wire:
    """A device whose packets go where rules send them, or where a test says; and what slices send meanwhile."""

    rules: Rules
    astray: Callable[[Probe, int], int | None] = lambda _, handle: handle
    busy: Mapping[int, int] = field(default_factory=dict)
    sent: list[Probe] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kernel = FakeKernel("eth0")
        self.door = FakeDevice("eth0", self.kernel)
        self.kernel.links["eth0"].root = FakeRoot("htb", 0x10000, ours=True)
        for handle in (0x10001, *LANES):
            parent = 0x10000 if handle == 0x10001 else 0x10001
            assert not self.kernel.create_class("eth0", FakeClass(handle, parent, 10**9, 10**9))

    def send(self, probe: Probe) -> str:
        """Send a probe with an Ethernet header; others send too."""
        self.sent.append(probe)
        for handle, size in self.busy.items():
            self.kernel.offer("eth0", handle, size, packet_bytes=1)
        if probe.group == "frozen":
            return "the control group is frozen"
        handle = self.astray(probe, class_of(probe, self.rules))
        if handle is not None:
            self.kernel.offer("eth0", handle, probe.ip_bytes + 14, packet_bytes=1)
        return ""


CLAIMS = (
    *(Claim(f"s{at}", 0x11001 + at, 0x18001 + at, mark=1 + at, uids=((100 + at, 100 + at),)) for at in range(20)),
    Claim("cold", 0x11020, 0x18020, cgroup="frozen"),
    ROOT,
    DEFAULT,
)
LANES = {
    handle: Lane("eth0", one.slice_name, traffic)
    for one in CLAIMS
    for handle, traffic in ((one.normal, Traffic.NORMAL), (one.exempt, Traffic.EXEMPT))
    if handle is not None
}


NOWHERE = "was seen in no class: this node drops such packets, or the device does not send"


def found_of(wire: Wire, actual: Rules | None, *, probing: bool = True) -> dict[tuple[str, str], Finding]:
    """Return what is found, by slice and traffic."""
    watched = [Watched("eth0", LANES, wire.door.look, LANES)]
    found = findings(CLAIMS, watched, wire.rules, actual, wire.send if probing else None)
    return {(one.lane.slice_name, one.lane.traffic.value): one for one in found}


def missed(found: Mapping[tuple[str, str], Finding]) -> dict[tuple[str, str], Sequence[str]]:
    """Return the lanes that are not reached, and why."""
    return {name: one.reasons for name, one in found.items() if one.verdict is Verdict.MISSES}


@pytest.fixture
def rules() -> Rules:
    """Return the rules of the claims."""
    return wanted(CLAIMS, ["eth0"], EXEMPT)


@pytest.mark.parametrize("busy", [{}, {0x11001: 74, 0x11002: 94, 0x17FFF: 100_000, 0x18003: 1}])
def test_where_rules_are_right_every_lane_is_reached(rules: Rules, busy: dict[int, int]) -> None:
    """Also lanes that others send through meanwhile. A probe that cannot be sent proves nothing, and says so."""
    wire = Wire(rules, busy=busy)
    found = found_of(wire, rules)
    assert missed(found) == {}
    unproven = {name: one.reasons for name, one in found.items() if one.verdict is Verdict.UNPROVEN}
    assert unproven == dict.fromkeys([("cold", "normal"), ("cold", "exempt")], ("the control group is frozen",))
    assert max(probe.ip_bytes for probe in wire.sent) < 300


def test_a_packet_that_goes_elsewhere_is_found_there(rules: Rules) -> None:
    """Two lanes that have been swapped, one that gets another's packets, and one whose packets are dropped."""
    swapped = {0x11001: 0x11002, 0x11002: 0x11001, 0x11003: 0x17FFF, 0x11004: None}
    wire = Wire(rules, lambda probe, handle: swapped.get(handle, handle) if probe.mark else handle)
    found = missed(found_of(wire, rules))
    assert found == {
        ("s0", "normal"): ("a packet with the mark 0x1 landed in 1:1002 (s1, normal)",),
        ("s1", "normal"): ("a packet with the mark 0x2 landed in 1:1001 (s0, normal)",),
        ("s2", "normal"): ("a packet with the mark 0x3 landed in 1:7fff (_default, normal)",),
        ("s3", "normal"): (f"a packet with the mark 0x4 {NOWHERE}",),
    }


def test_what_the_rules_show_to_be_wrong_is_not_tried(rules: Rules) -> None:
    """Nor is anything without permission; a class that is missing on the device is told."""
    marks = {key: handle for key, handle in rules.maps["marks"].items() if key != 5}
    broken = Rules({**rules.maps, "marks": marks}, rules.frame)
    wire = Wire(rules)
    assert not wire.kernel.delete_class("eth0", 0x11006)
    found = found_of(wire, broken)
    assert missed(found) == {
        ("s4", "normal"): ("marks 0x5 is missing",),
        ("s4", "exempt"): ("marks 0x5 is missing",),
        ("s5", "normal"): ("eth0 has no class 1:1006",),
    }
    assert not any(probe.mark == 5 for probe in wire.sent)
    wire = Wire(rules)
    assert {one.verdict for one in found_of(wire, rules, probing=False).values()} == {Verdict.UNPROVEN}
    assert wire.sent == []


def test_without_a_tree_or_rules_nothing_is_reached(rules: Rules) -> None:
    """And it says which of them is missing."""
    wire = Wire(rules)
    assert missed(found_of(wire, None))["s0", "normal"] == (
        "there are no rules: the tables called bwexporter are missing",
    )
    wire.kernel.delete_root("eth0")
    assert missed(found_of(wire, rules))["s0", "normal"] == (
        "eth0 has no tree: `bwexporter run` or `bwexporter tree build` makes it",
    )
