"""Slices from a URL: what the server says is taken as a whole, kept on disk, and no trouble of it removes anybody."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bwexporter.slices.gathering import Sources
from bwexporter.slices.http import HttpList
from bwexporter.slices.polled import PolledSource
from bwexporter.slices.shelf import Shelf
from bwexporter.sources import HttpAt, Polling
from tests.servers import Asked, Certificates, Says, Server
from tests.waiting import PATIENCE_SECONDS, wait_until

SECRET = "s3cr3t-t0ken"  # noqa: S105 - of this test
NOW = 1_700_000_000.0


def listing(*names: str, **given: Any) -> Says:
    """Return an answer that lists slices."""
    return Says(json.dumps({"slices": [{"name": name, **given} for name in names]}).encode())


def many(count: int) -> Says:
    """Return an answer that lists so many slices."""
    return listing(*(f"s{number}" for number in range(count)))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return an authority and certificates of it."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    """Serve two slices over TLS."""
    with Server(lambda _: listing("ann", "bob")).running(certificates.here) as running:
        yield running


Make = Callable[..., PolledSource]


@pytest.fixture
def make(tmp_path: Path, certificates: Certificates) -> Make:
    """Return what makes a source of a server."""

    def made(server: Server, **given: Any) -> PolledSource:
        way_in = {key: given.pop(key, None) for key in ("token_file", "user", "password_file")}
        given = {"ca_file": certificates.ca_file, "guard": True, "largest_bytes": 1 << 20, **given}
        polling = Polling(
            **{"url": f"{server.url}/slices.json", "every_seconds": 60, "timeout_seconds": PATIENCE_SECONDS, **given}
        )
        at = HttpAt(polling, **way_in)
        asking = HttpList(at)
        shelf = Shelf(tmp_path / "state.db", "http", polling.url)
        return PolledSource(at.name, polling, asking.ask, asking.read, shelf, lambda: NOW)

    return made


def names(source: PolledSource) -> list[str]:
    """Return the slices that a source gives now."""
    return [record.name for record in source.read().records]


def trouble(source: PolledSource) -> str:
    """Return the one problem of a source that is down."""
    result = source.read()
    assert not result.up
    (problem,) = result.problems
    return str(problem)


def test_a_list_is_read(server: Server, make: Make) -> None:
    """The records name the URL as their source, and the time of the answer is known."""
    source = make(server)
    assert not source.read().up
    assert source.poll()
    result = source.read()
    assert (result.up, result.problems, result.last_success_wall_seconds) == (True, (), NOW)
    assert [(record.name, record.source) for record in result.records] == [
        ("ann", f"{server.url}/slices.json"),
        ("bob", f"{server.url}/slices.json"),
    ]
    assert not source.poll(), "nothing has changed"


def test_slices_come_change_go_and_return(server: Server, make: Make) -> None:
    """Each change is noticed."""
    source = make(server)
    source.poll()
    for says, expected in (
        (listing("ann", "bob", "cyd"), ["ann", "bob", "cyd"]),
        (listing("ann"), ["ann"]),
        (listing("ann", normal={"allowance": "5GB"}), ["ann"]),
        (listing("ann", "bob"), ["ann", "bob"]),
    ):
        server.answer = lambda _, says=says: says
        assert source.poll()
        assert names(source) == expected


@pytest.mark.parametrize(
    ("says", "text"),
    [
        pytest.param(listing("ann").half, "cannot be fetched: peer closed connection", id="killed in mid-reply"),
        pytest.param(Says(b"", 401), "answers 401 Unauthorized", id="wrong token"),
        pytest.param(Says(b"", 500), "answers 500", id="a server in trouble"),
        pytest.param(Says(b"", 204), "answers 204", id="no content"),
        pytest.param(Says(b"<html>no</html>"), "1: is not JSON here: Expecting value", id="a page"),
        pytest.param(Says(b""), "is not JSON here", id="nothing"),
        pytest.param(Says(b"[]"), "must be a mapping with the key slices", id="another shape"),
        pytest.param(Says(b"null"), "is empty", id="null"),
        pytest.param(Says(b"{}"), "slices: is missing", id="no list"),
        pytest.param(Says(b'{"slices": {}}'), "must be a list", id="a mapping"),
        pytest.param(Says(b'{"slice": []}'), 'did you mean "slices"', id="a misspelt key"),
        pytest.param(Says(b'{"slices": [], "slices": []}'), 'the key "slices" twice', id="a key twice"),
        pytest.param(Says(b'{"slices": NaN}'), "NaN, which is no number of JSON", id="no number"),
        pytest.param(Says(b'{"slices": \xff}'), "does not answer with UTF-8", id="another encoding"),
        pytest.param(Says("{}".encode("utf-16")), "does not answer with UTF-8", id="UTF-16"),
        pytest.param(Says(b"[" * 200_000), "nested too deep", id="nested without end"),
        pytest.param(Says(b" " * ((1 << 20) + 1)), "larger than 1048576 bytes", id="large"),
        pytest.param(
            Says(gzip.compress(b" " * (64 << 20)), headers={"content-encoding": "gzip"}), "larger than", id="a bomb"
        ),
        pytest.param(Says(b"", 302, {"location": "/slices.json"}), "again and again", id="a circle"),
        pytest.param(Says(b"", 302, {"location": "http://localhost:1/"}), "another scheme", id="out of TLS"),
        pytest.param(Says(b'{"slices": []}', trickle_seconds=0.3), "did not answer within 1 s", id="slow"),
    ],
)
def test_no_trouble_of_the_server_removes_anybody(server: Server, make: Make, says: Says, text: str) -> None:
    """The running set stays, what is wrong is said in one sentence, and a good answer ends it."""
    source = make(server, timeout_seconds=1 if says.trickle_seconds else PATIENCE_SECONDS)
    wait_until(lambda: source.poll() and source.read().up)
    good, server.answer = server.answer, lambda _: says
    assert source.poll()
    assert names(source) == ["ann", "bob"]
    assert text in trouble(source)
    assert trouble(source).count(server.url) == 1
    assert not source.poll(), "that it is still down is no change"
    server.answer = good
    wait_until(lambda: source.poll() and source.read().up)


def test_a_server_that_is_gone(server: Server, make: Make) -> None:
    """Nobody listens there any more."""
    source = make(server, url="https://localhost:1/slices.json")
    assert not source.poll()
    assert "https://localhost:1/slices.json: cannot be fetched" in trouble(source)


@pytest.mark.parametrize("signed", ["of_nobody", "elsewhere"])
def test_a_wrong_certificate_is_no_answer(certificates: Certificates, make: Make, signed: str) -> None:
    """That of an unknown authority, and that of another host; no request reaches such a server."""
    with Server(lambda _: listing("ann")).running(getattr(certificates, signed)) as server:
        source = make(server)
        source.poll()
        assert "certificate verify failed" in trouble(source)
        assert server.asked == []


def test_the_systems_authorities_do_not_know_the_tests(server: Server, make: Make) -> None:
    """Without ca_file the system's list decides."""
    source = make(server, ca_file=None)
    source.poll()
    assert "certificate verify failed" in trouble(source)


