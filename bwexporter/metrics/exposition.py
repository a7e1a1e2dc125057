"""What a scrape gets: made ready in the turn's thread, handed out as bytes.

Turns reports into one `Rendered` a full turn. Knows: what is up, and which turn was the last good one. Does not know:
HTTP. The thread of a scrape reads `current` only, which is replaced by one assignment.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prometheus_client import generate_latest

from bwexporter.core.report import Report
from bwexporter.errors import BwexporterError
from bwexporter.metrics.catalogue import Standing, StandingFamily, info_family
from bwexporter.metrics.instruments import Instruments, process_registry
from bwexporter.metrics.render import Renderer

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One exposition, text format 0.0.4, plain and as gzip."""

    text: bytes
    gzip: bytes


class Exposition:
    """Everything that is published, from the first moment on: before the first turn, `up` is 0.

    `devices` are those whose counters are shown as 0 from the start. `owner_email` and `record_labels` say which labels
    of a slice's record slice_info shows. Raises BwexporterError where a record label cannot be a label.
    """

    def __init__(
        self,
        devices: Sequence[str] = (),
        *,
        owner_email: bool = False,
        record_labels: Sequence[str] = (),
    ) -> None:
        _check_labels(record_labels)
        self.info: StandingFamily = info_family(owner_email=owner_email, record_labels=tuple(record_labels))
        self.instruments = Instruments(devices)
        self.standing = Standing()
        self._renderer = Renderer(self.info)
        self._process = process_registry()
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

    def count_control_refusal(self) -> None:
        """Count an order by hand that was refused; it shows with the next exposition. Any thread may call it."""
        self.instruments.count_control_refusal()

    def _publish(self, standing: Standing) -> Rendered:
        self.standing = standing
        self._current = self._rendered()
        return self._current

    def _rendered(self) -> Rendered:
        parts = self._renderer.pieces(self.standing)
        parts += [generate_latest(self.instruments), generate_latest(self._process)]
        text = b"".join(parts)
        return Rendered(text, gzip.compress(text, compresslevel=1, mtime=0))


def _check_labels(record_labels: Sequence[str]) -> None:
    taken = {"slice", "id", "source", "owner_email"}
    for label in record_labels:
        if label in taken or not _LABEL.fullmatch(label):
            raise BwexporterError(
                f"slice_info cannot have the label {label!r}: a label is given once, is made of letters, digits and _ "
                "and begins with none of __ and digits; slice, id, source and owner_email are taken",
            )
        taken.add(label)
