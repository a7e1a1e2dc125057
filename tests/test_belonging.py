"""Every change of a ceiling in the kernel belongs to exactly one event that explains it.

A repair belongs to the event of the drift that it repairs, told in the same turn. Any other change belongs to the last
event of the lane that told a ceiling: its reason is the reason still, and its ceiling is less than twice and more than
half of what it told.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from bwexporter.core.lanes import Act, Lane, Reason
from bwexporter.core.plans import Policy, Rung
from bwexporter.core.report import Event, EventKind, Report
from tests.node import DEVICE, Node
from tests.simulation import Cheat, Sender, Sends, late, straddling

DAY = 86_400.0
MEGABYTE = 1_000_000
LADDER = (Rung(0.2, 50_000), Rung(0.6, 5_000))
POLICIES = (Policy(sliding_seconds=DAY), Policy(sliding_seconds=DAY / 4), Policy(ladder=LADDER))


class Audit:
    """Hears every turn of a node, and keeps what does not belong."""

    def __init__(self) -> None:
        self.changes = 0
        self.unexplained: list[str] = []
        self.events = Counter[EventKind]()
        self._told: dict[Lane, Event] = {}

    def hear(self, node: Node, report: Report) -> None:
        """Check a turn."""
        drifts = Counter(event.lane for event in report.events if event.kind is EventKind.DRIFT)
        self.events.update(event.kind for event in report.events)
        for event in report.events:
            if event.kind in {EventKind.VERDICT, EventKind.CEILING} and event.lane is not None:
                self._told[event.lane] = event
        device = report.devices[0]
        desk = node.turns.desks[DEVICE]
        row_of = {handle: row for row, handle in enumerate(desk.tree.handles(desk.tariffs).tolist())}
        changes = device.changes
        for at in range(len(changes)):
            handle, before = int(changes.classes.handle[at]), int(changes.before_ceiling_bytes_per_second[at])
            after = int(changes.classes.ceiling_bytes_per_second[at])
            if changes.act[at] != Act.CHANGE or handle not in row_of or before == after:
                continue
            lane, reason = device.tariffs.lanes[row_of[handle]], Reason(int(device.verdicts.reason[row_of[handle]]))
            self.changes += 1
            belongs = drifts[lane] == 1 if changes.drift[at] else self._is_told(lane, reason, after)
            if not belongs:
                self.unexplained.append(f"{lane.slice_name} {reason.name} {before} -> {after}: {self._told.get(lane)}")

    def _is_told(self, lane: Lane, reason: Reason, ceiling: int) -> bool:
        event = self._told.get(lane)
        if event is None or event.inputs["reason"] != reason.name.lower():
            return False
        told = int(event.inputs["ceiling_bytes_per_second"])
        return told < 2 * ceiling and ceiling < 2 * told


def a_mixed_cast(slices: int) -> list[Sender]:
    """Return senders of all sorts and sizes."""
    chance = random.Random(9)
    sorts = (
        Sender,
        lambda allowance: Sender(allowance, every=DAY / 30, on=chance.uniform(1.0, 60.0)),
        lambda allowance: Sender(allowance, since=float("inf")),
        lambda allowance: Sender(allowance, since=chance.uniform(0.0, DAY), until=DAY),
        lambda allowance: late(allowance, DAY, chance.choice([0.3, 1.0, 60.0])),
        lambda allowance: straddling(allowance, DAY, chance.choice([0.3, 30.0])),
    )
    sizes = [20 * MEGABYTE, 100 * MEGABYTE, 1_000 * MEGABYTE, 10_800 * MEGABYTE]
    cast = [sorts[at % len(sorts)](chance.choice(sizes)) for at in range(slices)]
    return [sender if at % 19 else replace(sender, policy=POLICIES[at % 3]) for at, sender in enumerate(cast)]


def test_in_a_day_of_200_slices_every_change_of_a_ceiling_belongs_to_one_event() -> None:
    """Greedy, bursty, idle, late and straddling ones, some with a policy; one has its class made anew all the time."""
    audit = Audit()
    cast = [*a_mixed_cast(199), Sender(100 * MEGABYTE, cheat=Cheat.RECREATED)]
    loop = Sends(cast, 600.0, DAY, random.Random(1), hears=audit.hear)

    while loop.seconds < 1.05 * DAY:
        loop.wait(0.4)

    assert audit.unexplained == []
    assert audit.changes > 2_000
    assert audit.events[EventKind.VERDICT] + audit.events[EventKind.CEILING] < audit.changes / 2
