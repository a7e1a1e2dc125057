"""The outside of the demo: starts the node in namespaces of its own, shows what it publishes, and ends it.

Turns a listening socket into a node that answers on it. Knows: namespaces, and that the socket was opened outside of
them. Does not know: what happens inside, what is shown.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bwexporter.demo import cast
from bwexporter.errors import BwexporterError

START_SECONDS = 20.0


class Node:
    """A running demo node, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, url: str) -> None:
        self._process = process
        self._folder = folder
        self.url = url

    def fail_if_ended(self) -> None:
        """Raise BwexporterError with the node's last words where it is no more."""
        if self._process.poll() is not None:
            raise BwexporterError(f"the demo's node has ended:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the daemon's log."""
        log_file = self._folder / "daemon.log"
        text = log_file.read_text(errors="replace") if log_file.exists() else ""
        return "\n".join(text.splitlines()[-12:]) or "it said nothing"


@contextmanager
def node(listening: socket.socket) -> Iterator[Node]:
    """Run a node that answers on the socket, and leave nothing of it behind."""
    unshare = _unshare_command()
    with tempfile.TemporaryDirectory(prefix="bwexporter-demo-") as name:
        folder = Path(name)
        cast.write_files(folder)
        lifeline_ours, lifeline_theirs = _lifeline()
        handed = (listening.fileno(), lifeline_theirs)
        inside = ["demo-node", str(folder), "--listen-fd", str(handed[0]), "--lifeline-fd", str(handed[1])]
        # NumPy's threads would keep a process from entering a user namespace; `unshare` enters before Python starts.
        process = subprocess.Popen(
            [*unshare, sys.executable, "-m", "bwexporter", *inside],
            pass_fds=handed,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(lifeline_theirs)
        host, port = listening.getsockname()[:2]
        shown_host = f"[{host}]" if ":" in host else host
        try:
            yield Node(process, folder, f"http://{shown_host}:{port}")
        finally:
            os.close(lifeline_ours)
            _end(process)


def wait_until(happened: Callable[[], bool], running: Node) -> None:
    """Wait for the node to come up; BwexporterError where it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not happened():
        running.fail_if_ended()
        if time.monotonic() > deadline:
            said = running.last_words()
            raise BwexporterError(f"the demo's node did not come up in {START_SECONDS:.0f} s:\n{said}")
        time.sleep(0.1)


def _lifeline() -> tuple[int, int]:
    """Return both ends of a pipe: (the one that we hold open, the one that the node watches)."""
    watched, held = os.pipe()
    os.set_inheritable(watched, True)
    return held, watched


def _unshare_command() -> list[str]:
    """Return the command that enters private namespaces, as root or as a user; an error says where none is allowed."""
    if shutil.which("unshare") is None:
        raise BwexporterError("the demo needs `unshare`; install the Debian package util-linux")
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        raise BwexporterError(
            "the demo may not make a private network namespace here; run it as root, or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0)",
        )
    return command


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the node to end by itself, as its lifeline is closed; kill it where it does not."""
    try:
        process.wait(timeout=6.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
