"""The HTTP surface, asked over real sockets of the loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bwexporter.core.lanes import UNLIMITED, Instant, Lane, Reason, Slid, Traffic
from bwexporter.core.report import Event, EventKind
from bwexporter.errors import BwexporterError
from bwexporter.metrics import Exposition
from bwexporter.state import State, open_state
from bwexporter.web import api, openapi
from bwexporter.web.app import OPEN_METRICS_TYPE, TEXT_TYPE, Options
from bwexporter.web.listening import bind, inherited
from bwexporter.web.patience import Patience
from bwexporter.web.server import REQUEST_HEADER_BYTES, Server
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.state_cases import save
from tests.waiting import PATIENCE_SECONDS
from tests.web import TEXT, Facts, app_of, asking, connect, rendered, serving

_ON_3_AND_4 = """
import os, sys
ends = [os.dup(int(number)) for number in sys.argv[1:3]]
ends = [os.dup2(end, 100 + at) for at, end in enumerate(ends)]
[os.dup2(end, 3 + at) for at, end in enumerate(ends)]
"""
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""What Prometheus says that it accepts."""

PATHS = [
    "/", "/metrics", "/slices/alice", "/static/style.css", "/-/healthy", "/-/ready", "/api/v1/slices",
    "/api/v1/slices/alice", "/api/v1/use/alice", "/api/v1/events", "/api/v1/status", "/api/v1/openapi.json",
    "/api/v1/targets",
]  # fmt: skip
Get = Callable[..., httpx.Response]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """Give a real state file."""
    opened = open_state(tmp_path / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
    yield opened
    opened.close()


@pytest.fixture
def daemon(state: State) -> Facts:
    """Tell of a daemon that has rendered and is ready, and has no report yet."""
    return Facts(state)


@pytest.fixture
def url(daemon: Facts) -> Iterator[str]:
    """Give the address of a running server."""
    with serving(daemon, bind("127.0.0.1:0")) as address:
        yield address


@pytest.fixture
def get(url: str) -> Iterator[Get]:
    """Ask one path of the running server."""
    with asking(url) as client:
        yield client.get


class TestMetrics:
    """The scrape."""

    def test_the_ready_bytes_are_served_with_the_type_that_prometheus_needs(self, get: Get) -> None:
        """A client that takes no gzip gets the text."""
        answer = get("/metrics", headers={"Accept-Encoding": "identity"})

        assert answer.status_code == 200
        assert answer.content == TEXT
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
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
    def test_gzip_is_served_where_it_is_accepted(self, get: Get, accepted: str, coding: str | None) -> None:
        """The bytes compressed ahead are sent to those who take them."""
        answer = get("/metrics", headers={"Accept-Encoding": accepted})

        assert answer.headers.get("content-encoding") == coding
        assert answer.content == TEXT

    def test_an_exposition_of_many_chunks_arrives_whole(self, daemon: Facts, get: Get) -> None:
        """Megabytes are sent in pieces and arrive as they were."""
        long = b"".join(b'bwexporter_x{n="%d"} 1\n' % number for number in range(100_000))
        daemon.rendered = rendered(long)

        assert get("/metrics", headers={"Accept-Encoding": "identity"}).content == long
        assert get("/metrics").content == long

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            (PROMETHEUS_2, OPEN_METRICS_TYPE),
            (PROMETHEUS_3, OPEN_METRICS_TYPE),
            ("application/openmetrics-text", OPEN_METRICS_TYPE),
            ("application/openmetrics-text;version=1.0.0;q=0.3, text/plain;q=0.4", TEXT_TYPE),
            ("application/openmetrics-text;version=0.0.1", TEXT_TYPE),
            ("application/openmetrics-text;q=0", TEXT_TYPE),
            ("application/openmetrics-text;q=often", TEXT_TYPE),
            ("text/html,*/*;q=0.8", TEXT_TYPE),
            ("", TEXT_TYPE),
        ],
    )
    def test_open_metrics_is_for_those_who_ask_for_it(self, daemon: Facts, get: Get, accept: str, kind: str) -> None:
        """The heavier of two weights wins; whoever does not ask for OpenMetrics 1.0 gets text."""
        daemon.rendered = Exposition(["eth0"]).render(report(device_report()))
        answer = get("/metrics", headers={"Accept": accept})

        assert answer.headers["content-type"] == kind
        assert answer.text.endswith("# EOF\n") == (kind == OPEN_METRICS_TYPE)

    def test_names_restrict_what_is_answered(self, daemon: Facts, get: Get) -> None:
        """`name[]` may stand several times, as in prometheus_client."""
        daemon.rendered = Exposition(["eth0"]).render(report(device_report()))
        answer = get("/metrics", params={"name[]": ["bwexporter_up", "bwexporter_frozen"]})
        lines = [line for line in answer.text.splitlines() if not line.startswith("#")]

        assert lines == ["bwexporter_up 1", "bwexporter_frozen 0"]

    def test_another_path_may_be_chosen_for_the_metrics(self, daemon: Facts) -> None:
        """As --web.telemetry-path of other exporters; the landing page links it."""
        daemon.options = Options(telemetry_path="/node/metrics")
        with serving(daemon, bind("127.0.0.1:0")) as url, asking(url) as client:
            assert client.get("/node/metrics").content == TEXT
            assert client.get("/metrics").status_code == 404
            assert 'href="./node/metrics"' in client.get("/").text

    def test_slow_idle_and_talkative_clients_delay_no_scrape(self, daemon: Facts) -> None:
        """Clients that never speak, stop in their header or never read hold up nobody, however long they are let."""
        daemon.rendered = rendered(TEXT * 400_000)
        endless = Patience(*[10 * PATIENCE_SECONDS] * 4)
        with (
            serving(daemon, bind("127.0.0.1:0"), patience=endless) as url,
            asking(url) as client,
            connect(url) as never_reads,
            connect(url) as slow,
            connect(url),
        ):
            never_reads.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost")

            assert never_reads.recv(12) == b"HTTP/1.1 200"
            for _ in range(3):
                assert client.get("/-/healthy").status_code == 200
                assert len(client.get("/metrics").content) == len(TEXT) * 400_000

    def test_a_header_without_end_is_refused(self, url: str) -> None:
        """A client that sends header upon header is cut off, and the server goes on."""
        with connect(url) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (REQUEST_HEADER_BYTES * 2))

            assert client.recv(12) == b"HTTP/1.1 400"
        assert httpx.get(f"{url}/-/healthy", trust_env=False, timeout=PATIENCE_SECONDS).status_code == 200


