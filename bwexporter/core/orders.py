"""The words of the hand: what can be ordered, and an order in force.

Turns nothing into anything: it names what the hand, the report and the state file say to each other. Knows: actions,
fields, units. Does not know: when an order ends, what it makes of a tariff.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bwexporter.core.lanes import Lane, Traffic

FOR_GOOD = float("inf")


class Action(enum.Enum):
    """What can be done by hand; the value is what people write and read."""

    CAP = "cap"
    RELEASE = "release"
    TOP_UP = "top-up"
    LEND = "lend"
    FREEZE = "freeze"
    FULL_RATES = "full-rates"
    RESTORE = "restore"
    THAW = "thaw"


OF_NODE = frozenset({Action.FREEZE, Action.FULL_RATES, Action.THAW})


class Outcome(enum.Enum):
    """What became of an order; the value is what an event says."""

    GIVEN = "given"
    REPLACED = "replaced"
    RESTORED = "restored"
    EXPIRED = "expired"
    PERIOD_ENDED = "ended with its period"


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody asks for. An empty name stands for every one; `seconds` is None where there is no end."""

    token: str
    action: Action
    who: str
    reason: str
    slice_name: str = ""
    device: str = ""
    traffic: Traffic | None = None
    borrower: str = ""
    rate_bytes_per_second: int = 0
    guarantee_bytes_per_second: int = 0
    volume_bytes: int = 0
    share: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One command as it holds for one lane, or for the node where `lane` is None."""

    token: str  # of the command
    action: Action
    who: str
    reason: str
    given_at_wall_seconds: float
    until_seconds: float  # hand time; infinity where no clock ends it
    lane: Lane | None = None
    borrower: str = ""
    rate_bytes_per_second: int = 0  # of a cap, or lent
    guarantee_bytes_per_second: int = 0  # lent
    volume_bytes: int = 0  # of a top-up
    share: int = 0  # lent

    @property
    def debtor(self) -> Lane | None:
        """Return the lane that a loan goes to: the same device and traffic as the lender's."""
        if self.lane is None or not self.borrower:
            return None
        return self.lane._replace(slice_name=self.borrower)

    @property
    def terms(self) -> dict[str, int | float | str]:
        """Return what was ordered: the action, and the amounts and the borrower that it has."""
        amounts: dict[str, int | str] = {
            "rate_bytes_per_second": self.rate_bytes_per_second,
            "guarantee_bytes_per_second": self.guarantee_bytes_per_second,
            "volume_bytes": self.volume_bytes,
            "share": self.share,
            "borrower": self.borrower,
        }
        return {"action": self.action.value, **{name: amount for name, amount in amounts.items() if amount}}


@dataclass(frozen=True, slots=True)
class InForce:
    """An order in force as a report tells it."""

    order: Order
    until_wall_seconds: float  # of a top-up, at the latest the end of the period; infinity where there is no end
    resting: bool = False  # a loan that its lender cannot spare now
