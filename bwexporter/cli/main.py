"""The command line: commands, flags, exit codes.

Turns arguments into calls and exit codes: 0 done, 1 failed, 2 usage or configuration. Knows: what each command takes
and how it explains itself. Does not know: how any room works.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bwexporter import __version__
from bwexporter.cli import asking, checking, effective, hand, live, past, replaying, running, showing, surface, view
from bwexporter.cli.apmon import apmon
from bwexporter.cli.completing import completion
from bwexporter.cli.link import link
from bwexporter.cli.manual import manual
from bwexporter.cli.options import CONFIG, as_json_option, ask_option, config_option
from bwexporter.cli.schemas import schema
from bwexporter.cli.tree import plan, tree
from bwexporter.errors import BwexporterError, ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


@cli.command()
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
    """
    of_web = surface.Flags(**web)
    wanted = running.Wanted(config_path, once=once, shadow=shadow, take_over=take_over, web=of_web)
    running.set_up_logging(verbose=verbose)
    sys.exit(running.run(wanted))


@cli.command(short_help="Say everything that is wrong with the files.")
@click.argument("config_path", metavar="[FILE]", type=click.Path(path_type=Path), default=CONFIG)
@ask_option
@as_json_option
def check(config_path: Path, *, ask: bool, as_json: bool) -> None:
    """Check a configuration and its slices: every problem at once, with file, line and key.

    Files of secrets and certificates are read as well; servers are asked only with --ask. Touches nothing. Exit code 2
    where the configuration cannot be used or a slice would lose a key; warnings alone
    leave it at 0.
    """
    sys.exit(checking.check(config_path, ask=ask, as_json=as_json))


@cli.command(short_help="Show what each slice may send, and who said so.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@ask_option
@as_json_option
def slices(slice_name: str | None, config_path: Path, *, ask: bool, as_json: bool) -> None:
    """Show the slices as they are read: what each may send on which device, defaults filled in.

    With a name, where each of its values was given: the place in a file, the server, the tag and its level, a loan, or
    the default. Servers are not asked: what they last said to a running bwexporter is shown, or with --ask what they
    say now. Changes nothing.
    """
    effective.slices(config_path, slice_name, ask=ask, as_json=as_json)


@cli.command(short_help="Show what a running bwexporter says.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@click.option("--url", help="Ask this bwexporter, as http://node1:10099, instead of the one of the configuration.")
@click.option("--watch", is_flag=True, help="Follow it until q: sort, filter, rates, one slice in full.")
@click.option(
    "--sort",
    type=click.Choice(list(view.SORTS)),
    metavar="KEY",
    default="slice",
    help=f"With --watch: {', '.join(view.SORTS)}.",
)
@as_json_option
def status(
    slice_name: str | None, config_path: Path, *, url: str | None, watch: bool, sort: str, as_json: bool
) -> None:
    """Show what a running bwexporter says: use, ceilings, verdicts.

    Asks its web server, which the configuration names (web.listen), so it works for any user, and with --url from any
    machine that may reach it. Where it asks for a password, BWEXPORTER_USER says who asks and BWEXPORTER_PASSWORD_FILE
    names the file of the password; BWEXPORTER_CA_FILE, BWEXPORTER_CERT_FILE and BWEXPORTER_KEY_FILE are for TLS.
    """
    place = url or asking.url_of(config_path)
    if watch:
        live.watch(place, view.View(sort=sort, search=slice_name or ""))
        return
    answer = asking.slices(place)
    if slice_name is not None:
        answer["slices"] = [row for row in answer["slices"] if row["slice"] == slice_name]
        if not answer["slices"]:
            raise BwexporterError(f"{answer['node']} has no slice {slice_name!r}; `bwexporter status` lists them")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        showing.status(answer, slice_name)


@cli.command(short_help="Watch it work in a private network namespace.")
@click.option("--seconds", type=click.FloatRange(min=1), help="End after so many seconds, with exit code 0.")
@click.option("--listen", default="127.0.0.1:10099", show_default=True, help="Where /metrics answers, host:port.")
def demo(*, seconds: float | None, listen: str) -> None:
    """Watch it work: a node with real HTB and real traffic, in a private network namespace.

    Eight slices with different habits live through days of two minutes: greedy ones pass their threshold, are capped so
    that they land on their allowance, and get their full rate back when the day ends. It is the very daemon, a process
    of its own; its /metrics answers on this machine meanwhile. Needs no root where user namespaces are allowed, and
    leaves nothing behind, also on Ctrl-C.
    """
    from bwexporter.cli import watching  # noqa: PLC0415 - its screen is not needed by any other command

    watching.demo(seconds=seconds, listen=listen)


@cli.command("demo-node", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--listen-fd", type=int, required=True)
@click.option("--lifeline-fd", type=int, required=True)
def demo_node(folder: Path, *, listen_fd: int, lifeline_fd: int) -> None:
    """Be the inside of the demo."""
    from bwexporter.demo import node  # noqa: PLC0415 - only the demo's processes need it

    sys.exit(node.run(folder, listen_fd=listen_fd, lifeline_fd=lifeline_fd))


@cli.command("demo-part", hidden=True)
@click.argument("part", type=click.Choice(["far-end", "senders"]))
def demo_part(part: str) -> None:
    """Be one process of the demo's node."""
    from bwexporter.demo import node  # noqa: PLC0415 - only the demo's processes need it

    {"far-end": node.far_end, "senders": node.senders}[part]()


cli.add_command(apmon)
cli.add_command(completion)
cli.add_command(link)
cli.add_command(manual)
cli.add_command(schema)
cli.add_command(past.history)
cli.add_command(past.why)
cli.add_command(replaying.replay)
for by_hand in (hand.slice_group, hand.freeze, hand.full_rates, hand.thaw):
    cli.add_command(by_hand)
cli.add_command(plan)
cli.add_command(tree)


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line, the process's own or another; troubles are one line (bad files: one each), no traceback."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        return cli.main(arguments, prog_name="bwexporter", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        for problem in error.problems:
            errors.print(str(problem))
        sys.exit(2)
    except BwexporterError as error:
        errors.print(f"bwexporter: {error}")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
