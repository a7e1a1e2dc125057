"""The sender: what leaves this machine, at which rate, under which numbers, whatever the destinations do."""

from __future__ import annotations

import gc
import math
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.apmon import wire
from bwexporter.apmon.channel import SEQUENCES, Bucket, Drop
from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.parameters import BLANKS, Skipped
from bwexporter.apmon.sender import Message, Sender
from tests import monalisa
from tests.apmon_ground import NameService, Receiver
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, wait_until

FAST = 100_000
IN_FLIGHT = 200  # datagrams, which any socket keeps for a reader who is held up
SECRET = "s3cr3t"  # noqa: S105 - opens nothing


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now


def meant(name: str, value: object) -> tuple[str, float | str] | None:
    """Return what a receiver should store of a parameter; None where it should store nothing."""
    name = name.strip(BLANKS).replace("/", "_")
    if isinstance(value, str):
        value = value.strip(BLANKS)
    elif not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return (name, float(value) if not isinstance(value, str) else value) if name and value != "" else None


unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(),
    st.booleans(),
    st.none(),
    unicode_text,
    st.binary(max_size=3),
    st.just([1]),
)
places = unicode_text.filter(lambda text: text.strip(BLANKS))


@settings(max_examples=200)
@given(
    cluster=places,
    node=places,
    parameters=st.lists(st.tuples(unicode_text, values), max_size=60),
    timestamp=st.none() | st.integers(-10, 2**31 - 1),
    message_bytes=st.integers(512, 8192),
    short_integers=st.booleans(),
)
def test_a_receiver_stores_what_was_meant_and_nothing_else(
    cluster: str,
    node: str,
    parameters: list[tuple[str, object]],
    timestamp: int | None,
    message_bytes: int,
    *,
    short_integers: bool,
) -> None:
    """No defect's shape is ever emitted, and the receiver's rules read what was meant."""
    message = Message(cluster, node, parameters, timestamp, short_integers=short_integers)
    head = wire.pack_head(f"v:2.2.0_bwexporterp:{SECRET}", 7, 1)
    bodies, oversized = message.bodies(SECRET, message_bytes)
    stored = [monalisa.receive(head + body, password=SECRET) for body in bodies]
    wanted = [one for name, value in parameters if (one := meant(name, value)) is not None]

    assert not oversized
    assert wanted == [one for part in stored for one in part.values]
    assert len(parameters) == len(wanted) + len(message.skipped)
    for body, part in zip(bodies, stored, strict=True):
        datagram = wire.decode(head + body)
        assert len(head + body) <= message_bytes
        assert datagram.parameters
        assert all(name for name, _, _ in datagram.parameters)
        assert "/" not in f"{part.cluster}{part.node}"
        assert (timestamp if timestamp and timestamp > 0 else None) == part.time
        assert not part.node.startswith("#acc_")


