"""The control socket: orders from people on this machine, never through the scrape port.

Turns one line of JSON into a command, and what became of it into one line of JSON. Knows: who may speak (the file's
mode, and the kernel's word for who the peer is), how long and how slowly, what a command needs. Does not know: slices,
what a command does, when turns run.

Each connection has a thread of its own, so that a slow one holds up nobody; there are few at a time. Whoever may not
speak is told so before a byte of theirs is read. The rights are those of the file: its owner is the user that
bwexporter runs as, and root; with a group in the configuration, its members too.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator

from bwexporter import telling
from bwexporter.core.hand import Done
from bwexporter.core.lanes import Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.errors import BwexporterError
from bwexporter.written import Text, Written, check, read_whole

MOST_BYTES = 4096
MOST_REASON_CHARACTERS = 200
READ_SECONDS = 2.0
DONE_SECONDS = 20.0
MOST_CONNECTIONS = 8
LONGEST_SECONDS = 400 * 86400.0
_MOST = 1 << 50  # bytes, and bytes a second: a petabyte

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_PEER = struct.Struct("=iII")


class Refused(Exception):
    """A request that is not carried out; the text is for whoever asked."""


class Control:
    """Listens until it is closed. `obey` hands a command to the daemon, `count_refusal` is told of each refusal."""

    def __init__(
        self,
        path: Path,
        obey: Callable[[Command], Future[Done]],
        count_refusal: Callable[[], None],
        *,
        group_id: int | None = None,
    ) -> None:
        """Make the socket; raise BwexporterError where it cannot be made."""
        self._path = path
        self._obey = obey
        self._count_refusal = count_refusal
        self._group_id = group_id
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._listening = _listen(path, group_id)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and take the socket away."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                if self._listening.fileno() < 0 or self._is_shut():
                    return
                time.sleep(0.1)  # out of file descriptors: those who wait are answered later
                continue
            if self._places.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), name="control peer", daemon=True).start()
            else:
                self._count_refusal()
                connection.close()

    def _is_shut(self) -> bool:
        return not self._listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                try:
                    answer = self._answer(connection)
                except Refused as refusal:
                    self._count_refusal()
                    answer = {"done": False, "refused": str(refusal)}
                connection.settimeout(READ_SECONDS)
                connection.sendall(json.dumps(answer).encode() + b"\n")
                _hear_out(connection)
        finally:
            self._places.release()

    def _answer(self, connection: socket.socket) -> Mapping[str, Any]:
        who = self._peer(connection)
        command = read_command(_line(connection), who)
        waiting = self._obey(command)
        try:
            done = waiting.result(DONE_SECONDS)
        except ValueError as refusal:
            raise Refused(str(refusal)) from refusal
        except RuntimeError:
            raise Refused("the turn that was to do it failed, as the log says; ask again with the same token") from None
        except StillWaiting:
            if waiting.cancel():
                raise Refused("no turn began in time, and nothing was done; see what the log says") from None
            raise Refused("the turn that does it has not ended yet; ask again with the same token") from None
        return {
            "done": True,
            "again": done.again,
            "saved": done.saved,
            "events": [telling.row(event) for event in done.events],
        }

    def _peer(self, connection: socket.socket) -> str:
        """Return who speaks, as the kernel knows it; raise Refused for who may not."""
        _, user_id, group_id = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user_id not in {0, os.geteuid()} and (
            self._group_id is None or self._group_id not in {group_id, *_further_groups(connection)}
        ):
            raise Refused(f"the user with id {user_id} may give no orders here")
        with suppress(KeyError):
            return f"{pwd.getpwuid(user_id).pw_name} (uid {user_id})"
        return f"uid {user_id}"


def read_command(line: bytes, who: str) -> Command:
    """Return the command of a line; raise Refused with every fault of it."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("that is not a line of JSON") from None
    keys, faults = check(_Keys, data)
    if keys is None or faults:
        texts = [f"{'.'.join(map(str, fault.path)) or 'the line'} {fault.text}" for fault in faults]
        raise Refused("; ".join(texts) or "that is not a command")
    written = {name for name in keys.model_fields_set if getattr(keys, name) is not None}
    misfit = list(_misfits(keys.action, written))
    if misfit:
        raise Refused("; ".join(misfit))
    given = {name: getattr(keys, name) for name in written}
    return Command(who=who, **given)


def _misfits(action: Action, written: set[str]) -> Iterator[str]:
    needed, allowed = _NEEDS[action], _NEEDS[action] | _ALLOWS[action] | {"token", "action", "reason"}
    yield from (f"{name} is missing" for name in sorted(needed - written))
    yield from (f"{name} has no meaning for {action.value}" for name in sorted(written - allowed))
    if action is Action.LEND and not written & _LENDABLE:
        yield "there is nothing to lend: name a rate, a guarantee or a share"


