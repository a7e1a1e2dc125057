"""The one frozen fact of a turn, which metrics, pages, push, history and log all hear.

Turns nothing into anything: it names what a turn tells. Knows: which facts belong together. Does not know: how any
listener says them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bwexporter.core.lanes import B1, F8, I8, Changes, Columns, Instant, Lane, Ledger, Outcomes, Tariffs, Verdicts
from bwexporter.core.orders import InForce


class EventKind(enum.Enum):
    """What an event records; the value is what is stored and shown."""

    VERDICT = "verdict"  # the reason changed
    CEILING = "ceiling"  # the ceiling halved or doubled since the last event
    PERIOD_ROLLED = "period_rolled"
    COUNTER_RESTARTED = "counter_restarted"
    TREE_ENDED = "tree_ended"
    IMPLAUSIBLE = "implausible_reading"
    DRIFT = "drift"
    REFUSED = "change_refused"
    GUARANTEES_SCALED = "guarantees_scaled"
    CLOCK_STEPPED = "clock_stepped"
    BY_HAND = "by_hand"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, with its inputs; `lane` is None for what concerns a device or the node."""

    at_wall_seconds: float
    kind: EventKind
    device: str
    lane: Lane | None
    inputs: Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class WouldBe(Columns):
    """What would be, were the verdicts of lanes in shadow enforced; rows are those of the tariffs.

    Bytes and spans are those since `since`: the begin of the lane's period, or later, when the shadow began.
    """

    in_shadow: B1  # what is said of the other lanes means nothing
    since_wall_seconds: F8
    ceiling_bytes_per_second: I8
    capped: B1
    recorded_bytes: I8
    sent_bytes: I8
    spans: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)  # by row: when it was capped


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What a turn found and did on one device. Rows of every column are those of `tariffs.lanes`.

    `trouble` is empty when the device could be read; otherwise it says in one sentence what kept it from being read,
    and the rest is that of the last good turn. `outcomes` is None where nothing was to be applied (shadow, frozen).
    """

    device: str
    trouble: str
    cap_bytes_per_second: int
    line_rate_bytes_per_second: int
    ledger: Ledger
    tariffs: Tariffs
    verdicts: Verdicts
    enforced_ceiling_bytes_per_second: I8  # -1 where the kernel has no class for the lane
    backlog_bytes: I8
    seconds_to_threshold: F8  # inf where it is not reached in this period
    seconds_to_allowance: F8
    changes: Changes
    outcomes: Outcomes | None
    implausible_readings: int = 0
    expected_used_bytes: I8 | None = None  # at the period's end, as forecast
    earlier_periods: I8 | None = None  # whose same hours speak in the forecasts; 0: the recent rate alone
    would_be: WouldBe | None = None  # None: no lane is in shadow

    @property
    def used_bytes(self) -> I8:
        """Return what counts against each allowance: what was used in the period, or what the sliding window holds."""
        used, slid = self.ledger.accounts.used_bytes[: len(self.tariffs)], self.verdicts.slid
        return used if slid is None else np.where(slid.window_seconds > 0, slid.used_bytes, used)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source of slices stands; it goes on with the last good records while `up` is false."""

    name: str
    up: bool
    slices: int
    problems: tuple[str, ...]
    last_success_wall_seconds: float
    unkept: bool = False  # what is good now could not be put on disk for the next start


@dataclass(frozen=True, slots=True)
class PushStatus:
    """How a destination of a push stands; it is named host:port."""

    destination: str
    datagrams: int  # handed to the network since it is a destination
    dropped: Mapping[str, int]  # by reason
    last_success_wall_seconds: (
        float  # of the last datagram that nothing bad was heard of; at first, when it was taken up
    )


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """What is known of a slice beside its lanes: for the info metric and the pages."""

    slice_name: str
    slice_id: int
    source: str
    owners: tuple[str, ...]
    labels: Mapping[str, str]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One turn of the node. An early look is a turn that covers only the devices that were due."""

    node: str
    at: Instant
    early: bool
    enforcing: bool  # false: shadow
    frozen: bool
    devices: tuple[DeviceReport, ...]
    events: tuple[Event, ...]
    stage_seconds: Mapping[str, float]  # look count judge plan save act tell
    turn_seconds: float
    next_look_seconds: float
    clock_steps: int = 0
    sources: tuple[SourceStatus, ...] = ()
    saved: bool = True
    save_trouble: str = ""  # may be said of a turn that was saved too: a copy that failed, a file restored
    state_saved_wall_seconds: float = 0.0
    sorting_drift: int = 0  # rules of the classifier that differed though nobody asked for it
    sorting_problems: tuple[str, ...] = ()
    config_reload_successful: bool = True
    config_reloaded_wall_seconds: float = 0.0
    info: Mapping[str, SliceInfo] = field(default_factory=dict)
    by_hand: tuple[InForce, ...] = ()  # the orders in force
    pushes: tuple[PushStatus, ...] = ()
