"""Somebody else's trees below an mq, one for each hardware queue: counted and capped as one that is at the root."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import (
    FAR_END,
    HEADER_BYTES,
    PACKET_BYTES,
    Program,
    Room,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.test_adopted import CEILING, CONFIG, TIGHT, ceiling, tree
from tests.kernel.test_tree_commands import ask

pytestmark = pytest.mark.kernel

QUEUES = 4
CABLE = f"""\
link delete v0
link add v0 address 02:00:00:00:00:01 numtxqueues {QUEUES} type veth peer name v1 address 02:00:00:00:00:02
link set v0 addrgenmode none up
link set v1 addrgenmode none up
address add 10.9.0.1/24 dev v0
neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent
"""
ONE_TREE = """\
qdisc add dev v0 parent 7fff:{at} handle {at}: htb default 2
class add dev v0 parent {at}: classid {at}:1 htb rate 600mbit burst 90k cburst 90k quantum 9000
class add dev v0 parent {at}:1 classid {at}:2 htb rate 1mbit ceil 600mbit
class add dev v0 parent {at}:1 classid {at}:10 htb rate 5mbit ceil {ceiling}mbit prio 3 quantum 9000
"""
SLICES: list[dict[str, Any]] = [{"name": f"s{at}", "class": f"{at}:10"} for at in range(1, QUEUES + 1)]
THIRD_TIGHT = [*SLICES[:2], {**SLICES[2], "normal": TIGHT}, SLICES[3]]


class Queues:
    """Senders that the kernel puts into one hardware queue each."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._ports: dict[int, int] = {}
        port, before = 20_000, self._counted()
        while len(self._ports) < QUEUES:
            self._send(port, 0, 1)
            (at,) = wait_for(lambda before=before: self._risen(before), what="the packet")
            self._ports.setdefault(at, port)
            port, before = port + 1, self._counted()

    def send(self, at: int, packets: int) -> None:
        """Send packets through a queue into its class of a slice; return when they have passed."""
        before = self._counted()[at]
        self._send(self._ports[at], at << 16 | 0x10, packets)
        wait_for(lambda: self._counted()[at] == before + packets * PACKET_BYTES, what="the end of the queue")

    def _risen(self, before: dict[int, int]) -> list[int]:
        return [at for at, sent in self._counted().items() if sent != before[at]]

    def _send(self, port: int, priority: int, packets: int) -> None:
        with self._room.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
            sender.bind(("10.9.0.1", port))
            for _ in range(packets):
                sender.sendto(bytes(PACKET_BYTES - HEADER_BYTES), FAR_END)

    def _counted(self) -> dict[int, int]:
        classes = self._room.classes()
        return {at: classes[at << 16 | 1].sent_bytes for at in range(1, QUEUES + 1)}


def build(room: Room, at: int) -> None:
    """Build the tree of one queue; each has another ceiling for its slice."""
    room.run("tc -batch -", given=ONE_TREE.format(at=at, ceiling=10 * at))


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return the program in a room whose v0 has four queues with a tree each, not started."""
    skip_where_no_room_can_be_made()
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as made:
        room.run("ip -batch -", given=CABLE)
        room.run("tc qdisc replace dev v0 root handle 7fff: mq")
        for at in range(1, QUEUES + 1):
            build(room, at)
        yield made


def used(program: Program) -> dict[str, int]:
    """Return what each slice has used."""
    return {name: row["period_used_bytes"] for (name, _), row in program.lanes().items()}


def test_each_queue_s_classes_are_counted_capped_and_given_back(program: Program) -> None:
    """Full rates are those that were found; a cap changes one ceiling, and in the end nothing differs."""
    queues = Queues(program.room)
    before, but_ceilings = tree(program.room), tree(program.room, but=CEILING)
    program.start()
    full = {name: row["full_rate_bytes_per_second"] for (name, _), row in program.lanes().items()}
    assert full == {"s1": 1_250_000, "s2": 2_500_000, "s3": 3_750_000, "s4": 5_000_000}
    assert tree(program.room) == before
    program.write_slices(THIRD_TIGHT)
    queues.send(2, 20)
    queues.send(3, 150)
    wait_for(lambda: used(program) == {"s1": 0, "s2": 20_000, "s3": 150_000, "s4": 0}, what="the count")
    wait_for(lambda: 0 < ceiling(program.room, 0x3_0010) < 300_000, what="the cap")
    assert tree(program.room, but=CEILING) == but_ceilings
    assert ceiling(program.room, 0x2_0010) == 2_500_000
    shown = ask(program, "tree", "show").stdout
    assert [line.strip("─├└│ ") for line in shown.splitlines() if line.endswith(":")] == ["1:", "2:", "3:", "4:"]
    assert "3:10    s3 normal  rate 5mbit" in shown
    program.write_slices(SLICES[:1])
    wait_for(lambda: tree(program.room) == before, what="the giving back")


def test_one_queue_s_tree_ends_and_no_byte_is_lost_or_counted_twice(program: Program) -> None:
    """What it had sent unseen is shared out among its own classes; the other trees' accounts know nothing of it."""
    program.write_slices([*SLICES, {"name": "rest", "class": "2:2"}])
    queues = Queues(program.room)
    program.start()
    rest = used(program)["rest"]
    for at in (1, 2, 3):
        queues.send(at, 10 * at)
    others = {"s1": 10_000, "s3": 30_000, "s4": 0}
    wait_for(lambda: used(program) == {**others, "s2": 20_000, "rest": rest}, what="the count")
    with program.halted():
        queues.send(2, 7)
        queues.send(3, 5)
        program.room.run("tc qdisc del dev v0 parent 7fff:2")
        build(program.room, 2)
        queues.send(2, 40)
    others["s3"] = 35_000
    wait_for(lambda: used(program)["s2"] >= 60_000, what="the count")
    program.turn()
    found = used(program)
    assert found.pop("s2") + found.pop("rest") == 67_000 + rest
    assert found == others
    assert "Traceback" not in program.said()


def test_an_mq_that_is_built_anew_with_all_its_trees(program: Program) -> None:
    """Accounts go on, and caps come back."""
    program.write_slices(THIRD_TIGHT)
    queues = Queues(program.room)
    program.start()
    queues.send(3, 150)
    wait_for(lambda: used(program)["s3"] == 150_000, what="the count")
    wait_for(lambda: 0 < ceiling(program.room, 0x3_0010) < 300_000, what="the cap")
    program.room.run("tc qdisc del dev v0 root")
    wait_for(lambda: "v0 has no HTB at its root" in program.said(), what="the trouble")
    program.room.run("tc qdisc replace dev v0 root handle 7fff: mq")
    for at in range(1, QUEUES + 1):
        build(program.room, at)
    queues.send(1, 10)
    wait_for(lambda: 0 < ceiling(program.room, 0x3_0010) < 300_000, what="the cap")
    wait_for(lambda: used(program) == {"s1": 10_000, "s2": 0, "s3": 150_000, "s4": 0}, what="the count")


def test_an_mq_without_trees_is_refused_with_what_to_do(program: Program) -> None:
    """In one line; nothing is touched."""
    program.room.run("tc qdisc del dev v0 root")
    program.room.run("tc qdisc replace dev v0 root handle 7fff: mq")
    refused = program.run()
    assert refused.returncode == 1
    assert "v0 has no HTB at its root (but mq 7fff:) nor below that one's queues: build the tree" in refused.stderr
    assert program.room.classes() == {}
