"""What happened, in one sentence for each event.

Turns an event into a row for programs and into a sentence for people. Knows: what each kind of event means and which of
its inputs say it. Does not know: when an event is worth remembering, where it is kept or shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bwexporter import explain
from bwexporter.core import events
from bwexporter.core.lanes import UNLIMITED
from bwexporter.core.orders import Action, InForce, Outcome
from bwexporter.core.report import Event, EventKind, WouldBe
from bwexporter.units import print_duration, print_rate, print_volume

NO_REASON = "no reason was given"
"""What stands in an order's record where nobody has said why."""

Inputs = Mapping[str, Any]


def row(event: Event) -> dict[str, Any]:
    """Return an event as plain data, with its sentence; what concerns no lane, or no device, has null there."""
    lane = event.lane
    return {
        "at_timestamp_seconds": round(event.at_wall_seconds, 3),
        "kind": event.kind.value,
        "device": event.device or None,
        "slice": lane.slice_name if lane else None,
        "traffic": lane.traffic.value if lane else None,
        "inputs": dict(event.inputs),
        "sentence": sentence(event.kind, event.inputs),
    }


def order_row(one: InForce) -> dict[str, Any]:
    """Return an order in force as plain data, with its sentence; one for the whole node has null for its lane."""
    lane, until = one.order.lane, one.until_wall_seconds
    terms: dict[str, Any] = dict(one.order.terms)
    if math.isfinite(until):
        terms["until_timestamp_seconds"] = round(until, 3)
    resting = " It rests now: the lender cannot spare it." if one.resting else ""
    return {
        "device": lane.device if lane else None,
        "slice": lane.slice_name if lane else None,
        "traffic": lane.traffic.value if lane else None,
        **terms,
        "who": one.order.who,
        "reason": one.order.reason,
        "given_at_timestamp_seconds": round(one.order.given_at_wall_seconds, 3),
        "resting": one.resting,
        "sentence": f"By hand, {order(terms)}, {_by(one.order.who, one.order.reason)}.{resting}",
    }


def compared_row(recorded_bytes: int, sent_bytes: int, spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return as plain data what a lane sent and would have sent, and when it would have been capped."""
    return {
        "recorded_bytes": recorded_bytes,
        "sent_bytes": sent_bytes,
        "less_bytes": max(0, recorded_bytes - sent_bytes),
        "capped_seconds": round(sum(until - since for since, until in spans), 3),
        "capped": [[round(since, 3), round(until, 3)] for since, until in spans],
    }


def would_be_row(would_be: WouldBe, row: int) -> dict[str, Any]:
    """Return as plain data what would be of a lane in shadow, with its sentence."""
    ceiling = int(would_be.ceiling_bytes_per_second[row])
    told = {
        "from": round(float(would_be.since_wall_seconds[row]), 3),
        "ceiling_bytes_per_second": ceiling if ceiling < UNLIMITED else None,
        **compared_row(int(would_be.recorded_bytes[row]), int(would_be.sent_bytes[row]), would_be.spans.get(row, ())),
        "capped_now": bool(would_be.capped[row]),
    }
    return {**told, "sentence": of_would_be(told)}


def outlook_sentence(row: Mapping[str, Any]) -> str:
    """Say of a row of the API's slices what its lane will have used when its period ends, and when it gets there."""
    expected, allowance, periods = row["expected_used_bytes"], row["period_allowance_bytes"], row["earlier_periods"]
    habits = f" and as in the same hours of {periods} earlier period{'s' * (periods != 1)}" if periods else ""
    wish = "it would like to have used" if expected > allowance else "it will have used"
    what = f"Outlook: going on as of late{habits}, {wish} {print_volume(expected)} of {print_volume(allowance)} "
    what += "when its period ends"
    for name, limit in (("seconds_to_threshold", "reaches its threshold"), ("seconds_to_allowance", "spends it all")):
        if row[name] and not is_held(row):
            return f"{what}; it {limit} in {print_duration(row[name])}."
    return f"{what}."


def ends_in(row: Mapping[str, Any], now_seconds: float) -> str:
    """Say how long the period of a row has still to run; a sliding window has no end that gives anything back."""
    if row.get("window_seconds"):
        return "slides"
    return print_duration(max(0.0, row["period_end_timestamp_seconds"] - now_seconds))


def is_held(row: Mapping[str, Any]) -> bool:
    """Say whether a lane's account holds it now: it does not get where a forecast of what it would like to send does.

    A lane in shadow is judged only, and nothing keeps it from going on.
    """
    return bool(row["capped"] and not row["shadow"])


def of_would_be(told: Inputs) -> str:
    """Say what would be."""
    since = f"since {_when(told['from'])}"
    less = (
        f"{print_volume(told['less_bytes'])} less than the {print_volume(told['recorded_bytes'])} that it sent {since}"
    )
    if told["capped_now"] and told["capped"]:
        ceiling, begun = told["ceiling_bytes_per_second"], _when(told["capped"][-1][0])
        return f"Enforced, it would be capped at {print_rate(ceiling)} since {begun}, and would have sent {less}."
    if told["capped"]:
        lasted = print_duration(told["capped_seconds"])
        return f"Enforced, it would have been capped for {lasted} and would not be now; it would have sent {less}."
    if told["less_bytes"]:
        return f"Enforced, it would not have been capped; paced, it would have sent {less}."
    return f"Enforced, it would not have been capped {since}, and would have sent as much."


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def sentence(kind: EventKind, inputs: Inputs) -> str:
    """Say what happened; an event of an older program may lack a figure, and is then told by those it has."""
    try:
        return _SENTENCES[kind](inputs)
    except (KeyError, ValueError, TypeError):
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in inputs.items())
        return f"{kind.value.replace('_', ' ').capitalize()}: {said}."


