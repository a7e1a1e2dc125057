"""`bwexporter tree`: the classes in the kernel, by command.

Turns arguments into calls. Knows: what each command takes and how it explains itself. Does not know: how any room
works.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bwexporter.cli import building, drawing, reaching
from bwexporter.cli.looking import standing
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.table import console
from bwexporter.errors import BwexporterError


@click.group()
def tree() -> None:
    """See, build, check and remove the HTB tree of each device.

    The daemon (`bwexporter run`) builds and keeps the trees by itself. These commands are for looking at one, for
    building one before the daemon runs, and for taking all of it away again.
    """


_take_over = click.option("--take-over", is_flag=True, help="Replace a root queue that is not bwexporter's.")


@click.command(short_help="Say what the next turn would change.")
@config_option
@as_json_option
@_take_over
def plan(config_path: Path, *, as_json: bool, take_over: bool) -> None:
    """Say what the next turn would change in the kernel, one line a change, and change nothing.

    Reads the configuration, the slices, the saved accounts and the classes that there are, as the daemon would. Needs
    no privilege beyond reading those files, and disturbs no running daemon. A large roster is built over several turns;
    the plan is the whole of it.
    """
    building.plan(config_path, as_json=as_json, take_over=take_over)


@tree.command(short_help="Build or complete the tree of each device.")
@config_option
@as_json_option
@_take_over
def build(config_path: Path, *, as_json: bool, take_over: bool) -> None:
    """Build the tree of each device, or complete it, and say what was done.

    Does what the daemon's first turns do, rules of the classifier included, and ends. What stands already and is as it
    should be stays as it is. A root queue that is not bwexporter's is refused and left alone, unless --take-over is
    given. Refuses while a daemon runs, which does all of this by itself.
    """
    sys.exit(building.build(config_path, as_json=as_json, take_over=take_over))


@tree.command(short_help="Take away trees and the classifier's tables.")
@config_option
def remove(config_path: Path) -> None:
    """Take away the tree of each device and the classifier's tables, without asking.

    What was sent is counted and saved first; where it cannot be saved, nothing is removed. Traffic is unshaped from
    then on, and the kernel's default queue is back. A root queue that is not bwexporter's is left alone. Refuses while
    a daemon runs: stop it first.
    """
    sys.exit(building.remove(config_path))


@tree.command()
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@as_json_option
def show(slice_name: str | None, config_path: Path, *, as_json: bool) -> None:
    """Draw the tree of each device as the kernel has it now.

    Each class with the slice it belongs to, its rate and ceiling, what it has sent since it was made, and what the
    slice's account has used. Needs no privilege, and disturbs no running daemon. With a SLICE only its classes are
    shown, and what is above them.
    """
    with standing(config_path) as found:
        devices = drawing.rows(found)
    if slice_name is not None and not any(row["slice"] == slice_name for one in devices for row in one["classes"]):
        raise BwexporterError(f"no class belongs to {slice_name!r}; `bwexporter tree show` lists them")
    if as_json:
        click.echo(json.dumps({"devices": devices}, indent=2))
        return
    terminal = console()
    for drawn in drawing.draw(devices, slice_name=slice_name):
        terminal.print(drawn)


@tree.command()
@click.argument("slice_name", metavar="[SLICE]", required=False)
@click.option("--no-probe", is_flag=True, help="Compare the rules only, and send nothing.")
@config_option
@as_json_option
def check(slice_name: str | None, config_path: Path, *, no_probe: bool, as_json: bool) -> None:
    """Say of each slice whether its traffic reaches its lane, and why not.

    Compares the rules in the kernel with what the slices' records say; then each lane gets one small packet (at most
    300 bytes, counted in the slice's account) of each kind that tells the slice: of its mark, its control group, its
    address, its user. They go to a group that nobody is in, and not beyond the link. Needs root. Exit code 1 where
    something does not reach its lane; what could not be tried is said and leaves it at 0.
    """
    sys.exit(reaching.check(config_path, slice_name, probing=not no_probe, as_json=as_json))