class TestPaths:
    """The other paths."""

    def test_healthy_is_healthy_and_ready_follows_the_daemon(self, daemon: Facts, get: Get) -> None:
        """Ready is 503 with the daemon's sentence until turns run."""
        daemon.readiness = (False, "the first turn has not ended yet")
        waiting = get("/-/ready")
        daemon.readiness = (True, "turns run")

        assert (waiting.status_code, waiting.text) == (503, "the first turn has not ended yet\n")
        assert (get("/-/ready").status_code, get("/-/ready").text) == (200, "turns run\n")
        assert get("/-/healthy").status_code == 200

    def test_an_answer_has_the_date_of_the_moment(self, get: Callable[..., httpx.Response]) -> None:
        """It is reckoned when somebody asks: an idle server does nothing at all."""
        before = datetime.now(UTC).replace(microsecond=0)
        date = parsedate_to_datetime(get("/-/healthy").headers["date"])

        assert before <= date <= datetime.now(UTC)

    @pytest.mark.parametrize("path", PATHS)
    def test_head_gives_the_headers_of_get_without_the_body(self, daemon: Facts, url: str, path: str) -> None:
        """HEAD works everywhere."""
        daemon.report = report(device_report())
        with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
            head, whole = client.head(path), client.get(path)

        assert head.status_code == whole.status_code == 200
        assert head.content == b""
        for name in ("content-type", "content-length"):
            assert head.headers[name] == whole.headers[name]

    def test_an_unknown_path_and_a_wrong_method_are_told_in_plain_text(self, url: str) -> None:
        """404 and 405 are short plain texts; 405 says what is allowed."""
        unknown = httpx.get(f"{url}/metricz", trust_env=False, timeout=PATIENCE_SECONDS)
        wrong = httpx.post(f"{url}/metrics", trust_env=False, timeout=PATIENCE_SECONDS)

        assert (unknown.status_code, unknown.text) == (404, "Not Found")
        assert (wrong.status_code, wrong.text) == (405, "Method Not Allowed")
        assert unknown.headers["content-type"] == wrong.headers["content-type"] == "text/plain; charset=utf-8"
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


