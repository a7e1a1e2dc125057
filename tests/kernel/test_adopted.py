"""Somebody else's tree: counted and capped, and nothing of it is ever different but a ceiling."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from tests.kernel.daemon_rig import Program, Room, Traffic, skip_where_no_room_can_be_made, wait_for
from tests.kernel.test_tree_commands import WITHOUT_NET_ADMIN, ask

pytestmark = pytest.mark.kernel

ANN, BOB, BIG = 0x7_0010, 0x7_0011, 0x7_0012
TREE = """\
tc qdisc add dev v0 root handle 7: htb default 30 r2q 5
tc class add dev v0 parent 7: classid 7:1 htb rate 600mbit burst 90k cburst 90k
tc class add dev v0 parent 7:1 classid 7:10 htb rate 5mbit ceil 40mbit prio 3 quantum 9000 burst 20k cburst 3k mpu 9
tc class add dev v0 parent 7:1 classid 7:11 htb rate 1mbit ceil 80mbit prio 5
tc class add dev v0 parent 7:1 classid 7:12 htb rate 50gbit ceil 100gbit prio 1 overhead 8 linklayer atm
tc class add dev v0 parent 7:1 classid 7:30 htb rate 1mbit ceil 600mbit
tc qdisc add dev v0 parent 7:11 handle 711: pfifo limit 77
"""
CONFIG = {
    "interval": "300ms",
    "devices": [{"name": "v0", "line_rate": "800gbit", "tree": "existing"}],
    "defaults": {"normal": {"allowance": "unlimited"}, "exempt": {"allowance": "unlimited"}},
}
TIGHT = {"allowance": "20GB", "threshold": "100kB"}
SLICES: list[dict[str, Any]] = [
    {"name": "ann", "class": "7:10", "normal": TIGHT},
    {"name": "bob", "exempt_class": "7:11", "exempt": TIGHT},
    {"name": "big", "class": "7:12", "normal": TIGHT},
    {"name": "_default", "class": "7:30"},
]

UNLIMITED = [{key: value for key, value in one.items() if key not in {"normal", "exempt"}} for one in SLICES]


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return the program in a room with somebody else's tree, not started."""
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as made:
        for line in TREE.splitlines():
            room.run(line)
        yield made


def tree(room: Room, *, but: tuple[str, ...] = (), device: str = "v0") -> dict[str, Any]:
    """Return all that the kernel says of the queues and classes but what they count, and of classes but some fields."""
    with room.entered(), IPRoute() as route:
        (index,) = route.link_lookup(ifname=device)
        classes = route.get_classes(index=index)
        queues = route.get_qdiscs(index=index)
        filters = [route.get_filters(index=index, parent=one["handle"]) for one in classes]
    found = {f"class {one['handle']:x}": (one["parent"], one["info"], _options(one, but)) for one in classes}
    found |= {
        f"queue {one['handle']:x}": (one.get_attr("TCA_KIND"), one["parent"], repr(_queue(one))) for one in queues
    }
    return found | {"filters": len(filters), "shown": room.run(f"tc filter show dev {device}")}


def _options(message: Any, but: tuple[str, ...]) -> dict[str, Any]:
    if message.get_attr("TCA_KIND") != "htb":
        return {}
    options = dict(message.get_attr("TCA_OPTIONS")["attrs"])
    return {name: value for name, value in options["TCA_HTB_PARMS"].items() if name not in but} | {
        name: value for name, value in options.items() if name.endswith("64") and name not in but
    }


def _queue(message: Any) -> Any:
    if message.get_attr("TCA_KIND") != "htb":
        return message.get_attr("TCA_OPTIONS")
    parameters = dict(message.get_attr("TCA_OPTIONS")["attrs"])["TCA_HTB_INIT"]
    return {name: parameters[name] for name in ("rate2quantum", "defcls", "version")}


CEILING = ("ceil", "TCA_HTB_CEIL64", "ceil_log", "ceil_mpu")


def ceiling(room: Room, handle: int) -> int:
    """Return a class's ceiling, 0 where there is none; one of 34 gbit and more has another attribute as well."""
    found = tree(room).get(f"class {handle:x}")
    return found[2].get("TCA_HTB_CEIL64", found[2]["ceil"]) if found else 0


