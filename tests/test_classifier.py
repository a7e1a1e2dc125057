from __future__ import annotations

import ipaddress
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.errors import DeviceRefused
from bwexporter.kernel.chains import frame
from bwexporter.kernel.claims import Claim, Network, claim, explain, wanted
from bwexporter.kernel.nft import Nft, NftRefused
from bwexporter.kernel.rules import Edit, Key, Rules, diff, differences, forgetting, script
from bwexporter.slices.records import Match

A, B, C = 0x11001, 0x11002, 0x11003


def networks(*texts: str) -> tuple[Network, ...]:
    """Return networks."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def rules(*claims: Claim, exempt: tuple[Network, ...] = ()) -> Rules:
    """Return what claims want on one device."""
    return wanted(claims, ["eth0"], exempt)


def lines(edits: tuple[Edit, ...]) -> list[str]:
    """Return edits as people read them, without those of declarations and chains."""
    return sorted(str(edit) for edit in edits if edit.key is not None)


def test_a_record_becomes_a_claim_to_the_classes_of_its_id() -> None:
    """With the uid of its user, and the group's path below the root however it was written."""
    match = Match.model_validate(
        {
            "user": "alice",
            "uid": "5000-5999",
            "cgroup": "/sys/fs/cgroup/a/b/",
            "addresses": ["10.0.0.0/8"],
            "mark": 7,
        }
    )
    expected = Claim("a", 0x11001, 0x18001, 7, "a/b", networks("10.0.0.0/8"), ((5000, 5999), (1000, 1000)))
    assert claim("a", 1, match, {"alice": 1000}) == expected


@pytest.mark.parametrize(
    ("keys", "trouble"),
    [
        ({"user": "bob"}, "there is no user bob on this node"),
        ({"cgroup": "a/../b"}, "a/../b is not the path of a control group below the root"),
        ({"cgroup": "/"}, "/ is not the path of a control group below the root"),
        ({"cgroup": 'a"b'}, 'a"b is not the path of a control group below the root'),
    ],
)
def test_a_key_that_means_nothing_here_is_told_and_costs_itself_alone(keys: dict[str, str], trouble: str) -> None:
    """The slice's other keys hold."""
    made = claim("a", 1, Match.model_validate({**keys, "mark": 7}), {})
    assert (made.mark, made.uids, made.cgroup, made.troubles) == (7, (), None, (trouble,))
    assert rules(made).problems == {"a": (trouble,)}


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"mark": 5}, {"mark": 5}, "the mark 0x5 is claimed by a already"),
        ({"cgroup": "x/y"}, {"cgroup": "x/y"}, "the control group x/y is claimed by a already"),
        (
            {"prefixes": networks("10.0.0.0/8")},
            {"prefixes": networks("10.0.0.0/8")},
            "the prefix 10.0.0.0/8 is claimed by a already",
        ),
        (
            {"uids": ((100, 200),)},
            {"uids": ((200, 200),)},
            "the users 200 cannot be had as 100-200 is claimed by a already",
        ),
        (
            {"uids": ((100, 200),)},
            {"uids": ((100, 100),)},
            "the users 100 cannot be had as 100-200 is claimed by a already",
        ),
        (
            {"uids": ((100, 200),)},
            {"uids": ((50, 5000),)},
            "the users 50-5000 cannot be had as 100-200 is claimed by a already",
        ),
    ],
)
def test_of_two_claims_to_the_same_the_first_stands(
    first: dict[str, object], second: dict[str, object], problem: str
) -> None:
    """The second slice is told, and its other keys hold."""
    claims = Claim("a", A, None, **first), Claim("b", B, None, **{"mark": 9, **second})  # type: ignore[arg-type]
    found = rules(*claims, Claim("c", C, None, mark=11))
    assert found.problems == {"b": (problem,)}
    handles = [handle for elements in found.maps.values() for handle in elements.values()]
    assert (handles.count(A), handles.count(B), handles.count(C)) == (1, 0 if "mark" in second else 1, 1)


def test_users_beside_each_other_and_ones_own_twice_are_no_clash() -> None:
    """A range that ends where another begins, and a user inside the slice's own range."""
    found = rules(
        Claim("a", A, None, uids=((100, 199), (150, 150))),
        Claim("b", B, None, uids=((200, 299), (99, 99))),
    )
    assert found.problems == {}
    assert found.maps["uid_ranges"] == {(100, 199): A, (200, 299): B}
    assert found.maps["uids"] == {99: B}


