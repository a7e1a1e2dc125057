"""The daemon as users run it: a process of its own, in a network namespace of its own, on the real kernel.

`Room` is the namespace with a cable v0 - v1, `Program` the daemon in it, `Traffic` what is sent through its classes and
the books of it. A room ends with the process that made it, however that ends: its holder reads from a pipe.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import pytest
import yaml

from tests.kernel.conftest import CAP_SYS_ADMIN, CLONE_NEWNET, LIBC, holds_capability

PACKET_BYTES = 1000  # on the link: 14 Ethernet, 20 IPv4, 8 UDP, the rest payload
HEADER_BYTES = 42
FAR_END = ("10.9.0.2", 9)
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PROJECT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 60.0
"""How long a machine that stalls now and then may take for what takes a good one a second."""

LaneName = tuple[str, str]
"""A slice's name and `normal` or `exempt`."""

_CABLE = """\
link add v0 address 02:00:00:00:00:01 type veth peer name v1 address 02:00:00:00:00:02
link set v0 addrgenmode none up
link set v1 addrgenmode none up
address add 10.9.0.1/24 dev v0
neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent
"""

_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")

_Found = TypeVar("_Found")


def wait_for(happened: Callable[[], _Found], *, seconds: float = PATIENCE_SECONDS, what: str = "it") -> _Found:
    """Ask again and again until the answer is true, and return it; fail after a while that no stall outlasts."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.03)
    return found


class Stalls:
    """The times in which this process was not let run, as a thread of it sees them.

    What a test measures over time it compares with the time without these: nothing else ran then either.
    """

    _NAP_SECONDS, _LATE_SECONDS = 0.05, 0.2

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []  # begin and end, by the wall clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

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

    def _watch(self) -> None:
        before = time.time()
        while not self._ended.wait(self._NAP_SECONDS):
            now = time.time()
            if now - before > self._NAP_SECONDS + self._LATE_SECONDS:
                self._found.append((before, now))
            before = now

    def seconds(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """Return how much of a span they were."""
        return sum(max(0.0, min(ended, end) - max(began, begin)) for began, ended in tuple(self._found))


def skip_where_no_room_can_be_made() -> None:
    """Skip where new network namespaces may not be entered; see to it that loopback carries the pages."""
    if not holds_capability(CAP_SYS_ADMIN):
        pytest.skip("no new network namespace may be entered here; test_unprivileged.py runs this test in one")
    with closing(socket.socket()) as probe:
        # In the bare namespace that test_unprivileged.py makes, loopback is still down; nowhere else.
        if probe.connect_ex(("127.0.0.1", 9)) == errno.ENETUNREACH:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Readable:
    """This project, its libraries and its Python where every user may read them, for processes in a namespace.

    The files themselves may lie where only root may read. They are bound below a folder of ours, in the mount namespace
    of the processes that need them, so that nothing is copied and nothing is left.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bwexporter-test-"))
        self.folder.chmod(0o755)
        places = {"python": sys.base_prefix, "site": sysconfig.get_path("purelib"), "project": str(PROJECT)}
        for name in places:
            (self.folder / name).mkdir()
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o1777)
        binds = " && ".join(f"mount --bind '{place}' '{self.folder / name}'" for name, place in places.items())
        self.enter = ("unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh")
        self.python = str(self.folder / "python" / "bin" / f"python3.{sys.version_info.minor}")
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'project'}:{self.folder / 'site'}",
            "LD_LIBRARY_PATH": str(self.folder / "python" / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.scratch),
            "HOME": "/",
        }

    def close(self) -> None:
        """Remove the folder; nothing is bound there outside of the namespaces."""
        shutil.rmtree(self.folder)


