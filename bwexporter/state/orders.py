"""The orders given by hand as text, and back.

Turns a Hand into one row's JSON. Knows: its keys. Does not know: SQLite, what an order means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bwexporter.core.hand import Hand
from bwexporter.core.lanes import Instant, Lane, Traffic
from bwexporter.core.orders import FOR_GOOD, Action, Order
from bwexporter.state.pack import Damaged


def pack_hand(hand: Hand) -> str:
    """Pack the orders in force, the time they are measured by, and the tokens of what was done last."""
    written = {
        "at": asdict(hand.at),
        "seconds": hand.seconds,
        "orders": [_written(order) for order in hand.orders],
        "tokens": hand.tokens,
    }
    return json.dumps(written, allow_nan=False)


def unpack_hand(packed: str) -> Hand:
    """Return the hand that was packed; raise Damaged if it is not whole."""
    try:
        read = json.loads(packed)
        orders = tuple(_read(order) for order in read["orders"])
        return Hand(Instant(**read["at"]), float(read["seconds"]), orders, tuple(read["tokens"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("the orders by hand cannot be read") from error


def _written(order: Order) -> dict[str, Any]:
    """Return an order as JSON takes it, which knows no infinity."""
    return {
        **asdict(order),
        "action": order.action.value,
        "lane": order.lane and [order.lane.device, order.lane.slice_name, order.lane.traffic.value],
        "until_seconds": None if math.isinf(order.until_seconds) else order.until_seconds,
    }


def _read(written: Mapping[str, Any]) -> Order:
    lane, until = written["lane"], written["until_seconds"]
    return Order(
        **{
            **written,
            "action": Action(written["action"]),
            "lane": None if lane is None else Lane(lane[0], lane[1], Traffic(lane[2])),
            "until_seconds": FOR_GOOD if until is None else float(until),
        },
    )
