"""The connections there are, and who has to go when there are too many.

Turns arrivals into departures: whoever has been idle for longest leaves first, so that a thousand silent clients push
each other out and never the one who asks. Knows: seats, their order. Does not know: protocols, time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


def _never() -> bool:
    return False


@dataclass(eq=False)
class Seat:
    """One connection."""

    is_busy: Callable[[], bool] = field(default=_never)  # an answer is being made or sent
    transport: asyncio.Transport | None = None


class Crowd:
    """The seats in the order of their last activity; the event loop's thread alone uses it."""

    def __init__(self, most: int) -> None:
        self.seats: dict[Seat, None] = {}
        self._most = most

    def enter(self, seat: Seat, transport: asyncio.Transport) -> None:
        """Take a seat; where there is none left, another one is made free."""
        seat.transport = transport
        self.seats[seat] = None
        if len(self.seats) > self._most:
            others = (one for one in self.seats if one is not seat)
            self.abort(next((one for one in others if not one.is_busy()), next(iter(self.seats))))

    def touch(self, seat: Seat) -> None:
        """Note that somebody did something."""
        if seat in self.seats:
            self.seats[seat] = self.seats.pop(seat)

    def leave(self, seat: Seat) -> None:
        """Give a seat back; twice is once."""
        self.seats.pop(seat, None)

    def abort(self, seat: Seat) -> None:
        """End a connection at once."""
        self.leave(seat)
        if seat.transport is not None:
            seat.transport.abort()

    def abort_idle(self) -> None:
        """End what waits for nothing of ours."""
        for seat in [seat for seat in self.seats if not seat.is_busy()]:
            self.abort(seat)

    def abort_all(self) -> None:
        """End everything."""
        for seat in list(self.seats):
            self.abort(seat)
