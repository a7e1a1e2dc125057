"""The ancestor's defects by number, and what happens here instead; the numbers are those of the list in docs/apmon.md.

Each test makes one observation, of ours and of a model of the ancestor (ancestor_apmon.py), and says what it is in
both: none of them could pass on the ancestor's behaviour.
"""

from __future__ import annotations

import gc
import inspect
import logging
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bwexporter.apmon import ApMon, Destination, Sender, wire
from bwexporter.apmon.channel import Drop
from bwexporter.apmon.sources import Sources
from tests import monalisa
from tests.ancestor_apmon import Ancestor, HangsForever
from tests.apmon_ground import NameService, Receiver, serving, text_answer
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, wait_until

Either = ApMon | Ancestor
Make = Callable[[Any], Either]
MARK = "the end of what is observed"
ROUNDS = 5  # of a thread that is to be heard among others


class Clock:
    """A clock that moves when the test says so, or somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read it."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def in_time(call: Callable[[], Any]) -> Any:
    """Return what a call returns; fail where it hangs."""
    answer: list[object] = []
    thread = threading.Thread(target=lambda: answer.append(call()), daemon=True)
    thread.start()
    thread.join(timeout=PATIENCE_SECONDS)
    assert answer, "the call hangs"
    return answer[0]


def answer_to(call: Callable[[], object]) -> object:
    """Return what a call answers, which may be that it raises or would hang."""
    try:
        return call()
    except HangsForever:
        return "hangs"
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller would have it
        return f"raises {type(error).__name__}"


def stored_of(make: Make, send: Callable[[Either], object]) -> list[tuple[dict[str, float | str], int | None] | None]:
    """Return what a receiver stores of what is sent: values and time of each datagram, None where it drops it."""
    with Receiver() as receiver, make((f"{receiver.destination().name} s3cr3t",)) as apmon:
        send(apmon)
        apmon.sendParameter(MARK, "n", "a", 1)
        wait_until(lambda: any(MARK.encode() in payload for payload in receiver.payloads))
        payloads = [payload for payload in receiver.payloads if MARK.encode() not in payload]
    found: list[tuple[dict[str, float | str], int | None] | None] = []
    for payload in payloads:
        try:
            stored = monalisa.receive(payload)
        except monalisa.Discarded:
            found.append(None)
        else:
            found.append((dict(stored.values), stored.time))
    return found


def places_of(apmon: Either) -> list[str]:
    """Return where it sends to."""
    if isinstance(apmon, Ancestor):
        return [f"{address}:{port}" for address, port, _ in apmon.options]
    return [one.name for one in apmon.getConfig().destinations]


def read_again(apmon: Either) -> None:
    """Do what is done when the sources are due."""
    if isinstance(apmon, Ancestor):
        if apmon.reloads:
            apmon.reload()
    elif apmon._ticks._thread:
        if apmon._sources:
            apmon._sources._due_at = 0.0
        apmon._tick()


def test_01_sources_that_all_fail_empty_nothing(tmp_path: Path) -> None:
    """The last good destinations are kept; the ancestor had none left."""
    conf = tmp_path / "apmon.conf"

    def observed(make: Make) -> tuple[bool, list[str]]:
        conf.write_text("127.0.0.1:9\n")
        with make(str(conf)) as apmon:
            conf.unlink()
            read_again(apmon)
            return apmon.initializedOK(), places_of(apmon)

    assert (True, ["127.0.0.1:9"]) == observed(ApMon)
    assert (False, []) == observed(Ancestor)


@pytest.mark.parametrize(
    "bad",
    [
        lambda apmon: apmon.sendTimedParameters("c", "n", 2**31, {"a": 1}),
        lambda apmon: apmon.sendTimedParameters("c", "n", "soon", {"a": 1}),
        lambda apmon: apmon.sendParameters(b"c", "n", {"a": 1}),
        lambda apmon: apmon.sendParameters("naïve\ud800", "n", {"a": 1}),
        lambda apmon: apmon.sendParameters("c", "n", [("a", 1, 2)]),
    ],
)
def test_02_a_bad_call_is_answered_and_the_next_one_works(bad: Callable[[Either], bool]) -> None:
    """No lock is left held; the ancestor raised, and every later call hung."""

    def observed(make: Make) -> tuple[bool, object]:
        with Receiver() as receiver, make((receiver.destination().name,)) as apmon:
            first = str(answer_to(lambda: bad(apmon)))
            second = answer_to(lambda: apmon.sendParameters("c", "n", {"a": 1}))
            if second is True:
                assert 1 == receiver.wait_for(1)[0].sequence
            return first.startswith("raises"), second

    assert (False, True) == in_time(lambda: observed(ApMon))
    assert (True, "hangs") == observed(Ancestor)


def test_02_a_port_that_is_none_is_refused_at_once() -> None:
    """With a word about it; the ancestor took it, raised at the first send and hung at the second."""

    def observed(make: Make) -> list[object]:
        try:
            with make(("127.0.0.1:70000",)) as apmon:
                return [answer_to(lambda: apmon.sendParameters("c", "n", {"a": 1})) for _ in range(2)]
        except ValueError as error:
            return [str(error)]

    assert ["the port is not a number from 1 to 65535"] == in_time(lambda: observed(ApMon))
    assert ["raises OverflowError", "hangs"] == observed(Ancestor)


def test_02_after_the_end_calls_are_answered() -> None:
    """With False, and free may be called again; the ancestor raised and hung."""

    def observed(make: Make) -> list[object]:
        apmon = make(("127.0.0.1:9",))
        apmon.free()
        answers = [answer_to(lambda: apmon.sendParameters("c", "n", {"a": 1})) for _ in range(2)]
        return [*answers, answer_to(apmon.free)]

    assert [False, False, None] == in_time(lambda: observed(ApMon))
    assert ["raises TypeError", "hangs", None] == observed(Ancestor)


def test_03_an_unknown_job_is_no_trouble() -> None:
    """Its removal is answered, and nothing hangs later; nor is a process watched that there is not."""

    def observed(make: Make) -> list[object]:
        with Receiver() as receiver, make((receiver.destination().name,)) as apmon:
            unknown = answer_to(lambda: apmon.removeJobToMonitor(12345))
            watched = answer_to(lambda: apmon.addJobToMonitor(2**22 + 1, "", "c", "n"))
            return [unknown, watched, answer_to(lambda: apmon.sendBgMonitoring(mustSend=True))]

    assert [False, False, True] == in_time(lambda: observed(ApMon))
    assert ["raises KeyError", True, "hangs"] == observed(Ancestor)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 5_000_000_000, 2**53])
def test_04_a_counter_beyond_32_bits_arrives_as_it_is(number: int) -> None:
    """The ancestor's left a name and a type behind, which the receiver read as a false value and a false time."""

    def observed(make: Make) -> tuple[dict[str, float | str], int | None] | None:
        pairs = [("before", 1), ("number", number), ("after", 2)]
        (stored,) = stored_of(make, lambda apmon: apmon.sendTimedParameters("c", "n", 1_200_000_000, pairs))
        return stored

    assert ({"before": 1.0, "number": float(number), "after": 2.0}, 1_200_000_000) == observed(ApMon)
    assert ({"before": 1.0, "number": 5.0}, int.from_bytes(b"afte")) == observed(Ancestor)