class TestSlicesApi:
    """The JSON of the slices."""

    def test_a_lane_is_a_row_with_the_names_of_the_metrics(self, daemon: Facts, get: Get) -> None:
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
            "total": 1,
            "offset": 0,
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
                    "expected_used_bytes": None,
                    "earlier_periods": None,
                    "would_be": None,
                },
            ],
        }

    def test_a_sliding_window_is_what_counts_and_its_neighbours_have_none(self, daemon: Facts, get: Get) -> None:
        """The use is what it holds, in the API as in the metrics, and the page says so in words."""
        lanes = [LaneFigures("alice", used_bytes=10, allowance_bytes=1_000), LaneFigures("bob", used_bytes=20)]
        device = device_report(lanes)
        held = Slid(np.array([3_600.0, 0.0]), np.array([900, 0]), np.array([100, 0]), np.array([1_800.25, 0.0]))
        daemon.report = report(replace(device, verdicts=replace(device.verdicts, slid=held)))

        alice, bob = get("/api/v1/slices").json()["slices"]
        page = get("/slices/alice").text

        assert (alice["period_used_bytes"], bob["period_used_bytes"]) == (900, 20)
        assert (alice["window_seconds"], alice["room_bytes"], alice["room_seconds"]) == (3_600.0, 100, 1_800.25)
        assert (bob["window_seconds"], bob["room_bytes"], bob["room_seconds"]) == (None, None, None)
        assert "Free again" in page
        assert "The last window" in page
        assert "Period ends in" not in page
        assert "used in the last 1h" in page
        by_use = get("/api/v1/slices?sort=used&order=desc").json()["slices"]
        assert ["alice", "bob"] == [row["slice"] for row in by_use]
        ends = re.findall(r'<td class="figure wide">(slides|\w+)</td>\s*</tr>', get("/").text)
        assert [end == "slides" for end in ends] == [True, False]

    def test_what_has_no_number_is_null_and_troubles_are_named(self, daemon: Facts, get: Get) -> None:
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

    def test_before_the_first_turn_there_is_nothing_to_tell(self, get: Get) -> None:
        """The API says that it is too early."""
        answer = get("/api/v1/slices")

        assert answer.status_code == 503
        assert "no turn has ended yet" in answer.json()["error"]


MANY = [
    LaneFigures(
        f"slice_{number}",
        Traffic.EXEMPT if number % 5 == 4 else Traffic.NORMAL,
        used_bytes=number * 10,
        allowance_bytes=1000 if number else UNLIMITED,
        reason=Reason.OVER_THRESHOLD if number > 7 else Reason.WITHIN,
        capped=number > 7,
    )
    for number in range(10)
]


