"""The container image: built from deploy/Dockerfile, and run as its user with the one capability.

Turns a suite into a running image, or a sentence that says what did not work. Knows: podman's build and store, and what
a container engine does with the result (here: chroot in namespaces of its own, as engines may not run here). Does not
know: what the program is asked afterwards.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.install.tree import CERTIFICATES, PATH, Failed, Tree, run_here, wait_for

ROOT = Path(__file__).parent.parent.parent
USER = "10099"
_RUN = """
mount --make-rprivate /; cd "$0"
mount -t proc proc proc; mount --rbind /dev dev; mount -t sysfs sysfs sys
mount --bind "$1" etc/bwexporter; mount --bind "$2" var/lib/bwexporter
ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up; ip link set eth0 up
exec chroot . env -i PATH={path} OPENBLAS_NUM_THREADS=1 setpriv --reuid={user} --regid={user} --clear-groups \
  --inh-caps=-all --ambient-caps=-all --bounding-set=-all,+net_admin bwexporter run
""".format(path=PATH, user=USER)  # noqa: UP032 - braces of the shell


class Image:
    """The built image, mounted."""

    def __init__(self, suite: str, folder: Path) -> None:
        self._podman = [
            "podman",
            "--storage-driver=vfs",
            "--root",
            str(folder / "store"),
            "--runroot",
            str(folder / "run"),
        ]
        base = Tree(suite, folder)
        if CERTIFICATES.exists():
            base.put(CERTIFICATES, str(CERTIFICATES))
        run_here(["tar", "-C", str(base.root), "-cf", str(folder / "base.tar"), "."])
        run_here([*self._podman, "import", str(folder / "base.tar"), "bwexporter-base"])
        build = ["build", "--isolation=chroot", "--network=host", "--build-arg=BASE=localhost/bwexporter-base",
                 "-f", str(ROOT / "deploy" / "Dockerfile"), "-t", "bwexporter", str(ROOT)]  # fmt: skip
        run_here([*self._podman, *build])
        self.root = Path(run_here([*self._podman, "image", "mount", "bwexporter"]).strip())
        self.megabytes = int(run_here(["du", "-sm", str(self.root)]).split()[0])

    def close(self) -> None:
        """Give it back."""
        subprocess.run([*self._podman, "image", "unmount", "--all"], check=False, capture_output=True)

    def see_it_work(self, folder: Path, config: str, slices: str) -> None:
        """Run it as its user, and ask what its health check asks."""
        files, state = folder / "files", folder / "state"
        for place in (files, state):
            place.mkdir()
        (files / "bwexporter.yml").write_text(config)
        (files / "slices.yml").write_text(slices)
        run_here(["chown", "-R", f"{USER}:{USER}", str(files), str(state)])
        rooms = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*rooms, "sh", "-ec", _RUN, str(self.root), str(files), str(state)], stderr=log)
        try:
            wait_for(lambda: self._is_healthy(process), "the health of the container")
        except Failed as error:
            raise Failed(f"{error}: {(folder / 'log').read_text()[-2000:]}") from error
        finally:
            # A program file with a capability forgets that it should end with its parent (prctl(2), PR_SET_PDEATHSIG).
            for child in children_of(process):
                os.kill(child, signal.SIGKILL)
            process.wait()

    def _is_healthy(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise Failed("the container ended")
        children = children_of(process)
        if not children:
            return False
        inside = ["nsenter", "-t", str(children[0]), "--net", "--mount", "--pid", "--root", "--wd"]
        asked = subprocess.run(
            [*inside, "setpriv", f"--reuid={USER}", "--clear-groups", "bwexporter", "status", "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        classes = subprocess.run(
            [*inside[:4], "tc", "class", "show", "dev", "eth0"], capture_output=True, text=True, check=False
        )
        return asked.returncode == 0 and '"ann"' in asked.stdout and "1:1001" in classes.stdout


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes that one has started."""
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
