"""A fresh Debian in a folder, and the real systemd that boots in it.

Turns a suite's name into a system that commands run in. Knows: debootstrap, chroot, and how systemd starts as the first
process of namespaces of its own. Does not know: what is installed there, or why.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # of this machine, for whatever it trusts
BASE = (
    "python3",
    "python3-venv",
    "iproute2",
    "nftables",
    "procps",
    "systemd",
    "systemd-sysv",
    "dbus",
    "ca-certificates",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 30.0

Found = TypeVar("Found")

_CHROOT = f"""
mount --make-rprivate /
mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; mount --rbind /sys "$0/sys"
[ -e {CERTIFICATES} ] && mount --bind {CERTIFICATES} "$0{CERTIFICATES}"
cp /etc/resolv.conf "$0/etc/resolv.conf" 2>/dev/null
exec chroot "$0" "$@"
"""

# systemd wants to be the first process, and the tree to be the root of a mount namespace of its own.
_BOOT = f"""
mount --make-rprivate /; mount --bind "$0" "$0"; cd "$0"
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev; mkdir dev/pts dev/shm
for one in null zero full random urandom tty; do touch dev/$one; mount --bind /dev/$one dev/$one; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
exec chroot . env -i container=other PATH={PATH} /sbin/init
"""


class Failed(Exception):
    """A command did not do what it was run for."""


class Tree:
    """A minimal system of a suite, as debootstrap makes it, below a folder."""

    def __init__(self, suite: str, folder: Path, packages: Sequence[str] = BASE) -> None:
        self.suite, self.root = suite, folder / suite
        fresh = folder.parent / f"fresh-{suite}-{len(packages)}"  # made once a run, and copied: each way has its own
        if not fresh.exists():
            say(f"{suite}: a minimal system is made")
            making = fresh.with_suffix(".part")
            run_here(["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(making)])
            making.rename(fresh)
        run_here(["cp", "-a", "--reflink=auto", str(fresh), str(self.root)])

    def run(self, *command: str, given: str | None = None) -> str:
        """Run a command in the tree, with this machine's network; return what it prints."""
        whole = ["unshare", "--mount", "sh", "-ec", _CHROOT, str(self.root), "/usr/bin/env", "-i", f"PATH={PATH}",
                 "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "LC_ALL=C.UTF-8", *command]  # fmt: skip
        done = subprocess.run(whole, capture_output=True, text=True, check=False, input=given)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def put(self, path: Path, inside: str) -> None:
        """Copy a file or a folder into the tree."""
        place = self.root / inside.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, ignore=shutil.ignore_patterns(".git", ".venv*", "*_cache", "__pycache__"))
        else:
            shutil.copy(path, place)

    def write(self, inside: str, text: str) -> None:
        """Write a file in the tree."""
        place = self.root / inside.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


class Booted:
    """A tree whose systemd runs, with a network of its own; it ends with the context."""

    def __init__(self, tree: Tree) -> None:
        self._group = Path(_cgroup_root(), f"bwexporter-install-{os.getpid()}")
        self._group.mkdir()
        rooms = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--net", "--cgroup", "--kill-child=KILL"]
        self._process = subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(self._group), *rooms, "sh", "-ec", _BOOT,
             str(tree.root)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._init = 0

    def __enter__(self) -> Self:
        """Wait until it is up."""
        try:
            self._init = wait_for(self._child, "systemd's process")
            wait_for(self._is_up, "systemd")
            for command in ("ip link set lo up", "ip link add eth0 type veth peer name far", "ip link set far up",
                            "ip link set eth0 up", "ip addr add 10.9.9.1/24 dev eth0",
                            "ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent"):  # fmt: skip
                self.run(*command.split())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of it."""
        self.close()

    def close(self) -> None:
        """End all of it."""
        self._process.send_signal(signal.SIGKILL)  # unshare ignores SIGTERM
        self._process.wait()
        time.sleep(0.2)
        subprocess.run(["sh", "-c", 'find "$0" -depth -type d -exec rmdir {} +', str(self._group)], check=False)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in the booted system; return what it prints."""
        enter = [
            "nsenter",
            "-t",
            str(self._init),
            "--all",
            "--root",
            "--wd",
            "/usr/bin/env",
            "-i",
            f"PATH={PATH}",
            "LC_ALL=C.UTF-8",
        ]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def _child(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}


def _cgroup_root() -> str:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return place
    raise Failed("no cgroup v2 hierarchy is mounted here")


def wait_for(happened: Callable[[], Found], what: str, seconds: float = BOOT_SECONDS) -> Found:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.1)
    return found


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a program for people


def run_here(command: Sequence[str]) -> str:
    """Run a command on this machine; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def is_one(what: str, text: str, part: str) -> None:
    """See a part in a text."""
    if part not in text:
        raise Failed(f"{what}: {part!r} is not in {text[-2000:]!r}")
