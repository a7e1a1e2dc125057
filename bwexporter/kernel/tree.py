"""Tree: the classes that a managed device should have.

Turns tariffs and verdicts into wanted classes. Knows: which handle belongs to which lane, the trunk above the lanes,
and what burst and quantum a rate needs. Does not know: what the kernel has, sockets, why a ceiling is what it is.

    1:      htb, unclassified traffic goes to 1:7fff
     1:1    line rate
      1:10  node cap       normal lanes   1:(0x1000 + id)
      1:20  line rate      exempt lanes   1:(0x8000 + id)
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import repeat
from operator import is_, itemgetter

import numpy as np

from bwexporter.core.lanes import B1, I8, Classes, Lane, Tariffs, Traffic, Verdicts
from bwexporter.kernel.wire import INNER_QUANTUM_BYTES, LARGEST_BURST_NS, TICK_NS, TREE_HANDLE

DEFAULT_ID = 0x6FFF
DEFAULT_MINOR = 0x1000 + DEFAULT_ID
FIRST_LANE_MINOR = 0x1000

_NORMAL, _EXEMPT = TREE_HANDLE | 0x1000, TREE_HANDLE | 0x8000
_TOP, _NORMAL_TRUNK, _EXEMPT_TRUNK = TREE_HANDLE | 1, TREE_HANDLE | 0x10, TREE_HANDLE | 0x20
_TRUNK = (_TOP, _NORMAL_TRUNK, _EXEMPT_TRUNK)
_LEAST_TRUNK_RATE = 125
_SMALLEST_QUANTUM_BYTES = 1514
_LARGEST_QUANTUM_PACKETS = 16
_BURST_BYTES = 1600
_SHORTEST_BURST_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class ManagedTree:
    """The tree of one device that bwexporter builds itself. Tariffs and verdicts are those of this device's lanes.

    A quantum is share x gso_max_bytes, so that shares hold for packets of any size. Where that would pass 16 x
    gso_max_bytes for the largest share, all are scaled by one factor, so that they stay in ratio and no class holds the
    line for longer than 16 of its packets; none falls below 1514 bytes.
    """

    device: str
    cap_bytes_per_second: int
    line_rate_bytes_per_second: int
    default_bytes_per_second: int  # highest ceiling of the unclassified traffic
    gso_max_bytes: int

    def handles(self, tariffs: Tariffs) -> I8:
        """Return the class of each lane, in the order of the tariffs."""
        return _handles(tariffs, _exempt(tariffs))

    def owns(self, handles: I8) -> B1:
        """Mark the classes that are of this tree: the trunk and whatever stands where lanes stand."""
        normal = (handles >= _NORMAL) & (handles <= _NORMAL + DEFAULT_ID)
        exempt = (handles >= _EXEMPT) & (handles <= _EXEMPT + DEFAULT_ID)
        return normal | exempt | np.isin(handles, _TRUNK)

    def wanted(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        """Return the trunk, then one class a lane in the order of the tariffs."""
        trunk, lanes = self._trunk(), self._lanes(tariffs, verdicts)
        return Classes(
            **{
                field.name: np.concatenate([getattr(trunk, field.name), getattr(lanes, field.name)])
                for field in fields(Classes)
            },
        )

    def _trunk(self) -> Classes:
        """Make the inner classes. The rates below 1:1 never sum to more than the line."""
        line = self.line_rate_bytes_per_second
        exempt_rate = max(_LEAST_TRUNK_RATE, line - self.cap_bytes_per_second)
        normal_rate = max(1, min(self.cap_bytes_per_second, line - exempt_rate))
        rate = np.array([line, normal_rate, exempt_rate], np.int64)
        ceiling = np.array([line, self.cap_bytes_per_second, line], np.int64)
        return Classes(
            handle=np.array(_TRUNK, np.int64),
            parent=np.array([TREE_HANDLE, _TOP, _TOP], np.int64),
            rate_bytes_per_second=rate,
            ceiling_bytes_per_second=ceiling,
            quantum_bytes=np.full(3, INNER_QUANTUM_BYTES, np.int64),
            burst_ns=burst_ns(rate),
            ceiling_burst_ns=burst_ns(ceiling),
            leaf=np.zeros(3, np.int64),
        )

    def _lanes(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        exempt = _exempt(tariffs)
        rate = np.maximum(verdicts.guarantee_bytes_per_second, 1)
        ceiling = np.where(
            (tariffs.slice_id == DEFAULT_ID) & ~exempt,
            np.minimum(verdicts.asked_ceiling_bytes_per_second, self.default_bytes_per_second),
            verdicts.asked_ceiling_bytes_per_second,
        )
        return Classes(
            handle=_handles(tariffs, exempt),
            parent=np.where(exempt, _EXEMPT_TRUNK, _NORMAL_TRUNK).astype(np.int64),
            rate_bytes_per_second=rate,
            ceiling_bytes_per_second=ceiling,
            quantum_bytes=self._quantum(tariffs.share),
            burst_ns=burst_ns(rate),
            ceiling_burst_ns=burst_ns(ceiling),
            leaf=np.zeros(len(tariffs.lanes), np.int64),
        )

    def _quantum(self, share: I8) -> I8:
        largest = max(_LARGEST_QUANTUM_PACKETS, int(share.max(initial=1)))
        # In floats: shares are user input and share x packet x 16 could pass 2^63.
        quantum = share.astype(np.float64) * self.gso_max_bytes * _LARGEST_QUANTUM_PACKETS / largest
        return np.maximum(quantum.astype(np.int64), _SMALLEST_QUANTUM_BYTES)


def burst_ns(rate_bytes_per_second: I8) -> I8:
    """Return how long a class may send at once: 1 ms, or the time of 1600 bytes where that is longer.

    Rounded up to what the kernel holds (multiples of 64 ns, up to 274 s).

    >>> burst_ns(np.array([125_000, 125_000_000])).tolist()
    [12800000, 1000000]
    """
    sent = -(-_BURST_BYTES * 1_000_000_000 // np.maximum(rate_bytes_per_second, 1))
    ticks = -(-np.maximum(sent, _SHORTEST_BURST_NS) // TICK_NS)
    held: I8 = np.minimum(ticks * TICK_NS, LARGEST_BURST_NS)
    return held


def _exempt(tariffs: Tariffs) -> B1:
    traffic = map(itemgetter(Lane._fields.index("traffic")), tariffs.lanes)
    return np.fromiter(map(is_, traffic, repeat(Traffic.EXEMPT)), bool, len(tariffs.lanes))


def _handles(tariffs: Tariffs, exempt: B1) -> I8:
    return np.where(exempt, _EXEMPT, _NORMAL) + tariffs.slice_id
