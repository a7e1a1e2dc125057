"""`bwexporter slice ...`, `freeze`, `full-rates` and `thaw`: the hand on the wheel.

Turns arguments into orders, and answers into sentences. Knows: units as people write them. Does not know: what an order
makes of a ceiling, how it reaches the program.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bwexporter import telling
from bwexporter.cli import commanding
from bwexporter.cli.options import config_option
from bwexporter.config import load_config
from bwexporter.core.orders import Action
from bwexporter.units import UnitError, parse_duration, parse_rate, parse_volume

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _reading(read: Callable[[object], float]) -> Callable[[click.Context, click.Parameter, Any], float | None]:
    """Return what reads a quantity with its unit, as units.py does; 0 is none."""

    def convert(_context: click.Context, _parameter: click.Parameter, written: Any) -> float | None:
        if written is None:
            return None
        try:
            quantity = read(written)
        except UnitError as trouble:
            raise click.BadParameter(str(trouble)) from trouble
        if quantity <= 0:
            raise click.BadParameter("it must be more than 0")
        return quantity

    return convert


_rate, _volume, _duration = _reading(parse_rate), _reading(parse_volume), _reading(parse_duration)

_name = click.argument("slice_name", metavar="NAME")
_device = click.option("--device", help="Only on this device. Default: all that the slice is on.")
_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
_reason = click.option(
    "--reason",
    default=telling.NO_REASON,
    help="Why; kept with the order, and shown to the slice's owner. Give one: whoever reads it later will ask.",
)
_span = click.option(
    "--for",
    "seconds",
    metavar="DURATION",
    callback=_duration,
    required=True,
    help="How long, as 2h or 3d; then it ends.",
)
_span_of_top_up = click.option(
    "--for", "seconds", metavar="DURATION", callback=_duration, help="How long, as 2h. Default: until its period ends."
)
_span_of_switch = click.option(
    "--for", "seconds", metavar="DURATION", callback=_duration, help="How long, as 2h. Default: until `thaw`."
)


def _lendable(flag: str, name: str, help_text: str) -> Callable[[_Command], _Command]:
    return click.option(flag, name, metavar="RATE", callback=_rate, help=help_text)


def _traffic(default: str, help_text: str) -> Callable[[_Command], _Command]:
    kinds = click.Choice(["normal", "exempt", "both"])
    return click.option("--traffic", type=kinds, default=default, show_default=True, help=help_text)


_of_both = _traffic("both", "Which traffic it is about.")
_of_one = _traffic("normal", "Which traffic it is about; both: each of the two gets that much.")


@click.group("slice")
def slice_group() -> None:
    """Cap, release, top up, restore or lend by hand, for a while.

    Orders go to the bwexporter of this machine through its control socket, which is for root and the user it runs as
    (and the members of control.group). Each has an end and a record, and a reason where you give one; it is in force
    within moments, and a restart, a reload, a stepped clock or a crash neither loses, doubles nor prolongs it.
    """


@slice_group.command(short_help="Hold a slice at a rate.")
@_name
@click.argument("rate", callback=_rate)
@config_option
@_device
@_of_both
@_span
@_reason
@_json
def cap(slice_name: str, rate: float, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Hold NAME at RATE (10mbit, 2mbps) at most, also below its floor.

    Each of its lanes gets that ceiling, unless its account already asks for less.
    """
    _order(Action.CAP, config_path, as_json=as_json, slice=slice_name, rate_bytes_per_second=int(rate), **given)


@slice_group.command(short_help="Give a slice its full rate.")
@_name
@config_option
@_device
@_of_both
@_span
@_reason
@_json
def release(slice_name: str, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Give NAME its full rate, whatever its account says. What it sends still counts."""
    _order(Action.RELEASE, config_path, as_json=as_json, slice=slice_name, **given)


@slice_group.command("top-up", short_help="Add to what a slice may send in this period.")
@_name
@click.argument("volume", callback=_volume)
@config_option
@_device
@_of_one
@_span_of_top_up
@_reason
@_json
def top_up(slice_name: str, volume: float, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Add VOLUME (20GB) to what NAME may send in this period.

    What it has used stays as it is, its threshold moves in proportion, and the next period is as it was. Several add
    up; a top-up ends with its period, or before it with --for: what was not sent by then is not there any more.
    """
    _order(Action.TOP_UP, config_path, as_json=as_json, slice=slice_name, volume_bytes=int(volume), **given)


@slice_group.command(short_help="Undo what was set by hand.")
@_name
@config_option
@_device
@_of_both
@_reason
@_json
def restore(slice_name: str, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Undo what was set by hand for NAME: caps, releases, top-ups, and loans that it gave or got."""
    _order(Action.RESTORE, config_path, as_json=as_json, slice=slice_name, **given)


@slice_group.command(short_help="Lend a slice's rate to another.")
@_name
@click.argument("borrower")
@config_option
@_lendable("--rate", "rate_bytes_per_second", "So much of its full rate, as 2mbit.")
@_lendable("--guarantee", "guarantee_bytes_per_second", "So much of its guarantee.")
@click.option("--share", type=click.IntRange(min=1), help="So much of its share.")
@_device
@_of_one
@_span
@_reason
@_json
def lend(slice_name: str, borrower: str, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Lend of NAME's full rate, guarantee or share to BORROWER.

    What one has more the other has less, on the same device and for the same traffic; NAME keeps a little of each, and
    volumes are not lent. A loan that does not fit is refused as a whole.
    """
    _order(Action.LEND, config_path, as_json=as_json, slice=slice_name, borrower=borrower, **given)


@click.command(short_help="Change nothing in the kernel.")
@config_option
@_span_of_switch
@_reason
@_json
def freeze(config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Leave everything in the kernel as it is, until `thaw`. Counting and publishing go on."""
    _order(Action.FREEZE, config_path, as_json=as_json, **given)


@click.command("full-rates", short_help="Give every slice its full rate.")
@config_option
@_span_of_switch
@_reason
@_json
def full_rates(config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Give every slice its full rate now, until `thaw`. Classes, counting and publishing go on."""
    _order(Action.FULL_RATES, config_path, as_json=as_json, **given)


@click.command(short_help="Undo freeze or full-rates.")
@config_option
@_reason
@_json
def thaw(config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Undo `freeze` or `full-rates`: what each account asks for is in force again with the next turn."""
    _order(Action.THAW, config_path, as_json=as_json, **given)


def _order(action: Action, config_path: Path, *, as_json: bool, **given: Any) -> None:
    """Have an order carried out, and say what came of it."""
    wanted = {name: value for name, value in given.items() if value is not None and value != "both"}
    wanted = {name: int(value) if name.endswith("_per_second") else value for name, value in wanted.items()}
    answer = commanding.obeyed(load_config(config_path).control_path, {"action": action.value, **wanted})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for event in answer["events"]:
        place = " ".join(event[part] for part in ("slice", "traffic") if event[part])
        click.echo(f"{place or 'the node'}{' on ' + event['device'] if event['device'] else ''}: {event['sentence']}")
    if not answer["events"]:
        click.echo("Nothing was set by hand, so there was nothing to undo.")
    if not answer["saved"]:
        click.echo("It is in force, but could not be saved: it would not survive the program's end.", err=True)