_LENDABLE = {"rate_bytes_per_second", "guarantee_bytes_per_second", "share"}
_WHICH = {"device", "traffic"}
_NEEDS: Mapping[Action, set[str]] = {
    Action.CAP: {"slice_name", "rate_bytes_per_second", "seconds"},
    Action.RELEASE: {"slice_name", "seconds"},
    Action.TOP_UP: {"slice_name", "volume_bytes"},
    Action.LEND: {"slice_name", "borrower", "seconds"},
    Action.RESTORE: {"slice_name"},
    Action.FREEZE: set(),
    Action.FULL_RATES: set(),
    Action.THAW: set(),
}
_ALLOWS: Mapping[Action, set[str]] = {
    Action.CAP: _WHICH,
    Action.RELEASE: _WHICH,
    Action.TOP_UP: _WHICH | {"seconds"},
    Action.LEND: _WHICH | _LENDABLE,
    Action.RESTORE: _WHICH,
    Action.FREEZE: {"seconds"},
    Action.FULL_RATES: {"seconds"},
    Action.THAW: set(),
}


def _short(written: str) -> str:
    if len(written) > MOST_REASON_CHARACTERS:
        raise ValueError(f"is longer than {MOST_REASON_CHARACTERS} characters")
    return written


def _seconds(written: object) -> float:
    if isinstance(written, bool) or not isinstance(written, int | float) or not 0 < written <= LONGEST_SECONDS:
        raise ValueError(f"must be a number of seconds, more than 0 and at most {LONGEST_SECONDS:.0f}")
    return float(written)


_Amount = Annotated[int | None, PlainValidator(partial(read_whole, least=1, most=_MOST))]
_Short = Annotated[Text, AfterValidator(_short)]


class _Keys(Written):
    token: _Short
    action: Action
    reason: _Short
    slice_name: Text | None = Field(default=None, alias="slice")
    device: Text | None = None
    traffic: Traffic | None = None
    borrower: Text | None = None
    rate_bytes_per_second: _Amount = None
    guarantee_bytes_per_second: _Amount = None
    volume_bytes: _Amount = None
    share: _Amount = None
    seconds: Annotated[float | None, PlainValidator(_seconds)] = None


def _line(connection: socket.socket) -> bytes:
    """Read a line that is neither too long nor too slow."""
    deadline, read = time.monotonic() + READ_SECONDS, b""
    while b"\n" not in read:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            part = connection.recv(MOST_BYTES + 1 - len(read))
        except TimeoutError:
            raise Refused(f"no whole line came within {READ_SECONDS:.0f} s") from None
        read += part
        if len(read) > MOST_BYTES:
            raise Refused(f"the line is longer than {MOST_BYTES} bytes")
        if not part:
            raise Refused("the line has no end")
        if b"\n" not in read and time.monotonic() > deadline:
            raise Refused(f"no whole line came within {READ_SECONDS:.0f} s")
    return read.partition(b"\n")[0]


def _hear_out(connection: socket.socket) -> None:
    """Throw away what a peer still sends: a socket closed before it is read breaks the peer's pipe, answer and all."""
    connection.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + READ_SECONDS
    while connection.recv(MOST_BYTES) and time.monotonic() < deadline:
        pass


def _further_groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the peer's further groups; of one in more than 255 none, who then needs the group as the first."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1020)
    except OSError:
        return ()
    return struct.unpack(f"={len(packed) // 4}I", packed)


def _listen(path: Path, group_id: int | None) -> socket.socket:
    """Bind the socket with its rights from its first moment on; one that a dead program left is replaced."""
    _make_way(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # what bind gives the file (unix_mknod, net/unix/af_unix.c)
        with within_reach(path) as place:
            listening.bind(place)
        if group_id is not None:
            os.chown(path, -1, group_id, follow_symlinks=False)
            path.chmod(0o660)
        listening.listen(8 * MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise BwexporterError(f"the control socket {path} could not be made: {error.strerror}") from error
    return listening


def _make_way(path: Path) -> None:
    """Remove the socket of a program that is dead: the state file is ours alone by now."""
    try:
        if path.is_socket():
            path.unlink()
    except OSError as error:
        raise BwexporterError(f"the old control socket {path} could not be removed: {error.strerror}") from error
    if path.is_symlink() or path.exists():
        raise BwexporterError(f"{path} is in the way of the control socket and is no socket: move it")


@contextmanager
def within_reach(path: Path) -> Iterator[str]:
    """Give a name of the socket that is short enough: an address holds 107 bytes, a path is as long as it likes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
