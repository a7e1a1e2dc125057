"""`bwexporter status`: what a running bwexporter says.

Turns arguments into a question to the API, and its answer into a table, JSON or a live view. Knows: columns and units
for people. Does not know: accounts, the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bwexporter.cli import asking, live, view
from bwexporter.cli.options import as_json_option, config_option
from bwexporter.cli.table import console, lanes_table
from bwexporter.cli.urls import url_option
from bwexporter.errors import BwexporterError


@click.command(short_help="Show what a running bwexporter says.")
@click.argument("slice_name", metavar="[SLICE]", required=False)
@config_option
@url_option(
    "http://node1:10099", "Ask this bwexporter, as http://node1:10099, instead of the one of the configuration."
)
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

    Where its turns have stopped it says so, and since when: the figures are as old as that (with --json on stderr).
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
    stopped = asking.stopped(place)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        if stopped:
            click.echo(f"bwexporter: {stopped}", err=True)
    else:
        _print({**answer, "stopped": stopped}, slice_name)


def _print(answer: Mapping[str, Any], slice_name: str | None) -> None:
    terminal = console()
    table = lanes_table(answer, width=terminal.width, now_seconds=answer["taken_at"], slice_name=slice_name)
    terminal.print(table)
    for order in answer.get("by_hand", ()):
        if order["slice"] is None or slice_name in {None, order["slice"], order.get("borrower")}:
            place = " ".join(order[part] for part in ("device", "slice", "traffic") if order[part])
            terminal.print(f"{place or 'the node'}: {order['sentence']}", markup=False, highlight=False, soft_wrap=True)
