"""Who held the wheel when: orders by hand, from the events that tell of them.

Turns events into the hand that there was at each instant. Knows: what an event says of an order that was given or that
ended. Does not know: where events are kept, what an order makes of a tariff.

A top-up ends with the period of its lane's account, whatever its event said: where the past is lived through under
another policy, that period may be another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bwexporter.core.hand import Hand, open_hand
from bwexporter.core.lanes import Instant, Lane
from bwexporter.core.orders import FOR_GOOD, Action, Order, Outcome
from bwexporter.core.report import Event, EventKind


@dataclass(frozen=True, slots=True)
class Moved:
    """At an instant of Unix time: an order that was given, or that ended."""

    at_wall_seconds: float
    order: Order
    given: bool
    outcome: Outcome


def moves(events: Iterable[Event]) -> Iterator[Moved]:
    """Yield what happened to the wheel, in the order of the events; what cannot be read is left out."""
    for event in events:
        if event.kind is EventKind.BY_HAND:
            try:
                yield _moved(event)
            except (KeyError, TypeError, ValueError):
                continue


def held_at(moved: Iterable[Moved], now: Instant) -> Hand:
    """Return the hand as it was at an instant, after all that happened before it."""
    hand = open_hand(now)
    for one in moved:
        hand = after(hand, one, ends_with_period=True)
    return replace(hand, orders=tuple(order for order in hand.orders if order.until_seconds > hand.seconds))


def after(hand: Hand, moved: Moved, *, ends_with_period: bool = False) -> Hand:
    """Return the hand after an order was given or ended; an end with a period is left to whoever knows the period."""
    if not moved.given and moved.outcome is Outcome.PERIOD_ENDED and not ends_with_period:
        return hand
    others = tuple(order for order in hand.orders if _key(order) != _key(moved.order))
    return replace(hand, orders=(*others, moved.order) if moved.given else others)


def _key(order: Order) -> tuple[str, Action, Lane | None]:
    return order.token, order.action, order.lane


def _moved(event: Event) -> Moved:
    """Read an event; hand time is taken to be Unix time."""
    inputs: Any = event.inputs
    outcome = Outcome(inputs["outcome"])
    order = Order(
        token=str(inputs["token"]),
        action=Action(inputs["action"]),
        who=str(inputs["who"]),
        reason=str(inputs["reason"]),
        given_at_wall_seconds=event.at_wall_seconds,
        until_seconds=float(inputs.get("until_timestamp_seconds", FOR_GOOD)),
        lane=event.lane,
        borrower=str(inputs.get("borrower", "")),
        rate_bytes_per_second=int(inputs.get("rate_bytes_per_second", 0)),
        guarantee_bytes_per_second=int(inputs.get("guarantee_bytes_per_second", 0)),
        volume_bytes=int(inputs.get("volume_bytes", 0)),
        share=int(inputs.get("share", 0)),
    )
    return Moved(event.at_wall_seconds, order, outcome is Outcome.GIVEN, outcome)
