"""Why a lane's ceiling is what it is, in one sentence with the figures of the formula.

Turns one lane's figures, those of the API's row or of an event's inputs, into text for people. Knows: what each verdict
means, and which part of the formula gave a ceiling. Does not know: how a verdict is found, where the sentence is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bwexporter.core.events import FROZEN_BY_HAND, FROZEN_BY_LOSS
from bwexporter.core.lanes import UNLIMITED, Reason
from bwexporter.core.policy import TAIL_BYTES_PER_SECOND, TAIL_SECONDS
from bwexporter.units import print_duration, print_percent, print_rate, print_volume

_ROUNDING = 1 / 64
"""A ceiling is rounded down to 7 significant bits: by less than this part of it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one verdict was found from; UNLIMITED where there is no limit."""

    reason: Reason
    used_bytes: int
    allowance_bytes: int
    threshold_bytes: int
    remaining_seconds: float
    full_bytes_per_second: int
    floor_bytes_per_second: int
    ceiling_bytes_per_second: int  # the verdict's
    enforced_ceiling_bytes_per_second: int | None = None  # the kernel's; None where there is no class, or nobody knows
    shadow: bool = False
    counted_part: float = 1.0  # of what is sent now, by policy
    window_seconds: float = 0.0  # of a sliding window, which what was used counts in; 0: there is none
    room_bytes: int = 0  # that a sliding window has room for in the next `room_seconds`
    room_seconds: float = 0.0
    frozen_by: str = ""  # FROZEN_BY_HAND or FROZEN_BY_LOSS; empty: it is not, or an older program did not say


def of_row(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Figures:
    """Return the figures of a row of the API's slices; `answer` is what it stands in, or its head."""
    is_frozen = row["verdict"] == Reason.FROZEN.name.lower()
    return Figures(
        reason=Reason[row["verdict"].upper()],
        used_bytes=row["period_used_bytes"],
        allowance_bytes=_limit(row["period_allowance_bytes"]),
        threshold_bytes=_limit(row["period_threshold_bytes"]),
        remaining_seconds=max(0.0, row["period_end_timestamp_seconds"] - answer["taken_at"]),
        full_bytes_per_second=_limit(row["full_rate_bytes_per_second"]),
        floor_bytes_per_second=row["floor_bytes_per_second"],
        ceiling_bytes_per_second=_limit(row["intended_ceiling_bytes_per_second"]),
        enforced_ceiling_bytes_per_second=row["ceiling_bytes_per_second"],
        shadow=row["shadow"],
        counted_part=row.get("counted_part", 1.0),
        window_seconds=row.get("window_seconds") or 0.0,
        room_bytes=row.get("room_bytes") or 0,
        room_seconds=row.get("room_seconds") or 0.0,
        frozen_by=(FROZEN_BY_HAND if answer["frozen"] else FROZEN_BY_LOSS) if is_frozen else "",
    )


def of_inputs(inputs: Mapping[str, int | float | str]) -> Figures:
    """Return the figures of an event of a verdict or a ceiling."""
    return Figures(
        reason=Reason[str(inputs["reason"]).upper()],
        used_bytes=int(inputs["used_bytes"]),
        allowance_bytes=int(inputs.get("allowance_bytes", UNLIMITED)),
        threshold_bytes=int(inputs.get("threshold_bytes", UNLIMITED)),
        remaining_seconds=float(inputs["remaining_seconds"]),
        full_bytes_per_second=int(inputs["full_bytes_per_second"]),
        floor_bytes_per_second=int(inputs["floor_bytes_per_second"]),
        ceiling_bytes_per_second=int(inputs["ceiling_bytes_per_second"]),
        counted_part=float(inputs.get("counted_part", 1.0)),
        window_seconds=float(inputs.get("window_seconds", 0.0)),
        room_bytes=int(inputs.get("room_bytes", 0)),
        room_seconds=float(inputs.get("room_seconds", 0.0)),
        frozen_by=str(inputs.get("frozen_by", "")),
    )


def sentence(figures: Figures) -> str:
    """Say why.

    >>> sentence(Figures(Reason.OVER_THRESHOLD, 90_000_000, 100_000_000, 80_000_000, 8000.0, 2_500_000, 100, 1248))
    'Over the threshold of 80.0 MB: the 10.0 MB left of 100 MB are spread over the 2h 13m left of the period, \
10.0 MB / 2h 13m = 10kbit, rounded down to 9.98kbit.'
    """
    in_part = 0.0 < figures.counted_part < 1.0 and figures.reason in _OF_THE_LAW
    why = _counted_in_part(figures) if in_part else _SENTENCES[figures.reason](figures)
    return f"Shadow, judged and not enforced{_kept(figures)}. The verdict: {why}" if figures.shadow else why


