"""One bwexporter to a device, and one to the classifier: two of them would undo each other's work.

Turns an interface index, or the network namespace, into a held name. Knows: abstract Unix sockets, whose names belong
to a network namespace and end with the process that holds them, also on kill -9. Does not know: devices' names, what is
done with what is held.
"""

from __future__ import annotations

import errno
import socket

from bwexporter.errors import DeviceRefused


def hold_device(ifindex: int) -> socket.socket:
    """Hold the device for as long as the returned socket is open; raise DeviceRefused where another process does.

    The name is bound in the network namespace that the caller is in now, which has to be the device's own.
    """
    return _hold(
        f"device-{ifindex}",
        f"interface index {ifindex}",
        f"another bwexporter runs on this device (interface index {ifindex}): stop it first, or leave the device to it",
    )


def hold_classifier() -> socket.socket:
    """Hold the classifier's tables of the network namespace that the caller is in now, likewise."""
    return _hold(
        "classifier",
        "the classifier of this network namespace",
        "another bwexporter sorts the packets of this network namespace, and its tables obey one alone: name this "
        "device below `devices` in that one's configuration, which may have several, or stop it first, or leave out "
        "`match` and `exempt` here",
    )


def _hold(name: str, what: str, refusal: str) -> socket.socket:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0bwexporter-{name}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise DeviceRefused(f"{what} could not be held: {error.strerror}") from error
        raise DeviceRefused(refusal) from error
    return held
