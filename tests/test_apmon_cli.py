"""`bwexporter apmon` as people and scripts use it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bwexporter.cli.main import main
from tests.apmon_ground import Receiver
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

DATA = Path(__file__).parent / "data" / "apmon"
WORKED = json.loads((DATA / "worked-example.json").read_text())["hex"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def apmon(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `bwexporter apmon ...` in this process; give its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(("apmon", *arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


def piped(*arguments: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process of its own, with something on its standard input."""
    command = [sys.executable, "-m", "bwexporter", "apmon", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_decode_prints_one_object_and_encode_makes_the_same_hex_of_it(apmon: Run, tmp_path: Path) -> None:
    """The one is the inverse of the other, through files too."""
    code, out, err = apmon("decode", "--json", WORKED)
    assert (0, "") == (code, err)
    data = json.loads(out)
    assert ["header", "instance_id", "sequence", "cluster", "node", "parameters", "timestamp"] == list(data)
    assert ["tx_bytes", 5, 5e9] == data["parameters"][0]

    written = tmp_path / "datagram.json"
    written.write_text(json.dumps(data, indent=2))

    assert (0, WORKED + "\n", "") == apmon("encode", "--json", str(written))


def test_decode_reads_raw_files_files_of_hex_and_standard_input(apmon: Run, tmp_path: Path) -> None:
    """Whatever a capture left behind."""
    raw, lines = tmp_path / "raw", tmp_path / "lines"
    raw.write_bytes(bytes.fromhex(WORKED))
    lines.write_text(f"{WORKED}\n\n{WORKED.upper()}\n")

    once = apmon("decode", "--json", WORKED)[1]

    assert once == apmon("decode", "--json", str(raw))[1]
    assert once * 2 == apmon("decode", "--json", str(lines))[1]
    lines.write_text("\n".join(WORKED[at : at + 32] for at in range(0, len(WORKED), 32)))
    assert once == apmon("decode", "--json", str(lines))[1]
    assert once == piped("decode", "--json", "-", given=bytes.fromhex(WORKED)).stdout.decode()
    assert WORKED * 2 == piped("encode", "-", given=(once * 2).encode()).stdout.decode().replace("\n", "")


def test_people_see_no_password_unless_they_ask(apmon: Run) -> None:
    """The header is shown with stars."""
    code, out, _ = apmon("decode", WORKED)
    assert 0 == code
    assert "v:2.2.0_hxp:***" in out
    assert "2008-01-10 21:20:00 UTC" in out
    assert "s3cr3t" not in out
    assert "v:2.2.0_hxp:s3cr3t" in apmon("decode", "--show-password", WORKED)[1]


def test_what_is_wrong_with_a_source_is_said_once(tmp_path: Path) -> None:
    """By the error where no source can be used; by the log where the next one is."""
    (tmp_path / "bad.conf").write_text("host:port\n")

    def said(*sources: str) -> list[str]:
        named = [word for source in sources for word in ("--source", str(tmp_path / source))]
        return piped("send", *named, "--cluster", "c", "a=1", given=b"").stderr.decode().splitlines()

    missing, bad = said("none.conf", "bad.conf")
    assert re.fullmatch(r"bwexporter: \S+none.conf cannot be read: No such file or directory", missing)
    assert re.match(r"\S+bad.conf:1: not host, host:port", bad)
    with Receiver() as receiver:
        (tmp_path / "good.conf").write_text(f"{receiver.destination().name}\n")
        (passed_over,) = said("none.conf", "good.conf")
    assert passed_over.endswith("none.conf cannot be read: No such file or directory; the next source is used")


def test_what_a_terminal_obeys_is_shown_as_text(apmon: Run, tmp_path: Path) -> None:
    """A stranger's datagram cannot move the cursor."""
    data = {"header": "v:2.2.0p:", "instance_id": 1, "sequence": 1, "cluster": "c", "node": "\x1b[2J"}
    (tmp_path / "evil.json").write_text(json.dumps({**data, "parameters": [["a", 0, "\x1b]0;hello\x07"]]}))
    made = apmon("encode", str(tmp_path / "evil.json"))[1]

    _, out, _ = apmon("decode", made.strip())

    assert "\\x1b[2J" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("decode",), 2, "--listen PORT"),
        (("decode", WORKED, "--listen", "8884"), 2, "--listen PORT"),
        (("decode", "--listen", "port"), 2, "is not a port"),
        (("decode", WORKED[:-2]), 1, "not a datagram"),
        (("decode", WORKED[:-1]), 1, "odd number of digits"),
        (("decode", "/nowhere/at/all"), 1, "No such file"),
        (("encode", "/nowhere/at/all"), 1, "No such file"),
    ],
)
def test_bad_input_gets_one_line(apmon: Run, arguments: tuple[str, ...], code: int, text: str) -> None:
    """And an exit code that says whose fault it is."""
    ended, out, err = apmon(*arguments)

    assert (code, "") == (ended, out)
    assert text in err


