"""`bwexporter tree check` as users run it, on a node that works, and on one that somebody has disturbed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import (
    Greedy,
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.test_classifier_real import below_root, group, plays_users, run_in
from tests.kernel.test_tree_commands import WITHOUT_NET_ADMIN, ask

pytestmark = pytest.mark.kernel
__all__ = ["group"]

CONFIG: Mapping[str, Any] = {
    "interval": "200ms",
    "devices": [{"name": "v0", "cap": "80mbit", "line_rate": "100mbit"}],
    "defaults": {"normal": {"allowance": "unlimited"}, "exempt": {"allowance": "unlimited"}},
    "exempt": {"prefixes": ["10.9.0.64/26", "fd00::/8"]},
}
LARGEST_PROBE_BYTES = 300
NOWHERE = "was seen in no class: this node drops such packets, or the device does not send"
Found = Mapping[tuple[str, str], Mapping[str, Any]]


@pytest.fixture
def program(tmp_path: Path, group: Path) -> Iterator[Program]:
    """Return a daemon with a slice of each kind, and one that shares its mark with another."""
    skip_where_no_room_can_be_made()
    slices = [
        {"name": "ann", "id": 1, "match": {"mark": 7}},
        {"name": "cyd", "id": 3, "match": {"addresses": ["10.77.0.0/16", "2001:db8:7::/48"]}},
        {"name": "dan", "id": 4, "match": {"cgroup": below_root(group)}},
        *([{"name": "bob", "id": 2, "match": {"uid": "1002-1010"}}] if plays_users(1002, 1010, 65_534) else []),
    ]
    with Room() as room, Program(room, tmp_path, CONFIG, slices).start() as program:
        program.turn()
        yield program


def check(program: Program, *words: str, code: int) -> Found:
    """Return what is found of each lane."""
    done = ask(program, "tree", "check", "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return {(row["slice"], row["traffic"]): row for row in json.loads(done.stdout)["lanes"]}


def missed(found: Found) -> dict[tuple[str, str], list[str]]:
    """Return why lanes are not reached."""
    return {lane: row["reasons"] for lane, row in found.items() if row["verdict"] == "misses"}


def test_on_a_node_that_works_every_lane_is_reached_at_a_cost_of_a_packet(program: Program, group: Path) -> None:
    """By mark, address (v4, v6), control group and user; no probe reaches anybody, and none is in another's lane."""
    before = program.room.classes()
    found = check(program, code=0)
    after = program.room.classes()
    assert missed(found) == {}
    nobody = () if plays_users(65_534) else (("_default", "normal"), ("_default", "exempt"))
    assert {lane for lane, row in found.items() if row["verdict"] == "unproven"} == {("dan", "exempt"), *nobody}
    sent = {handle: after[handle].sent_bytes - before[handle].sent_bytes for handle in after if handle & 0x9000}
    tried = {
        int(row["class"].replace(":", ""), 16): len(row["tried"]) * (row["verdict"] == "reaches")
        for row in found.values()
    }
    for handle, size in sent.items():
        probes = tried.get(handle, 0)
        assert (size > 0) == (probes > 0)
        assert size <= probes * LARGEST_PROBE_BYTES
    assert [path for path in group.iterdir() if path.is_dir()] == []
    assert program.said().count("had been changed") == 0


def test_lanes_that_are_busy_or_shut_are_reached_too(program: Program) -> None:
    """A queue that is full says no less than one that is empty."""
    traffic = Traffic(program.room)
    program.room.run("tc class change dev v0 classid 1:1001 parent 1:10 htb rate 8kbit ceil 8kbit quantum 60000")
    with program.halted(), Greedy(traffic, handle_of(1)) as _:
        with closing(traffic.socket(handle_of(0))) as other:
            other.send(bytes(100))
        with program.room.entered(), closing(_marked(7)) as sender, suppress(BlockingIOError):
            while True:
                sender.sendto(bytes(1000), ("10.9.0.2", 9))
        assert missed(check(program, code=0)) == {}


def _marked(mark: int) -> Any:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, 36, mark)
    sender.setblocking(False)
    return sender


def test_a_rule_deleted_by_hand_is_named_until_the_next_turn_puts_it_right(program: Program) -> None:
    """For its slice alone."""
    with program.halted():
        program.room.run("nft delete element netdev bwexporter marks { 7 }")
        assert ask(program, "plan").stdout == "rules: marks 0x7: add 1:1001\n"
        found = check(program, code=1)
        assert missed(found) == {("ann", traffic): ["marks 0x7 is missing"] for traffic in ("normal", "exempt")}
    program.turn()
    assert missed(check(program, code=0)) == {}


def test_what_a_strangers_rules_do_to_packets_is_found_by_the_packets(program: Program) -> None:
    """Our rules are as they should be, and still one lane's traffic goes to another, and another's goes nowhere."""
    program.room.run("nft -f -", given=STRANGER)
    found = check(program, code=1)
    assert missed(found) == {
        ("ann", "normal"): ["a packet with the mark 0x7 landed in 1:1003 (cyd, normal)"],
        ("cyd", "normal"): [f"a packet with the address 10.77.127.255 {NOWHERE}"],
    }
    assert missed(check(program, "--no-probe", code=0)) == {}


STRANGER = """
table netdev stranger {
    chain out {
        type filter hook egress device "v0" priority 10;
        meta priority 1:1001 meta priority set 1:1003
        ip saddr 10.77.0.0/16 udp dport 9 ip daddr 233.252.0.0/24 drop
    }
}
"""


def test_a_control_group_made_anew_has_its_lane_within_a_turn(program: Program, group: Path) -> None:
    """Its new inode is another group to the kernel; until then it is said that the group's element is missing."""
    with program.halted():
        group.rmdir()
        assert missed(check(program, "dan", code=1))["dan", "normal"] == [f"the control group {group} is not there"]
        group.mkdir()
        (reason,) = missed(check(program, "dan", code=1))["dan", "normal"]
        assert reason.endswith("is missing")
    program.turn()
    program.turn()
    assert missed(check(program, "dan", code=0)) == {}
    with program.room.entered():
        run_in(group, "import socket; socket.socket(2, 2).sendto(bytes(958), ('10.9.0.2', 9))")
    wait_for(lambda: program.lane("dan")["period_used_bytes"] >= 1000, what="the group's own packet in its lane")


def test_without_a_tree_or_permission_it_says_so_in_a_line(program: Program) -> None:
    """And where nothing is sorted, there is nothing to check."""
    refused = ask(program, "tree", "check", through=WITHOUT_NET_ADMIN)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "CAP_NET_ADMIN" in refused.stderr
    program.stop()
    program.room.run("tc qdisc del dev v0 root")
    found = check(program, code=1)
    assert set(map(tuple, missed(found).values())) == {
        ("v0 has no tree: `bwexporter run` or `bwexporter tree build` makes it",)
    }
    program.write_config({key: value for key, value in CONFIG.items() if key != "exempt"})
    program.write_slices([{"name": "ann", "id": 1}])
    done = ask(program, "tree", "check")
    assert (done.returncode, "makes no rules here" in done.stdout) == (0, True)
