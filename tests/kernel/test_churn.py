"""What a door makes of a kernel that is busy with somebody else's changes while it looks."""

from __future__ import annotations

import socket
import threading
from typing import Self

import numpy as np
import pytest

from bwexporter.core.lanes import Act, Classes, Snapshot
from bwexporter.kernel import wire
from bwexporter.kernel.sockets import Requests
from tests.kernel.conftest import FakeRig, RealRig
from tests.kernel.test_contract import FIRST, achieve, sent, wanted

STABLE, CHURNED = 400, 200


def rows(first: int, count: int) -> Classes:
    """Return classes below the root, one after the other."""
    full = np.full(count, 125_000)
    return Classes(first + np.arange(count), full * 0 + 0x10000, full, full, full, full * 0, full * 0, full * 0)


class Stranger:
    """Makes and removes classes in a thread of its own until it is stopped."""

    def __init__(self) -> None:
        self._requests = Requests()
        self._ifindex = socket.if_nametoindex("v0")
        self._stop = threading.Event()
        self.rounds = 0
        self._thread = threading.Thread(target=self._churn)

    def send(self, classes: Classes, act: Act) -> None:
        """Do one act to classes."""
        first = self._requests.reserve(len(classes))
        batch = self._requests.batch
        data = wire.encode_classes(classes, act, ifindex=self._ifindex, first_seq=first, batch=batch)
        outcome, _ = self._requests.exchange(data, len(classes), first)
        assert not outcome.any()

    def _churn(self) -> None:
        while not self._stop.is_set():
            for act in (Act.CREATE, Act.REMOVE):
                self.send(rows(0x12000, CHURNED), act)
            self.rounds += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._requests.close()


@pytest.mark.kernel
def test_a_clean_look_misses_no_class_and_every_ending_is_told(real_rig: RealRig) -> None:
    """While others make and remove classes: handles are unique, absence in a clean look is real, no ending is lost."""
    looks: list[Snapshot] = []
    with real_rig.device() as device:
        achieve(device, wanted())
        stranger = Stranger()
        stranger.send(rows(0x13000, STABLE), Act.CREATE)
        device.look()
        with stranger:
            while stranger.rounds < 20:
                looks.append(device.look())
        looks.append(device.look())
    stable = set(range(0x13000, 0x13000 + STABLE))
    for look in looks:
        assert (np.diff(look.classes.handle) > 0).all()
        assert not look.clean or stable <= set(look.classes.handle.tolist())
    assert looks[-1].clean
    assert all(look.watched_since_last_look for look in looks)
    assert sum(len(look.endings) for look in looks) == stranger.rounds * CHURNED


def test_a_dump_beside_changes_is_not_clean() -> None:
    """A class that such a dump misses is not gone, and one that it repeats is there once."""
    rig = FakeRig()
    with rig.device() as device:
        achieve(device, wanted())
        rig.kernel.stirrings, rig.kernel.missing, rig.kernel.repeated = 3, {FIRST: 3}, {FIRST + 1: 3}
        snapshot = device.look()
        assert not snapshot.clean
        assert FIRST not in snapshot.classes.handle
        assert snapshot.classes.handle.tolist().count(FIRST + 1) == 1
        again = device.look()
        assert again.clean
        assert FIRST in again.classes.handle


def test_a_ceiling_limits_what_passes() -> None:
    """The fake passes ceiling x seconds and a burst, and drops the rest."""
    rig = FakeRig()
    with rig.device() as device:
        achieve(device, wanted(1_000_000))
        passed = rig.kernel.offer("v0", FIRST, 5_000_000, seconds=2.0)
        snapshot = device.look()
        assert passed == sent(snapshot, FIRST) == 2_001_000
        assert snapshot.counts.dropped_packets.max() == 2_999
