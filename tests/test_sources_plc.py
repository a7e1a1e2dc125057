"""Slices from a PlanetLab Central: a real XML-RPC server on loopback, with data of the documented shape, and faults."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.lanes import DEFAULT_SLICE
from bwexporter.slices.plc import PlcNode, _holding
from bwexporter.slices.polled import PolledSource
from bwexporter.slices.shelf import Shelf
from bwexporter.slices.source import InterfaceCap
from bwexporter.sources import PlcAt, Polling
from tests.servers import Asked, Certificates, Plc, Says, Server, sliver
from tests.waiting import PATIENCE_SECONDS, wait_until

PASSWORD = "s3cr3t"  # noqa: S105 - of this test
AUTH = f"AuthMethod: password\nUsername: noc@example.org\nAuthString: {PASSWORD}\n"
CODEEN = sliver("princeton_codeen", ("net_max_rate", "5000"), ("net_i2_max_kbyte", 1000))


@pytest.fixture
def plc() -> Plc:
    """Return a PLC with one slice."""
    return Plc(slivers=[CODEEN])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return an authority and certificates of it."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(plc: Plc, certificates: Certificates) -> Iterator[Server]:
    """Serve the API over TLS."""
    with Server(plc.answer).running(certificates.here) as running:
        yield running


Make = Callable[..., PolledSource]


@pytest.fixture
def accounts() -> dict[str, int]:
    """Return the users of the node; a test may add some."""
    return {"root": 0, "princeton_codeen": 1001}


@pytest.fixture
def make(tmp_path: Path, server: Server, certificates: Certificates, accounts: dict[str, int]) -> Make:
    """Return what makes a source of the server."""
    (tmp_path / "auth.yml").write_text(AUTH)

    def made(**keys: Any) -> PolledSource:
        url = keys.pop("url", f"{server.url}/PLCAPI/")
        polling = Polling(url, 600, keys.pop("timeout", PATIENCE_SECONDS), 1 << 20, certificates.ca_file, guard=True)
        usual = {"auth_file": tmp_path / "auth.yml", "node": "node1.example.org", "exempt_group": "Internet2"}
        at = PlcAt(polling, **{**usual, "slice_prefix": "pl", **keys})
        asking = PlcNode(at, lambda: accounts)
        shelf = Shelf(tmp_path / "state.db", "plc", url)
        return PolledSource(at.name, polling, asking.ask, asking.read, shelf, lambda: 0.0)

    return made


def problems(source: PolledSource) -> list[str]:
    """Return what is wrong, without the name of the source."""
    return [f"{problem.key}: {problem.text}" for problem in source.read().problems]


def test_slivers_are_slices(make: Make, plc: Plc, server: Server) -> None:
    """A slice has its tags, in their fixed units, and is told by its account."""
    source = make()
    assert source.poll()
    result = source.read()
    (record,) = result.records
    assert (result.up, result.problems) == (True, ())
    assert (record.name, record.source, record.match.user) == (
        "princeton_codeen",
        f"{server.url}/PLCAPI/",
        "princeton_codeen",
    )
    assert record.normal.full == 625_000
    assert record.exempt.allowance_bytes == 1_024_000
    assert record.normal.threshold is None, "it follows the slice's own allowance (B8)"
    assert plc.calls[0] == (
        "GetSlivers",
        ({"AuthMethod": "password", "Username": "noc@example.org", "AuthString": PASSWORD}, "node1.example.org"),
    )


def test_anonymous_works(make: Make, plc: Plc) -> None:
    """Without an auth file, and with one that says so."""
    make(auth_file=None).poll()
    assert plc.calls[-1][1][0] == {"AuthMethod": "anonymous"}


def test_nothing_of_the_answer_is_kept_but_what_is_needed(make: Make, plc: Plc, tmp_path: Path) -> None:
    """No key of a user, no password of the site, none of ours."""
    plc.data["slivers"] = [{**CODEEN, "keys": [{"key": "ssh-rsa BBBB"}]}]
    make().poll()
    (kept,) = (path.read_text() for path in tmp_path.glob("state.db*"))
    assert "princeton_codeen" in kept
    assert not any(secret in kept for secret in ("ssh-rsa", "of the site", PASSWORD, "AuthMethod"))


def test_a_tag_of_the_node_beats_that_of_a_group_and_that_of_the_slice(make: Make, plc: Plc) -> None:
    """In whatever order they come, and each says where it came from."""
    of_slice = {"tagname": "net_max_rate", "value": "1", "node_id": None, "nodegroup_id": None}
    of_group = {**of_slice, "value": "2", "nodegroup_id": 5}
    of_node = {**of_slice, "value": "3", "node_id": 7}
    share = {"tagname": "net_share", "value": "4", "nodegroup_id": 5}
    plc.data["slivers"] = [
        sliver("a", of_slice, of_group, of_node, share),
        sliver("b", of_group, of_slice),
        sliver("c", of_slice),
    ]
    source = make()
    source.poll()
    records = source.read().records
    assert [record.normal.full for record in records] == [375, 250, 125]
    assert records[0].origins["normal.full"].endswith("/PLCAPI/ (tag net_max_rate of the node)")
    assert records[0].origins["normal.share"].endswith("(tag net_share of the group)")
    assert records[2].origins["normal.full"].endswith("(tag net_max_rate)")


@given(st.permutations([("node_id", "3"), ("nodegroup_id", "2"), (None, "1")]), st.integers(1, 3))
def test_precedence_is_that_of_levels_not_of_order(given_in: list[tuple[str | None, str]], count: int) -> None:
    """Whatever the order: node, then group, then slice."""
    attributes = [
        {"tagname": "net_share", "value": value, **({level: 1} if level else {})} for level, value in given_in[:count]
    ]
    tags, _ = _holding(attributes)
    assert tags["net_share"] == max(value for _, value in given_in[:count])


def test_of_tags_without_a_level_the_first_holds(make: Make, plc: Plc) -> None:
    """The API gives the nearer one first, and some versions the farther one as well."""
    plc.data["slivers"] = [sliver("a", ("net_max_rate", "2"), ("net_max_rate", "1"))]
    source = make()
    source.poll()
    assert source.read().records[0].normal.full == 250


def test_other_tags_are_none_of_our_business(make: Make, plc: Plc) -> None:
    """Those that are near one of ours are."""
    plc.data["slivers"] = [sliver("a", ("vref", "f21"), ("net_fancy", "1"), ("drl", "1"), ("net_max_kbytes", "5"))]
    source = make()
    source.poll()
    (problem,) = problems(source)
    assert problem.startswith('slivers[0].tags.net_max_kbytes: "net_max_kbytes" is not a key here; did you mean')


def test_b32_b41_a_bad_tag_costs_itself(make: Make, plc: Plc) -> None:
    """One slice's tag disables nothing else (B32, B41)."""
    plc.data["slivers"] = [
        sliver("a", ("net_i2_share", "many"), ("net_share", "3"), ("net_max_kbyte", "0")),
        sliver("b", ("net_i2_share", "2")),
    ]
    source = make()
    source.poll()
    first, second = source.read().records
    assert (first.exempt.share, first.normal.share, second.exempt.share) == (None, 3, 2)
    assert problems(source) == [
        'slivers[0].tags.net_i2_share: is "many" and must be a whole number without a unit (slice a)',
        "slivers[0].tags.net_max_kbyte: 0 is not a volume in KByte; the smallest is 1 (slice a)",
    ]