class TestWhatIsSent:
    """Over real sockets."""

    def test_the_worked_parameters_arrive(self) -> None:
        """A header that receivers take, number 1, the time, every value."""
        with Receiver() as receiver, Sender([receiver.destination("s3cr3t")]) as sender:
            delivery = sender.send("slices", "node1", {"tx_bytes": 5_000_000_000, "slice": "pl_x"}, 1_200_000_000)
            (datagram,) = receiver.wait_for(1)

        assert delivery.complete
        assert "v:2.2.0_bwexporterp:s3cr3t" == datagram.header
        assert (1, "slices", "node1", 1_200_000_000) == (
            datagram.sequence, datagram.cluster, datagram.node, datagram.timestamp,
        )  # fmt: skip
        assert (("tx_bytes", 5, 5e9), ("slice", 0, "pl_x")) == datagram.parameters
        assert 0 <= datagram.instance_id < 2**31

    def test_over_ipv6_and_ipv4_at_once(self) -> None:
        """Each destination has a sequence and an id of its own."""
        with Receiver() as four, Receiver(family=socket.AF_INET6) as six:
            with Sender([four.destination(), six.destination()]) as sender:
                sender.send("c", "n", {"a": 1})
                sender.send("c", "n", {"a": 2}, to=six.destination().name)
            (only,) = four.wait_for(1)
            first, second = six.wait_for(2)

        assert [1, 1, 2] == [only.sequence, first.sequence, second.sequence]
        assert only.instance_id != first.instance_id
        assert first.instance_id == second.instance_id

    def test_many_parameters_are_split_with_one_time_and_numbers_of_their_own(self) -> None:
        """At 1440 bytes."""
        with Receiver() as receiver, Sender([receiver.destination()], rate=50) as sender:
            sender.send("big", "n", [(f"param_{number:05}", number) for number in range(1000)], 1_200_000_000)
            wait_until(lambda: sum(len(part.values) for part in receiver.stored()) == 1000)
            datagrams = receiver.wait_for(1)

        assert max(map(len, receiver.payloads)) <= 1440
        assert list(range(1, len(datagrams) + 1)) == [datagram.sequence for datagram in datagrams]
        assert {1_200_000_000} == {datagram.timestamp for datagram in datagrams}

    def test_numbers_of_every_kind(self) -> None:
        """Also NumPy's, fractions and booleans."""
        given_values = {"i": np.int64(-3), "f": np.float32(0.5), "b": np.bool_(True), "h": Fraction(1, 4), "t": True}
        with Receiver() as receiver, Sender([receiver.destination()]) as sender:
            assert sender.send("c", "n", given_values).complete
            receiver.wait_for(1)
            (stored,) = receiver.stored()

        assert {"i": -3.0, "f": 0.5, "b": 1.0, "h": 0.25, "t": 1.0} == dict(stored.values)

    @pytest.mark.parametrize(("cluster", "node", "timestamp"), [("", "n", None), ("c", " ", None), ("c", "n", 2**31)])
    def test_what_cannot_be_sent_at_all_is_an_error_at_once(
        self, cluster: str, node: str, timestamp: int | None
    ) -> None:
        """And the next call goes on."""
        with Receiver() as receiver, Sender([receiver.destination()]) as sender:
            with pytest.raises(ValueError, match=r"cluster|node|2038"):
                sender.send(cluster, node, {"a": 1}, timestamp)
            assert sender.send("c", "n", {"a": 1}).complete
            assert 1 == receiver.wait_for(1)[0].sequence

    def test_a_parameter_that_fits_no_datagram_is_counted(self) -> None:
        """The others go."""
        with Receiver() as receiver, Sender([receiver.destination()]) as sender:
            delivery = sender.send("c", "n", {"long": "x" * 2000, "b": 1})
            receiver.wait_for(1)
            (stored,) = receiver.stored()

        assert (("b", 1.0),) == stored.values
        assert {receiver.destination().name: (Drop.SIZE,)} == dict(delivery.dropped)
        assert 1 == sender.health()[0].dropped[Drop.SIZE]

    def test_nothing_is_sent_for_nothing(self) -> None:
        """No empty datagram, and the answer says so."""
        with Receiver() as receiver, Sender([receiver.destination()]) as sender:
            delivery = sender.send("c", "n", {"none": None, "nan": math.nan, "": 1})
            assert 0 == delivery.sent
            assert not delivery.complete
            assert ["none", "nan", ""] == [name for name, _ in delivery.skipped]
            sender.send("c", "n", {"a": 1})
            assert 1 == receiver.wait_for(1)[0].sequence
        assert 1 == len(receiver.payloads)

    def test_the_sequence_wraps_where_receivers_expect_it(self) -> None:
        """After 1 999 999 999 comes 0."""
        with Receiver() as receiver, Sender([receiver.destination()]) as sender:
            (channel,) = sender._channels.values()
            channel._sequence = SEQUENCES - 1
            sender.send("c", "n", {"a": 1})
            sender.send("c", "n", {"a": 1})
            datagrams = receiver.wait_for(2)

        assert [SEQUENCES - 1, 0] == [datagram.sequence for datagram in datagrams]

    def test_no_repr_shows_the_password(self) -> None:
        """Of the sender, a destination, a delivery, the health."""
        with Sender([Destination("127.0.0.1", 9, "s3cr3t")]) as sender:
            said = [
                repr(sender),
                repr(sender.destinations),
                repr(sender.send("c", "n", {"a": 1})),
                repr(sender.health()),
            ]

        assert "127.0.0.1:9" in said[0]
        assert not any("s3cr3t" in text for text in said)


