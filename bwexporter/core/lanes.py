"""The words of a turn, as columns: one row a lane (device x slice x traffic).

Turns nothing into anything: it only names what the rooms hand to each other, from the kernel's dump to the exposition.
Knows: names, units, dtypes. Does not know: any rule, any handle's meaning, the clock.

Units are in the names: bytes, bytes per second, seconds. Integer columns are i8, never unsigned (5 - 7 must not be
2^64 - 2); times are f8. Arrays are read-only once they stand in a value. A column is compared with the `value` of an
enumeration's member: with the member itself that takes NumPy five times as long.

Two time axes. *Wall* time is Unix time and may be stepped. *Ledger* time is Unix time as of the first look, then moved
on by elapsed time alone; it never steps. Periods stand in ledger time; wall = ledger + Ledger.wall_offset_seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, Self, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.plans import Policy

I8 = NDArray[np.int64]
F8 = NDArray[np.float64]
B1 = NDArray[np.bool_]

UNLIMITED = 1 << 62
"""An allowance or a rate that is never reached: larger than any counter, and exact as a float."""

ROOT_SLICE = "_root"
DEFAULT_SLICE = "_default"


class Traffic(enum.Enum):
    """Under the node cap, or to the exempt destinations outside it."""

    NORMAL = "normal"
    EXEMPT = "exempt"


class Reason(enum.IntEnum):
    """Why a lane's ceiling is what it is; the lower-cased name is what people read. Up to PACED nothing is used up."""

    WITHIN = 0
    PACED = 1
    OVER_THRESHOLD = 2
    OVER_ALLOWANCE = 3
    CAPPED_BY_HAND = 4
    RELEASED = 5
    FROZEN = 6
    OFF = 7
    ON_LADDER = 8  # its policy's rung
    UNCOUNTED = 9  # an hour in which nothing counts


class Act(enum.IntEnum):
    """What a change does to one class."""

    CREATE = 0
    CHANGE = 1
    REMOVE = 2


class Lane(NamedTuple):
    """Identity of a row; an account belongs to it for as long as the account lives."""

    device: str
    slice_name: str
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of the clocks, taken once a turn."""

    wall_seconds: float
    boot_seconds: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Arrays of one length, read-only, and perhaps values that are said of all rows."""

    def __post_init__(self) -> None:
        """Make every array read-only; unequal lengths are a bug of ours (ValueError)."""
        columns = _columns(self)
        rows = len(columns[0])
        for column in columns:
            column.setflags(write=False)
            if len(column) != rows:
                lengths = sorted({len(column) for column in columns})
                raise ValueError(f"columns of unequal length in {type(self).__name__}: {lengths}")

    def __len__(self) -> int:
        """Count the rows."""
        return len(_columns(self)[0])

    def take(self, rows: I8 | B1) -> Self:
        """Return the rows of an index array or a mask, in its order."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        values = _getter(tuple(self.__dataclass_fields__))(self)
        return type(self)(*[value.take(rows, axis=0) if isinstance(value, np.ndarray) else value for value in values])


def _columns(columns: Columns) -> tuple[NDArray[Any], ...]:
    kind: Any = type(columns)
    return _reader(kind)(columns)


@cache
def _reader(kind: Any) -> Callable[[Columns], tuple[Any, ...]]:
    return _getter(_column_names(kind))


@cache
def _getter(names: tuple[str, ...]) -> Callable[[Columns], tuple[Any, ...]]:
    return attrgetter(*names)


@cache
def _column_names(kind: Any) -> tuple[str, ...]:
    """Return the fields that are declared as arrays."""
    hints = get_type_hints(kind)
    return tuple(name for name in kind.__dataclass_fields__ if get_origin(hints[name]) is np.ndarray)


@dataclass(frozen=True, slots=True)
class Classes(Columns):
    """Settings of HTB classes, wanted or actual; handles are opaque numbers here."""

    handle: I8
    parent: I8
    rate_bytes_per_second: I8
    ceiling_bytes_per_second: I8
    quantum_bytes: I8
    burst_ns: I8  # time to send the burst at the rate; the kernel holds multiples of 64 ns
    ceiling_burst_ns: I8
    leaf: I8  # the leaf queue's handle: the witness of one life of a class; 0: none of ours. Wanted: 1 for one, or 0


@dataclass(frozen=True, slots=True)
class Counts(Columns):
    """What the kernel has counted in classes since each was created."""

    sent_bytes: I8
    sent_packets: I8
    dropped_packets: I8  # modulo 2^32
    overlimits: I8  # modulo 2^32


@dataclass(frozen=True, slots=True)
class Endings(Columns):
    """Classes that were deleted since the previous look, in the order of their deletion, with their final counters."""

    handle: I8
    leaf: I8
    sent_bytes: I8
    sent_packets: I8
    dropped_packets: I8
    overlimits: I8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a device: every class of its tree, and what became known of those that ended since the look before.

    `clean` says that no class came or went while the dump ran, so that a class that is absent is gone.
    `watched_since_last_look` says that no deletion since the previous look can have gone unnoticed.
    `tree_present` is false where the root queue is not an HTB tree of ours (never built, or deleted).
    `tree_endings_bytes` are the totals of root queues deleted since the previous look, in order.
    """

    device: str
    ifindex: int
    tree_present: bool
    clean: bool
    watched_since_last_look: bool
    classes: Classes
    counts: Counts
    backlog_bytes: I8
    endings: Endings
    tree_endings_bytes: tuple[int, ...]
    tree_sent_bytes: int
    direct_packets: int  # unshaped, modulo 2^32


