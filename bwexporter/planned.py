"""The key `policy`: what is chosen beside the law.

Turns what people write into a Policy. Knows: the keys of a policy and which values contradict each other. Does not
know: what a policy makes of a verdict, whose it is.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from bwexporter import forms
from bwexporter.core.plans import LAW, THE_PERIOD, Policy, Rung, Window, Windows
from bwexporter.units import UnitError, parse_duration, shown
from bwexporter.written import Fault, Misfit, Part, Rate, Written, Zone, as_form, check, read_positive

MOST_RUNGS = 8
MOST_SPANS = 8


def _time_of_day(written: object) -> int:
    """Read HH:MM into minutes."""
    match = re.fullmatch(r"([01]?[0-9]|2[0-4]):([0-5][0-9])", written) if isinstance(written, str) else None
    minute = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minute <= 1440:
        raise ValueError(f"{shown(written)} is not a time of day; write for example 22:00")
    return minute


TimeOfDay = Annotated[int, PlainValidator(_time_of_day), as_form(forms.TIME_OF_DAY)]


def _sliding(written: object) -> float:
    """Read `period` or how long the window is."""
    if written == "period":
        return THE_PERIOD
    try:
        return read_positive(parse_duration)(written)
    except UnitError as trouble:
        raise ValueError(f"{trouble}; or period") from trouble


_SLIDING = forms.either(
    "So long after it was sent a byte is free again; period: as long as the period.",
    forms.DURATION,
    forms.words("period"),
)
MaybeSliding = Annotated[float | None, PlainValidator(_sliding), as_form(_SLIDING)]


class _Rung(Written):
    """From this part of the allowance on, this ceiling."""

    from_: Part = Field(alias="from")
    rate: Rate


class _Span(Written):
    """From this time of day to that one bytes count in part."""

    from_: TimeOfDay = Field(alias="from")
    to: TimeOfDay
    counts: Part


def _rising(rungs: tuple[_Rung, ...]) -> tuple[_Rung, ...]:
    faults = [
        Fault((at + 1, "from"), "is not above that of the rung before it")
        for at, (lower, upper) in enumerate(pairwise(rungs))
        if upper.from_ <= lower.from_
    ]
    if len(rungs) > MOST_RUNGS:
        faults.append(Fault((MOST_RUNGS,), f"is one too many: a ladder has {MOST_RUNGS} rungs at most"))
    if faults:
        raise Misfit(faults)
    return rungs


def _with_length(spans: tuple[_Span, ...]) -> tuple[_Span, ...]:
    faults = [
        Fault((at, "to"), "is where the window begins: it has no length")
        for at, span in enumerate(spans)
        if span.from_ % 1440 == span.to % 1440
    ]
    if len(spans) > MOST_SPANS:
        faults.append(Fault((MOST_SPANS,), f"is one too many: a day has {MOST_SPANS} windows at most"))
    if faults:
        raise Misfit(faults)
    return spans


class _PolicyKeys(Written):
    """What is chosen beside the law; each part may be left out. A part declares how it is written, for editors too."""

    ladder: Annotated[tuple[_Rung, ...], AfterValidator(_rising)] = Field(
        (), json_schema_extra={"maxItems": MOST_RUNGS}
    )
    windows: Annotated[tuple[_Span, ...], AfterValidator(_with_length)] = Field(
        (), json_schema_extra={"maxItems": MOST_SPANS}
    )
    timezone: Zone = "UTC"
    carry: Part = 0.0
    sliding: MaybeSliding = None

    @model_validator(mode="after")
    def _agree(self) -> _PolicyKeys:
        if self.carry and self.sliding is not None:
            text = "does not go with sliding, where no period ends whose rest could be carried over; leave one out"
            raise Misfit([Fault(("carry",), text)])
        return self


def read_policy(written: object) -> Policy:
    """Read `law`, `sliding`, or a mapping with the parts of a policy; ValueError or Misfit."""
    if isinstance(written, str) and written in _WORDS:
        return _WORDS[written]
    if not isinstance(written, dict):
        parts = "ladder, windows, carry or sliding"
        raise ValueError(f"{shown(written)} is not a policy; write law, sliding, or a mapping with {parts}")  # noqa: TRY004 - one kind
    keys, faults = check(_PolicyKeys, written)
    if faults or keys is None:
        raise Misfit(faults)
    spans = tuple(Window(span.from_ % 1440, span.to % 1440, span.counts) for span in keys.windows)
    rungs = tuple(Rung(rung.from_, rung.rate) for rung in keys.ladder)
    return Policy(rungs, Windows(spans, keys.timezone) if spans else None, keys.carry, keys.sliding)


_WORDS = {"law": LAW, "sliding": Policy(sliding_seconds=THE_PERIOD)}
"""Policies of one word."""

PlannedPolicy = Annotated[
    Policy | None, PlainValidator(read_policy, json_schema_input_type=_PolicyKeys | Literal["law", "sliding"])
]
"""The value of the key `policy`."""
