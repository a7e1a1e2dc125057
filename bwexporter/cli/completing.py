"""`bwexporter completion`: what makes a shell complete our commands.

Turns a shell's name into a script for it. Knows: nothing but click's own generator. Does not know: any command.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bwexporter.errors import BwexporterError

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options and files.

    \b
    bash:  bwexporter completion bash > /etc/bash_completion.d/bwexporter
    zsh:   bwexporter completion zsh > /usr/share/zsh/vendor-completions/_bwexporter
    fish:  bwexporter completion fish > ~/.config/fish/completions/bwexporter.fish
    """  # noqa: D301 - \b as one character is click's mark for lines that stay as they are
    kind = get_completion_class(shell)
    if kind is None:
        raise BwexporterError(f"there is no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "bwexporter", "_BWEXPORTER_COMPLETE").source())
