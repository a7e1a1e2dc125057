"""A whole node on the real kernel, with the interface of tests/node.py: what runs on the fake runs here as it stands.

Turns the acts of a test into packets, tc and netlink. Knows: the part of `FakeKernel` that node and tests use. Does not
know: what is tested. Clocks are those of the test; only the kernel is real.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from bwexporter.core.enrolment import open_ledger
from bwexporter.core.lanes import Act, Classes
from bwexporter.desk import Desk
from bwexporter.kernel import wire
from bwexporter.kernel.htb import Device
from bwexporter.kernel.sockets import Requests
from bwexporter.kernel.tree import ManagedTree
from bwexporter.turn import Turns
from tests.builders import GIGABIT
from tests.fake_kernel import FakeClass
from tests.faults.machine import Class, Machine
from tests.node import DEVICE, Node, plain_tariffs

SCALE = 100  # for each so many bytes of the fake, one is sent
PACKET_BYTES = 1000
_DEAF_BYTES, _LISTENER_BYTES = 4096, 8 << 20
_OVERFLOWING = 60
FOREVER = 1 << 62


@dataclass
class Root:
    """The root queue, seen as that of the fake."""

    classes: dict[int, Class]


class RealKernel:
    """The machine, with the acts of `FakeKernel`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.door: Device | None = None
        self.deaf = False  # the door's listener has overflowed and hears nothing until it is read
        self.stranger = Requests()

    @property
    def links(self) -> dict[str, SimpleNamespace]:
        """The device, if it is there, with its root queue."""
        classes = self.machine.classes()
        root = Root(classes) if classes else None
        return {DEVICE: SimpleNamespace(root=root, ifindex=self.machine.ifindex)}

    def offer(self, name: str, handle: int, size: int, *, seconds: float = 1.0) -> int:
        """Send a part of it, and return what passed when it has passed."""
        assert (name, bool(seconds)) == (DEVICE, True)
        packets = size // SCALE // PACKET_BYTES
        self.machine.send(handle, packets, size=PACKET_BYTES)
        self.machine.settle()
        return packets * PACKET_BYTES

    def delete_class(self, name: str, handle: int, *, notify: bool = True) -> int:
        """Delete a class, unheard where the listener is deaf."""
        assert name == DEVICE
        assert notify or self.deaf or self.door is None
        self.machine.delete_class(handle)
        return 0

    def create_class(self, name: str, made: FakeClass) -> int:
        """Create a class with all its settings."""
        assert name == DEVICE
        one = {"rate_bytes_per_second": made.rate, "ceiling_bytes_per_second": made.ceiling, "quantum_bytes": 1514}
        bursts = {"burst_ns": 10**6, "ceiling_burst_ns": made.ceiling_burst_ns, "leaf": 0}
        columns = {"handle": made.handle, "parent": made.parent, **one, **bursts}
        classes = Classes(**{column: np.array([value]) for column, value in columns.items()})
        first = self.stranger.reserve(1)
        data = wire.encode_classes(classes, Act.CREATE, ifindex=self.machine.ifindex, first_seq=first)
        refused, _ = self.stranger.exchange(data, 1, first)
        assert refused[0] in {0, errno.EEXIST}
        return int(refused[0])

    def delete_root(self, name: str) -> None:
        """Delete the root queue, if there is one."""
        assert name == DEVICE
        if self.machine.classes():
            self.machine.delete_tree()

    def lose_notifications(self) -> None:
        """Overflow the door's listener; the kernel then tells it nothing more until it is read."""
        if self.door is None or self.deaf:
            return
        listener = self.door._listener._socket
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEAF_BYTES)
        first = self.stranger.reserve(_OVERFLOWING)
        questions = np.full(_OVERFLOWING, 0x10001)
        # Each answer to such a question is also told to whoever listens.
        data = wire.encode_questions(questions, ifindex=self.machine.ifindex, first_seq=first, batch=_OVERFLOWING)
        self.stranger.exchange(data, _OVERFLOWING, first)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LISTENER_BYTES)
        self.deaf = True

    def remove_link(self, name: str) -> None:
        """Remove the device."""
        assert name == DEVICE
        self.machine.remove_link()

    def add_link(self, name: str) -> None:
        """Add the device anew."""
        assert name == DEVICE
        self.machine.add_link()


class RealNode(Node):
    """A node whose door is the real one."""

    def __init__(self, machine: Machine, ids: dict[str, int], **given: object) -> None:
        self.real = RealKernel(machine)
        super().__init__(ids, **given)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start the program anew, from what was saved last."""
        self.stop()
        door = Device(DEVICE)
        self.kernel = self.real  # type: ignore[assignment]
        self.door, self.real.door, self.real.deaf = door, door, False  # type: ignore[assignment]
        self.turns = Turns("node", self.shelf, self.pace, lambda: 0.0)
        facts = door.facts()
        ledger = self.shelf.ledgers.get(DEVICE) or open_ledger(DEVICE, facts.ifindex, self.now())
        tree = ManagedTree(DEVICE, self.cap_bytes_per_second, GIGABIT, self.cap_bytes_per_second, facts.gso_max_bytes)
        self.turns.desks = {DEVICE: Desk(DEVICE, door, tree, plain_tariffs({}), (self.rule,), ledger)}
        self.enlist()

    def stop(self) -> None:
        """End the program as by kill -9."""
        if self.door is not None:
            self.door.close()
        self.door = self.real.door = None

    def whole_turn(self, *, early: bool = False):  # noqa: ANN201 - that of the node
        """Take a turn; the listener has then been read."""
        report = super().whole_turn(early=early)
        self.real.deaf = False
        return report

    def enlist(self) -> None:
        """Put the slices of now on the roster."""
        desk = self.turns.desks[DEVICE]
        self.turns.enlist(replace(desk, tariffs=plain_tariffs(self.ids, **self.tariff), rules=(self.rule,)))