def test_b37_several_slices_that_are_not_there_yet(make: Make, plc: Plc, accounts: dict[str, int]) -> None:
    """Each waits under its own name (B37); delegated ones until their account is there."""
    plc.data["slivers"] = [
        sliver("a"),
        sliver("b"),
        sliver("c", instantiation="delegated"),
        sliver("d", instantiation="nm-controller"),
        sliver("e", instantiation="not-instantiated"),
    ]
    source = make()
    source.poll()
    assert [record.name for record in source.read().records] == ["a", "b"]
    accounts |= {"c": 2000, "e": 2001}
    assert source.poll(), "an account was made, and PLC says the same as before"
    assert [record.name for record in source.read().records] == ["a", "b", "c"]
    accounts["a"] = 2002
    assert source.poll(), "the packets of a can be told from now on"
    assert not source.poll()


class TestDefaultSlice:
    """`pl_default` is a switch for the node."""

    @pytest.mark.parametrize("value", ["-1", -1])
    def test_it_switches_everything_off(self, make: Make, plc: Plc, value: object) -> None:
        """As a number or as text, whether it is on the node or not."""
        plc.data["slivers"] = [sliver("pl_default", ("net_max_rate", value), instantiation="not-instantiated"), CODEEN]
        source = make()
        source.poll()
        first, second = source.read().records
        assert (first.name, first.everything_off, second.everything_off) == (DEFAULT_SLICE, True, False)
        assert problems(source) == []

    def test_it_is_the_ones_default_of_its_prefix(self, make: Make, plc: Plc) -> None:
        """Another site's prefix, another name."""
        plc.data["slivers"] = [sliver("pl_default", ("net_max_rate", "-1")), sliver("eu_default", ("net_share", "2"))]
        source = make(slice_prefix="eu")
        source.poll()
        assert [(record.name, record.everything_off) for record in source.read().records] == [
            ("pl_default", False),
            (DEFAULT_SLICE, False),
        ]
        assert "net_max_rate" in problems(source)[0]


