"""Clients that mean harm: the real daemon over real HTB still answers scrapes, takes its turns in time, and caps.

Each attack is on a node of two hundred slices in a network namespace of its own; while it goes on, another slice sends
past its threshold. What the program says of itself (turns, misfires, memory, open files) stands in its own scrapes.
"""

from __future__ import annotations

import json
import random
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bwexporter.web.server import CONNECTIONS
from tests.certificates import Authority
from tests.kernel.daemon_rig import (
    PACKET_BYTES,
    Program,
    Room,
    Stalls,
    Traffic,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.kernel

MANY = 2_000
SLICES = 200
MOST_FILES = 1024  # what a service may open unless somebody allows more
MOST_GROWTH_BYTES = 120_000_000
INTERVAL_SECONDS = 0.5  # of turns; the bounds below are for a machine that has much else to do at the time
LONG_SECONDS = 0.5  # for a turn; a bound of their histogram
LATE_SECONDS = 4.0  # for the last turn that ended
SCRAPES = 3
PAST_THRESHOLD = 120  # packets; then some 231 kB a second for a day, so that what is queued still passes
CONFIG: Mapping[str, Any] = {
    "node": "room",
    "interval": "500ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {
        "normal": {"full": "80mbit", "allowance": "20GB", "threshold": "100kB"},
        "exempt": {"full": "80mbit", "allowance": "unlimited"},
    },
}


class Scrape(NamedTuple):
    """What one scrape said, by series, and when it was begun."""

    at_seconds: float
    series: Mapping[str, float]

    def __getitem__(self, name: object) -> float:
        """Return the value of a series of the program's own."""
        return self.series[f"bwexporter_{name}"]

    @property
    def short_turns(self) -> float:
        """Return how many turns were no long ones."""
        return self[f'turn_duration_seconds_bucket{{le="{LONG_SECONDS}"}}']

    @property
    def late_seconds(self) -> float:
        """Return how old the last turn was when the scrape was begun."""
        return self.at_seconds - self["last_turn_timestamp_seconds"]