class TestRate:
    """A token bucket for each destination, on the monotonic clock."""

    def test_a_bucket_gives_its_rate_in_the_long_run_and_a_second_at_once(self) -> None:
        """Whatever the pattern of asking, also after an hour of rest and when the clock stands still."""
        clock = Clock()
        bucket = Bucket(20, clock)
        assert 20 == sum(bucket.take() for _ in range(100))
        clock.now += 3600
        assert 20 == sum(bucket.take() for _ in range(100))
        taken = 0
        for _ in range(1000):
            clock.now += 0.01
            taken += bucket.take()
        assert 199 <= taken <= 201
        assert 0 < bucket.seconds_until_next() <= 0.05

    def test_beyond_the_rate_calls_are_refused_at_once_and_use_no_number(self) -> None:
        """Nobody sleeps; numbers stay without a gap."""
        clock = Clock()
        with Receiver() as receiver, Sender([receiver.destination()], rate=5, clock=clock) as sender:
            deliveries = [sender.send("c", "n", {"a": number}) for number in range(50)]
            clock.now += 1.0
            sender.send("c", "n", {"a": 99})
            datagrams = receiver.wait_for(6)

        assert 5 == sum(delivery.sent for delivery in deliveries)
        assert [1, 2, 3, 4, 5, 6] == [datagram.sequence for datagram in datagrams]
        assert {Drop.RATE: 45} == _drops(sender)

    def test_one_destination_that_is_refused_leaves_the_others_alone(self) -> None:
        """The rate is each destination's own."""
        clock = Clock()
        with Receiver() as one, Receiver() as two:
            with Sender([one.destination(), two.destination()], rate=3, clock=clock) as sender:
                for _ in range(3):
                    sender.send("c", "n", {"a": 1}, to=one.destination().name)
                delivery = sender.send("c", "n", {"a": 1})
            assert {one.destination().name: (Drop.RATE,)} == dict(delivery.dropped)
            assert 1 == len(two.wait_for(1))

    def test_a_flood_from_eight_threads(self) -> None:
        """5 000 sends a second: the rate holds, numbers have neither gap nor repeat, and nobody is blocked."""
        threads, calls, rate = 8, 1250, 200
        slowest, asked_at = [0.0] * threads, list[float]()

        def flood(at: int) -> None:
            for number in range(calls):
                started = time.monotonic()
                sender.send("c", f"thread{at}", {"a": number})
                asked_at.append(started)
                slowest[at] = max(slowest[at], time.monotonic() - started)
                time.sleep(max(0.0, 0.0016 - (time.monotonic() - started)))

        with Receiver() as one, Receiver() as two:
            with Sender([one.destination(), two.destination()], rate=rate) as sender:
                started = time.monotonic()
                flooding = [threading.Thread(target=flood, args=(at,)) for at in range(threads)]
                for thread in flooding:
                    thread.start()
                for thread in flooding:
                    thread.join()
                took = time.monotonic() - started
                health = sender.health()
            # A bucket holds a second: what a machine that stood still longer did not ask for is nobody's.
            asking_seconds = sum(min(later - at, 1.0) for at, later in pairwise(sorted(asked_at)))
            least = min(0.5 * rate * asking_seconds, 0.5 * threads * calls)  # on a machine that is too busy to flood
            for receiver, one_health in zip((one, two), health, strict=True):
                datagrams = receiver.wait_for(one_health.sent)
                assert list(range(1, one_health.sent + 1)) == [datagram.sequence for datagram in datagrams]
                assert one_health.sent + one_health.dropped[Drop.RATE] == threads * calls
                assert least <= one_health.sent <= rate * (took + 1) + 1
        assert max(slowest) < PATIENCE_SECONDS


