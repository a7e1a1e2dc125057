"""What would be, live: lanes in shadow, as if their verdicts were enforced.

Turns what was sent between turns into what ceilings would have let through, by living through it once more, and a
report into one that says so. Knows: which devices have lanes in shadow, from when on a lane's figures are reckoned.
Does not know: any rule, how it is lived through, how it is published.

It is the comparison that a replay of the same record makes. What a ceiling would have kept back between two full turns
is not sent after the second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bwexporter.core.accounting import elapsed_seconds
from bwexporter.core.hand import Hand
from bwexporter.core.lanes import F8, I8, Instant, Lane, Ledger, Verdicts
from bwexporter.core.report import DeviceReport, Report, WouldBe
from bwexporter.core.rings import in_use
from bwexporter.desk import Desk
from bwexporter.reliving import Reliving, Span, Terms, note, tree_of_ours
from bwexporter.stages import Pace
from bwexporter.turn import Turns

MOST_SPANS = 100
"""Of a lane; of more in one period the newest are told."""


class Shadowing:
    """The devices with lanes in shadow. One thread takes turns and tells them here."""

    def __init__(self) -> None:
        self._shadows: dict[str, _Shadow] = {}

    def seen(self, report: Report, turns: Turns) -> Report:
        """Return the report of a full turn with what would be; that of an early look as it is."""
        if report.early:
            return report
        devices = [self._of_device(report, one, turns) for one in report.devices]
        return replace(report, devices=tuple(devices))

    def _of_device(self, report: Report, device: DeviceReport, turns: Turns) -> DeviceReport:
        in_shadow = device.tariffs.shadow | (not report.enforcing)
        if not in_shadow.any():
            self._shadows.pop(device.device, None)
            return device
        desk, shadow = turns.desks[device.device], self._shadows.get(device.device)
        if shadow is None:
            shadow = self._shadows[device.device] = _Shadow(desk, turns.pace, report.at, turns.hand)
        elif not device.trouble:
            shadow.follow(desk, turns.pace, report.at, turns.hand)
        return replace(device, would_be=shadow.told(in_shadow))


@dataclass(slots=True)
class _Since:
    """From when on the figures of each lane are reckoned, and how far its counts were then."""

    wall_seconds: F8
    period_start_at: F8  # ledger time
    wished: F8
    passed: F8


class _Shadow:
    """One device."""

    def __init__(self, desk: Desk, pace: Pace, now: Instant, hand: Hand | None) -> None:
        self._desk_tariffs = desk.without_hand
        self._life = Reliving(desk.device, _terms(desk), pace, now, self._hear)
        self._sent = _sent(desk)
        self._verdicts: Verdicts | None = None
        lanes = len(self._desk_tariffs)
        self._spans = [list[Span]() for _ in range(lanes)]
        self._since = _Since(np.full(lanes, now.wall_seconds), np.zeros(lanes), np.zeros(lanes), np.zeros(lanes))
        self._life.begin(lambda ledger: _as_it_stands(ledger, desk.ledger), hand)

    def follow(self, desk: Desk, pace: Pace, now: Instant, hand: Hand | None) -> None:
        """Live through what was sent since the last full turn; then take over what holds from now on."""
        seconds, sent = elapsed_seconds(self._life.now, now), _sent(desk)
        if seconds > 0:
            lanes = self._life.terms.tariffs.lanes
            gained = np.array([sent.get(lane, 0) - self._sent.get(lane, 0) for lane in lanes], np.float64)
            self._life.live_on(seconds, np.maximum(gained, 0.0))
            self._sent = sent
        self._life.now = now
        if desk.without_hand is not self._desk_tariffs:
            self._enlist(desk, pace)
        self._life.hold(hand)

    def _enlist(self, desk: Desk, pace: Pace) -> None:
        """Go on with the lanes that there are now; a new one is reckoned from now on."""
        before = {lane: row for row, lane in enumerate(self._life.terms.tariffs.lanes)}
        self._desk_tariffs = desk.without_hand
        self._life.enlist(_terms(desk), pace)
        rows = [before.get(lane, -1) for lane in self._desk_tariffs.lanes]
        known, at = np.array(rows) >= 0, np.array(rows, np.int64)
        since, now = self._since, self._life.now.wall_seconds
        self._spans = [self._spans[row] if row >= 0 else [] for row in rows]
        self._since = _Since(
            np.where(known, since.wall_seconds[at], now),
            np.where(known, since.period_start_at[at], 0.0),
            np.where(known, since.wished[at], self._life.wished),
            np.where(known, since.passed[at], self._life.passed),
        )

    def _hear(self, now: Instant, report: Report) -> None:
        """Note who is capped from a look on; with a lane's period its figures begin anew."""
        if not report.devices:
            return
        self._verdicts = report.devices[0].verdicts
        ledger, since = self._life.ledger, self._since
        start = ledger.accounts.period_start_at[: ledger.enrolled]
        begun = (since.period_start_at > 0) & (start > since.period_start_at)
        for row in np.flatnonzero(begun).tolist():
            self._spans[row].clear()
            since.wall_seconds[row] = start[row] + ledger.wall_offset_seconds
            since.wished[row], since.passed[row] = self._life.wished[row], self._life.passed[row]
        since.period_start_at = start.copy()
        note(self._spans, report, now.wall_seconds)
        for known in self._spans:
            del known[:-MOST_SPANS]

    def told(self, in_shadow: np.ndarray) -> WouldBe | None:
        """Return the figures of the lanes in shadow."""
        verdicts, now = self._verdicts, self._life.now.wall_seconds
        if verdicts is None or len(verdicts) != len(in_shadow):
            return None
        spans = {
            row: tuple((since, min(until, now)) for since, until in self._spans[row] if since < now)
            for row in np.flatnonzero(in_shadow).tolist()
            if self._spans[row]
        }
        return WouldBe(
            in_shadow=in_shadow,
            since_wall_seconds=self._since.wall_seconds.copy(),
            ceiling_bytes_per_second=verdicts.ceiling_bytes_per_second.copy(),
            capped=verdicts.capped.copy(),
            recorded_bytes=_whole(self._life.wished - self._since.wished),
            sent_bytes=_whole(self._life.passed - self._since.passed),
            spans=spans,
        )


def _whole(values: F8) -> I8:
    return np.rint(values).astype(np.int64)


def _sent(desk: Desk) -> dict[Lane, int]:
    """Return what each lane has sent in all."""
    return dict(zip(desk.ledger.lanes, desk.ledger.accounts.sent_bytes.tolist(), strict=True))


def _terms(desk: Desk) -> Terms:
    """Return the terms of a device as they would be enforced."""
    tariffs = desk.without_hand
    ours = tree_of_ours(desk.device, desk.tree)
    return Terms(ours, replace(tariffs, shadow=np.zeros(len(tariffs), np.bool_)), desk.rules)


def _as_it_stands(ledger: Ledger, real: Ledger) -> Ledger:
    """Let accounts go on from those that there are."""
    return replace(
        ledger,
        ledger_seconds=real.ledger_seconds,
        wall_offset_seconds=real.wall_offset_seconds,
        accounts=real.accounts.take(np.arange(real.enrolled)),
        rings=in_use(real),
    )