class TestQueries:
    """Part of the lanes, in another order."""

    @pytest.fixture(autouse=True)
    def _many(self, daemon: Facts) -> None:
        daemon.report = report(device_report(MANY[:6]), device_report(MANY[6:], device="v0"))

    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ({}, range(10)),
            ({"limit": "2", "offset": "3"}, [3, 4]),
            ({"offset": "9"}, [9]),
            ({"offset": "10"}, []),
            ({"search": "SLICE_7"}, [7]),
            ({"search": "nothing"}, []),
            ({"verdict": "over_threshold"}, [8, 9]),
            ({"verdict": "capped"}, [8, 9]),
            ({"device": "v0", "traffic": "exempt"}, [9]),
            ({"sort": "used", "order": "desc", "limit": "3"}, [9, 8, 7]),
            ({"sort": "share", "limit": "2"}, [0, 1]),
            ({"sort": "slice", "order": "desc", "limit": "1"}, [9]),
            ({"sort": "verdict", "order": "desc"}, [8, 9, 0, 1, 2, 3, 4, 5, 6, 7]),
            ({"sort": "ceiling", "order": "desc", "limit": "3"}, [0, 1, 2]),
        ],
    )
    def test_lanes_are_searched_sorted_and_paged(self, get: Get, query: dict[str, str], numbers: list[int]) -> None:
        """Through all devices; what is equal stays as configured."""
        answer = get("/api/v1/slices", params=query).json()

        assert [row["slice"] for row in answer["slices"]] == [f"slice_{number}" for number in numbers]

    def test_a_long_list_is_whole_as_text_and_as_gzip(self, get: Get, daemon: Facts) -> None:
        """It is made part by part, and reads as if it had been made at once."""
        shown = report(device_report([LaneFigures(f"slice_{number}") for number in range(2 * api.BATCH_ROWS + 3)]))
        daemon.report = shown
        plain, packed = (get("/api/v1/slices", headers={"Accept-Encoding": form}) for form in ("identity", "gzip"))

        assert ("content-encoding" in plain.headers, packed.headers["content-encoding"]) == (False, "gzip")
        assert plain.content == packed.content
        assert json.dumps(api.slices(shown), separators=(",", ":")) == plain.text

    def test_pages_lead_on_to_the_next(self, get: Get) -> None:
        """The Link header of each page is the address of the next, and all of them together are the whole."""
        found, address = [], "/api/v1/slices?limit=4&sort=used&order=desc"
        while address:
            answer = get(address)
            found += [row["slice"] for row in answer.json()["slices"]]
            assert answer.json()["total"] == 10
            address = str(answer.url.join(answer.links["next"]["url"])) if "next" in answer.links else ""

        assert found == [f"slice_{number}" for number in reversed(range(10))]

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("slices?limit=0", "limit is a number from 1 to 20000"),
            ("slices?limit=x", "limit is a number from 1 to 20000"),
            ("slices?offset=-1", "offset is a number from 0"),
            ("slices?sort=colour", "sort is one of slice, used"),
            ("slices?verdict=guilty", "verdict is one of within"),
            ("slices?order=up", "order is one of asc, desc"),
            ("slices?traffic=none", "traffic is one of normal, exempt"),
            ("events?since=yesterday", "since is an instant in Unix seconds"),
            ("events?limit=1001", "limit is a number from 1 to 1000"),
            ("use/slice_1?step=7", "step is a multiple of 300"),
            ("use/slice_1?since=0", "at most 7 days apart"),
            ("use/slice_1?device=v0", "no such lane"),
            ("use/nobody", "no such slice"),
        ],
    )
    def test_a_parameter_that_cannot_be_used_is_named(self, get: Get, address: str, said: str) -> None:
        """400, and one sentence that says what to write."""
        answer = get(f"/api/v1/{address}")

        assert answer.status_code == 400
        assert said in answer.json()["error"]

    def test_what_was_seen_is_not_sent_again(self, daemon: Facts, get: Get) -> None:
        """The ETag stays while the report does, and is another one with the next turn."""
        first = get("/api/v1/slices")
        again = get("/api/v1/slices", headers={"If-None-Match": first.headers["etag"]})
        daemon.report = report(device_report(MANY), at=Instant(NOW_WALL_SECONDS, 1010.0, "boot-1"))
        later = get("/api/v1/slices", headers={"If-None-Match": first.headers["etag"]})

        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert later.status_code == 200

    def test_long_answers_are_compressed_for_those_who_take_it(self, get: Get) -> None:
        """And are the same as those that are not."""
        plain = get("/api/v1/slices", headers={"Accept-Encoding": "identity"})
        packed = get("/api/v1/slices", headers={"Accept-Encoding": "gzip"})

        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.json() == plain.json()

    def test_a_long_list_is_whole(self, daemon: Facts, get: Get) -> None:
        """It is made in batches, which nobody sees."""
        lanes = [LaneFigures(f"s{number}") for number in range(1203)]
        daemon.report = report(device_report(lanes[:601]), device_report(lanes[601:], device="v0"))

        assert [row["slice"] for row in get("/api/v1/slices").json()["slices"]] == [lane.slice_name for lane in lanes]


def of_verdict(at: float, lane: Lane, **inputs: float | str) -> Event:
    """Return an event of a verdict with honest defaults."""
    figures = {
        "used_bytes": 810_000_000,
        "elapsed_seconds": 43_200.0,
        "remaining_seconds": 43_200.0,
        "full_bytes_per_second": 1_250_000,
        "floor_bytes_per_second": 2_314,
        "old_reason": "within",
        "reason": "over_threshold",
        "old_ceiling_bytes_per_second": 1_250_000,
        "ceiling_bytes_per_second": 4_352,
        "allowance_bytes": 1_000_000_000,
        "threshold_bytes": 800_000_000,
    }
    return Event(at, EventKind.VERDICT, lane.device, lane, figures | inputs)


