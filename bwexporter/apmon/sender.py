"""The sender: parameters to all destinations, at once or not at all.

Turns a cluster, a node and parameters into datagrams on the channel of each destination. Knows: how large a datagram
may be, which destinations there are, what a fork means. Does not know: files, schedules, what the parameters say.

Any thread may send. No call waits for the network, for a name or for the rate: what cannot be sent now is dropped,
counted, and named in the answer.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from bwexporter.apmon.channel import AGAIN_SECONDS, HEADER, Channel, Drop, Health, Resolve
from bwexporter.apmon.destinations import Destination
from bwexporter.apmon.options import LARGEST_MESSAGE_BYTES, LARGEST_RATE, SMALLEST_MESSAGE_BYTES, read_whole
from bwexporter.apmon.parameters import Pairs, Skipped, clean, clean_place, clean_timestamp, split
from bwexporter.apmon.wire import WORD_BYTES, assemble, pack_head

DEFAULT_RATE = 20  # datagrams a second and destination; receivers take 50 from one address
DEFAULT_MESSAGE_BYTES = 1440  # fits an Ethernet frame
RESOLVE_SECONDS = 2.0

_senders: weakref.WeakSet[Sender] = weakref.WeakSet()  # those that a fork has to tell


def _after_fork() -> None:
    for sender in list(_senders):
        sender.renew_after_fork()


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one call: datagrams handed to the network, dropped ones by destination, parameters not sent."""

    sent: int = 0
    dropped: Mapping[str, tuple[Drop, ...]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()

    @property
    def complete(self) -> bool:
        """Say whether something was sent, and everything to everybody."""
        return self.sent > 0 and not self.dropped and not self.skipped


class Message:
    """A cluster, a node and parameters, cleaned and packed; how it is split depends on the destination's password.

    Raises ValueError where the cluster, the node or the timestamp cannot be sent at all.
    """

    def __init__(
        self,
        cluster: str,
        node: str,
        parameters: Pairs,
        timestamp: float | None = None,
        *,
        short_integers: bool = False,
    ) -> None:
        self._place = clean_place(cluster, node)
        self._timestamp = clean_timestamp(timestamp)
        self._packed, self.skipped = clean(parameters, short_integers=short_integers)

    def bodies(self, password: str, message_bytes: int) -> tuple[list[bytes], int]:
        """Return what follows the heads of its datagrams, and how many parameters fit none."""
        head_bytes = len(pack_head(HEADER + password, 0, 0))
        room = message_bytes - head_bytes - len(self._place) - WORD_BYTES * (1 + (self._timestamp is not None))
        bodies = [assemble(b"", self._place, group, self._timestamp) for group in split(self._packed, room)]
        return bodies, sum(len(one) > room for one in self._packed)


class _Channels:
    """The channels there are; replaced as a whole, so that any thread may read it."""

    def __init__(self) -> None:
        self.by_name: dict[str, Channel] = {}

    def close(self) -> None:
        for channel in self.by_name.values():
            channel.close()


class Sender:
    """Sends to a set of destinations until it is closed; a context manager.

    `rate` is in datagrams a second and destination. Names are looked up in the background; construction waits for the
    first answer for at most `resolve_seconds`, and nothing waits later.
    """

    def __init__(
        self,
        destinations: Iterable[Destination],
        *,
        rate: int = DEFAULT_RATE,
        message_bytes: int = DEFAULT_MESSAGE_BYTES,
        short_integers: bool = False,
        resolve_seconds: float = RESOLVE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve | None = None,
        resolve_again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._rate = read_whole(rate, 1, LARGEST_RATE)
        self._message_bytes = read_whole(message_bytes, SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES)
        self._short_integers = short_integers
        self._clock = clock
        self._resolve, self._resolve_again_seconds = resolve, resolve_again_seconds
        self._change = threading.Lock()
        self._held = _Channels()
        self._closed = False
        weakref.finalize(self, self._held.close)  # a sender that is forgotten leaves no thread behind
        self.replace(destinations)
        _senders.add(self)
        self.wait_for_names(resolve_seconds)

    def wait_for_names(self, seconds: float = RESOLVE_SECONDS) -> None:
        """Wait until each name was looked up once, but no longer than this."""
        deadline = time.monotonic() + seconds
        for channel in self._channels.values():
            channel.resolved.wait(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        """Return the sender."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        return f"Sender({', '.join(self._channels)})"

    @property
    def _channels(self) -> Mapping[str, Channel]:
        return self._held.by_name

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Return where it sends to."""
        return tuple(channel.destination for channel in self._channels.values())

    def send(
        self, cluster: str, node: str, parameters: Pairs, timestamp: float | None = None, *, to: str | None = None
    ) -> Delivery:
        """Send parameters to every destination, or to the one named host:port, in as few datagrams as they fit in.

        ValueError where the cluster, the node or the timestamp cannot be sent at all; nothing has been sent then.
        """
        message = Message(cluster, node, parameters, timestamp, short_integers=self._short_integers)
        channels = self._channels
        wanted = list(channels.values()) if to is None else [channels[to]] if to in channels else []
        sent, dropped = 0, {}
        for channel in wanted:
            drops = self._send_on(channel, message)
            sent += drops.count(None)
            lost = tuple(drop for drop in drops if drop is not None)
            if lost:
                dropped[channel.destination.name] = lost
        return Delivery(sent, dropped, message.skipped)

    def _send_on(self, channel: Channel, message: Message) -> list[Drop | None]:
        bodies, oversized = message.bodies(channel.destination.password, self._message_bytes)
        if oversized:
            channel.count(Drop.SIZE, oversized)
        return [channel.send(body) for body in bodies] + [Drop.SIZE] * oversized

    def bodies_for(self, name: str, message: Message) -> Sequence[bytes]:
        """Return what a message becomes for one destination, to be sent piece by piece with `send_body`."""
        channel = self._channels.get(name)
        if channel is None:
            return ()
        bodies, oversized = message.bodies(channel.destination.password, self._message_bytes)
        if oversized:
            channel.count(Drop.SIZE, oversized)
        return bodies

    def send_body(self, name: str, body: bytes) -> Drop | None:
        """Send one piece to one destination, or say why not."""
        channel = self._channels.get(name)
        return Drop.CLOSED if channel is None else channel.send(body)

    def seconds_until_free(self, name: str) -> float:
        """Return the time until the rate allows a datagram to a destination."""
        channel = self._channels.get(name)
        return 0.0 if channel is None else channel.seconds_until_free()

    def count_dropped(self, name: str, drop: Drop, datagrams: int = 1) -> None:
        """Count datagrams that a caller gave up."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.count(drop, datagrams)

    def replace(
        self, destinations: Iterable[Destination], *, rate: int | None = None, message_bytes: int | None = None
    ) -> None:
        """Send to these from now on. Those that stay keep their sequence; those that go are closed."""
        if rate is not None:
            self._rate = read_whole(rate, 1, LARGEST_RATE)
        if message_bytes is not None:
            self._message_bytes = read_whole(message_bytes, SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES)
        with self._change:
            if self._closed:
                return
            before, after = self._channels, dict[str, Channel]()
            for destination in destinations:
                channel = before.get(destination.name)
                if channel is None:
                    channel = self._open(destination)
                else:
                    channel.change(destination, self._rate)
                after[destination.name] = channel
            self._held.by_name = after
        for name, channel in before.items():
            if name not in after:
                channel.close()

    def _open(self, destination: Destination) -> Channel:
        return Channel(
            destination,
            rate=self._rate,
            clock=self._clock,
            resolve=self._resolve,
            resolve_again_seconds=self._resolve_again_seconds,
        )

    def set_rate(self, rate: int) -> None:
        """Send at most so many datagrams a second to each destination."""
        self.replace(self.destinations, rate=rate)

    def set_message_bytes(self, message_bytes: int) -> None:
        """Split at this size."""
        self._message_bytes = read_whole(message_bytes, SMALLEST_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES)

    def health(self) -> tuple[Health, ...]:
        """Return how each destination stands."""
        return tuple(channel.health() for channel in self._channels.values())

    def renew_after_fork(self) -> None:
        """Be a sender of its own in a child process."""
        self._change = threading.Lock()
        for channel in self._channels.values():
            channel.renew_after_fork()

    def close(self) -> None:
        """End; what is sent later is dropped and counted."""
        with self._change:
            self._closed = True
        self._held.close()
