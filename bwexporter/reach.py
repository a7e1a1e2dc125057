"""Reach: does each slice's traffic reach its lane, and why not.

Turns the claims of a roll, the rules in the kernel and the classes of each device into findings. Knows: how a rule is
put to the test, how a packet is found again in the counters of lanes that others send through. Does not know: how
packets are made, how findings are printed.

Rules are first compared with what the records want. Where they are right, each lane gets one small packet of each kind
that tells its slice (a mark, a control group, an address of either version, a user), and the lane's counter is watched.
A packet is known again by its size: those that are under way together differ in it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bwexporter.core.lanes import I8, Lane, Snapshot, Traffic
from bwexporter.kernel.claims import Claim, Reasons, explain
from bwexporter.kernel.probe import SMALLEST_BYTES, Probe
from bwexporter.kernel.rules import Rules, handle_text
from bwexporter.kernel.ways import Way
from bwexporter.kernel.ways import ways as ways_of

STEP_BYTES, TOGETHER = 20, 12
"""By how much probes that are under way together differ in size, and how many they are."""

_LINK_HEADERS = (0, 14, 18)  # none, Ethernet's, with a VLAN tag; less than a step apart
_WAIT_SECONDS, _PAUSE_SECONDS = 0.05, 0.002

Send = Callable[[Probe], str]
"""Sends a probe, and says why it could not."""


class Verdict(enum.Enum):
    """Whether traffic reaches its lane."""

    REACHES = "reaches"
    MISSES = "does not reach"
    UNPROVEN = "not probed"  # the rules are right, and no packet has shown it


@dataclass(frozen=True, slots=True)
class Watched:
    """A device whose lanes are watched."""

    device: str
    lanes: Mapping[int, Lane]  # by the handle of the class
    look: Callable[[], Snapshot]
    asked: Collection[int]  # those lanes that are to be found out about


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one lane: by which kinds of packets it was tried, and why it is not reached or not proven."""

    lane: Lane
    handle: int
    verdict: Verdict
    tried: tuple[str, ...]
    reasons: tuple[str, ...]


class _Landing(NamedTuple):
    handle: int | None  # where it was seen; None: nowhere
    trouble: str = ""  # why it could not be sent


def findings(
    claims: Sequence[Claim],
    devices: Sequence[Watched],
    wanted: Rules,
    actual: Rules | None,
    send: Send | None,
) -> Iterator[Finding]:
    """Yield what is found of each lane, device by device; without `send` by the rules alone."""
    reasons = explain(claims, wanted, actual)
    exempting = any(wanted.maps[f"exempt{version}"] for version in (4, 6))
    ways = ways_of(claims, wanted)
    for one in devices:
        snapshot = one.look()
        lanes = {
            handle: lane
            for handle, lane in one.lanes.items()
            if handle in one.asked and (exempting or lane.traffic is Traffic.NORMAL)
        }
        troubles = {handle: _troubles(one, snapshot, handle, lane, reasons) for handle, lane in lanes.items()}
        tried = {
            handle: [way._replace(probe=way.probe._replace(device=one.device)) for way in ways.get(handle, ())]
            for handle in lanes
            if send is not None and not troubles[handle]
        }
        landed = _Search(one.look, send).land(tried) if send is not None else {}
        for handle, lane in lanes.items():
            texts = [way.text for way in tried.get(handle, ())]
            outcomes = list(zip(texts, landed.get(handle, ()), strict=True))
            verdict, why = _judge(handle, troubles[handle], outcomes, one.lanes, probing=send is not None)
            yield Finding(lane, handle, verdict, tuple(texts), tuple(dict.fromkeys(why)))


def _troubles(one: Watched, snapshot: Snapshot, handle: int, lane: Lane, reasons: Mapping[str, Reasons]) -> list[str]:
    """Say what a look at the device and its rules shows to be wrong."""
    if not snapshot.tree_present:
        return [f"{one.device} has no tree: `bwexporter run` or `bwexporter tree build` makes it"]
    found = [] if handle in snapshot.classes.handle else [f"{one.device} has no class {handle_text(handle)}"]
    of_slice = reasons.get(lane.slice_name, Reasons((), ()))
    return [*found, *(of_slice.normal if lane.traffic is Traffic.NORMAL else of_slice.exempt)]