class TestOneSlice:
    """What there is to say of one slice, and over time."""

    @pytest.fixture(autouse=True)
    def _alice(self, daemon: Facts) -> None:
        lane = Lane("eth0", "alice", Traffic.NORMAL)
        events = [of_verdict(NOW_WALL_SECONDS - 60 * number, lane) for number in range(5)]
        events.append(Event(NOW_WALL_SECONDS, EventKind.TREE_ENDED, "eth0", None, {}))
        daemon.report = report(device_report([LaneFigures(), LaneFigures("bob"), LaneFigures("a/b c")]))
        ledger = daemon.report.devices[0].ledger
        assert save(daemon.state, [ledger], events, NOW_WALL_SECONDS).saved

    def test_it_says_why_in_words_and_what_happened(self, get: Get) -> None:
        """Its lanes with a sentence each, and its events, newest first."""
        answer = get("/api/v1/slices/alice").json()
        (lane,) = answer["lanes"]

        assert lane["why"].startswith("Within its volume: 0 B of 1.00 GB used")
        assert [event["at_timestamp_seconds"] for event in answer["events"]] == [
            NOW_WALL_SECONDS - 60 * number for number in range(5)
        ]
        assert "Over the threshold of 800 MB" in answer["events"][0]["sentence"]

    def test_names_with_slashes_and_blanks_are_found(self, get: Get) -> None:
        """As they are written in addresses."""
        assert get("/api/v1/slices/a%2Fb%20c").json()["slice"] == "a/b c"
        assert get("/slices/a%2Fb%20c").status_code == 200

    def test_a_slice_that_is_not_there_is_404(self, get: Get) -> None:
        """With a sentence."""
        answer = get("/api/v1/slices/nobody")

        assert (answer.status_code, answer.json()) == (404, {"error": "node1.example.org has no such slice"})

    def test_owners_are_told_only_where_the_configuration_says_so(self, daemon: Facts, get: Get) -> None:
        """Addresses of people are private unless asked for."""
        hidden = get("/api/v1/slices/alice").json()["owners"]
        daemon.options = Options(show_owners=True)
        with serving(daemon, bind("127.0.0.1:0")) as url, asking(url) as client:
            shown = client.get("/api/v1/slices/alice").json()["owners"]

        assert (hidden, shown) == ([], ["pi@example.edu"])

    def test_events_are_paged_and_restricted(self, get: Get) -> None:
        """Of one slice, of a span, some at a time."""
        first = get("/api/v1/events", params={"slice": "alice", "limit": "3"})
        rest = get(str(first.url.join(first.links["next"]["url"])))
        of_all = get("/api/v1/events").json()["events"]
        late = get("/api/v1/events", params={"since": str(NOW_WALL_SECONDS - 60), "slice": "alice"}).json()["events"]

        assert len(first.json()["events"]) == 3
        assert len(rest.json()["events"]) == 2
        assert "next" not in rest.links
        assert [event["kind"] for event in of_all[:1]] == ["tree_ended"]
        assert len(late) == 2

    def test_use_is_told_by_spans_of_time(self, daemon: Facts, get: Get) -> None:
        """What the state file has recorded, of the lane that is asked for."""
        later = report(
            device_report([LaneFigures(sent_bytes=5_000), LaneFigures("bob")]),
            at=Instant(NOW_WALL_SECONDS + 10, 1010.0, "boot-1"),
        )
        assert save(daemon.state, [later.devices[0].ledger], [], NOW_WALL_SECONDS + 10).saved
        daemon.report = later
        answer = get("/api/v1/use/alice").json()

        assert (answer["slice"], answer["traffic"], answer["step_seconds"]) == ("alice", "normal", 300)
        assert sum(span["sent_bytes"] for span in answer["use"]) == 5_000
        assert get("/api/v1/use/bob").json()["use"][0]["sent_bytes"] == 0


class TestDescription:
    """The OpenAPI document, held against the answers."""

    @pytest.mark.parametrize("path", sorted(openapi.document("/metrics")["paths"]))
    def test_every_answer_is_as_it_is_described(self, daemon: Facts, get: Get, path: str) -> None:
        """Every field that is described is there and of its type, and no other is."""
        lane = Lane("eth0", "alice", Traffic.NORMAL)
        daemon.report = report(device_report([LaneFigures(), LaneFigures("b", enforced_ceiling_bytes_per_second=-1)]))
        ledger = daemon.report.devices[0].ledger
        save(daemon.state, [ledger], [of_verdict(NOW_WALL_SECONDS, lane)], NOW_WALL_SECONDS)
        described = get("/api/v1/openapi.json").json()["paths"][path]["get"]["responses"]["200"]
        schema = described["content"]["application/json"]["schema"]

        assert_as_described(get(path.replace("{name}", "alice")).json(), schema, path)

    def test_it_is_json_that_names_the_version_of_openapi(self, get: Get) -> None:
        """Programs read it."""
        document = json.loads(get("/api/v1/openapi.json").content)

        assert document["openapi"] == "3.1.0"
        assert set(document["paths"]) >= {"/api/v1/slices", "/api/v1/slices/{name}", "/api/v1/events", "/api/v1/status"}


