"""The daemon under a service manager: what it is told, and when."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.daemon_rig import PATIENCE_SECONDS, Program, Room, skip_where_no_room_can_be_made

pytestmark = pytest.mark.kernel

CONFIG = {"interval": "200ms", "devices": [{"name": "v0", "cap": "100mbit", "line_rate": "1gbit"}]}
SLICES = [{"name": "ann", "id": 1}]
WATCHDOG_SECONDS = 0.6


class Manager:
    """The socket on which a service manager listens."""

    def __init__(self, place: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(place))
        self.socket.settimeout(PATIENCE_SECONDS)

    def told(self, word: str) -> str:
        """Wait until a message with that line comes, and return it."""
        while word not in (text := self.socket.recv(4096).decode()).splitlines():
            pass
        return text

    def is_silent_for(self, seconds: float) -> bool:
        """Say whether nothing comes, after what has come already."""
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(4096)
        except BlockingIOError:
            self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)
        return False


@pytest.fixture
def room() -> Iterator[Room]:
    """Return a room of this test's own."""
    skip_where_no_room_can_be_made()
    with Room() as made:
        yield made


@pytest.fixture
def manager(room: Room, tmp_path: Path) -> Iterator[Manager]:
    """Return a service manager that watches whatever is started in the room."""
    made = Manager(tmp_path / "notify")
    room.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
    yield made
    made.socket.close()


def test_a_service_manager_hears_of_the_first_turn_of_life_and_of_the_end(
    room: Room, manager: Manager, tmp_path: Path
) -> None:
    """READY comes after the first turn, when the tree stands; a program that is stuck falls silent."""
    with Program(room, tmp_path, CONFIG, SLICES).start() as program:
        assert "STATUS=Turns run; the last one ended" in manager.told("READY=1")
        assert "1:1001" in room.run("tc class show dev v0")
        began = time.monotonic()
        for _ in range(3):
            manager.told("WATCHDOG=1")
        assert time.monotonic() - began < 50 * WATCHDOG_SECONDS
        with program.halted():
            assert manager.is_silent_for(2 * WATCHDOG_SECONDS)
        manager.told("WATCHDOG=1")
        program.signal(signal.SIGTERM)
        manager.told("STOPPING=1")
        assert program.exit_code() == 0


def test_turns_that_cannot_read_the_kernel_are_no_reason_to_be_killed(
    room: Room, manager: Manager, tmp_path: Path
) -> None:
    """A device that is away comes back; a program that is started anew would have lost what it heard."""
    with Program(room, tmp_path, CONFIG, SLICES).start():
        manager.told("READY=1")
        room.run("ip link set v0 name away")
        while "The last good turn was" not in manager.told("WATCHDOG=1"):
            pass
        room.run("ip link set away name v0")
        while "Turns run" not in manager.told("WATCHDOG=1"):
            pass


def test_nobody_is_told_where_nobody_asks(room: Room, tmp_path: Path) -> None:
    """Another process's watchdog is not ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "other"))
        other.settimeout(PATIENCE_SECONDS)
        room.environment |= {
            "NOTIFY_SOCKET": str(tmp_path / "other"),
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
            "WATCHDOG_PID": str(os.getpid()),
        }
        with Program(room, tmp_path, CONFIG, SLICES).start():
            assert other.recv(4096).startswith(b"READY=1")
            other.settimeout(3 * WATCHDOG_SECONDS)
            with pytest.raises(TimeoutError):
                other.recv(4096)
