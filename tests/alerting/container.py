"""What a container engine makes of a service of deploy/compose.yml, as far as what runs in it can notice.

Turns a service into a process with the root, the mounts, the user, the capabilities and the command line that compose
asks for. Knows: the keys of compose that we use, what the files say that the images are built from. Does not know:
images; the programs are those of this machine, and the exporter is this project. `make install-check` has an engine.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.alerting.servers import DEPLOY, ROOT
from tests.waiting import PATIENCE_SECONDS

NOBODY = 65534


@dataclass(frozen=True)
class Image:
    """What the file says that an image is built from."""

    entry_point: Sequence[str]
    user: int
    folder: str = "/"
    shares: Mapping[Path, str] = field(default_factory=dict)  # of this machine, beside /usr: where the program is


_PROJECT = "/project"  # not where it lies here, which the image may have a file system of its own upon, as /tmp


def _inside(place: Path) -> str:
    """Return where a file is that may belong to the project."""
    return f"{_PROJECT}/{place.relative_to(ROOT)}" if place.is_relative_to(ROOT) else str(place)


# The command of our own image begins with `bwexporter`, which is a program there and a module here.
IMAGES: Mapping[str, Image] = {
    "bwexporter": Image(
        ("env", f"PYTHONPATH={_PROJECT}", _inside(Path(sys.executable)), "-m"),
        10099,
        shares={Path(sys.base_prefix): sys.base_prefix, ROOT: _PROJECT},
    ),
    "prometheus": Image(("prometheus",), NOBODY, "/prometheus"),
    "alertmanager": Image(("prometheus-alertmanager",), NOBODY, "/alertmanager"),
}
_ROOT = """
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$1"
cd "$1"
mkdir usr proc dev etc
for one in usr proc dev; do mount --rbind /$one $one; done
for one in bin sbin lib lib64; do
  if [ -L /$one ]; then cp -P /$one .; elif [ -d /$one ]; then mkdir $one; mount --rbind /$one $one; fi
done
"""


@contextmanager
def running(name: str, service: Mapping[str, Any], enter: Sequence[str], folder: Path) -> Iterator[Path]:
    """Run a service in a network that is entered by a command; give its log. Named volumes lie below the folder."""
    root, script, log = (folder / f"{name}.{end}" for end in ("root", "sh", "log"))
    root.mkdir()
    script.write_text(_script(service, IMAGES[name], folder))
    with log.open("wb") as out:
        command = ["setpriv", "--pdeathsig", "KILL", *enter, "unshare", "--mount", "sh", "-e", str(script), str(root)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


def _script(service: Mapping[str, Any], image: Image, folder: Path) -> str:
    """Write what makes the root and becomes the program."""
    lines = [line for share, target in image.shares.items() for line in _bind(share, target, read_only=True)]
    for mount in service["volumes"]:
        source, target, *how = mount.split(":")
        place = (DEPLOY / source).resolve() if source.startswith(".") else folder / source
        if not source.startswith("."):  # a volume is made with the owner of what the image has there
            place.mkdir()
            lines.append(f"chown {image.user}:{image.user} {shlex.quote(str(place))}")
        lines += _bind(place, target, read_only=how == ["ro"])
    lines += [f"mkdir -p .{place}; mount -t tmpfs -o mode=1777 tmpfs .{place}" for place in service.get("tmpfs", ())]
    if service.get("read_only"):
        lines.append("mount -o remount,ro .")
    kept = "".join(f",+{one.lower()}" for one in service.get("cap_add", ()))
    become = [
        *("chroot", ".", "env", "-i", f"--chdir={image.folder}", "PATH=/usr/bin:/bin", "OPENBLAS_NUM_THREADS=1"),
        *("setpriv", f"--reuid={image.user}", f"--regid={image.user}", "--clear-groups", "--no-new-privs"),
        *(f"--{which}=-all{kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")),
        *image.entry_point,
        *service["command"],
    ]
    return "\n".join([_ROOT, *lines, f"exec {shlex.join(become)}", ""])


def _bind(source: Path, target: str, *, read_only: bool) -> list[str]:
    """Write what mounts a file or a folder below the root that is being made."""
    place, here = shlex.quote(f".{target}"), shlex.quote(str(source))
    made = f"mkdir -p {place}" if source.is_dir() else f"mkdir -p $(dirname {place}); : > {place}"
    return [made, f"mount --bind {here} {place}", *([f"mount -o remount,bind,ro {place}"] if read_only else [])]
