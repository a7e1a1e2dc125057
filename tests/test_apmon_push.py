"""The push: what of a turn arrives where, at which pace, and whom it never holds up."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bwexporter.apmon.channel import Drop
from bwexporter.apmon.jobs import ControlGroup, PidFile, Users
from bwexporter.apmon.push import Pusher, Settings
from bwexporter.apmon.rows import FIGURES, Layout, Naming, Rows
from bwexporter.apmon.timekeeping import is_synchronised
from bwexporter.core.lanes import UNLIMITED, Reason, Traffic
from bwexporter.core.report import PushStatus, Report
from bwexporter.kernel.claims import Claim
from bwexporter.metrics import Exposition
from bwexporter.pushes import ApmonKeys
from bwexporter.pushing import ApmonSink
from tests import monalisa
from tests.apmon_ground import Receiver, serving
from tests.ports import free_port
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.waiting import PATIENCE_SECONDS, wait_until

NAMING = Naming("{node}", "{slice}", "{traffic}_{figure}")
HOST_OFF = "xApMon_sys_monitoring = off\nxApMon_general_info = off\n"


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Move time by hand."""
    return Clock()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Listen on loopback."""
    with Receiver() as listening:
        yield listening


def settings(conf: Path, **others: object) -> Settings:
    """Push rows alone, every minute."""
    plain: dict[str, object] = {"every_seconds": 60.0, "host_cluster": "ApMon_SysMon", "node": "node1"}
    return Settings(sources=(str(conf),), naming=NAMING, **{**plain, **others})  # type: ignore[arg-type]


def written(tmp_path: Path, *lines: str, more: str = HOST_OFF) -> Path:
    """Write a file of destinations."""
    conf = tmp_path / "apmon.conf"
    conf.write_text("\n".join([*lines, more]))
    return conf


def work(pusher: Pusher, clock: Clock, seconds: float) -> None:
    """Let it work whenever it wants to, for so long by its clock."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += min(pusher.work(), end - clock.now)


class TestRows:
    """What is said of a lane."""

    def test_both_lanes_of_a_slice_are_one_row(self) -> None:
        """Cluster is the node, node is the slice; the time is the turn's."""
        exempt = LaneFigures(
            "alice", Traffic.EXEMPT, used_bytes=7, allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED
        )
        normal = LaneFigures("alice", used_bytes=5_000_000_000, capped=True, reason=Reason.OVER_THRESHOLD)
        rows = _rows(report(device_report([normal, exempt, LaneFigures("bob")])))

        assert (("node1.example.org", "alice"), ("node1.example.org", "bob")) == rows.places
        stored = _stored(rows, ("node1.example.org", "alice"))
        assert (5e9, 7.0) == (stored["normal_used_bytes"], stored["exempt_used_bytes"])
        assert (1.0, "over_threshold") == (stored["normal_capped"], stored["normal_verdict"])
        assert 1e9 == stored["normal_allowance_bytes"]

    def test_what_is_unlimited_never_or_absent_is_left_out(self) -> None:
        """A receiver would store it as a number."""
        lane = LaneFigures(
            allowance_bytes=UNLIMITED,
            threshold_bytes=UNLIMITED,
            full_bytes_per_second=UNLIMITED,
            enforced_ceiling_bytes_per_second=-1,
        )
        stored = _stored(_rows(report(device_report([lane]))), ("node1.example.org", "alice"))
        left_out = {"allowance_bytes", "threshold_bytes", "full_rate_bytes_per_second", "ceiling_bytes_per_second"}
        left_out |= {"seconds_to_threshold"}

        assert {f"normal_{name}" for name in {*FIGURES, "verdict"} - left_out} == set(stored)

    def test_a_slice_is_one_datagram(self) -> None:
        """With all figures of both traffics, so that the rate is one of slices."""
        lanes = [LaneFigures("princeton_codeen", traffic, seconds_to_threshold=1.0) for traffic in Traffic]
        rows = _rows(report(device_report(lanes)))
        message = rows.message(rows.places[0])

        assert message
        assert 1 == len(message.bodies("a password", 1440)[0])

    def test_a_device_that_could_not_be_read_is_not_told_again(self) -> None:
        """Its figures are those of an earlier turn."""
        good, bad = device_report([LaneFigures("a")]), device_report([LaneFigures("b")], device="eth1", trouble="gone")

        assert (("node1.example.org", "a"),) == _rows(report(good, bad)).places

    def test_names_may_be_laid_out_otherwise(self) -> None:
        """One row for the node; a slice's name with braces or slashes is a name."""
        naming = Naming("Slices", "{node}", "{slice}_{traffic}_{figure}")
        rows = _rows(report(device_report([LaneFigures("a/{figure}"), LaneFigures("b")])), naming)
        stored = _stored(rows, ("Slices", "node1.example.org"))

        assert {"a_{figure}_normal_sent_bytes", "b_normal_sent_bytes"} <= set(stored)

    def test_the_layout_is_kept_while_the_lanes_are_the_same(self) -> None:
        """Naming 20 000 lanes anew would cost the push more than sending them."""
        lanes = [LaneFigures("a"), LaneFigures("b")]
        layout = Layout(report(device_report(lanes)), NAMING)
        later = [LaneFigures("a", used_bytes=5), LaneFigures("b")]

        assert layout.fits(report(device_report(later)), NAMING)
        assert not layout.fits(report(device_report(lanes[:1])), NAMING)
        assert not layout.fits(report(device_report(lanes)), Naming("x", "{slice}", "{traffic}_{figure}"))
        assert not layout.fits(report(device_report(lanes), node="other"), NAMING)


