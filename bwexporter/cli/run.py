"""`bwexporter run`: the daemon, by command.

Turns arguments into what is wanted of a run. Knows: what the command takes and how it explains itself. Does not know:
how any room works.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bwexporter.cli import running, surface
from bwexporter.cli.finding import find
from bwexporter.cli.options import config_option
from bwexporter.errors import ConfigError


@click.command()
@config_option
@click.option("--once", is_flag=True, help="Take one turn, print what it found, and end.")
@click.option("--shadow", is_flag=True, help="Judge and publish, but change nothing in the kernel.")
@click.option("--take-over", is_flag=True, help="Replace a root queue that is not bwexporter's.")
@click.option("--verbose", "-v", is_flag=True, help="Log early looks too.")
@surface.flags
def run(
    config_path: Path,
    *,
    once: bool,
    shadow: bool,
    take_over: bool,
    verbose: bool,
    **web: Any,
) -> None:
    """Count, judge, cap and publish, until SIGTERM.

    Builds an HTB tree on each device of the configuration (a root queue that is not bwexporter's is refused and left
    alone), then takes a turn each interval. SIGHUP, or a changed file, reads the configuration and the slices anew; bad
    files change nothing. SIGTERM counts once more, saves, and leaves the ceilings as `on_stop` says.

    A configuration that cannot be used is refused with all that `check` finds; what is wrong with slices alone is
    logged.
    """
    of_web = surface.Flags(**web)
    wanted = running.Wanted(config_path, once=once, shadow=shadow, take_over=take_over, web=of_web)
    running.set_up_logging(verbose=verbose)
    try:
        sys.exit(running.run(wanted))
    except ConfigError as refused:
        raise ConfigError(tuple(dict.fromkeys((*refused.problems, *find(config_path).problems)))) from None
