"""The inside of the demo: the first process of its own network and process namespaces.

Turns a folder of files and an open listening socket into a node: two ends of a cable, a daemon, senders, a receiver.
Knows: which process runs where. Does not know: what is shown outside.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bwexporter.demo import traffic
from bwexporter.demo.cast import DEVICE, PARTS
from bwexporter.kernel import links

HERE, THERE = "10.77.0.1", "10.77.0.2"
READY = b"ready\n"


def run(folder: Path, *, listen_fd: int, lifeline_fd: int) -> int:
    """Live until the lifeline closes or the daemon ends; return the exit code of the demo's node."""
    links.bring_up("lo")
    far_end = _start("far-end", unshare=("unshare", "--net"))
    if far_end.stdout is None or far_end.stdin is None or far_end.stdout.readline() != READY:
        return 1
    links.make_pair(DEVICE, "v1", peer_process=far_end.pid)
    links.bring_up(DEVICE, ((HERE, 24),))
    far_end.stdin.write(b"go\n")
    far_end.stdin.flush()
    if far_end.stdout.readline() != READY:
        return 1
    with (folder / "daemon.log").open("wb") as log_file:
        daemon = subprocess.Popen(
            [*_PROGRAM, "run", "--config", str(folder / "bwexporter.yml"), "--listen-fd", str(listen_fd)],
            stdout=log_file,
            stderr=subprocess.STDOUT,
            pass_fds=[listen_fd],
        )
    os.close(listen_fd)
    _start("senders")
    if not _live(daemon, lifeline_fd):
        return daemon.wait()
    ended = _stop(daemon)
    # Who made the folder may have been killed, and then nobody else is left to remove it.
    shutil.rmtree(folder, ignore_errors=True)
    return ended


def far_end() -> None:
    """Be the other end of the cable, in a network namespace of its own."""
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.readline()
    links.bring_up("v1", ((THERE, 24),))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    traffic.receive(THERE)


def senders() -> None:
    """Play all parts."""
    traffic.send(PARTS, THERE)


_PROGRAM = (sys.executable, "-m", "bwexporter")


def _start(what: str, unshare: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*unshare, *_PROGRAM, "demo-part", what], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _live(daemon: subprocess.Popen[bytes], lifeline_fd: int) -> bool:
    """Wait for the end of the lifeline or of the daemon; true where the show is over."""
    with selectors.DefaultSelector() as selector:
        selector.register(lifeline_fd, selectors.EVENT_READ)
        while daemon.poll() is None:
            if selector.select(timeout=0.2) and not os.read(lifeline_fd, 1):
                return True
    return False


def _stop(daemon: subprocess.Popen[bytes]) -> int:
    """Let the daemon stop in order, if it does so in a moment."""
    daemon.send_signal(signal.SIGTERM)
    try:
        return daemon.wait(timeout=3.0)
    except subprocess.TimeoutExpired:
        return 1
