"""Recorded use from a real Prometheus server: the replay over its series agrees with the one over the state file."""

from __future__ import annotations

import doctest
import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter import prometheus
from bwexporter.cli.main import main
from bwexporter.core.lanes import Lane, Traffic
from bwexporter.core.report import Report
from tests.alerting.servers import Server
from tests.certificates import Authority
from tests.node import DEVICE
from tests.ports import free_port
from tests.servers import Asked, Certificates, Says
from tests.servers import Server as Listening
from tests.test_replay import LADDER_FROM_A_FIFTH, STEP, a_day_in
from tests.waiting import PATIENCE_SECONDS

SCRAPE_SECONDS = 60
BEGAN = 1_700_000_000
GAP = (BEGAN + 10_000, BEGAN + 12_000)  # in which nothing was scraped
LOST = BEGAN + 30_000  # when the exporter lost its state: its counters began again
SPAN = ["--from", "2023-11-14 22:15+00:00", "--to", "2023-11-15 12:00+00:00"]


_HELD = (
    f"# TYPE {prometheus.HAND_UNTIL} gauge\n"
    f'{prometheus.HAND_UNTIL}{{device="{DEVICE}",slice="s3",traffic="normal",action="cap",instance="node1:10099"}} '
    f"{BEGAN + 7200} {BEGAN + 3600}"
)
"""An order by hand."""


@dataclass
class Scraper:
    """Writes what a server scrapes every minute: what the last turn has found."""

    instance: str
    sent: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    _last: dict[str, tuple[int, float, int, int]] = field(default_factory=dict)
    _lost: dict[str, int] = field(default_factory=dict)
    _next: int = BEGAN

    def hear(self, report: Report) -> None:
        """Scrape what the turn before had found, until this one."""
        while self._last and self._next < report.at.wall_seconds:
            if self._next >= LOST and not self._lost:
                self._lost = {lane: sent for lane, (sent, *_) in self._last.items()}
            if not GAP[0] <= self._next < GAP[1]:
                for lane, (sent, start, used, full) in self._last.items():
                    at, since = self._next, sent - self._lost.get(lane, 0)
                    self.sent.append(f"{prometheus.SENT}{lane} {since} {at}")
                    self.starts.append(f"{prometheus.PERIOD_START}{lane} {start} {at}")
                    self.used.append(f"{prometheus.USED}{lane} {used} {at}")
                    self.full.append(f"{prometheus.FULL_RATE}{lane} {full} {at}")
            self._next += SCRAPE_SECONDS
        self._next = max(self._next, int(report.at.wall_seconds))
        accounts, offset = report.devices[0].ledger.accounts, report.devices[0].ledger.wall_offset_seconds
        for row, lane in enumerate(report.devices[0].tariffs.lanes):
            labels = f'device="{lane.device}",slice="{lane.slice_name}",traffic="{lane.traffic.value}"'
            self._last[f'{{{labels},instance="{self.instance}",job="bwexporter"}}'] = (
                int(accounts.sent_bytes[row]),
                float(accounts.period_start_at[row] + offset),
                int(accounts.used_bytes[row]),
                int(report.devices[0].tariffs.full_bytes_per_second[row]),
            )

    def written(self, *more: str) -> str:
        """Return all of it in the format that promtool reads."""
        parts = [f"# TYPE {prometheus.SENT.removesuffix('_total')} counter", *self.sent]
        parts += [f"# TYPE {prometheus.PERIOD_START} gauge", *self.starts]
        parts += [f"# TYPE {prometheus.USED} gauge", *self.used]
        parts += [f"# TYPE {prometheus.FULL_RATE} gauge", *self.full]
        return "\n".join([*parts, *more, "# EOF\n"])