def order(inputs: Inputs) -> str:
    """Say what an order by hand is, without who gave it.

    >>> order({"action": "cap", "rate_bytes_per_second": 1_250_000, "until_timestamp_seconds": 1_700_000_000.0})
    'cap at 10mbit until 2023-11-14 22:13:20 UTC'
    """
    return f"{_ORDERS[Action(inputs['action'])](inputs)}{_until(inputs)}"


def _verdict(inputs: Inputs) -> str:
    before, after = inputs["old_ceiling_bytes_per_second"], inputs["ceiling_bytes_per_second"]
    moved = "" if before in {0, after} else f"Ceiling {print_rate(before)} -> {print_rate(after)}. "
    return f"{moved}{explain.sentence(explain.of_inputs(inputs))}{_became(str(inputs.get('outcome', events.APPLIED)))}"


def _became(outcome: str) -> str:
    """Say what became of a ceiling in the kernel, where that is more than that it is in force."""
    match outcome:
        case events.APPLIED | events.KEPT:
            return ""
        case events.IN_SHADOW:
            return " It is judged only."
        case events.WAITING:
            return " The kernel is given it by a later turn."
        case events.FAILED:
            return " The kernel could not be asked for it."
        case _:
            return f" The kernel refused it: {outcome}."


def _period_rolled(inputs: Inputs) -> str:
    periods, used = inputs["periods"], print_volume(inputs["used_bytes"])
    if periods == 1:
        return f"A new period began; {used} were used in the one that ended."
    return f"{periods} periods ended together; {used} were used in the first of them."


def _counter_restarted(inputs: Inputs) -> str:
    used = print_volume(inputs["used_bytes"])
    return f"The kernel's counter began anew, as of a class that was made again; the account goes on at {used}."


def _tree_ended(_: Inputs) -> str:
    return "The tree was deleted; what it had sent by then is counted, and it is built again."


def _implausible(inputs: Inputs) -> str:
    counted = print_volume(inputs["counted_bytes"])
    return f"The counter grew by {counted}, faster than the line; it was read again, and counted in full."


def _of_change(inputs: Inputs) -> tuple[str, str]:
    before, after = inputs.get("old_ceiling_bytes_per_second"), inputs.get("ceiling_bytes_per_second")
    act = str(inputs["act"])
    changing = before and after and before != after
    return act, f" (ceiling {print_rate(before)} -> {print_rate(after)})" if before and after and changing else ""


