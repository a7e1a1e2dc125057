"""Host and job figures beside what df, du, and a reading of procfs by the test say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from bwexporter.apmon import host, jobs, procfs, workdir
from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.jobs import ControlGroup, CpuTime, Job, PidFile, PidTree, Table, Users
from bwexporter.apmon.monitor import Monitor
from bwexporter.apmon.options import GENERAL, JOB, SYSTEM, Options
from bwexporter.apmon.procfs import Process, Traffic
from tests.apmon_ground import CLOSE, Between, beside
from tests.waiting import PATIENCE_SECONDS, wait_until

TICKS = os.sysconf("SC_CLK_TCK")

STAT = """\
cpu  {user} 10 {system} {idle} 50 3 7 5 20 1
cpu0 1 1 1 1 1 1 1 1 1 1
intr {intr} 1 2 3
ctxt {ctxt}
"""
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0
  eth0:{received} 10 2 0 0 0 0 0 {sent} 10 1 0 0 0 0 0
"""


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


def fake_proc(folder: Path, **counters: int) -> Path:
    """Write a /proc with these counters."""
    values = {"user": 100, "system": 50, "idle": 1000, "intr": 10, "ctxt": 20, "received": 0, "sent": 0, **counters}
    (folder / "net").mkdir(exist_ok=True)
    (folder / "stat").write_text(STAT.format_map(values))
    (folder / "net" / "dev").write_text(NET_DEV.format_map(values))
    (folder / "vmstat").write_text(f"pgpgin {values['intr']}\npgpgout 1\npswpin 0\npswpout 0\nother 5\n")
    return folder


