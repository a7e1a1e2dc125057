"""A disk that can be full: a small tmpfs that is mounted where only those see it who enter its mount namespace."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.faults.program import ROOT


class Disk:
    """A small disk in a mount namespace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = 'mount -t tmpfs -o size=3m none "$0" && echo ready && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"ready\n"
        self.inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={ROOT}"]
        self.seen = Path(f"/proc/{self._holder.pid}/root{folder}")

    def run(self, *command: str) -> None:
        """Run a command that sees the disk."""
        subprocess.run([*self.inside, *command], check=True)

    def fill(self) -> None:
        """Leave no room."""
        with (self.seen / "filler").open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        """Remove what filled it."""
        (self.seen / "filler").unlink()

    def __enter__(self) -> Self:
        """Return the disk."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it with all that is on it."""
        self.close()

    def close(self) -> None:
        """End the namespace."""
        self._holder.kill()
        self._holder.communicate()
