"""The ancestor's defects by number: what its sender (1 to 25) and its companion did wrong, and what happens here.

Each test fails on the ancestor's behaviour. The numbers are those of the list in docs/apmon.md.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bwexporter.apmon import ApMon, Destination, Sender, host, jobs, procfs, wire
from bwexporter.apmon.channel import Drop
from bwexporter.apmon.host import Reading
from bwexporter.apmon.monitor import Monitor
from bwexporter.apmon.options import Options
from bwexporter.apmon.procfs import Process, Traffic
from bwexporter.apmon.sources import Sources
from tests import monalisa
from tests.apmon_ground import NameService, Receiver, serving, text_answer, unused_port, wait_until


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Listen on loopback."""
    with Receiver() as listening:
        yield listening


@pytest.fixture
def apmon(receiver: Receiver) -> Iterator[ApMon]:
    """Send to the receiver."""
    with ApMon((f"{receiver.destination().name} s3cr3t",)) as made:
        yield made


def in_time(call: Callable[[], object]) -> object:
    """Return what a call returns; fail where it hangs."""
    answer: list[object] = []
    thread = threading.Thread(target=lambda: answer.append(call()), daemon=True)
    thread.start()
    thread.join(timeout=20.0)
    assert answer, "the call hangs"
    return answer[0]


def test_01_sources_that_all_fail_empty_nothing(tmp_path: Path) -> None:
    """The last good destinations are kept."""
    conf = tmp_path / "apmon.conf"
    conf.write_text("127.0.0.1:9\n")
    with ApMon(str(conf)) as apmon:
        conf.unlink()
        assert apmon._sources
        apmon._sources.read()
        apmon._sources._due_at = 0.0
        apmon._tick()

        assert apmon.initializedOK()


@pytest.mark.parametrize(
    "bad",
    [
        lambda apmon: apmon.sendTimedParameters("c", "n", 2**31, {"a": 1}),
        lambda apmon: apmon.sendTimedParameters("c", "n", "soon", {"a": 1}),
        lambda apmon: apmon.sendParameters(b"c", "n", {"a": 1}),
        lambda apmon: apmon.sendParameters("c", "n", [("a", 1, 2)]),
        lambda apmon: apmon.sendParameters("c" * 40_000, "n", {"a": 1}),
        lambda apmon: apmon.sendParameters("\ud800", "n", {"a": 1}),
    ],
)
def test_02_a_bad_call_is_answered_and_the_next_one_works(
    apmon: ApMon, receiver: Receiver, bad: Callable[[ApMon], bool]
) -> None:
    """No lock is left held."""
    assert in_time(lambda: bad(apmon)) is False
    assert in_time(lambda: apmon.sendParameters("c", "n", {"a": 1})) is True
    assert 1 == receiver.wait_for(1)[0].sequence


def test_02_after_the_end_calls_are_answered(receiver: Receiver) -> None:
    """With False, and free may be called again."""
    apmon = ApMon((receiver.destination().name,))
    apmon.free()

    assert in_time(lambda: apmon.sendParameters("c", "n", {"a": 1})) is False
    apmon.free()


def test_03_an_unknown_job_is_no_trouble(apmon: ApMon) -> None:
    """Neither its removal nor its watch, and nothing hangs later."""
    assert in_time(lambda: apmon.removeJobToMonitor(12345)) is False
    assert in_time(lambda: apmon.addJobToMonitor(2**22 + 1, "", "c", "n")) is False
    assert in_time(lambda: apmon.sendBgMonitoring(mustSend=True)) is True


@pytest.mark.parametrize("number", [2**31, 2**31 - 1, -(2**31), -(2**31) - 1, 5_000_000_000, 2**53, 2**60])
@pytest.mark.parametrize("short", [False, True])
def test_04_a_counter_beyond_32_bits_arrives_as_it_is(receiver: Receiver, number: int, *, short: bool) -> None:
    """And nothing of it spills into the next parameter or the time."""
    with Sender([receiver.destination()], short_integers=short) as sender:
        sender.send("c", "n", [("before", 1), ("number", number), ("after", 2)], 1_200_000_000)
        receiver.wait_for(1)

    (stored,) = receiver.stored()
    assert (("before", 1.0), ("number", float(number)), ("after", 2.0)) == stored.values
    assert 1_200_000_000 == stored.time