def _counted_in_part(figures: Figures) -> str:
    """Say the law's sentence about counted bytes, and what its ceiling is worth on the wire at this hour."""
    part = figures.counted_part
    counted = replace(
        figures,
        full_bytes_per_second=max(int(figures.full_bytes_per_second * part), 1),
        ceiling_bytes_per_second=max(int(figures.ceiling_bytes_per_second * part), 1),
    )
    worth = print_rate(figures.ceiling_bytes_per_second)
    why = _SENTENCES[figures.reason](counted)
    return (
        f"At this hour {print_percent(part)} of what it sends counts, so a ceiling is {worth}. In counted bytes: {why}"
    )


def _limit(bytes_or_none: int | None) -> int:
    return UNLIMITED if bytes_or_none is None else bytes_or_none


def _kept(figures: Figures) -> str:
    held = figures.enforced_ceiling_bytes_per_second
    return "" if held is None else f": the kernel's ceiling stays at {print_rate(held)}"


def _used(figures: Figures) -> str:
    if figures.allowance_bytes >= UNLIMITED:
        return f"{print_volume(figures.used_bytes)} used"
    window = f" in the last {print_duration(figures.window_seconds)}" if figures.window_seconds else ""
    return f"{print_volume(figures.used_bytes)} of {print_volume(figures.allowance_bytes)} used{window}"


def _full(figures: Figures) -> str:
    return f"the full rate, {print_rate(figures.full_bytes_per_second)}"


def _within(figures: Figures) -> str:
    if figures.allowance_bytes >= UNLIMITED:
        return f"No allowance is configured: it has {_full(figures)}, is counted and never capped."
    threshold, left = print_volume(figures.threshold_bytes), figures.allowance_bytes - figures.used_bytes
    because = f"the threshold of {threshold} cannot be reached before the next look"
    if not figures.window_seconds and left >= figures.full_bytes_per_second * figures.remaining_seconds:
        remaining = print_duration(figures.remaining_seconds)
        because = f"what is left is enough to send at that rate for the {remaining} to its period's end"
    elif figures.floor_bytes_per_second >= figures.full_bytes_per_second:
        because = "its floor is no less than that"
    return f"Within its volume: {_used(figures)}. It has {_full(figures)}: {because}."


def _paced(figures: Figures) -> str:
    ceiling, ahead = print_rate(figures.ceiling_bytes_per_second), figures.threshold_bytes - figures.used_bytes
    if not figures.window_seconds and ahead >= figures.full_bytes_per_second * figures.remaining_seconds:
        return (
            f"Below its threshold, and its period ends in {print_duration(figures.remaining_seconds)}: until the next "
            f"look it has {ceiling}, a ceiling that suits the new period as well."
        )
    return (
        f"Below its threshold, of which {print_volume(ahead)} are left: at {_full(figures)}, it could pass it before "
        f"the next look, so until then it has {ceiling}, which carries it there and spreads the rest of its volume."
    )


def _over_threshold(figures: Figures) -> str:
    if figures.window_seconds:
        return _over_threshold_of_window(figures)
    left, remaining = figures.allowance_bytes - figures.used_bytes, print_duration(figures.remaining_seconds)
    over = f"Over the threshold of {print_volume(figures.threshold_bytes)}:"
    spread = (
        f"the {print_volume(left)} left of {print_volume(figures.allowance_bytes)} are spread over the {remaining} "
        f"left of the period, {print_volume(left)} / {remaining} = "
    )
    plain = left / max(figures.remaining_seconds, 1e-3)
    return f"{over} {spread}{print_rate(int(plain))}{_rounded(figures, plain)}."


def _over_threshold_of_window(figures: Figures) -> str:
    room, seconds = print_volume(figures.room_bytes), print_duration(figures.room_seconds)
    plain = figures.room_bytes / max(figures.room_seconds, 1e-3)
    return (
        f"Over the threshold of {print_volume(figures.threshold_bytes)}: {_used(figures)}. As bytes leave this window, "
        f"there is room for {room} in the next {seconds}, and that is the most that it can keep up: {room} / {seconds} "
        f"= {print_rate(int(plain))}{_rounded(figures, plain)}."
    )