class TestNodeCap:
    """The interfaces' bwlimit."""

    def test_b39_bits_become_bytes_and_capitals_do_not_matter(self, make: Make, plc: Plc) -> None:
        """A MAC address is the same in capitals (B39); no limit is no limit."""
        plc.data["interfaces"] = [
            {"mac": "00:16:3E:AA:BB:CC", "ip": "192.0.2.1", "bwlimit": 10_000_000, "is_primary": True},
            {"mac": "00:16:3e:aa:bb:dd", "ip": "192.0.2.2", "bwlimit": None},
        ]
        source = make()
        source.poll()
        assert source.read().reading.caps == (
            InterfaceCap("00:16:3e:aa:bb:cc", "192.0.2.1", 1_250_000),
            InterfaceCap("00:16:3e:aa:bb:dd", "192.0.2.2", None),
        )

    def test_b38_old_apis_call_them_networks(self, make: Make, plc: Plc) -> None:
        """And change no default of anybody (B38)."""
        plc.data["networks"] = [{"mac": "a", "ip": "b", "bwlimit": 8_000_000}]
        del plc.data["interfaces"]
        source = make()
        source.poll()
        (cap,) = source.read().reading.caps
        assert cap.cap_bytes_per_second == 1_000_000
        assert source.read().records[0].exempt.full is None

    @pytest.mark.parametrize(
        ("bits", "cap", "text"),
        [
            (0, None, "a node without bandwidth cannot be meant"),
            (-1, None, "a node without bandwidth cannot be meant"),
            (10_000, 1250, "10kbit is suspiciously little, and holds"),
            ("10mbit", None, 'is "10mbit" and must be a number of bit/s'),
            (True, None, "must be a number of bit/s"),
        ],
    )
    def test_strange_ones_are_said(self, make: Make, plc: Plc, bits: object, cap: int | None, text: str) -> None:
        """0 makes no node of 1 kbit/s (B21)."""
        plc.data["interfaces"] = [{"mac": "00:16:3e:aa:bb:cc", "ip": "192.0.2.1", "bwlimit": bits}]
        source = make()
        source.poll()
        assert [one.cap_bytes_per_second for one in source.read().reading.caps] == [cap]
        (problem,) = problems(source)
        assert problem.startswith("interfaces[0].bwlimit: ")
        assert text in problem


