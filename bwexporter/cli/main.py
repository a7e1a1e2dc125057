"""The command line: commands, flags, exit codes.

Turns arguments into calls and exit codes: 0 done, 1 failed, 2 usage or configuration. Knows: which commands there are,
and where. Does not know: what they take, how any room works.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from bwexporter import __version__
from bwexporter.cli.lazily import LazyGroup, Listed
from bwexporter.errors import BwexporterError, ConfigError

COMMANDS: Mapping[str, Listed] = {
    "apmon": Listed("bwexporter.cli.apmon", "apmon", "Read, make and send ApMon (MonALISA) datagrams."),
    "check": Listed("bwexporter.cli.checking", "check", "Say everything that is wrong with the files."),
    "completion": Listed(
        "bwexporter.cli.completing", "completion", "Print a script that completes commands in a shell."
    ),
    "demo": Listed("bwexporter.cli.watching", "demo", "Watch it work in a private network namespace."),
    "demo-node": Listed("bwexporter.cli.inside", "demo_node"),
    "demo-part": Listed("bwexporter.cli.inside", "demo_part"),
    "freeze": Listed("bwexporter.cli.hand", "freeze", "Change nothing in the kernel."),
    "full-rates": Listed("bwexporter.cli.hand", "full_rates", "Give every slice its full rate."),
    "history": Listed("bwexporter.cli.past", "history", "Say what happened, and why."),
    "link": Listed("bwexporter.cli.link", "link", "Make a link that shows an owner one slice."),
    "manual": Listed("bwexporter.cli.manual", "manual"),
    "plan": Listed("bwexporter.cli.tree", "plan", "Say what the next turn would change."),
    "replay": Listed("bwexporter.cli.replaying", "replay", "Say what another policy would have done."),
    "run": Listed("bwexporter.cli.run", "run", "Count, judge, cap and publish, until SIGTERM."),
    "schema": Listed("bwexporter.cli.schemas", "schema", "Print the JSON Schema of a file, for editors."),
    "slice": Listed(
        "bwexporter.cli.hand", "slice_group", "Cap, release, top up, restore or lend by hand, for a while."
    ),
    "slices": Listed("bwexporter.cli.effective", "slices", "Show what each slice may send, and who said so."),
    "status": Listed("bwexporter.cli.showing", "status", "Show what a running bwexporter says."),
    "targets": Listed("bwexporter.cli.discovering", "targets", "List the nodes to scrape, for Prometheus."),
    "thaw": Listed("bwexporter.cli.hand", "thaw", "Undo freeze or full-rates."),
    "tree": Listed("bwexporter.cli.tree", "tree", "See, build, check and remove the HTB tree of each device."),
    "why": Listed("bwexporter.cli.past", "why", "Say why a slice's ceiling is what it is."),
}
"""Where each command lies; a library that the one in hand does not need is never loaded."""


@click.group(
    cls=LazyGroup,
    listed=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bwexporter")
def cli() -> None:
    """Count and cap the traffic of slices on Linux HTB, and publish it to Prometheus.

    Each slice sends through HTB classes of its own and may send a volume per period. bwexporter reads the class
    counters through netlink, keeps accounts that survive restarts, lowers a slice's ceiling once it has passed its
    threshold so that it can never overspend its volume yet is never cut off, and gives the full rate back when the
    period ends.

    \b
    Try it here and now, without touching this machine's network:
      bwexporter demo

    \b
    Run it:
      bwexporter check /etc/bwexporter/bwexporter.yml
      bwexporter run --config /etc/bwexporter/bwexporter.yml --shadow     (judge and publish, change nothing)
      bwexporter run --config /etc/bwexporter/bwexporter.yml
      bwexporter status
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line, the process's own or another; troubles are one line (bad files: one each), no traceback."""
    try:
        return cli.main(arguments, prog_name="bwexporter", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"bwexporter: {_in_one_line(error)}", err=True)
        sys.exit(error.exit_code)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(2)
    except BwexporterError as error:
        click.echo(f"bwexporter: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


def _in_one_line(error: click.ClickException) -> str:
    """Say what is wrong with a command line, and where help is."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}; see `{context.command_path if context else 'bwexporter'} --help`"
