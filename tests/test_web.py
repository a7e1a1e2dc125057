"""The HTTP surface, asked over real sockets of the loopback."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import httpx
import pytest
from starlette.applications import Starlette

from bwexporter import __version__
from bwexporter.core.lanes import UNLIMITED, Reason, Traffic
from bwexporter.core.report import Report
from bwexporter.errors import BwexporterError
from bwexporter.web.app import build_app
from bwexporter.web.server import REQUEST_HEADER_BYTES, Server, bind
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report

TEXT = b'bwexporter_up 1\nbwexporter_frozen{a="\xc3\xa9"} 0\n'


@dataclass
class Rendered:
    """Ready bytes, as the metrics room hands them over."""

    text: bytes
    gzip: bytes


@dataclass
class Daemon:
    """What the daemon tells the web: settable facts, no turn."""

    rendered: Rendered
    report: Report | None = None
    readiness: tuple[bool, str] = (True, "turns run")


@pytest.fixture
def daemon() -> Daemon:
    """Tell of a daemon that has rendered and is ready, and has no report yet."""
    return Daemon(Rendered(TEXT, gzip.compress(TEXT)))


def app_of(daemon: Daemon) -> Starlette:
    """Build the app as the daemon does."""
    return build_app(
        exposition=lambda: daemon.rendered,
        last_report=lambda: daemon.report,
        ready=lambda: daemon.readiness,
    )


@contextmanager
def serving(daemon: Daemon, listening: socket.socket) -> Iterator[str]:
    """Serve the daemon on the socket and give its address."""
    host, port, *_ = listening.getsockname()
    server = Server(app_of(daemon), [listening])
    server.start()
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def url(daemon: Daemon) -> Iterator[str]:
    """Give the address of a running server."""
    with serving(daemon, bind("127.0.0.1:0")) as address:
        yield address


@pytest.fixture
def get(url: str) -> Iterator[Callable[..., httpx.Response]]:
    """Ask one path of the running server."""
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        yield client.get


def connect(url: str) -> AbstractContextManager[socket.socket]:
    """Open a bare connection to the server."""
    parts = httpx.URL(url)
    return socket.create_connection((parts.host, parts.port or 0), timeout=5)


class TestMetrics:
    """The scrape."""

    def test_the_ready_bytes_are_served_with_the_type_that_prometheus_needs(
        self, get: Callable[..., httpx.Response]
    ) -> None:
        """A client that takes no gzip gets the text."""
        answer = get("/metrics", headers={"Accept-Encoding": "identity"})

        assert answer.status_code == 200
        assert answer.content == TEXT
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert "server" not in answer.headers

    @pytest.mark.parametrize(
        ("accepted", "coding"),
        [
            ("gzip", "gzip"),
            ("deflate, GZIP;q=0.5", "gzip"),
            ("*", "gzip"),
            ("gzip;q=0", None),
            ("gzip; q=0.000, *", None),
            ("br", None),
            ("", None),
        ],
    )
    def test_gzip_is_served_where_it_is_accepted(
        self, get: Callable[..., httpx.Response], accepted: str, coding: str | None
    ) -> None:
        """The bytes compressed ahead are sent to those who take them."""
        answer = get("/metrics", headers={"Accept-Encoding": accepted})

        assert answer.headers.get("content-encoding") == coding
        assert answer.content == TEXT

    def test_an_exposition_of_many_chunks_arrives_whole(
        self, daemon: Daemon, get: Callable[..., httpx.Response]
    ) -> None:
        """Megabytes are sent in pieces and arrive as they were."""
        long = b"".join(b'bwexporter_x{n="%d"} 1\n' % number for number in range(100_000))
        daemon.rendered = Rendered(long, gzip.compress(long, 1))

        assert get("/metrics", headers={"Accept-Encoding": "identity"}).content == long
        assert get("/metrics").content == long

    def test_slow_idle_and_talkative_clients_delay_no_scrape(
        self, daemon: Daemon, url: str, get: Callable[..., httpx.Response]
    ) -> None:
        """Clients that never speak, stop in their header or never read leave the scrape as quick as before."""
        daemon.rendered = Rendered(TEXT * 400_000, gzip.compress(TEXT))
        with connect(url) as never_reads, connect(url) as slow, connect(url):
            never_reads.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost")

            assert never_reads.recv(12) == b"HTTP/1.1 200"
            for _ in range(3):
                assert get("/metrics", timeout=2).content == TEXT

    def test_a_header_without_end_is_refused(self, url: str) -> None:
        """A client that sends header upon header is cut off, and the server goes on."""
        with connect(url) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (REQUEST_HEADER_BYTES * 2))

            assert client.recv(12) == b"HTTP/1.1 400"
        assert httpx.get(f"{url}/-/healthy", trust_env=False).status_code == 200


class TestPaths:
    """The other paths."""

    def test_healthy_is_healthy_and_ready_follows_the_daemon(
        self, daemon: Daemon, get: Callable[..., httpx.Response]
    ) -> None:
        """Ready is 503 with the daemon's sentence until turns run."""
        daemon.readiness = (False, "the first turn has not ended yet")
        waiting = get("/-/ready")
        daemon.readiness = (True, "turns run")

        assert (waiting.status_code, waiting.text) == (503, "the first turn has not ended yet\n")
        assert (get("/-/ready").status_code, get("/-/ready").text) == (200, "turns run\n")
        assert get("/-/healthy").status_code == 200

    def test_the_landing_page_names_the_program_and_links_the_rest(
        self, daemon: Daemon, get: Callable[..., httpx.Response]
    ) -> None:
        """Name, version and links, for people, light and dark; what comes from elsewhere is escaped."""
        daemon.report = report(device_report(), node="<script>n1")
        page = get("/")

        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert f"version {__version__}" in page.text
        assert "bwexporter on &lt;script&gt;n1" in page.text
        assert "prefers-color-scheme: dark" in page.text
        for link in ("metrics", "api/v1/slices", "-/healthy", "-/ready"):
            assert f'href="{link}"' in page.text
            assert get(f"/{link}").status_code == 200

    @pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/slices"])
    def test_head_gives_the_headers_of_get_without_the_body(self, daemon: Daemon, url: str, path: str) -> None:
        """HEAD works everywhere."""
        daemon.report = report(device_report())
        with httpx.Client(base_url=url, trust_env=False) as client:
            head, whole = client.head(path), client.get(path)

        assert head.status_code == whole.status_code == 200
        assert head.content == b""
        for name in ("content-type", "content-length"):
            assert head.headers[name] == whole.headers[name]

    def test_an_unknown_path_and_a_wrong_method_are_told_in_plain_text(self, url: str) -> None:
        """404 and 405 are short plain texts; 405 says what is allowed."""
        unknown = httpx.get(f"{url}/metricz", trust_env=False)
        wrong = httpx.post(f"{url}/metrics", trust_env=False)

        assert (unknown.status_code, unknown.text) == (404, "Not Found")
        assert (wrong.status_code, wrong.text) == (405, "Method Not Allowed")
        assert unknown.headers["content-type"] == wrong.headers["content-type"] == "text/plain; charset=utf-8"
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


