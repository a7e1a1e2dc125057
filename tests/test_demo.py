"""The demo, as a user starts it: it shows real HTB at work, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kernel.daemon_rig import NOBODY, readable_by_nobody, wait_for
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.kernel

PROGRAM = (sys.executable, "-m", "bwexporter", "demo", "--listen", "127.0.0.1:0")
FULL_RATE = 2_500_000
WINDOW_SECONDS = 3.0  # over which a rate is taken

Identity = tuple[int, str]
"""A process: its id, and when it started, as ids come again."""


class Demo:
    """A running demo, and what it has made: processes, network namespaces, files."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self.process, self.scratch = process, scratch
        assert process.stdout
        self.first_line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.first_line)
        assert found, self.first_line + process.stdout.read()
        self._client = httpx.Client(base_url=found[0], timeout=PATIENCE_SECONDS, trust_env=False)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Keep it from ending by itself, while the node inside goes on."""
        self.process.send_signal(signal.SIGSTOP)
        yield
        self.process.send_signal(signal.SIGCONT)

    def lane(self, slice_name: str, traffic: str = "normal") -> dict[str, Any]:
        """Ask its API for a lane, with the time of the turn; nothing where it does not answer yet."""
        with suppress(httpx.TransportError):
            answer = self._client.get("/api/v1/slices").json()
            for row in answer.get("slices", []):
                if (row["slice"], row["traffic"]) == (slice_name, traffic):
                    return {**row, "taken_at": answer["taken_at"]}
        return {}

    def wait_until_up(self) -> None:
        """Wait until its slices send."""
        wait_for(
            lambda: self.lane("steady").get("period_used_bytes"), seconds=PATIENCE_SECONDS, what="the first traffic"
        )

    def metrics(self) -> str:
        """Read /metrics, from outside of the namespace."""
        return self._client.get("/metrics").text

    def wait_for_rate(self, slice_name: str, rate: float) -> None:
        """Wait for a while in which a slice has sent at a rate; while a machine stalls, it sends less or is told late.

        Turns are up to a second apart, and the time of a turn is that of its beginning.
        """
        looks: list[tuple[float, int]] = []

        def is_held() -> bool:
            if row := self.lane(slice_name):
                looks.append((row["taken_at"], row["period_used_bytes"]))
            found = ((later - at, used - before) for (at, before), (later, used) in combinations(looks, 2))
            return any(
                seconds >= WINDOW_SECONDS and sent / seconds == pytest.approx(rate, rel=0.15) for seconds, sent in found
            )

        wait_for(is_held, seconds=PATIENCE_SECONDS, what=f"a rate of {rate}")

    def made(self) -> tuple[set[Identity], set[int]]:
        """Return the processes that it consists of, and their network namespaces other than ours."""
        children: dict[int, list[int]] = {}
        for process in _processes():
            children.setdefault(_parent(process), []).append(process)
        family = [self.process.pid]
        for process in family:
            family += children.get(process, [])
        networks = {_network(process) for process in family} - {_network(os.getpid()), 0}
        return {(process, _started(process)) for process in family}, networks

    def assert_nothing_is_left(self, made: tuple[set[Identity], set[int]]) -> None:
        """See that its processes, its namespaces and its files go."""
        processes, networks = made
        assert len(processes) >= 5
        assert len(networks) == 2

        def is_gone() -> bool:
            left = any(_started(process) == started for process, started in processes)
            return not left and not networks & {_network(process) for process in _processes()}

        wait_for(is_gone, seconds=PATIENCE_SECONDS, what="the end of processes and namespaces")
        wait_for(lambda: not list(self.scratch.iterdir()), seconds=PATIENCE_SECONDS, what="the end of the files")


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(process: int) -> list[str]:
    """Return the fields of proc(5) from the state on; an ended process that nobody has waited for counts as gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if fields[0] in "ZX" else fields


def _parent(process: int) -> int:
    fields = _stat(process)
    return int(fields[1]) if fields else 0


def _started(process: int) -> str:
    fields = _stat(process)
    return fields[19] if fields else ""


def _network(process: int) -> int:
    try:
        return Path(f"/proc/{process}/ns/net").stat().st_ino
    except OSError:
        return 0