def capped(program: Program, slice_name: str, traffic: str, handle: int) -> int:
    """Let a slice pass its threshold, wait until it is capped, and return its ceiling."""
    Traffic(program.room).send((slice_name, traffic), handle, 150)
    program.turn()  # one that has seen all of it
    wait_for(lambda: program.lane(slice_name, traffic)["capped"], what="the cap")
    wait_for(lambda: 0 < ceiling(program.room, handle) < 300_000, what="the cap in the kernel")
    return ceiling(program.room, handle)


def test_nothing_is_touched_while_nobody_is_capped(program: Program) -> None:
    """Full rates are those that were found; what is not named is no lane."""
    before = tree(program.room)
    program.write_slices(UNLIMITED)
    program.start()
    program.turn()
    assert tree(program.room) == before
    assert set(program.lanes()) == {
        ("_default", "normal"),
        ("ann", "normal"),
        ("bob", "exempt"),
        ("big", "normal"),
    }
    full = {name: row["full_rate_bytes_per_second"] for (name, _), row in program.lanes().items()}
    assert full == {"ann": 5_000_000, "bob": 10_000_000, "big": 12_500_000_000, "_default": 75_000_000}


def test_a_cap_changes_the_ceiling_alone_and_is_given_back_with_the_slice(program: Program) -> None:
    """Rate, priority, quantum, bursts, overhead, link layer and 64 bits stay; in the end nothing at all differs."""
    before, but_ceilings = tree(program.room), tree(program.room, but=CEILING)
    program.start()
    for name, traffic, handle in (("ann", "normal", ANN), ("bob", "exempt", BOB), ("big", "normal", BIG)):
        capped(program, name, traffic, handle)
    assert program.lane("ann")["period_used_bytes"] == 150_000
    assert tree(program.room, but=CEILING) == but_ceilings
    assert tree(program.room) != before
    program.write_slices(SLICES[3:])
    wait_for(lambda: tree(program.room) == before, what="the giving back")


def test_the_full_rate_survives_a_restart_while_capped(program: Program) -> None:
    """Otherwise the cap would become the full rate."""
    before = tree(program.room)
    program.start()
    capped(program, "ann", "normal", ANN)
    program.kill()
    program.start()
    program.turn()
    assert program.lane("ann")["full_rate_bytes_per_second"] == 5_000_000
    assert program.lane("ann")["capped"]
    assert program.stop() == 0
    said = ask(program, "tree", "remove")
    assert (said.returncode, said.stdout) == (
        0,
        "v0: the ceilings are given back; the tree is not bwexporter's, and stays\n",
    )
    assert tree(program.room) == before
    program.start()
    wait_for(lambda: program.lane("ann")["capped"], what="the cap: the account goes on")


def test_a_slice_removed_while_the_program_was_stopped_is_given_back(program: Program) -> None:
    """It is remembered whose ceiling was lowered."""
    before = tree(program.room)
    program.start()
    capped(program, "ann", "normal", ANN)
    assert program.stop() == 0
    program.write_slices(SLICES[3:])
    program.start()
    wait_for(lambda: tree(program.room) == before, what="the giving back")


def test_nothing_of_theirs_is_repaired_made_or_removed(program: Program) -> None:
    """Their changes stand, classes that they delete stay away, those that they add stay."""
    program.write_slices(UNLIMITED)
    program.start()
    program.room.run("tc class change dev v0 classid 7:11 htb rate 2mbit ceil 90mbit prio 4 quantum 3000")
    program.room.run("tc class del dev v0 classid 7:10")
    program.room.run("tc class add dev v0 parent 7:1 classid 7:1001 htb rate 1mbit")
    program.room.run("tc qdisc del dev v0 parent 7:11")
    before = tree(program.room)
    program.turn()
    program.turn()
    assert tree(program.room) == before
    assert program.lane("ann")["ceiling_bytes_per_second"] is None
    assert program.lane("bob", "exempt")["full_rate_bytes_per_second"] == 11_250_000


def test_a_class_that_its_owner_makes_anew_is_capped_again(program: Program) -> None:
    """With the account that it had, and the new ceiling as the full rate."""
    program.start()
    capped(program, "ann", "normal", ANN)
    program.room.run("tc class del dev v0 classid 7:10")
    program.room.run("tc class add dev v0 parent 7:1 classid 7:10 htb rate 1mbit ceil 16mbit prio 2")
    wait_for(lambda: program.lane("ann")["full_rate_bytes_per_second"] == 2_000_000, what="the new full rate")
    wait_for(lambda: 0 < ceiling(program.room, ANN) < 300_000, what="the cap")
    assert program.lane("ann")["period_used_bytes"] == 150_000


