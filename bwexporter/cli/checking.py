"""`bwexporter check`: what is wrong with the files, all at once.

Turns a configuration into problems and warnings for people or programs. Knows: how they are said. Does not know: the
kernel, the state; it touches nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bwexporter.apmon.sources import check_file
from bwexporter.cli.files import problems_hidden_in_files, problems_of_slices, roll_of
from bwexporter.cli.options import CONFIG, as_json_option, ask_option
from bwexporter.cli.users import control_group_id
from bwexporter.config import RATES, Config, survey_config
from bwexporter.core.report import SourceStatus
from bwexporter.errors import BwexporterError, ConfigError, Problem
from bwexporter.metrics import check_labels, check_names
from bwexporter.pushes import ApmonKeys
from bwexporter.slices.secrets import problems_of_files
from bwexporter.sources import FileAt
from bwexporter.web.webconfig import WebFile

_OF_A_ROLL = frozenset({"devices", RATES, "defaults", "period", "exempt", "slices"})
"""Of the configuration, what decides what a slice may send."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a check has found."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    slices: int = 0
    sources: tuple[SourceStatus, ...] = ()
    asked: bool = False


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
    found = _find(config_path, ask=ask)
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(config_path, found)
    sys.exit(2 if found.problems else 0)


def _find(config_path: Path, *, ask: bool) -> _Found:
    survey = survey_config(config_path)
    config, problems = survey.config, survey.problems
    if config is None:
        return _Found(problems)
    problems = (*problems, *problems_of_files(config.sources))
    of_pushes, doubts = _of_pushes(config.apmon)
    hidden, beside = problems_hidden_in_files(config), (*of_pushes, *_of_web(config), *_of_control(config))
    if survey.doubtful & _OF_A_ROLL:
        return _Found((*problems, *problems_of_slices(config, survey.doubtful), *hidden, *beside))
    asks = ask and not problems
    roll = roll_of(config, ask=asks)
    files = {at.name for at in config.sources if isinstance(at, FileAt)}
    servers = tuple(status for status in roll.sources if status.name not in files)
    problems, warnings = (*problems, *roll.problems, *hidden, *beside), (*roll.warnings, *doubts)
    return _Found(problems, warnings, len(roll.info), servers, asked=asks)


def _of_pushes(keys: ApmonKeys | None) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return what is wrong with files that name where to push to; URLs are not asked."""
    sources = [source for source in keys.sources if "://" not in source] if keys else []
    found = [check_file(source, lenient=keys.lenient) for source in sources if keys]
    return tuple(one for some, _ in found for one in some), tuple(one for _, some in found for one in some)


def _of_control(config: Config) -> tuple[Problem, ...]:
    """Return what keeps the socket for orders from being opened."""
    try:
        control_group_id(config)
    except ConfigError as error:
        return error.problems
    return ()


def _of_web(config: Config) -> list[Problem]:
    """Return what is wrong with the files that the web's keys name, and with metrics'."""
    found = list[Problem]()
    try:
        if config.web.config_file is not None:
            WebFile(config.web.config_file)
    except ConfigError as error:
        found += error.problems
    checks: Mapping[str, Callable[[], None]] = {
        "off": lambda: check_names(config.metrics.off),
        "labels": lambda: check_labels(config.metrics.labels),
    }
    for key, checked in checks.items():
        try:
            checked()
        except BwexporterError as error:
            found.append(Problem(str(config.path), 0, f"metrics.{key}", str(error)))
    return found


def _plain(found: _Found) -> dict[str, Any]:
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


def _print(config_path: Path, found: _Found) -> None:
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
