"""Which past a reader wants to see: of which lane or kind, from when to when, in which steps.

Turns the parameters of a URL into a lane, a kind of event and a span of time. Knows: the parameters that there are, how
long a span may be. Does not know: what is told of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bwexporter.core.lanes import Lane
from bwexporter.core.report import EventKind, Report
from bwexporter.web.browse import BadQuery, number
from bwexporter.web.history import COARSE_SECONDS, FINE_SECONDS

MOST_SPANS = 2016  # a week of five minutes


def read_span(parameters: Mapping[str, str]) -> tuple[float, float]:
    """Read the span of time of events: without one, all of it. BadQuery."""
    return _instant(parameters, "since", 0.0), _instant(parameters, "until", 1e11)


def read_kind(parameters: Mapping[str, str]) -> EventKind | None:
    """Read which kind of event is asked for; BadQuery."""
    written = parameters.get("kind")
    try:
        return EventKind(written) if written else None
    except ValueError:
        raise BadQuery(f"kind is one of {', '.join(kind.value for kind in EventKind)}") from None


def _instant(parameters: Mapping[str, str], name: str, default: float) -> float:
    written = parameters.get(name, "")
    if not written:
        return default
    try:
        instant = float(written)
    except ValueError:
        instant = -1.0
    if not 0 <= instant <= 1e11:
        raise BadQuery(f"{name} is an instant in Unix seconds, as 1763596800")
    return instant


def read_spans(parameters: Mapping[str, str], now: float) -> tuple[float, float, int]:
    """Read since and until, and the step of the spans between them. BadQuery."""
    step = number(parameters, "step", 1, 31 * 86_400) or FINE_SECONDS
    if step % FINE_SECONDS:
        raise BadQuery(f"step is a multiple of {FINE_SECONDS} seconds")
    until = _instant(parameters, "until", now + 1)
    since = _instant(parameters, "since", until - 86_400)
    stored = COARSE_SECONDS if step % COARSE_SECONDS == 0 else FINE_SECONDS
    if until - since > MOST_SPANS * stored:
        days = MOST_SPANS * stored // 86_400
        raise BadQuery(f"since and until are at most {days} days apart with a step of {step} seconds")
    return since, until, step


def read_lane(report: Report, name: str, parameters: Mapping[str, str]) -> Lane:
    """Return the lane that is asked for: without a device or traffic the first of the slice. BadQuery."""
    lanes = [lane for device in report.devices for lane in device.tariffs.lanes if lane.slice_name == name]
    for lane in lanes:
        same_device = parameters.get("device", lane.device) == lane.device
        if same_device and lane.traffic.value == parameters.get("traffic", lane.traffic.value):
            return lane
    if lanes:
        raise BadQuery(f"the slice has no such lane; device and traffic are those of /api/v1/slices/{name}")
    raise BadQuery(f"{report.node} has no such slice")
