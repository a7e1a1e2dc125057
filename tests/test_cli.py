"""The command line as people and scripts meet it: what it teaches and prints, exit codes, errors of one line."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bwexporter import __version__
from bwexporter.cli import effective, table
from bwexporter.cli.files import roll_of
from bwexporter.cli.main import main
from bwexporter.config import load_config
from bwexporter.core.lanes import Reason, Traffic
from bwexporter.core.report import Report
from bwexporter.state import open_state
from bwexporter.web import api
from bwexporter.web.listening import bind
from bwexporter.web.server import Server
from tests.ports import free_port
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.servers import Certificates, Says
from tests.servers import Server as SlicesServer
from tests.waiting import PATIENCE_SECONDS
from tests.web import Facts, app_of

DEPLOY = Path(__file__).parent.parent / "deploy"
COMMANDS = ("run", "check", "slices", "status", "plan", "tree", "demo")
MEGABYTE = 1_000_000


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Bwexporter = Callable[..., Done]


@pytest.fixture
def bwexporter(capsys: pytest.CaptureFixture[str]) -> Bwexporter:
    """Run a command line in this process."""

    def run(*arguments: str) -> Done:
        code = 0
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(code, out, err)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a good configuration of two slices."""
    (tmp_path / "slices.yml").write_text(
        "slices:\n"
        "  - {name: alice, id: 7, normal: {full: 10mbit, allowance: 5GB, threshold: 4GB}}\n"
        "  - {name: bob, normal: {allowance: unlimited}}\n"
    )
    path = tmp_path / "bwexporter.yml"
    path.write_text(
        "devices:\n  - {name: eth0, cap: 100mbit, line_rate: 1gbit}\n"
        "defaults:\n  normal: {floor: 1kbit}\n  exempt: {floor: 1kbit}\n"
        "slices:\n  - file: slices.yml\n"
    )
    return path


class TestHelp:
    """What a new user learns from it."""

    def test_it_says_what_the_program_does_and_how_to_try_it(self, bwexporter: Bwexporter) -> None:
        """The first screen: the idea, the demo, the way to a first run; each command in a few words."""
        said = bwexporter("--help")
        assert said.code == 0
        for words in ("never overspend", "\n    bwexporter demo\n", "--shadow     (judge and publish, change nothing)"):
            assert words in said.out
        assert "\\b" not in said.out
        for command in COMMANDS:
            (line,) = [line for line in said.out.splitlines() if line.startswith(f"  {command} ")]
            assert line.endswith("."), line
        assert "demo-node" not in said.out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, bwexporter: Bwexporter, command: str) -> None:
        """A usage line, a paragraph that teaches, and a sentence for each option."""
        said = bwexporter(command, "--help")
        assert said.code == 0
        usage, _, rest = said.out.partition("\n")
        assert usage.startswith(f"Usage: bwexporter {command}")
        explanation, _, options = rest.partition("Options:")
        assert len(explanation.split()) > 15
        for line in options.splitlines():
            assert not line.startswith("  -") or len(line.split()) > 2, line
        assert "listen-fd" not in said.out

    def test_the_version(self, bwexporter: Bwexporter) -> None:
        """As packagers ask for it."""
        assert bwexporter("--version").out == f"bwexporter, version {__version__}\n"

    @pytest.mark.parametrize(
        "arguments", [("nonsense",), ("run", "--nonsense"), ("demo", "--seconds", "soon"), ("status", "a", "b")]
    )
    def test_bad_usage_ends_with_2_and_says_in_one_line_what_is_wrong_and_where_help_is(
        self, bwexporter: Bwexporter, arguments: Sequence[str]
    ) -> None:
        """Nothing on the standard output, which a script may read."""
        done = bwexporter(*arguments)
        assert done.code == 2
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert line.startswith("bwexporter: ")
        assert line.endswith("--help`")