@dataclass(frozen=True, slots=True)
class Counters(Columns):
    """Kernel counters that feed accounts; row i of the first `Ledger.enrolled` is the class that lane i has now.

    Further rows are classes that a lane had before (of a removed slice, or under a changed id), until they are gone.
    """

    handle: I8
    parent: I8  # 0 while the class has not been seen
    account: I8  # row of the account that it feeds
    alive: B1  # the class has been there, and is not known to have ended; the numbers below are of this life
    unheard: B1  # since it was last seen, deletions can have gone unnoticed
    leaf: I8  # negative: promised to a class that had none, and not seen yet
    sent_bytes: I8
    sent_packets: I8
    dropped_packets: I8
    overlimits: I8


@dataclass(frozen=True, slots=True)
class Accounts(Columns):
    """What each lane has used; rows are those of `Ledger.lanes`."""

    used_bytes: I8
    period_start_at: F8  # ledger time
    period_end_at: F8  # ledger time, nominal
    sent_bytes: I8  # over the life of the account, as are the next three
    sent_packets: I8
    dropped_packets: I8
    overlimits: I8
    recent_bytes: I8  # sent between the last two looks
    recent_bytes_per_second: F8  # smoothed over about a minute
    told_reason: NDArray[np.int8]  # of the last event, as is the next
    told_ceiling_bytes_per_second: I8  # 0 before the first verdict
    carried_bytes: I8  # unused volume of earlier periods, by policy


@dataclass(frozen=True, slots=True)
class Rings(Columns):
    """What lanes with a sliding window have sent in its slots of time; one row for each such lane, by rising account.

    Slots are numbered from the beginning of ledger time on; each is as long as a fixed part of its lane's window.
    """

    account: I8  # row of the account
    window_seconds: F8
    unwanted_since: F8  # ledger time; infinity while the lane's policy asks for the window
    newest_slot: I8  # the number of the slot that runs
    newest_bytes: I8  # what was counted in it
    past_bytes: I8  # rows x slots of a window: what was counted in the slots before it, the oldest first


@dataclass(frozen=True, slots=True)
class Ledger:
    """The accounts of one device, and all that is needed to go on counting from the last look.

    Rows `[:enrolled]` are the lanes wanted now, in the order of the tariffs; the rest are those of slices that have
    been removed, kept until their period ends.
    """

    device: str
    ifindex: int
    at: Instant  # the last look
    ledger_seconds: float
    wall_offset_seconds: float
    lanes: tuple[Lane, ...]
    enrolled: int
    accounts: Accounts
    counters: Counters
    parent_handle: I8  # inner classes seen at the last look; their counters are witnesses
    parent_sent_bytes: I8
    tree_sent_bytes: int
    direct_packets_seen: int
    direct_packets: int  # over the life of the ledger
    rings: Rings | None = None  # None: no lane has a sliding window


