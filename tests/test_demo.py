"""The demo, as a user starts it: it shows real HTB at work, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kernel.daemon_rig import NOBODY, readable_by_nobody, wait_for

pytestmark = pytest.mark.kernel

PROGRAM = (sys.executable, "-m", "bwexporter", "demo", "--listen", "127.0.0.1:0")
END_SECONDS = 6.0

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
        self._client = httpx.Client(base_url=found[0], timeout=5, trust_env=False)

    def lane(self, slice_name: str, traffic: str = "normal") -> dict[str, Any]:
        """Ask its API for a lane; nothing where it does not answer yet."""
        with suppress(httpx.TransportError):
            answer = self._client.get("/api/v1/slices").json()
            for row in answer.get("slices", []):
                if (row["slice"], row["traffic"]) == (slice_name, traffic):
                    return dict(row)
        return {}

    def wait_until_up(self) -> None:
        """Wait until its slices send."""
        wait_for(lambda: self.lane("steady").get("period_used_bytes"), seconds=25, what="the first traffic")

    def metrics(self) -> str:
        """Read /metrics, from outside of the namespace."""
        return self._client.get("/metrics").text

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
        """See that its processes, its namespaces and its files are gone within a few seconds."""
        processes, networks = made
        assert len(processes) >= 5
        assert len(networks) == 2

        def is_gone() -> bool:
            left = any(_started(process) == started for process, started in processes)
            return not left and not networks & {_network(process) for process in _processes()}

        wait_for(is_gone, seconds=END_SECONDS, what="the end of processes and namespaces")
        wait_for(lambda: not list(self.scratch.iterdir()), seconds=1, what="the end of the files")


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
        first, began = demo.lane("greedy_udp"), time.monotonic()
        assert first["full_rate_bytes_per_second"] == 2_500_000
        assert_a_taken_port_is_one_line(demo.first_line)
        capped = wait_for(
            lambda: lane if (lane := demo.lane("greedy_tcp")).get("verdict") == "over_threshold" else None,
            seconds=25,
            what="the cap",
        )
        last, seconds = demo.lane("greedy_udp"), time.monotonic() - began
        rate = (last["period_used_bytes"] - first["period_used_bytes"]) / seconds
        assert rate == pytest.approx(2_500_000, rel=0.15)  # answers are up to a second old
        assert capped["period_used_bytes"] >= capped["period_threshold_bytes"]
        assert capped["ceiling_bytes_per_second"] < 0.5 * capped["full_rate_bytes_per_second"]
        metrics = demo.metrics()
        assert 'bwexporter_slice_capped{device="v0",slice="greedy_tcp",traffic="normal"} 1' in metrics
        assert "bwexporter_up 1" in metrics
        assert demo.lane("mirror", "exempt")["period_used_bytes"] > 1_000_000
        assert demo.lane("idle")["period_used_bytes"] == 0
        assert_it_ends(demo, signal.SIGTERM)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_it_leaves_nothing_behind_however_it_is_ended(ending: signal.Signals, scratch: Path) -> None:
    """No process, no namespace, no file, within a few seconds; also where nobody is left to clean up."""
    with running(scratch) as demo:
        demo.wait_until_up()
        assert list(scratch.iterdir())
        assert_it_ends(demo, ending)


def test_it_ends_with_0_when_its_time_is_up(scratch: Path) -> None:
    """The last it shows is the table."""
    with running(scratch, "--seconds", "4") as demo:
        assert_it_ends_when_its_time_is_up(demo)


def assert_it_ends(demo: Demo, ending: signal.Signals) -> None:
    """End it with a signal, and see that all of it is gone."""
    made = demo.made()
    demo.process.send_signal(ending)
    said, _ = demo.process.communicate(timeout=END_SECONDS + 4)
    demo.assert_nothing_is_left(made)
    assert "Traceback" not in said
    if ending is not signal.SIGKILL:
        assert demo.process.returncode == 0
        assert "nothing is left behind" in said


def assert_it_ends_when_its_time_is_up(demo: Demo) -> None:
    """See its table, its exit code, and that all of it is gone."""
    demo.wait_until_up()
    made = demo.made()
    said, _ = demo.process.communicate(timeout=30)
    assert demo.process.returncode == 0, said
    for words in ("greedy_tcp", "both_lanes", "to threshold", "20mbit"):
        assert words in said
    assert "Traceback" not in said
    demo.assert_nothing_is_left(made)


def assert_a_taken_port_is_one_line(first_line: str) -> None:
    """See what a second demo says on the same port."""
    address = first_line.split("http://")[1].split("/", maxsplit=1)[0]
    done = subprocess.run([*PROGRAM[:-1], address], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bwexporter: cannot listen on {address}")


def test_an_unprivileged_user_can_run_it() -> None:
    """In a user namespace; the page is reached from outside, and nothing is left."""
    with readable_by_nobody() as readable:
        program = [*readable.enter, *NOBODY, readable.python, *PROGRAM[1:]]
        environment = readable.environment
        with running(readable.scratch, "--seconds", "8", program=program, environment=environment) as demo:
            demo.wait_until_up()
            assert Path(f"/proc/{demo.process.pid}").stat().st_uid == 65534
            assert "bwexporter_up 1" in demo.metrics()
            assert_it_ends_when_its_time_is_up(demo)
