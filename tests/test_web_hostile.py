"""Clients that mean harm: scrapes are still answered, turns go on, nothing grows without bound."""

from __future__ import annotations

import json
import random
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bwexporter.web.server import CONNECTIONS
from tests.certificates import Authority
from tests.web_victim import MOST_FILES

ROOT = Path(__file__).parents[1]
MANY = 2_000
MOST_GROWTH_BYTES = 120_000_000
SETTLING_SECONDS = 1.0


class Victim:
    """A serving process."""

    def __init__(self, *arguments: str, context: ssl.SSLContext | None = None) -> None:
        command = [sys.executable, "-m", "tests.web_victim", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._read())
        self._context = context

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def fares(self) -> dict[str, int]:
        """Ask for its figures."""
        assert self._process.stdin is not None
        self._process.stdin.write("how\n")
        self._process.stdin.flush()
        return self._read()

    def scrape(self) -> None:
        """Scrape as Prometheus does, with a new connection."""
        scheme = "http" if self._context is None else "https"
        with httpx.Client(verify=self._context or False, trust_env=False, timeout=60) as client:
            answer = client.get(f"{scheme}://127.0.0.1:{self.port}/metrics")
        assert answer.status_code == 200
        assert "bwexporter_up 1" in answer.text

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def turns_a_second(self, meanwhile: Callable[[], None]) -> float:
        """Return how many turns it took a second while something went on."""
        before, start = self.fares()["turns"], time.monotonic()
        meanwhile()
        return (self.fares()["turns"] - before) / (time.monotonic() - start)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process open as many connections as its attack needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MANY + 2_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def plain() -> Iterator[Victim]:
    """Serve plain HTTP."""
    victim = Victim()
    yield victim
    victim.close()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Serve TLS."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    certificate, key = authority.sign("server")
    file = authority.folder / "web.yml"
    file.write_text(json.dumps({"tls_server_config": {"cert_file": str(certificate), "key_file": str(key)}}))
    victim = Victim(str(file), context=ssl.create_default_context(cafile=authority.certificate))
    yield victim
    victim.close()


def assert_unharmed(victim: Victim, attacked: Callable[[], None] = lambda: None) -> None:
    """Scrape while an attack goes on, and look at how the victim fares."""
    quiet = victim.turns_a_second(lambda: time.sleep(SETTLING_SECONDS))
    before = victim.fares()

    def scrapes() -> None:
        attacked()
        for _ in range(5):
            victim.scrape()
            time.sleep(0.1)

    busy, after = victim.turns_a_second(scrapes), victim.fares()

    assert busy > quiet / 10
    assert after["resident_bytes"] < before["resident_bytes"] + MOST_GROWTH_BYTES
    assert after["files"] < MOST_FILES / 2


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
        assert plain.fares()["files"] < CONNECTIONS + 100


@pytest.mark.parametrize("first_bytes", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half a handshake"])
def test_two_thousand_idle_connections_of_tls(encrypted: Victim, first_bytes: bytes) -> None:
    """A handshake that never comes holds nobody up."""
    with crowd(encrypted, MANY, first_bytes):
        assert_unharmed(encrypted)
        assert encrypted.fares()["files"] < CONNECTIONS + 100


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
        one.settimeout(20)
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
        thread.join(timeout=60)
        assert not thread.is_alive()
