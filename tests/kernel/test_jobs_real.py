"""Jobs and the host on the real kernel: control groups (v2), numbers of processes used again, interfaces.

Each figure stands beside what the test reads of the kernel itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from bwexporter.apmon.jobs import ControlGroup, Job, Table
from bwexporter.apmon.options import Options
from tests.apmon_ground import CLOSE, Between
from tests.kernel.test_classifier_real import below_root, group
from tests.waiting import wait_until

pytestmark = pytest.mark.kernel
__all__ = ["group"]  # the fixture

BURN = "import time\nwhile True: pass"
EAT = "import time\neaten = bytearray(256 << 20)\nprint('eaten', flush=True)\ntime.sleep(600)"


@contextmanager
def charging(parent: Path) -> Iterator[tuple[Path, Path]]:
    """Let the kernel charge memory to a group; give where a member has to be for that, and the file that says how much.

    Where version 1 has the memory, the group has a twin of the same name there, as systemd makes one.
    """
    if not Path("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists():
        (parent.parent / "cgroup.subtree_control").write_text("+memory")
        yield parent, parent / "memory.current"
        return
    twin = Path("/sys/fs/cgroup/memory", parent.name)
    twin.mkdir()
    try:
        yield twin, twin / "memory.usage_in_bytes"
    finally:
        wait_until(lambda: not (twin / "cgroup.procs").read_text())
        twin.rmdir()


@contextmanager
def member(place: Path, program: str, *further: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program in a control group, or in several, until the end of the context."""
    enter = 'while [ "$1" != run ]; do echo $$ > "$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'
    command = ["sh", "-c", enter, "sh", *map(str, (*further, place)), "run", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def counted_cpu_seconds(place: Path) -> float:
    """Read what the kernel has counted for the group, as the test understands it."""
    words = (place / "cpu.stat").read_text().split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


def anonymous_kib(pid: int) -> int:
    """Read what a process has for itself, which is nearly all that its group is charged for here."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_the_figures_of_a_busy_group_are_those_of_the_kernel(group: Path) -> None:
    """CPU time and usage, memory, processes, files, age: of the group and of those below it, within 2 %."""
    parent = group.parent
    job = Job("c", "n", ControlGroup(parent.name))
    with ExitStack() as running:
        where, charged = running.enter_context(charging(parent))
        not_yet = time.monotonic()
        busy = running.enter_context(member(group, BURN, where))
        already = time.monotonic()
        hungry = running.enter_context(member(parent, EAT, where))
        assert hungry.stdout
        assert "eaten\n" == hungry.stdout.readline()
        wait_until(lambda: counted_cpu_seconds(parent) > 0.5, seconds=60)
        members = [psutil.Process(one.pid) for one in (busy, hungry)]

        def independent() -> tuple[float, float]:
            """Read the group's CPU time, and that of its members as procfs has it."""
            return counted_cpu_seconds(parent), sum(sum(one.cpu_times()[:2]) for one in members)

        before, at = independent(), time.monotonic()
        _, sample = job.figures(Table(), at, None, Options())
        just_after = independent()
        time.sleep(1.0)
        least, moment = independent(), time.monotonic()
        found, later = job.figures(Table(), moment, sample, Options())
        most, ended = independent(), time.monotonic()

        assert least[0] <= found["cpu_time"] <= most[0]
        assert Between(least[1] - 0.05, most[1] + 0.05) == found["cpu_time"]  # procfs counts in ticks
        assert Between(moment - already, ended - not_yet) == found["run_time"]
        used = [100 * cpu / (moment - at) for cpu in (least[0] - just_after[0], most[0] - before[0])]
        assert Between(*used) == found["cpu_usage"]
        memory = int(charged.read_text())
        assert found["rss"] == pytest.approx(memory / 1024, rel=CLOSE)
        assert found["rss"] == pytest.approx(sum(anonymous_kib(one.pid) for one in members), rel=CLOSE)
        assert found["mem_usage"] == pytest.approx(100 * memory / psutil.virtual_memory().total, rel=CLOSE)
        listed = [line for file in parent.rglob("cgroup.procs") for line in file.read_text().split()]
        assert (2, 2) == (found["processes"], len(listed))
        assert found["open_files"] == sum(one.num_fds() for one in members)

        os.kill(busy.pid, signal.SIGKILL)
        busy.wait()
        after, _ = job.figures(Table(), time.monotonic(), later, Options())
        assert 1 == after["processes"]
        assert counted_cpu_seconds(parent) == pytest.approx(after["cpu_time"], rel=CLOSE)
        assert after["cpu_time"] >= found["cpu_time"]


def test_a_group_that_is_gone_and_made_anew_counts_from_its_beginning(group: Path) -> None:
    """It has no figures while it is gone, and no usage for once, because its counter fell."""
    job = Job("c", "n", ControlGroup(below_root(group)))
    with member(group, BURN):
        wait_until(lambda: counted_cpu_seconds(group) > 1.0, seconds=60)
        found, sample = job.figures(Table(), time.monotonic(), None, Options())
    wait_until(lambda: not (group / "cgroup.procs").read_text(), seconds=60)
    group.rmdir()
    gone, _ = job.figures(Table(), time.monotonic(), sample, Options())
    group.mkdir()
    with member(group, "import time\nprint('there', flush=True)\ntime.sleep(600)") as quiet:
        assert quiet.stdout
        assert "there\n" == quiet.stdout.readline()
        again, fresh = job.figures(Table(), time.monotonic(), sample, Options())
        usage, _ = job.figures(Table(), time.monotonic() + 1.0, fresh, Options())

    assert {} == gone
    assert not job.ends
    assert again["cpu_time"] < found["cpu_time"]
    assert "cpu_usage" not in again
    assert usage["cpu_usage"] >= 0


REUSED = """
import os, subprocess, sys, time
from bwexporter.apmon.jobs import Table, watch_pid
from bwexporter.apmon.options import Options
watched = subprocess.Popen(["sleep", "600"])
job = watch_pid(watched.pid, "", "c", "n")
found, sample = job.figures(Table(), 1.0, None, Options())
assert found["processes"] == 1, found
watched.kill()
watched.wait()
time.sleep(0.05)
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(watched.pid - 1))
another = subprocess.Popen(["sleep", "600"])
assert another.pid == watched.pid, (another.pid, watched.pid)
print(job.figures(Table(), 2.0, sample, Options())[0], watch_pid(another.pid, "", "c", "n") is not None)
another.kill()
"""


def test_a_number_that_the_kernel_gives_again_is_another_process() -> None:
    """The job is over, whoever has its number now; watched anew, the new one is a job."""
    inside = ["unshare", "-pf", "--mount-proc", sys.executable, "-c", REUSED]
    asked = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60)

    assert ("{} True", "") == (asked.stdout.strip(), asked.stderr)