@contextmanager
def readable_by_nobody() -> Iterator[Readable]:
    """Give what an unprivileged user needs, where root can become one who may make user namespaces."""
    if os.geteuid() != 0 or subprocess.run([*NOBODY, "true"], capture_output=True, check=False).returncode:
        pytest.skip("these tests run as an unprivileged user already")
    if subprocess.run([*NOBODY, "unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are disabled on this machine")
    made = Readable()
    try:
        yield made
    finally:
        made.close()


class Room:
    """A network namespace with a cable v0 - v1, of root or, with `readable`, of an unprivileged user."""

    def __init__(self, readable: Readable | None = None) -> None:
        self.python, self.environment = sys.executable, dict(os.environ)
        make, how = ["unshare", "--net", "cat"], ["--net"]
        if readable:
            self.python, self.environment = readable.python, readable.environment
            user = [*NOBODY, "unshare", "--user", "--map-root-user"]
            make, how = [*readable.enter, *user, *make[1:]], ["--user", "--mount", "--net"]
        self._holder = subprocess.Popen(make, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.write(b"there?\n")
        self._holder.stdin.flush()
        assert self._holder.stdout.readline() == b"there?\n", "no namespace"
        self.enter = ("nsenter", f"--target={self._holder.pid}", *how)
        subprocess.run([*self.enter, "ip", "link", "set", "lo", "up"], check=True)
        self.lay_cable()

    def __enter__(self) -> Self:
        """Return the room."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the namespace to the kernel, which removes it with its last process."""
        self._holder.kill()
        self._holder.communicate()

    def lay_cable(self) -> None:
        """Make v0 and v1, anew where they were removed."""
        subprocess.run([*self.enter, "ip", "-batch", "-"], input=_CABLE, text=True, check=True)

    def run(self, command: str, *, given: str | None = None) -> str:
        """Run a program in the room to its end and return what it printed."""
        done = subprocess.run([*self.enter, *command.split()], capture_output=True, text=True, check=False, input=given)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calling thread stand in the room's network: sockets that it opens there stay there."""
        home, there = (
            os.open("/proc/thread-self/ns/net", os.O_RDONLY),
            os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY),
        )
        assert LIBC.setns(there, CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert LIBC.setns(home, CLONE_NEWNET) == 0
            os.close(home)
            os.close(there)

    def classes(self) -> dict[int, Class]:
        """Return what `tc` says of every class, by handle."""
        return {found.handle: found for found in map(_class, _CLASS.finditer(self.run("tc -s class show dev v0")))}


@dataclass(frozen=True)
class Class:
    """A class as `tc` shows it; rates in bytes per second, with tc's rounding."""

    handle: int
    rate: float
    ceiling: float
    ceiling_burst_bytes: int
    sent_bytes: int


_CLASS = re.compile(
    r"class htb (\w+):(\w+) .*?rate ([\d.]+)([KMG]?)bit ceil ([\d.]+)([KMG]?)bit .*?cburst (\d+)(K?)b.*?\n"
    r" Sent (\d+) bytes"
)
_POWERS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}


def _class(match: re.Match[str]) -> Class:
    major, minor, rate, rate_unit, ceiling, ceiling_unit, burst, burst_unit, sent = match.groups()
    return Class(
        int(major, 16) << 16 | int(minor, 16),
        float(rate) * _POWERS[rate_unit] / 8,
        float(ceiling) * _POWERS[ceiling_unit] / 8,
        int(burst) * (1024 if burst_unit else 1),
        int(sent),
    )


def handle_of(slice_id: int, traffic: str = "normal") -> int:
    """Return the class of a lane, as the contract numbers them."""
    return 0x1_0000 | {"normal": 0x1000, "exempt": 0x8000}[traffic] + slice_id


def text_of(handle: int) -> str:
    """Write a handle as tc does."""
    return f"{handle >> 16:x}:{handle & 0xFFFF:x}"


class Program:
    """The daemon of one room: its files, its process, and what it publishes."""

    def __init__(
        self,
        room: Room,
        folder: Path,
        config: Mapping[str, Any],
        slices: Sequence[Mapping[str, Any]],
        *,
        tls: ssl.SSLContext | None = None,  # what its clients need, where it speaks TLS
    ) -> None:
        self.room, self.folder = room, folder
        self.url, self._scheme = "", "http" if tls is None else "https"
        self._reserved = socket.socket()  # its port stays its own while it does not run
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.config_file, self.slices_file = folder / "bwexporter.yml", folder / "slices.yml"
        self.log_file, self.state_file = folder / "daemon.log", folder / "state.db"
        self.write_config(config)
        self.write_slices(slices)
        self._client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False, verify=tls or False)

    def __enter__(self) -> Self:
        """Return the program."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.kill()
        self._client.close()
        self._reserved.close()
        if kind:
            sys.stderr.write("".join(self.log_file.read_text().splitlines(keepends=True)[-60:]))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration beside the old one, and give it its name."""
        _replace(self.config_file, yaml.safe_dump({"state": "state.db", "slices": [{"file": "slices.yml"}], **config}))

    def write_slices(self, slices: Sequence[Mapping[str, Any]]) -> None:
        """Write the slices, likewise."""
        _replace(self.slices_file, yaml.safe_dump({"slices": [dict(one) for one in slices]}, sort_keys=False))

    def start(self, *flags: str, through: Sequence[str] = ()) -> Self:
        """Start it, through other programs where some are named, and wait for its first turn."""
        # The socket is opened out here, where the test is, and serves the program in there.
        with socket.create_server(("127.0.0.1", self.port)) as listening, self.log_file.open("ab") as log_file:
            self.url = f"{self._scheme}://127.0.0.1:{self.port}"
            self._process = subprocess.Popen(
                [*self.command("run", *through, *_ENDS_WITH_US), *flags, "--listen-fd", str(listening.fileno())],
                pass_fds=[listening.fileno()],
                stdout=log_file,
                stderr=log_file,
                env=self.room.environment,
                cwd=self.folder,
            )
        try:
            wait_for(self._is_up, what="the first turn")
        except BaseException:
            self.kill()
            raise
        return self

    def command(self, name: str, *through: str) -> list[str]:
        """Return the command line of a command in the room, started through another one where that is named."""
        program = [self.room.python, "-m", "bwexporter", name, "--config", str(self.config_file)]
        return [*self.room.enter, *through, *program]

    def run(self, *flags: str, through: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which it should find by itself."""
        return subprocess.run(
            [*self.command("run", *through), *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
            env=self.room.environment,
            cwd=self.folder,
        )

    def _is_up(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.said()
        with suppress(httpx.TransportError):
            return self._client.get(f"{self.url}/-/ready").status_code == 200
        return False

    def may_open(self, most_files: int) -> None:
        """Bound its open files, as the system does for a service."""
        assert self._process
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (most_files, most_files))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """End it in order; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for its end."""
        assert self._process
        return self._process.wait(timeout=PATIENCE_SECONDS)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Keep it between two turns for a while."""
        self.signal(signal.SIGSTOP)
        assert self._process
        stat = Path(f"/proc/{self._process.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="the halt")
        yield
        self.signal(signal.SIGCONT)

    def said(self) -> str:
        """Return its log."""
        return self.log_file.read_text()

    def answer(self) -> dict[str, Any]:
        """Ask its API."""
        response = self._client.get(f"{self.url}/api/v1/slices")
        assert response.status_code == 200, f"{response.status_code}: {response.text[:300]!r}"
        answer: dict[str, Any] = response.json()
        return answer

    def lanes(self) -> dict[LaneName, dict[str, Any]]:
        """Return what its API says of each lane."""
        return {(row["slice"], row["traffic"]): row for row in self.answer()["slices"]}

    def lane(self, slice_name: str, traffic: str = "normal") -> dict[str, Any]:
        """Return what its API says of one lane."""
        return self.lanes()[slice_name, traffic]

    def metrics(self) -> dict[str, float]:
        """Return each series of /metrics, by its name and labels as they are written."""
        lines = self._client.get(f"{self.url}/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}

    def turn(self) -> None:
        """Wait until a turn that begins from now on is published."""
        now = time.time()
        last = "bwexporter_last_turn_timestamp_seconds"
        wait_for(lambda: self.metrics().get(last, 0.0) > now, what="a turn")

    def events(self, kind: str, slice_name: str) -> list[tuple[float, str]]:
        """Return the state file's events of a kind and slice: (time, inputs as JSON), oldest first."""
        with closing(sqlite3.connect(f"file:{self.state_file}?mode=ro", uri=True)) as state:
            query = "SELECT at, inputs FROM events WHERE kind = ? AND slice = ? AND traffic = 'normal' ORDER BY number"
            return state.execute(query, (kind, slice_name)).fetchall()


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


class Traffic:
    """Senders into classes, and the books of what passed."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.passed: Counter[LaneName] = Counter()

    def send(self, lane: LaneName, handle: int, packets: int = 100) -> None:
        """Send packets of PACKET_BYTES into a class and write them down for a lane; return when they have passed."""
        with closing(self.socket(handle)) as sender:
            for _ in range(packets):
                sender.send(bytes(PACKET_BYTES - HEADER_BYTES))
            # A socket's bytes are out when the packets have left the queue of the class, which is where they count.
            wait_for(lambda: _unsent_bytes(sender) == 0, what="the end of the queue")
        self.passed[lane] += packets * PACKET_BYTES

    def socket(self, handle: int) -> socket.socket:
        """Open a sender that waits, rather than drops, where the class is shut for a while."""
        with self._room.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, handle)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # fewer packets than any queue holds
        sender.connect(FAR_END)
        return sender


def _unsent_bytes(sender: socket.socket) -> int:
    (unsent,) = struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))
    return int(unsent)


class Greedy:
    """A sender that sends all that it may, until the context ends."""

    def __init__(self, traffic: Traffic, handle: int, payload_bytes: int = 1400) -> None:
        self._socket = traffic.socket(handle)
        self._socket.settimeout(0.2)
        self._payload = bytes(payload_bytes)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

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
        self._socket.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                self._socket.send(self._payload)