def _drift(inputs: Inputs) -> str:
    act, ceilings = _of_change(inputs)
    what = {"create": "was gone and was made again", "remove": "was nobody's and was removed"}
    return f"The class {what.get(act, 'had been changed by somebody else and was put right')}{ceilings}."


def _refused(inputs: Inputs) -> str:
    act, ceilings = _of_change(inputs)
    outcome = inputs["outcome"]
    what = f"The kernel refused to {act}" if " " in act else f"The kernel refused to {act} the class{ceilings}"
    return f"{what}: {outcome}. It is asked again each turn."


def _guarantees_scaled(inputs: Inputs) -> str:
    asked, admitted = (int(inputs[f"{word}_bytes_per_second"]) for word in ("asked", "admitted"))
    if asked == admitted:
        return f"The guarantee is admitted as asked again, {print_rate(asked)}."
    return (
        f"The guarantee is {print_rate(admitted)} instead of {print_rate(asked)}: one is at most a quarter of its "
        "parent's ceiling, and all together at most that ceiling."
    )


def _clock_stepped(inputs: Inputs) -> str:
    seconds = float(inputs["stepped_seconds"])
    way = "forward" if seconds > 0 else "back"
    return f"The wall clock was set {way} by {print_duration(abs(seconds))}; no period and no order is longer for it."


def _by_hand(inputs: Inputs) -> str:
    outcome, what = Outcome(inputs["outcome"]), order(inputs)
    given = _by(inputs["who"], inputs["reason"])
    match outcome:
        case Outcome.GIVEN:
            return f"By hand, {what}, {given}."
        case Outcome.EXPIRED | Outcome.PERIOD_ENDED:
            return f"By hand, {what}, {outcome.value} (it was given {given})."
        case _:
            ended = f"{outcome.value} {_by(inputs.get('by', 'somebody'), inputs.get('by_reason', NO_REASON))}"
            return f"By hand, {what}, {ended} (it was given {given})."


def _by(who: object, reason: object) -> str:
    """Say whose order it is, and why where he has said that."""
    return f"by {who}" if reason == NO_REASON else f'by {who}: "{reason}"'


def _until(inputs: Inputs) -> str:
    until = inputs.get("until_timestamp_seconds")
    if until is None:
        return "" if Action(inputs["action"]) is Action.TOP_UP else " until it is undone"
    return f" until {_when(float(until))}"


def _lent(inputs: Inputs) -> str:
    parts = {
        "of full rate": inputs.get("rate_bytes_per_second"),
        "of guarantee": inputs.get("guarantee_bytes_per_second"),
    }
    lent = [f"{print_rate(int(amount))} {what}" for what, amount in parts.items() if amount]
    lent += [f"{inputs['share']} of share"] if inputs.get("share") else []
    return f"loan of {' and '.join(lent)} to {inputs['borrower']}"


_ORDERS: Mapping[Action, Callable[[Inputs], str]] = {
    Action.CAP: lambda inputs: f"cap at {print_rate(int(inputs['rate_bytes_per_second']))}",
    Action.RELEASE: lambda _: "release to the full rate",
    Action.TOP_UP: lambda inputs: f"top-up of {print_volume(int(inputs['volume_bytes']))} in this period",
    Action.LEND: _lent,
    Action.FREEZE: lambda _: "freeze",
    Action.FULL_RATES: lambda _: "full rates for all",
}
_SENTENCES: Mapping[EventKind, Callable[[Inputs], str]] = {
    EventKind.VERDICT: _verdict,
    EventKind.CEILING: _verdict,
    EventKind.PERIOD_ROLLED: _period_rolled,
    EventKind.COUNTER_RESTARTED: _counter_restarted,
    EventKind.TREE_ENDED: _tree_ended,
    EventKind.IMPLAUSIBLE: _implausible,
    EventKind.DRIFT: _drift,
    EventKind.REFUSED: _refused,
    EventKind.GUARANTEES_SCALED: _guarantees_scaled,
    EventKind.CLOCK_STEPPED: _clock_stepped,
    EventKind.BY_HAND: _by_hand,
}