def meminfo() -> Mapping[str, int]:
    """Read /proc/meminfo as the test understands it, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def uptime() -> float:
    """Read the time since boot, in seconds."""
    return float(Path("/proc/uptime").read_text().split()[0])


def test_memory_load_and_age_are_those_of_procfs() -> None:
    """Within 2 %, in MiB, of readings just before and just after."""

    def read() -> Mapping[str, float]:
        kib, (_, load5, load15) = meminfo(), os.getloadavg()
        return {
            "mem_free": kib["MemFree"] / 1024,
            "mem_used": (kib["MemTotal"] - kib["MemAvailable"]) / 1024,
            "mem_actualfree": kib["MemAvailable"] / 1024,
            "mem_usage": 100 * (1 - kib["MemAvailable"] / kib["MemTotal"]),
            "mem_buffers": kib["Buffers"] / 1024,
            "mem_cached": kib["Cached"] / 1024,
            "swap_used": (kib["SwapTotal"] - kib["SwapFree"]) / 1024,
            "load5": load5,
            "load15": load15,
            "uptime": uptime() / 86400,
        }

    allowed, found = beside(read, lambda: host.figures(host.take(1.0), None, Options()))

    assert allowed == found
    assert "cpu_usage" not in host.figures(host.take(1.0), None, Options())  # a rate, and there is one reading


def test_rates_of_this_machine_are_those_of_a_reading_of_the_test_s_own() -> None:
    """CPU shares, interrupts, switches and blocks within 2 % of what readings around them allow."""

    def independent() -> tuple[dict[str, int], dict[str, int], float]:
        lines = Path("/proc/stat").read_text().splitlines()
        of = {words[0]: words[1:] for words in map(str.split, lines)}
        vmstat = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        cpu = dict(zip(("user", "nice", "system", "idle"), map(int, of["cpu"]), strict=False))
        cpu["all"] = sum(map(int, of["cpu"][:8]))
        counters = {"intr": int(of["intr"][0]), "ctxt": int(of["ctxt"][0]), "pgpgout": int(vmstat["pgpgout"])}
        return cpu, counters, time.monotonic()

    outer, before, inner = independent(), host.take(time.monotonic()), independent()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        Path("/").stat()
    inner_end, now, outer_end = independent(), host.take(time.monotonic()), independent()
    found = host.figures(now, before, Options())

    def rate(name: str) -> Between:
        pairs = ((inner, inner_end), (outer, outer_end))
        grown = [newer[1][name] - older[1][name] for older, newer in pairs]
        seconds = [newer[2] - older[2] for older, newer in pairs]
        return Between(grown[0] / max(seconds), grown[1] / min(seconds))

    def share(name: str) -> Between:
        least, most = (
            {field: end[0][field] - start[0][field] for field in start[0]}
            for start, end in ((inner, inner_end), (outer, outer_end))
        )
        return Between(100 * least[name] / most["all"], 100 * most[name] / least["all"])

    assert share("user") == found["cpu_usr"]
    assert share("nice") == found["cpu_nice"]
    assert share("system") == found["cpu_sys"]
    assert share("idle") == found["cpu_idle"]
    assert rate("intr") == found["interrupts_R"]
    assert rate("ctxt") == found["context_switches_R"]
    assert rate("pgpgout") == found["blocks_out_R"]


def test_cpu_percentages_are_shares_of_all_time(tmp_path: Path) -> None:
    """Of 100 ticks 30 are a user's, 10 the system's, 60 idle."""
    before = host.take(10.0, fake_proc(tmp_path))
    now = host.take(12.0, fake_proc(tmp_path, user=130, system=60, idle=1060, intr=110, ctxt=40))
    found = host.figures(now, before, Options(), tmp_path)

    assert (30, 10, 60, 40) == tuple(found[f"cpu_{name}"] for name in ("usr", "sys", "idle", "usage"))
    assert 0 == found["cpu_nice"]
    assert (50, 10, 50) == (found["interrupts_R"], found["context_switches_R"], found["blocks_in_R"])


def test_the_cpu_of_this_machine_adds_up() -> None:
    """All shares of a second are 100 %, guests apart."""
    before = host.take(time.monotonic())
    time.sleep(0.5)
    found = host.figures(host.take(time.monotonic()), before, Options())
    parts = ("usr", "nice", "sys", "idle", "iowait", "irq", "softirq", "steal")

    assert sum(float(found[f"cpu_{part}"]) for part in parts) == pytest.approx(100.0)
    assert float(found["cpu_usage"]) == pytest.approx(100.0 - float(found["cpu_idle"]))


def test_network_rates_are_kib_a_second(tmp_path: Path) -> None:
    """Also on kernels that write no blank behind the colon; loopback is left out."""
    before = host.take(10.0, fake_proc(tmp_path))
    now = host.take(20.0, fake_proc(tmp_path, received=102_400, sent=20_480))
    found = host.figures(now, before, Options(), tmp_path)

    assert (10.0, 2.0, 0) == (found["eth0_in"], found["eth0_out"], found["eth0_errs"])
    assert (10.0, 2.0) == (found["total_traffic_in"], found["total_traffic_out"])
    assert not [name for name in found if name.startswith("lo_")]


def test_an_interface_that_was_made_anew_skips_an_interval(tmp_path: Path) -> None:
    """Its counters fell; there is no peak of 4 GB a second."""
    before = host.take(10.0, fake_proc(tmp_path, received=5000, sent=5000))
    now = host.take(20.0, fake_proc(tmp_path, received=10, sent=10))

    assert "eth0_in" not in host.figures(now, before, Options(), tmp_path)
    later = host.take(30.0, fake_proc(tmp_path, received=10_250, sent=10))
    assert 1.0 == host.figures(later, now, Options(), tmp_path)["eth0_in"]


def test_hardware_is_told_and_the_ends_of_cables_are_not(tmp_path: Path) -> None:
    """Unless there is nothing else."""
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    one = Traffic(1, 1, 0)

    assert {"eth0"} == set(host._worth_telling({"lo": one, "eth0": one, "veth1": one}, tmp_path))
    assert {"veth1"} == set(host._worth_telling({"lo": one, "veth1": one}, tmp_path))


def test_sockets_are_counted_by_state() -> None:
    """As /proc/net/tcp lists them, at a moment at which nobody else opens or closes any."""

    def states() -> list[str]:
        lists = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
        return sorted(line.split()[3] for lines in lists for line in lines)

    with socket.socket() as listening, socket.socket() as calling:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        calling.connect(listening.getsockname())
        before, found, after = states(), dict[str, object](), list[str]()
        while before != after or not found:
            before, found, after = states(), dict(host.figures(host.take(1.0), None, Options())), states()

    assert before.count("01") == found["sockets_tcp_ESTABLISHED"]
    assert before.count("0A") == found["sockets_tcp_LISTEN"]
    assert len(before) == found["sockets_tcp"]
    assert 0 == found["sockets_tcp_UNKNOWN"]


def test_processes_are_counted_by_state() -> None:
    """As many as an independent count, nearly; others come and go."""
    found = host.figures(host.take(1.0), None, Options())

    assert found["processes"] == sum(float(v) for name, v in found.items() if name.startswith("processes_"))
    allowed, counted = beside(
        lambda: {"processes": len(psutil.pids())}, lambda: host.figures(host.take(1.0), None, Options())
    )
    assert allowed == counted


def test_general_information() -> None:
    """What this machine is; nothing is looked up in the DNS."""
    found = host.general(Options(), "node1.example.org")

    assert ("node1.example.org", os.uname().release) == (found["hostname"], found["kernel_version"])
    assert found["total_mem"] == pytest.approx(meminfo()["MemTotal"] / 1024)
    assert found["no_CPUs"] == psutil.cpu_count()
    assert not [name for name in found if name.startswith("lo_")]


@pytest.mark.parametrize("switch", sorted(SYSTEM))
def test_each_figure_of_the_host_has_a_switch(switch: str, tmp_path: Path) -> None:
    """What is off is not sent, and it alone."""
    proc = fake_proc(tmp_path)
    for name in ("meminfo", "loadavg"):
        (proc / name).write_text(Path("/proc", name).read_text().replace("SwapTotal:  ", "SwapTotal: 9"))
    before = host.take(10.0, fake_proc(tmp_path))
    now = host.take(20.0, fake_proc(tmp_path, received=5, sent=5, user=200))
    everything = host.figures(now, before, Options(), proc)
    without = host.figures(now, before, Options(off=frozenset({switch})), proc)

    gone = set(everything) - set(without)
    assert gone
    aliases = {"sys_pages": "blocks", "sys_net_in": "eth0_in", "sys_net_out": "eth0_out", "sys_net_errs": "eth0_errs"}
    stem = next((alias for start, alias in aliases.items() if switch.startswith(start)), switch.removeprefix("sys_"))
    stem = "sockets" if switch.startswith("sys_net_sockets") or switch == "sys_net_tcp_details" else stem
    assert all(name.startswith((stem, "total_traffic")) for name in gone), gone


@pytest.mark.parametrize("switch", sorted(GENERAL))
def test_each_general_figure_has_a_switch(switch: str) -> None:
    """As far as this machine has it."""
    everything, without = host.general(Options(), "n"), host.general(Options(off=frozenset({switch})), "n")

    assert switch not in without
    gone = set(everything) - set(without)
    assert gone == (
        {switch} & set(everything) if switch != "ip" else {n for n in everything if n.endswith(("_ip", "_ipv6"))}
    )


@pytest.mark.parametrize("switch", sorted(JOB))
def test_each_figure_of_a_job_has_a_switch(switch: str, tmp_path: Path) -> None:
    """The same for jobs."""
    job = jobs.watch_pid(os.getpid(), str(tmp_path), "c", "n")
    assert job
    _, sample = job.figures(Table(), 1.0, None, Options())
    everything, _ = job.figures(Table(), 2.0, sample, Options())
    without, _ = job.figures(Table(), 3.0, sample, Options(off=frozenset({switch})))

    assert {switch.removeprefix("job_")} == set(everything) - set(without)


@contextmanager
def running(script: str) -> Iterator[int]:
    """Run a shell script in a session of its own; all of it is gone at the end."""
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as shell:
        try:
            yield shell.pid
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


BURN = "while :; do :; done"


def tree_of(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def names_below(pid: int) -> list[str]:
    """Return the names of a process's descendants; some may end or become other programs meanwhile."""
    found = []
    for one in tree_of(pid)[1:]:
        with suppress(psutil.NoSuchProcess):
            found.append(one.name())
    return sorted(found)


