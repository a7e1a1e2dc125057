"""Under traffic: whatever changes in the tree, a slice that nobody touches loses no packet, counter, class or queue."""

from __future__ import annotations

import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from bwexporter.kernel import wire
from tests.kernel.daemon_rig import (
    PACKET_BYTES,
    PATIENCE_SECONDS,
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)

pytestmark = pytest.mark.kernel

CONFIG: dict[str, Any] = {
    "interval": "500ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": {"full": "80mbit", "allowance": "unlimited"}, "exempt": {"full": "80mbit"}},
}
ANN = {"name": "ann", "id": 0x5000}
BYSTANDER = handle_of(0x5000)
THOUSAND = [{"name": f"s{number}", "id": number} for number in range(1, 1001)]
SOL_NETLINK, ADD_MEMBERSHIP, GROUP_TC, SO_RCVBUFFORCE = 270, 1, 4, 33


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the daemon with one slice."""
    with Room() as room, Program(room, tmp_path_factory.mktemp("untouched"), CONFIG, [ANN]) as made:
        made.start()
        wait_for(lambda: BYSTANDER in room.classes(), what="the class")
        yield made


class Watched:
    """The slice ann, which sends numbered packets all the time, and the kernel's notifications meanwhile."""

    def __init__(self, program: Program) -> None:
        self._room = program.room
        self._sender = Traffic(program.room).socket(BYSTANDER)
        with program.room.entered():
            self._sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            self._listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._sniffer.bind(("v1", 0x0800))
        self._sniffer.settimeout(0.2)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._listener.bind((0, 0))
        self._listener.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP_TC)
        self._listener.setblocking(False)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._hear)]
        self.sent = 0
        self.arrived: list[int] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._leaf = self._class()
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.arrived) > 50, what="the traffic")
        return self

    def __exit__(self, *failure: object) -> None:
        """End, and see that nothing of it was touched."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        endings = list(self._endings())
        found = self._class()
        for opened in (self._sender, self._sniffer, self._listener):
            opened.close()
        if failure[0] is not None:
            return
        assert self.arrived == list(range(self.sent)), "packets were lost or came in another order"
        assert found == (self._leaf[0], self._leaf[1] + self.sent * PACKET_BYTES)
        assert not [one for one in endings if BYSTANDER in one]

    def _send(self) -> None:
        while not self._ended.is_set():
            self._sender.send(struct.pack("=I", self.sent).ljust(PACKET_BYTES - 42, b"\0"))
            self.sent += 1
            time.sleep(0.001)

    def _hear(self) -> None:
        deadline = None
        while deadline is None or (len(self.arrived) < self.sent and time.monotonic() < deadline):
            if self._ended.is_set() and deadline is None:
                deadline = time.monotonic() + PATIENCE_SECONDS
            try:
                frame = self._sniffer.recv(2048)
            except TimeoutError:
                continue
            if len(frame) == PACKET_BYTES:
                self.arrived.append(struct.unpack_from("=I", frame, 42)[0])

    def _endings(self) -> Iterator[tuple[int, int]]:
        """Yield handle and parent of every class and queue that was deleted."""
        while True:
            try:
                data = self._listener.recv(1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                length, kind, _, _, _, _, _, handle, parent = wire.EVENT.unpack_from(data, at)
                if kind in {wire.RTM_DELTCLASS, wire.RTM_DELQDISC}:
                    yield handle, parent
                at += (length + 3) & ~3

    def _class(self) -> tuple[str, int]:
        """Return the class's leaf queue and what it has sent."""
        shown = self._room.run("tc -s class show dev v0")
        line, _, rest = shown.partition(f"class htb 1:{BYSTANDER & 0xFFFF:x} ")[2].partition("\n")
        return line.partition("leaf ")[2].split()[0], int(rest.split()[1])


def slices(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ann's record and others."""
    return [ANN, *more]


def classes(program: Program) -> int:
    """Count the classes."""
    return program.room.run("tc class show dev v0").count("class htb")


def cap(program: Program, node_cap: str) -> None:
    """Change the node cap."""
    program.write_config({**CONFIG, "devices": [{**CONFIG["devices"][0], "cap": node_cap}]})
    wanted = f"ceil {node_cap[:-4]}Mbit"
    wait_for(lambda: wanted in program.room.run("tc class show dev v0 classid 1:10"), what="the node cap")


def shares(program: Program, share: int) -> None:
    """Change the share of another slice, which scales no quantum of ann's."""
    program.write_slices(slices({"name": "other", "id": 0x4007, "normal": {"share": share}}))
    shown = "tc -d class show dev v0 classid 1:5007"
    wait_for(lambda: f"quantum {share * 65536}" in program.room.run(shown), what="the share")


def roster(program: Program, *more: dict[str, Any]) -> None:
    """Change the other slices."""
    program.write_slices(slices(*more))
    wait_for(lambda: classes(program) == 3 + 2 * (3 + len(more)), what="the roster")


def reload(program: Program) -> None:
    """Ask for everything to be read anew, though nothing has changed."""
    before = program.said().count("roster slices=")
    program.signal(signal.SIGHUP)
    wait_for(lambda: program.said().count("roster slices=") > before, what="the reload")


ACTS: dict[str, Callable[[Program], None]] = {
    "everything is read anew": reload,
    "a node cap changes": lambda program: cap(program, "300mbit"),
    "a share changes": lambda program: shares(program, 3),
    "a thousand slices come": lambda program: roster(program, *THOUSAND),
    "a thousand slices go": roster,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_slice_that_nobody_touches_goes_on(program: Program, act: str) -> None:
    """Every packet arrives, in its order; the counter is their sum; its class and its queue never ended."""
    with Watched(program):
        ACTS[act](program)


def used(program: Program) -> int:
    """Return what the slice tight has used."""
    return int(program.lane("tight")["period_used_bytes"])


def test_everything_off_and_on_again(program: Program) -> None:
    """Full rates, also of a capped slice; counting goes on; what belongs to no slice stays shaped."""
    tight = {"name": "tight", "id": 0x4004, "normal": {"allowance": "20GB", "threshold": "100kB"}}
    program.write_config({**CONFIG, "devices": [{**CONFIG["devices"][0], "default": "8mbit"}]})
    program.write_slices(slices(tight))
    wait_for(lambda: handle_of(0x4004) in program.room.classes(), what="the class")
    traffic = Traffic(program.room)
    traffic.send(("tight", "normal"), handle_of(0x4004), 150)
    wait_for(lambda: program.room.classes()[handle_of(0x4004)].ceiling < 300_000, what="the cap")
    for switch in ({"off": True}, {"tags": {"net_max_rate": -1}}):
        with Watched(program):
            program.write_slices(slices(tight, {"name": "_default", **switch}))
            wait_for(
                lambda: program.room.classes()[handle_of(0x4004)].ceiling == 10_000_000,
                what="the full rate",
            )
        assert program.room.classes()[handle_of(0x6FFF)].ceiling == 1_000_000
        traffic.send(("tight", "normal"), handle_of(0x4004), 50)
        wait_for(lambda: used(program) == traffic.passed["tight", "normal"], what="the count")
        assert program.lane("tight")["verdict"] == "off"
        program.write_slices(slices(tight))
        wait_for(lambda: program.room.classes()[handle_of(0x4004)].ceiling < 300_000, what="the cap")
