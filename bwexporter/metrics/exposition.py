"""What a scrape gets: made ready in the turn's thread, handed out as bytes.

Turns reports into one `Rendered` a full turn. Knows: what is up, and which turn was the last good one. Does not know:
HTTP. The thread of a scrape reads `current` only, which is replaced by one assignment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from bwexporter.core.report import Report
from bwexporter.errors import BwexporterError
from bwexporter.metrics.catalogue import every_family
from bwexporter.metrics.families import Standing, StandingFamily
from bwexporter.metrics.instruments import Instruments, process_registry
from bwexporter.metrics.of_node import info_family
from bwexporter.metrics.render import Renderer
from bwexporter.metrics.rendered import Demand, Piece, Rendered, heads

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Exposition:
    """Everything that is published, from the first moment on: before the first turn, `up` is 0.

    `devices` are those whose counters are shown as 0 from the start. `owner_email` and `record_labels` say which labels
    of a slice's record slice_info shows. `off` names families that are left out. Raises BwexporterError where a record
    label cannot be a label, or there is no such family.
    """

    def __init__(
        self,
        devices: Sequence[str] = (),
        *,
        owner_email: bool = False,
        record_labels: Sequence[str] = (),
        off: Collection[str] = (),
    ) -> None:
        check_labels(record_labels)
        check_names(off)
        self.off = frozenset(off)
        self.info: StandingFamily = info_family(owner_email=owner_email, record_labels=tuple(record_labels))
        self.instruments = Instruments(devices)
        self.standing = Standing()
        self._renderer = Renderer(self.info, self.off)
        self._process = process_registry()
        self._demand = Demand()
        self._current = self._rendered()

    @property
    def current(self) -> Rendered:
        """The newest exposition; any thread may read it."""
        return self._current

    def observe(self, report: Report) -> None:
        """Count what happened in a turn, a full or an early one; call it once for every report."""
        self.instruments.observe(report)

    def render(self, report: Report) -> Rendered:
        """Publish a full turn, after it was observed."""
        up = not any(device.trouble for device in report.devices)
        good_turn = report.at.wall_seconds if up else self.standing.good_turn_wall_seconds
        return self._publish(Standing(report, up, good_turn))

    def mark_down(self) -> Rendered:
        """Publish that the last turn failed as a whole; all else stays as the last full turn told it."""
        return self._publish(replace(self.standing, up=False))

    def count_turn_failure(self, stage: str) -> None:
        """Count a turn that ended in that stage without a report; it shows with the next exposition."""
        self.instruments.count_turn_failure(stage)

    def count_misfire(self) -> None:
        """Count a turn that did not begin in time; it shows with the next exposition."""
        self.instruments.count_misfire()

    def count_state_failure(self) -> None:
        """Count trouble with the state that came to light before the first turn."""
        self.instruments.count_state_failure()

    def count_control_refusal(self) -> None:
        """Count an order by hand that was refused; it shows with the next exposition. Any thread may call it."""
        self.instruments.count_control_refusal()

    def _publish(self, standing: Standing) -> Rendered:
        self.standing = standing
        self._current = self._rendered()
        return self._current

    def _rendered(self) -> Rendered:
        own = [*self.instruments.collect(), *self._process.collect()]
        pieces = (_piece(metric) for metric in own)
        lines = [*self._renderer.pieces(self.standing), *(piece for piece in pieces if piece.name not in self.off)]
        rendered = Rendered(lines, self._demand)
        for open_metrics in self._demand.next_turn():
            rendered.gzip(open_metrics=open_metrics)
        return rendered


class _One(Collector):
    """A single family, for prometheus_client to render."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        yield self._metric


def _piece(metric: Metric) -> Piece:
    """Let prometheus_client render one of its own families; its lines are the same in both formats."""
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    lines = [line for line in generate_latest(_One(metric)).splitlines(keepends=True) if not line.startswith(b"#")]
    return Piece(name, *heads(name, metric.type, metric.unit, metric.documentation), (b"".join(lines),))


def check_names(names: Collection[str]) -> None:
    """Raise BwexporterError where a name is no family's."""
    known = [family.name for family in every_family()]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; the README lists the families"
            raise BwexporterError(f"metrics.off names {name!r}, and there is no such family{hint}")


def check_labels(record_labels: Sequence[str]) -> None:
    """Raise BwexporterError where a label of slices' records cannot be one of slice_info."""
    taken = {"slice", "id", "source", "owner_email"}
    for label in record_labels:
        if label in taken or not _LABEL.fullmatch(label):
            raise BwexporterError(
                f"slice_info cannot have the label {label!r}: a label is given once, is made of letters, digits and _ "
                "and begins with none of __ and digits; slice, id, source and owner_email are taken",
            )
        taken.add(label)
