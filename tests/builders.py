"""Makers of the words of a turn, with honest defaults: say only what a test is about.

A column is given as a number for all rows or as a sequence with one entry a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from bwexporter.core.lanes import UNLIMITED, Accounts, Columns, Counters, Instant, Lane, Ledger, Tariffs, Traffic

Table = TypeVar("Table", bound=Columns)

DAY_SECONDS = 86_400.0
GIGABIT = 125_000_000
NOON = 1_700_000_000.0
"""An instant that ledgers stand at; their periods began half a day before."""


def column(value: Any, rows: int, dtype: type) -> np.ndarray:
    """Return a fresh array of that many rows."""
    return np.array(np.broadcast_to(np.asarray(value, dtype), rows))


def table(kind: type[Table], rows: int, defaults: dict[str, Any], given: dict[str, Any], **dtypes: type) -> Table:
    """Return columns of a kind: the given ones over the defaults, 0 elsewhere, i8 unless said otherwise."""
    unknown = set(given) - {field.name for field in fields(kind)}
    if unknown:
        raise TypeError(f"{kind.__name__} has no {sorted(unknown)}")
    values = {**defaults, **given}
    return kind(
        **{
            field.name: value
            if isinstance(value := values.get(field.name, 0), dict)
            or (isinstance(value, tuple) and value and isinstance(value[0], Lane))
            else column(value, rows, dtypes.get(field.name, np.int64))
            for field in fields(kind)
        },
    )


def make_lanes(
    rows: int, traffic: Traffic | Sequence[Traffic] = Traffic.NORMAL, device: str = "eth0"
) -> tuple[Lane, ...]:
    """Return lanes of as many slices, s0, s1 and so on."""
    kinds = [traffic] * rows if isinstance(traffic, Traffic) else list(traffic)
    return tuple(Lane(device, f"s{row}", kind) for row, kind in enumerate(kinds))


def make_tariffs(rows: int = 1, *, traffic: Traffic | Sequence[Traffic] = Traffic.NORMAL, **given: Any) -> Tariffs:
    """Return tariffs: 10.8 GB at 80 %, 1 Gbit/s, floor 64 kbit/s, guarantee 1 kbit/s, nothing by hand."""
    defaults = {
        "lanes": make_lanes(rows, traffic),
        "slice_id": np.arange(rows) + 1,
        "full_bytes_per_second": GIGABIT,
        "guarantee_bytes_per_second": 125,
        "floor_bytes_per_second": 8_000,
        "allowance_bytes": 10_800_000_000,
        "threshold_bytes": 8_640_000_000,
        "share": 1,
        "hand_cap_bytes_per_second": UNLIMITED,
        "policies": {},
    }
    if rows == 0:
        return Tariffs(
            (),
            *[
                np.empty(0, bool if field.name in {"released", "off", "shadow"} else np.int64)
                for field in fields(Tariffs)[1:-1]
            ],
        )
    return table(Tariffs, rows, defaults, given, released=np.bool_, off=np.bool_, shadow=np.bool_)


def make_accounts(rows: int = 1, **given: Any) -> Accounts:
    """Return accounts at noon of a day that began at midnight, with nothing sent."""
    defaults = {"period_start_at": NOON - DAY_SECONDS / 2, "period_end_at": NOON + DAY_SECONDS / 2}
    times = dict.fromkeys(("period_start_at", "period_end_at", "recent_bytes_per_second"), np.float64)
    return table(Accounts, rows, defaults, given, **times)


def make_counters(rows: int = 1, **given: Any) -> Counters:
    """Return one living counter a lane, in the lanes' order, with our leaf queues."""
    defaults = {
        "handle": 0x1_1001 + np.arange(rows),
        "account": np.arange(rows),
        "alive": True,
        "leaf": 0x8001_0000 + 0x1_0000 * np.arange(rows),
    }
    return table(Counters, rows, defaults, given, alive=np.bool_, unheard=np.bool_)


def make_ledger(
    accounts: Accounts | None = None,
    *,
    ledger_seconds: float = NOON,
    enrolled: int | None = None,
    **given: Any,
) -> Ledger:
    """Return the ledger of eth0 over these accounts; every lane is enrolled unless said otherwise."""
    accounts = make_accounts() if accounts is None else accounts
    defaults = {
        "device": "eth0",
        "ifindex": 2,
        "at": Instant(ledger_seconds, 1_000.0, "boot"),
        "ledger_seconds": ledger_seconds,
        "wall_offset_seconds": 0.0,
        "lanes": make_lanes(len(accounts)),
        "enrolled": len(accounts) if enrolled is None else enrolled,
        "accounts": accounts,
        "counters": make_counters(len(accounts)),
        "parent_handle": np.empty(0, np.int64),
        "parent_sent_bytes": np.empty(0, np.int64),
        "tree_sent_bytes": 0,
        "direct_packets_seen": 0,
        "direct_packets": 0,
    }
    return Ledger(**{**defaults, **given})
