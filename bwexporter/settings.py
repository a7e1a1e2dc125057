"""The settings of a lane: the keys from `full`, `guarantee` and `floor` to `period` and `policy`.

Turns what people write for one traffic of a slice, or as the node's default, into checked settings, and settings over
defaults into terms that lack nothing. Knows: what each key takes and which values contradict each other. Does not
know: slices, devices, whose settings they are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, PlainValidator, model_validator

from bwexporter import forms
from bwexporter.core.lanes import UNLIMITED
from bwexporter.core.periods import Calendar, PeriodRule, Rolling, Unit
from bwexporter.core.plans import LAW, Policy
from bwexporter.planned import PlannedPolicy
from bwexporter.units import (
    UnitError,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_volume,
    print_rate,
    print_volume,
)
from bwexporter.written import (
    Fault,
    Flag,
    MaybeDuration,
    MaybeRate,
    Misfit,
    Written,
    Zone,
    as_form,
    check,
    read_positive,
    read_whole,
)

MOST_SHARES = 10_000
NOMINAL_SECONDS: Mapping[Unit, float] = {
    Unit.DAY: timedelta(days=1).total_seconds(),
    Unit.WEEK: timedelta(days=7).total_seconds(),
    Unit.MONTH: timedelta(days=31).total_seconds(),
}


_FULL = forms.either(
    "The ceiling while nothing lowers it: a rate, or the device's node cap or line rate.",
    forms.RATE,
    forms.words("cap", "line_rate"),
)
_ALLOWANCE = forms.either(
    "What may be sent in a period; unlimited is counted and never capped.", forms.VOLUME, forms.words("unlimited")
)
_THRESHOLD = forms.either("From here on the ceiling falls.", forms.PERCENTAGE, forms.VOLUME_OR_NONE)
_SHARE = forms.whole(1, MOST_SHARES, "The weight among slices that want more than there is.")
_STARTS_ON = forms.whole(1, 31, "The day on which a week (1 is Monday) or a month starts.")


class Limit(enum.Enum):
    """A full rate that is the device's: its node cap or its line rate."""

    CAP = "cap"
    LINE_RATE = "line_rate"


def _starting(unit: str, *, most: int) -> dict[str, JsonValue]:
    """Return the form of a unit's last day to start on."""
    return {
        "if": {"properties": {"calendar": {"const": unit}}},
        "then": {"properties": {"starts_on": {"maximum": most}}},
    }


class _CalendarKeys(Written):
    """A period of the calendar."""

    model_config = ConfigDict(
        json_schema_extra={"allOf": [_starting(Unit.DAY.value, most=1), _starting(Unit.WEEK.value, most=7)]}
    )

    calendar: Unit
    starts_on: Annotated[int, PlainValidator(lambda written: read_whole(written, 1, 31)), as_form(_STARTS_ON)] = 1
    timezone: Zone = "UTC"

    @model_validator(mode="after")
    def _starts_inside(self) -> _CalendarKeys:
        last = {Unit.DAY: 1, Unit.WEEK: 7, Unit.MONTH: 31}[self.calendar]
        if self.starts_on > last:
            text = f"is {self.starts_on}; a {self.calendar.value} starts on 1 to {last}"
            text = "has no meaning for a day; leave it out" if self.calendar is Unit.DAY else text
            raise Misfit([Fault(("starts_on",), text)])
        return self


def read_period(written: object) -> PeriodRule:
    """Read a duration, or a mapping with `calendar`, `starts_on` and `timezone`; ValueError or Misfit."""
    if not isinstance(written, dict):
        return Rolling(read_positive(parse_duration)(written))
    keys, faults = check(_CalendarKeys, written)
    if faults or keys is None:
        raise Misfit(faults)
    return Calendar(keys.calendar, keys.starts_on, keys.timezone)


_Read = PlainValidator(read_period, json_schema_input_type=_CalendarKeys | MaybeDuration)
_Described = Field(description="The span over which a volume is counted.")
Period = Annotated[PeriodRule, _Read, _Described]
MaybePeriod = Annotated[PeriodRule | None, _Read, _Described]


def length_seconds(period: PeriodRule) -> float:
    """Return how long a period is; of a calendar's, the longest there is."""
    return period.length_seconds if isinstance(period, Rolling) else NOMINAL_SECONDS[period.unit]


def _full(written: object) -> int | Limit:
    for limit in Limit:
        if written == limit.value:
            return limit
    try:
        return read_positive(parse_rate)(written)
    except UnitError as trouble:
        raise ValueError(f"{trouble}; or cap, or line_rate") from trouble


def _allowance(written: object) -> int:
    if written == "unlimited":
        return UNLIMITED
    try:
        return read_positive(parse_volume)(written)
    except UnitError as trouble:
        raise ValueError(f"{trouble}; or unlimited") from trouble


def _threshold(written: object) -> int | Fraction:
    if isinstance(written, str) and written.rstrip().endswith("%"):
        return parse_percent(written)
    try:
        return parse_volume(written)
    except UnitError as trouble:
        raise ValueError(f"{trouble}; or a percentage of the allowance, as 80%") from trouble


