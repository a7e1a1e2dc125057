"""The control socket: who may speak, what is understood, and that nothing else does any harm."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bwexporter import control
from bwexporter.cli import commanding
from bwexporter.control import Control
from bwexporter.core.hand import Done
from bwexporter.core.lanes import Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.report import Event, EventKind
from bwexporter.errors import BwexporterError
from tests.waiting import PATIENCE_SECONDS, wait_until

CAP = {"token": "t1", "action": "cap", "slice": "ann", "rate_bytes_per_second": 5000, "seconds": 60, "reason": "why"}
TOLD = Event(1.0, EventKind.BY_HAND, "", None, {"action": "freeze", "outcome": "given", "who": "x", "reason": "y"})


@dataclass
class Wheel:
    """Who is asked for orders: writes each down, and answers as it is told to."""

    commands: list[Command] = field(default_factory=list)
    refusals: int = 0
    refuses: str = ""
    held: list[Future[Done]] = field(default_factory=list)
    holds: bool = False

    def obey(self, command: Command) -> Future[Done]:
        """Take an order."""
        self.commands.append(command)
        answer: Future[Done] = Future()
        if self.holds:
            self.held.append(answer)
        elif self.refuses:
            answer.set_exception(ValueError(self.refuses))
        else:
            again = command.token in {one.token for one in self.commands[:-1]}
            answer.set_result(Done((TOLD,), saved=True, again=again))
        return answer

    def let_go(self) -> None:
        """Answer whom it has kept waiting, and nobody waits from now on."""
        self.holds = False
        for answer in self.held:
            answer.set_result(Done((TOLD,), saved=True, again=False))

    def refused(self) -> None:
        """Count a refusal."""
        self.refusals += 1


@pytest.fixture
def wheel() -> Wheel:
    return Wheel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def listening(wheel: Wheel, path: Path) -> Iterator[Path]:
    """A control socket that answers."""
    server = Control(path, wheel.obey, wheel.refused)
    server.start()
    yield path
    server.close()


def said(path: Path, line: bytes) -> dict[str, Any]:
    """Send bytes as they are, and return the answer."""
    with socket.socket(socket.AF_UNIX) as connection, control.within_reach(path) as place:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(place)
        connection.sendall(line)
        with connection.makefile("rb") as answers:
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer


def told(path: Path, **given_: Any) -> dict[str, Any]:
    """Send a cap with other keys."""
    return said(path, json.dumps({**CAP, **given_}).encode() + b"\n")


def test_an_order_reaches_the_wheel_with_who_gave_it(listening: Path, wheel: Wheel) -> None:
    answer = told(listening, traffic="exempt", device="eth0")

    (command,) = wheel.commands
    assert (command.action, command.slice_name, command.traffic) == (Action.CAP, "ann", Traffic.EXEMPT)
    assert (command.rate_bytes_per_second, command.seconds, command.device) == (5000, 60.0, "eth0")
    assert command.who.endswith(f"(uid {os.geteuid()})")
    assert (answer["done"], answer["saved"], answer["again"]) == (True, True, False)
    assert "freeze" in answer["events"][0]["sentence"]
    assert wheel.refusals == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\n", "not a line of JSON"),
        (b"freeze\n", "not a line of JSON"),
        (b"[" * 4000 + b"\n", "not a line of JSON"),
        (b"\xff\xfe\n", "not a line of JSON"),
        (b"[]\n", "must be a mapping"),
        (b"{}\n", "action is missing"),
        (b"{" + b" " * 5000 + b"}\n", "longer than 4096 bytes"),
    ],
)
def test_malformed_lines_are_refused_counted_and_harmless(
    listening: Path, wheel: Wheel, line: bytes, words: str
) -> None:
    answer = said(listening, line)

    assert words in answer["refused"]
    assert not answer["done"]
    assert (wheel.commands, wheel.refusals) == ([], 1)
    assert told(listening)["done"]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"action": "explode"}, 'action is "explode" and must be'),
        ({"reason": ""}, "reason is empty"),
        ({"reason": "x" * 201}, "longer than 200 characters"),
        ({"reason": "a\nb"}, "control character"),
        ({"slice": None}, "slice"),
        ({"rate_bytes_per_second": 0}, "must be a whole number from 1"),
        ({"rate_bytes_per_second": 1e3}, "must be a whole number from 1"),
        ({"rate_bytes_per_second": 2**60}, "must be a whole number from 1"),
        ({"seconds": -1}, "must be a number of seconds"),
        ({"seconds": True}, "must be a number of seconds"),
        ({"seconds": float("inf")}, "must be a number of seconds"),
        ({"volume_bytes": 5}, "volume_bytes has no meaning for cap"),
        ({"who": "root"}, "is not a key here"),
        ({"action": "lend", "borrower": "bob", "rate_bytes_per_second": None}, "rate_bytes_per_second is nothing"),
        ({"traffic": "both"}, 'traffic is "both" and must be'),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_by_name(
    listening: Path, wheel: Wheel, given_: dict[str, Any], words: str
) -> None:
    answer = told(listening, **given_)

    assert words in answer["refused"]
    assert (wheel.commands, wheel.refusals) == ([], 1)


def test_an_order_without_its_end_or_its_amount_is_refused(listening: Path) -> None:
    for key in ("rate_bytes_per_second", "seconds", "token", "reason"):
        answer = said(listening, json.dumps({k: v for k, v in CAP.items() if k != key}).encode() + b"\n")

        assert f"{key} is missing" in answer["refused"]


def test_what_the_wheel_cannot_do_is_refused_with_its_words(listening: Path, wheel: Wheel) -> None:
    wheel.refuses = "there is no slice 'eve' here"

    assert told(listening)["refused"] == "there is no slice 'eve' here"
    assert wheel.refusals == 1


@given(st.binary(max_size=300))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
def test_no_line_of_bytes_is_a_command_by_chance_or_breaks_anything(listening: Path, wheel: Wheel, line: bytes) -> None:
    assert not said(listening, line.replace(b"\n", b"") + b"\n")["done"]
    assert wheel.commands == []


def test_the_file_is_its_owners_alone_from_its_first_moment(listening: Path) -> None:
    mode = listening.stat().st_mode

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def asked_as(path: Path, user: int, first_group: int, *further: int) -> str:
    """Send the cap as another user, from a process of its own; return the answer, or the error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no other program: the interpreter may lie where only root may read
        os.setgroups(further)
        os.setresgid(first_group, first_group, first_group)
        os.setresuid(user, user, user)
        try:
            answer = json.dumps(told(path))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answers:  # noqa: PTH123 - a descriptor
        read = answers.read().decode()
    os.waitpid(child, 0)
    return read


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.fixture
def public() -> Iterator[Path]:
    """A place that every user reaches."""
    folder = Path("/tmp") / f"bwexporter-control-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder / "control"
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@needs_root
def test_an_unprivileged_user_does_not_reach_the_socket(wheel: Wheel, public: Path) -> None:
    server = Control(public, wheel.obey, wheel.refused)
    server.start()

    asked = asked_as(public, 65534, 65534)

    server.close()
    assert "PermissionError" in asked
    assert wheel.commands == []