def _drops(sender: Sender, at: int = 0) -> Mapping[Drop, int]:
    return {drop: count for drop, count in sender.health()[at].dropped.items() if count}


class TestBadDestinations:
    """Dead, refusing, flapping, unresolvable: the others are complete, and the counters tell."""

    def test_a_refusing_destination_costs_the_others_nothing(self) -> None:
        """Its refusals are counted; its last success does not move."""
        with Receiver() as good, Sender([Destination("127.0.0.1", free_port()), good.destination()]) as sender:
            for number in range(10):
                sender.send("c", "n", {"a": number})
            assert 10 == len(good.wait_for(10))
            bad, fine = sender.health()

        assert 10 == bad.dropped[Drop.REFUSED]
        assert bad.last_success_wall_seconds is None
        assert 10 == fine.sent
        assert fine.last_success_wall_seconds == pytest.approx(time.time(), abs=60)

    def test_a_flapping_destination_gets_all_that_is_sent_while_it_is_there(self) -> None:
        """What is heard of an earlier datagram keeps no later one from being sent."""
        port, arrived = free_port(), 0
        with Sender([Destination("127.0.0.1", port)], rate=FAST) as sender:
            for _ in range(5):
                sender.send("c", "n", {"a": 1})
                with Receiver(port) as receiver:
                    for number in range(10):
                        sender.send("c", "n", {"a": number})
                    arrived += len(receiver.wait_for(10))
            health = sender.health()[0]
        assert 50 == arrived
        assert 5 == health.dropped[Drop.REFUSED]
        assert 55 == health.sent

    def test_a_name_without_an_address_is_dropped_until_it_has_one(self) -> None:
        """It is asked for again and again, never given up; nobody waits for the name service."""
        names = NameService()
        with Receiver() as good:
            bad = Destination("nowhere.example.org", 8884)
            with Sender([bad, good.destination()], resolve=names, resolve_seconds=5.0) as sender:
                delivery = sender.send("c", "n", {"a": 1})
                assert {bad.name: (Drop.UNRESOLVED,)} == dict(delivery.dropped)
                assert 1 == len(good.wait_for(1))
                names.known["nowhere.example.org"] = [(socket.AF_INET, ("127.0.0.1", good.port))]
                wait_until(lambda: sender.send("c", "n", {"a": 2}, to=bad.name).complete)
            assert 1 == good.wait_for(2)[1].sequence

    def test_a_name_service_that_does_not_answer_blocks_nobody(self) -> None:
        """Neither the construction for long, nor a call, nor the end."""
        names = NameService()
        names.delay.clear()
        started = time.monotonic()
        with Sender([Destination("slow.example.org")], resolve=names, resolve_seconds=0.05) as sender:
            for _ in range(100):
                assert 0 == sender.send("c", "n", {"a": 1}).sent
        assert time.monotonic() - started < PATIENCE_SECONDS
        names.delay.set()

    @pytest.mark.parametrize("host", ["fe80::1%nowhere", "\u00fc" * 63])
    def test_what_cannot_be_looked_up_is_a_name_without_an_address(self, host: str) -> None:
        """A link that is not there (yet), a name that the DNS cannot spell."""
        with Receiver() as good, Sender([Destination(host), good.destination()]) as sender:
            assert (Drop.UNRESOLVED,) == sender.send("c", "n", {"a": 1}).dropped[Destination(host).name]
            assert 1 == len(good.wait_for(1))

    def test_an_address_that_changes_keeps_the_sequence(self) -> None:
        """Names are looked up again and again; only the socket is another one."""
        with Receiver() as old, Receiver() as new:
            names = NameService(mona=old.port)
            with Sender([Destination("mona")], resolve=names, resolve_again_seconds=0.02) as sender:
                sender.send("c", "n", {"a": 1})
                names.known["mona"] = [(socket.AF_INET, ("127.0.0.1", new.port))]
                asked = names.asked
                wait_until(lambda: names.asked >= asked + 2)
                names.known.clear()  # an address that was found is kept while the name has none
                wait_until(lambda: names.asked >= asked + 3)
                sender.send("c", "n", {"a": 2})
            first, second = old.wait_for(1)[0], new.wait_for(1)[0]

        assert (1, 2) == (first.sequence, second.sequence)
        assert first.instance_id == second.instance_id

    def test_a_first_address_without_a_way_is_passed_over(self) -> None:
        """A host with an IPv6 address that this node cannot reach is reached over IPv4."""
        names = NameService()
        with Receiver() as receiver:
            nowhere = (socket.AF_INET6, ("2001:db8::1%lo", 8884, 0, 99999))
            names.known["both"] = [nowhere, (socket.AF_INET, ("127.0.0.1", receiver.port))]
            with Sender([Destination("both")], resolve=names) as sender:
                assert sender.send("c", "n", {"a": 1}).complete
            assert 1 == len(receiver.wait_for(1))

    def test_without_a_way_the_reason_is_said(self) -> None:
        """Port 0 cannot be reached at all; a broadcast address is forbidden."""
        with Sender([Destination("255.255.255.255")]) as sender:
            assert 0 == sender.send("c", "n", {"a": 1}).sent
            assert {Drop.FORBIDDEN: 1} == _drops(sender) or {Drop.UNREACHABLE: 1} == _drops(sender)

    def test_after_the_end_calls_say_so(self) -> None:
        """The ancestor hung."""
        with Sender([Destination("127.0.0.1", 9)]) as sender:
            pass
        delivery = sender.send("c", "n", {"a": 1})

        assert {"127.0.0.1:9": (Drop.CLOSED,)} == dict(delivery.dropped)
        sender.close()


