"""The defects of the ancestor's companion, which measured hosts and jobs, and what happens here instead.

Each test makes one observation, of ours and of a model of the ancestor (ancestor_procinfo.py), and says what it is in
both: none of them could pass on the ancestor's behaviour.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bwexporter.apmon import ApMon, Destination, host, jobs, procfs, workdir
from bwexporter.apmon.host import Reading
from bwexporter.apmon.monitor import Monitor
from bwexporter.apmon.options import Options
from bwexporter.apmon.procfs import Process, Traffic
from tests import ancestor_procinfo as ancestor
from tests.ancestor_apmon import Ancestor
from tests.apmon_ground import Receiver, beside
from tests.test_apmon_defects import Clock, answer_to, in_time
from tests.waiting import wait_until

HERE = Destination("127.0.0.1", 9)
NESTED = "sh -c 'sleep 60 & wait' & wait"


def proc_of(folder: Path, states: str) -> Path:
    """Make a /proc with a process of each state."""
    for pid, state in enumerate(states, 1):
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "stat").write_text(f"{pid} (a) b) {state} 0 " + "0 " * 20)
    return folder


def process(pid: int, start_ticks: int = 5, own_ticks: int = 0, reaped_ticks: int = 0, parent: int = 1) -> Process:
    """Return a process."""
    return Process(pid, start_ticks, parent, "S", own_ticks, reaped_ticks, 0)


def table_of(*processes: Process) -> jobs.Table:
    """Return a table of these processes alone."""
    table = jobs.Table()
    table._all = {one.pid: one for one in processes}
    return table


@contextmanager
def running(script: str) -> Iterator[int]:
    """Run a shell script in a session of its own; all of it is gone at the end."""
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as shell:
        try:
            yield shell.pid
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def test_any_state_of_a_process_is_counted(tmp_path: Path) -> None:
    """I, which newer kernels have, was a KeyError."""
    found = host._processes(proc_of(tmp_path, "IRSSX"))

    assert (5, 1, 1, 2, 0, 1) == (found["processes"], *(found[f"processes_{state}"] for state in "IRSDX"))
    assert "raises KeyError" == answer_to(lambda: ancestor.count_processes("IRSSX"))


def test_background_data_is_sent_each_time_it_is_asked_for(tmp_path: Path) -> None:
    """On a host with a process in state I; the ancestor's first call raised, its second hung."""
    monitor = Monitor(Clock(), cluster="c", node="n", proc=proc_of(tmp_path, "IRSS"))

    def of_ours() -> object:
        return [due.parameters["processes"] for due in monitor.due([HERE], now_all=True)]

    assert [[4], [4]] == [in_time(lambda: answer_to(of_ours)) for _ in range(2)]
    with Ancestor(("127.0.0.1:9",), states="IRSS") as of_old:
        assert ["raises KeyError", "hangs"] == [answer_to(lambda: of_old.sendBgMonitoring(True)) for _ in range(2)]


@pytest.mark.parametrize("as_text", [False, True])
def test_grandchildren_belong_to_a_job(*, as_text: bool) -> None:
    """Whether its number is given as a number or as text; the ancestor had the first process alone, or no job."""
    with running(NESTED) as pid, Receiver() as receiver, ApMon((receiver.destination().name,)) as apmon:
        wait_until(lambda: len(psutil.Process(pid).children(recursive=True)) == 2)
        assert apmon.addJobToMonitor(str(pid) if as_text else pid, "", "jobs", "j")
        apmon.sendBgMonitoring(mustSend=True)
        wait_until(lambda: any(stored.node == "j" for stored in receiver.stored()))
        (stored,) = [stored for stored in receiver.stored() if stored.node == "j"]
        parents = {one.pid: one.info["ppid"] for one in psutil.process_iter(["ppid"])}
        texts = {str(one): str(parent) for one, parent in parents.items()}

    assert 3 == dict(stored.values)["processes"]
    assert (None if as_text else [pid]) == ancestor.tree_of(str(pid) if as_text else pid, texts)
    assert 2 == len(ancestor.later_tree_of(pid, parents))


def test_a_folder_is_a_path_and_no_command(tmp_path: Path) -> None:
    """Nothing is run; the ancestor made the file."""
    folder = f"{tmp_path}; touch {tmp_path}/created #"

    def created(measure: Callable[[], object]) -> bool:
        measure()
        return (tmp_path / "created").exists()

    def of_ours() -> None:
        with ApMon(("127.0.0.1:9",)) as apmon:
            assert apmon.addJobToMonitor(os.getpid(), folder, "jobs", "j")
            apmon.sendBgMonitoring(mustSend=True)

    assert not created(of_ours)
    assert created(lambda: answer_to(lambda: ancestor.folder_kib(folder)))


def reading(at: float, counter: int) -> Reading:
    """Return a reading whose counters all say the same."""
    traffic = {"eth0": Traffic(counter, counter, counter)}
    return Reading(at, {"user": counter, "idle": 0}, {"intr": counter}, {"pgpgin": counter}, traffic)


