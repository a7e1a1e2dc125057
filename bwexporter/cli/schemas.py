"""`bwexporter schema`: what editors complete and check the files by.

Turns a schema into JSON. Knows: which files there are. Does not know: what stands in them.
"""

from __future__ import annotations

import json

import click


@click.command(short_help="Print the JSON Schema of a file, for editors.")
@click.argument("file", type=click.Choice(["config", "slices"]))
def schema(file: str) -> None:
    """Print the JSON Schema of the configuration or of a file of slices.

    An editor with a YAML language server completes keys and marks mistakes by it. Put it beside the file, and begin the
    file with a line that names it:

    \b
      bwexporter schema slices > slices.schema.json
      # yaml-language-server: $schema=slices.schema.json

    The schema knows how values are written; what contradicts what `bwexporter check` says.
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are
    from bwexporter.schema import config_schema, slices_schema  # noqa: PLC0415 - no other command needs it

    found = config_schema() if file == "config" else slices_schema()
    click.echo(json.dumps(found, indent=2))