class TestCheck:
    """Every problem at once."""

    def test_good_files(self, bwexporter: Bwexporter, config: Path) -> None:
        """Exit code 0, and how many slices there are."""
        done = bwexporter("check", str(config))
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith("bwexporter.yml is good: 2 slices\n")

    def test_the_example_is_good(self, bwexporter: Bwexporter) -> None:
        """The one that is installed."""
        assert bwexporter("check", str(DEPLOY / "bwexporter.yml")).code == 0

    def test_a_bad_configuration_names_every_problem_with_line_and_key(
        self, bwexporter: Bwexporter, config: Path
    ) -> None:
        """Exit code 2."""
        config.write_text("interval: 10\ndevices:\n  - {name: eth0}\nslices:\n  - file: slices.yml\nnonsense: 1\n")
        done = bwexporter("check", str(config))
        assert done.code == 2
        for place in (
            "bwexporter.yml:1: interval: ",
            "bwexporter.yml:3: devices[0].cap: ",
            "bwexporter.yml:6: nonsense",
        ):
            assert place in done.out
        assert done.out.endswith("3 problems; nothing was changed\n")

    def test_a_bad_slice_is_named_with_line_and_key(self, bwexporter: Bwexporter, config: Path) -> None:
        """Exit code 2 as well, although the others would run."""
        with (config.parent / "slices.yml").open("a") as slices:
            slices.write("  - {name: cyd, normal: {allowance: 5}}\n")
        done = bwexporter("check", str(config))
        assert done.code == 2
        assert "slices.yml:4: slices[2].normal.allowance: " in done.out
        assert "1 problem; nothing was changed" in done.out

    def test_a_match_by_what_is_not_there_is_doubtful_and_one_that_is_taken_is_wrong(
        self, bwexporter: Bwexporter, config: Path
    ) -> None:
        """The user may come, or the node be another one."""
        slices = config.parent / "slices.yml"
        slices.write_text("slices:\n  - {name: ann, match: {user: nobody-of-that-name, mark: 7}}\n")
        doubtful = bwexporter("check", str(config))
        slices.write_text(slices.read_text() + "  - {name: bob, match: {mark: 7}}\n")
        wrong = bwexporter("check", str(config))
        assert doubtful.code == 0
        assert "slices.yml:2: match: ann: there is no user nobody-of-that-name on this node" in doubtful.out
        assert wrong.code == 2
        assert "slices.yml:3: match: bob: the mark 0x7 is claimed by ann already" in wrong.out

    def test_a_bad_configuration_hides_nothing_of_the_files_that_it_names(
        self, bwexporter: Bwexporter, config: Path
    ) -> None:
        """Slices, also those that are named twice or whose file is not there, and the web's file."""
        with (config.parent / "slices.yml").open("a") as slices:
            slices.write("  - {name: cyd, normal: {allowance: 5}}\n  - {name: alice}\n")
        with config.open("a") as more:
            more.write("  - file: none.yml\ninterval: 10\nweb: {config_file: web.yml}\n")
        done = bwexporter("check", str(config))
        assert done.code == 2
        for place in (
            "bwexporter.yml:9: interval: ",
            "slices.yml:4: slices[2].normal.allowance: ",
            "slices.yml:5: name: alice stands at ",
            "none.yml: cannot be read: ",
            "web.yml: cannot be read: ",
        ):
            assert place in done.out
        assert done.out.endswith("5 problems; nothing was changed\n")

    def test_where_the_slices_key_itself_is_bad_no_file_is_guessed_at(
        self, bwexporter: Bwexporter, config: Path
    ) -> None:
        """An override would miss the record in the source that was left out."""
        (config.parent / "more.yml").write_text("slices:\n  - {name: alice, override: true, normal: {full: 5mbit}}\n")
        config.write_text(config.read_text().replace("file: slices.yml", "fiel: slices.yml\n  - file: more.yml"))
        done = bwexporter("check", str(config))
        assert done.code == 2
        assert "bwexporter.yml:7: slices[0].fiel: " in done.out
        assert "override" not in done.out

    def test_a_fault_of_yaml_hides_nothing_that_can_be_told(self, bwexporter: Bwexporter, config: Path) -> None:
        """A bracket that is never closed costs its key alone: all others are checked, and what they name."""
        with (config.parent / "slices.yml").open("a") as slices:
            slices.write("  - {name: cyd, normal: {allowance: 5}}\n  - {name: dan, devices: [eth7]}\n")
        text = config.read_text()
        config.write_text(f"interval: 10\nweb: {{listen: [\n{text}apmon: {{every: 1}}\ncontrol: }}\n")
        done = bwexporter("check", str(config))
        last = text.count("\n") + 3
        assert done.code == 2
        for place in (
            "bwexporter.yml:1: interval: ",
            "bwexporter.yml:2: is not YAML here: ",
            f"bwexporter.yml:{last}: apmon.every: ",
            f"bwexporter.yml:{last + 1}: is not YAML here: ",
            "slices.yml:4: slices[2].normal.allowance: ",
            "slices.yml:5: devices[0]: dan: eth7 is not a device of the configuration; it has eth0",
        ):
            assert place in done.out
        assert done.out.endswith("7 problems; nothing was changed\n")

    def test_a_key_that_stands_twice_hides_nothing_either(self, bwexporter: Bwexporter, config: Path) -> None:
        """In both files; what depends on which of the two is meant is not guessed at."""
        (config.parent / "slices.yml").write_text(
            "slices:\n"
            "  - {name: ann, normal: {full: 5mbit}, normal: {full: 6mbit}}\n"
            "  - {name: bob, normal: {allowance: 5, threshold: 900GB}, devices: [eth7]}\n"
        )
        config.write_text(f"{config.read_text()}devices:\n  - {{name: eth7, cap: 5}}\nnode: 5\n")
        done = bwexporter("check", str(config))
        assert done.code == 2
        for place in (
            ": devices: stands here and at line ",
            ": node: ",
            "slices.yml:2: normal: stands here and at line 2",
            "slices.yml:3: slices[1].normal.allowance: ",
        ):
            assert place in done.out
        assert "eth7 is not a device" not in done.out

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            ("interval: 10", {"device", "threshold", "loan"}),
            ("nonsense: 1", {"device", "threshold", "loan"}),
            ("exempt: {prefixes: [x]}", {"device", "threshold"}),
            ("defautls: {normal: {allowance: 900GB}}", {"device"}),
            ("devcies: [{name: eth7}]", {"threshold"}),
        ],
    )
    def test_what_contradicts_the_slices_is_told_as_far_as_it_is_meant(
        self, bwexporter: Bwexporter, config: Path, fault: str, told: set[str]
    ) -> None:
        """Beside a fault of the configuration that has no bearing on it."""
        (config.parent / "slices.yml").write_text(
            "slices:\n"
            "  - {name: ann, devices: [eth7]}\n"
            "  - {name: bob, normal: {threshold: 900GB}}\n"
            "  - {name: cyd, loans: [{to: bob, normal: {full: 900gbit}}]}\n"
        )
        config.write_text(f"{config.read_text()}{fault}\n")
        words = {"device": "eth7 is not a device", "threshold": "is more than the default", "loan": "is refused"}

        done = bwexporter("check", str(config))

        assert done.code == 2
        assert {name for name, said in words.items() if said in done.out} == told

    @pytest.mark.parametrize("fault", ["interval: 10", "metrics: {off: [nonsense]}", "web: {config_file: none.yml}"])
    def test_run_refuses_a_bad_configuration_with_all_that_check_finds(
        self, bwexporter: Bwexporter, config: Path, fault: str
    ) -> None:
        """Before it opens anything."""
        with (config.parent / "slices.yml").open("a") as slices:
            slices.write("  - {name: cyd, normal: {allowance: 5}}\n")
        config.write_text(f"{config.read_text()}{fault}\n")

        checked, refused = bwexporter("check", str(config)), bwexporter("run", "--config", str(config))

        assert refused.code == checked.code == 2
        assert sorted(refused.err.splitlines()) == sorted(checked.out.splitlines()[:-1])
        assert len(refused.err.splitlines()) == 2

    @pytest.mark.parametrize("folder", ["/", "."])
    def test_a_state_that_is_a_folder_is_named(self, bwexporter: Bwexporter, config: Path, folder: str) -> None:
        """What lies beside the state file has its name from it."""
        config.write_text(f"state: {folder}\n{config.read_text()}")
        done = bwexporter("check", str(config))
        assert done.code == 2
        assert f'bwexporter.yml:1: state: "{folder}" is a folder; name a file in it' in done.out

    def test_warnings_alone_leave_0(self, bwexporter: Bwexporter, config: Path) -> None:
        """A floor that is lowered to fit."""
        config.write_text(config.read_text().replace("{floor: 1kbit}", "{floor: 640kbit}", 1))
        done = bwexporter("check", str(config))
        assert done.code == 0
        assert "warning: " in done.out
        assert "defaults.normal.floor" in done.out

    def test_json(self, bwexporter: Bwexporter, config: Path) -> None:
        """The same for programs; file, line, key and text apart."""
        good = json.loads(bwexporter("check", "--json", str(config)).out)
        assert good["problems"] == []
        assert good["slices"] == 2
        config.write_text("devices:\n  - {name: eth0}\n")
        done = bwexporter("check", "--json", str(config))
        assert done.code == 2
        (problem,) = json.loads(done.out)["problems"]
        assert (problem["file"], problem["line"], problem["key"]) == (str(config), 2, "devices[0].cap")
        assert "missing" in problem["text"]

    def test_a_file_that_is_not_there(self, bwexporter: Bwexporter, tmp_path: Path) -> None:
        """Exit code 2, and its name."""
        done = bwexporter("check", str(tmp_path / "none.yml"))
        assert done.code == 2
        assert "none.yml" in done.out

    def test_a_group_that_is_not_on_this_node(self, bwexporter: Bwexporter, config: Path) -> None:
        """Refused as `run` refuses it; one that is there is good."""
        written = config.read_text()
        config.write_text(f"{written}control: {{group: no-such-group}}\n")
        done = bwexporter("check", str(config))
        assert done.code == 2
        assert f"{config}: control.group: there is no group 'no-such-group' on this node\n" in done.out
        config.write_text(f"{written}control: {{group: root}}\n")
        assert bwexporter("check", str(config)).code == 0

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
    def test_what_is_no_file_is_said_at_once(
        self, bwexporter: Bwexporter, config: Path, make: Callable[[Path], None]
    ) -> None:
        """Of the configuration and of what it names; nobody waits for a writer."""
        (config.parent / "slices.yml").unlink()
        make(config.parent / "slices.yml")
        for path in (config, config.parent / "slices.yml"):
            done = bwexporter("check", str(path))
            assert done.code == 2
            assert "slices.yml: cannot be read: not a regular file; write the path of one\n" in done.out