def _judge(
    handle: int,
    troubles: Sequence[str],
    outcomes: Sequence[tuple[str, _Landing]],
    lanes: Mapping[int, Lane],
    *,
    probing: bool,
) -> tuple[Verdict, list[str]]:
    if troubles:
        return Verdict.MISSES, list(troubles)
    missed = [
        f"a packet with {text} {_place(landing.handle, lanes)}"
        for text, landing in outcomes
        if not landing.trouble and landing.handle != handle
    ]
    unsent = [f"{text}: {landing.trouble}" for text, landing in outcomes if landing.trouble]
    if not outcomes and probing:
        unsent = ["no packet can be made that this lane alone would take"]
    elif len(outcomes) == 1:
        unsent = [landing.trouble for _, landing in outcomes if landing.trouble]
    if missed:
        return Verdict.MISSES, missed + unsent
    if len(unsent) == len(outcomes):
        return Verdict.UNPROVEN, unsent
    return Verdict.REACHES, unsent


def _place(handle: int | None, lanes: Mapping[int, Lane]) -> str:
    if handle is None:
        return "was seen in no class: this node drops such packets, or the device does not send"
    lane = lanes.get(handle)
    return f"landed in {handle_text(handle)}" + (f" ({lane.slice_name}, {lane.traffic.value})" if lane else "")


class _Levels(NamedTuple):
    """What classes without children have counted and queued, and how many packets their queues had no room for."""

    handle: I8  # ascending
    arrived_bytes: I8
    dropped_packets: I8

    def of(self, handle: int) -> tuple[int, int]:
        """Return what a class has counted and dropped; nothing where there is none."""
        at = int(np.searchsorted(self.handle, handle))
        if at == len(self.handle) or self.handle[at] != handle:
            return 0, 0
        return int(self.arrived_bytes[at]), int(self.dropped_packets[at])


class _Search:
    """Sends probes, and finds in which classes they arrive."""

    def __init__(self, look: Callable[[], Snapshot], send: Send) -> None:
        self._look = look
        self._send = send

    def land(self, ways: Mapping[int, Sequence[Way]]) -> dict[int, list[_Landing]]:
        """Send every probe, and say for each where it landed; keys are the classes where they should."""
        found: dict[int, list[_Landing]] = {handle: [] for handle in ways}
        for rank in range(max(map(len, ways.values()), default=0)):
            # One to a lane at a time: what it grows by is then this one's size.
            probes = [(handle, several[rank].probe) for handle, several in ways.items() if len(several) > rank]
            for at in range(0, len(probes), TOGETHER):
                part = probes[at : at + TOGETHER]
                for (handle, _), landing in zip(part, self._together(part), strict=True):
                    found[handle].append(landing)
        return found

    def _together(self, probes: Sequence[tuple[int, Probe]]) -> list[_Landing]:
        """Send some at once; those that their lane does not show to the byte are sent once more, each alone."""
        before = self._levels()
        sized = [probe._replace(ip_bytes=SMALLEST_BYTES + STEP_BYTES * at) for at, (_, probe) in enumerate(probes)]
        troubles = [self._send(probe) for probe in sized]
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            late = time.monotonic() > deadline  # then there is one more look, however long one was held up
            now = self._levels()
            shown = [
                _grown(before, now, handle) - probe.ip_bytes in _LINK_HEADERS
                for (handle, _), probe in zip(probes, sized, strict=True)
            ]
            if all(seen or trouble for seen, trouble in zip(shown, troubles, strict=True)):
                break
            if late:
                break
            time.sleep(_PAUSE_SECONDS)
        return [
            _Landing(None, trouble) if trouble else _Landing(handle) if seen else self._alone(handle, probe)
            for (handle, probe), trouble, seen in zip(probes, troubles, shown, strict=True)
        ]

    def _alone(self, handle: int, probe: Probe) -> _Landing:
        """Send one. Where the lane grows by more, others send through it too."""
        before = self._levels()
        trouble = self._send(probe)
        if trouble:
            return _Landing(None, trouble)
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            late = time.monotonic() > deadline
            now = self._levels()
            if _grown(before, now, handle) >= probe.ip_bytes or _dropped(before, now, handle):
                return _Landing(handle)
            if late:
                break
            time.sleep(_PAUSE_SECONDS)
        elsewhere = [
            other for other in now.handle.tolist() if _grown(before, now, other) - probe.ip_bytes in _LINK_HEADERS
        ]
        return _Landing(elsewhere[0] if len(elsewhere) == 1 else None)

    def _levels(self) -> _Levels:
        snapshot = self._look()
        leaves = ~np.isin(snapshot.classes.handle, snapshot.classes.parent)
        arrived = (snapshot.counts.sent_bytes + snapshot.backlog_bytes)[leaves]
        return _Levels(snapshot.classes.handle[leaves], arrived, snapshot.counts.dropped_packets[leaves])


def _grown(before: _Levels, now: _Levels, handle: int) -> int:
    return now.of(handle)[0] - before.of(handle)[0]


def _dropped(before: _Levels, now: _Levels, handle: int) -> bool:
    return now.of(handle)[1] != before.of(handle)[1]