@pytest.mark.parametrize("number", [2**31, 2**31 - 1, -(2**31), -(2**31) - 1, 5_000_000_000, 2**53, 2**60])
def test_04_numbers_that_are_sent_short_where_they_fit_arrive_as_they_are_too(number: int) -> None:
    """The option that sends as the ancestor did sends what does not fit as a float."""
    with Receiver() as receiver:
        with Sender([receiver.destination()], short_integers=True) as sender:
            sender.send("c", "n", [("before", 1), ("number", number), ("after", 2)], 1_200_000_000)
            receiver.wait_for(1)
        (stored,) = receiver.stored()

    assert (("before", 1.0), ("number", float(number)), ("after", 2.0)) == stored.values
    assert 1_200_000_000 == stored.time


def test_05_numbers_of_all_kinds_are_sent() -> None:
    """True is 1; NumPy's are numbers; text is text. The ancestor left out all but what it knew by its exact type."""
    given = {"b": True, "n": np.int32(7), "big": 2**70, "u": "naïve", "f": 1.5}

    def observed(make: Make) -> dict[str, float | str]:
        (stored,) = stored_of(make, lambda apmon: apmon.sendParameters("c", "n", given))
        assert stored
        return stored[0]

    assert {"b": 1.0, "n": 7.0, "big": 2.0**70, "u": "naïve", "f": 1.5} == observed(ApMon)
    assert {"f": 1.5} == observed(Ancestor)


@pytest.mark.parametrize("nothing", [{}, [], {"a": None}, None, 5, "text", {"a": [1]}])
def test_06_nothing_makes_no_datagram(nothing: object) -> None:
    """And the call says so; the ancestor sent one without parameters."""

    def observed(make: Make) -> tuple[object, int]:
        answers: list[object] = []
        stored = stored_of(make, lambda apmon: answers.append(apmon.sendParameters("c", "n", nothing)))
        return answers[0], len(stored)

    assert (False, 0) == observed(ApMon)
    assert (True, 1) == observed(Ancestor)


def test_07_large_messages_are_split() -> None:
    """At 1440 bytes, or the size that is set, and nothing is lost; the ancestor's was of 28 056 bytes."""
    pairs = [(f"param_{number:05}", float(number)) for number in range(1000)]

    def observed(make: Make, message_bytes: int | None = None) -> tuple[int, int]:
        with Receiver() as receiver, make((receiver.destination().name,)) as apmon:
            apmon.setMaxMsgRate(100)
            if message_bytes and isinstance(apmon, ApMon):
                apmon.setMaxMsgSize(message_bytes)
            apmon.sendParameters("c", "n", pairs)
            wait_until(lambda: 1000 == sum(len(stored.values) for stored in receiver.stored()))
        return max(map(len, receiver.payloads)), len(receiver.payloads)

    largest, datagrams = observed(ApMon)
    assert (largest <= 1440, datagrams > 19) == (True, True)
    largest, datagrams = observed(ApMon, 8192)
    assert (largest <= 8192, datagrams) == (True, 4)
    largest, datagrams = observed(Ancestor)
    assert (largest > 28_000, datagrams) == (True, 1)


