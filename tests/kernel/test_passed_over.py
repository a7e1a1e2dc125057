"""What the listener leaves out: our own changes, which would otherwise come back to us one by one."""

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from bwexporter.core.lanes import Act, Classes
from bwexporter.kernel import dump, wire
from bwexporter.kernel.sockets import Listener, Requests
from tests.kernel.conftest import RealRig

pytestmark = pytest.mark.kernel

HANDLE = 0x11001


@pytest.fixture
def requests(real_rig: RealRig) -> Iterator[Requests]:
    """Return a socket to ask with, beside a tree of one class."""
    real_rig.add_root("htb")
    opened = Requests()
    send(opened, Act.CREATE)
    yield opened
    opened.close()


@pytest.fixture
def listener(requests: Requests) -> Iterator[Listener]:
    """Return a listener that passes over that socket."""
    listener = Listener()
    listener.pass_over(requests.port)
    yield listener
    listener.close()


def send(requests: Requests, act: Act) -> None:
    """Create, change or remove the class."""
    columns = [HANDLE, wire.TREE_HANDLE, 125_000, 250_000, 1514, 0, 0, 0]
    classes = Classes(*[np.array([column]) for column in columns])
    first = requests.reserve(1)
    outcome, _ = requests.exchange(wire.encode_classes(classes, act, ifindex=ifindex(), first_seq=first), 1, first)
    assert not outcome.any()


def ifindex() -> int:
    """Return the index of v0."""
    return socket.if_nametoindex("v0")


def heard(listener: Listener) -> bool:
    """Say whether anything stirred since the last time."""
    listener.calm()
    listener.drain(frozenset({ifindex()}), (0, 0))
    return listener.stirred


def test_our_own_change_is_not_heard(listener: Listener, requests: Requests) -> None:
    send(requests, Act.CHANGE)
    assert not heard(listener)


def test_our_own_removal_is_heard_with_its_last_counters(listener: Listener, requests: Requests) -> None:
    send(requests, Act.REMOVE)
    assert heard(listener)
    classes, _, _ = dump.decode_classes(listener.endings, len(listener.endings))
    assert classes.handle.tolist() == [HANDLE]


def test_a_strangers_change_is_heard(listener: Listener, real_rig: RealRig) -> None:
    real_rig.change_class(HANDLE)
    assert heard(listener)


def test_the_same_change_is_heard_by_who_passes_over_another(listener: Listener, requests: Requests) -> None:
    other = Requests()
    listener.pass_over(other.port)
    send(requests, Act.CHANGE)
    other.close()
    assert heard(listener)