@needs_root
def test_one_who_reaches_it_and_may_not_speak_is_refused_and_counted(wheel: Wheel, public: Path) -> None:
    """Also where the file's mode was opened by mistake: the kernel says who the peer is."""
    server = Control(public, wheel.obey, wheel.refused)
    public.chmod(0o666)
    server.start()

    asked = asked_as(public, 65534, 65534)

    server.close()
    assert "the user with id 65534 may give no orders here" in asked
    assert (wheel.commands, wheel.refusals) == ([], 1)


@needs_root
@pytest.mark.parametrize("groups", [(65534, 12), (12,)], ids=["further", "first"])
def test_members_of_the_group_may_speak(wheel: Wheel, public: Path, groups: tuple[int, ...]) -> None:
    """Debian's man group, which nobody is in."""
    server = Control(public, wheel.obey, wheel.refused, group_id=12)
    server.start()
    mode = stat.S_IMODE(public.stat().st_mode)

    asked = asked_as(public, 65534, *groups)

    server.close()
    assert mode == 0o660
    assert json.loads(asked)["done"], asked
    assert wheel.commands[0].who.endswith("(uid 65534)")


def test_a_silent_peer_is_sent_away_and_holds_up_nobody(listening: Path, wheel: Wheel) -> None:
    with socket.socket(socket.AF_UNIX) as idle, control.within_reach(listening) as place:
        idle.settimeout(PATIENCE_SECONDS)
        idle.connect(place)
        assert told(listening)["done"]
        answer = json.loads(idle.makefile().readline())

    assert "no whole line came within" in answer["refused"]
    assert wheel.refusals == 1