def test_json_that_is_none_names_its_place(apmon: Run, tmp_path: Path) -> None:
    """As parsers do."""
    (tmp_path / "bad.json").write_text('{"header": ')

    code, _, err = apmon("encode", str(tmp_path / "bad.json"))

    assert 1 == code
    assert re.search(r"bad\.json is not JSON: .*line 1", err)


def test_json_that_is_none_may_come_from_standard_input() -> None:
    """Which has a name for people."""
    done = piped("encode", "-", given=b"load=0.5")

    assert (1, b"") == (done.returncode, done.stdout)
    assert b"bwexporter: standard input is not JSON: " in done.stderr


@pytest.mark.parametrize("command", ["decode", "encode", "send"])
def test_every_command_explains_itself(apmon: Run, command: str) -> None:
    """A paragraph that teaches, and a sentence for each option."""
    code, out, _ = apmon(command, "--help")

    assert 0 == code
    assert len(out.partition("Options:")[0].split()) > 25


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_decode_shows_what_arrives(family: int, host: str) -> None:
    """Live, over IPv4 and IPv6; what is no datagram is named and the next one is shown."""
    command = [sys.executable, "-m", "bwexporter", "apmon", "decode", "--listen", "0", "--count", "2", "--json"]
    with (
        socket.socket(family, socket.SOCK_DGRAM) as sender,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listening,
    ):
        assert listening.stderr
        found = re.search(r"UDP port (\d+)", listening.stderr.readline())
        assert found
        for payload in (b"hello", bytes.fromhex(WORKED)):
            sender.sendto(payload, (host, int(found[1])))
        out, err = listening.communicate(timeout=PATIENCE_SECONDS)

    assert 0 == listening.returncode
    assert host in err
    assert "not a datagram" in err
    assert "node1" == json.loads(out)["node"]


class TestSend:
    """Parameters from the command line."""

    def test_what_is_given_arrives(self, apmon: Run, tmp_path: Path) -> None:
        """Numbers as numbers, text as text, also what looks like a number where asked."""
        (tmp_path / "password").write_text("s3cr3t\nmore\n")
        with Receiver() as receiver:
            place = receiver.destination().name
            options = ("--to", place, "--cluster", "c", "--node", "n", "--time", "1200000000")
            password = ("--password-file", str(tmp_path / "password"))
            code, out, err = apmon("send", *options, *password, "load=0.5", "count=7", "state=fine", "--text", "id=007")
            (datagram,) = receiver.wait_for(1)

        assert (0, "") == (code, err)
        assert f"{place}  1          none" in out
        assert (("load", 5, 0.5), ("count", 5, 7.0), ("state", 0, "fine"), ("id", 0, "007")) == datagram.parameters
        assert 1_200_000_000 == datagram.timestamp
        assert datagram.header.endswith("p:s3cr3t")

    def test_to_the_destinations_of_a_file(self, apmon: Run, tmp_path: Path) -> None:
        """With what became of each, as JSON."""
        bad = f"127.0.0.1:{free_port()}"
        with Receiver() as receiver:
            (tmp_path / "apmon.conf").write_text(f"{receiver.destination().name}\n{bad}\n")
            source = ("--source", str(tmp_path / "apmon.conf"), "--json")
            code, out, _ = apmon("send", *source, "--cluster", "c", "a=1", "b= ")
            receiver.wait_for(1)
        said = json.loads(out)

        assert 1 == code
        assert {"destination": receiver.destination().name, "datagrams": 1, "dropped": {}} == said["destinations"][0]
        assert {"refused": 1} == said["destinations"][1]["dropped"]
        assert [{"parameter": "b", "reason": "is empty text"}] == said["skipped"]

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("a=1",), 2, "--cluster"),
            (("--cluster", "c", "a=1"), 2, "--to"),
            (("--cluster", "c", "--to", "127.0.0.1", "a"), 2, "NAME=VALUE"),
            (("--cluster", " ", "--to", "127.0.0.1", "a=1"), 2, "the cluster must be"),
            (("--cluster", "c", "--to", "127.0.0.1:x", "a=1"), 2, '"127.0.0.1:x": not host, host:port'),
            (("--cluster", "c", "--to", "node1:99999", "a=1"), 2, '"node1:99999": the port is not a number from 1'),
            (("--cluster", "c", "--to", "127.0.0.1", "--time", "soon", "a=1"), 2, "neither now nor"),
            (("--cluster", "c", "--source", "/nowhere/at/all", "a=1"), 1, "No such file"),
            (("--cluster", "c", "--source", "http://127.0.0.1/x", "a=1"), 1, "write https"),
        ],
    )
    def test_bad_use_is_one_line(self, apmon: Run, arguments: tuple[str, ...], code: int, text: str) -> None:
        """And nothing on the standard output."""
        ended, out, err = apmon("send", *arguments)

        assert (code, "") == (ended, out)
        assert text in err
