"""Channels: one destination's way into the network.

Turns packed bodies into datagrams on a socket. Knows: the rate, sequence numbers, the socket, addresses, what became of
each datagram. Does not know: what a body says, other destinations, where a destination was named.

Nothing here waits: the socket does not block, the rate is a token bucket on the monotonic clock that refuses at once,
and names are looked up in a thread of their own. A number of the sequence is used up by a datagram that was handed to
the network, and by no other.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.wire import pack_head

log = logging.getLogger("bwexporter.apmon")

HEADER = "v:2.2.0_bwexporterp:"
"""The level of the protocol, which receivers take from the first two numbers, and who we are; a password follows."""

SEQUENCES = 2_000_000_000
AGAIN_SECONDS = 300.0  # a name that was found is looked up again
SOON_SECONDS = 1.0  # one that was not: first after this, then ever later
LATEST_SECONDS = 60.0

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
Resolve = Callable[[str, int], Sequence[Address]]


class Drop(enum.Enum):
    """Why a datagram did not arrive, as far as this side can know."""

    RATE = "rate"  # more than the destination is sent
    QUEUE = "queue"  # what waited to be sent was overtaken by newer figures
    SIZE = "size"  # a parameter that fits no datagram
    UNRESOLVED = "unresolved"  # the name has no address yet
    UNREACHABLE = "unreachable"  # no way there
    REFUSED = "refused"  # its host said that nobody listens; it had been handed to the network
    BUSY = "busy"  # the kernel's buffer was full
    FORBIDDEN = "forbidden"  # a firewall of this node
    CLOSED = "closed"  # after the end
    FAILED = "failed"  # anything else


_DROP_OF = {
    errno.EAGAIN: Drop.BUSY,
    errno.ENOBUFS: Drop.BUSY,
    errno.ENOMEM: Drop.BUSY,
    errno.EMSGSIZE: Drop.SIZE,
    errno.ECONNREFUSED: Drop.REFUSED,
    errno.ENETUNREACH: Drop.UNREACHABLE,
    errno.EHOSTUNREACH: Drop.UNREACHABLE,
    errno.ENETDOWN: Drop.UNREACHABLE,
    errno.EHOSTDOWN: Drop.UNREACHABLE,
    errno.EADDRNOTAVAIL: Drop.UNREACHABLE,
    errno.EPERM: Drop.FORBIDDEN,
    errno.EACCES: Drop.FORBIDDEN,
}
_REPORTED = frozenset({Drop.REFUSED, Drop.UNREACHABLE})
"""What the network may say later, to the next send, of a datagram that it had taken."""
_OF_THE_SOCKET = frozenset({Drop.UNREACHABLE, Drop.FORBIDDEN, Drop.FAILED})
"""What another socket may be spared: this one keeps the address of ours that it had when it was opened."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a destination stands."""

    destination: str  # host:port
    sent: int  # datagrams handed to the network
    dropped: Mapping[Drop, int]
    last_success_wall_seconds: float | None  # of the last that nothing bad was heard of
    since_wall_seconds: float  # when it was taken up


