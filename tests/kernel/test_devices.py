"""Devices of all sorts: several at once, one without a queue, one whose driver says nothing, a read-only /sys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import Program, Room, skip_where_no_room_can_be_made
from tests.kernel.test_tree_commands import ask, said

pytestmark = pytest.mark.kernel

SLICES: list[dict[str, Any]] = [
    {"name": "ann", "id": 1, "devices": ["v0", "br0"]},
    {"name": "bob", "id": 2},
    {"name": "cyd", "id": 3, "devices": ["br0"]},
]
READ_ONLY_SYS = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs -o ro none /sys && exec "$@"', "sh")


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def room() -> Iterator[Room]:
    """Return a room with a bridge, which has no queue."""
    with Room() as made:
        made.run("ip link add br0 type bridge")
        made.run("ip link set br0 up")
        yield made


def devices(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of devices."""
    return {"devices": [{"cap": "100mbit", **row} for row in rows]}


def test_each_device_has_its_tree_its_cap_and_its_slices(room: Room, tmp_path: Path) -> None:
    """One of them without a queue of its own; afterwards both are as they were."""
    config = devices({"name": "v0", "line_rate": "1gbit"}, {"name": "br0", "cap": "40mbit", "line_rate": "200mbit"})
    program = Program(room, tmp_path, config, SLICES)
    bare = room.run("tc qdisc show")
    assert ask(program, "tree", "build").returncode == 0
    found = {one["device"]: one["classes"] for one in said(program, "tree", "show")["devices"]}
    slices = {name: {row["slice"] for row in rows} for name, rows in found.items()}
    assert slices == {
        "v0": {None, "_root", "_default", "ann", "bob"},
        "br0": {None, "_root", "_default", "ann", "cyd"},
    }
    ceilings = {(name, row["class"]): row["ceiling_bytes_per_second"] for name, rows in found.items() for row in rows}
    assert (ceilings["v0", "1:10"], ceilings["br0", "1:10"]) == (12_500_000, 5_000_000)
    assert (ceilings["v0", "1:1"], ceilings["br0", "1:1"]) == (125_000_000, 25_000_000)
    assert ask(program, "tree", "remove").stdout == "v0: the tree is removed\nbr0: the tree is removed\n"
    assert room.run("tc qdisc show") == bare


def test_the_line_rate_is_the_drivers_also_where_sys_is_read_only(room: Room, tmp_path: Path) -> None:
    """A veth says 10 Gbit/s."""
    program = Program(room, tmp_path, devices({"name": "v0"}), SLICES[1:2])
    done = ask(program, "tree", "build", through=READ_ONLY_SYS)
    assert done.returncode == 0, done.stderr
    (device,) = said(program, "tree", "show", through=READ_ONLY_SYS)["devices"]
    (top,) = [row for row in device["classes"] if row["class"] == "1:1"]
    assert top["ceiling_bytes_per_second"] == 1_250_000_000


@pytest.mark.parametrize("command", [("run", "--once"), ("plan",), ("tree", "build")])
def test_a_line_rate_that_nobody_says_is_asked_for(room: Room, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A bridge without ports has no speed; nothing is made on the other device either."""
    program = Program(room, tmp_path, devices({"name": "v0", "line_rate": "1gbit"}, {"name": "br0"}), SLICES)
    done = ask(program, *command)
    assert done.returncode == 2
    assert "devices[1].line_rate: is missing: the driver of br0 does not say its speed" in done.stderr
    assert "htb" not in room.run("tc qdisc show")


def test_rates_of_400_gbit_are_held_to_the_byte(room: Room, tmp_path: Path) -> None:
    """Every rate has 64 bits, from the configuration to the kernel and back."""
    config = devices({"name": "v0", "cap": "300gbit", "line_rate": "400gbit"})
    fast = {"full": "299gbit", "allowance": "unlimited"}
    program = Program(room, tmp_path, config, [{"name": "bob", "id": 2, "normal": fast}])
    assert ask(program, "tree", "build").returncode == 0
    (device,) = said(program, "tree", "show")["devices"]
    ceilings = {row["class"]: row["ceiling_bytes_per_second"] for row in device["classes"]}
    assert (ceilings["1:1"], ceilings["1:10"], ceilings["1:1002"]) == (50_000_000_000, 37_500_000_000, 37_375_000_000)
    assert "nothing to do" in ask(program, "plan").stdout