def prefix_lists() -> st.SearchStrategy[list[tuple[Network, int]]]:
    """Return prefixes of few addresses, nested often, each with a slice's number."""
    prefix = st.builds(
        lambda bits, length: ipaddress.ip_network((bits << 24, length), strict=False),
        st.integers(0, 255),
        st.integers(0, 8),
    )
    return st.lists(st.tuples(prefix, st.integers(1, 5)), max_size=12)


@given(prefix_lists())
def test_the_longest_prefix_counts_and_intervals_never_overlap(given_prefixes: list[tuple[Network, int]]) -> None:
    """As routing does; the first of two equal ones stands."""
    claims = [Claim(f"s{number}", 0x11000 + number, None, prefixes=(prefix,)) for prefix, number in given_prefixes]
    found = rules(*claims)
    for bits in range(256):
        address = ipaddress.IPv4Address(bits << 24)
        lengths = [(prefix.prefixlen, -at) for at, (prefix, _) in enumerate(given_prefixes) if address in prefix]
        expected = [0x11000 + given_prefixes[-at][1] for _, at in sorted(lengths)[-1:]]
        assert looked_up(found, int(address)) == expected


def looked_up(found: Rules, address: int) -> list[int]:
    """Look an address up as the chains do: in the maps of each length, in their order; fail where intervals overlap."""
    looks = [line for line in found.frame["netdev chain classify"] if "meta priority set ip saddr" in line]
    for line in (line for line in looks if "@recent4" not in line):
        mask = int(ipaddress.IPv4Address(line.split("& ")[1].split()[0])) if "&" in line else 2**32 - 1
        elements = found.maps[line.split("map @")[1].split()[0]]
        hits = [handle for key, handle in elements.items() if holds(key, address & mask)]
        assert len(hits) <= 1
        if hits:
            return hits
    return []


def holds(key: Key, address: int) -> bool:
    """Say whether a key of a map is an address, or holds it."""
    return key == address if isinstance(key, int) else int(key[0]) <= address <= int(key[1])