class TestSlicesApi:
    """The JSON of the slices."""

    def test_a_lane_is_a_row_with_the_names_of_the_metrics(
        self, daemon: Daemon, get: Callable[..., httpx.Response]
    ) -> None:
        """Every figure of a lane stands under its name, times in Unix time."""
        lane = LaneFigures(
            'a"lice',
            Traffic.EXEMPT,
            used_bytes=1,
            sent_bytes=2,
            sent_packets=12,
            dropped_packets=13,
            overlimits=14,
            backlog_bytes=15,
            allowance_bytes=3,
            threshold_bytes=4,
            ceiling_bytes_per_second=5,
            enforced_ceiling_bytes_per_second=6,
            full_bytes_per_second=7,
            guarantee_bytes_per_second=8,
            floor_bytes_per_second=9,
            reason=Reason.OVER_THRESHOLD,
            capped=True,
            period_start_at=10.0,
            period_end_at=20.0,
            seconds_to_threshold=0.0,
            seconds_to_allowance=11.5,
        )
        daemon.report = report(device_report([lane], wall_offset_seconds=0.5))

        assert get("/api/v1/slices").json() == {
            "node": "node1.example.org",
            "taken_at": NOW_WALL_SECONDS,
            "enforcing": True,
            "frozen": False,
            "by_hand": [],
            "up": True,
            "troubles": {},
            "slices": [
                {
                    "device": "eth0",
                    "slice": 'a"lice',
                    "traffic": "exempt",
                    "verdict": "over_threshold",
                    "capped": True,
                    "shadow": False,
                    "sent_bytes_total": 2,
                    "sent_packets_total": 12,
                    "dropped_packets_total": 13,
                    "overlimit_total": 14,
                    "backlog_bytes": 15,
                    "period_used_bytes": 1,
                    "period_allowance_bytes": 3,
                    "period_threshold_bytes": 4,
                    "period_start_timestamp_seconds": 10.5,
                    "period_end_timestamp_seconds": 20.5,
                    "full_rate_bytes_per_second": 7,
                    "guarantee_bytes_per_second": 8,
                    "floor_bytes_per_second": 9,
                    "ceiling_bytes_per_second": 6,
                    "intended_ceiling_bytes_per_second": 5,
                    "seconds_to_threshold": 0.0,
                    "seconds_to_allowance": 11.5,
                },
            ],
        }

    def test_what_has_no_number_is_null_and_troubles_are_named(
        self, daemon: Daemon, get: Callable[..., httpx.Response]
    ) -> None:
        """No allowance, no class and never are null; an unreadable device says why; removed lanes are left out."""
        lane = LaneFigures(allowance_bytes=UNLIMITED, threshold_bytes=9, enforced_ceiling_bytes_per_second=-1)
        device = device_report([lane], removed=[LaneFigures("bob")], trouble="it is gone")
        daemon.report = report(device, enforcing=False)
        answer = get("/api/v1/slices").json()
        (row,) = answer["slices"]

        assert (answer["up"], answer["troubles"], answer["enforcing"]) == (False, {"eth0": "it is gone"}, False)
        assert row["shadow"] is True
        for name in ("period_allowance_bytes", "period_threshold_bytes", "ceiling_bytes_per_second"):
            assert row[name] is None
        assert row["seconds_to_threshold"] is None

    def test_before_the_first_turn_there_is_nothing_to_tell(self, get: Callable[..., httpx.Response]) -> None:
        """The API says that it is too early."""
        answer = get("/api/v1/slices")

        assert answer.status_code == 503
        assert "no turn has ended yet" in answer.json()["error"]


