"""Slices from each kind of source under running traffic on the real kernel: added, changed, removed, returned, down."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme

from tests.kernel.daemon_rig import (
    PACKET_BYTES,
    Greedy,
    Program,
    Room,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.servers import Asked, Certificates, Plc, Says, Server, sliver

pytestmark = pytest.mark.kernel

EVERY = "30s"  # an answer may take as long, on a machine that stalls; SIGHUP asks at once
SECRET = "s3cr3t-t0ken"  # noqa: S105 - of this test
WRONG = f"not-{SECRET}"
FULL = {"full": "80mbit", "allowance": "unlimited"}
CONFIG = {
    "node": "room",
    "interval": "300ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": FULL, "exempt": FULL},
}
NEIGHBOUR = {"name": "neighbour", "id": 1, "match": {"mark": 1}}
MARK = {"mark": 2}
ALLOWANCE_BYTES, THRESHOLD_BYTES = 20_480_000_000, 102_400
PACKETS = 110  # just above the threshold


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


class Origin(Protocol):
    """A source of each kind, as the test changes it. `tight` says whether the slice has an allowance."""

    item: dict[str, Any]
    slice_id: int

    def say(self, *names: str, tight: bool = False, wide_bytes: int = 0) -> None:
        """Give slices, and around them so many bytes that mean nothing."""

    def fail(self) -> None:
        """Give nothing that can be used."""

    def troubles(self) -> dict[str, Callable[[], None]]:
        """Return all that can go wrong with it."""

    def mend(self) -> None:
        """End whatever is wrong, and give the slice `ann`."""


class Files:
    """A second file of slices, mounted from a Kubernetes ConfigMap."""

    def __init__(self, folder: Path, _: Callable[[Server], str]) -> None:
        self.item, self.slice_id = {"file": "more.yml"}, 2
        self._path, self._versions = folder / "more.yml", 0

    def say(self, *names: str, tight: bool = False, wide_bytes: int = 0) -> None:
        """Swap the link to the folder of the running version, as Kubernetes does."""
        self._versions += 1
        folder, version = self._path.parent, f"..version{self._versions}"
        (folder / version).mkdir()
        (folder / version / self._path.name).write_text(
            json.dumps({"slices": [_plain(name, tight=tight) for name in names]}) + " " * wide_bytes
        )
        (folder / "..data_tmp").symlink_to(version)
        (folder / "..data_tmp").replace(folder / "..data")
        if not self._path.is_symlink():
            self._path.symlink_to(f"..data/{self._path.name}")

    def fail(self) -> None:
        """Leave half a file."""
        self._path.write_text("slices: [")

    def troubles(self) -> dict[str, Callable[[], None]]:
        """Half a file, none, and one of 100 MB."""
        return {
            "half": self.fail,
            "gone": self._path.unlink,
            "large": lambda: os.truncate(self._path, 100_000_000),
        }

    def mend(self) -> None:
        """Write it anew."""
        self.say("ann")


def foreign(folder: Path) -> None:
    """Let the server's certificate be one that nobody here trusts."""
    _write(folder / "ca.pem", trustme.CA().cert_pem.bytes().decode())


class Http:
    """A list at a URL."""

    def __init__(self, folder: Path, serve: Callable[[Server], str]) -> None:
        (folder / "token").write_text(SECRET)
        self._folder, self._trusted = folder, (folder / "ca.pem").read_text()
        self._server = Server(lambda _: Says(b"", 500))
        url = serve(self._server)
        self.item = {"http": {"url": f"{url}/slices", "every": EVERY, "ca_file": "ca.pem", "token_file": "token"}}
        self.slice_id = 2

    def say(self, *names: str, tight: bool = False, wide_bytes: int = 0) -> None:
        """Answer whoever has the token."""
        body = json.dumps({"slices": [_plain(name, tight=tight) for name in names]}).encode() + b" " * wide_bytes
        self._server.answer = lambda asked: (
            Says(body) if asked.headers.get("authorization") == f"Bearer {SECRET}" else Says(b"", 401)
        )

    def fail(self) -> None:
        """Break off in the middle of the answer."""
        self._server.answer = lambda _: Says(b'{"slices": []}').half

    def troubles(self) -> dict[str, Callable[[], None]]:
        """Killed in mid-reply, a wrong certificate, a wrong token."""
        return {
            "half": self.fail,
            "certificate": partial(foreign, self._folder),
            "token": lambda: _write(self._folder / "token", WRONG),
        }

    def mend(self) -> None:
        """Give back all that was taken."""
        _write(self._folder / "ca.pem", self._trusted)
        _write(self._folder / "token", SECRET)
        self.say("ann")