def test_few_lengths_of_prefixes_have_a_map_each_and_many_are_intervals() -> None:
    """A prefix more is one element more, as long as no length more comes with it."""
    few = rules(Claim("a", A, None, prefixes=networks("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "fd00::/48")))
    assert {place: elements for place, elements in few.maps.items() if place.startswith("prefixes")} == {
        "prefixes8_4": {10 << 24: A},
        "prefixes16_4": {(10 << 24) + (1 << 16): A, (10 << 24) + (2 << 16): A},
        "prefixes48_6": {0xFD00 << 112: A},
    }
    addressed = [line for line in few.frame["netdev chain classify"] if " saddr" in line]
    assert [line.split("meta priority set ")[1] for line in addressed] == [
        "ip saddr map @addresses4 goto lane",
        "ip saddr & 255.255.0.0 map @prefixes16_4 goto lane",
        "ip saddr & 255.0.0.0 map @prefixes8_4 goto lane",
        "ip6 saddr map @addresses6 goto lane",
        "ip6 saddr & ffff:ffff:ffff:: map @prefixes48_6 goto lane",
    ]
    many = rules(Claim("a", A, None, prefixes=networks(*(f"10.{length}.0.0/{length}" for length in range(16, 21)))))
    assert [place for place in many.maps if place.startswith("prefixes")] == ["prefixes4"]


def test_a_packet_passes_the_same_rules_among_ten_slices_and_ten_thousand() -> None:
    """Only maps grow, and only ranges of users are not hashed; in them a user is looked up once and remembered."""

    def many(count: int) -> Rules:
        return rules(
            *(
                Claim(
                    f"s{at}",
                    A + at,
                    0x18001 + at,
                    mark=at + 1,
                    cgroup=f"tenants/s{at}",
                    prefixes=networks(
                        f"10.{at >> 8}.{at & 255}.0/24", f"10.{at >> 8}.{at & 255}.7", f"fd00:{at:x}::/32"
                    ),
                    uids=((20_000 + at,) * 2, (100_000 + 10 * at, 100_005 + 10 * at)),
                )
                for at in range(count)
            )
        )

    few, lots = many(10), many(10_000)
    assert few.frame == lots.frame
    intervals = {place for place, lines in lots.frame.items() if "flags interval" in lines}
    assert intervals == {"netdev map uid_ranges", "netdev set exempt4", "netdev set exempt6"}
    looks = [line.split("@")[1].split()[0] for line in lots.frame["netdev chain owned"] if "@" in line]
    assert looks == ["uids", "recent_uids", "strange_uids", "uid_ranges", "strange_uids"]


def test_a_change_of_intervals_makes_the_kernel_forget_what_it_found_in_them() -> None:
    """In the same transaction, and once more after it; where they stay nothing is forgotten."""
    lengths = networks(*(f"10.{length}.0.0/{length}" for length in range(16, 21)), "10.9.9.9")
    before = rules(Claim("a", A, None, uids=((100, 199),), prefixes=lengths[:-1]))
    ranges, prefixes, singles = (
        rules(Claim("a", A, None, uids=((100, 199),), prefixes=lengths[:-1]), more)
        for more in (
            Claim("b", B, None, uids=((200, 299),)),
            Claim("b", B, None, prefixes=networks("10.0.0.0/9")),
            Claim("b", B, None, uids=((50, 50),), prefixes=lengths[-1:], mark=7),
        )
    )
    for wanted_rules, what in ((ranges, "_uids"), (prefixes, "4")):
        edits = diff(wanted_rules, before)
        assert script(edits, wanted_rules, before).endswith(forgetting(edits))
        assert forgetting(edits).splitlines() == [
            f"flush map netdev bwexporter recent{what}",
            f"flush set netdev bwexporter strange{what}",
        ]
    assert forgetting(diff(singles, before)) == ""


def test_single_addresses_stand_beside_the_prefixes_they_are_in() -> None:
    """One slice more is one element more."""
    found = rules(
        Claim("a", A, None, prefixes=networks("10.0.0.0/8")), Claim("b", B, None, prefixes=networks("10.0.0.1", "::1"))
    )
    assert found.maps["prefixes8_4"] == {10 << 24: A}
    assert (found.maps["addresses4"], found.maps["addresses6"]) == ({(10 << 24) + 1: B}, {1: B})


def test_exempt_prefixes_that_overlap_or_touch_are_one() -> None:
    """So that nft takes them."""
    found = rules(exempt=networks("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "fd00::/8"))
    assert found.maps["exempt4"] == {(10 << 24, (11 << 24) - 1): 0}
    assert len(found.maps["exempt6"]) == 1


def test_a_slice_whose_class_does_not_exist_is_in_no_map() -> None:
    """And one whose exempt class does not exist has no exempt lane; the default lane has no keys at all."""
    claims = [
        Claim("a", A, 0x18001, mark=1),
        Claim("b", B, 0x18002, mark=2),
        Claim("_default", 0x17FFF, 0x1EFFF),
    ]
    found = wanted(claims, ["eth0"], existing={A, 0x18002, 0x17FFF, 0x1EFFF})
    assert found.maps["marks"] == {1: A}
    assert found.maps["exempts"] == {0x17FFF: 0x1EFFF}
    assert found.waiting == {"b"}


def test_control_groups_have_a_map_for_each_depth_and_are_asked_deepest_first() -> None:
    """Where none are claimed there is nothing that would trust a priority."""
    found = rules(Claim("a", A, None, cgroup="x"), Claim("b", B, None, cgroup="x/y/z"))
    assert (found.maps["cgroups1"], found.maps["cgroups3"]) == ({"x": A}, {"x/y/z": B})
    looked_up = [line for line in found.frame["inet chain output"] if "cgroupv2" in line]
    assert ["level 3" in looked_up[0], "level 1" in looked_up[1]] == [True, True]
    without = rules(Claim("a", A, None, mark=1)).frame
    assert not any(place.startswith("inet ") for place in without)
    assert not any("b3e7:0 meta cgroup" in line for line in without["netdev chain classify"])


def test_edits_read_as_lines() -> None:
    """What a plan prints."""
    before = rules(
        Claim("a", A, 0x18001, mark=1, uids=((5, 5), (10, 19))), Claim("b", B, None, prefixes=networks("10.0.0.0/8"))
    )
    after = rules(
        Claim("a", A, None, mark=1, uids=((10, 19),)),
        Claim("c", C, None, prefixes=networks("10.0.0.0/8", "fd00::/8"), cgroup="x"),
        exempt=networks("192.0.2.0/24"),
    )
    assert lines(diff(after, before)) == [
        'cgroups1 "x": add 1:1003',
        "exempt4 192.0.2.0/24: add",
        "exempts 1:1001: remove 1:8001",
        "prefixes8_4 10.0.0.0: 1:1002 becomes 1:1003",
        "prefixes8_6 fd00::: add 1:1003",
        "uids 5: remove 1:1001",
    ]
    frames = [str(edit) for edit in diff(after, before) if edit.key is None]
    assert frames == [
        "inet chain output: add",
        "inet map cgroups1: add",
        "inet table: add",
        "netdev chain classify: repair",
        "netdev map prefixes8_6: add",
    ]


def test_an_edit_of_one_slice_is_one_line_of_script_a_map() -> None:
    """No chain is touched for it."""
    before, after = rules(Claim("a", A, None, mark=1)), rules(Claim("a", A, None, mark=2), Claim("b", B, None, mark=1))
    assert script(diff(after, before), after, before) == (
        "delete element netdev bwexporter marks { 0x1 }\n"
        "add element netdev bwexporter marks { 0x2 : 1:1001, 0x1 : 1:1002 }\n"
    )


def test_a_chain_that_differs_is_written_anew_and_the_elements_stay() -> None:
    """A declaration that differs takes its table with it, all at once."""
    right = rules(Claim("a", A, None, mark=1, cgroup="x"))
    chain = Rules(right.maps, {**right.frame, "netdev chain lane": ("accept",), "netdev chain more": ()})
    text = script(diff(right, chain), right, chain)
    assert "flush table netdev bwexporter\n" in text
    assert "delete chain netdev bwexporter more\n" in text
    assert "element" not in text
    assert "inet" not in text
    declared = Rules(right.maps, {**right.frame, "netdev map marks": ("type mark : mark",)})
    assert lines(diff(right, declared)) == ["marks 0x1: add 1:1001"]
    assert differences(right, declared) == (Edit("netdev map marks", None, 0, 0),)
    assert "delete table netdev bwexporter\n" in script(diff(right, declared), right, declared)


def test_a_removed_control_group_is_left_while_its_slice_has_another() -> None:
    """Sockets made in it may live; one whose slice has none any more goes, and with it all are written anew."""
    right = rules(Claim("a", A, None, cgroup="x"), Claim("b", B, None, cgroup="y"))
    held: dict[Key, int] = {"x": A, "y": B, "#82": A}
    assert diff(right, Rules({**right.maps, "cgroups1": held}, right.frame)) == ()
    stale = Rules({**right.maps, "cgroups1": {**held, "#83": C}}, right.frame)
    text = script(diff(right, stale), right, stale, cgroup_root="unified/")
    assert text == (
        "flush map inet bwexporter cgroups1\n"
        'add element inet bwexporter cgroups1 { "unified/x" : b3e7:1001, "unified/y" : b3e7:1002 }\n'
    )
    many: dict[Key, int] = {f"#{inode}": A for inode in range(100, 200)}
    assert len(diff(right, Rules({**right.maps, "cgroups1": {**held, **many}}, right.frame))) == 101


def test_where_many_intervals_go_all_are_written_anew() -> None:
    """To delete them one by one would take nft minutes; single addresses are deleted by name, however many."""

    def many(count: int) -> Rules:
        prefixes = [ipaddress.ip_network(f"10.{at >> 8}.{at & 255}.0/25") for at in range(count)]
        prefixes += networks("100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")
        hosts = [ipaddress.ip_network(f"10.{at >> 8}.{at & 255}.0/32") for at in range(count)]
        return rules(Claim("a", A, None, prefixes=(*prefixes, *hosts)), exempt=tuple(prefixes))

    text = script(diff(many(200), many(400)), many(200), many(400)).splitlines()
    assert [line.split(" {")[0] for line in text] == [
        "delete element netdev bwexporter addresses4",
        "flush map netdev bwexporter prefixes4",
        "add element netdev bwexporter prefixes4",
        "flush set netdev bwexporter exempt4",
        "add element netdev bwexporter exempt4",
        "flush map netdev bwexporter recent4",
        "flush set netdev bwexporter strange4",
    ]
    assert "10.0.199.0/25" in text[2]
    assert "10.0.200.0/25" not in text[2]


@given(prefix_lists(), prefix_lists())
def test_carrying_out_the_edits_leaves_nothing_to_do(
    before: list[tuple[Network, int]], after: list[tuple[Network, int]]
) -> None:
    """Whatever there was and whatever is wanted."""
    first, second = (
        rules(*[Claim(f"s{number}", 0x11000 + number, None, prefixes=(prefix,)) for prefix, number in some])
        for some in (before, after)
    )
    maps = {place: dict(elements) for place, elements in first.maps.items()}
    for edit in diff(second, first):
        if edit.key is None:
            name = edit.place.split(" ")[2]
            maps = {place: elements for place, elements in maps.items() if edit.after is not None or place != name}
            continue
        held = maps.setdefault(edit.place, {})
        assert held.pop(edit.key, None) == edit.before
        if edit.after is not None:
            held[edit.key] = edit.after
    assert set(maps) == set(second.maps)
    assert diff(second, Rules(maps, second.frame)) == ()


def test_it_says_why_a_slices_traffic_does_not_reach_its_lane() -> None:
    """For each slice its own reasons, and those of all."""
    claims = [
        Claim("a", A, None, mark=1, uids=((5, 5),)),
        Claim("b", B, None, mark=2, troubles=("there is no user b on this node",)),
        Claim("c", C, None, mark=3),
        Claim("d", 0x11004, None),
    ]
    right = wanted(claims, ["eth0"], existing={A, B, 0x11004})
    assert {name: reasons.normal for name, reasons in explain(claims, right, right).items()} == {
        "a": (),
        "b": ("there is no user b on this node",),
        "c": ("its class 1:1003 does not exist",),
        "d": ("nothing tells its traffic from others': it has no user, uid, cgroup, addresses or mark",),
    }
    marks: dict[Key, int] = {1: B}
    unhooked = {place: lines for place, lines in right.frame.items() if place != "netdev chain egress0"}
    broken = explain(claims, right, Rules({**right.maps, "marks": marks, "uids": {}}, unhooked))
    no_hook = "netdev chain egress0 is missing, so nothing on eth0 is classified"
    assert broken["a"].normal == (no_hook, "marks 0x1 leads to 1:1002 of b", "uids 5 is missing")
    assert broken["b"].normal == ("there is no user b on this node", no_hook, "marks 0x2 is missing")
    missing_tables = ("there are no rules: the tables called bwexporter are missing",)
    assert explain(claims, right, None)["a"] == (missing_tables, missing_tables)


def test_what_is_wrong_with_exempt_traffic_alone_is_said_of_it_alone() -> None:
    """A missing exempt prefix is everybody's, a missing exempt class its slice's; normal traffic needs neither."""
    claims = [Claim("a", A, 0x18001, mark=1), Claim("b", B, 0x18002, mark=2)]
    right = wanted(claims, ["eth0"], networks("192.0.2.0/24"))
    exempts: dict[Key, int] = {A: 0x18001}
    found = explain(claims, right, Rules({**right.maps, "exempts": exempts, "exempt4": {}}, right.frame))
    prefix = "exempt4 192.0.2.0/24 is missing"
    assert found == {"a": ((), (prefix,)), "b": ((), (prefix, "exempts 1:1002 is missing"))}


def test_every_device_has_a_hook_of_its_own() -> None:
    """Names of devices need not be names of chains."""
    found = frame(["br-lan", "wg@7"], {})
    assert found["netdev chain egress1"] == (
        'type filter hook egress device "wg@7" priority 0; policy accept;',
        "goto classify",
    )


@pytest.mark.parametrize(
    ("complaint", "told"),
    [
        ("Error: Could not process rule: Operation not supported", "this kernel cannot classify traffic: it needs"),
        ("Operation not permitted (you must be root)", "needs the capability CAP_NET_ADMIN"),
        ("Error: Could not process rule: Message too long", "at once here; raise net.core.wmem_default"),
        ("/dev/stdin:3:1-2: Error: syntax error, unexpected hook", "refused the classifier's rules: syntax error"),
    ],
)
def test_what_nft_complains_of_is_said_in_one_line(tmp_path: Path, complaint: str, told: str) -> None:
    """With what to do about it."""
    program = tmp_path / "nft"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit({complaint!r} + '\\n    ^^^^')\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(NftRefused, match=told) as caught:
        Nft(str(program)).run("add table netdev bwexporter")
    assert "\n" not in str(caught.value)


def test_where_nft_is_missing_it_says_what_to_install() -> None:
    """The Debian package."""
    with pytest.raises(DeviceRefused, match="needs the program nft-of-nowhere; install the Debian package nftables"):
        Nft("nft-of-nowhere").run("")
