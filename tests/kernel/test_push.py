"""The push of the whole program, on the real kernel: what MonALISA gets, and that nothing else feels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from bwexporter.apmon import Destination, Sender
from bwexporter.apmon.channel import Drop
from bwexporter.apmon.wire import Datagram
from tests.apmon_ground import Receiver
from tests.kernel.daemon_rig import Program, Room, Traffic, handle_of, skip_where_no_room_can_be_made, wait_for
from tests.ports import free_port

pytestmark = pytest.mark.kernel

SECRET = "s3cr3t"  # noqa: S105 - opens nothing
CONFIG = {
    "node": "room",
    "interval": "300ms",
    "look_margin": "100ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": {"full": "80mbit", "allowance": "1GB"}, "exempt": {"full": "80mbit", "allowance": "1GB"}},
    "apmon": {"sources": ["apmon.conf"], "every": "1s"},
}
SLICES = [{"name": "ann", "id": 1}, {"name": "rooted", "id": 2, "match": {"uid": 0}}]
DROPPED = "bwexporter_apmon_dropped_datagrams_total"


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def room() -> Iterator[Room]:
    """Make a room."""
    with Room() as made:
        yield made


@pytest.fixture
def receiver(room: Room) -> Iterator[Receiver]:
    """Listen in the room."""
    with room.entered():
        listening = Receiver()
    with listening:
        yield listening


def write_destinations(folder: Path, *lines: str) -> None:
    """Write the file that names them."""
    options = "xApMon_sys_interval = 1\nxApMon_job_interval = 1\nxApMon_maxMsgRate = 40\n"
    (folder / "apmon.conf").write_text("\n".join([*lines, options]))


def slow_way(room: Room) -> None:
    """Make a link that takes a byte now and then, and a neighbour behind it."""
    room.run("ip link add w0 type veth peer name w1")
    room.run("ip address add 10.7.0.1/24 dev w0")
    room.run("ip link set w0 up")
    room.run("ip link set w1 up")
    room.run("ip neigh add 10.7.0.2 lladdr 02:00:00:00:00:02 dev w0")
    room.run("tc qdisc add dev w0 root tbf rate 8kbit burst 2kb limit 10mb")


class Flapping:
    """A receiver that is there for half a second and gone for a little longer."""

    def __init__(self, room: Room, port: int) -> None:
        self.heard = 0
        self._room, self._port = room, port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._flap)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _flap(self) -> None:
        with self._room.entered():
            while not self._ended.wait(0.7):  # out of step with what is sent
                with Receiver(self._port) as there:
                    self._ended.wait(0.5)
                self.heard += len(there.payloads)


def newest(receiver: Receiver, cluster: str, node: str) -> Datagram | None:
    """Return the last datagram of a cluster and node."""
    found = [one for one in receiver.wait_for(0) if (one.cluster, one.node) == (cluster, node)]
    return found[-1] if found else None


def test_slices_host_and_jobs_arrive_while_other_destinations_misbehave(
    room: Room, receiver: Receiver, tmp_path: Path
) -> None:
    """Refusing, unresolvable, unreachable, slow, flapping: turns go on, the good one is complete, counters tell.

    And no secret shows.
    """
    place, flapping = f"127.0.0.1:{receiver.port}", free_port()
    slow_way(room)
    write_destinations(
        tmp_path,
        *(f"nowhere.invalid {SECRET}", f"127.0.0.1:9 {SECRET}", "10.8.8.8:9", "10.7.0.2:9", f"127.0.0.1:{flapping}"),
        f"{place} {SECRET}",
    )
    slices = [*SLICES, *({"name": f"more{number}", "id": 10 + number} for number in range(30))]
    with Program(room, tmp_path, CONFIG, slices) as program, Flapping(room, flapping) as visitor:
        program.start()
        Traffic(room).send(("rooted", "normal"), handle_of(2), packets=100)

        def used() -> set[float]:
            named = [one for one in receiver.wait_for(0) if one.node == "rooted"]
            return {float(value) for one in named for name, _, value in one.parameters if name == "normal_used_bytes"}

        wait_for(lambda: 100_000 in used(), what="the row of a slice")
        wait_for(lambda: newest(receiver, "ApMon_SysMon", "room"), what="the host")
        jobs = wait_for(
            lambda: [
                one for one in receiver.wait_for(0) if one.node == "rooted" and one.parameters[0].name == "cpu_time"
            ],
            what="a job",
        )
        for destination, reason in (
            ("nowhere.invalid:8884", "unresolved"),
            ("127.0.0.1:9", "refused"),
            ("10.8.8.8:9", "unreachable"),
            (f"127.0.0.1:{flapping}", "refused"),
            ("10.7.0.2:9", "busy"),  # a kernel's buffer is full for the slow one
        ):
            dropped = f'{DROPPED}{{destination="{destination}",reason="{reason}"}}'
            wait_for(lambda name=dropped: program.metrics()[name] > 0, what=dropped)
        wait_for(lambda: visitor.heard > 2, what="datagrams at the flapping one")
        before, scrapes = program.metrics()["bwexporter_turns_total"], count(1)
        wait_for(lambda: next(scrapes) and program.metrics()["bwexporter_turns_total"] >= before + 3, what="turns")
        metrics = program.metrics()
        pages = [
            program._client.get(f"{program.url}{path}") for path in ("/", "/slices/ann", "/api/v1/status", "/metrics")
        ]
        said = program.said() + str(metrics) + str(program.answer()) + "".join(page.text for page in pages)

        assert jobs
        assert next(scrapes) > 3
        assert metrics[f'bwexporter_apmon_datagrams_total{{destination="{place}"}}'] > 0
        at = metrics[f'bwexporter_apmon_last_success_timestamp_seconds{{destination="{place}"}}']
        assert at == pytest.approx(time.time(), abs=60)
        assert SECRET not in said
        assert 0 == program.stop()
    numbers = [one.sequence for one in receiver.wait_for(1)]
    assert list(range(1, len(numbers) + 1)) == numbers


def test_a_crash_and_a_reload(room: Room, receiver: Receiver, tmp_path: Path) -> None:
    """After a crash it is another sender; a reload changes names, and ends the push, without a restart."""
    write_destinations(tmp_path, f"127.0.0.1:{receiver.port}")
    with Program(room, tmp_path, CONFIG, SLICES) as program:
        program.start()
        wait_for(lambda: newest(receiver, "room", "ann"), what="a row")
        program.kill()
        (first,) = {one.instance_id for one in receiver.wait_for(1)}
        program.start()

        def second() -> list[Datagram]:
            return [one for one in receiver.wait_for(0) if one.instance_id != first]

        wait_for(lambda: any((one.cluster, one.node) == ("room", "ann") for one in second()), what="a row of another")
        assert [1] == [one.sequence for one in second()][:1]
        assert len({one.instance_id for one in second()}) == 1

        program.write_config({**CONFIG, "apmon": {**CONFIG["apmon"], "cluster": "renamed"}})  # type: ignore[dict-item]
        wait_for(lambda: newest(receiver, "renamed", "ann"), what="the new name")
        assert newest(receiver, "renamed", "ann").instance_id == second()[0].instance_id  # type: ignore[union-attr]

        program.write_config({key: value for key, value in CONFIG.items() if key != "apmon"})
        series = f'bwexporter_apmon_datagrams_total{{destination="127.0.0.1:{receiver.port}"}}'
        wait_for(lambda: series not in program.metrics(), what="the end of the push")


class TestNetwork:
    """What the network does to a sender."""

    def test_a_slow_way_is_left_and_waits_for_nobody(self, room: Room, receiver: Receiver) -> None:
        """Behind a link that takes a byte now and then the kernel's buffer is full: dropped, counted, at once."""
        room.run("tc qdisc add dev v0 root tbf rate 8kbit burst 2kb limit 10mb")
        slow, good = Destination("10.9.0.2", 9), Destination("127.0.0.1", receiver.port)
        with room.entered(), Sender([slow, good], rate=10_000) as sender:
            started = time.monotonic()
            for number in range(600):
                sender.send("c", "n", {"number": number, "text": "x" * 1000})
            took = time.monotonic() - started
            behind, fine = sender.health()
            assert 600 == len(receiver.wait_for(600, seconds=60)) == fine.sent
            assert behind.dropped[Drop.BUSY] > 100
            assert 600 == behind.sent + behind.dropped[Drop.BUSY]
        assert took < 30.0  # the link would take more than ten minutes

    def test_an_address_of_ours_that_changes_and_a_link_that_goes_away(self, room: Room) -> None:
        """The sender goes on as soon as there is a way again, with the next number."""
        name = "10.9.0.2:9"
        with room.entered(), Sender([Destination("10.9.0.2", 9)], rate=10_000) as sender:
            assert sender.send("c", "n", {"a": 1}).complete
            room.run("ip address del 10.9.0.1/24 dev v0")
            assert (Drop.UNREACHABLE,) == sender.send("c", "n", {"a": 2}).dropped[name]
            room.run("ip address add 10.9.0.3/24 dev v0")
            assert sender.send("c", "n", {"a": 3}).complete
            (channel,) = sender._channels.values()
            assert channel._socket
            assert ("10.9.0.3", 3) == (channel._socket.getsockname()[0], channel._sequence)

    def test_a_firewall_of_this_node_is_named(self, room: Room, receiver: Receiver) -> None:
        """It forbids one destination, and no other."""
        rules = "table inet t {\n chain c {\n type filter hook output priority 0\n udp dport 77 drop\n }\n}\n"
        room.run("nft -f -", given=rules)
        with room.entered(), Sender([Destination("127.0.0.1", 77), receiver.destination()]) as sender:
            delivery = sender.send("c", "n", {"a": 1})
            assert {"127.0.0.1:77": (Drop.FORBIDDEN,)} == dict(delivery.dropped)
            assert 1 == len(receiver.wait_for(1))