MaybeFull = Annotated[int | Limit | None, PlainValidator(_full), as_form(_FULL)]
MaybeAllowance = Annotated[int | None, PlainValidator(_allowance), as_form(_ALLOWANCE)]
MaybeThreshold = Annotated[int | Fraction | None, PlainValidator(_threshold), as_form(_THRESHOLD)]
MaybeShare = Annotated[int | None, PlainValidator(lambda written: read_whole(written, 1, MOST_SHARES)), as_form(_SHARE)]


class LaneDefaults(Written):
    """What is written for one traffic; None where nothing is. Keys are the aliases."""

    full: MaybeFull = None  # bytes per second
    guarantee_bytes_per_second: MaybeRate = Field(default=None, alias="guarantee")
    floor_bytes_per_second: MaybeRate = Field(default=None, alias="floor")
    allowance_bytes: MaybeAllowance = Field(default=None, alias="allowance")
    threshold: MaybeThreshold = None  # bytes, or part of the allowance
    share: MaybeShare = None
    period: MaybePeriod = None
    policy: PlannedPolicy = None

    @model_validator(mode="after")
    def _agree(self) -> LaneDefaults:
        faults = contradictions(self)
        if faults:
            raise Misfit(faults)
        return self


class LaneSettings(LaneDefaults):
    """What a slice's record says of one traffic; `off` never caps it, `shadow` judges it and changes nothing."""

    off: Flag = False
    shadow: Flag = False


def contradictions(settings: LaneDefaults) -> list[Fault]:
    """Return the keys that contradict others of the same settings."""
    faults, full = [], settings.full
    for key, rate in (("guarantee", settings.guarantee_bytes_per_second), ("floor", settings.floor_bytes_per_second)):
        if isinstance(full, int) and rate is not None and rate > full:
            faults.append(Fault((key,), f"{print_rate(rate)} is more than the full rate {print_rate(full)}"))
    threshold, allowance = settings.threshold, settings.allowance_bytes
    if isinstance(threshold, int) and allowance is not None and threshold > allowance:
        text = f"{print_volume(threshold)} is more than the allowance {print_volume(allowance)}"
        faults.append(Fault(("threshold",), text))
    return faults


@dataclass(frozen=True, slots=True)
class LaneTerms:
    """Settings that lack nothing."""

    full: int | Limit  # bytes per second
    guarantee_bytes_per_second: int
    floor_bytes_per_second: int
    allowance_bytes: int
    threshold_part: Fraction  # of the allowance
    share: int
    period: PeriodRule
    policy: Policy = LAW

    @property
    def threshold_bytes(self) -> int:
        """Return the threshold of this allowance."""
        return UNLIMITED if self.allowance_bytes == UNLIMITED else int(self.allowance_bytes * self.threshold_part)

    @property
    def span_seconds(self) -> float:
        """Return the span in which the allowance may be sent: a sliding window, or the period."""
        return self.policy.sliding_seconds or length_seconds(self.period)

    @property
    def whole_policy(self) -> Policy:
        """Return the policy, with the length of a sliding window that is as long as the period."""
        if self.policy.sliding_seconds is None:
            return self.policy
        return replace(self.policy, sliding_seconds=self.span_seconds)


def over(settings: LaneDefaults, defaults: LaneTerms) -> LaneTerms:
    """Return settings completed by defaults.

    The threshold follows the lane's own allowance unless it is set: 80 % of the default allowance are 80 % of any. A
    threshold that is more than the allowance is left at its default.
    """
    allowance = settings.allowance_bytes or defaults.allowance_bytes
    return LaneTerms(
        settings.full or defaults.full,
        settings.guarantee_bytes_per_second or defaults.guarantee_bytes_per_second,
        settings.floor_bytes_per_second or defaults.floor_bytes_per_second,
        allowance,
        _threshold_part(settings.threshold, allowance, defaults.threshold_part),
        settings.share or defaults.share,
        settings.period or defaults.period,
        settings.policy or defaults.policy,
    )


def _threshold_part(threshold: int | Fraction | None, allowance: int, default: Fraction) -> Fraction:
    if isinstance(threshold, Fraction):
        return threshold
    return default if threshold is None or threshold > allowance else Fraction(threshold, allowance)


def fitting_warnings(terms: LaneTerms) -> list[Fault]:
    """Say where the floor is lowered to fit the allowance, and by how much a guarantee above it overspends a period.

    What may be sent above the threshold, spread over the period, is what a floor may be (policy rule 1).
    """
    if terms.allowance_bytes == UNLIMITED:
        return []
    warnings = []
    above, seconds = terms.allowance_bytes - terms.threshold_bytes, terms.span_seconds
    span = "period" if terms.policy.sliding_seconds is None else "window"
    floor, guarantee = terms.floor_bytes_per_second, terms.guarantee_bytes_per_second
    fitted = max(guarantee, min(floor, int(above / seconds)))
    if fitted < floor:
        text = f"{print_rate(floor)} would overspend the allowance and is lowered to {print_rate(fitted)}"
        warnings.append(Fault(("floor",), text))
    if guarantee * seconds > above:
        excess = print_volume(int(guarantee * seconds) - above)
        text = f"{print_rate(guarantee)} can overspend the allowance by {excess} in a {span}"
        warnings.append(Fault(("guarantee",), text))
    return warnings