def test_05_numbers_of_all_kinds_are_sent(apmon: ApMon, receiver: Receiver) -> None:
    """True is 1; NumPy's are numbers; text is text."""
    assert apmon.sendParameters("c", "n", {"b": True, "n": np.int32(7), "big": 2**40, "u": "naïve"})
    receiver.wait_for(1)
    assert {"b": 1.0, "n": 7.0, "big": 2.0**40, "u": "naïve"} == dict(receiver.stored()[0].values)


@pytest.mark.parametrize("nothing", [{}, [], {"a": None}, None, 5, "text", [1, 2], {"a": [1]}])
def test_06_nothing_makes_no_datagram(apmon: ApMon, receiver: Receiver, nothing: object) -> None:
    """And the call says so."""
    assert apmon.sendParameters("c", "n", nothing) is False  # type: ignore[arg-type]
    assert apmon.sendParameters("c", "n", {"a": 1})
    assert 1 == len(receiver.wait_for(1))


def test_07_large_messages_are_split(receiver: Receiver) -> None:
    """At the size that is set; nothing is lost."""
    with ApMon((receiver.destination().name,)) as apmon:
        apmon.setMaxMsgRate(50)
        apmon.setMaxMsgSize(8192)
        assert apmon.sendParameters("c", "n", [(f"param_{number:05}", float(number)) for number in range(1000)])
        receiver.wait_for(4)

    assert max(map(len, receiver.payloads)) <= 8192
    assert 1000 == sum(len(stored.values) for stored in receiver.stored())