@dataclass(frozen=True)
class Recording:
    """One day, as the state file has it and as a server has it."""

    config: Path
    other: Path
    url: str

    def replayed(self, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Replay it under the ladder."""
        main(["replay", "--policy", str(self.other), "--config", str(self.config), *SPAN, "--json", *flags])
        return {(one["slice"], one["traffic"]): one for one in json.loads(capsys.readouterr().out)["lanes"]}

    def refusal(self, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
        """Return what is said of a replay that ends with 1."""
        with pytest.raises(SystemExit) as ended:
            main(["replay", "--policy", str(self.other), "--config", str(self.config), *SPAN, *flags])
        assert ended.value.code == 1
        return capsys.readouterr().err


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """A day of the real turn, and a server in whose blocks its scrapes were written; a second node's are there too."""
    folder = tmp_path_factory.mktemp("recording")
    scraper = Scraper("node1:10099")
    config = a_day_in(folder, scraper.hear)
    other = folder / "other.yml"
    other.write_text(config.read_text().replace("allowance: 100MB", LADDER_FROM_A_FIFTH))
    (folder / "one.om").write_text(scraper.written())
    (folder / "two.om").write_text(scraper.written(_HELD).replace("node1:10099", "node2:10099"))
    for name in ("one.om", "two.om"):
        written = ["promtool", "tsdb", "create-blocks-from", "openmetrics", name, "tsdb"]
        subprocess.run(written, cwd=folder, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("{}\n")
    shutil.copytree(folder / "tsdb", folder / "served")  # a server compacts what it serves; the blocks stay as written
    flags = ["--config.file=prometheus.yml", "--storage.tsdb.path=served", "--storage.tsdb.retention.time=100y"]
    server = Server("prometheus", folder, flags)
    try:
        server.start()
        yield Recording(config, other, server.url)
    finally:
        server.stop()


@dataclass(frozen=True)
class Guarded:
    """A server that wants to know who asks: its URL, and the options that it answers to."""

    url: str
    trust: tuple[str, ...]
    certificate: tuple[str, ...]
    password: tuple[str, ...]


@pytest.fixture(scope="module")
def guarded(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The same series in a Prometheus that speaks TLS to those alone who show a certificate and know a password."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(recording.config.parent / "tsdb", folder / "tsdb")
    authority = Authority(folder / "authority")
    certificate, key = authority.sign("server")
    own_certificate, own_key = authority.sign("reader", hosts="DNS:reader")
    hashed = bcrypt.hashpw(b"not to be seen", bcrypt.gensalt(4)).decode()
    web = {
        "tls_server_config": {
            "cert_file": str(certificate),
            "key_file": str(key),
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": str(authority.certificate),
        },
        "basic_auth_users": {"reader": hashed},
    }
    (folder / "web.yml").write_text(json.dumps(web))
    (folder / "prometheus.yml").write_text("{}\n")
    (folder / "password").write_text("not to be seen\n")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(own_certificate, own_key)
    flags = ["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", "--storage.tsdb.retention.time=100y"]
    server = Server(
        "prometheus", folder, [*flags, "--web.config.file=web.yml"], verify=context, auth=("reader", "not to be seen")
    )
    try:
        server.start()
        yield Guarded(
            server.url,
            ("--ca-file", str(authority.certificate)),
            ("--cert-file", str(own_certificate), "--key-file", str(own_key)),
            ("--user", "reader", "--password-file", str(folder / "password")),
        )
    finally:
        server.stop()


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is no Prometheus."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status": "success", "data": {"result": [7]}}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_it_agrees_with_the_state_file_over_a_gap_and_a_counter_that_began_again(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    """A turn is up to 300 s in this day, and a sum is of 300 s."""
    own = recording.replayed(capsys)
    theirs = recording.replayed(capsys, "--source", recording.url, "--instance", "node1:10099")

    assert own.keys() == theirs.keys()
    assert {lane for lane, one in own.items() if one["capped"]} == {(f"s{at}", "normal") for at in (0, 1, 2)}
    for lane, one in own.items():
        same = theirs[lane]
        # What is late at one end of the span is at most what is sent in a turn and a sum at the full rate of 20 kB/s.
        assert same["recorded_bytes"] == pytest.approx(one["recorded_bytes"], abs=600 * 20_000)
        assert same["sent_bytes"] == pytest.approx(one["sent_bytes"], abs=600 * 20_000)
        assert len(same["capped"]) == len(one["capped"])
        for span, other in zip(same["capped"], one["capped"], strict=True):
            assert span == pytest.approx(other, abs=STEP + 300.0)


def test_full_rates_that_nobody_has_written_are_those_that_the_server_has_seen(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On another machine than the node's, whose tree somebody else has built: neither state nor device is there."""
    there = Recording(tmp_path / "bwexporter.yml", tmp_path / "bwexporter.yml", recording.url)
    text = recording.config.read_text().replace("line_rate: 1gbit}", "line_rate: 1gbit, tree: existing}")
    there.config.write_text(text.replace("allowance: 100MB", LADDER_FROM_A_FIFTH))
    slices = tmp_path / "slices.yml"
    slices.write_text('slices:\n  - {name: s0, class: "1:10"}\n  - {name: new, class: "1:11"}\n')
    from_server = ("--source", recording.url, "--instance", "node1:10099")

    main(["replay", "--policy", str(there.other), "--config", str(there.config), *SPAN, *from_server])
    printed = capsys.readouterr()
    plain = recording.replayed(capsys, *from_server)
    found = there.replayed(capsys, *from_server)

    assert "the full rate on eth0 of new is not recorded" in printed.err
    assert found["s0", "normal"]["sent_bytes"] == pytest.approx(plain["s0", "normal"]["sent_bytes"], rel=0.01)
    classes = {Lane(DEVICE, "s0", Traffic.NORMAL): 0x1_0010, Lane(DEVICE, "new", Traffic.NORMAL): 0x1_0011}
    server = prometheus.Prometheus(recording.url, "node1:10099")
    assert server.full_rates(DEVICE, classes, BEGAN + 40_000) == {Lane(DEVICE, "s0", Traffic.NORMAL): 20_000}


def test_a_server_that_wants_to_know_who_asks_gives_the_same(
    recording: Recording, guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    """An authority of its own, a client's certificate, a user and a password, against a real Prometheus."""
    plain = recording.replayed(capsys, "--source", recording.url, "--instance", "node1:10099")
    way_in = ("--source", guarded.url, "--instance", "node1:10099", *guarded.trust)

    theirs = recording.replayed(capsys, *way_in, *guarded.certificate, *guarded.password)

    assert theirs == plain
    unsaid = {
        "certificate verify failed": ["--source", guarded.url, *guarded.certificate, *guarded.password],
        "it answers 401 Unauthorized": [*way_in, *guarded.certificate],
        "cannot be fetched": [*way_in, *guarded.password],  # the handshake fails, or what comes after it
    }
    for words, flags in unsaid.items():
        said = recording.refusal(capsys, *flags)
        assert words in said
        assert "not to be seen" not in said


def test_a_token_is_read_from_its_file_and_shown_nowhere(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a proxy over TLS that lets those through who have the token, as people put one before Prometheus."""
    certificates = Certificates(tmp_path)
    (tmp_path / "token").write_text("a very secret token\n")
    (tmp_path / "wrong").write_text("another secret\n")

    def passed_on(asked: Asked) -> Says:
        if asked.headers.get("authorization") != "Bearer a very secret token":
            return Says(b"a very secret token is missing", status=403)
        answer = httpx.get(f"{recording.url}{asked.path}", trust_env=False, timeout=PATIENCE_SECONDS)
        return Says(answer.content, answer.status_code)

    with Listening(passed_on).running(certificates.here) as proxy:
        flags = ["--source", proxy.url, "--instance", "node1:10099", "--ca-file", str(certificates.ca_file)]
        theirs = recording.replayed(capsys, *flags, "--token-file", str(tmp_path / "token"))
        said = recording.refusal(capsys, *flags, "--token-file", str(tmp_path / "wrong"))
        missing = recording.refusal(capsys, *flags, "--token-file", str(tmp_path / "nowhere"))

    assert theirs == recording.replayed(capsys, "--source", recording.url, "--instance", "node1:10099")
    assert "it answers 403 Forbidden" in said
    assert "secret" not in said
    assert f"{tmp_path / 'nowhere'} cannot be read: No such file or directory" in missing


def test_a_redirect_takes_no_secret_elsewhere(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To plain http nothing follows at all; what another host over https is asked has no token."""
    certificates = Certificates(tmp_path)
    (tmp_path / "token").write_text("a very secret token\n")
    flags = ["--ca-file", str(certificates.ca_file), "--token-file", str(tmp_path / "token")]
    plain = Listening(lambda _: Says(b"{}"))
    other = Listening(lambda _: Says(b"{}"))
    with plain.running(), other.running(certificates.here):
        elsewhere = other.url.replace("localhost", "127.0.0.1")
        for target, words in ((plain.url, "it redirects to another scheme or host"), (elsewhere, "cannot be fetched")):
            moved = Listening(lambda asked, target=target: Says(status=302, headers={"location": target + asked.path}))
            with moved.running(certificates.here):
                said = recording.refusal(capsys, "--source", moved.url, *flags)
            assert words in said
            assert moved.asked[0].headers["authorization"] == "Bearer a very secret token"

    assert not plain.asked
    assert not any("authorization" in one.headers for one in other.asked)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--user", "me"], "a user and a password go together; write --user NAME --password-file FILE"),
        (["--password-file", "p"], "a user and a password go together"),
        (["--token-file", "t", "--user", "me", "--password-file", "p"], "a token or a user asks, not both"),
        (["--key-file", "k"], "a key goes with a certificate; write --cert-file FILE --key-file FILE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    recording: Recording, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--policy", str(recording.other), "--config", str(recording.config),
              "--source", "https://localhost:9090", *flags])  # fmt: skip

    assert ended.value.code == 2
    assert words in " ".join(capsys.readouterr().err.replace("\u2502", " ").split())


def test_what_plain_http_cannot_keep_is_not_sent(
    recording: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("secret\n")
    cases = {
        "a secret is sent over https alone, or to this machine itself": [
            "--source", "http://prometheus.example.org", "--token-file", str(tmp_path / "token"),
        ],
        "begins with http, which knows no certificates; write https": [
            "--source", recording.url, "--ca-file", str(tmp_path / "token"),
        ],
        "the file of certificates": ["--source", "https://localhost:1", "--ca-file", str(tmp_path / "token")],
        "cannot be used: it and its key are not a pair in PEM": [
            "--source", "https://localhost:1", "--cert-file", str(tmp_path / "token"),
        ],
        "the source holds a user or a password, which everybody on this machine can see": [
            "--source", recording.url.replace("127.0.0.1", "me:secret@127.0.0.1"),
        ],
    }  # fmt: skip
    for words, flags in cases.items():
        said = recording.refusal(capsys, *flags)
        assert words in said
        assert "secret@" not in said


def test_orders_by_hand_that_a_server_cannot_tell_are_named(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    """The series say that an order was in force on one of the two nodes, and no amount."""
    for instance, expected in (("node1:10099", False), ("node2:10099", True)):
        main(["replay", "--policy", str(recording.other), "--config", str(recording.config), *SPAN, "--json",
              "--source", recording.url, "--instance", instance])  # fmt: skip
        assert ("orders by hand were in force on eth0 in that span, and are left out" in capsys.readouterr().err) is (
            expected
        )


def test_the_use_of_a_period_before_the_span_is_known_from_the_server_too(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lane that had used more than the first rung before the span begins is capped from its first instant on."""
    late = ["--from", "2023-11-15 06:00+00:00"]

    theirs = recording.replayed(capsys, *late, "--source", recording.url, "--instance", "node2:10099")

    assert theirs["s0", "normal"]["capped"][0][0] == 1_700_028_000.0


def test_a_span_of_more_points_than_a_server_gives_at_once_is_asked_in_parts(recording: Recording) -> None:
    """Sixty days in steps of 300 s, which the server refuses in one: all that the short span around the day has."""
    lane = Lane(DEVICE, "s0", Traffic.NORMAL)
    source = prometheus.Prometheus(recording.url, "node1:10099")
    first, last = BEGAN - BEGAN % 300, BEGAN - BEGAN % 300 + 86_400

    short = source.uses(DEVICE, [lane], first, last, 300)
    long = source.uses(DEVICE, [lane], last - 30 * 86_400, last + 30 * 86_400, 300)

    assert len(long) == 60 * 288
    assert {start: sent for start, sent in long.items() if sent[0]} == {
        start: sent for start, sent in short.items() if sent[0]
    }
    assert sum(sent[0] for sent in short.values()) > 50_000_000


def test_of_several_exporters_one_must_be_named(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    said = recording.refusal(capsys, "--source", recording.url)

    assert "from 2 instances (node1:10099, node2:10099); say which with --instance" in said


def test_what_is_wrong_is_said_in_a_sentence_without_secrets(
    recording: Recording, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    cases = {
        nobody: "cannot be fetched",
        stranger: "does not answer as a Prometheus server does; write the URL of its API's root",
        f"{recording.url}/graph": "cannot be fetched: it answers 404 Not Found",
        "localhost:9090": "the source is no URL of a Prometheus server; write for example http://localhost:9090",
        "http://[": "the source is no URL of a Prometheus server",
    }
    for source, words in cases.items():
        said = recording.refusal(capsys, "--source", source)
        assert words in said
        assert "secret" not in said
    said = recording.refusal(capsys, "--source", recording.url, "--instance", 'no"where')
    assert f'{recording.url} has no series {prometheus.SENT}{{device="' in said
    assert 'instance="no\\"where"} in that span' in said


def test_an_instance_goes_with_a_server(recording: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--policy", str(recording.other), "--config", str(recording.config), "--instance", "node1"])

    assert ended.value.code == 2
    assert "write --source URL" in capsys.readouterr().err


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.booleans(), st.booleans()), min_size=2, max_size=60),
)
def test_whatever_gaps_and_restarts_there_are_all_growth_between_samples_is_there_once(
    looks: list[tuple[int, bool, bool]],
) -> None:
    """A counter grows, is lost at times and begins again at times: nothing is negative, and nothing counts twice."""
    values, sent, expected, before = [], 0, 0, None
    for growth, again, missed in looks:
        sent = growth if again else sent + growth
        values.append(np.nan if missed else float(sent))
        if not missed:
            expected += 0 if before is None else sent - before if sent >= before else sent
            before = sent

    sums = prometheus.grown(np.array(values).reshape(-1, 1))

    assert len(sums) == len(values) - 1
    assert (sums >= 0).all()
    assert int(sums.sum()) == expected


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(prometheus).failed == 0