def _rows(told: Report, naming: Naming = NAMING) -> Rows:
    return Rows(told, Layout(told, naming))


def _stored(rows: Rows, place: tuple[str, str]) -> Mapping[str, float | str]:
    """Return what a receiver stores of a message."""
    message = rows.message(place)
    assert message
    head = bytes.fromhex("00000009763a322e322e30703a0000000000000700000001")
    parts = [monalisa.receive(head + body) for body in message.bodies("", 8192)[0]]
    assert {(place[0], place[1], int(NOW_WALL_SECONDS))} == {(part.cluster, part.node, part.time) for part in parts}
    return {name: value for part in parts for name, value in part.values}


class TestPace:
    """A few datagrams at a time, and bounded."""

    def test_a_turn_arrives_once_at_every_destination(self, tmp_path: Path, clock: Clock) -> None:
        """The newest one at each round."""
        with Receiver() as one, Receiver() as two:
            pusher = Pusher(settings(written(tmp_path, one.destination().name, two.destination().name)), clock)
            pusher.hear(report(device_report([LaneFigures("old")])))
            pusher.hear(report(device_report([LaneFigures("a"), LaneFigures("b")])))
            work(pusher, clock, 100)
            assert ["a", "b"] == [datagram.node for datagram in one.wait_for(2)]
            assert ["a", "b"] == [datagram.node for datagram in two.wait_for(2)]
            pusher.hear(report(device_report([LaneFigures("c")])))
            work(pusher, clock, 30)
            assert "c" == one.wait_for(3)[2].node
            pusher.close()

    def test_rounds_are_as_far_apart_as_asked(self, tmp_path: Path, clock: Clock, receiver: Receiver) -> None:
        """However often turns are taken."""
        pusher = Pusher(settings(written(tmp_path, receiver.destination().name), every_seconds=30.0), clock)
        for _ in range(100):
            pusher.hear(report(device_report([LaneFigures("a")])))
            work(pusher, clock, 1)
        assert 4 == len(receiver.wait_for(4))
        pusher.close()

    def test_the_rate_is_kept_and_all_arrive(self, tmp_path: Path, clock: Clock, receiver: Receiver) -> None:
        """100 slices at 5 a second take 20 seconds."""
        conf = written(tmp_path, receiver.destination().name, "xApMon_maxMsgRate = 5")
        pusher = Pusher(settings(conf), clock)
        pusher.hear(report(device_report([LaneFigures(f"slice{number}") for number in range(100)])))
        work(pusher, clock, 10)
        receiver.wait_for(50)
        time.sleep(0.05)
        assert 50 <= len(receiver.payloads) <= 57
        work(pusher, clock, 15)
        nodes = [datagram.node for datagram in receiver.wait_for(100)]
        assert [f"slice{number}" for number in range(100)] == nodes
        assert dict.fromkeys(Drop, 0) == dict(pusher.health()[0].dropped)
        pusher.close()

    def test_rows_that_a_round_does_not_get_to_come_first_in_the_next(
        self, tmp_path: Path, clock: Clock, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """None is always left out; what is overtaken is counted, and said once."""
        pusher = Pusher(settings(written(tmp_path, receiver.destination().name, "xApMon_maxMsgRate = 1")), clock)
        slices = [LaneFigures(f"slice{number}") for number in range(150)]
        for _ in range(5):
            pusher.hear(report(device_report(slices)))
            work(pusher, clock, 60)
        health = pusher.health()[0]
        receiver.wait_for(health.sent)
        nodes = {datagram.node for datagram in receiver.wait_for(health.sent)}

        assert {lane.slice_name for lane in slices} == nodes
        assert 295 <= health.sent <= 302
        assert 5 * 150 - health.sent >= health.dropped[Drop.QUEUE] >= 300
        assert 1 == len([text for text in caplog.messages if "not all rows can be pushed" in text])
        pusher.close()

    def test_the_host_and_jobs_have_their_own_rhythm(self, tmp_path: Path, clock: Clock, receiver: Receiver) -> None:
        """Without any turn."""
        conf = written(
            tmp_path,
            receiver.destination().name,
            more="xApMon_sys_interval = 40\nxApMon_job_interval = 20\nxApMon_maxMsgSize = 8192\n",
        )
        pusher = Pusher(settings(conf), clock)
        sink_jobs = ApmonSink("node1", clock)._jobs(
            ApmonKeys(sources=("x",)), [Claim("me", 1, None, uids=((os.getuid(), os.getuid()),))]
        )
        pusher.watch(sink_jobs)
        work(pusher, clock, 79)
        clusters = [(datagram.cluster, datagram.node) for datagram in receiver.wait_for(6)]

        assert 2 == clusters.count(("ApMon_SysMon", "node1"))
        assert 4 == clusters.count(("node1", "me"))
        pusher.close()

    def test_the_end_sends_what_the_rate_allows_and_counts_the_rest(
        self, tmp_path: Path, clock: Clock, receiver: Receiver
    ) -> None:
        """And waits for nothing."""
        pusher = Pusher(settings(written(tmp_path, receiver.destination().name, "xApMon_maxMsgRate = 10")), clock)
        pusher.hear(report(device_report([LaneFigures(f"slice{number}") for number in range(30)])))
        pusher.work()
        clock.now += 1
        pusher.close()

        assert 20 == len(receiver.wait_for(20))
        assert 5.0 == pusher.work()


def test_a_clock_that_nobody_keeps_is_said_once(
    tmp_path: Path, clock: Clock, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """And once that somebody does again; where the kernel may not be asked nothing is said."""
    answers = iter([None, False, False, None, True, True, False])
    conf = written(tmp_path, receiver.destination().name)
    pusher = Pusher(settings(conf), clock, synchronised=lambda: next(answers))
    said = []
    with caplog.at_level("INFO", "bwexporter.apmon"):
        for _ in range(7):
            caplog.clear()
            pusher.hear(report(device_report([LaneFigures("a")])))
            work(pusher, clock, 60)
            said.append([text.split(" service")[0] for text in caplog.messages if "time service" in text])
    pusher.close()

    assert [[], ["no time"], [], [], ["a time"], [], ["no time"]] == said


def test_the_kernel_says_whether_somebody_keeps_the_clock() -> None:
    """As another program hears it of adjtimex(2)."""
    number = {"x86_64": 159, "aarch64": 171}[os.uname().machine]
    asking = f"my $zeros = pack('x512'); print syscall({number}, $zeros)"
    heard = subprocess.run(["perl", "-e", asking], capture_output=True, text=True, check=True).stdout

    assert is_synchronised() == (None if heard == "-1" else heard != "5")


class TestBadDestinations:
    """One that is dead, refusing, unresolvable or slow costs the others nothing."""

    def test_the_others_are_complete(self, tmp_path: Path, clock: Clock, receiver: Receiver) -> None:
        """And the counters tell."""
        refusing = f"127.0.0.1:{free_port()}"
        unresolvable = "nowhere.invalid:8884"
        conf = written(tmp_path, unresolvable, refusing, "255.255.255.255:9", receiver.destination().name)
        pusher = Pusher(settings(conf), clock)
        for _ in range(3):
            pusher.hear(report(device_report([LaneFigures(f"slice{number}") for number in range(10)])))
            work(pusher, clock, 60)
        health = {one.destination: one for one in pusher.health()}

        assert 30 == len(receiver.wait_for(30)) == health[receiver.destination().name].sent
        assert 30 == health[refusing].dropped[Drop.REFUSED]
        assert health[refusing].last_success_wall_seconds is None
        assert 30 == health[unresolvable].dropped[Drop.UNRESOLVED]
        assert 30 == sum(health["255.255.255.255:9"].dropped.values())
        pusher.close()

    def test_a_report_is_heard_while_a_work_waits_for_a_server(self) -> None:
        """Hearing, asking for the state and the end wait for nothing."""
        listening, ended = threading.Event(), threading.Event()

        def never(_: object) -> None:
            listening.set()
            ended.wait(PATIENCE_SECONDS)

        with serving(never) as url:
            sink = ApmonSink("node1", time.monotonic)
            sink.enlist(ApmonKeys(sources=(f"{url}/x",), allow_http=True), (), 1)
            working = threading.Thread(target=sink.work, daemon=True)
            working.start()
            assert listening.wait(PATIENCE_SECONDS)
            sink.hear(report(device_report()))
            assert () == sink.status()
            sink.close()
            waits = working.is_alive()
            ended.set()
            working.join(timeout=PATIENCE_SECONDS)

        assert waits
        assert not working.is_alive()

    def test_destinations_that_change_under_load_lose_no_number(
        self, tmp_path: Path, clock: Clock, receiver: Receiver
    ) -> None:
        """The file is read anew while rows are sent; a bad one keeps the last good destinations."""
        guest = f"127.0.0.1:{free_port()}"
        recheck = "xApMon_recheck_interval = 30\nxApMon_maxMsgRate = 7"
        conf = written(tmp_path, receiver.destination().name, recheck)
        pusher = Pusher(settings(conf, every_seconds=10.0), clock)
        for turn in range(30):
            pusher.hear(report(device_report([LaneFigures(f"slice{number}") for number in range(50)])))
            work(pusher, clock, 10)
            lines = [guest] if turn % 2 else ["h:abc"] if turn % 5 == 0 else []
            written(tmp_path, receiver.destination().name, *lines, recheck)
        sent = next(one.sent for one in pusher.health() if one.destination == receiver.destination().name)
        numbers = [datagram.sequence for datagram in receiver.wait_for(sent)]

        assert 30 * 50 == sent
        assert list(range(1, sent + 1)) == numbers
        pusher.close()


class TestSink:
    """The configuration's push."""

    def test_nothing_is_pushed_where_nothing_is_asked_for(self, clock: Clock) -> None:
        """It hears, and says that there is nothing to do."""
        sink = ApmonSink("node1", clock)
        sink.enlist(None, (), 1)
        sink.hear(report(device_report()))

        assert 60.0 == sink.work()
        assert () == sink.status()

    def test_a_reload_changes_what_is_pushed_and_keeps_the_sequence(
        self, tmp_path: Path, clock: Clock, receiver: Receiver
    ) -> None:
        """Other names, and then nothing."""
        conf = written(tmp_path, receiver.destination().name)
        keys = ApmonKeys(sources=(str(conf),), every="10s")
        sink = ApmonSink("node1", clock)
        for cluster in ("first", "second"):
            sink.enlist(keys.model_copy(update={"cluster": cluster}), (), 1)
            sink.work()
            sink.hear(report(device_report()))
            clock.now += 10
            sink.work()
        first, second = receiver.wait_for(2)
        assert (("first", 1), ("second", 2)) == (
            (first.cluster, first.sequence), (second.cluster, second.sequence),
        )  # fmt: skip
        assert first.instance_id == second.instance_id
        (status,) = sink.status()
        assert (receiver.destination().name, 2) == (status.destination, status.datagrams)
        sink.enlist(None, (), 1)
        sink.work()
        assert () == sink.status()

    def test_a_slice_s_job_is_its_group_s_else_its_users_processes_else_those_of_a_file(self, clock: Clock) -> None:
        """The node's own and the unclassified have none."""
        claims = [
            Claim("grouped", 1, None, cgroup="slices/a", uids=((1, 1),)),
            Claim("user", 2, None, uids=((1000, 1999),)),
            Claim("mark", 3, None, mark=5),
            Claim("_root", 4, None, uids=((0, 0),)),
        ]
        sink = ApmonSink("node1", clock)
        files = {"mark": "/run/mark.pid", "user": "/run/user.pid"}
        jobs = sink._jobs(ApmonKeys(sources=("x",), pid_files=files), claims)
        one_row = sink._jobs(ApmonKeys(sources=("x",), node="{node}"), claims)

        assert [("node1", one) for one in ("grouped", "user", "mark")] == [(j.cluster, j.node) for j in jobs.values()]
        assert [ControlGroup, Users, PidFile] == [type(job.rule) for job in jobs.values()]
        assert ["grouped_", "user_"] == [job.prefix for job in one_row.values()]

    def test_jobs_that_stay_keep_what_they_have_counted(self, tmp_path: Path, clock: Clock) -> None:
        """Over a reload."""
        sink = ApmonSink("node1", clock)
        keys = ApmonKeys(sources=(str(written(tmp_path, "127.0.0.1:9")),))
        sink.enlist(keys, [Claim("a", 1, None, uids=((1, 1),)), Claim("b", 2, None, uids=((2, 2),))], 1)
        sink.work()
        assert sink._pusher
        before = dict(sink._pusher._monitor.jobs)
        sink.enlist(keys, [Claim("a", 1, None, uids=((1, 1),)), Claim("c", 3, None, uids=((3, 3),))], 1)
        sink.work()
        after = dict(sink._pusher._monitor.jobs)

        assert 1 == len(set(map(id, before.values())) & set(map(id, after.values())))
        assert 2 == len(after)
        sink.close()


def test_metrics_tell_of_each_destination_and_never_a_password() -> None:
    """Its name is host:port."""
    pushes = (PushStatus("mona:8884", 12, {"rate": 0, "refused": 3}, 1_763_596_800.5),)
    exposition = Exposition()
    text = exposition.render(report(device_report(), pushes=pushes)).text.decode()

    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)
    for line in (
        'bwexporter_apmon_datagrams_total{destination="mona:8884"} 12',
        'bwexporter_apmon_dropped_datagrams_total{destination="mona:8884",reason="refused"} 3',
        'bwexporter_apmon_dropped_datagrams_total{destination="mona:8884",reason="rate"} 0',
        'bwexporter_apmon_last_success_timestamp_seconds{destination="mona:8884"} 1763596800.5',
    ):
        assert f"{line}\n" in text


def test_many_reports_are_heard_in_no_time(tmp_path: Path) -> None:
    """A turn's thread hands over a reference; nothing grows while nobody works."""
    sink = ApmonSink("node1", time.monotonic)
    sink.enlist(ApmonKeys(sources=(str(written(tmp_path, "127.0.0.1:9")),)), (), 1)
    sink.work()
    for _ in range(10_000):
        sink.hear(report())
    assert sink._pusher
    assert 0 == sum(len(outbox) for outbox in sink._pusher._outboxes.values())
    wait_until(sink.status)
    sink.close()
