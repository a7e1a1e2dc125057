"""The container image: built from deploy/Dockerfile, and run as its own settings say, and as the DaemonSet does.

Turns a suite into a running image, or a sentence that says what did not work. Knows: podman's build and store, and what
a container engine does with the result (here: chroot in namespaces of its own, as engines may not run here). Does not
know: what the program is asked afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.install.tree import CERTIFICATES, Failed, Tree, run_here, wait_for

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "deploy" / "kubernetes" / "bwexporter.yml"
_RUN = """
mount --make-rprivate /; mount --bind "$0" "$0"; cd "$0"
mount -t proc proc proc; mount --rbind /dev dev; mount -t sysfs sysfs sys; mount -t tmpfs tmpfs tmp
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --bind "$1" etc/bwexporter; mount --bind "$2" var/lib/bwexporter; mount -o remount,bind,ro .
ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; ip link set eth0 up
shift 2
exec chroot . env -i "$@"
"""
_ONE_CAPABILITY = ("--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all,+net_admin")
_ASK = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"


class Image:
    """The built image, mounted."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.driver, self._store = _driver(folder), folder / "store"
        places = ["--root", str(self._store), "--runroot", str(folder / "run")]
        self._podman = ["podman", f"--storage-driver={self.driver}", *places]
        base = Tree(suite, folder, packages=("ca-certificates",))
        if CERTIFICATES.exists():
            base.put(CERTIFICATES, str(CERTIFICATES))
        base.run("sh", "-c", "apt-get clean; rm -rf /var/lib/apt/lists/*")
        run_here(["tar", "-C", str(base.root), "-cf", str(folder / "base.tar"), "."])
        run_here([*self._podman, "import", str(folder / "base.tar"), "bwexporter-base"])
        # The format of OCI has no health check.
        build = ["build", "--isolation=chroot", "--network=host", "--format=docker",
                 "--build-arg=BASE=localhost/bwexporter-base",
                 "-f", str(ROOT / "deploy" / "Dockerfile"), "-t", "bwexporter", str(ROOT)]  # fmt: skip
        run_here([*self._podman, *build])
        (told,) = json.loads(run_here([*self._podman, "image", "inspect", "bwexporter"]))
        self._settings: Mapping[str, Any] = {**told["Config"], "Healthcheck": told["Healthcheck"]["Test"]}
        self._root = Path(run_here([*self._podman, "image", "mount", "bwexporter"]).strip())
        self.megabytes, self.base_megabytes = _megabytes(self._root), _megabytes(base.root)

    def close(self) -> None:
        """Give it back."""
        subprocess.run([*self._podman, "image", "unmount", "--all"], check=False, capture_output=True)
        subprocess.run(["umount", "--recursive", str(self._store / "overlay")], check=False, capture_output=True)

    def see_it_work(self, folder: Path, config: str, slices: str) -> None:
        """Run its command as its user, and its health check as the engine would."""
        user = self._settings["User"].partition(":")[0]
        if user in {"", "0", "root"}:
            raise Failed(f"the image runs as {user or 'root'}")
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", *_ONE_CAPABILITY]
        kind, *check = self._settings["Healthcheck"]
        if kind != "CMD":
            raise Failed(f"the health check is of kind {kind}")
        asked = [*self._settings["Env"], "setpriv", f"--reuid={user}", "--clear-groups", *check]
        files = {"bwexporter.yml": config, "slices.yml": slices}
        self._run(
            folder,
            files,
            user,
            [*as_user, *self._settings["Cmd"]],
            lambda enter: _succeeds([*enter, "--mount", "--root", "--wd", "env", "-i", *asked]),
        )

    def see_it_work_in_a_pod(self, folder: Path) -> None:
        """Run it with the arguments, files and rights of the DaemonSet, and ask what its probes ask."""
        manifests = {one["kind"]: one for one in yaml.safe_load_all(MANIFESTS.read_text())}
        (container,) = manifests["DaemonSet"]["spec"]["template"]["spec"]["containers"]
        user = container["securityContext"]["runAsUser"]
        command = [
            "setpriv",
            "--no-new-privs",
            f"--reuid={user}",
            f"--regid={user}",
            *_ONE_CAPABILITY,
            *container["args"],
        ]
        (port,) = container["ports"]
        probes = [
            f"http://127.0.0.1:{port['containerPort']}{container[probe]['httpGet']['path']}"
            for probe in ("readinessProbe", "livenessProbe")
        ]
        self._run(
            folder, manifests["ConfigMap"]["data"], str(user), command,
            lambda enter: all(_succeeds([*enter, sys.executable, "-c", _ASK, url]) for url in probes),
        )  # fmt: skip

    def _run(
        self, folder: Path, files: Mapping[str, str], user: str, command: Sequence[str],
        is_healthy: Callable[[Sequence[str]], bool],
    ) -> None:  # fmt: skip
        """Run a command in the image until it is healthy and its device is shaped."""
        place, state = folder / "files", folder / "state"
        for made in (place, state):
            made.mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(text)
        run_here(["chown", "-R", f"{user}:{user}", str(place), str(state)])
        rooms = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        inside = [str(self._root), str(place), str(state), *self._settings["Env"], *command]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*rooms, "sh", "-ec", _RUN, *inside], stderr=log)
        try:
            wait_for(lambda: _works(process, is_healthy), "the health of the container")
        except Failed as error:
            raise Failed(f"{error}: {(folder / 'log').read_text()[-2000:]}") from error
        finally:
            # A program file with a capability forgets that it should end with its parent (prctl(2), PR_SET_PDEATHSIG).
            for child in children_of(process):
                os.kill(child, signal.SIGKILL)
            process.wait()


def _driver(folder: Path) -> str:
    """Return podman's way to put layers together: copies, where the kernel cannot lay folders over each other."""
    lower, upper, work, joined = (folder / "overlay" / name for name in ("lower", "upper", "work", "joined"))
    for place in (lower, upper, work, joined):
        place.mkdir(parents=True)
    laid = f"lowerdir={lower},upperdir={upper},workdir={work}"
    works = _succeeds(["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", laid, str(joined)])
    return "overlay" if works else "vfs"


def _works(process: subprocess.Popen[bytes], is_healthy: Callable[[Sequence[str]], bool]) -> bool:
    if process.poll() is not None:
        raise Failed("the container ended")
    children = children_of(process)
    if not children:
        return False
    enter = ["nsenter", "-t", str(children[0]), "--net", "--pid"]
    classes = subprocess.run(
        [*enter, "tc", "class", "show", "dev", "eth0"], capture_output=True, text=True, check=False
    ).stdout
    return "1:1001" in classes and is_healthy(enter)


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _megabytes(folder: Path) -> int:
    return int(run_here(["du", "-sm", str(folder)]).split()[0])


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes that one has started."""
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