class TestChange:
    """Destinations that come and go while threads send."""

    def test_those_that_stay_keep_their_numbers(self) -> None:
        """Also under another password."""
        with Receiver() as one, Receiver() as two, Sender([one.destination("old")]) as sender:
            sender.send("c", "n", {"a": 1})
            sender.replace([two.destination(), one.destination("new")])
            sender.send("c", "n", {"a": 2})
            sender.replace([two.destination()])
            sender.send("c", "n", {"a": 3})
            first, second = one.wait_for(2)
            assert [1, 2] == [datagram.sequence for datagram in two.wait_for(2)]

        assert (1, 2) == (first.sequence, second.sequence)
        assert first.header.endswith("p:old")
        assert second.header.endswith("p:new")
        assert 2 == len(one.payloads)

    def test_change_under_load_loses_no_number(self) -> None:
        """Four threads send while one destination comes and goes."""
        stopping = threading.Event()

        def send() -> None:
            while not stopping.is_set():
                sender.send("c", "n", {"a": 1})
                while sender.health()[0].sent - len(steady.payloads) > IN_FLIGHT and not stopping.is_set():
                    time.sleep(0.001)

        with Receiver() as steady, Receiver() as guest, Sender([steady.destination()], rate=FAST) as sender:
            sending = [threading.Thread(target=send) for _ in range(4)]
            for thread in sending:
                thread.start()
            for _ in range(50):
                sender.replace([steady.destination(), guest.destination()])
                sender.replace([steady.destination()])
                time.sleep(0.002)
            stopping.set()
            for thread in sending:
                thread.join()
            sent = sender.health()[0].sent
            numbers = [datagram.sequence for datagram in steady.wait_for(sent)]

        assert list(range(1, sent + 1)) == numbers

    def test_a_forgotten_sender_leaves_no_thread(self) -> None:
        """Even if nobody closed it."""
        names = NameService()
        sender = Sender([Destination("forgotten")], resolve=names)
        (thread,) = [one for one in threading.enumerate() if one.name == "apmon forgotten"]
        del sender
        gc.collect()
        thread.join(timeout=PATIENCE_SECONDS)

        assert not thread.is_alive()

    def test_a_child_is_a_sender_of_its_own(self) -> None:
        """Another id, numbers from 1, also when a lock was held at the fork; the parent's go on."""
        with Receiver() as receiver, Sender([receiver.destination()], rate=FAST) as sender:
            sender.send("c", "parent", {"a": 1})
            (channel,) = sender._channels.values()
            with channel._lock:
                child = os.fork()
                if child == 0:
                    try:
                        sender.send("c", "child", {"a": 1})
                        sender.send("c", "child", {"a": 2})
                    finally:
                        os._exit(0)
            assert 0 == os.waitpid(child, 0)[1]
            sender.send("c", "parent", {"a": 2})
            datagrams = receiver.wait_for(4)

        of = {node: [one for one in datagrams if one.node == node] for node in ("parent", "child")}
        assert [1, 2] == [one.sequence for one in of["parent"]]
        assert [1, 2] == [one.sequence for one in of["child"]]
        assert of["parent"][0].instance_id == of["parent"][1].instance_id != of["child"][0].instance_id


