"""One bwexporter to a device: two that count and cap the same classes would undo each other's work.

Turns an interface index into a held name. Knows: abstract Unix sockets, whose names belong to a network namespace and
end with the process that holds them, also on kill -9. Does not know: devices' names, what is done with them.
"""

from __future__ import annotations

import errno
import socket

from bwexporter.errors import DeviceRefused


def hold_device(ifindex: int) -> socket.socket:
    """Hold the device for as long as the returned socket is open; raise DeviceRefused where another process does.

    The name is bound in the network namespace that the caller is in now, which has to be the device's own.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0bwexporter-device-{ifindex}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise DeviceRefused(f"interface index {ifindex} could not be held: {error.strerror}") from error
        raise DeviceRefused(
            f"another bwexporter runs on this device (interface index {ifindex}): stop it first, or leave the device "
            "to it",
        ) from error
    return held