def test_08_no_log_has_a_password(tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """At no level, whatever is wrong, though the file asks for DEBUG."""
    conf = tmp_path / "apmon.conf"
    good = f"{receiver.destination().name} s3cr3t\n"
    conf.write_text(f"xApMon_loglevel = DEBUG\n{good}{good}h:99999 s3cr3t\nh :x s3cr3t\n")
    with caplog.at_level(logging.DEBUG), ApMon(str(conf), "DEBUG", lenient=True) as apmon:
        apmon.sendParameters("c", "n", {"a": 1, "bad": None})
        apmon.sendBgMonitoring(mustSend=True)
        said = repr(apmon) + repr(apmon.getConfig()) + repr(apmon.health())
    logging.getLogger("bwexporter.apmon").setLevel(logging.NOTSET)

    assert caplog.messages
    assert "s3cr3t" not in caplog.text + said


def test_09_beyond_the_rate_nobody_sleeps_and_nothing_is_sent(receiver: Receiver) -> None:
    """The rate is kept from the start: not 1801 at once and then a second's sleep under a lock."""
    clock = Clock()
    with Sender([receiver.destination()], rate=100, clock=clock) as sender:
        started = time.monotonic()
        sent = sum(sender.send("c", "n", {"a": 1}).sent for _ in range(5000))
        took = time.monotonic() - started
        receiver.wait_for(100)

    assert 100 == sent == len(receiver.payloads)
    assert took < 20.0  # 49 sleeps of a second


def test_10_numbers_have_neither_gap_nor_repeat_between_threads(receiver: Receiver) -> None:
    """With an interpreter that switches as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Sender([receiver.destination()], rate=100_000) as sender:
            threads = [
                threading.Thread(target=lambda: [sender.send("c", "n", {"a": 1}) for _ in range(500)]) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sent = sender.health()[0].sent
    finally:
        sys.setswitchinterval(interval)

    assert 2000 == sent
    assert list(range(1, 2001)) == [datagram.sequence for datagram in receiver.wait_for(2000)]


def test_11_each_destination_and_each_process_has_its_own_id() -> None:
    """Receivers tell senders apart by it."""
    with Receiver() as one, Receiver() as two, ApMon((one.destination().name, two.destination().name)) as apmon:
        apmon.sendParameters("c", "n", {"a": 1})
        child = os.fork()
        if child == 0:
            apmon.sendParameters("c", "n", {"a": 2})
            os._exit(0)
        os.waitpid(child, 0)
        ids = {datagram.instance_id for receiver in (one, two) for datagram in receiver.wait_for(2)}
        numbers = {datagram.sequence for receiver in (one, two) for datagram in receiver.wait_for(2)}

    assert 4 == len(ids)
    assert {1} == numbers


def test_12_names_that_are_given_are_used_whatever_other_threads_use(receiver: Receiver) -> None:
    """The last names are a convenience of who gives none."""
    with Sender([receiver.destination()], rate=100_000) as sender:
        threads = [
            threading.Thread(target=lambda at=at: [sender.send(f"c{at}", f"n{at}", {f"p{at}": 1}) for _ in range(200)])
            for at in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        receiver.wait_for(800)

    for stored in receiver.stored():
        ((name, _),) = stored.values
        assert (f"c{name[1:]}", f"n{name[1:]}") == (stored.cluster, stored.node)


def test_13_sources_are_read_again_at_their_interval_and_at_most_every_30_s(tmp_path: Path) -> None:
    """The larger of the two, not the smaller."""
    clock = Clock()
    for written, seconds in (("1", 30), ("600", 600), ("3600", 3600)):
        (tmp_path / "f").write_text(f"h\nxApMon_recheck_interval = {written}\n")
        sources = Sources([str(tmp_path / "f")], clock)
        sources.read()
        assert seconds == sources.seconds_until_due()


def test_14_options_are_typed(tmp_path: Path) -> None:
    """`0` is off; `abc` for a number is an error that names file and line, and no exception out of the constructor."""
    (tmp_path / "f").write_text("127.0.0.1:9\nxApMon_sys_monitoring = 0\nxApMon_job_monitoring = ON\n")
    with ApMon(str(tmp_path / "f")) as apmon:
        (one,) = apmon.getConfig().destinations
    assert (False, True) == (one.options.sys_monitoring, one.options.job_monitoring)
    (tmp_path / "f").write_text("127.0.0.1:9\nxApMon_sys_interval = abc\n")
    with ApMon(str(tmp_path / "f")) as apmon:
        assert not apmon.initializedOK()
        assert apmon._sources
        assert "f:2: sys_interval: sys_interval is" in apmon._sources.troubles[0]


def test_15_a_url_is_read_whole(receiver: Receiver) -> None:
    """Also one of more than 8192 bytes."""
    text = f"# {'x' * 20_000}\n{receiver.destination().name} s3cr3t\n"
    with serving(text_answer(text)) as url, ApMon(f"{url}/apmon.conf", allow_http=True) as apmon:
        assert apmon.sendParameters("c", "n", {"a": 1})
        assert receiver.wait_for(1)[0].header.endswith("p:s3cr3t")


def test_16_destinations_are_replaced_not_added() -> None:
    """Whatever form they are given in."""
    with Receiver() as old, Receiver() as new, ApMon((old.destination().name,)) as apmon:
        apmon.setDestinations({new.destination().name: {"sys_monitoring": False}})
        apmon.sendParameters("c", "n", {"a": 1})
        new.wait_for(1)
        assert [] == old.payloads
        assert [new.destination().name] == [one.name for one in apmon.getConfig().destinations]


def test_17_options_and_earlier_readings_go_with_their_destination(tmp_path: Path) -> None:
    """A line that is gone has its default again; what a removed destination was told is forgotten."""
    conf = tmp_path / "f"
    conf.write_text("127.0.0.1:9\n127.0.0.1:10\nxApMon_sys_interval = 30\n")
    with ApMon(str(conf)) as apmon:
        apmon.sendBgMonitoring(mustSend=True)
        conf.write_text("127.0.0.1:9\n")
        assert apmon._sources
        apmon._sources.read()
        apmon._use(apmon._sources.setup)
        apmon.sendBgMonitoring(mustSend=True)

        (one,) = apmon.getConfig().destinations
        assert 120 == one.options.sys_interval
        assert {"127.0.0.1:9"} == set(apmon._monitor._told)


def test_18_a_name_that_has_no_address_yet_is_kept_and_asked_for_again(receiver: Receiver) -> None:
    """And IPv6 is an address."""
    names = NameService()
    with Sender([Destination("later", 8884)], resolve=names) as sender:
        assert (Drop.UNRESOLVED,) == sender.send("c", "n", {"a": 1}).dropped["later:8884"]
        names.known["later"] = [(socket.AF_INET, ("127.0.0.1", receiver.port))]
        wait_until(lambda: sender.send("c", "n", {"a": 1}).sent, seconds=20)
    with Receiver(family=socket.AF_INET6) as six, ApMon((six.destination().name,)) as apmon:
        assert apmon.sendParameters("c", "n", {"a": 1})
        six.wait_for(1)


def test_19_a_stepped_clock_stops_nothing(receiver: Receiver) -> None:
    """Rates and intervals are by the monotonic clock: in a process whose wall clock is years back all is sent."""
    code = (
        "import time; time.time = lambda: 1.0\n"
        "from bwexporter.apmon import ApMon\n"
        f"apmon = ApMon(('{receiver.destination().name}',))\n"
        "assert apmon.sendParameters('c', 'n', {'a': 1})\n"
        "assert apmon.sendBgMonitoring(True) and apmon.sendParameters('c', 'n', {'a': 2})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    assert 3 <= len(receiver.wait_for(3))


def test_20_an_empty_name_is_skipped_however_it_came_about(apmon: ApMon, receiver: Receiver) -> None:
    """By value, not by identity; and a name of any script is encoded before it is counted."""
    empty = "x"[1:] + "".join([])
    assert apmon.sendParameters("c", "n", [(empty, 1), (" ", 2), ("naïve ☃", 3)]) is False
    receiver.wait_for(1)
    assert (("naïve ☃", 3.0),) == receiver.stored()[0].values


def test_21_what_is_no_number_is_skipped(apmon: ApMon, receiver: Receiver) -> None:
    """NaN and infinities would be stored as such."""
    assert apmon.sendParameters("c", "n", {"nan": math.nan, "inf": -math.inf, "a": 1}) is False
    receiver.wait_for(1)
    assert (("a", 1.0),) == receiver.stored()[0].values


def test_22_errors_of_the_socket_are_counted_and_raise_nothing() -> None:
    """Nobody listening, no way, forbidden; and the socket does not block."""
    places = [Destination("127.0.0.1", unused_port()), Destination("255.255.255.255")]
    with Sender(places) as sender:
        for _ in range(3):
            sender.send("c", "n", {"a": 1})
        refused, forbidden = sender.health()
        (channel, _) = sender._channels.values()
        assert channel._socket
        assert not channel._socket.getblocking()

    assert 3 == refused.dropped[Drop.REFUSED]
    assert 3 == sum(forbidden.dropped.values())


def test_23_a_forgotten_object_ends_and_free_does_not_hang(tmp_path: Path) -> None:
    """Its thread does not hold it."""
    (tmp_path / "f").write_text("127.0.0.1:9\n")
    before = threading.active_count()
    apmon = ApMon(str(tmp_path / "f"))
    apmon.enableBgMonitoring(onOff=True)
    assert before < threading.active_count()
    in_time(lambda: apmon.free() or True)
    wait_until(lambda: threading.active_count() == before)
    forgotten = ApMon(str(tmp_path / "f"))
    thread = forgotten._ticks._thread
    assert thread
    del forgotten
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_24_nothing_is_printed(receiver: Receiver, capfd: pytest.CaptureFixture[str]) -> None:
    """The log is `logging`'s."""
    with ApMon((receiver.destination().name,)) as apmon:
        apmon.sendParameters("c", "n", {"a": 1})
    assert "" == capfd.readouterr().out


def test_25_a_send_that_failed_uses_no_number(receiver: Receiver) -> None:
    """Numbers count what was handed to the network."""
    clock, names = Clock(), NameService()
    with Sender([Destination("later")], rate=2, clock=clock, resolve=names) as sender:
        sender.send("c", "n", {"a": 1})
        names.known["later"] = [(socket.AF_INET, ("127.0.0.1", receiver.port))]
        (channel,) = sender._channels.values()
        channel.found(names.known["later"])
        for _ in range(5):
            sender.send("c", "n", {"a": 1})
        clock.now += 1
        sender.send("c", "n", {"a": 1})

    assert [1, 2, 3] == [datagram.sequence for datagram in receiver.wait_for(3)]


class TestCompanion:
    """ProcInfo's defects."""

    def proc_of(self, folder: Path, *states: str) -> Path:
        """Make a /proc with a process of each state."""
        for pid, state in enumerate(states, 1):
            (folder / str(pid)).mkdir()
            (folder / str(pid) / "stat").write_text(f"{pid} (a) b) {state} 0 " + "0 " * 20)
        return folder

    def test_any_state_of_a_process_is_counted(self, tmp_path: Path) -> None:
        """I, which newer kernels have, raised and left a lock held for ever."""
        proc = self.proc_of(tmp_path, "I", "R", "S", "S", "X")
        found = host._processes(proc)

        assert 5 == found["processes"]
        assert (1, 1, 2, 0, 1) == tuple(found[f"processes_{state}"] for state in "IRSDX")

    def test_background_data_is_sent_each_time_it_is_asked_for(self, apmon: ApMon, receiver: Receiver) -> None:
        """The first call raised, the second hung."""
        assert in_time(lambda: apmon.sendBgMonitoring(mustSend=True))
        assert in_time(lambda: apmon.sendBgMonitoring(mustSend=True))
        receiver.wait_for(2)

    @pytest.mark.parametrize("as_text", [False, True])
    def test_grandchildren_belong_to_a_job(self, apmon: ApMon, receiver: Receiver, *, as_text: bool) -> None:
        """Whether its number is given as a number or as text."""
        nested = "sh -c 'sleep 60 & wait' & wait"
        with subprocess.Popen(["sh", "-c", nested], start_new_session=True) as shell:
            try:
                table = jobs.Table
                wait_until(lambda: len(table().with_descendants([_identity(shell.pid)])) == 3)
                assert apmon.addJobToMonitor(str(shell.pid) if as_text else shell.pid, "", "jobs", "j")
                apmon.sendBgMonitoring(mustSend=True)
                wait_until(lambda: any(stored.node == "j" for stored in receiver.stored()))
                (stored,) = [stored for stored in receiver.stored() if stored.node == "j"]
                assert 3 == dict(stored.values)["processes"]
            finally:
                os.killpg(shell.pid, signal.SIGKILL)

    def test_a_folder_is_a_path_and_no_command(self, apmon: ApMon, tmp_path: Path) -> None:
        """Nothing is run."""
        evil = tmp_path / "x; touch created"
        evil.mkdir()
        assert apmon.addJobToMonitor(os.getpid(), f"{evil}; touch {tmp_path}/created #", "jobs", "j")
        assert apmon.addJobToMonitor(os.getpid(), str(evil), "jobs", "j")
        apmon.sendBgMonitoring(mustSend=True)

        assert [evil] == list(tmp_path.iterdir())

    def test_two_readings_at_one_moment_and_falling_counters(self) -> None:
        """No exception, and no rate of a 32-bit wrap that never was."""

        def reading(at: float, counter: int) -> Reading:
            traffic = {"eth0": Traffic(counter, counter, counter)}
            return Reading(at, {"user": counter, "idle": 0}, {"intr": counter}, {"pgpgin": counter}, traffic)

        def rates(now: Reading, before: Reading) -> set[str]:
            names = {"eth0_in", "eth0_out", "eth0_errs", "interrupts_R", "blocks_in_R", "cpu_usr"}
            return names & set(host.figures(now, before, Options()))

        assert set() == rates(reading(5.0, 10), reading(5.0, 10))
        assert set() == rates(reading(6.0, 10), reading(5.0, 5000))
        assert 6 == len(rates(reading(6.0, 5000), reading(5.0, 10)))

    def test_each_destination_has_rates_of_its_own_interval(self) -> None:
        """One that is told every minute and one that is told every second."""
        fast, slow = (Destination("127.0.0.1", port, "", Options(sys_interval=port)) for port in (1, 60))
        monitor_clock = Clock()
        monitor = Monitor(monitor_clock, cluster="c", node="n")
        list(monitor.due([fast, slow]))
        for _ in range(59):
            monitor_clock.now += 1
            told = [due.destination for due in monitor.due([fast, slow])]
            assert [fast.name] == told
        before = {name: told.host_before for name, told in monitor._told.items()}
        assert before[slow.name]
        assert before[fast.name]
        assert 58 < before[fast.name].at - before[slow.name].at < 60

    def test_a_folder_that_is_gone_has_no_figures(self, tmp_path: Path) -> None:
        """The ancestor raised on du's silence."""
        job = jobs.watch_pid(os.getpid(), str(tmp_path / "gone"), "c", "n")
        assert job
        found, _ = job.figures(jobs.Table(), 1.0, None, Options())

        assert {"workdir_size", "disk_total"}.isdisjoint(found)
        assert "cpu_time" in found

    def test_a_process_that_cannot_be_seen_spoils_no_sum(self, tmp_path: Path) -> None:
        """Its descriptors are left out."""
        assert procfs.open_files(tmp_path, 1) is None
        assert None is procfs.process(tmp_path, 1)

    def test_no_program_is_run(self, apmon: ApMon, receiver: Receiver) -> None:
        """A host without ps, df and netstat has all figures."""
        path, os.environ["PATH"] = os.environ["PATH"], "/nowhere"
        try:
            apmon.addJobToMonitor(os.getpid(), "/tmp", "jobs", "j")
            apmon.sendBgMonitoring(mustSend=True)
        finally:
            os.environ["PATH"] = path
        wait_until(lambda: any(stored.node == "j" for stored in receiver.stored()))
        names = {name for stored in receiver.stored() for name, _ in stored.values}

        assert {"processes", "sockets_tcp", "uptime", "disk_total", "cpu_time", "rss"} <= names

    def test_a_number_that_is_used_again_is_another_process(self) -> None:
        """The one that was watched has ended."""
        watched = Process(100, 5, 1, "S", 0, 0, 0)
        job = jobs.Job("c", "n", jobs.PidTree(watched))
        table = jobs.Table()
        table._all = {100: Process(100, 77, 1, "S", 0, 0, 0)}

        assert ({}, True) == (job.figures(table, 1.0, None, Options())[0], job.ends)


def _identity(pid: int) -> tuple[int, int]:
    found = procfs.process(procfs.PROC, pid)
    assert found
    return found.identity


def test_what_the_ancestor_sent_wrongly_is_never_sent(receiver: Receiver) -> None:
    """The shapes of the DEFECT vectors: no parameters, a wrong count, a stray word, a wrong length, a cut time."""
    with Sender([receiver.destination()], rate=1000) as sender:
        for parameters in ({}, {"utf8": "café"}, {"": 1, "b": 2}, {"x": "y" * 5000, "b": 1}, {"big": 2**31, "c": 1}):
            sender.send("c", "n", parameters, 1_200_000_000)
        receiver.wait_for(4)

    for payload in receiver.payloads:
        datagram = wire.decode(payload)
        stored = monalisa.receive(payload)
        assert datagram.parameters
        assert 1_200_000_000 == stored.time
        assert len(datagram.parameters) == len(stored.values)