class TestServers:
    """Slices that servers give."""

    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Certificates:
        """Return an authority and certificates of it."""
        return Certificates(tmp_path)

    @pytest.fixture
    def of_server(self, config: Path, certificates: Certificates) -> Iterator[Path]:
        """Return a configuration whose slices come from a server."""
        body = b'{"slices": [{"name": "cyd", "normal": {"full": "5mbit"}}]}'
        with SlicesServer(lambda _: Says(body)).running(certificates.here) as server:
            (config.parent / "token").write_text("s3cr3t")
            item = f"{{url: {server.url}/list, ca_file: ca.pem, token_file: token}}"
            config.write_text(config.read_text().replace("file: slices.yml", f"http: {item}"))
            yield config

    def test_they_are_asked_only_where_that_is_wanted(self, bwexporter: Bwexporter, of_server: Path) -> None:
        """And nothing is written either way."""
        before = sorted(of_server.parent.iterdir())
        silent = bwexporter("check", str(of_server))
        assert (silent.code, "has never answered here; --ask asks it now" in silent.out) == (0, True)
        asked = bwexporter("check", "--ask", str(of_server))
        assert (asked.code, "was asked just now and gives 1 slice" in asked.out) == (0, True)
        (server,) = json.loads(bwexporter("check", "--ask", "--json", str(of_server)).out)["servers"]
        assert (server["asked"], server["slices"]) == (True, 1)
        rows = json.loads(bwexporter("slices", "cyd", "--ask", "--json", "--config", str(of_server)).out)["slices"]
        assert rows[0]["from"]["full"].startswith("https://localhost")
        assert sorted(of_server.parent.iterdir()) == before

    def test_files_of_secrets_are_checked(self, bwexporter: Bwexporter, of_server: Path) -> None:
        """Without a secret in what is said."""
        (of_server.parent / "token").write_text("s3cr3t\ns3cr3t")
        (of_server.parent / "ca.pem").write_text("none")
        done = bwexporter("check", "--ask", str(of_server))
        assert done.code == 2
        assert "token does not hold one line" in done.out
        assert "it holds no certificate in PEM" in done.out
        assert "s3cr3t" not in done.out