class Victim:
    """The daemon of one room, and traffic of slices that never sent before."""

    def __init__(self, program: Program, tls: ssl.SSLContext | None) -> None:
        self._program, self._tls = program, tls
        self._traffic = Traffic(program.room)
        self._next_slice = 1
        program.may_open(MOST_FILES)
        self.first = self.scrape()

    def scrape(self) -> Scrape:
        """Scrape as Prometheus does, with a new connection."""
        began = time.time()
        with httpx.Client(verify=self._tls or False, trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = client.get(f"{self._program.url}/metrics")
        assert answer.status_code == 200
        lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
        return Scrape(began, {series: float(value) for series, _, value in lines})

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(("127.0.0.1", self._program.port), timeout=PATIENCE_SECONDS)

    def pass_a_threshold(self) -> Callable[[Scrape], bool]:
        """Send past the threshold of a slice; give what tells in a scrape that all was counted and it was capped."""
        number, self._next_slice = self._next_slice, self._next_slice + 1
        lane = f'{{device="v0",slice="s{number}",traffic="normal"}}'
        full = self.first[f"slice_full_rate_bytes_per_second{lane}"]
        self._traffic.send((f"s{number}", "normal"), handle_of(number), PAST_THRESHOLD)

        def is_capped(now: Scrape) -> bool:
            return (
                now[f"slice_period_used_bytes{lane}"] == PAST_THRESHOLD * PACKET_BYTES
                and now[f"slice_capped{lane}"] == 1
                and now[f"slice_ceiling_bytes_per_second{lane}"] < full
            )

        return is_capped


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process open as many connections as its attack needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MANY + 2_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def victim(folder: Path, tls: ssl.SSLContext | None = None, **web: str) -> Iterator[Victim]:
    """Run the daemon in a room."""
    skip_where_no_room_can_be_made()
    slices = [{"name": f"s{number}", "id": number} for number in range(1, SLICES + 1)]
    with Room() as room, Program(room, folder, {**CONFIG, "web": web}, slices, tls=tls) as program:
        yield Victim(program.start(), tls)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Serve plain HTTP."""
    with victim(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Serve TLS."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificate, key = authority.sign("server")
    file = authority.folder / "web.yml"
    file.write_text(json.dumps({"tls_server_config": {"cert_file": str(certificate), "key_file": str(key)}}))
    trusting = ssl.create_default_context(cafile=authority.certificate)
    with victim(tmp_path_factory.mktemp("encrypted"), trusting, config_file=str(file)) as made:
        yield made


def assert_unharmed(victim: Victim, attacked: Callable[[], None] = lambda: None) -> None:
    """Scrape while an attack goes on and a slice passes its threshold, and look at how the victim fares."""
    with Stalls() as stalls:
        before = victim.scrape()
        attacked()
        is_capped = victim.pass_a_threshold()
        scrapes = []
        for _ in range(SCRAPES):
            time.sleep(INTERVAL_SECONDS)
            scrapes.append(victim.scrape())
        wait_for(lambda: is_capped(victim.scrape()), seconds=PATIENCE_SECONDS, what="the cap")
        after = victim.scrape()

    turns = after["turns_total"] - before["turns_total"]
    went_on_seconds = after.at_seconds - before.at_seconds - stalls.seconds()
    assert turns >= went_on_seconds / INTERVAL_SECONDS / 4
    assert after.short_turns - before.short_turns >= turns / 2
    assert after["turn_misfires_total"] - before["turn_misfires_total"] <= turns
    assert max(one.late_seconds for one in scrapes) < LATE_SECONDS + stalls.seconds()
    assert after["up"] == 1
    assert after.series["process_resident_memory_bytes"] < (
        victim.first.series["process_resident_memory_bytes"] + MOST_GROWTH_BYTES
    )
    assert max(one.series["process_open_fds"] for one in (*scrapes, after)) < CONNECTIONS + 100


@contextmanager
def crowd(victim: Victim, size: int, first_bytes: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open many connections that stay; the server may close them."""
    with ExitStack() as opened:
        connections = []
        for _ in range(size):
            one = opened.enter_context(victim.connect())
            with suppress(OSError):
                one.sendall(first_bytes)
            connections.append(one)
        yield connections


@pytest.mark.parametrize("first_bytes", [b"", b"GET /metrics HTTP/1.1\r\nHost: a"], ids=["silent", "half a request"])
def test_two_thousand_idle_connections(plain: Victim, first_bytes: bytes) -> None:
    """Those who were idle for longest make room; descriptors stay bounded."""
    with crowd(plain, MANY, first_bytes):
        assert_unharmed(plain)


@pytest.mark.parametrize("first_bytes", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half a handshake"])
def test_two_thousand_idle_connections_of_tls(encrypted: Victim, first_bytes: bytes) -> None:
    """A handshake that never comes holds nobody up."""
    with crowd(encrypted, MANY, first_bytes):
        assert_unharmed(encrypted)


def test_slow_senders_and_readers_who_never_read(plain: Victim) -> None:
    """A byte now and then, and answers that nobody takes."""
    with (
        crowd(plain, 150, b"GET / HTTP/1.1\r\nX-A: ") as slow,
        crowd(plain, 60, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
    ):
        ended = threading.Event()

        def dribble() -> None:
            while not ended.wait(0.02):
                for one in slow:
                    with suppress(OSError):
                        one.send(b"b")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            assert_unharmed(plain)
        finally:
            ended.set()
            thread.join()


def pour(victim: Victim, content: bytes) -> bytes:
    """Send as much as is taken, and return the first bytes that come back."""
    with victim.connect() as one:
        one.settimeout(PATIENCE_SECONDS)
        with suppress(OSError):
            one.sendall(content)
        with suppress(OSError):
            return one.recv(64)
    return b""


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000, id="a header of 10 MB"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_500_000, id="a million headers"),
        pytest.param(b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\n\r\n", id="a path of 10 MB"),
        pytest.param(random.Random(7).randbytes(5_000_000), id="noise"),
        pytest.param(b"\r\n" * 3_000_000, id="empty lines"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"\x00garbage\r\n" * 300_000, id="garbage after a request"),
        pytest.param(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000, id="many requests at once"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n" + b"z" * 10_000_000, id="a long body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 1_000_000, id="chunks"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" * 1000,
            id="two lengths",
        ),
    ],
)
def test_requests_that_are_none(plain: Victim, content: bytes) -> None:
    """Refused, cut off or taken for what they are; the next client notices nothing."""
    threads = [threading.Thread(target=pour, args=(plain, content)) for _ in range(8)]

    def attack() -> None:
        for thread in threads:
            thread.start()

    assert_unharmed(plain, attack)
    for thread in threads:
        thread.join(timeout=PATIENCE_SECONDS)
        assert not thread.is_alive()