@pytest.mark.parametrize(("content", "text"), [(None, "No such file"), ("no certificate", "no certificate in PEM")])
def test_a_bad_file_of_certificates(server: Server, make: Make, tmp_path: Path, content: str | None, text: str) -> None:
    """It is named."""
    path = tmp_path / "bad.pem"
    if content:
        path.write_text(content)
    source = make(server, ca_file=path)
    source.poll()
    assert f"the file of certificates {path} cannot be used: " in trouble(source)
    assert text in trouble(source)


def test_a_token_is_read_from_its_file_each_time(server: Server, make: Make, tmp_path: Path) -> None:
    """So it can be changed while the program runs."""
    token_file = tmp_path / "token"
    source = make(server, token_file=token_file)
    for token in (SECRET, "another"):
        token_file.write_text(f"{token}\n")
        source.poll()
        assert server.asked[-1].headers["authorization"] == f"Bearer {token}"


def test_a_user_and_a_password(server: Server, make: Make, tmp_path: Path) -> None:
    """Basic authentication."""
    (tmp_path / "password").write_text(SECRET)
    make(server, user="node1", password_file=tmp_path / "password").poll()
    sent = server.asked[-1].headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == f"node1:{SECRET}"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (f"{SECRET}\n{SECRET}".encode(), "does not hold one line"),
        (f"{SECRET}\xff".encode("latin-1"), "does not hold one line"),
        (SECRET.encode() * 1000, "does not hold one line"),
    ],
)
def test_a_bad_token_file_shows_no_token(
    server: Server, make: Make, tmp_path: Path, content: bytes | None, text: str
) -> None:
    """What is wrong is said of the file."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    source = make(server, token_file=path)
    source.poll()
    assert f"{path} {text}" in trouble(source)
    assert SECRET not in trouble(source)
    assert server.asked == []


@pytest.mark.parametrize("named", ["token_file", "ca_file"])
def test_a_pipe_in_a_files_place_holds_nobody_up(server: Server, make: Make, tmp_path: Path, named: str) -> None:
    """It is refused in one sentence, whether a writer comes or not."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    source = make(server, **{named: path})
    source.poll()
    assert str(path) in trouble(source)
    assert trouble(source).endswith(": not a regular file; write the path of one")
    assert server.asked == []