class TestSlices:
    """What each slice may send, defaults filled in."""

    def test_table(self, bwexporter: Bwexporter, config: Path) -> None:
        """A row for each lane, whole also where the output is no terminal."""
        done = bwexporter("slices", "--config", str(config))
        assert done.code == 0
        (row,) = [line for line in done.out.splitlines() if line.startswith("alice") and " normal " in line]
        assert row.split()[:6] == ["alice", "7", "eth0", "normal", "10mbit", "1kbit"]
        assert "5.00 GB" in row
        assert "…" not in done.out
        (row,) = [line for line in done.out.splitlines() if line.startswith("bob") and " normal " in line]
        assert "no limit" in row

    def test_json(self, bwexporter: Bwexporter, config: Path) -> None:
        """Bytes and bytes per second; null for no limit."""
        rows = json.loads(bwexporter("slices", "--json", "--config", str(config)).out)["slices"]
        lanes = {(row["slice"], row["traffic"]): row for row in rows}
        assert lanes["alice", "normal"]["full_rate_bytes_per_second"] == 1_250_000
        assert lanes["alice", "normal"]["allowance_bytes"] == 5_000 * MEGABYTE
        assert lanes["alice", "normal"]["threshold_bytes"] == 4_000 * MEGABYTE
        assert lanes["bob", "normal"]["allowance_bytes"] is None
        assert lanes["bob", "exempt"]["full_rate_bytes_per_second"] == 125 * MEGABYTE

    def test_one_slice_and_where_each_value_was_given(self, bwexporter: Bwexporter, config: Path) -> None:
        """A file's line, a tag, a loan, or the default; a loan that is refused is said."""
        (config.parent / "slices.yml").write_text(
            "slices:\n"
            "  - name: alice\n"
            "    normal: {full: 10mbit, guarantee: 2mbit}\n"
            "    tags: {net_share: 4}\n"
            "    loans:\n"
            "      - {to: bob, normal: {guarantee: 1mbit}}\n"
            "      - {to: bob, normal: {guarantee: 9mbit}}\n"
            "  - {name: bob, normal: {period: {calendar: month, starts_on: 15}}}\n"
        )
        place = config.parent / "slices.yml"
        done = bwexporter("slices", "alice", "--config", str(config))
        lines = {tuple(line.split()[1:3]): " ".join(line.split()[3:]) for line in done.out.splitlines()}
        assert done.code == 0
        assert lines["normal", "full"] == f"rate 10mbit {place}:2"
        assert lines["normal", "guarantee"] == f"1mbit {place}:2, 1mbit of guarantee lent to bob"
        assert lines["normal", "share"] == f"4 {place}:2 (tag net_share)"
        assert lines["exempt", "share"] == "1 default"
        assert lines["normal", "period"] == "1d default"
        assert "the loan of alice to bob is refused: alice has 1mbit of guarantee of its own" in done.out
        answer = json.loads(bwexporter("slices", "bob", "--json", "--config", str(config)).out)
        normal = answer["slices"][0]
        assert normal["from"]["guarantee"] == "default, 1mbit of guarantee borrowed from alice"
        assert (normal["period"], normal["from"]["period"]) == ("month from 15, UTC", f"{place}:8")
        assert len(answer["problems"]) == 1

    def test_a_slice_that_is_not_there(self, bwexporter: Bwexporter, config: Path) -> None:
        """Exit code 1, and where the names are."""
        done = bwexporter("slices", "zoe", "--config", str(config))
        assert (done.code, done.out) == (1, "")
        assert "`bwexporter slices` lists them" in done.err

    def test_a_bad_configuration(self, bwexporter: Bwexporter, config: Path) -> None:
        """Its problems, one a line, and exit code 2."""
        config.write_text("devices:\n  - {name: eth0}\nnonsense: 1\n")
        done = bwexporter("slices", "--config", str(config))
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 2)
        assert "devices[0].cap" in done.err