def is_served(listening: Path) -> bool:
    """Say whether an order is done; until the last of a crowd has gone it is closed without an answer."""
    try:
        return "done" in told(listening)
    except (json.JSONDecodeError, OSError):
        return False


def test_a_crowd_is_bounded_and_afterwards_everybody_is_served(listening: Path, wheel: Wheel) -> None:
    """Connections beyond those that are served at a time are closed, and counted."""
    wheel.holds = True
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(3 * control.MOST_CONNECTIONS)]
    for one in crowd:
        with control.within_reach(listening) as place, suppress(BrokenPipeError):
            one.settimeout(PATIENCE_SECONDS)
            one.connect(place)
            one.sendall(json.dumps(CAP).encode() + b"\n")
    closed = [ended(one) for one in crowd[control.MOST_CONNECTIONS :]]
    wait_until(lambda: len(wheel.held) == control.MOST_CONNECTIONS)
    wheel.let_go()
    answers = [json.loads(one.makefile("rb").readline())["done"] for one in crowd[: control.MOST_CONNECTIONS]]
    for one in crowd:
        one.close()

    assert closed == [True] * 2 * control.MOST_CONNECTIONS
    assert answers == [True] * control.MOST_CONNECTIONS
    assert wheel.refusals == len(closed)
    wait_until(lambda: is_served(listening))


def ended(connection: socket.socket) -> bool:
    """Say whether the other side has closed without a word, having waited for what it does."""
    try:
        return not connection.recv(1)
    except ConnectionResetError:
        return True


def test_the_socket_of_a_dead_program_is_replaced_and_another_file_is_left_alone(wheel: Wheel, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, control.within_reach(path) as place:
        dead.bind(place)
    Control(path, wheel.obey, wheel.refused).close()
    assert not path.exists()
    path.write_text("mine")

    with pytest.raises(BwexporterError, match="is no socket: move it"):
        Control(path, wheel.obey, wheel.refused)

    assert path.read_text() == "mine"


def test_a_path_longer_than_an_address_is_used_all_the_same(wheel: Wheel, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    server = Control(folder / "control", wheel.obey, wheel.refused)
    server.start()

    answer = commanding.obeyed(folder / "control", {name: value for name, value in CAP.items() if name != "token"})

    server.close()
    assert answer["done"]


def test_a_lost_answer_is_asked_for_again_under_the_same_token(wheel: Wheel, path: Path) -> None:
    """The program ends after it was told, and comes back."""
    with socket.socket(socket.AF_UNIX) as dying, control.within_reach(path) as place:
        dying.bind(place)
        dying.listen()
        given_ = {name: value for name, value in CAP.items() if name != "token"}
        answers: list[dict[str, Any]] = []
        client = threading.Thread(target=lambda: answers.append(commanding.obeyed(path, given_)))
        client.start()
        connection, _ = dying.accept()
        token = json.loads(connection.makefile().readline())["token"]
        connection.close()
    server = Control(path, wheel.obey, wheel.refused)
    server.start()
    client.join(PATIENCE_SECONDS)

    server.close()
    assert [True] == [answer["done"] for answer in answers]
    assert [token] == [command.token for command in wheel.commands]


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(BwexporterError, match=r"no bwexporter listens at .*; is it running"):
        commanding.obeyed(tmp_path / "control", {"action": "freeze", "reason": "x"})


def test_closing_ends_it(wheel: Wheel, path: Path) -> None:
    server = Control(path, wheel.obey, wheel.refused)
    server.start()
    server.close()

    wait_until(lambda: all(thread.name != "control" for thread in threading.enumerate()))
    assert not path.exists()