def rates(now: Reading, before: Reading) -> Mapping[str, object]:
    """Return what is made of two readings."""
    names = ("eth0_in", "eth0_out", "eth0_errs", "interrupts_R", "blocks_in_R", "cpu_usr")
    return {name: value for name, value in host.figures(now, before, Options()).items() if name in names}


def test_two_readings_at_one_moment_make_no_rate_and_no_trouble() -> None:
    """The ancestor deleted what was not there."""
    assert {} == rates(reading(5.0, 10), reading(5.0, 10))
    assert 6 == len(rates(reading(6.0, 5000), reading(5.0, 10)))
    assert "raises KeyError" == answer_to(lambda: ancestor.rates({"intr": 10}, {"intr": 10}, 0.0, {}))


def test_a_counter_that_fell_has_begun_anew() -> None:
    """It has no rate for once; to the ancestor 10 after 5000 were 4 294 962 306 more."""
    assert {} == rates(reading(6.0, 10), reading(5.0, 5000))
    assert {"intr": 4_294_962_306} == ancestor.rates({"intr": 10}, {"intr": 5000}, 1.0, {})


def test_each_destination_has_rates_of_its_own_interval(tmp_path: Path) -> None:
    """Of the last second for one that is told every second, of the last minute for one that is told every minute."""
    fast, slow = (Destination("127.0.0.1", port, "", Options(sys_interval=port)) for port in (1, 60))
    clock, interrupts = Clock(), 0
    monitor = Monitor(clock, cluster="c", node="n", proc=tmp_path)
    told: dict[str, list[object]] = {fast.name: [], slow.name: []}
    shared: dict[str, float] = {}
    of_old: dict[str, list[object]] = {fast.name: [], slow.name: []}
    for second in range(61):
        interrupts += 10 if second < 60 else 130
        (tmp_path / "stat").write_text(f"cpu  1 1 1 1 1 1 1 1 1 1\nintr {interrupts} 1\nctxt 1\n")
        for due in monitor.due([fast, slow]):
            told[due.destination].append(due.parameters.get("interrupts_R"))
            if second:  # the rate is that of whoever is told first, for the interval of the fast one
                of_old[due.destination].append(
                    shared.get("intr") if due.destination == slow.name else ancestor.rates(
                        {"intr": interrupts}, {"intr": interrupts - (10 if second < 60 else 130)}, 1.0, shared
                    )["intr"]
                )  # fmt: skip
        clock.now += 1

    assert [None, *[10] * 59, 130] == told[fast.name] == [None, *of_old[fast.name]]
    assert [None, 12] == told[slow.name]
    assert [130] == of_old[slow.name]


def test_a_folder_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    """The ancestor took du's silence for a number."""
    gone = tmp_path / "gone"
    job = jobs.watch_pid(os.getpid(), str(gone), "c", "n")
    assert job
    found, _ = job.figures(jobs.Table(), 1.0, None, Options())

    assert {"workdir_size", "disk_total"}.isdisjoint(found)
    assert "cpu_time" in found
    assert "raises IndexError" == answer_to(lambda: ancestor.disk_usage_percent(str(gone)))
    assert "raises ValueError" == answer_to(lambda: ancestor.folder_kib(f"{gone} 2>&1 | head -0"))


@pytest.mark.parametrize(
    ("text", "of_old"), [("", "IndexError"), ("\n", "IndexError"), ("2:13 up 3 days", "ValueError")]
)
def test_the_time_since_boot_is_the_kernel_s_clock_and_no_text(tmp_path: Path, text: str, of_old: str) -> None:
    """Whatever stands in a file; the ancestor raised where that was no number, with its lock held."""
    (tmp_path / "uptime").write_text(text)
    found = host.figures(host.take(1.0, tmp_path), None, Options(), tmp_path)["uptime"]

    assert found == pytest.approx(float(Path("/proc/uptime").read_text().split()[0]) / 86400, rel=0.02)
    assert f"raises {of_old}" == answer_to(lambda: ancestor.uptime_days(tmp_path))


def test_a_container_s_own_uptime_does_not_make_its_processes_older(tmp_path: Path) -> None:
    """Processes start by the kernel's clock; beside another's the difference would be no time at all."""
    (tmp_path / "uptime").write_text("1.00 1.00\n")
    job = jobs.Job("c", "n", jobs.PidTree(process(1, start_ticks=5 * procfs.TICKS_PER_SECOND)))
    table = jobs.Table(tmp_path)
    table._all = {1: process(1, start_ticks=5 * procfs.TICKS_PER_SECOND)}

    found, _ = job.figures(table, 1.0, None, Options())

    assert found["run_time"] == pytest.approx(float(Path("/proc/uptime").read_text().split()[0]) - 5, rel=0.02)
    assert (ancestor.uptime_days(tmp_path) or 0) * 86400 < 5