def assert_as_described(value: Any, schema: dict[str, Any], where: str) -> None:
    """Compare a value with its schema, as deep as that goes."""
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if value is None:
        assert "null" in named, where
        return
    assert isinstance(value, kinds[named[0]]), (where, value)
    assert value in schema.get("enum", [value]), (where, value)
    if "properties" in schema:
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), where
        for name, one in value.items():
            assert_as_described(one, schema["properties"][name], f"{where}.{name}")
    for one in value if "items" in schema else ():
        assert_as_described(one, schema["items"], f"{where}[]")


class TestReload:
    """The one route that does something."""

    @pytest.fixture
    def reloads(self, daemon: Facts) -> Iterator[tuple[httpx.Client, list[int]]]:
        """Give a client of a server whose reloads are counted."""
        counted: list[int] = []
        daemon.options = Options(reload=lambda: counted.append(1))
        with serving(daemon, bind("127.0.0.1:0")) as url, asking(url) as client:
            yield client, counted

    def test_it_is_off_unless_it_was_enabled(self, url: str) -> None:
        """403, and the key that enables it."""
        with asking(url) as client:
            answer = client.post("/-/reload")

        assert (answer.status_code, answer.text) == (403, "Not enabled; write web.enable_reload: true.\n")

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    def test_a_program_may_ask_for_it(self, reloads: tuple[httpx.Client, list[int]], method: str) -> None:
        """As Prometheus takes it."""
        client, counted = reloads

        assert client.request(method, "/-/reload").status_code == 200
        assert counted == [1]

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"},
        ],
    )
    def test_a_browser_may_not_whatever_page_made_it_ask(
        self, reloads: tuple[httpx.Client, list[int]], headers: dict[str, str]
    ) -> None:
        """A page of somebody else cannot make an operator's browser do it (CSRF, DNS rebinding)."""
        client, counted = reloads

        assert client.post("/-/reload", headers=headers).status_code == 403
        assert counted == []

    def test_reading_it_does_nothing(self, reloads: tuple[httpx.Client, list[int]]) -> None:
        """A link or a prefetch cannot reload."""
        client, counted = reloads

        assert client.get("/-/reload").status_code == 405
        assert counted == []


