"""What is wrong with the files: for `check`, which says it, and `run`, which refuses to start.

Turns a configuration into all problems and warnings of it and of what it names. Knows: which rooms to ask, what of a
faulty configuration can still be told. Does not know: how it is said, the kernel, the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bwexporter.apmon.sources import check_file
from bwexporter.cli.files import problems_hidden_in_files, problems_of_slices, roll_of
from bwexporter.cli.users import control_group_id
from bwexporter.config import RATES, Config, survey_config
from bwexporter.core.report import SourceStatus
from bwexporter.errors import BwexporterError, ConfigError, Problem
from bwexporter.metrics import check_labels, check_names
from bwexporter.pushes import ApmonKeys
from bwexporter.roster import Roll
from bwexporter.slices.secrets import problems_of_files
from bwexporter.sources import FileAt
from bwexporter.web.webconfig import WebFile

_OF_A_ROLL = frozenset({"devices", RATES, "defaults", "period", "exempt", "slices"})
"""Of the configuration, what decides what a slice may send."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a check has found."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    slices: int = 0
    sources: tuple[SourceStatus, ...] = ()
    asked: bool = False


def find(config_path: Path, *, ask: bool = False) -> Found:
    """Look at everything; servers are asked only where that is wanted, and the rest is good."""
    survey = survey_config(config_path)
    config, problems = survey.config, survey.problems
    if config is None:
        return Found(problems)
    problems = (*problems, *problems_of_files(config.sources))
    of_pushes, doubts = _of_pushes(config.apmon)
    hidden = problems_hidden_in_files(config)
    beside = (*of_pushes, *problems_at_start(config))
    if survey.doubtful & _OF_A_ROLL:
        return Found((*problems, *problems_of_slices(config, survey.doubtful), *hidden, *beside))
    asks = ask and not problems
    roll = roll_of(config, ask=asks)
    files = {at.name for at in config.sources if isinstance(at, FileAt)}
    servers = tuple(status for status in roll.sources if status.name not in files)
    problems, warnings = (*problems, *roll.problems, *hidden, *beside), (*roll.warnings, *_nobodys(roll), *doubts)
    return Found(problems, warnings, len(roll.info), servers, asked=asks)


def _nobodys(roll: Roll) -> tuple[Problem, ...]:
    """Return what records match by that is not on this machine: it may come, or the node be another one."""
    found = ((roll.records[one.slice_name], text) for one in roll.claims for text in one.troubles)
    return tuple(Problem(record.source, record.line, "match", f"{record.name}: {text}") for record, text in found)


def _of_pushes(keys: ApmonKeys | None) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return what is wrong with files that name where to push to; URLs are not asked."""
    sources = [source for source in keys.sources if "://" not in source] if keys else []
    found = [check_file(source, lenient=keys.lenient) for source in sources if keys]
    return tuple(one for some, _ in found for one in some), tuple(one for _, some in found for one in some)


def problems_at_start(config: Config) -> tuple[Problem, ...]:
    """Return what keeps a program from starting that could open its devices."""
    return (*_of_web(config), *_of_metrics(config), *_of_control(config))


def _of_control(config: Config) -> tuple[Problem, ...]:
    """Return what keeps the socket for orders from being opened."""
    try:
        control_group_id(config)
    except ConfigError as error:
        return error.problems
    return ()


def _of_web(config: Config) -> tuple[Problem, ...]:
    """Return what is wrong with the file that the web's keys name."""
    try:
        if config.web.config_file is not None:
            WebFile(config.web.config_file)
    except ConfigError as error:
        return error.problems
    return ()


def _of_metrics(config: Config) -> tuple[Problem, ...]:
    """Return what is wrong with the names of families and labels."""
    found = list[Problem]()
    checks: Mapping[str, Callable[[], None]] = {
        "off": lambda: check_names(config.metrics.off),
        "labels": lambda: check_labels(config.metrics.labels),
    }
    for key, checked in checks.items():
        try:
            checked()
        except BwexporterError as error:
            text = str(error).removeprefix(f"metrics.{key} ")
            found.append(Problem(str(config.path), 0, f"metrics.{key}", text))
    return tuple(found)