def test_secrets_stay_where_they_are(server: Server, make: Make, tmp_path: Path) -> None:
    """Neither a query nor a token is in a name, a problem, or what is kept."""
    (tmp_path / "token").write_text(SECRET)
    source = make(server, url=f"{server.url}/slices.json?key={SECRET}", token_file=tmp_path / "token")
    source.poll()
    server.answer = lambda _: Says(b"", 403)
    source.poll()
    kept = [path.read_text() for path in tmp_path.glob("state.db*")]
    assert len(kept) == 1
    assert SECRET not in "".join([repr(source.read()), trouble(source), source.name, *kept])


def test_a_token_does_not_follow_a_redirect_elsewhere(server: Server, make: Make, tmp_path: Path) -> None:
    """Another host over https may be asked, but not with our token."""
    (tmp_path / "token").write_text(SECRET)
    other = server.url.replace("localhost", "127.0.0.1") + "/other.json"

    def answer(asked: Asked) -> Says:
        return listing("ann") if asked.path == "/other.json" else Says(b"", 307, {"location": other})

    server.answer = answer
    source = make(server, token_file=tmp_path / "token")
    source.poll()
    with_token = [asked.path for asked in server.asked if "authorization" in asked.headers]
    assert with_token == ["/slices.json"]


@pytest.mark.parametrize(
    ("given", "asked_with"),
    [
        ({"etag": '"v1"'}, ("if-none-match", '"v1"')),
        ({"last-modified": "yesterday"}, ("if-modified-since", "yesterday")),
    ],
)
def test_what_has_not_changed_is_not_sent_again(
    server: Server, make: Make, given: dict[str, str], asked_with: tuple[str, str]
) -> None:
    """The server is asked for what is newer; that there is nothing is a success."""
    header, text = asked_with

    def answer(asked: Asked) -> Says:
        return Says(b"", 304) if asked.headers.get(header) == text else Says(listing("ann").body, headers=given)

    server.answer = answer
    source = make(server)
    assert source.poll()
    assert not source.poll()
    assert server.asked[-1].headers[header] == text
    assert (source.read().up, names(source)) == (True, ["ann"])


def test_a_server_that_was_down_is_up_where_nothing_has_changed(server: Server, make: Make) -> None:
    """304 ends a trouble as 200 does."""
    answer = server.answer = lambda asked: (
        Says(b"", 304) if "if-none-match" in asked.headers else Says(listing("ann").body, headers={"etag": '"v"'})
    )
    source = make(server)
    source.poll()
    server.answer = lambda _: Says(b"", 503)
    source.poll()
    server.answer = answer
    assert source.poll()
    assert source.read().up


def test_the_last_good_answer_outlives_the_program(server: Server, make: Make, tmp_path: Path) -> None:
    """A program that starts while the server is down goes on with it; the file is its owner's alone."""
    make(server).poll()
    (path,) = tmp_path.glob("state.db.source-*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.answer = lambda _: Says(b"", 503)
    source = make(server)
    assert names(source) == ["ann", "bob"]
    assert source.read().last_success_wall_seconds == NOW
    source.poll()
    assert names(source) == ["ann", "bob"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"text": 5}', '{"text": "{}", "more": 1}', '{"text": "["}']
)
def test_a_damaged_file_of_the_last_answer_is_as_none(server: Server, make: Make, content: str) -> None:
    """The server is asked instead."""
    source = make(server)
    source._shelf.path.write_text(content)
    assert names(make(server)) == []
    source.poll()
    assert names(make(server)) == ["ann", "bob"]


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_costs_the_next_start_alone(server: Server, make: Make, tmp_path: Path) -> None:
    """What runs is what the server says, the older file stays, and the trouble is a problem of the source."""
    source = make(server)
    source.poll()
    server.answer = lambda _: listing("cyd")
    with no_more_than(10):
        assert source.poll()
    assert (source.read().up, source.read().unkept, names(source)) == (True, True, ["cyd"])
    (problem,) = source.read().problems
    assert "cannot be kept for the next start: File too large" in problem.text
    assert len(list(tmp_path.glob("state.db*"))) == 1
    assert names(make(server)) == ["ann", "bob"]
    assert source.poll()
    assert (source.read().problems, source.read().unkept) == ((), False)


