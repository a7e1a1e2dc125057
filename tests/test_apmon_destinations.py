"""Where datagrams go: the grammar of files, strict and lenient, and sources that fail, change and come back."""

from __future__ import annotations

import http.server
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bwexporter.apmon.destinations import Destination, DestinationError, from_program, read_text
from bwexporter.apmon.options import GENERAL, JOB, NAMES, SYSTEM, OptionError, Options, from_mapping
from bwexporter.apmon.sources import Sources
from bwexporter.cli.main import main
from bwexporter.fetch import FetchError, fetch, shown_url
from tests.apmon_ground import serving, text_answer
from tests.waiting import PATIENCE_SECONDS


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


def strict(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return destinations with passwords, and problems, of a strict reading."""
    reading = read_text(text, name="apmon.conf")
    return [(one.name, one.password) for one in reading.setup.destinations], [str(one) for one in reading.problems]


def lenient(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return destinations with passwords, and warnings, of a lenient reading."""
    reading = read_text(text, name="apmon.conf", lenient=True)
    assert not reading.problems
    return [(one.name, one.password) for one in reading.setup.destinations], [str(one) for one in reading.warnings]


GOOD = [
    ("mona.example.org", "mona.example.org:8884", ""),
    ("192.0.2.1:9000", "192.0.2.1:9000", ""),
    ("localhost pw", "localhost:8884", "pw"),
    ("h pa:ss", "h:8884", "pa:ss"),
    ("h:8884 two words", "h:8884", "two words"),
    ("h:1\tpw", "h:1", "pw"),
    ("[::1]:8885 pw", "[::1]:8885", "pw"),
    ("[2001:db8::1]", "[2001:db8::1]:8884", ""),
    ("2001:db8::1", "[2001:db8::1]:8884", ""),
    ("\ufeffh:8884", "h:8884", ""),
    ("  h:8884   pw  \r", "h:8884", "pw"),
]

BAD = [
    "h:99999",
    "h:0",
    "h:abc",
    "h:",
    "h :8884 sesame",
    "h:8884 sesame # a note",
    "h:8884 # sesame",
    "-h",
    "h..x sesame",
    "[::1:8884 sesame",
    "http://h:8884",
    "h:8884 sesame\x07",
]


@pytest.mark.parametrize(("line", "name", "password"), GOOD)
def test_a_line_is_a_destination(line: str, name: str, password: str) -> None:
    """Host, port, password."""
    assert ([(name, password)], []) == strict(line)


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_refused_with_its_place_and_without_its_text(line: str) -> None:
    """A password may stand anywhere in it."""
    found, problems = strict(f"\n{line}\n")

    assert [] == found
    assert 1 == len(problems)
    assert problems[0].startswith("apmon.conf:2: ")
    assert "sesame" not in problems[0]


def test_two_ports_of_one_host_are_two_destinations() -> None:
    """C and Java drop the second."""
    assert [("h:1", ""), ("h:2", "")] == strict("h:1\nh:2\n")[0]


LENIENT = [
    ("h:8884 pw # note", [("h:8884", "pw")], "first word"),
    ("h:8884 two words", [("h:8884", "two")], "first word"),
    ("h :8884 pw", [("h:8884", "pw")], "blank before the port"),
    ("h:99999\ng", [("g:8884", "")], "left out"),
    ("h:abc\ng", [("g:8884", "")], "left out"),
    ("g\nxApMon_sys_interval = abc", [("g:8884", "")], "whole number"),
    ("g\nxApMon_sys_interval", [("g:8884", "")], "no value"),
    ("g\nxApMon_colour = red", [("g:8884", "")], "not a key"),
    ("g\ng", [("g:8884", "")], "already"),
]


@pytest.mark.parametrize(("text", "found", "warning"), LENIENT)
def test_lenient_reading_takes_old_files_and_says_what_it_made_of_them(
    text: str, found: list[tuple[str, str]], warning: str
) -> None:
    """One bad line costs itself alone."""
    destinations, warnings = lenient(text)

    assert found == destinations
    assert warning in warnings[0]


class TestOptions:
    """Every xApMon_ option, typed."""

    def test_they_hold_for_all_destinations_wherever_they_stand(self) -> None:
        """Also for those before them."""
        text = (
            "a\nxApMon_sys_interval = 30\nb\nxApMon_job_monitoring=off\nxApMon_sys_load1 = 0\nxApMon_maxMsgRate = 7\n"
        )
        reading = read_text(text, name="f")

        assert () == reading.problems
        wanted = Options(job_monitoring=False, sys_interval=30, off=frozenset({"sys_load1"}))
        assert [wanted, wanted] == [one.options for one in reading.setup.destinations]
        assert 7 == reading.setup.for_all.rate

    @pytest.mark.parametrize("value", ["0", "off", "OFF", "False", "no"])
    def test_off_is_off_however_it_is_written(self, value: str) -> None:
        """The ancestor took `0` for on."""
        assert not from_mapping({"sys_monitoring": value})[0].sys_monitoring
        assert from_mapping({"sys_monitoring": "ON"})[0].sys_monitoring

    @pytest.mark.parametrize("name", sorted(NAMES))
    def test_every_option_takes_its_values_and_no_other(self, name: str) -> None:
        """Nothing is kept as text that means nothing."""
        good = {"loglevel": "debug"} if name == "loglevel" else {name: 150 if _is_number(name) else True}
        from_mapping(good)
        with pytest.raises(OptionError, match=name):
            from_mapping({name: "maybe"})

    def test_switches_of_single_figures(self) -> None:
        """One for each."""
        for name in SYSTEM | JOB | GENERAL:
            assert frozenset({name}) == from_mapping({name: False})[0].off
            assert frozenset() == from_mapping({f"xApMon_{name}": True})[0].off

    def test_the_ancestors_states_mean_nothing(self) -> None:
        """A file may hold them."""
        assert (Options(), ()) == (from_mapping({"sys_data_sent": 5})[0], read_text("h", name="f").problems)

    def test_a_level_of_java_is_understood(self) -> None:
        """FINE is NOTICE."""
        assert "NOTICE" == from_mapping({"loglevel": "fine"})[1].loglevel


def _is_number(name: str) -> bool:
    return name.endswith("_interval") or name.startswith("maxMsg")


def test_a_program_gives_destinations_as_texts_or_with_options() -> None:
    """The constructor's forms."""
    assert ("h:8884", "[::1]:1") == tuple(one.name for one in from_program(("h pw", "[::1]:1")).destinations)
    setup = from_program({"h:1 pw": {"sys_monitoring": False, "maxMsgRate": 5}, "g": None})
    assert [False, True] == [one.options.sys_monitoring for one in setup.destinations]
    assert 5 == setup.for_all.rate
    for bad in ((5,), ("h:abc",)):
        with pytest.raises(DestinationError):
            from_program(bad)  # type: ignore[arg-type]


def test_a_destination_never_shows_its_password() -> None:
    """Not in its repr, and not where it is refused."""
    assert "s3cr3t" not in repr(Destination("h", 1, "s3cr3t"))
    with pytest.raises(DestinationError) as refused:
        Destination("h", 1, "s3cr3t\n\x00x")
    assert "s3cr3t" not in str(refused.value)


class TestSources:
    """Files and URLs, in order, kept while they fail."""

    @pytest.fixture
    def clock(self) -> Clock:
        """Move time by hand."""
        return Clock()

    def names(self, sources: Sources) -> list[str]:
        """Return where a sender would send to."""
        return [one.name for one in sources.setup.destinations]

    def test_the_first_that_can_be_used_is_used_each_time(self, tmp_path: Path, clock: Clock) -> None:
        """No random order, so two that differ do not take turns."""
        (tmp_path / "one").write_text("a\n")
        (tmp_path / "two").write_text("b\n")
        sources = Sources([str(tmp_path / "none"), str(tmp_path / "one"), str(tmp_path / "two")], clock)
        for _ in range(20):
            sources.read()
            assert ["a:8884"] == self.names(sources)
        assert "No such file" in sources.troubles[0]

    def test_the_last_good_one_is_kept_when_all_fail(
        self, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Said once, and once more when it is over."""
        path = tmp_path / "apmon.conf"
        path.write_text("a\n")
        sources = Sources([str(path)], clock)
        with caplog.at_level(logging.INFO, "bwexporter.apmon"):
            assert sources.read()
            for bad in ("", "# nothing\n", "h:abc\n", "a\nxApMon_sys_interval = abc\n"):
                path.write_text(bad)
                assert not sources.read()
                assert not sources.read()
                assert ["a:8884"] == self.names(sources)
            path.write_text("b\n")
            assert sources.read()
        assert ["b:8884"] == self.names(sources)
        assert 1 == len([one for one in caplog.messages if "names no destination" in one])
        assert "destinations are read again" in caplog.messages

    def test_nothing_is_said_to_be_kept_where_there_was_none(
        self, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A first reading that fails leaves a sender without any destination."""
        assert not Sources([str(tmp_path / "none")], clock).read()

        (said,) = caplog.messages
        assert said.endswith("No such file or directory; there are no destinations")

    def test_they_are_read_again_when_that_is_due_and_not_before(self, tmp_path: Path, clock: Clock) -> None:
        """Never more often than every 30 s, whatever the file says; ever more rarely while it fails."""
        path = tmp_path / "apmon.conf"
        path.write_text("a\nxApMon_recheck_interval = 1\n")
        sources = Sources([str(path)], clock)
        assert sources.refresh()
        assert 30 == sources.seconds_until_due()
        path.write_text("b\nxApMon_recheck_interval = 3600\n")
        clock.now += 29
        assert not sources.refresh()
        clock.now += 1
        assert sources.refresh()
        assert 3600 == sources.seconds_until_due()
        path.unlink()
        waits = []
        for _ in range(6):
            clock.now += sources.seconds_until_due()
            sources.refresh()
            waits.append(sources.seconds_until_due() / 3600)
        assert [1, 2, 4, 5, 5, 5] == waits

    def test_a_file_may_ask_not_to_be_read_again(self, tmp_path: Path, clock: Clock) -> None:
        """conf_recheck = off."""
        path = tmp_path / "apmon.conf"
        path.write_text("a\nxApMon_conf_recheck = off\n")
        sources = Sources([str(path)], clock)
        sources.refresh()
        clock.now += 1e9
        path.write_text("b\n")
        assert not sources.refresh()

    def test_a_line_that_is_gone_falls_back_to_its_default(self, tmp_path: Path, clock: Clock) -> None:
        """Options are those of the file as it is now."""
        path = tmp_path / "apmon.conf"
        path.write_text("a\nxApMon_sys_interval = 30\n")
        sources = Sources([str(path)], clock)
        sources.read()
        path.write_text("a\n")
        sources.read()
        assert 120 == sources.setup.destinations[0].options.sys_interval

    def test_a_pipe_holds_nobody_up(self, tmp_path: Path, clock: Clock) -> None:
        """The next source is used."""
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "one").write_text("a\n")
        sources = Sources([str(tmp_path / "pipe"), str(tmp_path / "one")], clock)
        sources.read()
        assert ["a:8884"] == self.names(sources)
        assert sources.troubles == (f"{tmp_path / 'pipe'} cannot be read: not a regular file; write the path of one",)

    def test_passwords_are_in_no_log(self, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        """But others who may read them are, once."""
        path = tmp_path / "apmon.conf"
        path.write_text("a s3cr3t\nb:x s3cr3t\nc :1 s3cr3t # s3cr3t\nxApMon_loglevel = DEBUG\n")
        path.chmod(0o644)
        with caplog.at_level(logging.DEBUG):
            Sources([str(path)], clock).read()
            sources = Sources([str(path)], clock, lenient=True)
            sources.read()
            sources.read()
        assert 1 == len([one for one in caplog.messages if "others may read" in one])
        assert 1 == len([one for one in caplog.messages if "plain text" in one])
        assert "s3cr3t" not in caplog.text + repr(sources.setup)
        path.chmod(0o640)
        caplog.clear()
        Sources([str(path)], clock, lenient=True).read()
        assert "others may read" not in caplog.text

    def test_plain_http_is_fetched_only_where_it_is_allowed(self, clock: Clock) -> None:
        """Whoever is on the way could say where passwords go."""
        with serving(text_answer("a\nb:9 pw\n")) as url:
            refused = Sources([f"{url}/apmon.conf"], clock)
            allowed = Sources([f"{url}/apmon.conf"], clock, allow_http=True)
            assert not refused.read()
            assert allowed.read()
        assert "write https" in refused.troubles[0]
        assert ["a:8884", "b:9"] == self.names(allowed)

    def test_a_server_that_is_gone_keeps_the_last_good_one(self, clock: Clock) -> None:
        """As for files; a password in the URL is not said."""
        with serving(text_answer("a\n")) as url:
            with_password = url.replace("http://", "http://me:s3cr3t@")
            sources = Sources([f"{with_password}/apmon.conf?key=s3cr3t"], clock, allow_http=True)
            sources.read()
        assert not sources.read()
        assert ["a:8884"] == self.names(sources)
        assert f"{url}/apmon.conf" in sources.troubles[0]
        assert "s3cr3t" not in sources.troubles[0]

    def test_text_that_is_none_is_refused(self, tmp_path: Path, clock: Clock) -> None:
        """With its line."""
        path = tmp_path / "apmon.conf"
        path.write_bytes(b"a\nb \xff\n")
        sources = Sources([str(path)], clock)
        assert not sources.read()
        assert sources.troubles[0].endswith("apmon.conf:2: is not UTF-8")


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def redirect_to(target: str) -> Answer:
    """Answer with a redirect."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/there":
            text_answer("here\n")(request)
            return
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def slow_body(request: http.server.BaseHTTPRequestHandler) -> None:
    """Send a byte now and then."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    _drip(request, b"x")


def slow_head(request: http.server.BaseHTTPRequestHandler) -> None:
    """Send a byte of a header now and then."""
    request.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
    _drip(request, b"x")


def _drip(request: http.server.BaseHTTPRequestHandler, byte: bytes) -> None:
    for _ in range(200):
        try:
            request.wfile.write(byte)
            request.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def endless(request: http.server.BaseHTTPRequestHandler) -> None:
    """Send more than anybody wants."""
    request.send_response(200)
    request.end_headers()
    try:
        for _ in range(10_000):
            request.wfile.write(b"x" * 65536)
    except OSError:
        return


def in_two_pieces(request: http.server.BaseHTTPRequestHandler) -> None:
    """Send a password split over two segments."""
    request.send_response(200)
    request.send_header("Content-Length", "14")
    request.end_headers()
    request.wfile.write(b"h:8884 s3")
    request.wfile.flush()
    time.sleep(0.1)
    request.wfile.write(b"cr3t\n")


class TestFetch:
    """Within limits, and with all of the answer."""

    def test_an_answer_in_pieces_is_read_whole(self) -> None:
        """The ancestor cut the password."""
        with serving(in_two_pieces) as url:
            assert b"h:8884 s3cr3t\n" == fetch(url).body

    def test_a_redirect_on_the_same_host_is_followed(self) -> None:
        """It stays where the operator pointed."""
        with serving(redirect_to("/there")) as url:
            assert b"here\n" == fetch(url).body

    @pytest.mark.parametrize(
        ("answer", "seconds", "text"),
        [
            (redirect_to("ftp://127.0.0.1/x"), PATIENCE_SECONDS, "redirects to another"),
            (redirect_to("http://192.0.2.1/x"), PATIENCE_SECONDS, "redirects to another"),
            (redirect_to("/elsewhere"), PATIENCE_SECONDS, "again and again"),
            (endless, PATIENCE_SECONDS, "larger than 5000 bytes"),
            (lambda request: request.send_error(404, "Not Found"), PATIENCE_SECONDS, "answers 404"),
            (slow_body, 0.5, "did not answer within 0.5 s"),
            (slow_head, 0.5, "did not answer within 0.5 s"),
        ],
    )
    def test_a_server_that_misbehaves_is_left(self, answer: Answer, seconds: float, text: str) -> None:
        """With one sentence."""
        with serving(answer) as url, pytest.raises(FetchError) as refused:
            fetch(f"{url}/apmon.conf", most_bytes=5000, seconds=seconds)
        assert text in str(refused.value)

    def test_nobody_there(self) -> None:
        """One sentence as well, without what stands in the URL."""
        with pytest.raises(FetchError) as refused:
            fetch("http://me:s3cr3t@127.0.0.1:9/x?token=s3cr3t", seconds=PATIENCE_SECONDS)
        assert "http://127.0.0.1:9/x" in str(refused.value)
        assert "s3cr3t" not in str(refused.value)

    @pytest.mark.parametrize("url", ["http://", "nonsense", "http://[", "ftp://h/x"])
    def test_what_is_no_url(self, url: str) -> None:
        """Nothing but a FetchError."""
        with pytest.raises(FetchError):
            fetch(url, seconds=1)

    def test_an_unchanged_answer_is_told_to_who_asked(self) -> None:
        """For those who keep what they have read."""

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(304)
            request.end_headers()

        with serving(answer) as url:
            assert fetch(url, headers={"If-None-Match": '"1"'}).unchanged
            with pytest.raises(FetchError, match="304"):
                fetch(url)

    def test_a_shown_url_has_no_secret(self) -> None:
        """Neither user nor query."""
        assert "https://h:1/p" == shown_url("https://u:p@h:1/p?q=1#f")


def test_check_says_what_is_wrong_with_the_files_of_a_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With file, line and key, before anything runs; URLs are not asked, and no line is repeated."""
    good = "devices: [{name: eth0, cap: 100mbit, line_rate: 1gbit}]\n"
    config = tmp_path / "bwexporter.yml"
    config.write_text(good + "apmon: {sources: [apmon.conf, empty, gone, 'https://192.0.2.1/x']}\n")
    (tmp_path / "apmon.conf").write_text("h:1\nh:x s3cr3t\nxApMon_sys_intervall = 5\n")
    (tmp_path / "empty").write_text("# nothing\n")

    with pytest.raises(SystemExit) as ended:
        main(["check", str(config), "--json"])
    assert 2 == ended.value.code
    said = capsys.readouterr().out
    problems = [(Path(one["file"]).name, one["line"], one["key"]) for one in json.loads(said)["problems"]]
    assert [("apmon.conf", 2, ""), ("apmon.conf", 3, "sys_intervall"), ("empty", 0, ""), ("gone", 0, "")] == problems
    assert "s3cr3t" not in said
    config.write_text(good + "apmon: {sources: [apmon.conf], lenient: true}\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(config), "--json"])
    assert 0 == ended.value.code
    assert 2 == len(json.loads(capsys.readouterr().out)["warnings"])