def test_08_no_log_has_a_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """At no level, whatever is wrong, though the file asks for DEBUG; the ancestor said it in five kinds of lines."""
    conf = tmp_path / "apmon.conf"

    def observed(make: Make, level: str) -> list[str]:
        with Receiver() as receiver, caplog.at_level(logging.DEBUG):
            good = f"{receiver.destination().name} s3cr3t\n"
            conf.write_text(f"xApMon_loglevel = {level}\n{good}{good}h:x s3cr3t\n")
            with make(str(conf)) as apmon:
                apmon.sendParameters("c", "n", {"a": 1, "bad": None})
                apmon.sendBgMonitoring(mustSend=True)
                said = repr(apmon) + (repr(apmon.getConfig()) + repr(apmon.health()) if make is not Ancestor else "")
        logging.getLogger("bwexporter.apmon").setLevel(logging.NOTSET)
        lines = [*capsys.readouterr().out.splitlines(), *caplog.messages, said]
        assert len(lines) > 1
        return [line.split(" ")[0] for line in lines if "s3cr3t" in line]

    def ours(source: str) -> ApMon:
        return ApMon(source, lenient=True)

    assert [] == observed(ours, "INFO") == observed(ours, "DEBUG")
    caplog.clear()
    assert ["ApMon[INFO]:", "ApMon[INFO]:", "ApMon[WARNING]:"] == observed(Ancestor, "INFO")
    assert {"ApMon[DEBUG]:", "ApMon[NOTICE]:", "ApMon[INFO]:", "ApMon[WARNING]:"} == set(observed(Ancestor, "DEBUG"))


def test_09_beyond_the_rate_nobody_sleeps_and_nothing_is_sent() -> None:
    """The rate is kept from the start: not 1801 at once and then a second's sleep, again and again, under a lock."""

    def of_ours(receiver: Receiver) -> tuple[int, float]:
        clock = Clock()
        with Sender([receiver.destination()], rate=100, clock=clock) as sender:
            return sum(sender.send("c", "n", {"a": 1}).sent for _ in range(2500)), clock.now - 1000.0

    def of_the_ancestor(receiver: Receiver) -> tuple[int, float]:
        clock = Clock()
        with Ancestor((receiver.destination().name,), wall=clock, sleep=clock.sleep) as ancestor:
            for _ in range(2500):
                ancestor.sendParameters("c", "n", {"a": 1})
            return 2500, clock.now - 1000.0

    with Receiver() as receiver:
        assert (100, 0.0) == of_ours(receiver)
        receiver.wait_for(100)
    with Receiver() as receiver:
        sent, slept = of_the_ancestor(receiver)
        receiver.wait_for(sent)
        assert 7 <= slept <= 9  # after 1801, and about every 87 from there


def test_10_numbers_have_neither_gap_nor_repeat_between_threads() -> None:
    """Of a program and of background monitoring, with an interpreter that switches as often as it can."""
    few = {"sys_processes": False, "sys_net_sockets": False, "sys_net_tcp_details": False, "general_info": False}

    def observed(make: Make) -> tuple[bool, bool]:
        with Receiver() as receiver, make({receiver.destination().name: few}) as apmon:
            apmon.setMaxMsgRate(100_000)
            ended, rounds = threading.Event(), Counter[str]()

            def in_the_background() -> None:
                while not ended.is_set():
                    apmon.sendBgMonitoring(mustSend=True)
                    rounds["here"] += 1

            thread = threading.Thread(target=in_the_background)
            interval = sys.getswitchinterval()
            sys.setswitchinterval(1e-6)
            try:
                thread.start()
                while rounds["there"] < 1000 or rounds["here"] < ROUNDS:
                    apmon.sendParameters("c", "n", {"a": 1})
                    rounds["there"] += 1
                ended.set()
                thread.join()
            finally:
                sys.setswitchinterval(interval)
            apmon.sendParameters(MARK, "n", {"a": 1})
            wait_until(lambda: any(MARK.encode() in payload for payload in receiver.payloads))
            numbers = [wire.decode(payload).sequence for payload in receiver.payloads]
            both = {wire.decode(payload).cluster for payload in receiver.payloads}
            assert {"c", "ApMon_SysMon", MARK} == both
        return len(numbers) == len(set(numbers)), list(range(1, len(numbers) + 1)) == numbers

    assert (True, True) == observed(ApMon)
    assert (False, False) == observed(lambda given: Ancestor(given, between=lambda: time.sleep(1e-4)))