def test_a_process_that_cannot_be_seen_spoils_no_sum(tmp_path: Path) -> None:
    """Its descriptors are left out; the ancestor added what was none."""
    proc = proc_of(tmp_path, "SS")
    (proc / "1" / "fd").mkdir()
    (proc / "1" / "fd" / "0").touch()
    job = jobs.Job("c", "n", jobs.PidTree(process(1, start_ticks=0, parent=0)))
    table = jobs.Table(proc)
    table._all = {1: process(1, 0, parent=0), 2: process(2, 0, parent=1)}

    assert 1 == job.figures(table, 1.0, None, Options())[0]["open_files"]
    assert "raises TypeError" == answer_to(lambda: ancestor.open_files(proc, [1, 2]))


AUDIT = """
import os, sys
from bwexporter.apmon import ApMon
from tests import ancestor_procinfo as ancestor
seen = set()
watched = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.getaddrinfo", "socket.gethostby")
apmon = ApMon(("127.0.0.1:9",))
sys.addaudithook(lambda event, _: seen.add(event) if event.startswith(watched) else None)
assert apmon.addJobToMonitor(os.getpid(), "tests/data", "jobs", "j")
apmon.sendBgMonitoring(mustSend=True)
apmon.sendBgMonitoring(mustSend=True)
print(*sorted(seen))
ancestor.host_name()
ancestor.disk_usage_percent("/tmp")
print(*sorted(seen))
"""


def test_no_program_is_run_and_no_name_is_looked_up() -> None:
    """As the interpreter itself reports both; the ancestor ran five programs and asked for its name each time."""
    said = subprocess.run(
        [sys.executable, "-c", AUDIT],
        capture_output=True, text=True, check=True, timeout=60, cwd=Path(__file__).parent.parent,
    ).stdout  # fmt: skip
    of_ours, of_both = (line.split() for line in said.split("\n")[:2])

    assert [] == of_ours
    assert {"socket.gethostbyaddr", "subprocess.Popen"} <= set(of_both)


def test_a_host_without_programs_has_all_figures() -> None:
    """Without ps, df and netstat."""
    path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
    try:
        with Receiver() as receiver, ApMon((receiver.destination().name,)) as apmon:
            apmon.addJobToMonitor(os.getpid(), "tests/data", "jobs", "j")
            apmon.sendBgMonitoring(mustSend=True)
            wait_until(lambda: any(stored.node == "j" for stored in receiver.stored()))
            names = {name for stored in receiver.stored() for name, _ in stored.values}
        assert "raises FileNotFoundError" == answer_to(lambda: ancestor.disk_usage_percent("/tmp"))
    finally:
        os.environ["PATH"] = path

    assert {"processes", "sockets_tcp", "uptime", "disk_total", "cpu_time", "rss"} <= names


def test_a_number_that_is_used_again_is_another_process() -> None:
    """The one that was watched has ended; the ancestor went on with whoever has its number."""
    job = jobs.Job("c", "n", jobs.PidTree(process(100, start_ticks=5)))
    found, _ = job.figures(table_of(process(100, start_ticks=77)), 1.0, None, Options())

    assert ({}, True) == (found, job.ends)
    assert [100] == ancestor.tree_of(100, {"100": "1"})


def test_cpu_time_does_not_fall_when_a_child_ends() -> None:
    """What it used is in its parent's time of reaped children; the ancestor's sum lost it."""
    used = jobs.CpuTime()
    used.add([process(1, own_ticks=10), process(2, own_ticks=100)])
    before = used.ticks
    used.add([process(1, own_ticks=10, reaped_ticks=100)])

    assert (110, 110) == (before, used.ticks)
    assert (1.1, 0.1) == (ancestor.job_cpu_seconds([0.1, 1.0]), ancestor.job_cpu_seconds([0.1]))


def test_workers_that_look_alike_are_all_counted() -> None:
    """Two processes of the same program and size are two; to the ancestor they were one."""
    with running("sleep 60 & sleep 60 & sleep 60 & wait") as pid:
        wait_until(lambda: [one.name() for one in psutil.Process(pid).children()] == ["sleep"] * 3)
        job = jobs.watch_pid(pid, "", "c", "n")
        assert job
        tree = [psutil.Process(pid), *psutil.Process(pid).children()]
        allowed, found = beside(
            lambda: {"rss": sum(one.memory_info().rss for one in tree) / 1024},
            lambda: job.figures(jobs.Table(), 1.0, None, Options())[0],
        )

    assert allowed == found
    assert 2000 == ancestor.job_rss_kib([(0.1, 2000, 5000, "sleep")] * 3)


def test_a_disk_s_usage_is_percent(tmp_path: Path) -> None:
    """As df says it; the ancestor divided it by 1024."""
    found, of_old = workdir.disk(tmp_path)["disk_usage"], ancestor.disk_usage_percent(str(tmp_path))

    assert found == pytest.approx(of_old * 1024, abs=1.0)
    assert of_old < 0.1


def test_the_processes_of_a_real_host_are_those_that_there_are() -> None:
    """None is left out for its state."""
    allowed, found = beside(lambda: {"processes": len(psutil.pids())}, lambda: host._processes(procfs.PROC))

    assert allowed == found