class TestListening:
    """Addresses and sockets."""

    @pytest.mark.parametrize("listen", ["localhost:0", "[::1]:0", ":0", "[::]:0", "0.0.0.0:0"])
    def test_every_form_of_address_is_served(self, daemon: Daemon, listen: str) -> None:
        """IPv4, IPv6, names and all addresses at once; what listens on all is reached on the loopback."""
        listening = bind(listen)
        port = listening.getsockname()[1]
        with serving(daemon, listening) as url:
            reached = url if listen in {"localhost:0", "[::1]:0"} else f"http://127.0.0.1:{port}"

            assert httpx.get(f"{reached}/-/healthy", trust_env=False).status_code == 200

    def test_a_taken_port_is_named(self) -> None:
        """The error says which address and what to do."""
        with bind("127.0.0.1:0") as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"

            with pytest.raises(BwexporterError, match=f"cannot listen on {listen}: the port is taken"):
                bind(listen)

    def test_an_address_of_another_machine_is_refused(self) -> None:
        """A documentation address belongs to nobody."""
        with pytest.raises(BwexporterError, match="this machine does not have that address"):
            bind("192.0.2.1:0")

    def test_an_unknown_host_is_named(self) -> None:
        """A name that never resolves (RFC 6761) is an error that names it."""
        with pytest.raises(BwexporterError, match=r"the host 'node\.invalid' is unknown"):
            bind("node.invalid:0")

    @pytest.mark.parametrize("listen", ["", "10099", "::1:10099", "localhost:", "localhost:http", "a:70000", "a:-1"])
    def test_what_is_no_address_is_told_how_to_write_one(self, listen: str) -> None:
        """The error shows the forms that are understood."""
        with pytest.raises(BwexporterError, match=r"write host:port, \[::1\]:port"):
            bind(listen)

    def test_connections_made_before_the_start_are_answered(self, daemon: Daemon) -> None:
        """A socket that was bound earlier, or inherited by number, loses no client."""
        with bind("127.0.0.1:0") as earlier:
            inherited = socket.socket(fileno=earlier.detach())
        with socket.create_connection(inherited.getsockname(), timeout=5) as client:
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            with serving(daemon, inherited):
                assert client.recv(12) == b"HTTP/1.1 200"

    def test_stopping_ends_in_time_although_clients_hold_on(self, daemon: Daemon) -> None:
        """After stop no thread runs and the port is free, with one client idle and one that never reads its answer."""
        daemon.rendered = Rendered(TEXT * 400_000, b"")
        listening = bind("127.0.0.1:0")
        address = listening.getsockname()
        with socket.create_connection(address) as never_reads, socket.create_connection(address):
            with serving(daemon, listening):
                never_reads.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
                never_reads.recv(12)

            assert "web" not in {thread.name for thread in threading.enumerate()}
            with bind(f"127.0.0.1:{address[1]}"):
                pass

    def test_a_client_that_sends_no_request_is_closed(self, daemon: Daemon) -> None:
        """Idle and half-way clients lose their connection after the time for the first request."""
        listening = bind("127.0.0.1:0")
        server = Server(app_of(daemon), [listening], first_request_seconds=0.1)
        address = listening.getsockname()
        with socket.create_connection(address, 5) as idle, socket.create_connection(address, 5) as half_way:
            half_way.sendall(b"GET / HTTP/1.1\r\n")
            server.start()

            assert idle.recv(1) == half_way.recv(1) == b""
        server.stop()

    def test_a_server_that_never_started_can_be_stopped(self, daemon: Daemon) -> None:
        """Stopping closes the sockets also where it never came to starting."""
        listening = bind("127.0.0.1:0")
        Server(app_of(daemon), [listening]).stop()

        assert listening.fileno() == -1
