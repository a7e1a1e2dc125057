"""One exposition, in every form that a scrape may ask for.

Turns the rendered lines of each family into text format 0.0.4 or OpenMetrics 1.0, plain or as gzip, whole or restricted
to some names. Knows: how the two formats differ (the heads of families, and the last line). Does not know: what the
lines say, HTTP.

The lines of a sample are the same in both formats, so they are rendered once and shared by all forms.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

KEPT_TURNS = 12
"""A compressed form is made ahead of time while somebody has asked for it in so many turns."""

BATCH_BYTES = 1 << 18
"""So much is compressed at once: other threads may run meanwhile, and the one that compresses then waits for them."""

_GZIP = 16 + zlib.MAX_WBITS
_END = b"# EOF\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """One family: its name in text format, its heads, and its lines, each of which ends with a line feed."""

    name: str
    head: bytes
    open_metrics_head: bytes
    lines: Sequence[bytes]


def heads(name: str, kind: str, unit: str, text: str) -> tuple[bytes, bytes]:
    """Return the heads of a family in text format and in OpenMetrics, which names a counter without its _total."""
    helped = text.replace("\\", "\\\\").replace("\n", "\\n")
    base = name.removesuffix("_total") if kind == "counter" else name
    named_unit = f"# UNIT {base} {unit}\n" if unit else ""
    quoted = helped.replace('"', '\\"')
    return (
        f"# HELP {name} {helped}\n# TYPE {name} {kind}\n".encode(),
        f"# HELP {base} {quoted}\n# TYPE {base} {kind}\n{named_unit}".encode(),
    )


class Demand:
    """Which compressed forms are asked for, from exposition to exposition; any thread may ask."""

    def __init__(self) -> None:
        self._turn = 0
        self._asked_in: dict[bool, int] = {}

    def note(self, *, open_metrics: bool) -> None:
        """Remember that the form was asked for."""
        self._asked_in[open_metrics] = self._turn

    def next_turn(self) -> list[bool]:
        """Return the forms that somebody is likely to ask for now."""
        self._turn += 1
        return [form for form, turn in self._asked_in.copy().items() if self._turn - turn <= KEPT_TURNS]


class Rendered:
    """The pieces of one turn. Any thread may ask; what is made on the way is made once."""

    def __init__(self, pieces: Sequence[Piece], demand: Demand | None = None) -> None:
        self._pieces = tuple(pieces)
        self._demand = demand or Demand()
        self._compressed: dict[bool, bytes] = {}
        self._lock = threading.Lock()

    def parts(self, *, open_metrics: bool = False, names: Collection[str] = ()) -> list[bytes]:
        """Return the plain text, to be sent part by part; `names` restricts it to the families of these series."""
        return list(self._parts(open_metrics, frozenset(names)))

    def gzip_at_hand(self, *, open_metrics: bool = False) -> bytes | None:
        """Return the whole as gzip where that has been made; whoever has to make it now will not have to next turn."""
        self._demand.note(open_metrics=open_metrics)
        return self._compressed.get(open_metrics)

    def gzip(self, *, open_metrics: bool = False) -> bytes:
        """Return the whole as gzip, level 1: higher levels cost several times as much for a tenth less."""
        with self._lock:
            made = self._compressed.get(open_metrics)
            if made is None:
                packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
                batches = _batches(self._parts(open_metrics, frozenset()))
                made = b"".join([*map(packer.compress, batches), packer.flush()])
                self._compressed[open_metrics] = made
        return made

    @property
    def text(self) -> bytes:
        """The whole in text format 0.0.4."""
        return b"".join(self.parts())

    def _parts(self, open_metrics: bool, names: frozenset[str]) -> Iterator[bytes]:  # noqa: FBT001 - a form
        for piece in self._pieces:
            lines = piece.lines if not names or piece.name in names else _lines_of(piece, names)
            if names and not lines:
                continue
            yield piece.open_metrics_head if open_metrics else piece.head
            yield from lines
        if open_metrics:
            yield _END


def _batches(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in larger parts."""
    waiting, size = list[bytes](), 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= BATCH_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _lines_of(piece: Piece, names: frozenset[str]) -> list[bytes]:
    """Return the lines of the named series of a family whose series have other names: those of a histogram."""
    wanted = {name.encode("utf-8", "replace") for name in names if name.startswith(piece.name)}
    if not wanted:
        return []
    lines = b"".join(piece.lines).splitlines(keepends=True)
    return [line for line in lines if line.replace(b"{", b" ", 1).partition(b" ")[0] in wanted]