def test_a_written_full_rate_beats_the_one_that_is_found(program: Program) -> None:
    """And the one that was found is what is given back."""
    before = tree(program.room)
    program.write_slices([{**SLICES[0], "normal": {"full": "24mbit"}}])
    program.start()
    wait_for(lambda: ceiling(program.room, ANN) == 3_000_000, what="the written rate")
    program.write_slices([])
    wait_for(lambda: tree(program.room) == before, what="the giving back")


def test_a_device_without_a_tree_is_refused_and_one_that_loses_it_waits(program: Program) -> None:
    """The error says what is missing; nothing is built."""
    program.start()
    capped(program, "ann", "normal", ANN)
    program.room.run("tc qdisc del dev v0 root")
    wait_for(lambda: "v0 has no HTB at its root" in program.said(), what="the trouble")
    assert program.room.classes() == {}
    for line in TREE.splitlines():
        program.room.run(line)
    wait_for(lambda: 0 < ceiling(program.room, ANN) < 300_000, what="the cap")
    assert program.lane("ann")["period_used_bytes"] == 150_000
    assert program.stop() == 0
    program.room.run("tc qdisc del dev v0 root")
    refused = program.run()
    assert refused.returncode == 1
    assert "v0 has no HTB at its root (and no other tree): build the tree" in refused.stderr


def test_plan_and_show_speak_of_such_a_tree_too(program: Program) -> None:
    """Without privilege."""
    program.start()
    capped(program, "ann", "normal", ANN)
    assert program.stop() == 0
    program.room.run("tc class change dev v0 classid 7:10 htb rate 5mbit ceil 30mbit")
    done = ask(program, "plan", through=WITHOUT_NET_ADMIN)
    assert "v0: change 7:10 (ann normal): ceiling 30mbit -> " in done.stdout
    shown = ask(program, "tree", "show", through=WITHOUT_NET_ADMIN).stdout
    assert "7:10    ann normal  rate 5mbit  ceiling 30mbit" in shown


def test_the_slices_that_are_listed_have_the_full_rates_that_were_found(program: Program) -> None:
    """Before any start, while they are capped, after that, and "as found" where neither file nor kernel tells."""

    def full() -> dict[str, int | None]:
        rows = json.loads(ask(program, "slices", "--json", through=WITHOUT_NET_ADMIN).stdout)["slices"]
        return {row["slice"]: row["full_rate_bytes_per_second"] for row in rows}

    found = {"ann": 5_000_000, "bob": 10_000_000, "big": 12_500_000_000, "_default": 75_000_000}
    assert full() == found
    program.start()
    capped(program, "ann", "normal", ANN)
    assert full() == found
    program.kill()
    assert full() == found
    shown = ask(program, "slices", "ann").stdout.splitlines()
    assert ["v0", "normal", "full rate", "40mbit", "as found"] in [re.split("  +", line) for line in shown]
    program.room.run("tc class del dev v0 classid 7:10")
    assert full() == {**found, "ann": None}
    assert " as found " in ask(program, "slices").stdout
    program.room.run("ip link del v0")
    assert full() == dict.fromkeys(found)


FIREQOS = """\
interface v0 world output rate 100Mbit qdisc none
  class ann commit 1Mbit max 40Mbit
    match host 10.9.0.77
  class bob commit 2Mbit
    match host 10.9.0.78
  class default
"""


def test_a_tree_made_by_fireqos(tmp_path: Path) -> None:
    """Its classes are numbered by it; filters, priorities and the rest are as it made them, to the end."""
    (tmp_path / "fireqos.conf").write_text(FIREQOS)
    slices = [{"name": "ann", "class": "1:11", "normal": TIGHT}]
    with Room() as room, Program(room, tmp_path, CONFIG, slices) as program:
        fireqos(room, "start", str(tmp_path / "fireqos.conf"))
        before, but_ceilings = tree(room), tree(room, but=CEILING)
        program.start()
        assert program.lane("ann")["full_rate_bytes_per_second"] == 5_000_000
        capped(program, "ann", "normal", 0x1_0011)
        assert tree(room, but=CEILING) == but_ceilings
        program.write_slices([])
        wait_for(lambda: tree(room) == before, what="the giving back")


def fireqos(room: Room, *words: str) -> None:
    """Run FireQOS in the room; what it writes to /run stays in a mount namespace of its own."""
    script = 'mount -t tmpfs none /run && mkdir -p /run/lock && exec fireqos "$@"'
    command = [*room.enter, "unshare", "--mount", "sh", "-c", script, "sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
