"""ApMon: the class that programs know, with its calls.

Turns ApMon's calls into those of the sender, the sources and the monitor. Knows: the ancestor's names and forms, the
last cluster and node, the thread that works in the background. Does not know: how anything is sent, read or measured.

Differences from the ancestor are its defects: docs/apmon.md lists them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from bwexporter.apmon.channel import Health
from bwexporter.apmon.destinations import Setup, from_program
from bwexporter.apmon.jobs import watch_pid
from bwexporter.apmon.monitor import HOST_CLUSTER, Monitor
from bwexporter.apmon.options import LARGEST_RATE, read_level, read_whole
from bwexporter.apmon.parameters import Pairs
from bwexporter.apmon.sender import DEFAULT_MESSAGE_BYTES, DEFAULT_RATE, Sender
from bwexporter.apmon.sources import Sources

log = logging.getLogger("bwexporter.apmon")

USER_CLUSTER = "ApMon_UserSend"
TICK_SECONDS = 10.0
END_SECONDS = 5.0
_LEVELS = {"FATAL": logging.CRITICAL, "NOTICE": logging.DEBUG + 5}

InitValue = str | Sequence[str] | Mapping[str, object]


class ApMon:
    """Sends parameters to MonALISA.

    `initValue` is a file or a URL; a list of those, of which the first that can be used is used; a tuple of
    `host:port password`; or a dictionary of those with options. `lenient` reads old files as they are, `allow_http`
    fetches without TLS. Calls return at once: True where everything was handed to the network. A context manager;
    `free` ends it.
    """

    def __init__(
        self,
        initValue: InitValue,  # noqa: N803 - ApMon's name
        defaultLogLevel: str | int | None = None,  # noqa: N803
        *,
        lenient: bool = False,
        allow_http: bool = False,
    ) -> None:
        self._lenient, self._allow_http = lenient, allow_http
        self._sender = Sender(())
        self._given_rate: int | None = None
        self._given_message_bytes: int | None = None
        self._host_name = socket.gethostname()
        self._last = (USER_CLUSTER, self._host_name)  # that any thread has named
        self._own = threading.local()  # that a thread has named itself
        self._monitor = Monitor(time.monotonic, cluster=HOST_CLUSTER, node=self._host_name)
        self._renew_locks()
        self._background = False
        self._sources: Sources | None = None
        self._ticks = _Ticks(weakref.WeakMethod(self._tick))
        weakref.finalize(self, self._ticks.forget)
        if defaultLogLevel is not None:
            self.setLogLevel(defaultLogLevel)
        self.setDestinations(initValue)

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.free()

    def __repr__(self) -> str:
        return f"ApMon({', '.join(one.name for one in self._sender.destinations)})"

    def setDestinations(self, initValue: InitValue) -> None:  # noqa: N802, N803
        """Send to these from now on, and to no earlier ones."""
        sources, setup = None, Setup()
        if isinstance(initValue, str | list):
            named = [initValue] if isinstance(initValue, str) else [str(one) for one in initValue]
            sources = Sources(named, time.monotonic, lenient=self._lenient, allow_http=self._allow_http)
            sources.read()
        else:
            setup = from_program(initValue)
        self._forked()
        with self._changing:
            self._sources = sources
            self._use(setup if sources is None else sources.setup)
        self._sender.wait_for_names()
        if sources is not None:
            self._ticks.start()

    def _use(self, setup: Setup) -> None:
        said = setup.for_all
        if said.loglevel is not None:
            self.setLogLevel(said.loglevel)
        self._sender.replace(
            setup.destinations,
            rate=self._given_rate or said.rate or DEFAULT_RATE,
            message_bytes=self._given_message_bytes or said.message_bytes or DEFAULT_MESSAGE_BYTES,
        )

    def _read_again(self) -> None:
        """Read the sources if that is due; where others were set meanwhile, theirs is the last word."""
        sources = self._sources
        if sources is None or not sources.refresh():
            return
        with self._changing:
            if self._sources is not sources:
                return
            self._use(sources.setup)
        self._sender.wait_for_names()

    def _renew_locks(self) -> None:
        self._process = os.getpid()
        self._monitoring = threading.Lock()  # held while background data is gathered
        self._changing = threading.Lock()  # held while destinations are put into use

    def _forked(self) -> None:
        """Take other locks in a child: a thread of the parent may have held them."""
        if self._process != os.getpid():
            self._renew_locks()

    def initializedOK(self) -> bool:  # noqa: N802
        """Say whether there is a destination."""
        return bool(self._sender.destinations)

    def sendParams(self, params: Pairs) -> bool:  # noqa: N802
        """Send to the last cluster and node."""
        return self.sendTimedParams(None, params)

    def sendTimedParams(self, timeStamp: float | None, params: Pairs) -> bool:  # noqa: N802, N803
        """Send to the last cluster and node, with a time."""
        return self.sendTimedParameters(None, None, timeStamp, params)

    def sendParameter(self, clusterName: str | None, nodeName: str | None, paramName: str, paramValue: object) -> bool:  # noqa: N802, N803
        """Send one parameter."""
        return self.sendTimedParameters(clusterName, nodeName, None, [(paramName, paramValue)])

    def sendTimedParameter(  # noqa: N802
        self,
        clusterName: str | None,  # noqa: N803
        nodeName: str | None,  # noqa: N803
        timeStamp: float | None,  # noqa: N803
        paramName: str,  # noqa: N803
        paramValue: object,  # noqa: N803
    ) -> bool:
        """Send one parameter with a time."""
        return self.sendTimedParameters(clusterName, nodeName, timeStamp, [(paramName, paramValue)])

    def sendParameters(self, clusterName: str | None, nodeName: str | None, params: Pairs) -> bool:  # noqa: N802, N803
        """Send parameters: a dictionary, or pairs in their order."""
        return self.sendTimedParameters(clusterName, nodeName, None, params)

    def sendTimedParameters(  # noqa: N802
        self,
        clusterName: str | None,  # noqa: N803
        nodeName: str | None,  # noqa: N803
        timeStamp: float | None,  # noqa: N803
        params: Pairs,
    ) -> bool:
        """Send parameters with a time in Unix seconds; 0 or None is none.

        No cluster means the last one; no node the last one, or this host's name where a cluster was given. The last
        ones are the thread's own; those of any thread where it has named none yet.
        """
        last_cluster, last_node = getattr(self._own, "last", self._last)
        cluster = clusterName or last_cluster
        node = nodeName or (self._host_name if clusterName else last_node)
        try:
            delivery = self._sender.send(cluster, node, params, timeStamp)
        except ValueError as error:
            log.warning("nothing was sent: %s", error)
            return False
        if clusterName or nodeName:
            self._last = self._own.last = (cluster, node)
        for name, why in delivery.skipped:
            log.warning("the parameter %r was not sent: it %s", name, why)
        return delivery.complete

    def addJobToMonitor(self, pid: int | str, workDir: str, clusterName: str, nodeName: str) -> bool:  # noqa: N802, N803
        """Watch a process and its descendants; False where there is no such process."""
        job = watch_pid(int(pid), workDir, clusterName, nodeName)
        if job is None:
            log.warning("the process %s is not watched: there is none with this number", pid)
            return False
        self._monitor.add_job(int(pid), job)
        return True

    def removeJobToMonitor(self, pid: int | str) -> bool:  # noqa: N802
        """Watch a process no more; False where it was not watched."""
        return self._monitor.remove_job(int(pid))

    def setMonitorClusterNode(self, cluster: str, node: str) -> None:  # noqa: N802
        """Name the host's figures; an empty name keeps the one before."""
        self._monitor.cluster = cluster or self._monitor.cluster
        self._monitor.node = node or self._monitor.node

    def enableBgMonitoring(self, onOff: bool) -> None:  # noqa: N802, N803, FBT001
        """Send host and job figures in the background, each destination in its own rhythm; or stop it."""
        self._background = bool(onOff)
        if onOff:
            self._ticks.start()

    def sendBgMonitoring(self, mustSend: bool = False) -> bool:  # noqa: N802, N803, FBT001, FBT002
        """Send what is due of host and job figures, with `mustSend` all; False where something was not sent."""
        complete = True
        self._forked()
        with self._monitoring:
            for due in self._monitor.due(self._sender.destinations, now_all=mustSend):
                delivery = self._sender.send(
                    due.cluster, due.node, due.parameters.items(), time.time(), to=due.destination
                )
                complete = complete and delivery.complete
        return complete

    def setLogLevel(self, strLevel: str | int) -> None:  # noqa: N802, N803
        """Log from this level on: FATAL ERROR WARNING INFO NOTICE DEBUG, or a number of `logging`."""
        if isinstance(strLevel, int):
            log.setLevel(strLevel)
            return
        level = read_level(strLevel)
        log.setLevel(_LEVELS.get(level, level))

    def setMaxMsgRate(self, rate: int) -> None:  # noqa: N802
        """Send at most so many datagrams a second to each destination."""
        self._given_rate = read_whole(rate, 1, LARGEST_RATE)
        self._sender.set_rate(rate)

    def setMaxMsgSize(self, size: int) -> None:  # noqa: N802
        """Split at this size in bytes."""
        self._sender.set_message_bytes(size)
        self._given_message_bytes = size

    def getConfig(self) -> Setup:  # noqa: N802
        """Return the destinations with their options."""
        return Setup(self._sender.destinations)

    def health(self) -> tuple[Health, ...]:
        """Return how each destination stands."""
        return self._sender.health()

    def free(self) -> None:
        """End the background thread and the sender; later calls send nothing and say so."""
        self._ticks.end()
        self._sender.close()

    def _tick(self) -> float:
        """Do what is due; return the time until the next."""
        self._forked()
        self._read_again()
        if self._background:
            self.sendBgMonitoring()
        return TICK_SECONDS


class _Ticks:
    """The background thread. It holds its owner weakly, so that one that is forgotten ends it."""

    def __init__(self, tick: Callable[[], Callable[[], float] | None]) -> None:
        self._tick = tick
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def start(self) -> None:
        """Begin, if it has not begun in this process."""
        if self._process != os.getpid():
            self._thread, self._process, self._ended = None, os.getpid(), threading.Event()
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._run, args=(self._ended,), name="apmon", daemon=True)
            self._thread.start()

    def forget(self) -> None:
        """End without waiting."""
        self._ended.set()

    def end(self) -> None:
        """End, without waiting long for a tick that runs."""
        self.forget()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and self._process == os.getpid():
            thread.join(timeout=END_SECONDS)

    def _run(self, ended: threading.Event) -> None:
        seconds = TICK_SECONDS
        while not ended.wait(seconds):
            tick = self._tick()
            if tick is None:
                return
            try:
                seconds = tick()
            except Exception:
                log.exception("background monitoring failed; it goes on")
                seconds = TICK_SECONDS
            del tick