class TestGuard:
    """A list that is short by accident."""

    def test_half_of_many_may_go_at_once(self, server: Server, make: Make) -> None:
        """Not more than half."""
        source = make(server)
        for count in (20, 10):
            server.answer = lambda _, count=count: many(count)
            source.poll()
            assert len(names(source)) == count

    def test_more_go_only_when_two_polls_agree(self, server: Server, make: Make) -> None:
        """What is refused once and said again is meant."""
        source = make(server)
        server.answer = lambda _: many(20)
        source.poll()
        server.answer = lambda _: many(9)
        source.poll()
        assert len(names(source)) == 20
        assert "would drop 11 of 20 slices at once; they stay, unless the next poll says the same" in trouble(source)
        assert source.poll()
        assert (source.read().up, len(names(source))) == (True, 9)

    def test_two_polls_that_differ_do_not_agree(self, server: Server, make: Make) -> None:
        """Nor do two with a good one in between."""
        source = make(server)
        for count, expected in ((20, 20), (2, 20), (3, 20), (20, 20), (3, 20), (3, 3)):
            server.answer = lambda _, count=count: many(count)
            source.poll()
            assert len(names(source)) == expected

    def test_few_slices_may_go_at_once(self, server: Server, make: Make) -> None:
        """Nine are what a person removes in a minute."""
        source = make(server)
        for count in (9, 0):
            server.answer = lambda _, count=count: many(count)
            source.poll()
            assert len(names(source)) == count

    def test_it_can_be_switched_off(self, server: Server, make: Make) -> None:
        """`guard: false` believes every answer."""
        source = make(server, guard=False)
        for count in (20, 0):
            server.answer = lambda _, count=count: many(count)
            source.poll()
            assert len(names(source)) == count

    def test_it_holds_over_a_restart(self, server: Server, make: Make) -> None:
        """What was kept on disk is what may not be dropped."""
        server.answer = lambda _: many(20)
        make(server).poll()
        server.answer = lambda _: listing()
        source = make(server)
        source.poll()
        assert len(names(source)) == 20


def test_a_bad_value_costs_its_key_and_is_named(server: Server, make: Make) -> None:
    """As in a file, with the place in the list instead of a line."""
    server.answer = lambda _: Says(
        json.dumps({"slices": [{"name": "ann", "normal": {"full": 10, "allowance": "5GB"}}, {"name": 5}]}).encode()
    )
    source = make(server)
    source.poll()
    result = source.read()
    assert result.up
    assert [(record.name, record.normal.allowance_bytes) for record in result.records] == [("ann", 5_000_000_000)]
    assert [problem.key for problem in result.problems] == ["slices[0].normal.full", "slices[1].name"]
    assert str(result.problems[0]).startswith(f"{server.url}/slices.json: slices[0].normal.full: 10 has no unit")


def test_json_is_read_as_servers_write_it(server: Server, make: Make) -> None:
    """Tabs between values and pairs of escapes are no YAML."""
    server.answer = lambda _: Says(
        b'{\n\t"slices": [\n\t\t{"name": "ann", "labels": {"mood": "\\ud83d\\ude00"}}\n\t]\n}'
    )
    source = make(server)
    source.poll()
    assert source.read().records[0].labels == {"mood": "\N{GRINNING FACE}"}


def test_a_source_that_is_asked_in_another_way_goes_on(
    server: Server, certificates: Certificates, tmp_path: Path
) -> None:
    """A changed timeout or token removes nobody, even where nothing could be kept on disk."""
    sources = Sources(tmp_path / "gone" / "state.db", lambda: NOW, dict, keeps=True)
    polling = Polling(f"{server.url}/slices.json", 60, PATIENCE_SECONDS, 1 << 20, certificates.ca_file, guard=True)
    before = HttpAt(polling, None, None, None)
    sources.read([before])
    sources.polled[0].poll()
    (result,) = sources.read([before])
    assert any(os.strerror(errno.ENOENT) in problem.text for problem in result.problems)
    (result,) = sources.read([HttpAt(polling, tmp_path / "token", None, None)])
    assert [record.name for record in result.records] == ["ann", "bob"]
    assert sources.read([]) == []
    assert sources.polled == ()


@pytest.mark.parametrize("ca_file", [None, "{folder}/none.pem"])
def test_certificates_that_the_environment_names_and_are_not_there_are_a_trouble_like_any_other(
    tmp_path: Path, ca_file: str | None
) -> None:
    """OpenSSL's variable is heard, and what is wrong with it said in a sentence; no answer is taken unverified."""
    asking = (
        "from bwexporter.fetch import FetchError, fetch\n"
        "try: fetch('https://127.0.0.1:9/')\n"
        "except FetchError as trouble: print(trouble)"
    )
    named = {"SSL_CERT_FILE": ca_file.format(folder=tmp_path)} if ca_file else {}
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    done = subprocess.run(
        [sys.executable, "-c", asking], env={**environment, **named}, capture_output=True, text=True, check=True
    )
    wanted = "none.pem cannot be used: No such file or directory" if ca_file else "127.0.0.1:9/ cannot be fetched"
    assert wanted in done.stdout