def cpu_seconds_of(pid: int) -> float:
    """Return the CPU time of a process, its descendants and those of them that have ended."""
    times = [one.cpu_times() for one in tree_of(pid)]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


class TestJobs:
    """Trees of processes."""

    def test_cpu_time_memory_and_time_are_those_of_procfs(self) -> None:
        """Of a tree with a child that works, beside an independent reading."""
        with running(f"sh -c '{BURN}' & sleep 60 & wait") as pid:
            wait_until(lambda: ["sh", "sleep"] == names_below(pid))
            job = jobs.watch_pid(pid, "", "c", "n")
            assert job
            _, sample = job.figures(Table(), time.monotonic(), None, Options())
            used = cpu_seconds_of(pid)
            wait_until(lambda: cpu_seconds_of(pid) > used + 1.0)
            ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
            born = ticks / TICKS  # since the boot; psutil's is off by what /proc/stat rounds away

            def read() -> Mapping[str, float]:
                tree = tree_of(pid)
                return {
                    "cpu_time": cpu_seconds_of(pid),
                    "run_time": uptime() - born,
                    "rss": sum(one.memory_info().rss for one in tree) / 1024,
                    "processes": len(tree),
                    "open_files": sum(one.num_fds() for one in tree),
                }

            allowed, found = beside(read, lambda: job.figures(Table(), time.monotonic(), None, Options())[0])
            rate = job.figures(Table(), time.monotonic(), sample, Options())[0]["cpu_usage"]

        assert allowed == found
        assert 3 == found["processes"]
        assert 0 < rate < 130

    def test_cpu_time_does_not_fall_when_a_child_ends(self) -> None:
        """What it used stays counted, once."""
        with running(f"timeout --foreground 60 sh -c '{BURN}'; sleep 60") as pid:
            job = jobs.watch_pid(pid, "", "c", "n")
            assert job
            seen = []

            def looked() -> float:
                found, _ = job.figures(Table(), time.monotonic(), None, Options())
                seen.append(found["cpu_time"])
                return seen[-1]

            wait_until(lambda: looked() > 0.5)
            (burning,) = [one for one in tree_of(pid)[1:] if one.name() == "sh"]
            burning.kill()
            wait_until(lambda: looked() and ["sleep"] == names_below(pid))
            found, _ = job.figures(Table(), time.monotonic(), None, Options())
            independent = cpu_seconds_of(pid)

        assert seen == sorted(seen)
        assert 0.5 < independent
        assert found["cpu_time"] == pytest.approx(independent, rel=CLOSE, abs=0.05)

    def test_cpu_time_is_counted_once_whoever_reaps_whom(self) -> None:
        """A child known before it ended, one that came and went between two looks, and one that nobody waited for."""

        def one(pid: int, parent: int, own: int, reaped: int) -> Process:
            return Process(pid, pid, parent, "S", own, reaped, 0)

        used = CpuTime()
        used.add([one(1, 0, 10, 0), one(2, 1, 100, 0), one(3, 1, 50, 0)])
        assert 160 == used.ticks
        used.add([one(1, 0, 10, 150), one(3, 1, 60, 0)])  # 2 ended at 130, another with 20 came and went
        assert 160 + 30 + 20 + 10 == used.ticks
        used.add([one(1, 0, 11, 150), one(4, 1, 0, 0), one(5, 4, 70, 0)])  # 3 was not waited for
        assert 221 + 70 == used.ticks
        used.add([one(1, 0, 11, 230)])  # 5 had 80 in the end, which 1 heard of through 4
        assert 221 + 80 == used.ticks
        used.add([])
        assert 301 == used.ticks

    def test_members_that_lose_their_parent_stay_and_a_finished_job_is_forgotten(self) -> None:
        """Also when the first process ends before its children."""
        with subprocess.Popen(
            ["sh", "-c", "sleep 60 & echo $!; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as shell:
            assert shell.stdout
            assert shell.stdin
            child = int(shell.stdout.readline())
            try:
                job = jobs.watch_pid(shell.pid, "", "c", "n")
                assert job
                clock = Clock()
                monitor = Monitor(clock, cluster="c", node="n", with_host=False)
                monitor.add_job(shell.pid, job)
                wait_until(lambda: len(job.look(Table())) >= 2)
                shell.stdin.close()
                shell.wait()
                wait_until(lambda: len(job.look(Table())) == 1)
                assert [child] == [one.pid for one in job.look(Table())]
            finally:
                os.kill(child, signal.SIGKILL)
            wait_until(lambda: not job.look(Table()))
            assert [] == list(monitor.due([Destination("127.0.0.1", 9)]))
            assert {} == dict(monitor.jobs)

    def test_a_process_that_vanishes_while_it_is_read_is_no_trouble(self) -> None:
        """It was in the table, and is gone when its files are opened."""
        with running("exec sleep 60") as pid:
            job = jobs.watch_pid(pid, "", "c", "n")
            assert job
            table = Table()
            members = job.look(table)
        wait_until(lambda: not any(Path(f"/proc/{one.pid}").exists() for one in members))
        found, sample = job.figures(table, 1.0, None, Options())

        assert 0 == found["rss"]
        assert 0 == found.get("open_files", 0)  # a child that its new parent has not waited for yet is seen with none
        assert sample.cpu_seconds >= 0

    def test_a_file_names_the_process_and_later_another(self, tmp_path: Path) -> None:
        """With all descendants; nothing is counted while nobody is named, and what ended stays counted."""
        file = tmp_path / "alice.pid"
        job = Job("c", "n", PidFile(file))
        with running("sleep 60 & sleep 60 & wait") as first, running("sleep 60 & wait") as second:
            wait_until(lambda: len(psutil.Process(first).children()) == 2 and psutil.Process(second).children())
            counts = []
            for text in ("", "no number\n", "999999999\n", f"{first}\n", f"{second}\n"):
                file.write_text(text)
                found, _ = job.figures(Table(), 10.0, None, Options())
                counts.append(found.get("processes"))
            file.unlink()
            kept, _ = job.figures(Table(), 11.0, None, Options())

        assert [None, None, None, 3, 2] == counts
        assert 2 == kept["processes"]
        assert not job.ends

    def test_a_file_that_a_dead_process_left_names_nobody(self, tmp_path: Path) -> None:
        """The number may be another's by now, who began after the file was written."""
        file = tmp_path / "alice.pid"
        with running("sleep 60") as pid:
            file.write_text(str(pid))
            os.utime(file, (time.time() - 60, time.time() - 60))

            assert [] == PidFile(file).members(Table())

    def test_users_are_all_their_processes(self) -> None:
        """By the real user id."""
        own = os.getuid()
        pids = {one.pid for one in Users(((own, own),)).members(Table())}

        assert os.getpid() in pids
        assert set() == {one.pid for one in Users(((4_000_000, 4_000_001),)).members(Table())}

    def test_a_control_group_is_counted_by_the_kernel(self, tmp_path: Path) -> None:
        """Its files say CPU time and memory, also of processes that may not be seen; groups below it belong to it."""
        group = tmp_path / "slices" / "alice"
        (group / "below").mkdir(parents=True)
        (group / "cgroup.procs").write_text("")
        (group / "below" / "cgroup.procs").write_text(f"{os.getpid()}\n999999999\n")
        (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
        (group / "memory.current").write_text("10485760\n")
        job = Job("c", "n", ControlGroup("slices/alice", tmp_path))

        found, sample = job.figures(Table(), 10.0, None, Options())
        (group / "cpu.stat").write_text("usage_usec 3500000\n")
        later, _ = job.figures(Table(), 12.0, sample, Options())

        assert (2, 2.5, 10240) == (found["processes"], found["cpu_time"], found["rss"])
        assert 50.0 == later["cpu_usage"]
        assert not job.ends

    def test_a_group_of_version_1_has_its_memory_in_another_tree(self, tmp_path: Path) -> None:
        """Beside the main one; and where nobody charges it to members that may not be seen, there is no figure."""
        group, twin = tmp_path / "alice", tmp_path / "memory" / "alice"
        group.mkdir()
        (group / "cgroup.procs").write_text("999999999\n")
        job = Job("c", "n", ControlGroup("alice", tmp_path))
        without, _ = job.figures(Table(), 10.0, None, Options())
        twin.mkdir(parents=True)
        (twin / "memory.usage_in_bytes").write_text("10485760\n")
        found, _ = job.figures(Table(), 11.0, None, Options())

        assert (1, None, None) == (without["processes"], without.get("rss"), without.get("mem_usage"))
        assert 10240 == found["rss"]

    def test_a_table_is_counted_once_for_all_destinations(self) -> None:
        """Two destinations see one figure."""
        root = procfs.process(procfs.PROC, os.getpid())
        assert root
        job = Job("c", "n", PidTree(root))
        table = Table()

        first, _ = job.figures(table, 1.0, None, Options())
        second, _ = job.figures(table, 1.0, None, Options())

        assert first["cpu_time"] == second["cpu_time"]


class TestFolders:
    """Beside du and df."""

    def test_a_folder_is_as_large_as_du_says(self, tmp_path: Path) -> None:
        """Files with several names once, links not followed, sparse files by their blocks."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "large").write_bytes(b"x" * 3_000_000)
        (tmp_path / "a" / "again").hardlink_to(tmp_path / "a" / "large")
        (tmp_path / "link").symlink_to("/usr")
        with (tmp_path / "sparse").open("wb") as sparse:
            sparse.truncate(1 << 40)
        for number in range(300):
            (tmp_path / f"small{number}").write_bytes(b"x" * number * 10)
        said = subprocess.run(["du", "-sk", str(tmp_path)], capture_output=True, text=True, check=True).stdout

        size = workdir.size_mib(tmp_path, budget_seconds=PATIENCE_SECONDS)
        assert size == pytest.approx(int(said.split()[0]) / 1024, rel=CLOSE)

    def test_a_folder_that_is_a_link_is_the_one_it_names(self, tmp_path: Path) -> None:
        """The link itself is followed."""
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "file").write_bytes(b"x" * 1_000_000)
        (tmp_path / "link").symlink_to("real")

        size = workdir.size_mib(tmp_path / "real", budget_seconds=PATIENCE_SECONDS)
        assert size == workdir.size_mib(tmp_path / "link", budget_seconds=PATIENCE_SECONDS)
        assert 0.9 < (size or 0)

    def test_a_circle_of_links_ends(self, tmp_path: Path) -> None:
        """They are not followed."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "back").symlink_to(tmp_path)

        assert workdir.size_mib(tmp_path, budget_seconds=PATIENCE_SECONDS) is not None

    def test_a_huge_folder_costs_no_more_than_its_budget(self, tmp_path: Path) -> None:
        """It then has no figure rather than a wrong one."""
        for number in range(2000):
            (tmp_path / f"file{number}").touch()

        assert workdir.size_mib(tmp_path, budget_seconds=0.0) is None
        assert workdir.size_mib(tmp_path, budget_seconds=PATIENCE_SECONDS) is not None
        assert workdir.size_mib(tmp_path / "nowhere") is None

    def test_a_disk_is_as_full_as_df_says(self, tmp_path: Path) -> None:
        """And usage is percent, not percent over 1024."""
        found = workdir.disk(tmp_path)
        said = subprocess.run(["df", "-k", "-P", str(tmp_path)], capture_output=True, text=True, check=True).stdout
        total, used, free, percent = (int(word.rstrip("%")) for word in said.splitlines()[1].split()[1:5])

        assert found["disk_total"] == pytest.approx(total / 1024, rel=CLOSE)
        assert found["disk_used"] == pytest.approx(used / 1024, rel=CLOSE)
        assert found["disk_free"] == pytest.approx(free / 1024, rel=CLOSE)
        assert found["disk_usage"] == pytest.approx(percent, abs=1.0)


class TestMonitor:
    """Each destination in its own rhythm."""

    def test_intervals_are_each_destinations_own(self) -> None:
        """General information comes every second time."""
        clock = Clock()
        one = Destination("127.0.0.1", 1, "", Options(sys_interval=10))
        two = Destination("127.0.0.1", 2, "", Options(sys_interval=30, general_info=False))
        monitor = Monitor(clock, cluster="c", node="n")
        told: dict[str, list[float]] = {one.name: [], two.name: []}
        general = []
        for _ in range(61):
            for due in monitor.due([one, two]):
                told[due.destination].append(clock.now - 1000)
                if "total_mem" in due.parameters:
                    general.append((due.destination, clock.now - 1000))
            clock.now += 1

        assert {one.name: [0, 10, 20, 30, 40, 50, 60], two.name: [0, 30, 60]} == told
        assert [(one.name, at) for at in (0, 20, 40, 60)] == general

    def test_master_switches(self) -> None:
        """General information alone is sent alone; everything off sends nothing."""
        clock = Clock()
        alone = Destination("127.0.0.1", 1, "", Options(sys_monitoring=False))
        off = Destination("127.0.0.1", 2, "", Options(sys_monitoring=False, general_info=False, job_monitoring=False))
        monitor = Monitor(clock, cluster="c", node="n")
        (due,) = monitor.due([alone, off])

        assert alone.name == due.destination
        assert "load1" not in due.parameters
        assert "total_mem" in due.parameters
        assert 60.0 == monitor.seconds_until_due([off])

    def test_it_says_when_it_is_due_again(self) -> None:
        """So that nobody has to ask in between."""
        clock = Clock()
        one = Destination("127.0.0.1", 1, "", Options(sys_interval=25))
        monitor = Monitor(clock, cluster="c", node="n")

        assert 0.0 == monitor.seconds_until_due([one])
        list(monitor.due([one]))
        assert 25.0 == monitor.seconds_until_due([one])