@contextmanager
def running(
    scratch: Path, *flags: str, program: Sequence[str] = PROGRAM, environment: Mapping[str, str] | None = None
) -> Iterator[Demo]:
    """Run a demo whose temporary files come to lie in the scratch folder."""
    process = subprocess.Popen(
        [*program, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**(environment or os.environ), "TMPDIR": str(scratch)},
    )
    try:
        yield Demo(process, scratch)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _namespaces_are_allowed() -> None:
    if os.geteuid() and subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are disabled on this machine, and this user is not root")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return an empty folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_it_shows_a_real_node_that_caps_until_it_is_told_to_end(scratch: Path) -> None:
    """HTB holds the greedy slice to its full rate, the account lowers another one's, and /metrics tells the host."""
    with running(scratch) as demo:
        demo.wait_until_up()
        assert demo.lane("greedy_udp")["full_rate_bytes_per_second"] == FULL_RATE
        assert_a_taken_port_is_one_line(demo.first_line)
        demo.wait_for_rate("greedy_udp", FULL_RATE)
        capped = wait_for(
            lambda: lane if (lane := demo.lane("greedy_tcp")).get("verdict") == "over_threshold" else None,
            seconds=PATIENCE_SECONDS,
            what="the cap",
        )
        assert capped["period_used_bytes"] >= capped["period_threshold_bytes"]
        assert capped["ceiling_bytes_per_second"] < 0.5 * capped["full_rate_bytes_per_second"]
        series = 'bwexporter_slice_capped{device="v0",slice="greedy_tcp",traffic="normal"} 1'
        wait_for(lambda: series in demo.metrics(), seconds=PATIENCE_SECONDS, what="the cap in the metrics")
        assert "bwexporter_up 1" in demo.metrics()
        wait_for(
            lambda: demo.lane("mirror", "exempt")["period_used_bytes"] > 1_000_000,
            seconds=PATIENCE_SECONDS,
            what="the exempt traffic",
        )
        assert demo.lane("idle")["period_used_bytes"] == 0
        assert_it_ends(demo, signal.SIGTERM)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_it_leaves_nothing_behind_however_it_is_ended(ending: signal.Signals, scratch: Path) -> None:
    """No process, no namespace, no file; also where nobody is left to clean up."""
    with running(scratch) as demo:
        demo.wait_until_up()
        assert list(scratch.iterdir())
        assert_it_ends(demo, ending)


def test_it_ends_with_0_when_its_time_is_up(scratch: Path) -> None:
    """The last it shows is the table."""
    with running(scratch, "--seconds", "2") as demo:
        assert_it_ends_when_its_time_is_up(demo)


def assert_it_ends(demo: Demo, ending: signal.Signals) -> None:
    """End it with a signal, and see that all of it is gone."""
    made = demo.made()
    demo.process.send_signal(ending)
    said, _ = demo.process.communicate(timeout=PATIENCE_SECONDS)
    demo.assert_nothing_is_left(made)
    assert "Traceback" not in said
    if ending is not signal.SIGKILL:
        assert demo.process.returncode == 0
        assert "nothing is left behind" in said


def assert_it_ends_when_its_time_is_up(demo: Demo) -> None:
    """See its table, its exit code, and that all of it is gone."""
    with demo.halted():
        demo.wait_until_up()
        made = demo.made()
    said, _ = demo.process.communicate(timeout=PATIENCE_SECONDS)
    assert demo.process.returncode == 0, said
    for words in ("greedy_tcp", "both_lanes", "to threshold", "20mbit"):
        assert words in said
    assert "Traceback" not in said
    demo.assert_nothing_is_left(made)


def assert_a_taken_port_is_one_line(first_line: str) -> None:
    """See what a second demo says on the same port."""
    address = first_line.split("http://")[1].split("/", maxsplit=1)[0]
    done = subprocess.run(
        [*PROGRAM[:-1], address], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bwexporter: cannot listen on {address}")


def test_an_unprivileged_user_can_run_it() -> None:
    """In a user namespace; the page is reached from outside, and nothing is left."""
    with readable_by_nobody() as readable:
        program = [*readable.enter, *NOBODY, readable.python, *PROGRAM[1:]]
        environment = readable.environment
        with running(readable.scratch, "--seconds", "2", program=program, environment=environment) as demo:
            with demo.halted():
                demo.wait_until_up()
                assert Path(f"/proc/{demo.process.pid}").stat().st_uid == 65534
                assert "bwexporter_up 1" in demo.metrics()
            assert_it_ends_when_its_time_is_up(demo)
