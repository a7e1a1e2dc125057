"""Where use was recorded, and what of it a replay takes.

Turns the state file, or a Prometheus server and how it is reached, into what lanes sent and what was set by hand.
Knows: how recorded sums are laid beside lanes, when the periods of then began. Does not know: how they are lived
through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import numpy as np

from bwexporter.config import load_config
from bwexporter.core.lanes import I8, Lane, Ledger, Tariffs
from bwexporter.core.report import Event
from bwexporter.core.wheel import moves
from bwexporter.credentials import Credentials
from bwexporter.errors import BwexporterError
from bwexporter.prometheus import Prometheus
from bwexporter.replay import Recorded, longest_window_seconds
from bwexporter.state import peek, read_by_hand, read_uses

STEP_SECONDS = 300
MOST_SECONDS = 35 * 86_400.0
"""Sums of five minutes are kept for so long."""


class Source(Protocol):
    """Where use was recorded."""

    def periods(self, device: str, lanes: Sequence[Lane], at: int, step_seconds: int) -> dict[Lane, tuple[float, int]]:
        """Return when the period of each lane began that ran at an instant, and what was used by then, if known."""

    def uses(
        self, device: str, lanes: Sequence[Lane], since: int, until: int, step_seconds: int
    ) -> Mapping[int, Sequence[int]]:
        """Return what each lane sent in each interval, by the interval's start."""

    def full_rates(self, device: str, classes: Mapping[Lane, int], at: int) -> Mapping[Lane, int]:
        """Return the full rates that lanes had at an instant in a tree of somebody else's, as far as they are known."""

    def by_hand(self, until: int) -> Sequence[Event]:
        """Return all that is known of orders by hand before an instant, oldest first."""

    def left_out(self, device: str, since: int, until: int) -> str:
        """Say what of the span is not known, nothing where all of it is."""


class StateFile:
    """The recorded use of the program itself."""

    def __init__(self, path: Path) -> None:
        kept = peek(path)
        if kept is None:
            raise BwexporterError(f"nothing is recorded: there is no state file {path}")
        self._path, self._ledgers, self._sights = path, kept.ledgers, kept.sights

    def periods(self, device: str, lanes: Sequence[Lane], at: int, step_seconds: int) -> dict[Lane, tuple[float, int]]:
        """Count periods back from those that run; the interval in which one began is taken to be its own."""
        ledger = self._ledgers.get(device)
        began = {} if ledger is None else _began(ledger, at)
        first = int(min([at, *began.values()]) // step_seconds) * step_seconds
        sums = read_uses(self._path, device, lanes, first, at)
        return {
            lane: (since, sum(sent[column] for start, sent in sums.items() if start > since - step_seconds))
            for column, lane in enumerate(lanes)
            if (since := began.get(lane)) is not None
        }

    def uses(
        self, device: str, lanes: Sequence[Lane], since: int, until: int, step_seconds: int
    ) -> Mapping[int, Sequence[int]]:
        """Read the sums; they are of this step."""
        del step_seconds
        return read_uses(self._path, device, lanes, since, until)

    def full_rates(self, device: str, classes: Mapping[Lane, int], at: int) -> Mapping[Lane, int]:
        """Return those that the classes were last found with; what they were before that is not kept."""
        del at
        found = self._sights[device].found if device in self._sights else {}
        return {lane: found[handle] for lane, handle in classes.items() if handle in found}

    def by_hand(self, until: int) -> Sequence[Event]:
        """Read the events."""
        return read_by_hand(self._path, until)

    def left_out(self, device: str, since: int, until: int) -> str:
        """Say nothing: all of it is known."""
        del device, since, until
        return ""


_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option(
        "--source",
        default="state",
        show_default=True,
        help="Where the use was recorded: the state file, or the URL of a Prometheus server, as http://localhost:9090.",
    ),
    click.option("--instance", help="Of the exporters that Prometheus scrapes, this one's series."),
    click.option("--ca-file", type=_FILE, help="Trust this authority of the server's, and no other."),
    click.option(
        "--token-file", type=_FILE, help="The bearer token that the server is asked with stands in this file."
    ),
    click.option("--user", help="Who asks the server, with the password of --password-file."),
    click.option("--password-file", type=_FILE, help="The password stands in this file."),
    click.option("--cert-file", type=_FILE, help="The certificate that the server is shown."),
    click.option("--key-file", type=_FILE, help="Its key, where it does not stand in the same file."),
)
"""How a server is asked; the names are those of the keys of a source of slices."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def source_options(command: _Command) -> _Command:
    """Give a command the options of `source_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def source_of(config_path: Path, *, source: str, instance: str | None, **way_in: Any) -> Source:
    """Return where use was recorded, as the options say."""
    if source != "state":
        return Prometheus(source, instance, _credentials(**way_in))
    given = [name for name, value in {"instance": instance, **way_in}.items() if value is not None]
    if given:
        raise click.BadParameter(
            "it goes with the URL of a Prometheus server; write --source URL",
            param_hint=f"--{given[0].replace('_', '-')}",
        )
    return StateFile(load_config(config_path).state)


def _credentials(**way_in: Any) -> Credentials:
    """Return what the options say of who asks; two ways at once, or half of one, are refused."""
    found = Credentials(**way_in)
    if (found.user is None) != (found.password_file is None):
        raise click.BadParameter("a user and a password go together; write --user NAME --password-file FILE")
    if found.token_file is not None and found.user is not None:
        raise click.BadParameter("a token or a user asks, not both; leave --token-file or --user out")
    if found.key_file is not None and found.cert_file is None:
        raise click.BadParameter("a key goes with a certificate; write --cert-file FILE --key-file FILE")
    return found


def recorded_of(source: Source, device: str, tariffs: Tariffs, span: tuple[int, int]) -> Recorded:
    """Return what was recorded of lanes of a device in a span of whole intervals."""
    (begin, end), lanes = span, tariffs.lanes
    sums = source.uses(device, lanes, begin, end, STEP_SECONDS)
    rows = [sums.get(start, (0,) * len(lanes)) for start in range(begin, end, STEP_SECONDS)]
    periods = source.periods(device, lanes, begin, STEP_SECONDS)
    moved = tuple(one for one in moves(source.by_hand(end)) if one.order.lane is None or one.order.lane in lanes)
    before = _before(source, device, tariffs, begin)
    return Recorded(float(begin), float(STEP_SECONDS), lanes, np.array(rows, np.int64), periods, moved, before)


def _before(source: Source, device: str, tariffs: Tariffs, begin: int) -> I8 | None:
    """Return what was sent in the intervals before a span that sliding windows still hold; None without any."""
    seconds = min(longest_window_seconds(tariffs), MOST_SECONDS)
    first = begin - math.ceil(seconds / STEP_SECONDS + 1) * STEP_SECONDS
    sums = source.uses(device, tariffs.lanes, first, begin, STEP_SECONDS) if seconds else {}
    if not any(any(sent) for sent in sums.values()):
        return None
    nothing = (0,) * len(tariffs)
    return np.array([sums.get(start, nothing) for start in range(first, begin, STEP_SECONDS)], np.int64)


def _began(ledger: Ledger, begin: int) -> dict[Lane, float]:
    """Return for each lane when the period began that an instant falls in."""
    accounts, offset = ledger.accounts, ledger.wall_offset_seconds
    found = {}
    bounds = zip(accounts.period_start_at.tolist(), accounts.period_end_at.tolist(), strict=True)
    for lane, (start, end) in zip(ledger.lanes, bounds, strict=True):
        length = end - start
        found[lane] = start + offset - math.ceil((start + offset - begin) / length) * length
    return found
