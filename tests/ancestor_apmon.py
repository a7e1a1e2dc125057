"""The first ApMon as its defects are described: a small model that the tests of ours are held against.

Turns the same calls as ours into what the ancestor made of them: its datagrams on a real socket, its locks that nobody
gave back, its sleeps, its text on standard output. Written from the description of its behaviour, not from its source;
test_ancestor_apmon.py holds it against datagrams and figures that were recorded of the real one. A call that would
never return raises HangsForever. The calls have ApMon's names.
"""
# ruff: noqa: N802, N803, T201

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bwexporter.apmon.channel import Address, addresses_of
from tests.ancestor_procinfo import count_processes

HEADER = "v:2.2.4-pyp:"
CODES = {int: 2, float: 5, str: 0}
EMPTY = ""
LEVELS = ("FATAL", "ERROR", "WARNING", "INFO", "NOTICE", "DEBUG")
WEIGHT = 0.95  # of the history in the estimate of the rate
SEQUENCES = 2_000_000_000

Place = tuple[str, int, str]  # address, port, password
Resolve = Callable[[str, int], Sequence[Address]]


class HangsForever(Exception):
    """The call would never return."""


class Lock:
    """Taken and given back by hand, so that an exception in between leaves it taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def take(self) -> None:
        """Wait for it; who holds it already waits for ever."""
        if self._holder == threading.get_ident():
            raise HangsForever
        self._lock.acquire()
        self._holder = threading.get_ident()

    def give_back(self) -> None:
        """Let others have it."""
        self._holder = None
        self._lock.release()


class Limiter:
    """Estimates the rate by the wall clock; beyond it the caller sleeps, and the datagram goes all the same."""

    def __init__(self, rate: int, wall: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.rate = rate
        self.slept = 0
        self._wall, self._sleep = wall, sleep
        self._chance = random.Random(7)
        self._history = 0.0
        self._sent = 0
        self._second = int(wall())

    def wait(self) -> None:
        """Sleep a second where the estimate says so."""
        now = int(self._wall())
        if now != self._second:
            self._history = WEIGHT * self._history + (1 - WEIGHT) * self._sent / (now - self._second)
            self._sent, self._second = 0, now
        estimate = WEIGHT * self._history + (1 - WEIGHT) * self._sent
        if self._chance.uniform(0.9, 1.0) * self.rate < estimate:
            self.slept += 1
            self._sleep(1.0)  # and it is not counted as sent
        else:
            self._sent += 1


def pack_text(text: str) -> bytes:
    """Pack text; what is not ASCII was another type, and raised when its length had been written already."""
    encoded = text.encode("ascii")
    return struct.pack(">I", len(encoded)) + encoded + bytes(-len(encoded) % 4)


def pack_parameter(name: str, value: object) -> tuple[bytes, int]:
    """Pack name, type code and value one after the other; return what was written, and 1 if it is counted.

    What fails half way leaves what was written before it.
    """
    code = CODES.get(type(value))
    is_long = code == 2 and not -(2**63) <= value < 2**63  # type: ignore[operator]
    is_unicode = code == 0 and not str(value).isascii()
    if name is EMPTY or code is None or is_long or is_unicode:
        return b"", 0
    if not name.isascii():
        return struct.pack(">I", len(name)), 0
    written = pack_text(name) + struct.pack(">I", code)
    try:
        return written + (pack_text(str(value)) if code == 0 else struct.pack({2: ">i", 5: ">d"}[code], value)), 1
    except struct.error:
        return written, 0


def fetch(url: str, time_layout: str) -> str:
    """Ask a server without saying for which host, and read once. What was opened is closed where that failed alone."""
    match = re.fullmatch(r"http://([^:/]+):(\d+)(/.*)", url)
    assert match
    asked = socket.socket()
    try:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack(time_layout, 5, 0))
        asked.connect((match[1], int(match[2])))
        asked.sendall(f"GET {match[3]} HTTP/1.0\n\n".encode())
        return asked.recv(8192).decode().partition("\r\n\r\n")[2]
    except OSError:
        asked.close()
        raise


class Ancestor:
    """ApMon, with its calls and its defects."""

    def __init__(
        self,
        initValue: str | Sequence[str] | Mapping[str, Any],
        *,
        resolve: Resolve = addresses_of,
        wall: Callable[[], float] = lambda: time.time(),  # noqa: PLW0108 - asked for at each call
        sleep: Callable[[float], None] = time.sleep,
        time_layout: str = "ii",
        states: Iterable[str] = "RSSZ",
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._between = between  # the reading and the writing of a number, where another thread may get its turn
        self._resolve, self._wall, self._time_layout = resolve, wall, time_layout
        self.limiter = Limiter(100, wall, sleep)
        self.options: dict[Place, dict[str, Any]] = {}
        self.previous: dict[Place, float] = {}  # when it was told of the host; grows only
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._states = states
        self._level = "INFO"
        self._recheck_seconds = 600
        self._sources: list[str] = []
        self.reloads = isinstance(initValue, str | list)  # for good: a thread that reads the sources again began here
        self._config_lock, self._monitor_lock = Lock(), Lock()
        self._cluster, self._node = "ApMon_UserSend", "host"
        self._instance_id = random.randrange(2**31)
        self._sequences: dict[Place, int] = {}
        self._jobs: dict[int, tuple[str, str, str]] = {}
        self.thread: _Background | None = None
        self.setDestinations(initValue)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what a test leaves."""
        if self.thread is not None:
            self.thread.leaves.set()
        self.socket.close()

    def _say(self, level: str, text: str) -> None:
        if LEVELS.index(level) <= LEVELS.index(self._level):
            print(f"ApMon[{level}]: {text}")

    # Destinations

    def setDestinations(self, initValue: str | Sequence[str] | Mapping[str, Any]) -> None:
        """Read sources, or add what the program gives."""
        if isinstance(initValue, str | list):
            self._sources = [initValue] if isinstance(initValue, str) else list(initValue)
            self.reload()
            return
        for line in initValue:
            given = initValue[line] if isinstance(initValue, Mapping) else {}
            self._add(line, self.options, {**given})

    def reload(self) -> None:
        """Read the sources, and install whatever came of it."""
        found: dict[Place, dict[str, Any]] = {}
        for source in self._sources:
            try:
                text = fetch(source, self._time_layout) if source.startswith("http://") else Path(source).read_text()
            except OSError:
                self._say("ERROR", f"{source} cannot be read")
                continue
            self._read(text, found)
            if found:
                break
        self.options = found

    def _read(self, text: str, found: dict[Place, dict[str, Any]]) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        options: dict[str, Any] = {}
        for line in lines:
            self._say("DEBUG", f"line {line}")
            name, _, value = (word.strip() for word in line.partition("="))
            if name.startswith("xApMon_") and value:
                self._read_option(name.removeprefix("xApMon_"), value, options)
        for line in lines:
            if not line.startswith("xApMon_"):
                self._add(line, found, options)

    def _read_option(self, name: str, value: str, options: dict[str, Any]) -> None:
        typed = {"on": True, "off": False}.get(value, value)
        if name.endswith("_interval") or name == "maxMsgRate":
            typed = int(typed)
        if name == "loglevel":
            self._level = str(typed)
        elif name == "recheck_interval":
            self._recheck_seconds = int(typed)
        else:
            options[name] = typed

    def _add(self, line: str, found: dict[Place, dict[str, Any]], options: Mapping[str, Any]) -> None:
        """Add a destination; one that was known keeps its old options, but for those that are said anew."""
        words = line.split()
        host, _, port = words[0].partition(":")
        if len(words) > 2 or ":" in "".join(words[1:]) or (port and not port.isdecimal()) or "[" in host:
            self._say("WARNING", f"bad destination {line}")
            return
        try:
            addresses = [one for family, one in self._resolve(host, int(port or 8884)) if family is socket.AF_INET]
        except (OSError, OverflowError):
            addresses = [] if int(port or 8884) < 65536 else [(host, int(port))]
        if not addresses:
            self._say("WARNING", f"{host} is not known")
            return
        place = (addresses[0][0], int(port or 8884), words[1] if len(words) == 2 else "")
        if place in found:
            self._say("INFO", f"already added: {place}")
            return
        self._say("INFO", f"Adding destination {place[0]}:{place[1]} {place[2]}")
        found[place] = self.options.get(place, {})
        found[place].update(options)

    def seconds_until_reload(self) -> float:
        """Return the time until the sources are read again."""
        return min(30, self._recheck_seconds)

    def initializedOK(self) -> bool:
        """Say whether there is a destination."""
        return bool(self.options)

    # Sending

    def setMaxMsgRate(self, rate: int) -> None:
        """Limit the datagrams of all destinations together."""
        self.limiter.rate = rate

    def sendParams(self, params: Any) -> bool:
        """Send to the last cluster and node, whoever named them."""
        return self.sendTimedParameters(None, None, None, params)

    def sendParameter(self, clusterName: str | None, nodeName: str | None, paramName: str, paramValue: object) -> bool:
        """Send one."""
        return self.sendTimedParameters(clusterName, nodeName, None, [(paramName, paramValue)])

    def sendParameters(self, clusterName: str | None, nodeName: str | None, params: Any) -> bool:
        """Send several."""
        return self.sendTimedParameters(clusterName, nodeName, None, params)

    def sendTimedParameters(
        self, clusterName: str | None, nodeName: str | None, timeStamp: float | None, params: Any
    ) -> bool:
        """Send several with a time."""
        self._config_lock.take()
        self._cluster, self._node = clusterName or self._cluster, nodeName or self._node
        for place in list(self.options):
            self._send(place, self._cluster, self._node, timeStamp, params)
        self._config_lock.give_back()
        return bool(self.options)

    def _send(self, place: Place, cluster: str, node: str, timestamp: float | None, params: Any) -> None:
        self.limiter.wait()
        number = self._sequences.get(place, 0) + 1
        head = pack_text(HEADER + place[2]) + struct.pack(">ii", self._instance_id, number)
        self._between()
        self._sequences[place] = number % SEQUENCES
        body = pack_text(cluster) + pack_text(node)
        written, count = b"", 0
        pairs = params.items() if isinstance(params, Mapping) else params if isinstance(params, list) else ()
        for name, value in pairs:
            packed, counted = pack_parameter(name, value)
            written, count = written + packed, count + counted
        tail = struct.pack(">i", int(timestamp)) if timestamp and timestamp > 0 else b""
        payload = head + body + struct.pack(">I", count) + written + tail
        try:
            self.socket.sendto(payload, place[:2])
            self._say("NOTICE", f"Packet sent to {place}")
        except OSError as error:
            self._say("ERROR", f"Cannot send to {place}: {error[1]}")  # type: ignore[index]

    # Background

    def setMonitorClusterNode(self, cluster: str, node: str) -> None:
        """Name the host's figures."""

    def sendBgMonitoring(self, mustSend: bool = False) -> bool:  # noqa: FBT001, FBT002
        """Send the host's figures where they are due by the wall clock."""
        self._monitor_lock.take()
        now = self._wall()
        for place, options in list(self.options.items()):
            due = now - self.previous.get(place, 0.0) >= options.get("sys_interval", 120)
            if options.get("sys_monitoring", True) and (mustSend or due):
                self.previous[place] = now
                self._send(place, "ApMon_SysMon", "host", None, count_processes(self._states))
        self._monitor_lock.give_back()
        return True

    def addJobToMonitor(self, pid: int, workDir: str, clusterName: str, nodeName: str) -> bool:
        """Watch a process."""
        self._jobs[pid] = (workDir, clusterName, nodeName)
        return True

    def removeJobToMonitor(self, pid: int) -> bool:
        """Watch a process no more; it has to be one that is watched."""
        self._monitor_lock.take()
        del self._jobs[pid]
        self._monitor_lock.give_back()
        return True

    def enableBgMonitoring(self, onOff: bool) -> None:  # noqa: FBT001
        """Start the thread that holds its owner."""
        if onOff:
            self.thread = _Background(self)
            self.thread.start()

    def free(self) -> None:
        """End: wait for the thread to say that it has left, and close the socket."""
        if self.thread is not None:
            self.thread.leaves.set()
            if not self.thread.is_alive():
                raise HangsForever  # nobody is left to say so
            self.thread.left.wait()
        self.socket.close()


class _Background(threading.Thread):
    """Works for an owner, whom it keeps alive; an exception ends it, and it does not say so."""

    def __init__(self, owner: Ancestor) -> None:
        super().__init__(daemon=True)
        self.owner = owner
        self.leaves, self.left = threading.Event(), threading.Event()

    def run(self) -> None:
        """Send what is due every 10 s."""
        while not self.leaves.wait(10.0):
            try:
                self.owner.sendBgMonitoring()
            except KeyError:
                return
        self.left.set()
