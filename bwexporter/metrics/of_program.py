"""The metrics of the program itself: what it counts from turn to turn.

Turns nothing into anything: it names them. Knows: names, labels, helps. Does not know: who counts.
"""

from __future__ import annotations

from bwexporter.metrics.families import Family, Kind

STAGES = ("look", "count", "judge", "plan", "save", "act", "tell")

TURN_DURATION = Family(
    "bwexporter_turn_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    (),
    "Time that a turn took.",
)
STAGE_DURATION = Family(
    "bwexporter_turn_stage_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    ("stage",),
    "Time that a stage of a turn took.",
)
TURNS = Family("bwexporter_turns_total", Kind.COUNTER, "", (), "Turns begun, early looks and failed ones included.")
TURN_FAILURES = Family(
    "bwexporter_turn_failures_total",
    Kind.COUNTER,
    "",
    ("stage",),
    "Turns in which a device could not be read or a stage failed.",
)
TURN_MISFIRES = Family("bwexporter_turn_misfires_total", Kind.COUNTER, "", (), "Turns that did not begin in time.")
CLOCK_STEPS = Family("bwexporter_clock_steps_total", Kind.COUNTER, "", (), "Steps of the wall clock that were noticed.")
CHANGES = Family("bwexporter_changes_total", Kind.COUNTER, "", ("device",), "Changes sent to the kernel.")
CHANGE_FAILURES = Family(
    "bwexporter_change_failures_total",
    Kind.COUNTER,
    "",
    ("device", "errno"),
    "Changes that the kernel refused.",
)
DRIFT_REPAIRS = Family(
    "bwexporter_drift_repairs_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Classes, and rules of the classifier, put right that somebody else had changed.",
)
ORPHANS_REMOVED = Family(
    "bwexporter_orphans_removed_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Classes removed that belonged to no slice.",
)
IMPLAUSIBLE_READINGS = Family(
    "bwexporter_implausible_readings_total",
    Kind.COUNTER,
    "",
    ("device",),
    "Readings that grew faster than the line rate allows; they are counted in full.",
)
CONTROL_REFUSALS = Family(
    "bwexporter_control_refusals_total",
    Kind.COUNTER,
    "",
    (),
    "Orders by hand that were refused: not permitted, malformed, or impossible.",
)
STATE_FAILURES = Family(
    "bwexporter_state_failures_total", Kind.COUNTER, "", (), "Turns with trouble in keeping the state."
)

OWN_FAMILIES: tuple[Family, ...] = (
    TURN_DURATION,
    STAGE_DURATION,
    TURNS,
    TURN_FAILURES,
    TURN_MISFIRES,
    CLOCK_STEPS,
    CHANGES,
    CHANGE_FAILURES,
    DRIFT_REPAIRS,
    ORPHANS_REMOVED,
    IMPLAUSIBLE_READINGS,
    STATE_FAILURES,
    CONTROL_REFUSALS,
)