class TestExemptGroup:
    """Traffic to members of a group of nodes."""

    def test_members_join_and_leave(self, make: Make, plc: Plc) -> None:
        """Their addresses are asked for anew each time."""
        plc.data["groups"] = ["Internet2", "Alpha"]
        source = make()
        for members in (["192.0.2.1", "2001:db8::1", "192.0.2.1"], ["192.0.2.2"]):
            plc.members = {"Internet2": members}
            assert source.poll()
            assert list(source.read().reading.exempt) == [ip_network(one) for one in dict.fromkeys(members)]
        plc.data["groups"] = ["Alpha"]
        assert source.poll()
        assert source.read().reading.exempt == ()

    def test_a_node_outside_asks_for_nobody(self, make: Make, plc: Plc) -> None:
        """One call suffices."""
        make().poll()
        assert [method for method, _ in plc.calls] == ["GetSlivers"]

    def test_half_an_answer_is_none(self, make: Make, plc: Plc, server: Server) -> None:
        """Where the members are not told, the slices of that answer are not taken over either."""
        source = make()
        source.poll()
        plc.data |= {"groups": ["Internet2"], "slivers": []}

        def answer(asked: Asked) -> Says:
            return Says(b"", 500) if b"GetInterfaces" in asked.body else plc.answer(asked)

        plc.members = {"Internet2": ["192.0.2.1"]}
        server.answer = answer
        source.poll()
        assert [record.name for record in source.read().records] == ["princeton_codeen"]
        assert "answers 500" in problems(source)[0]