class Bucket:
    """Tokens of a rate; a full bucket is a second's worth."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = float(rate)
        self._clock = clock
        self._tokens = self.rate
        self._at = clock()

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self.rate, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now

    def take(self) -> bool:
        """Take a token if there is one."""
        self._fill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        """Return a token that was taken for nothing."""
        self._tokens = min(self.rate, self._tokens + 1.0)

    def seconds_until_next(self) -> float:
        """Return the time until there is a token."""
        self._fill()
        return max(0.0, (1.0 - self._tokens) / self.rate)


class Channel:
    """One destination. Thread-safe; `close` ends it."""

    def __init__(
        self,
        destination: Destination,
        *,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve | None = None,
        resolve_again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self.destination = destination
        self.resolved = threading.Event()  # once an address was found, or the first look-up failed
        self._clock = clock
        self._resolve = resolve or addresses_of
        self._resolve_again_seconds = resolve_again_seconds
        self._dropped: dict[Drop, int] = dict.fromkeys(Drop, 0)
        self._sent = 0
        self._last_success: float | None = None
        self._since = time.time()
        self._addresses: tuple[Address, ...] = ()
        self._ended = threading.Event()
        self._rate = rate
        self._is_name = "%" in destination.host or not _is_address(destination.host)  # a link may be missing
        self._begin()
        if self._is_name:
            self._find()
        else:
            self.found(addresses_of(destination.host, destination.port))

    def _begin(self) -> None:
        """Be a new sender: in a new process the sequence starts anew under another id."""
        self._lock = threading.Lock()
        self._bucket = Bucket(self._rate, self._clock)
        self._instance_id = secrets.randbelow(2**31)
        self._sequence = 1
        self._socket: socket.socket | None = None
        self._unconfirmed: float | None = None  # wall time of a send of which nothing was heard yet
        self._finder: threading.Thread | None = None

    def renew_after_fork(self) -> None:
        """Begin anew in a child, which has none of the threads and must not share numbers or the socket."""
        inherited, ended = self._socket, self._ended
        if inherited is not None:
            inherited.close()
        self._ended, self.resolved = threading.Event(), threading.Event()
        if ended.is_set():
            self._ended.set()
        self._begin()  # addresses are known; a thread that looks names up starts with the first send

    def change(self, destination: Destination, rate: int) -> None:
        """Take over another password, other options, another rate; what was counted and the sequence go on."""
        with self._lock:
            self.destination = destination
            if rate != self._rate:
                self._rate = rate
                self._bucket = Bucket(rate, self._clock)

    def _find(self) -> None:
        """Look the name up in a thread, again and again."""
        ended = self._ended
        self._finder = threading.Thread(
            target=self._keep_finding, args=(ended,), name=f"apmon {self.destination.host}", daemon=True
        )
        self._finder.start()

    def _keep_finding(self, ended: threading.Event) -> None:
        failures = 0
        while not ended.is_set():
            try:
                addresses = self._resolve(self.destination.host, self.destination.port)
            except (OSError, UnicodeError) as error:  # the latter where a name is none in the DNS's spelling
                addresses = ()
                if failures == 0:
                    reason = getattr(error, "strerror", None) or error
                    log.warning("%s has no address: %s", self.destination.name, reason)
            if addresses:
                if failures:
                    log.info("%s has an address", self.destination.name)
                self.found(addresses)
            failures = 0 if addresses else failures + 1
            self.resolved.set()
            ended.wait(
                self._resolve_again_seconds
                if addresses
                else min(LATEST_SECONDS, SOON_SECONDS * 2 ** min(failures - 1, 10))
            )

    def found(self, addresses: Sequence[Address]) -> None:
        """Use these addresses from now on; the socket is kept while its address is among them."""
        with self._lock:
            if self._socket is not None and (not self._addresses or self._addresses[0] not in addresses):
                self._socket.close()
                self._socket = None
            if self._socket is None:
                self._addresses = tuple(addresses)
        self.resolved.set()

    def send(self, body: bytes) -> Drop | None:
        """Send a body, or say at once why not."""
        with self._lock:
            drop = self._send(body)
            if drop is not None:
                self._dropped[drop] += 1
            return drop

    def _send(self, body: bytes) -> Drop | None:
        if self._ended.is_set():
            return Drop.CLOSED
        if self._is_name and self._finder is None:
            self._find()
        if not self._addresses:
            return Drop.UNRESOLVED
        if not self._bucket.take():
            return Drop.RATE
        head = pack_head(HEADER + self.destination.password, self._instance_id, self._sequence)
        drop = self._hand_over(head + body)
        if drop is not None:
            self._bucket.give_back()
            return drop
        self._sequence = (self._sequence + 1) % SEQUENCES
        self._sent += 1
        self._unconfirmed = time.time()
        return None

    def _hand_over(self, payload: bytes) -> Drop | None:
        drop = self._connect()
        if drop is not None or self._socket is None:
            return drop
        self._hear()
        drop = self._try(self._socket, payload)
        if drop in _OF_THE_SOCKET:
            self._socket.close()
            self._socket = None
        return drop

    def _try(self, connected: socket.socket, payload: bytes) -> Drop | None:
        """Send; what is heard of an earlier datagram keeps this one from being sent, so it is tried once more."""
        drop = None
        for _ in range(2):
            try:
                connected.send(payload)
            except OSError as error:
                drop = _drop_of(error)
                if drop not in _REPORTED or self._unconfirmed is None:
                    return drop
                self._blame_earlier(drop)
            else:
                return None
        return drop

    def _connect(self) -> Drop | None:
        """Open a socket to the first address that there is a way to."""
        drop = None
        for family, address in self._addresses if self._socket is None else ():
            opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                opened.setblocking(False)
                opened.connect(address)
            except OSError as error:
                opened.close()
                drop = _drop_of(error)
            else:
                self._socket, drop = opened, None
                self._addresses = ((family, address), *(one for one in self._addresses if one[1] != address))
                break
        return drop

    def _hear(self) -> None:
        """Ask whether the network has said anything of what was sent before."""
        if self._socket is None or self._unconfirmed is None:
            return
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._blame_earlier(_DROP_OF.get(number, Drop.FAILED))
        else:
            self._last_success = self._unconfirmed

    def _blame_earlier(self, drop: Drop) -> None:
        self._dropped[drop] += 1
        self._unconfirmed = None

    def count(self, drop: Drop, datagrams: int = 1) -> None:
        """Count what did not even get here."""
        with self._lock:
            self._dropped[drop] += datagrams

    def seconds_until_free(self) -> float:
        """Return the time until the rate allows a datagram."""
        with self._lock:
            return self._bucket.seconds_until_next()

    def health(self) -> Health:
        """Return how the destination stands."""
        with self._lock:
            self._hear()
            dropped = MappingProxyType(dict(self._dropped))
            return Health(self.destination.name, self._sent, dropped, self._last_success, self._since)

    def close(self) -> None:
        """End: nothing is sent any more, and the thread that looks names up ends."""
        self._ended.set()
        with self._lock:
            if self._socket is not None:
                self._hear()
                self._socket.close()
                self._socket = None


def addresses_of(host: str, port: int) -> Sequence[Address]:
    """Look a host up; OSError where it has no address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # UDP over IPv4 or IPv6


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _drop_of(error: OSError) -> Drop:
    return _DROP_OF.get(error.errno or 0, Drop.FAILED)