def test_10_numbers_have_neither_gap_nor_repeat_between_four_threads() -> None:
    """Of one sender."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Receiver() as receiver, Sender([receiver.destination()], rate=100_000) as sender:
            threads = [
                threading.Thread(target=lambda: [sender.send("c", "n", {"a": 1}) for _ in range(500)]) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            numbers = [datagram.sequence for datagram in receiver.wait_for(sender.health()[0].sent)]
    finally:
        sys.setswitchinterval(interval)

    assert list(range(1, 2001)) == numbers


def test_11_each_destination_and_each_process_has_its_own_id() -> None:
    """Receivers tell senders apart by it; the ancestor's was one, and a child went on with its numbers."""

    def observed(make: Make) -> tuple[int, list[int]]:
        with Receiver() as one, Receiver() as two, make((one.destination().name, two.destination().name)) as apmon:
            apmon.sendParameters("c", "n", {"a": 1})
            child = os.fork()
            if child == 0:
                apmon.sendParameters("c", "n", {"a": 2})
                os._exit(0)
            os.waitpid(child, 0)
            datagrams = [*one.wait_for(2), *two.wait_for(2)]
            return len({datagram.instance_id for datagram in datagrams}), [one.sequence for one in datagrams]

    assert (4, [1, 1, 1, 1]) == observed(ApMon)
    assert (1, [1, 2, 1, 2]) == observed(Ancestor)


def test_12_a_thread_that_named_a_cluster_and_a_node_goes_on_with_them() -> None:
    """Whatever other threads name; in the ancestor the last names were everybody's."""

    def observed(make: Make) -> list[tuple[str, str]]:
        with Receiver() as receiver, make((receiver.destination().name,)) as apmon:
            first, second = threading.Event(), threading.Event()

            def other() -> None:
                first.wait()
                apmon.sendParameters("theirs", "their node", {"a": 1})
                second.set()

            thread = threading.Thread(target=other)
            thread.start()
            apmon.sendParameters("mine", "my node", {"a": 1})
            first.set()
            second.wait()
            apmon.sendParams({"a": 2})
            thread.join()
            return [(one.cluster, one.node) for one in receiver.wait_for(3)]

    mine, theirs = ("mine", "my node"), ("theirs", "their node")
    assert [mine, theirs, mine] == observed(ApMon)
    assert [mine, theirs, theirs] == observed(Ancestor)


def test_12_a_thread_that_has_named_none_goes_on_with_the_last_ones() -> None:
    """As programs that name them once at their start rely on."""
    with Receiver() as receiver, ApMon((receiver.destination().name,)) as apmon:
        apmon.sendParameters("named", "at the start", {"a": 1})
        thread = threading.Thread(target=lambda: apmon.sendParams({"a": 2}))
        thread.start()
        thread.join()

        assert {("named", "at the start")} == {(one.cluster, one.node) for one in receiver.wait_for(2)}


def test_13_sources_are_read_again_at_their_interval_and_at_most_every_30_s(tmp_path: Path) -> None:
    """The larger of the two, not the smaller."""
    conf = tmp_path / "apmon.conf"

    def of_ours() -> float:
        sources = Sources([str(conf)], Clock())
        sources.read()
        return sources.seconds_until_due()

    def of_the_ancestor() -> float:
        with Ancestor(str(conf)) as ancestor:
            return ancestor.seconds_until_reload()

    found = []
    for written in (1, 600, 3600):
        conf.write_text(f"127.0.0.1:9\nxApMon_recheck_interval = {written}\n")
        found.append((of_ours(), of_the_ancestor()))
    assert [(30, 1), (600, 30), (3600, 30)] == found


def test_14_options_are_typed(tmp_path: Path) -> None:
    """`0` is off; `abc` for a number is an error that names file and line, and no exception out of the constructor."""
    conf = tmp_path / "apmon.conf"

    def clusters(make: Make, flag: str) -> set[str]:
        with Receiver() as receiver:
            conf.write_text(f"{receiver.destination().name}\nxApMon_sys_monitoring = {flag}\n{GENERAL_OFF}")
            with make(str(conf)) as apmon:
                apmon.sendBgMonitoring(mustSend=True)
                apmon.sendParameters(MARK, "n", {"a": 1})
                wait_until(lambda: any(MARK.encode() in payload for payload in receiver.payloads))
            return {datagram.cluster for datagram in receiver.wait_for(1)} - {MARK}

    def constructed(make: Make) -> object:
        conf.write_text("127.0.0.1:9\nxApMon_sys_interval = abc\n")
        return answer_to(lambda: make(str(conf)).initializedOK())

    assert [set(), set(), {"ApMon_SysMon"}] == [clusters(ApMon, flag) for flag in ("0", "OFF", "ON")]
    assert [{"ApMon_SysMon"}] * 3 == [clusters(Ancestor, flag) for flag in ("0", "OFF", "ON")]
    assert (False, "raises ValueError") == (constructed(ApMon), constructed(Ancestor))
    sources = Sources([str(conf)], Clock())
    sources.read()
    assert "apmon.conf:2: sys_interval: sys_interval is" in sources.troubles[0]