INTERFACES = """
import json, socket, subprocess, time
from bwexporter.apmon import host
from bwexporter.apmon.options import Options
for command in ("ip link add v0 type veth peer name v1", "ip address add 10.7.0.1/24 dev v0", "ip link set v0 up",
                "ip link set v1 up", "ip neigh add 10.7.0.2 lladdr 02:00:00:00:00:02 dev v0"):
    subprocess.run(command.split(), check=True)
def counted():
    said = subprocess.run("ip -s -j link show v0".split(), capture_output=True, text=True, check=True).stdout
    return json.loads(said)[0]["stats64"]["tx"]["bytes"]
def send(packets):
    for _ in range(packets):
        sender.sendto(bytes(1000), ("10.7.0.2", 9))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
send(50)
before, least, began = counted(), host.take(time.monotonic()), time.monotonic()
send(3000)
time.sleep(0.5)
now = host.take(time.monotonic())
took, sent = now.at - least.at, counted() - before
found = host.figures(now, least, Options())
subprocess.run("ip link del v0".split(), check=True)
subprocess.run("ip link add v0 type veth peer name v1".split(), check=True)
anew = host.figures(host.take(time.monotonic()), now, Options())
print(json.dumps([found["v0_out"], sent / 1024 / took, found["total_traffic_out"], "v0_out" in anew]))
"""


def test_an_interface_s_rate_is_that_of_its_counters() -> None:
    """As `ip -s` reads them; one that was made anew has none for once."""
    inside = ["unshare", "-n", sys.executable, "-c", INTERFACES]
    asked = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60)
    assert asked.stderr == ""
    rate, independent, total, told_anew = json.loads(asked.stdout)

    assert rate == pytest.approx(independent, rel=CLOSE)
    assert rate > 10  # kB/s: three megabytes in half a second, or in as long as the machine stalled
    assert total >= rate
    assert not told_anew