class Central:
    """A PlanetLab Central."""

    def __init__(self, folder: Path, serve: Callable[[Server], str]) -> None:
        self._folder, self._trusted = folder, (folder / "ca.pem").read_text()
        self._authorize(SECRET)
        self._plc = Plc()
        self._server = Server(self._answer)
        url = serve(self._server)
        self.item = {"plc": {"url": f"{url}/PLCAPI/", "every": EVERY, "ca_file": "ca.pem", "auth_file": "auth.yml"}}
        self.slice_id = 2

    def say(self, *names: str, tight: bool = False, wide_bytes: int = 0) -> None:
        """Give slivers; tags have KByte and text. The node is in a group of a long name."""
        self._server.answer = self._answer
        tags = [("net_max_kbyte", str(ALLOWANCE_BYTES // 1024)), ("net_thresh_kbyte", str(THRESHOLD_BYTES // 1024))]
        self._plc.data["groups"] = ["x" * wide_bytes] if wide_bytes else []
        self._plc.data["slivers"] = [sliver(name, *(tags if tight else [])) for name in names]

    def fail(self) -> None:
        """Break off in the middle of the answer."""
        self._server.answer = lambda asked: self._answer(asked).half

    def troubles(self) -> dict[str, Callable[[], None]]:
        """Killed in mid-reply, a wrong certificate, a wrong password, which PLC's fault repeats."""
        return {
            "half": self.fail,
            "certificate": partial(foreign, self._folder),
            "password": lambda: self._authorize(WRONG),
        }

    def mend(self) -> None:
        """Give back all that was taken."""
        _write(self._folder / "ca.pem", self._trusted)
        self._authorize(SECRET)
        self.say("ann")

    def _authorize(self, password: str) -> None:
        _write(self._folder / "auth.yml", f"AuthMethod: password\nUsername: noc\nAuthString: {password}\n")

    def _answer(self, asked: Asked) -> Says:
        """Answer whoever has the password."""
        given = xmlrpc.client.loads(asked.body)[0][0].get("AuthString")
        fault = xmlrpc.client.Fault(103, f"Failed to authenticate noc with {given}")
        self._plc.fault = None if given == SECRET else fault
        return self._plc.answer(asked)


def _write(path: Path, text: str) -> None:
    """Write a file as a whole: no poll reads half of it."""
    beside = path.with_name("beside")
    beside.write_text(text)
    beside.replace(path)


def _plain(name: str, *, tight: bool) -> dict[str, Any]:
    normal = {"allowance": f"{ALLOWANCE_BYTES}B", "threshold": f"{THRESHOLD_BYTES}B"} if tight else {}
    return {"name": name, "id": 2, "match": MARK, "normal": normal}


class MarkedTraffic(Traffic):
    """Senders whose packets have their slice's mark."""

    def socket(self, handle: int) -> socket.socket:
        """Open a sender; the mark is the slice's id."""
        sender = super().socket(handle)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, handle & 0xFFF)
        return sender


class Node:
    """A room, a program in it with a file of one slice and a source of one kind."""

    def __init__(self, room: Room, program: Program, origin: Origin) -> None:
        self.room, self.program, self.origin, self.traffic = room, program, origin, MarkedTraffic(room)

    def has(self, name: str) -> bool:
        """Say whether a slice has lanes and classes."""
        return (name, "normal") in self.program.lanes() and handle_of(self.origin.slice_id) in self.room.classes()

    def printed(self, *words: str) -> str:
        """Return what a command says of the configuration, in the room."""
        command = [*self.room.enter, self.room.python, "-m", "bwexporter", *words, str(self.program.config_file)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.room.environment, timeout=60
        )
        return done.stdout + done.stderr

    def ask(self) -> None:
        """Have the source asked at once."""
        self.program.signal(signal.SIGHUP)

    def source(self, family: str) -> float:
        """Return a metric of the source; no number until a turn is published."""
        found = (
            value
            for series, value in self.program.metrics().items()
            if series.startswith(f"bwexporter_source_{family}{{") and not re.search(r"/(slices|patch)\.yml", series)
        )
        return next(found, math.nan)


@pytest.fixture(params=[Files, Http, Central], ids=["file", "http", "plc"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    """Return a running node whose source gives the slice `ann`."""
    certificates = Certificates(tmp_path)
    with ExitStack() as open_things:
        room = open_things.enter_context(Room())

        def serve(server: Server) -> str:
            with room.entered():
                return open_things.enter_context(server.running(certificates.here)).url

        origin = request.param(tmp_path, serve)
        origin.say("ann")
        # There is no user ann on this machine, who would be told by a name of PLC's: a file of the node patches that.
        patch = {"name": "ann", "override": True, "match": MARK}
        (tmp_path / "patch.yml").write_text(json.dumps({"slices": [patch] if isinstance(origin, Central) else []}))
        config = {**CONFIG, "slices": [{"file": "slices.yml"}, origin.item, {"file": "patch.yml"}]}
        program = open_things.enter_context(Program(room, tmp_path, config, [NEIGHBOUR]))
        yield Node(room, program.start(), origin)


def test_slices_come_change_go_return_and_outlive_trouble(node: Node) -> None:
    """Accounts are kept, caps are right within a turn of the change, and the neighbour never notices."""
    program, origin = node.program, node.origin
    assert node.has("ann"), "the first turn has the slices of every source"
    with Greedy(node.traffic, handle_of(1)):
        node.traffic.send(("ann", "normal"), handle_of(2), PACKETS)
        program.turn()
        assert program.lane("ann")["period_used_bytes"] == PACKETS * PACKET_BYTES
        assert program.lane("ann")["verdict"] == "within"

        before = len(program.said())
        origin.say("ann", tight=True)
        node.ask()
        assert_capped(node)
        wait_for(lambda: " capped=1 " in program.said()[before:], what="the line of the turn")
        until_capped = program.said()[before:].partition(" capped=1 ")[0]
        assert until_capped.rpartition("roster slices=")[2].count("turn lanes=") == 1, "in the very turn of the change"

        origin.say()
        node.ask()
        wait_for(lambda: not node.has("ann"), what="the removal")
        origin.say("ann", tight=True)
        node.ask()
        wait_for(lambda: node.has("ann"), what="the return")
        assert_capped(node)

        origin.fail()
        node.ask()
        wait_for(lambda: node.source("up") == 0, what="the trouble")
        for _ in range(2):
            program.turn()
            assert_capped(node)
        assert node.source("slices") == 1
        assert node.source("problems") > 0

        origin.say("ann")
        node.ask()
        wait_for(lambda: node.source("up") == 1, what="the end of the trouble")
        assert program.said().count("is up again; slices=1") == 1
        wait_for(lambda: program.lane("ann")["verdict"] == "within", what="the change")
        assert program.lane("ann")["period_used_bytes"] == PACKETS * PACKET_BYTES

        with Greedy(node.traffic, handle_of(2)):
            for tight, verdict in ((True, "over_threshold"), (False, "within")):
                used = program.lane("ann")["period_used_bytes"]
                origin.say()
                node.ask()
                wait_for(lambda: not node.has("ann"), what="the removal of a slice that sends")
                origin.say("ann", tight=tight)
                node.ask()
                wait_for(lambda: node.has("ann"), what="its return")
                wait_for(lambda verdict=verdict: program.lane("ann")["verdict"] == verdict, what=verdict)
                assert program.lane("ann")["period_used_bytes"] >= used
    neighbour = program.lane("neighbour")
    assert neighbour["verdict"] == "within"
    assert len(program.events("counter_restarted", "neighbour")) == 0


def assert_capped(node: Node) -> None:
    """See that ann is soon capped to what is left of its allowance, by account and in the kernel."""
    program = node.program
    wait_for(lambda: program.lane("ann")["verdict"] == "over_threshold", what="the cap")
    lane = program.lane("ann")
    assert lane["period_used_bytes"] == PACKETS * PACKET_BYTES
    spread = (ALLOWANCE_BYTES - PACKETS * PACKET_BYTES) / (lane["period_end_timestamp_seconds"] - time.time())
    assert lane["ceiling_bytes_per_second"] == pytest.approx(spread, rel=0.02)
    assert node.room.classes()[handle_of(2)].ceiling == pytest.approx(spread, rel=0.02)


def test_trouble_is_told_once_and_no_secret_ever(node: Node, tmp_path: Path) -> None:
    """One line when a source goes down, one when it is up again, none in between, whatever it is; none removes ann."""
    program, origin = node.program, node.origin
    name = str(tmp_path / "more.yml") if isinstance(origin, Files) else "https://localhost"
    for count, (what, begin) in enumerate(origin.troubles().items(), 1):
        if count > 1:
            origin.mend()
            node.ask()
            wait_for(lambda: node.source("up") == 1, what=f"the end before {what}")
            assert node.source("problems") == 0
        begin()
        node.ask()
        wait_for(lambda: node.source("up") == 0, what=what)
        for _ in range(2):  # it is asked again
            node.ask()
            program.turn()
            program.turn()
        told = [line for line in program.said().splitlines() if f" {name}" in line]
        again = [line for line in told if "is up again" in line]
        assert (len(told) - len(again), len(again)) == (count, count - 1), told
        assert node.has("ann")
        assert node.source("problems") == 1
    program.kill()
    program.start()
    assert node.has("ann")
    state = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*") if path.is_file())
    printed = [node.printed(*words) for words in (("check", "--ask"), ("slices", "--ask", "--config"))]
    assert all(printed)
    assert name in printed[0]
    said = [program.said(), *printed, json.dumps(program.answer()), json.dumps(program.metrics())]
    assert SECRET not in "".join(said)
    assert SECRET.encode() not in state


def test_sighup_asks_at_once(tmp_path: Path) -> None:
    """Whoever has just changed something need not wait for the next poll."""
    with ExitStack() as open_things:
        room = open_things.enter_context(Room())
        server = Server(lambda _: Says(b'{"slices": [{"name": "ann", "id": 2}]}'))
        certificates = Certificates(tmp_path)
        with room.entered():
            open_things.enter_context(server.running(certificates.here))
        item = {"http": {"url": f"{server.url}/slices", "every": "1h", "timeout": "1h", "ca_file": "ca.pem"}}
        config = {**CONFIG, "slices": [{"file": "slices.yml"}, item]}
        program = open_things.enter_context(Program(room, tmp_path, config, [NEIGHBOUR])).start()
        assert ("ann", "normal") in program.lanes()
        server.answer = lambda _: Says(b'{"slices": [{"name": "ann", "id": 2}, {"name": "bob", "id": 3}]}')
        program.signal(signal.SIGHUP)
        wait_for(lambda: ("bob", "normal") in program.lanes(), what="the answer")
        asked = len(server.asked)
        server.answer = lambda _: Says(b"{}" * 1000, trickle_seconds=0.05)
        program.signal(signal.SIGHUP)
        wait_for(lambda: len(server.asked) > asked, what="the request")
        began = time.monotonic()
        assert program.stop() == 0, "a server that is slow does not hold up the end"
        assert time.monotonic() - began < 60  # of some hundred