class TestListening:
    """Addresses and sockets."""

    @pytest.mark.parametrize("listen", ["localhost:0", "[::1]:0", ":0", "[::]:0", "0.0.0.0:0"])
    def test_every_form_of_address_is_served(self, daemon: Facts, listen: str) -> None:
        """IPv4, IPv6, names and all addresses at once; what listens on all is reached on the loopback."""
        listening = bind(listen)
        port = listening.getsockname()[1]
        with serving(daemon, listening) as url:
            reached = url if listen in {"localhost:0", "[::1]:0"} else f"http://127.0.0.1:{port}"

            assert httpx.get(f"{reached}/-/healthy", trust_env=False, timeout=PATIENCE_SECONDS).status_code == 200

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

    def test_a_unix_socket_is_served_and_replaces_one_that_was_left_behind(self, daemon: Facts, tmp_path: Path) -> None:
        """Where a killed process left its socket, the next one listens; where somebody answers, it does not."""
        path = tmp_path / "web.sock"
        os.close(bind(f"unix:{path}").detach())  # leaves the file, as a kill does
        assert path.exists()
        server = Server(app_of(daemon), [bind(f"unix:{path}")])
        server.start()
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=PATIENCE_SECONDS) as client:
            assert client.get("http://node/-/healthy").status_code == 200
        with pytest.raises(BwexporterError, match="somebody listens there already"):
            bind(f"unix:{path}")
        server.stop(PATIENCE_SECONDS)
        assert not path.exists()

    def test_a_socket_that_is_closed_takes_its_own_file_away_and_no_other(self, tmp_path: Path) -> None:
        """Not that of a program which listens on the same path by now."""
        path = tmp_path / "web.sock"
        first = bind(f"unix:{path}")
        path.rename(tmp_path / "moved.sock")
        second = bind(f"unix:{path}")
        first.close()
        assert path.exists()
        second.close()
        assert not path.exists()

    def test_a_path_that_cannot_be_listened_on_is_named(self, tmp_path: Path) -> None:
        """A folder that is not there; a file of somebody is left alone."""
        (tmp_path / "file").write_text("kept")
        with pytest.raises(BwexporterError, match=r"cannot listen on unix:.*: No such file"):
            bind(f"unix:{tmp_path}/none/web.sock")
        with pytest.raises(BwexporterError, match="somebody listens there already"):
            bind(f"unix:{tmp_path}/file")

        assert (tmp_path / "file").read_text() == "kept"

    def test_sockets_of_systemd_are_taken_over(self) -> None:
        """As sd_listen_fds(3) says: from descriptor 3 on, for the process that the environment names."""
        script = (
            "import os, sys; from bwexporter.web.listening import inherited\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "print([one.getsockname()[1] for one in inherited(os.environ, os.getpid())])"
        )
        with bind("127.0.0.1:0") as first, bind("127.0.0.1:0") as second:
            ports = [one.getsockname()[1] for one in (first, second)]
            started = subprocess.run(
                [sys.executable, "-c", _ON_3_AND_4 + f"os.execv(sys.executable, [sys.executable, '-c', {script!r}])",
                 str(first.fileno()), str(second.fileno())],
                pass_fds=[first.fileno(), second.fileno()],
                env={**os.environ, "LISTEN_FDS": "2"},
                capture_output=True,
                text=True,
                check=False,
            )  # fmt: skip

        assert started.stdout == f"{ports}\n", started.stderr

    @pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "0"}])
    def test_where_systemd_hands_over_nothing_that_is_said(self, environment: dict[str, str]) -> None:
        """A variable that was meant for another process is none for us."""
        with pytest.raises(BwexporterError, match="start this by a socket unit"):
            inherited(environment, os.getpid())

    def test_connections_made_before_the_start_are_answered(self, daemon: Facts) -> None:
        """A socket that was bound earlier, or inherited by number, loses no client."""
        with bind("127.0.0.1:0") as earlier:
            inherited = socket.socket(fileno=earlier.detach())
        with socket.create_connection(inherited.getsockname(), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            with serving(daemon, inherited):
                assert client.recv(12) == b"HTTP/1.1 200"

    def test_stopping_ends_in_time_although_clients_hold_on(self, daemon: Facts) -> None:
        """After stop no thread runs and the port is free, with one client idle and one that never reads its answer."""
        daemon.rendered = rendered(TEXT * 400_000)
        listening = bind("127.0.0.1:0")
        address = listening.getsockname()
        with socket.create_connection(address) as never_reads, socket.create_connection(address):
            with serving(daemon, listening):
                never_reads.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
                never_reads.recv(12)

            assert "web" not in {thread.name for thread in threading.enumerate()}
            with bind(f"127.0.0.1:{address[1]}"):
                pass

    def test_a_client_that_sends_no_request_is_closed(self, daemon: Facts) -> None:
        """Idle and half-way clients lose their connection after the time for the first request."""
        listening = bind("127.0.0.1:0")
        server = Server(app_of(daemon), [listening], patience=Patience(request_seconds=0.1))
        address = listening.getsockname()
        with (
            socket.create_connection(address, PATIENCE_SECONDS) as idle,
            socket.create_connection(address, PATIENCE_SECONDS) as half_way,
        ):
            half_way.sendall(b"GET / HTTP/1.1\r\n")
            server.start()

            assert idle.recv(1) == half_way.recv(1) == b""
        server.stop(PATIENCE_SECONDS)

    @pytest.mark.parametrize("listen", ["127.0.0.1:0", ":0"])
    def test_an_answer_never_waits_for_its_head_to_be_acknowledged(self, daemon: Facts, listen: str) -> None:
        """Clients acknowledge late, so that every scrape over a kept connection would take 40 ms."""
        listening = bind(listen)
        with serving(daemon, listening):
            assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_a_server_that_never_started_can_be_stopped(self, daemon: Facts) -> None:
        """Stopping closes the sockets also where it never came to starting."""
        listening = bind("127.0.0.1:0")
        Server(app_of(daemon), [listening]).stop()

        assert listening.fileno() == -1
