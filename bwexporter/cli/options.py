"""Options that several commands take.

Turns nothing into anything: it names the options once. Knows: where the configuration lies unless told otherwise. Does
not know: any command.
"""

from __future__ import annotations

from pathlib import Path

import click

CONFIG = Path("/etc/bwexporter/bwexporter.yml")

config_option = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The configuration file.",
)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
ask_option = click.option("--ask", is_flag=True, help="Ask the servers that slices come from, once, now.")
