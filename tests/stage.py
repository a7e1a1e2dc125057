"""Stage: lanes of given ceilings on a real device, and looks at what they have sent.

Turns ceilings, shares and guarantees into the project's own tree. Knows: the doors of the kernel. Does not know: who
sends, what is expected.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bwexporter.core import plan
from bwexporter.core.lanes import Snapshot, Verdicts
from bwexporter.kernel.htb import Device
from bwexporter.kernel.tree import ManagedTree
from tests.builders import GIGABIT, make_counters, make_tariffs, table

GSO_BYTES = 65_536
FIRST = 0x11001


@dataclass(frozen=True)
class Look:
    """A dump of the classes, with the times before and after it."""

    before: float
    after: float
    snapshot: Snapshot

    def sent(self, handle: int) -> int:
        """Return the bytes of a class."""
        return int(self.snapshot.counts.sent_bytes[self.snapshot.classes.handle == handle][0])

    def queued(self, handle: int) -> int:
        """Return the backlog of a class."""
        return int(self.snapshot.backlog_bytes[self.snapshot.classes.handle == handle][0])


def look_at(device: Device) -> Look:
    """Look at the classes of a device."""
    before = time.monotonic()
    snapshot = device.look()
    return Look(before, time.monotonic(), snapshot)


def backlogged_windows(looks: Sequence[Look], handle: int) -> Iterator[tuple[Look, Look]]:
    """Yield the windows at both ends of which packets waited: what a class then sent is all that it was let."""
    waiting = [look for look in looks if look.queued(handle)]
    yield from combinations(waiting, 2)


def set_lanes(
    device: Device, ceilings: Sequence[int], *, cap: int = GIGABIT, line: int = GIGABIT, **given: object
) -> list[int]:
    """Build a tree with a lane for each ceiling, or change it; return the classes. `given` are columns of verdicts."""
    count = len(ceilings)
    tariffs = make_tariffs(count, share=given.pop("share", 1))
    verdicts = table(
        Verdicts,
        count,
        {"admitted_ratio": 1.0, "guarantee_bytes_per_second": 125},
        {"asked_ceiling_bytes_per_second": np.array(ceilings), **given},
    )
    tree = ManagedTree(device.name, cap, line, cap, GSO_BYTES)
    snapshot = device.look()
    ours = tree.owns(snapshot.classes.handle)
    wanted = tree.wanted(tariffs, verdicts)
    changes = plan.diff(wanted, snapshot, ours=ours, known=make_counters(0), enforced=None)
    assert not device.apply(changes).errno.any()
    return [FIRST + at for at in range(count)]
