"""Listening sockets: bound here, or inherited.

Turns addresses into sockets that listen. Knows: the forms of an address, Unix sockets, what systemd hands over, how a
refusal is said. Does not know: who answers on them.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bwexporter.errors import BwexporterError

BACKLOG = 128
UNIX = "unix:"

_FIRST_INHERITED = 3  # sd_listen_fds(3)


def bind(listen: str) -> socket.socket:
    """Return a socket that listens on `host:port`, `[v6 address]:port`, `:port` for every address, or `unix:/path`.

    Port 0 takes a free one. Connections wait in the socket until a server answers them. Raises BwexporterError where
    the text is no address, the host is unknown, or the system refuses it (taken, not permitted).
    """
    if listen.startswith(UNIX):
        return _bind_unix(Path(listen.removeprefix(UNIX)))
    host, port = _split(listen)
    every = host in {"", "::"} and socket.has_dualstack_ipv6()
    try:
        family, address = (socket.AF_INET6, ("::", port)) if every else _resolve(listen, host, port)
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=every)
    except OSError as refusal:
        raise BwexporterError(f"cannot listen on {listen}: {_reason(refusal)}") from refusal


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise BwexporterError(
            f"cannot listen on {listen!r}: write host:port, [::1]:port for an IPv6 address, :port for every address, "
            "or unix:/path",
        )
    return (host[1:-1] if bracketed else host), int(port)


def _resolve(listen: str, host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as unknown:
        raise BwexporterError(f"cannot listen on {listen}: the host {host!r} is unknown") from unknown
    family, _, _, _, address = found[0]
    return family, address


def _reason(refusal: OSError) -> str:
    if refusal.errno == errno.EADDRINUSE:
        return "the port is taken; stop the other program or choose another port in web.listen"
    if refusal.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    if refusal.errno in {errno.EACCES, errno.EPERM}:
        return "not permitted; choose a port above 1023 in web.listen or grant CAP_NET_BIND_SERVICE"
    return os.strerror(refusal.errno) if refusal.errno else "the system refused it"


class _AtPath(socket.socket):
    """A socket that listens on a path, and takes its file away when it is closed, where that is still its own."""

    _file: tuple[int, int] | None = None

    def bind(self, address: Any, /) -> None:
        super().bind(address)
        self._file = _identity(Path(address))

    def close(self) -> None:
        if self.fileno() >= 0 and self._file is not None:
            path = Path(self.getsockname())
            with suppress(OSError):
                if _identity(path) == self._file:
                    path.unlink()
        super().close()


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _bind_unix(path: Path) -> socket.socket:
    """Listen on a path, in place of a socket there that nobody answers any more; the folder says who may come in."""
    listening = _AtPath(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_behind(path):
            path.unlink()
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen(BACKLOG)
    except OSError as refusal:
        listening.close()
        taken = refusal.errno == errno.EADDRINUSE
        reason = "somebody listens there already" if taken else refusal.strerror or str(refusal)
        raise BwexporterError(f"cannot listen on {UNIX}{path}: {reason}") from refusal
    return listening


def _is_left_behind(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def inherited(environment: Mapping[str, str], process: int) -> list[socket.socket]:
    """Return the sockets that systemd hands to this process (sd_listen_fds(3)). BwexporterError where there is none."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(process) or not count.isdigit() or not int(count):
        raise BwexporterError("there is no socket of systemd; start this by a socket unit, or without that flag")
    found = [socket.socket(fileno=_FIRST_INHERITED + number) for number in range(int(count))]
    for one in found:
        one.set_inheritable(False)
        if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BwexporterError("a socket of systemd is no listening stream; write ListenStream= in the socket unit")
    return found


def said(listening: socket.socket) -> str:
    """Return where a socket listens, as people read it."""
    if listening.family == socket.AF_UNIX:
        return f"{UNIX}{listening.getsockname()}"
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