def response(value: object) -> Says:
    """Return an XML-RPC response."""
    return Says(xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True).encode())


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<methodResponse><params><param><value><string>&c;</string></value></param></params></methodResponse>"""


@pytest.mark.parametrize(
    ("says", "text"),
    [
        pytest.param(response({}), "slivers are missing", id="an empty struct"),
        pytest.param(response([]), "each node should be a struct and is a list", id="a list"),
        pytest.param(response({"slivers": "none"}), 'slivers should be a list and is "none"', id="no slivers"),
        pytest.param(response({"slivers": ["a"]}), 'each sliver should be a struct and is "a"', id="names"),
        pytest.param(
            response({"slivers": [{"name": "a", "attributes": ["x"]}]}), "each attribute should be", id="tags"
        ),
        pytest.param(response({"slivers": [], "interfaces": 5}), "interfaces should be a list", id="interfaces"),
        pytest.param(response({"slivers": [], "groups": {}}), None, id="no groups at all"),
        pytest.param(response({"slivers": []}).half, "peer closed connection", id="half a reply"),
        pytest.param(Says(response({"slivers": []}).body[:90]), "does not answer GetSlivers in XML-RPC", id="torn XML"),
        pytest.param(Says(b"<html><body>busy</body></html>"), "in XML-RPC", id="a page"),
        pytest.param(Says(b""), "in XML-RPC", id="nothing"),
        pytest.param(
            Says(b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>"),
            "in XML-RPC",
            id="no number",
        ),
        pytest.param(Says(b"<methodResponse><params></params></methodResponse>"), "in XML-RPC", id="no value"),
        pytest.param(Says(BOMB), "entities of its own", id="entities"),
        pytest.param(Says(b" " * ((1 << 20) + 1)), "larger than 1048576 bytes", id="large"),
        pytest.param(Says(b"", 503), "answers 503", id="in trouble"),
        pytest.param(Says(b"", 302, {"location": "/"}), "redirects what is sent", id="redirected"),
        pytest.param(Says(b"x" * 20, trickle_seconds=0.3), "did not answer within 1 s", id="slow"),
    ],
)
def test_no_trouble_of_plc_removes_anybody(make: Make, server: Server, says: Says, text: str | None) -> None:
    """The running set stays, and what is wrong is said in one sentence."""
    source = make(timeout=1 if says.trickle_seconds else PATIENCE_SECONDS)
    wait_until(lambda: source.poll() and source.read().up)
    server.answer = lambda _: says
    source.poll()
    if text is None:
        assert source.read().up
        return
    assert [record.name for record in source.read().records] == ["princeton_codeen"]
    (problem,) = problems(source)
    assert text in problem
    assert not source.read().up


def test_most_slivers_go_only_when_two_answers_agree(make: Make, plc: Plc) -> None:
    """What is short by accident removes nobody; what is said again is meant."""
    source = make()
    for count, known in ((12, 12), (2, 12), (2, 2)):
        plc.data["slivers"] = [sliver(f"s{number}") for number in range(count)]
        source.poll()
        assert len(source.read().records) == known
        assert source.read().up is (count == known)


def test_a_fault_is_shown_without_secrets(make: Make, plc: Plc) -> None:
    """Even where PLC repeats them."""
    source = make()
    source.poll()
    plc.fault = xmlrpc.client.Fault(103, f"Failed to authenticate: noc@example.org with {PASSWORD}")
    source.poll()
    (problem,) = problems(source)
    assert problem.endswith('refuses GetSlivers: "Failed to authenticate: *** with ***" (fault 103)')
    assert [record.name for record in source.read().records] == ["princeton_codeen"]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (None, "cannot be read: No such file"),
        (f"AuthString: {PASSWORD}\n", "needs the key AuthMethod"),
        (f"- {PASSWORD}\n", "needs the key AuthMethod"),
        (f"AuthMethod: password\nAuthString: *{PASSWORD}\n", "line 2 of it is not YAML"),
        (f"AuthMethod: password\nAuthString: [{PASSWORD}]\n", "must be text or a whole number"),
        (f'AuthMethod: password\nAuthString: "{PASSWORD}\n', "of it is not YAML"),
    ],
)
def test_a_bad_auth_file_shows_no_secret(make: Make, plc: Plc, tmp_path: Path, written: str | None, text: str) -> None:
    """What is wrong is said of the file, and PLC is not asked."""
    path = tmp_path / "other.yml"
    if written is not None:
        path.write_text(written)
    source = make(auth_file=path)
    source.poll()
    (problem,) = problems(source)
    assert f"the file {path} cannot be used: " in problem
    assert text in problem
    assert PASSWORD not in problem
    assert plc.calls == []


def test_a_sliver_without_a_usable_name_is_told(make: Make, plc: Plc) -> None:
    """It costs itself, and one that stands twice too."""
    plc.data["slivers"] = [sliver("a"), sliver("a"), {"attributes": []}, sliver("x" * 300)]
    source = make()
    source.poll()
    assert [record.name for record in source.read().records] == ["a"]
    assert [text.split(":")[0] for text in problems(source)] == [
        "slivers[1].name",
        "slivers[2].name",
        "slivers[3].name",
    ]


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"slivers": 5, "interfaces": [], "exempt": []}'])
def test_a_damaged_file_of_the_last_answer_is_as_none(make: Make, text: str) -> None:
    """PLC is asked soon enough."""
    source = make()
    source.poll()
    kept = source.kept
    assert kept
    source._shelf.put(type(kept)(text))
    assert make().read().records == ()


class TestFleet:
    """The nodes of the site, for Prometheus."""

    def test_nodes_in_service_are_the_fleet(self, make: Make, plc: Plc) -> None:
        """Others are down on purpose; a name that is none is told, and left out."""
        plc.nodes = [
            {"hostname": "node1.example.org", "boot_state": "boot"},
            {"hostname": "node2.example.org", "boot_state": "disabled"},
            {"hostname": "node3.example.org"},
            {"hostname": "no name", "boot_state": "boot"},
        ]
        source = make(fleet=True)
        assert source.poll()
        assert [node.host for node in source.read().reading.fleet] == ["node1.example.org", "node3.example.org"]
        assert plc.calls[-1] == ("GetNodes", (plc.calls[0][1][0], {}, ["hostname", "boot_state"]))
        (problem,) = problems(source)
        assert problem.startswith('nodes[2]: "no name" is not a host')

    def test_they_are_asked_for_where_that_is_wanted_alone(self, make: Make, plc: Plc) -> None:
        """A call less for each node that needs them not."""
        source = make()
        assert source.poll()
        assert ([name for name, _ in plc.calls], source.read().reading.fleet) == (["GetSlivers"], ())
