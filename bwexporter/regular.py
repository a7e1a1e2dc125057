"""Opening a file that somebody has named.

Turns a path into a stream that cannot keep its reader waiting. Knows: what a path may lead to besides a file (a pipe
that nobody writes to, a device, a socket, a folder). Does not know: what stands in the file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_REFUSED = "not a regular file; write the path of one"


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it; OSError, whose `strerror` says so where it is no regular file.

    A named pipe is opened without a wait for its writer, and closed again: a reader in a thread of ours could not be
    woken from that wait, not even to end the program.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as trouble:
        if trouble.errno != errno.ENXIO:  # what opening a socket gives
            raise
        raise OSError(errno.ENXIO, _REFUSED, str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, _REFUSED, str(path))
    return os.fdopen(descriptor, "rb")


@contextmanager
def held_regular(path: Path) -> Iterator[str]:
    """Give a name of the very file that was looked at, for libraries that open by name; OSError as above."""
    with open_regular(path) as stream:
        yield f"/proc/self/fd/{stream.fileno()}"
