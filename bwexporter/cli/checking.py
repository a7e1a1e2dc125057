"""`bwexporter check`: what is wrong with the files, all at once.

Turns a configuration into problems and warnings for people or programs. Knows: how they are said. Does not know: the
kernel, the state; it touches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bwexporter.apmon.sources import check_file
from bwexporter.cli.files import roll_of
from bwexporter.config import load_config
from bwexporter.errors import ConfigError, Problem
from bwexporter.pushes import ApmonKeys


def check(config_path: Path, *, as_json: bool) -> int:
    """Print every problem and warning; return 2 where there is a problem."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    slices = 0
    try:
        roll = roll_of(load_config(config_path))
    except ConfigError as error:
        problems = error.problems
    else:
        problems, warnings, slices = roll.problems, roll.warnings, len(roll.info)
        of_pushes, doubts = _of_pushes(roll.config.apmon)
        problems, warnings = (*problems, *of_pushes), (*warnings, *doubts)
    if as_json:
        click.echo(json.dumps({"problems": _plain(problems), "warnings": _plain(warnings), "slices": slices}, indent=2))
    else:
        _print(config_path, problems, warnings, slices)
    return 2 if problems else 0


def _of_pushes(keys: ApmonKeys | None) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return what is wrong with files that name where to push to; URLs are not asked."""
    sources = [source for source in keys.sources if "://" not in source] if keys else []
    found = [check_file(source, lenient=keys.lenient) for source in sources if keys]
    return tuple(one for some, _ in found for one in some), tuple(one for _, some in found for one in some)


def _plain(found: Sequence[Problem]) -> list[dict[str, str | int]]:
    return [{"file": one.file, "line": one.line, "key": one.key, "text": one.text} for one in found]


def _print(config_path: Path, problems: Sequence[Problem], warnings: Sequence[Problem], slices: int) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for problem in problems:
        console.print(str(problem), style="red")
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")
    if problems:
        console.print(f"{len(problems)} problem{'s' * (len(problems) != 1)}; nothing was changed")
    else:
        console.print(f"{config_path} is good: {slices} slice{'s' * (slices != 1)}", style="green")