@dataclass(frozen=True, slots=True)
class Tariffs(Columns):
    """What each wanted lane may do; rows are those of `lanes`."""

    lanes: tuple[Lane, ...]
    slice_id: I8
    full_bytes_per_second: I8
    guarantee_bytes_per_second: I8  # as asked; the verdicts hold what was admitted
    floor_bytes_per_second: I8  # as configured; the verdicts hold it as fitted
    allowance_bytes: I8  # UNLIMITED where none is configured
    threshold_bytes: I8
    share: I8
    period_rule: I8  # index into the tuple of period rules that goes with the tariffs
    hand_cap_bytes_per_second: I8  # UNLIMITED where no cap was set by hand
    hand_top_up_bytes: I8  # with what a policy carried over
    released: B1
    off: B1
    shadow: B1
    policies: Mapping[int, Policy] = field(default_factory=dict)  # by row of the whole; the law holds for the others


@dataclass(frozen=True, slots=True)
class Slid(Columns):
    """What sliding windows come to; rows are those of the tariffs, and all 0 for a lane that has none."""

    window_seconds: F8
    used_bytes: I8  # in the window
    room_bytes: I8  # what may be sent within the next `room_seconds`, which is where the rate comes from; 0: not asked
    room_seconds: F8


@dataclass(frozen=True, slots=True)
class Verdicts(Columns):
    """What the law says of each enrolled lane; rows are those of the tariffs.

    `ceiling` is the law's; `asked_ceiling` is what the kernel is asked for, which differs in shadow and while frozen.
    """

    ceiling_bytes_per_second: I8
    asked_ceiling_bytes_per_second: I8
    reason: NDArray[np.int8]
    floor_bytes_per_second: I8
    guarantee_bytes_per_second: I8
    allowance_bytes: I8  # with the top-up by hand
    threshold_bytes: I8
    capped: B1  # below the full rate because of the account; pacing is not a cap
    admitted_ratio: float  # smallest scale that guarantees had to be multiplied by; 1.0 when all were admitted
    counted_part: F8 | None = None  # of what is sent now, by policy; None: all of it for every lane
    slid: Slid | None = None  # None: no lane has a sliding window


@dataclass(frozen=True, slots=True)
class Changes(Columns):
    """The smallest list of changes from the actual to the wanted classes, in a safe order.

    `build_tree` asks for the root queue first. `drift` marks changes that nobody asked for: the class differs from what
    was last enforced. `stranger` marks removals of classes that belonged to nobody.
    """

    act: NDArray[np.int8]
    drift: B1
    stranger: B1
    before_ceiling_bytes_per_second: I8  # 0 for a creation
    classes: Classes
    build_tree: bool

    def __len__(self) -> int:
        """Count the changes of classes."""
        return len(self.act)


@dataclass(frozen=True, slots=True)
class Outcomes(Columns):
    """What became of each change; rows are those of the changes. 0 is applied; otherwise the kernel's errno.

    A removal of what is gone is applied. `enforced_ceiling` is read back (0 for a removal or where nothing answers).
    `given_leaf` is the handle of a leaf queue that a class was given which lived on, 0 for all others; None: no class.
    """

    errno: NDArray[np.int32]
    enforced_ceiling_bytes_per_second: I8
    tree_errno: int = 0
    given_leaf: I8 | None = None


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What the rooms need to know of a network device."""

    device: str
    ifindex: int
    line_rate_bytes_per_second: int | None  # None where the driver does not say
    gso_max_bytes: int


@cache
def no_classes() -> Classes:
    """Return classes without a row."""
    nothing = np.empty(0, np.int64)
    return Classes(*[nothing.copy() for _ in fields(Classes)])


@cache
def no_endings() -> Endings:
    """Return endings without a row."""
    nothing = np.empty(0, np.int64)
    return Endings(*[nothing.copy() for _ in fields(Endings)])