GENERAL_OFF = "xApMon_general_info = off\n"


def cut_in_the_password(request: BaseHTTPRequestHandler) -> None:
    """Answer in two segments, of which the first ends within a password; the second comes when the first was read."""
    request.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 19\r\n\r\n127.0.0.1:9 s3")
    request.wfile.flush()
    wait_until(lambda: not unread_bytes(request.client_address[1]))
    request.wfile.write(b"cr3t\n")


def unread_bytes(port: int) -> int:
    """Return what is on its way between a TCP port of loopback and its peer, or waits there for its reader."""
    place = f"0100007F:{port:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    queues = [queue for _, local, remote, _, queue, *_ in lines if place in {local, remote}]
    return sum(int(length, 16) for queue in queues for length in queue.split(":"))


def in_one_piece(text: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer in one segment, which the ancestor can read."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + text.encode())

    return answer


def for_its_own_host_alone(request: BaseHTTPRequestHandler) -> None:
    """Answer who says for which host he asks, as a server of many does."""
    if not request.headers.get("Host", "").startswith("127.0.0.1"):
        request.send_error(400)
        return
    text_answer("127.0.0.1:9 s3cr3t\n")(request)


def passwords_of(apmon: Either) -> list[str]:
    """Return the passwords that it would send."""
    if isinstance(apmon, Ancestor):
        return [password for _, _, password in apmon.options]
    return [one.password for one in apmon.getConfig().destinations]


def test_15_a_url_is_read_whole() -> None:
    """Of any length, in any pieces, from any server; the ancestor read none on 64 bits, else what came first."""
    long = text_answer(f"# {'x' * 20_000}\n127.0.0.1:9 s3cr3t\n")

    def observed(make: Make) -> list[list[str]]:
        found = []
        for answer in (long, cut_in_the_password, for_its_own_host_alone):
            with serving(answer) as url, make(f"{url}/apmon.conf") as apmon:
                found.append(passwords_of(apmon))
        return found

    assert [["s3cr3t"], ["s3cr3t"], ["s3cr3t"]] == observed(lambda url: ApMon(url, allow_http=True))
    assert [[], [], []] == observed(Ancestor)
    assert [[], ["s3"], []] == observed(lambda url: Ancestor(url, time_layout="ll"))


def test_15_no_connection_is_left_to_the_garbage_collector() -> None:
    """The client ends what it has opened; the ancestor did so only where nothing was read."""

    def observed(make: Make) -> int:
        gc.collect()
        with warnings.catch_warnings(record=True) as seen, serving(in_one_piece("127.0.0.1:9 s3cr3t\n")) as url:
            warnings.simplefilter("always", ResourceWarning)
            for _ in range(3):
                with make(f"{url}/apmon.conf") as apmon:
                    assert ["s3cr3t"] == passwords_of(apmon)
            gc.collect()
        left = [one.source for one in seen if isinstance(one.source, socket.socket)]
        return sum(one.type is socket.SOCK_STREAM for one in left)

    assert 0 == observed(lambda url: ApMon(url, allow_http=True))
    assert 3 == observed(lambda url: Ancestor(url, time_layout="ll"))


def test_16_destinations_are_replaced_not_added() -> None:
    """Whatever form they are given in."""

    def observed(make: Make) -> list[list[str]]:
        with make(("127.0.0.1:9",)) as apmon:
            apmon.setDestinations({"127.0.0.1:10": {"sys_monitoring": False}})
            from_a_dictionary = places_of(apmon)
            apmon.setDestinations(("127.0.0.1:11",))
            return [from_a_dictionary, places_of(apmon)]

    assert [["127.0.0.1:10"], ["127.0.0.1:11"]] == observed(ApMon)
    assert [["127.0.0.1:9", "127.0.0.1:10"], ["127.0.0.1:9", "127.0.0.1:10", "127.0.0.1:11"]] == observed(Ancestor)


def test_16_sources_that_were_replaced_are_not_read_again(tmp_path: Path) -> None:
    """The ancestor's reloader went on with the old ones, and brought them back."""
    conf = tmp_path / "apmon.conf"
    conf.write_text("127.0.0.1:9\n")

    def observed(make: Make) -> list[str]:
        with make(str(conf)) as apmon:
            apmon.setDestinations(("127.0.0.1:10",))
            read_again(apmon)
            return places_of(apmon)

    assert ["127.0.0.1:10"] == observed(ApMon)
    assert ["127.0.0.1:9"] == observed(Ancestor)


def test_16_sources_that_come_later_are_read_again(tmp_path: Path) -> None:
    """Where there were none before; the ancestor's reloader began with the object or never."""
    conf = tmp_path / "apmon.conf"

    def observed(make: Make) -> list[str]:
        conf.write_text("127.0.0.1:10\n")
        with make(("127.0.0.1:9",)) as apmon:
            apmon.setDestinations(str(conf))
            conf.write_text("127.0.0.1:11\n")
            read_again(apmon)
            return places_of(apmon)

    assert ["127.0.0.1:11"] == observed(ApMon)
    assert ["127.0.0.1:10"] == observed(Ancestor)


def test_16_nobody_sends_to_half_of_the_new_destinations() -> None:
    """The old ones are in use until the new ones are known, all of them; the ancestor changed those in use."""

    def observed(make: Make) -> list[list[str]]:
        seen: list[list[str]] = []
        with make(("127.0.0.1:9",)) as apmon:

            class Given(tuple[str, ...]):
                __slots__ = ()

                def __iter__(self) -> Iterator[str]:
                    for one in super().__iter__():
                        yield one
                        seen.append(places_of(apmon))

            apmon.setDestinations(Given(("127.0.0.1:10", "127.0.0.1:11")))
            return [*seen, places_of(apmon)]

    old, half, both = (["127.0.0.1:9"], ["127.0.0.1:9", "127.0.0.1:10"], ["127.0.0.1:10", "127.0.0.1:11"])
    assert [old, old, both] == observed(ApMon)
    assert [half, [*old, *both], [*old, *both]] == observed(Ancestor)


def test_16_a_reading_under_way_does_not_bring_the_old_destinations_back() -> None:
    """Whoever sets new ones while a slow source is read has the last word; the reloader of the ancestor had it."""

    def observed(make: Make) -> list[str]:
        asked, answers = threading.Semaphore(0), threading.Semaphore(1)
        ports = iter(range(9, 20))

        def slowly(request: BaseHTTPRequestHandler) -> None:
            asked.release()
            answers.acquire()
            in_one_piece(f"127.0.0.1:{next(ports)}\n")(request)

        with serving(slowly) as url, make(f"{url}/apmon.conf") as apmon:
            assert asked.acquire(timeout=PATIENCE_SECONDS)
            reloader = threading.Thread(target=lambda: read_again(apmon))
            reloader.start()
            assert asked.acquire(timeout=PATIENCE_SECONDS)
            apmon.setDestinations(("127.0.0.1:30",))
            answers.release()
            reloader.join()
            return places_of(apmon)

    assert ["127.0.0.1:30"] == observed(lambda url: ApMon(url, allow_http=True))
    assert ["127.0.0.1:10"] == observed(lambda url: Ancestor(url, time_layout="ll"))


def test_17_options_and_earlier_readings_go_with_their_destination(tmp_path: Path) -> None:
    """A line that is gone has its default again; what a removed destination was told is forgotten."""
    conf = tmp_path / "apmon.conf"

    def observed(make: Make) -> tuple[int, int]:
        conf.write_text("127.0.0.1:9\n127.0.0.1:10\nxApMon_sys_interval = 30\n")
        with make(str(conf)) as apmon:
            apmon.sendBgMonitoring(mustSend=True)
            conf.write_text("127.0.0.1:9\n")
            read_again(apmon)
            apmon.sendBgMonitoring(mustSend=True)
            if isinstance(apmon, Ancestor):
                (options,) = apmon.options.values()
                return options.get("sys_interval", 120), len(apmon.previous)
            (one,) = apmon.getConfig().destinations
            return one.options.sys_interval, len(apmon._monitor._told)

    assert (120, 1) == observed(ApMon)
    assert (30, 2) == observed(Ancestor)


def test_18_a_name_that_has_no_address_yet_is_kept_and_asked_for_again() -> None:
    """And IPv6 is an address; the ancestor asked once, and knew IPv4 alone."""

    def arrives(send: Callable[[], object], names: NameService, receiver: Receiver, seconds: float) -> bool:
        send()
        names.known["later"] = [(socket.AF_INET, ("127.0.0.1", receiver.port))]
        until = time.monotonic() + seconds
        while not receiver.payloads and time.monotonic() < until:
            send()
            time.sleep(0.02)
        return bool(receiver.payloads)

    names = NameService()
    with Receiver() as receiver, Sender([Destination("later", 8884)], resolve=names, rate=100_000) as sender:
        assert arrives(lambda: sender.send("c", "n", {"a": 1}), names, receiver, PATIENCE_SECONDS)
    names = NameService()
    with Receiver() as receiver, Ancestor(("later:8884",), resolve=names) as ancestor:
        assert not arrives(lambda: ancestor.sendParameters("c", "n", {"a": 1}), names, receiver, 0.2)
        assert 1 == names.asked  # and it never asks again

    def six(make: Make) -> bool:
        with Receiver(family=socket.AF_INET6) as receiver, make((receiver.destination().name,)) as apmon:
            return apmon.sendParameters("c", "n", {"a": 1}) and bool(receiver.wait_for(1))

    assert (True, False) == (six(ApMon), six(Ancestor))


def test_19_a_stepped_clock_stops_nothing() -> None:
    """Intervals are monotonic: where the wall clock is set back the host is told again in time."""
    with Receiver() as of_ours, Receiver() as of_old:
        code = (
            "import time\n"
            "from bwexporter.apmon import ApMon\n"
            "from tests.ancestor_apmon import Ancestor\n"
            "options = {'sys_interval': 1, 'general_info': False, 'maxMsgSize': 8192}\n"
            f"both = [ApMon({{'{of_ours.destination().name}': options}}),\n"
            f"  Ancestor({{'{of_old.destination().name}': options}})]\n"
            "for one in both: one.sendBgMonitoring()\n"
            "time.time = lambda: 1.0\n"
            "time.sleep(1.1)\n"
            "for one in both: one.sendBgMonitoring()\n"
            f"for one in both: one.sendParameters({MARK!r}, 'n', {{'a': 1}})\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parent.parent)
        for receiver in (of_ours, of_old):
            wait_until(lambda: any(MARK.encode() in payload for payload in receiver.payloads))  # noqa: B023

        assert ["ApMon_SysMon", "ApMon_SysMon", MARK] == [one.cluster for one in of_ours.wait_for(3)]
        assert ["ApMon_SysMon", MARK] == [one.cluster for one in of_old.wait_for(2)]


def test_19_a_step_back_of_the_clock_lifts_no_limit() -> None:
    """Of what one second may not hold some is held back, also where the clock then stands a second earlier."""
    with Receiver() as of_ours, Receiver() as of_old:
        code = (
            "import time\n"
            "from bwexporter.apmon import ApMon\n"
            "from tests.ancestor_apmon import Ancestor\n"
            "now = [1_700_000_000.5]\n"
            "time.time = lambda: now[0]\n"
            "def ours():\n"
            f"  apmon = ApMon(('{of_ours.destination().name}',))\n"
            "  apmon.setMaxMsgRate(100)\n"
            "  return lambda: not apmon.sendParameters('c', 'n', {'a': 1})\n"
            "def of_old():\n"
            f"  apmon = Ancestor(('{of_old.destination().name}',), sleep=lambda _: None)\n"
            "  return lambda: apmon.sendParameters('c', 'n', {'a': 1}) and apmon.limiter.slept > 0\n"
            "def some_held_back(held_back, step_seconds):\n"
            "  first = any([held_back() for _ in range(1700)])\n"
            "  now[0] -= step_seconds\n"
            "  return any([held_back() for _ in range(1700)])\n"
            "print(*[some_held_back(make(), step) for make in (ours, of_old) for step in (0, 1)])\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", code],
            check=True, timeout=60, cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        ).stdout  # fmt: skip

    assert ["True", "True", "True", "False"] == said.splitlines()[-1].split()


def test_20_an_empty_name_is_skipped_however_it_came_about() -> None:
    """By value, not by identity, and names of any script are fine; behind the ancestor's all was lost or misread."""

    def observed(make: Make) -> list[tuple[dict[str, float | str], int | None] | None]:
        return stored_of(
            make,
            lambda apmon: [
                apmon.sendParameters("c", "n", [("before", 1), (np.str_(""), 2), ("after", 3)]),
                apmon.sendParameters("c", "n", [("naïve ☃", 4), ("after", 5)]),
            ],
        )

    assert [({"before": 1.0, "after": 3.0}, None), ({"naïve ☃": 4.0, "after": 5.0}, None)] == observed(ApMon)
    assert [({"before": 1.0}, 2), None] == observed(Ancestor)


def test_21_what_is_no_number_is_skipped() -> None:
    """NaN and infinities would be stored as such."""

    def observed(make: Make) -> list[str]:
        ((values, _),) = filter(
            None,
            stored_of(make, lambda apmon: apmon.sendParameters("c", "n", {"nan": math.nan, "inf": -math.inf, "a": 1})),
        )
        return sorted(values)

    assert ["a"] == observed(ApMon)
    assert ["a", "inf", "nan"] == observed(Ancestor)


def test_22_errors_of_the_socket_are_counted_and_raise_nothing() -> None:
    """What is forbidden is answered, and the next call too; and the socket does not block."""

    def observed(make: Make) -> list[object]:
        with make(("255.255.255.255:9",)) as apmon:
            answers = [answer_to(lambda: apmon.sendParameters("c", "n", {"a": 1})) for _ in range(2)]
        with make((f"127.0.0.1:{free_port()}",)) as apmon:
            apmon.sendParameters("c", "n", {"a": 1})
            if isinstance(apmon, Ancestor):
                return [*answers, apmon.socket.getblocking()]
            (channel,) = apmon._sender._channels.values()
            assert channel._socket
            return [*answers, channel._socket.getblocking()]

    assert [False, False, False] == in_time(lambda: observed(ApMon))
    assert ["raises TypeError", "hangs", True] == observed(Ancestor)
    with Sender([Destination("127.0.0.1", free_port()), Destination("255.255.255.255")]) as sender:
        for _ in range(3):
            sender.send("c", "n", {"a": 1})
        refused, forbidden = sender.health()
    assert (3, 3) == (refused.dropped[Drop.REFUSED], sum(forbidden.dropped.values()))


def test_23_a_forgotten_object_ends_and_free_does_not_hang(tmp_path: Path) -> None:
    """Its thread does not hold it, and nobody waits for a thread that is gone."""
    conf = tmp_path / "apmon.conf"
    conf.write_text("127.0.0.1:9\n")

    def thread_of(apmon: Either) -> tuple[threading.Thread, threading.Event]:
        thread, ends = (
            (apmon.thread, apmon.thread and apmon.thread.leaves)
            if isinstance(apmon, Ancestor)
            else (apmon._ticks._thread, apmon._ticks._ended)
        )
        assert thread
        assert ends
        return thread, ends

    def outlives(make: Make) -> bool:
        apmon = make(str(conf))
        apmon.enableBgMonitoring(onOff=True)
        thread, ends = thread_of(apmon)
        del apmon
        gc.collect()
        thread.join(timeout=PATIENCE_SECONDS if make is ApMon else 0.2)
        outlived = thread.is_alive()
        ends.set()
        thread.join()
        return outlived

    def freed(make: Make) -> object:
        apmon = make(str(conf))
        apmon.enableBgMonitoring(onOff=True)
        thread, ends = thread_of(apmon)
        ends.set()
        thread.join()
        return answer_to(apmon.free)

    assert (False, True) == (outlives(ApMon), outlives(Ancestor))
    assert (None, "hangs") == (in_time(lambda: [freed(ApMon)])[0], freed(Ancestor))


def test_24_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """The log is `logging`'s."""

    def observed(make: Make) -> bool:
        stored_of(make, lambda apmon: apmon.sendParameters("c", "n", {"a": 1, "bad": None}))
        return "" != capfd.readouterr().out

    assert (False, True) == (observed(ApMon), observed(Ancestor))


def test_25_a_send_that_failed_uses_no_number() -> None:
    """Numbers count what was handed to the network; in the ancestor a receiver saw a gap."""

    def bad(apmon: Either) -> None:
        answer_to(lambda: apmon.sendTimedParameters("c", "n", 2**31, {"a": 1}))
        if isinstance(apmon, Ancestor):
            apmon._config_lock.give_back()  # defect 2 is another one

    def observed(make: Make) -> list[int]:
        with Receiver() as receiver, make((receiver.destination().name,)) as apmon:
            apmon.sendParameters("c", "n", {"a": 1})
            bad(apmon)
            apmon.sendParameters("c", "n", {"a": 1})
            return [datagram.sequence for datagram in receiver.wait_for(2)]

    assert [1, 2] == observed(ApMon)
    assert [1, 3] == observed(Ancestor)


def test_25_what_is_dropped_uses_no_number() -> None:
    """For a name without an address, for a place where nothing may be sent to, beyond the rate."""
    clock, names = Clock(), NameService()
    with Receiver() as receiver, Sender([Destination("later")], rate=2, clock=clock, resolve=names) as sender:
        sender.send("c", "n", {"a": 1})
        (channel,) = sender._channels.values()
        for place in (("255.255.255.255", 9), ("127.0.0.1", receiver.port)):
            names.known["later"] = [(socket.AF_INET, place)]
            channel.found(names.known["later"])
            if place[1] == 9:
                assert 0 == sender.send("c", "n", {"a": 1}).sent
        for _ in range(5):
            sender.send("c", "n", {"a": 1})
        clock.now += 1
        sender.send("c", "n", {"a": 1})

        assert [1, 2, 3] == [datagram.sequence for datagram in receiver.wait_for(3)]


def test_what_the_ancestor_sent_wrongly_is_never_sent() -> None:
    """The shapes of the DEFECT vectors: no parameters, a wrong count, a stray word, a wrong length, a cut time."""
    with Receiver() as receiver:
        with Sender([receiver.destination()], rate=1000) as sender:
            for parameters in (
                {}, {"utf8": "café"}, {"": 1, "b": 2}, {"x": "y" * 5000, "b": 1}, {"big": 2**31, "c": 1},
            ):  # fmt: skip
                sender.send("c", "n", parameters, 1_200_000_000)
            receiver.wait_for(4)

        for payload in receiver.payloads:
            datagram = wire.decode(payload)
            stored = monalisa.receive(payload)
            assert datagram.parameters
            assert 1_200_000_000 == stored.time
            assert len(datagram.parameters) == len(stored.values)


def test_every_defect_of_the_list_is_held_against_the_ancestor() -> None:
    """One test at least for each number of docs/apmon.md observes both."""
    docs = (Path(__file__).parent.parent / "docs" / "apmon.md").read_text()
    listed = re.findall(r"^(\d+)\. ", docs.partition("## From ApMon to here")[2], re.MULTILINE)
    held = {
        int(name[5:7])
        for name, test in globals().items()
        if re.match(r"test_\d\d_", name) and "Ancestor" in inspect.getsource(test)
    }

    assert list(range(1, 26)) == [int(number) for number in listed] == sorted(held)
