"""The configuration: one YAML file, checked as a whole.

Turns the file into a frozen Config, or into every problem of it at once, each with its line and key. Knows: where a
key stands, what is filled in, where paths count from. Does not know: what a key may say, slices' records, the kernel's
devices, who uses a value.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bwexporter.core.lanes import Traffic
from bwexporter.core.periods import PeriodRule
from bwexporter.errors import ConfigError, Problem
from bwexporter.keys import Device, Keys, Listen, MetricsTerms, OnStop, WebKeys, contradictions_between, default_terms
from bwexporter.pushes import ApmonKeys
from bwexporter.settings import LaneTerms, fitting_warnings
from bwexporter.sources import FileAt, SourceAt, in_the_open
from bwexporter.written import Fault, Network, check, close_to
from bwexporter.yamlfile import Document, KeyPath, load_yaml, read_content, survey_yaml


@dataclass(frozen=True, slots=True)
class WebTerms:
    """How the web server is set up, beside its addresses."""

    config_file: Path | None
    telemetry_path: str
    enable_reload: bool
    owner_secret_file: Path | None  # None: owners have no links


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; paths are absolute or relative to the working directory."""

    path: Path
    node: str
    state: Path
    interval_seconds: float
    shortest_interval_seconds: float
    look_margin_seconds: float
    on_stop: OnStop
    enforce: bool  # false: shadow for the node
    period: PeriodRule
    devices: tuple[Device, ...]  # at least one; the first is that of slices that name none
    exempt_prefixes: tuple[Network, ...]
    defaults: Mapping[Traffic, LaneTerms]
    sources: tuple[SourceAt, ...]  # where slices come from, in the order in which the first of a name is taken
    listen: tuple[Listen, ...]
    web: WebTerms
    metrics: MetricsTerms
    control_socket: Path | None  # None: beside the state
    control_group: str | None  # whose members may give orders beside root and the program's own user
    apmon: ApmonKeys | None = None  # None: nothing is pushed
    warnings: tuple[Problem, ...] = ()

    @property
    def slice_files(self) -> tuple[Path, ...]:
        """Return the sources that are files."""
        return tuple(at.path for at in self.sources if isinstance(at, FileAt))

    @property
    def control_path(self) -> Path:
        """Return where the control socket is."""
        return self.control_socket or self.state.with_name(f"{self.state.name}.control")


def load_config(path: Path) -> Config:
    """Read and check the file. ConfigError carries every problem of it."""
    document = load_yaml(path)
    return read_config(document, path)


def read_config(document: Document, path: Path) -> Config:
    """Check a document that was read from `path`, which relative paths in it count from; ConfigError."""
    keys, faults = _checked(document)
    if faults or keys is None:
        problems = [document.problem(fault.path, fault.text) for fault in faults]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return _completed(keys, document, path)


RATES = "rates"
"""What is in doubt where a device is known but for its rates."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the file says with every faulty key at its default, and every problem of it.

    Such a Config is for looking at the files that it names and may be without devices; it is None where nothing can be
    made of the file. Where `slices` is faulty it names no source, for what is left of them is not what was meant.
    What `doubtful` names, top keys or RATES, is not what was meant either.
    """

    config: Config | None
    problems: tuple[Problem, ...]
    doubtful: frozenset[str] = frozenset()


def survey_config(path: Path) -> Survey:
    """Look at a file, whatever is wrong with it: as YAML, or with its keys."""
    try:
        found = survey_yaml(read_content(path), file=str(path))
    except ConfigError as error:
        return Survey(None, error.problems)
    if found.document is None:
        return Survey(None, found.problems)
    keys, faults = _checked(found.document, found.doubtful)
    doubtful = found.doubtful.union(*(_in_doubt(fault.path) for fault in faults))
    broken = {problem.line for problem in found.problems}  # what else is wrong there is guesswork
    of_keys = (found.document.problem(fault.path, fault.text) for fault in faults)
    problems = sorted([*found.problems, *(one for one in of_keys if one.line not in broken)], key=lambda one: one.line)
    if keys is not None and "slices" in doubtful:
        keys = keys.model_copy(update={"slices": ()})
    return Survey(_completed(keys, found.document, path) if keys else None, tuple(problems), doubtful)


def _in_doubt(path: KeyPath) -> set[str]:
    """Return what a fault puts in doubt; of a key that is not known the one that may have been meant."""
    if len(path) == 3 and path[0] == "devices" and path[2] in {"cap", "line_rate", "default"}:
        return {RATES}
    return {str(path[0]), *close_to(str(path[0]), Keys.model_fields)} if path else set(Keys.model_fields)


def _checked(document: Document, doubtful: Collection[str] = ()) -> tuple[Keys | None, list[Fault]]:
    """Return the keys, faulty ones at their defaults, and every fault."""
    if document.data is None:
        return None, [Fault((), "is empty; it needs at least a device")]
    keys, faults = check(Keys, document.data)
    if keys is not None:
        faulty = {fault.path[0] for fault in faults if fault.path} | set(doubtful)
        faults += [
            one
            for one in contradictions_between(keys, faulty=faulty)
            if one.path[0] not in {"period", *doubtful} & faulty
        ]
    return keys, faults


def _completed(keys: Keys, document: Document, path: Path) -> Config:
    """Return the keys with what is not written filled in, and paths that count from the file's folder."""
    defaults, node = default_terms(keys), keys.node or socket.gethostname()
    sources = tuple(source.at(path.parent, node) for source in keys.slices)
    return Config(
        path=path,
        node=node,
        state=path.parent / keys.state,
        interval_seconds=keys.interval,
        shortest_interval_seconds=keys.shortest_interval or min(1.0, keys.interval),
        look_margin_seconds=keys.look_margin,
        on_stop=keys.on_stop,
        enforce=keys.enforce,
        period=keys.period,
        devices=keys.devices,
        exempt_prefixes=keys.exempt.prefixes,
        defaults=defaults,
        sources=sources,
        listen=keys.web.listen,
        web=_web_terms(keys.web, path.parent),
        metrics=keys.metrics,
        control_socket=path.parent / keys.control.socket if keys.control.socket else None,
        control_group=keys.control.group,
        apmon=_with_folder(keys.apmon, path.parent),
        warnings=tuple(document.problem(fault.path, fault.text) for fault in _warnings(defaults, sources)),
    )


def _with_folder(keys: ApmonKeys | None, folder: Path) -> ApmonKeys | None:
    """Put this file's folder before the names of files among the sources; URLs stay."""
    if keys is None:
        return None
    sources = tuple(source if "://" in source else str(folder / source) for source in keys.sources)
    return keys.model_copy(update={"sources": sources})


def _web_terms(web: WebKeys, folder: Path) -> WebTerms:
    return WebTerms(
        config_file=folder / web.config_file if web.config_file else None,
        telemetry_path=web.telemetry_path,
        enable_reload=web.enable_reload,
        owner_secret_file=folder / web.owner_secret_file if web.owner_secret_file else None,
    )


def _warnings(defaults: Mapping[Traffic, LaneTerms], sources: Sequence[SourceAt]) -> Iterator[Fault]:
    for at, source in enumerate(sources):
        if text := in_the_open(source):
            yield Fault(("slices", at, "plc", "url"), text)
    for traffic, terms in defaults.items():
        yield from (Fault(("defaults", traffic.value, *path), text) for path, text in fitting_warnings(terms))