def test_a_child_that_knows_a_name_s_address_sends_at_once() -> None:
    """The thread that looks names up did not follow it, and is begun anew."""
    with Receiver() as receiver:
        names = NameService(mona=receiver.port)
        with Sender([Destination("mona")], resolve=names) as sender:
            child = os.fork()
            if child == 0:
                complete = sender.send("c", "child", {"a": 1}).complete
                finder = any(one.name == "apmon mona" for one in threading.enumerate())
                os._exit(0 if complete and finder else 1)
            assert 0 == os.waitpid(child, 0)[1]
            assert "child" == receiver.wait_for(1)[0].node


def held() -> tuple[int, int, int]:
    """Return the blocks of memory, descriptors and threads that this process holds."""
    gc.collect()
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return sys.getallocatedblocks(), descriptors, threading.active_count()


def test_memory_is_flat_over_100_000_datagrams() -> None:
    """And so are descriptors and threads."""
    with Receiver() as receiver, Sender([receiver.destination()], rate=FAST) as sender:
        receiver.payloads = _Forgetful()
        for number in range(100_000):
            sender.send("c", "n", {"a": number, "b": "text"})
            if number == 10_000:
                before = held()
        after = held()
        health = sender.health()[0]

    assert 100_000 == health.sent + sum(health.dropped.values())
    assert after[0] - before[0] < 1_000  # a block a datagram would be 90 000
    assert (after[1] <= before[1], after[2] <= before[2]) == (True, True)  # of other tests some may have ended


class _Forgetful(list[bytes]):
    def append(self, _: bytes) -> None:
        """Keep nothing."""


def test_what_is_skipped_is_named_with_its_reason() -> None:
    """One sentence each."""
    message = Message("c", "n", [("a", None), ("b", math.inf), ("c", b"x"), (" ", 1), ("d", " "), ("e", "\ud800"), 7])  # type: ignore[list-item]

    assert (
        Skipped("a", "is NoneType, neither a number nor text"),
        Skipped("b", "is not a finite number"),
        Skipped("c", "is bytes, neither a number nor text"),
        Skipped("", "has no name"),
        Skipped("d", "is empty text"),
        Skipped("e", "holds half a character, which is no text"),
        Skipped("", "is no pair of a name and a value"),
    ) == message.skipped
    assert Counter() == Counter(map(len, message.bodies("", 1440)[0]))
