"""Tree: the classes that a managed device should have.

Turns tariffs and verdicts into wanted classes. Knows: which handle belongs to which lane, the trunk above the lanes,
and what burst and quantum a rate needs. Does not know: what the kernel has, sockets, why a ceiling is what it is.

    1:      htb, unclassified traffic goes to 1:7fff
     1:1    line rate
      1:10  node cap       normal lanes   1:(0x1000 + id)
      1:20  line rate      exempt lanes   1:(0x8000 + id)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import repeat
from operator import is_, itemgetter
from typing import ClassVar, NamedTuple

import numpy as np

from bwexporter.core.lanes import B1, I8, UNLIMITED, Classes, Lane, Snapshot, Tariffs, Traffic, Verdicts
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
class _Standing:
    """What stands whatever the verdicts say: of the trunk all, of the lanes' classes a part."""

    tariffs: Tariffs
    trunk: Classes
    handle: I8  # trunk, then lanes; as are the next three
    parent: I8
    quantum: I8
    leaf: I8
    highest: I8  # ceiling of each lane


class _Rates(NamedTuple):
    """What the guarantees come to, which are the very same for as long as the tariffs are."""

    guarantee: I8  # of each lane
    standing: _Standing
    rate: I8  # trunk, then lanes, as is the next
    burst_ns: I8


@dataclass(frozen=True, slots=True)
class ManagedTree:
    """The tree of one device that bwexporter builds itself. Tariffs and verdicts are those of this device's lanes.

    A quantum is share x gso_max_bytes, so that shares hold for packets of any size. Where that would pass 16 x
    gso_max_bytes for the largest share, all are scaled by one factor, so that they stay in ratio and no class holds the
    line for longer than 16 of its packets; none falls below 1514 bytes.
    """

    builds: ClassVar = True

    device: str
    cap_bytes_per_second: int
    line_rate_bytes_per_second: int
    default_bytes_per_second: int  # highest ceiling of the unclassified traffic
    gso_max_bytes: int
    _kept: list[_Standing] = field(default_factory=list, init=False, repr=False, compare=False)  # of the last tariffs
    _kept_rates: list[_Rates] = field(default_factory=list, init=False, repr=False, compare=False)  # of the last wanted

    def handles(self, tariffs: Tariffs) -> I8:
        """Return the class of each lane, in the order of the tariffs."""
        return self._standing(tariffs).handle[len(_TRUNK) :]

    def fitted(self, tariffs: Tariffs, snapshot: Snapshot) -> Tariffs:
        """Return the tariffs as they are, whatever there is: the classes follow them."""
        del snapshot
        return tariffs

    def owns(self, handles: I8) -> B1:
        """Mark the classes that are of this tree: the trunk and whatever stands where lanes stand."""
        normal = (handles >= _NORMAL) & (handles <= _NORMAL + DEFAULT_ID)
        exempt = (handles >= _EXEMPT) & (handles <= _EXEMPT + DEFAULT_ID)
        trunk = (handles == _TOP) | (handles == _NORMAL_TRUNK) | (handles == _EXEMPT_TRUNK)
        ours: B1 = normal | exempt | trunk
        return ours

    def wanted(self, tariffs: Tariffs, verdicts: Verdicts) -> Classes:
        """Return the trunk, then one class a lane in the order of the tariffs."""
        kept = self._standing(tariffs)
        rates = self._rates(verdicts.guarantee_bytes_per_second, kept)
        lane_ceiling = np.minimum(verdicts.asked_ceiling_bytes_per_second, kept.highest)
        ceiling = np.concatenate([kept.trunk.ceiling_bytes_per_second, lane_ceiling])
        return Classes(
            kept.handle, kept.parent, rates.rate, ceiling, kept.quantum, rates.burst_ns, burst_ns(ceiling), kept.leaf
        )

    def _rates(self, guarantee: I8, standing: _Standing) -> _Rates:
        """Return the rates of all classes, anew only where the guarantees or the tariffs are not the last ones."""
        last = self._kept_rates[0] if self._kept_rates else None
        if last is None or last.guarantee is not guarantee or last.standing is not standing:
            rate = np.concatenate([standing.trunk.rate_bytes_per_second, np.maximum(guarantee, 1)])
            self._kept_rates[:] = [_Rates(guarantee, standing, rate, burst_ns(rate))]
        return self._kept_rates[0]

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

    def _standing(self, tariffs: Tariffs) -> _Standing:
        """Return what depends on the tariffs alone; they are the same turn after turn, so the last answer is kept."""
        if not self._kept or self._kept[0].tariffs is not tariffs:
            trunk, exempt = self._trunk(), _exempt(tariffs)
            is_default = (tariffs.slice_id == DEFAULT_ID) & ~exempt
            handle = np.where(exempt, _EXEMPT, _NORMAL) + tariffs.slice_id
            parent = np.where(exempt, _EXEMPT_TRUNK, _NORMAL_TRUNK)
            standing = _Standing(
                tariffs=tariffs,
                trunk=trunk,
                handle=np.concatenate([trunk.handle, handle]),
                parent=np.concatenate([trunk.parent, parent]),
                quantum=np.concatenate([trunk.quantum_bytes, self._quantum(tariffs.share)]),
                leaf=np.repeat([0, 1], [len(trunk), len(exempt)]),
                highest=np.where(is_default, self.default_bytes_per_second, UNLIMITED),
            )
            self._kept[:] = [standing]
        return self._kept[0]

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
    # A quotient of whole numbers below 2^53 is a whole number in floats exactly where it is one, so ceil is exact.
    ticks = np.ceil(_BURST_BYTES * 1_000_000_000 / TICK_NS / np.maximum(rate_bytes_per_second, 1))
    ticks = np.minimum(np.maximum(ticks, _SHORTEST_BURST_NS // TICK_NS), LARGEST_BURST_NS // TICK_NS)
    held: I8 = ticks.astype(np.int64) * TICK_NS
    return held


def _exempt(tariffs: Tariffs) -> B1:
    traffic = map(itemgetter(Lane._fields.index("traffic")), tariffs.lanes)
    return np.fromiter(map(is_, traffic, repeat(Traffic.EXEMPT)), bool, len(tariffs.lanes))