def _rounded(figures: Figures, plain: float) -> str:
    """Say what became of the plain quotient: rounded, or replaced by floor, full rate or what the tail needs."""
    ceiling = figures.ceiling_bytes_per_second
    shown = print_rate(ceiling)
    if ceiling >= figures.full_bytes_per_second:
        return f", which is no less than {_full(figures)}, so it has that"
    if plain < ceiling <= figures.floor_bytes_per_second:
        return f", which is below the floor, so it has the floor, {shown}"
    if ceiling > plain:
        return f", and the last {TAIL_SECONDS:.0f} s of a capped period run at {shown} or more, from bytes put by"
    if ceiling < plain * (1 - _ROUNDING) - 1:
        if _suits_the_next_period(figures):
            return f"; as the look at its end may be late, it has {shown}, a ceiling that suits the new period as well"
        return f"; with bytes put by for the last {TAIL_SECONDS:.0f} s of the period it has {shown}"
    return "" if shown == print_rate(int(plain)) else f", rounded down to {shown}"


def _suits_the_next_period(figures: Figures) -> bool:
    """Say whether a ceiling is lower than the bytes that are put by for the tail make it."""
    if figures.window_seconds:
        return False
    before_tail = figures.remaining_seconds - TAIL_SECONDS
    if before_tail <= 0:
        return True
    slack = figures.allowance_bytes - figures.threshold_bytes
    tail_rate = min(figures.full_bytes_per_second, TAIL_BYTES_PER_SECOND, slack / (2 * TAIL_SECONDS))
    reserved = (figures.allowance_bytes - figures.used_bytes - tail_rate * TAIL_SECONDS) / before_tail
    return figures.ceiling_bytes_per_second < reserved * (1 - _ROUNDING) - 1


def _over_allowance(figures: Figures) -> str:
    ceiling, remaining = print_rate(figures.ceiling_bytes_per_second), print_duration(figures.remaining_seconds)
    spent = f"Its volume is spent: {_used(figures)}. It has"
    if figures.window_seconds:
        return f"{spent} the floor, {ceiling}, until some of that leaves the window."
    at_floor = figures.ceiling_bytes_per_second <= figures.floor_bytes_per_second
    what = f"the floor, {ceiling}" if at_floor else f"{ceiling}, from bytes put by for the end of a capped period"
    return f"{spent} {what}, until its period ends in {remaining}."


def _capped_by_hand(figures: Figures) -> str:
    return (
        f"Capped by hand at {print_rate(figures.ceiling_bytes_per_second)}, which is lower than what its account "
        f"would give it ({_used(figures)})."
    )


def _released(figures: Figures) -> str:
    return f"Released by hand: it has {_full(figures)}, and what it sends still counts ({_used(figures)})."


def _frozen(figures: Figures) -> str:
    causes = {
        FROZEN_BY_HAND: "because an operator froze the node",
        FROZEN_BY_LOSS: (
            "because its earlier accounts were lost, until its period ends in "
            f"{print_duration(figures.remaining_seconds)}"
        ),
    }
    cause = causes.get(figures.frozen_by, "because an operator froze the node or its earlier accounts were lost")
    return (
        f"Frozen: its ceiling stays as the kernel has it, {print_rate(figures.ceiling_bytes_per_second)}, {cause}; "
        f"what it sends still counts ({_used(figures)})."
    )


def _off(figures: Figures) -> str:
    return f"Switched off: it has {_full(figures)}, is counted and not capped ({_used(figures)})."


def _on_ladder(figures: Figures) -> str:
    part = print_percent(figures.used_bytes / max(figures.allowance_bytes, 1))
    held = print_rate(figures.ceiling_bytes_per_second)
    return f"On its ladder: {_used(figures)}, {part}, and the rung that begins there holds it at {held}."


def _uncounted(figures: Figures) -> str:
    return f"At this hour nothing that it sends counts: it has {_full(figures)} ({_used(figures)})."


_OF_THE_LAW = frozenset({Reason.WITHIN, Reason.PACED, Reason.OVER_THRESHOLD, Reason.OVER_ALLOWANCE})
_SENTENCES = {
    Reason.WITHIN: _within,
    Reason.PACED: _paced,
    Reason.OVER_THRESHOLD: _over_threshold,
    Reason.OVER_ALLOWANCE: _over_allowance,
    Reason.CAPPED_BY_HAND: _capped_by_hand,
    Reason.RELEASED: _released,
    Reason.FROZEN: _frozen,
    Reason.OFF: _off,
    Reason.ON_LADDER: _on_ladder,
    Reason.UNCOUNTED: _uncounted,
}
