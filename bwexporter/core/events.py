"""Events: what of a turn is worth remembering.

Turns the facts of a turn on one device into events with their inputs, and the accounts with what has now been told.
Knows: which changes matter (a verdict's reason, a ceiling halved or doubled, the end of a period, a restarted counter,
drift, a refusal). Does not know: where events are kept or shown.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bwexporter.core.accounting import Count
from bwexporter.core.lanes import (
    B1,
    F8,
    I8,
    UNLIMITED,
    Accounts,
    Act,
    Changes,
    Ledger,
    Outcomes,
    Reason,
    Slid,
    Tariffs,
    Verdicts,
)
from bwexporter.core.report import Event, EventKind

Refusal = tuple[int, int, int]
"""An act, the handle of a class, and the errno that it was refused with."""

APPLIED, WAITING, FAILED, IN_SHADOW, KEPT = "applied", "waiting", "failed", "shadow", "kept"
"""What becomes of a verdict in the kernel, beside the name of an errno: it is in force, comes with a later turn, could
not be asked for, is judged only, or is what the kernel has because that stays frozen."""

FROZEN_BY_HAND, FROZEN_BY_LOSS = "hand", "loss"
"""What freezes lanes: an operator the whole node, the loss of their accounts some."""

_BUILD_TREE = -1  # the act of a refusal that concerns the tree as a whole


def of_count(count: Count, implausible: I8) -> tuple[Event, ...]:
    """Tell what counting found: ended periods, restarted counters, a deleted tree, a stepped clock."""
    return tuple(_of_count(count, implausible))


def _of_count(count: Count, implausible: I8) -> Iterator[Event]:
    ledger = count.ledger
    at, device, lanes = ledger.at.wall_seconds, ledger.device, ledger.lanes
    if count.stepped_seconds:
        yield Event(at, EventKind.CLOCK_STEPPED, device, None, {"stepped_seconds": round(count.stepped_seconds, 3)})
    if count.tree_ended:
        yield Event(at, EventKind.TREE_ENDED, device, None, {})
    for row in count.restarted.tolist():
        inputs = {"used_bytes": int(ledger.accounts.used_bytes[row])}
        yield Event(at, EventKind.COUNTER_RESTARTED, device, lanes[row], inputs)
    for row in implausible.tolist():
        inputs = {"counted_bytes": int(ledger.accounts.recent_bytes[row])}
        yield Event(at, EventKind.IMPLAUSIBLE, device, lanes[row], inputs)
    for row, used, periods in zip(count.rolled.tolist(), count.ended_used_bytes, count.ended_periods, strict=True):
        inputs = {"used_bytes": int(used), "periods": int(periods)}
        yield Event(at, EventKind.PERIOD_ROLLED, device, lanes[row], inputs)


def of_verdicts(
    ledger: Ledger,
    tariffs: Tariffs,
    verdicts: Verdicts,
    *,
    outcomes_of: Callable[[Sequence[int]], Sequence[str]],
    frozen_by: str = FROZEN_BY_LOSS,
) -> tuple[tuple[Event, ...], Accounts]:
    """Tell changed reasons, and ceilings that halved or doubled; smaller changes belong to the event before.

    Returns the events and the ledger's accounts with what has now been told. A lane's first verdict is told only where
    it is not the full rate, and a full rate that became another one however little it moved. `outcomes_of`
    says of rows what became of their ceilings in the kernel, `frozen_by` what freezes those lanes that are frozen.
    """
    accounts, enrolled = ledger.accounts, ledger.enrolled
    told_reason = accounts.told_reason[:enrolled]
    told = accounts.told_ceiling_bytes_per_second[:enrolled]
    ceiling = verdicts.ceiling_bytes_per_second
    reason_changed = verdicts.reason != told_reason
    far = (ceiling >= 2 * told) | (2 * ceiling <= told)
    ceiling_changed = (told > 0) & np.where(verdicts.reason == Reason.WITHIN.value, ceiling != told, far)
    tell = reason_changed | ceiling_changed
    rows = np.flatnonzero(tell).tolist()
    events = tuple(
        Event(
            ledger.at.wall_seconds,
            EventKind.VERDICT if reason_changed[row] else EventKind.CEILING,
            ledger.device,
            ledger.lanes[row],
            {**_inputs(ledger, tariffs, verdicts, row, frozen_by), "outcome": outcome},
        )
        for row, outcome in zip(rows, outcomes_of(rows) if rows else (), strict=True)
    )
    first = told == 0
    if not (tell | first).any():
        return (), accounts
    new_reason, new_told = accounts.told_reason.copy(), accounts.told_ceiling_bytes_per_second.copy()
    new_reason[:enrolled] = np.where(tell, verdicts.reason, told_reason)
    new_told[:enrolled] = np.where(tell | first, ceiling, told)
    return events, replace(accounts, told_reason=new_reason, told_ceiling_bytes_per_second=new_told)


def _inputs(
    ledger: Ledger, tariffs: Tariffs, verdicts: Verdicts, row: int, frozen_by: str
) -> dict[str, int | float | str]:
    accounts = ledger.accounts
    inputs: dict[str, int | float | str] = {
        "used_bytes": int(accounts.used_bytes[row]),
        "elapsed_seconds": round(float(ledger.ledger_seconds - accounts.period_start_at[row]), 3),
        "remaining_seconds": round(float(accounts.period_end_at[row] - ledger.ledger_seconds), 3),
        "full_bytes_per_second": int(tariffs.full_bytes_per_second[row]),
        "floor_bytes_per_second": int(verdicts.floor_bytes_per_second[row]),
        "old_reason": Reason(int(accounts.told_reason[row])).name.lower(),
        "reason": Reason(int(verdicts.reason[row])).name.lower(),
        "old_ceiling_bytes_per_second": int(accounts.told_ceiling_bytes_per_second[row]),
        "ceiling_bytes_per_second": int(verdicts.ceiling_bytes_per_second[row]),
    }
    if verdicts.reason[row] == Reason.FROZEN:
        inputs["frozen_by"] = frozen_by
    if verdicts.counted_part is not None and verdicts.counted_part[row] < 1.0:
        inputs["counted_part"] = float(verdicts.counted_part[row])
    if verdicts.slid is not None and verdicts.slid.window_seconds[row]:
        inputs |= _of_window(verdicts.slid, row)
    if verdicts.allowance_bytes[row] < UNLIMITED:
        inputs["allowance_bytes"] = int(verdicts.allowance_bytes[row])
        inputs["threshold_bytes"] = int(verdicts.threshold_bytes[row])
    return inputs


def _of_window(slid: Slid, row: int) -> dict[str, int | float | str]:
    """Return what a sliding window holds, which takes the place of what was used in the period, and what is left."""
    return {
        "used_bytes": int(slid.used_bytes[row]),
        "window_seconds": float(slid.window_seconds[row]),
        "room_bytes": int(slid.room_bytes[row]),
        "room_seconds": round(float(slid.room_seconds[row]), 3),
    }


def of_guarantees(ledger: Ledger, tariffs: Tariffs, verdicts: Verdicts, told: F8) -> tuple[tuple[Event, ...], F8]:
    """Tell guarantees that are not admitted as asked: when that begins, and when their part halved or doubled since.

    `told` is the part of each lane's guarantee that was told last, 1 for what is admitted as asked. Returns the events
    and what has now been told.
    """
    asked = np.maximum(tariffs.guarantee_bytes_per_second, 1)
    part = verdicts.guarantee_bytes_per_second / asked
    if (part == told).all():
        return (), told
    changed = ((part < 1) & ((told == 1) | (2 * part <= told) | (part >= 2 * told))) | ((part == 1) & (told < 1))
    events = tuple(
        Event(
            ledger.at.wall_seconds,
            EventKind.GUARANTEES_SCALED,
            ledger.device,
            ledger.lanes[row],
            {"asked_bytes_per_second": int(asked[row]), "admitted_bytes_per_second": int(part[row] * asked[row] + 0.5)},
        )
        for row in np.flatnonzero(changed).tolist()
    )
    return events, np.where(changed, part, told)


def of_outcomes(
    ledger: Ledger,
    changes: Changes,
    outcomes: Outcomes,
    lane_of_handle: dict[int, int],
    *,
    told: frozenset[Refusal],
    building: bool = False,
) -> tuple[tuple[Event, ...], frozenset[Refusal]]:
    """Tell drift that was repaired and changes that were refused; `lane_of_handle` is a class's row in the ledger.

    `building` says that a tree is being built anew, in this turn or since an earlier one: that is told as such, not
    once more for each of its classes. A refused change is asked for again each turn, and told again only where the
    refusal is another one than those that `told` holds. Returns the events and the refusals of this turn.
    """
    if not (changes.drift.any() or outcomes.errno.any() or outcomes.tree_errno):
        return (), frozenset()
    refused = _refusals(changes, outcomes)
    drift = changes.drift & (not (building or changes.build_tree))
    found = tuple(_of_outcomes(ledger, changes, outcomes, lane_of_handle, refused - told, drift))
    return found, refused


def _refusals(changes: Changes, outcomes: Outcomes) -> frozenset[Refusal]:
    rows = np.flatnonzero(outcomes.errno != 0)
    columns = (changes.act[rows], changes.classes.handle[rows], outcomes.errno[rows])
    of_classes = zip(*(column.tolist() for column in columns), strict=True)
    of_tree = [(_BUILD_TREE, 0, outcomes.tree_errno)] if outcomes.tree_errno else []
    return frozenset((*of_tree, *of_classes))


def _of_outcomes(
    ledger: Ledger,
    changes: Changes,
    outcomes: Outcomes,
    lane_of_handle: dict[int, int],
    to_tell: frozenset[Refusal],
    drift: B1,
) -> Iterator[Event]:
    at, device = ledger.at.wall_seconds, ledger.device
    if (_BUILD_TREE, 0, outcomes.tree_errno) in to_tell:
        inputs = {"act": "build the tree", "outcome": name_of(outcomes.tree_errno)}
        yield Event(at, EventKind.REFUSED, device, None, inputs)
    for row in np.flatnonzero(drift | (outcomes.errno != 0)).tolist():
        act, handle, refused = int(changes.act[row]), int(changes.classes.handle[row]), int(outcomes.errno[row])
        if refused and (act, handle, refused) not in to_tell:
            continue
        lane_row = lane_of_handle.get(handle)
        lane = ledger.lanes[lane_row] if lane_row is not None else None
        told_inputs: dict[str, int | float | str] = {
            "act": Act(act).name.lower(),
            "class_handle": handle,
            "old_ceiling_bytes_per_second": int(changes.before_ceiling_bytes_per_second[row]),
            "ceiling_bytes_per_second": int(changes.classes.ceiling_bytes_per_second[row]),
            "outcome": name_of(refused) if refused else APPLIED,
        }
        yield Event(at, EventKind.REFUSED if refused else EventKind.DRIFT, device, lane, told_inputs)


def name_of(number: int) -> str:
    """Return the name of an errno."""
    return errno.errorcode.get(number, str(number))
