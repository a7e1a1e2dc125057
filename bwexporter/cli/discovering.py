"""`bwexporter targets`: the nodes of a fleet, for Prometheus to discover.

Turns the files into target groups, as a table, as JSON, or as a file that Prometheus watches. Knows: how a file is
replaced as a whole. Does not know: the form of the groups, how sources are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bwexporter.cli.files import roll_of
from bwexporter.cli.options import as_json_option, ask_option, config_option
from bwexporter.cli.table import console
from bwexporter.config import Config, load_config
from bwexporter.errors import BwexporterError
from bwexporter.targets import Scraped, groups
from bwexporter.web.webconfig import own_certificate


@click.command(short_help="List the nodes to scrape, for Prometheus.")
@config_option
@ask_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the JSON to this file, which is replaced as a whole: for file_sd_configs.",
)
@as_json_option
def targets(config_path: Path, *, ask: bool, output: Path | None, as_json: bool) -> None:
    """List this node, and the nodes that the sources of slices name, as Prometheus discovers targets.

    A file or a URL of slices names nodes below the key `nodes`, a PlanetLab Central those that are in service where
    its key `fleet` is true. Servers are not asked: what they last said to a running bwexporter is shown, or with --ask
    what they say now. A running bwexporter answers with the same at /api/v1/targets, for http_sd_configs.

    \b
      bwexporter targets --json
      bwexporter targets --ask --output /etc/prometheus/file_sd/bwexporter.json
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are
    config = load_config(config_path)
    found = groups(_scraped(config), roll_of(config, ask=ask).fleet)
    if output is not None:
        _replace(output, json.dumps(found, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif output is None:
        console().print(_table(found))


def _scraped(config: Config) -> Scraped:
    """Return how this node is scraped, as its files say."""
    terms = config.web
    tls = terms.config_file is not None and own_certificate(terms.config_file)[0]
    return Scraped(config.node, config.listen, terms.telemetry_path, tls=tls)


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "labels"):
        table.add_column(heading, no_wrap=True)
    for group in found:
        labels = ", ".join(f"{name}={value}" for name, value in group["labels"].items())
        for target in group["targets"]:
            table.add_row(target, labels)
    return table


def _replace(path: Path, text: str) -> None:
    """Write a file beside the old one and give it its name, so that nobody reads half of it."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text)
        beside.replace(path)
    except OSError as trouble:
        raise BwexporterError(f"cannot write {path}: {trouble.strerror or trouble}") from trouble