class Told:
    """A bwexporter that has told a turn, or none yet."""

    def __init__(self, told: Report | None, state: Path) -> None:
        self._state = open_state(state, now_wall_seconds=NOW_WALL_SECONDS)
        self.facts = Facts(self._state, report=told)
        self._server = Server(app_of(self.facts), [listening := bind("127.0.0.1:0")])
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop(PATIENCE_SECONDS)
        self._state.close(PATIENCE_SECONDS)


LANES = (
    LaneFigures(
        "alice", used_bytes=900 * MEGABYTE, reason=Reason.OVER_THRESHOLD, enforced_ceiling_bytes_per_second=12_512
    ),
    LaneFigures("bob", Traffic.EXEMPT, slice_id=2, used_bytes=5 * MEGABYTE),
)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    """Run a bwexporter that has told a turn."""
    server = Told(report(device_report(LANES)), tmp_path / "told.db")
    yield server
    server.stop()


class TestStatus:
    """What a running bwexporter says."""

    def test_table(self, bwexporter: Bwexporter, told: Told) -> None:
        """Use, ceiling and verdict of each lane, whole where the output is no terminal."""
        done = bwexporter("status", "--url", told.url)
        assert done.code == 0
        (row,) = [line for line in done.out.splitlines() if line.startswith("alice")]
        for words in ("900 MB", "1.00 GB", "100kbit", "10mbit", "over threshold"):
            assert words in row
        assert "…" not in done.out

    def test_the_configuration_names_where_it_answers(self, bwexporter: Bwexporter, told: Told, config: Path) -> None:
        """An address for everybody is asked on this machine."""
        config.write_text(config.read_text() + f'web: {{listen: ["0.0.0.0:{told.port}"]}}\n')
        assert "alice" in bwexporter("status", "--config", str(config)).out

    def test_json_is_the_apis_answer(self, bwexporter: Bwexporter, told: Told) -> None:
        """Names and units of the API."""
        answer = json.loads(bwexporter("status", "--json", "--url", told.url).out)
        assert answer["node"] == "node1.example.org"
        assert [row["slice"] for row in answer["slices"]] == ["alice", "bob"]
        assert answer["slices"][0]["ceiling_bytes_per_second"] == 12_512

    def test_turns_that_have_stopped(self, bwexporter: Bwexporter, told: Told) -> None:
        """The table says it below the node's name; beside JSON, which is the API's, it stands on stderr."""
        words = "The last good turn was 41 s ago."
        assert words not in bwexporter("status", "--url", told.url).out
        told.facts.readiness = (False, words)
        assert bwexporter("status", "--url", told.url).out.splitlines()[1].strip() == words
        done = bwexporter("status", "--json", "--url", told.url)
        assert (words in done.err, "stopped" in json.loads(done.out)) == (True, False)

    def test_one_slice(self, bwexporter: Bwexporter, told: Told) -> None:
        """Alone, as a table and as JSON."""
        table_of_bob = bwexporter("status", "bob", "--url", told.url).out
        assert "bob" in table_of_bob
        assert "alice" not in table_of_bob
        (row,) = json.loads(bwexporter("status", "bob", "--json", "--url", told.url).out)["slices"]
        assert row["traffic"] == "exempt"

    def test_a_slice_that_is_not_there(self, bwexporter: Bwexporter, told: Told) -> None:
        """Exit code 1, one line, and how to find out."""
        done = bwexporter("status", "nobody", "--url", told.url)
        assert (done.code, done.out) == (1, "")
        assert done.err == "bwexporter: node1.example.org has no slice 'nobody'; `bwexporter status` lists them\n"

    def test_nobody_answers(self, bwexporter: Bwexporter) -> None:
        """Exit code 1, one line that names the address, and no password that somebody wrote into it."""
        url = f"http://127.0.0.1:{free_port()}"
        for written in (url, url.replace("//", "//ann:secret@")):
            done = bwexporter("status", "--url", written)
            assert (done.code, done.out) == (1, "")
            assert done.err == f"bwexporter: no bwexporter answers at {url} (Connection refused); is it running?\n"

    def test_no_turn_has_ended_yet(self, bwexporter: Bwexporter, tmp_path: Path) -> None:
        """It says so, and that asking again helps."""
        starting = Told(None, tmp_path / "told.db")
        done = bwexporter("status", "--url", starting.url)
        starting.stop()
        assert done.code == 1
        assert done.err == f"bwexporter: the bwexporter at {starting.url} has not ended its first turn; ask again\n"

    @pytest.mark.parametrize(
        "url", ["node1:10099", "file:///etc/passwd", "http://", "http://[::1", "http://a:b", "http://a:0"]
    )
    def test_something_that_is_no_url(self, bwexporter: Bwexporter, url: str) -> None:
        """One sentence that says what to write, and exit code 2."""
        done = bwexporter("status", "--url", url)
        assert (done.code, done.out) == (2, "")
        assert f'"{url}" is not a URL of http or https with a host, as http://node1:10099' in done.err

    @pytest.mark.parametrize(
        "answer", [b"HTTP/1.0 404 Not Found\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n[]", b"SSH-2.0\r\n"]
    )
    def test_something_else_answers(self, bwexporter: Bwexporter, answer: bytes) -> None:
        """One line that doubts it."""
        stranger = (
            "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
        )
        stranger += f"; c, _ = s.accept(); c.recv(9999); c.sendall({answer!r}); c.close()"
        with subprocess.Popen([sys.executable, "-c", stranger], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            done = bwexporter("status", "--url", url)
            assert done.code == 1
            (line,) = done.err.splitlines()
            assert url in line

    @pytest.mark.parametrize("width", [80, 100, 120, 140])
    def test_the_table_can_be_read_at_every_width(self, width: int) -> None:
        """On a narrow terminal the least telling columns give way: no number is cut, and the bar stays."""
        names = ("princeton_codeen_and_friends", "alice")
        lanes = [LaneFigures(name, reason=Reason.OVER_THRESHOLD, used_bytes=999 * MEGABYTE) for name in names]
        answer = api.slices(report(device_report(lanes)))
        terminal = table.console()
        with terminal.capture() as drawn:
            terminal.print(table.lanes_table(answer, width=width, now_seconds=NOW_WALL_SECONDS), width=width)
        lines = drawn.get().splitlines()
        assert max(map(len, lines)) <= width
        for line in lines[2:]:
            for words in ("999 MB", "10mbit", "over threshold", "1d", "█"):
                assert words in line

    def test_on_sixty_columns_columns_give_way_whole(self, config: Path) -> None:
        """What is left is not cut, but for names: neither in status nor in what slices may send."""
        lanes = [LaneFigures("princeton_codeen_and_friends", reason=Reason.OVER_THRESHOLD, used_bytes=999 * MEGABYTE)]
        answer = api.slices(report(device_report(lanes)))
        rows = list(effective._rows(roll_of(load_config(config)), ()))
        tables = (
            table.lanes_table(answer, width=60, now_seconds=NOW_WALL_SECONDS),
            effective._table(rows, 60),
        )
        for one, words in zip(tables, (("999 MB", "10mbit", "over threshold"), ("5.00 GB", "10mbit")), strict=True):
            terminal = table.console()
            with terminal.capture() as drawn:
                terminal.print(one, width=60)
            lines = drawn.get().splitlines()
            assert max(map(len, lines)) <= 60
            assert all(word in drawn.get() for word in words)
            assert not [line for line in lines if "…" in line.partition("…")[2]]
        assert doctest.testmod(table).failed == 0


class TestRun:
    """`run` before it opens anything; the rest is in kernel/test_daemon.py."""

    def test_a_bad_configuration_ends_with_2(self, bwexporter: Bwexporter, tmp_path: Path) -> None:
        """Each problem in a line."""
        path = tmp_path / "bwexporter.yml"
        path.write_text("devices:\n  - {name: eth0}\nnonsense: 1\n")
        done = bwexporter("run", "--config", str(path))
        assert (done.code, done.out) == (2, "")
        assert [line.split(": ")[0] for line in done.err.splitlines()] == [f"{path}:2", f"{path}:3"]

    def test_a_state_folder_that_cannot_be_used(self, bwexporter: Bwexporter, config: Path) -> None:
        """One line that names it."""
        config.write_text(config.read_text() + f'state: {config}/state.db\nweb: {{listen: ["127.0.0.1:0"]}}\n')
        done = bwexporter("run", "--config", str(config))
        assert done.code == 1
        (line,) = done.err.splitlines()
        assert line.startswith("bwexporter: ")
        assert f"{config}" in line


class TestProcess:
    """The program as a process."""

    def test_a_reader_that_goes_away_is_no_traceback(self, config: Path) -> None:
        """As with `| head`."""
        command = f"{sys.executable} -m bwexporter slices --json --config {config} | true"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.stderr == ""

    def test_the_exit_code_reaches_the_shell(self, config: Path) -> None:
        """0, 1 and 2."""
        codes = []
        for arguments in (
            ["check", str(config)],
            ["status", "--url", "http://[::1]:9"],
            ["check", f"{config}.none"],
        ):
            done = subprocess.run([sys.executable, "-m", "bwexporter", *arguments], capture_output=True, check=False)
            codes.append(done.returncode)
        assert codes == [0, 1, 2]
