"""`bwexporter check`: what is wrong with the files, all at once.

Turns what was found into problems and warnings for people or programs. Knows: how they are said. Does not know: how
they are found.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bwexporter.cli.finding import Found, find
from bwexporter.cli.options import CONFIG, as_json_option, ask_option
from bwexporter.core.report import SourceStatus
from bwexporter.errors import Problem


@click.command(short_help="Say everything that is wrong with the files.")
@click.argument("config_path", metavar="[FILE]", type=click.Path(path_type=Path), default=CONFIG)
@ask_option
@as_json_option
def check(config_path: Path, *, ask: bool, as_json: bool) -> None:
    """Check a configuration and its slices: every problem at once, with file, line and key.

    Files of secrets and certificates are read as well, and all files also where the configuration has problems of its
    own: what it contradicts in them is said as far as it can be told. Servers are asked only with --ask, and of a good
    configuration. Touches nothing. Exit code 2 where the configuration cannot be used or a slice would lose a key;
    warnings alone leave it at 0.
    """
    found = find(config_path, ask=ask)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(config_path, found)
    sys.exit(2 if found.problems else 0)


def _plain(found: Found) -> dict[str, Any]:
    return {
        "problems": [_plain_problem(one) for one in found.problems],
        "warnings": [_plain_problem(one) for one in found.warnings],
        "slices": found.slices,
        "servers": [
            {
                "name": one.name,
                "asked": found.asked,
                "slices": one.slices,
                "last_answer_timestamp_seconds": one.last_success_wall_seconds or None,
            }
            for one in found.sources
        ],
    }


def _plain_problem(one: Problem) -> dict[str, str | int]:
    return {"file": one.file, "line": one.line, "key": one.key, "text": one.text}


def _print(config_path: Path, found: Found) -> None:
    problems, slices = found.problems, found.slices
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for problem in problems:
        console.print(str(problem), style="red")
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow")
    for server in found.sources:
        console.print(_of_server(server, asked=found.asked))
    if problems:
        console.print(f"{len(problems)} problem{'s' * (len(problems) != 1)}; nothing was changed")
    else:
        console.print(f"{config_path} is good: {slices} slice{'s' * (slices != 1)}", style="green")


def _of_server(server: SourceStatus, *, asked: bool) -> str:
    """Say where the slices of a server come from."""
    slices = f"{server.slices} slice{'s' * (server.slices != 1)}"
    if asked and server.up:
        return f"{server.name} was asked just now and gives {slices}"
    if not server.last_success_wall_seconds:
        return f"{server.name} has never answered here; --ask asks it now"
    at = datetime.fromtimestamp(server.last_success_wall_seconds, UTC).isoformat(" ", "seconds")
    return f"{server.name} gave {slices} at {at}; --ask asks it now"
