"""The roster: who may send what on which device, read from files.

Turns the configuration, the sources and the remembered ids into a roll: a tree and tariffs for each device. Knows:
which rooms to ask in which order, what a running program cannot change. Does not know: accounts, verdicts, schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bwexporter.config import Config, load_config
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, DeviceFacts, Tariffs
from bwexporter.core.periods import PeriodRule
from bwexporter.core.report import SliceInfo, SourceStatus
from bwexporter.errors import ConfigError, Problem
from bwexporter.kernel.claims import Claim, claim
from bwexporter.kernel.tree import ManagedTree
from bwexporter.slices.file import FileSource, Identity, SourceResult, combine, identities
from bwexporter.slices.ids import allot_ids
from bwexporter.slices.records import RESERVED_NAMES, Match, SliceRecord
from bwexporter.slices.tariffs import assemble, slice_warnings
from bwexporter.turn import Desk, Pace


@dataclass(frozen=True, slots=True)
class Roll:
    """What is wanted now, on every device, and what was wrong with how it was written."""

    config: Config
    pace: Pace
    trees: Mapping[str, ManagedTree]
    tariffs: Mapping[str, tuple[Tariffs, tuple[PeriodRule, ...]]]
    claims: tuple[Claim, ...]
    ids: Mapping[str, int]
    sources: tuple[SourceStatus, ...]
    info: Mapping[str, SliceInfo]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    def desks(self, before: Mapping[str, Desk]) -> Iterator[Desk]:
        """Yield each desk with its new tree and tariffs."""
        for device, (tariffs, rules) in self.tariffs.items():
            yield replace(before[device], tree=self.trees[device], tariffs=tariffs, rules=rules)


class Roster:
    """Calls the roll, at the start and at each reload. `remembered` gives the ids of slices by name."""

    def __init__(
        self,
        config: Config,
        facts: Mapping[str, DeviceFacts],
        remembered: Callable[[], Mapping[str, int]],
        wall_clock: Callable[[], float],
        *,
        user_ids: Callable[[], Mapping[str, int]] = dict,
        enforce: bool = True,
        read_since: Mapping[Path, Identity] | None = None,
    ) -> None:
        self.read_since = dict(read_since or {})  # what the files were when they were read
        self._running = config
        self._user_ids = user_ids
        self._facts = facts
        self._remembered = remembered
        self._wall_clock = wall_clock
        self._enforce = enforce
        self._sources: dict[Path, FileSource] = {}
        self._last_success: dict[str, float] = {}

    def pace(self) -> Pace:
        """Return when looks are due, as the running configuration says."""
        return self._pace(self._running)

    def paths(self) -> tuple[Path, ...]:
        """Return the files that a reload reads."""
        return (self._running.path, *self._running.slice_files)

    def call(self, *, anew: bool = True) -> Roll:
        """Read everything, the configuration itself too where `anew`; ConfigError where that cannot be used."""
        config, kept = self._running, list[Problem]()
        if anew:
            self.read_since |= identities([config.path])
            config, kept = _what_can_change(self._running, load_config(config.path))
        trees = {device.name: self._tree(config, device.name) for device in config.devices}
        self.read_since |= identities(config.slice_files)
        results = [self._source(path).read() for path in config.slice_files]
        records, problems = combine(results)
        ids, id_problems = allot_ids(records, self._remembered())
        tariffs = {}
        for name, tree in trees.items():
            of_device, rules, device_problems = assemble(
                config,
                records,
                ids,
                device=name,
                cap_bytes_per_second=tree.cap_bytes_per_second,
                line_rate_bytes_per_second=tree.line_rate_bytes_per_second,
            )
            tariffs[name] = (of_device, rules)
            problems = (*problems, *device_problems)
        self._running = config
        return Roll(
            config=config,
            pace=self._pace(config),
            trees=trees,
            tariffs=tariffs,
            claims=_claims(records, ids, self._user_ids()),
            ids=ids,
            sources=tuple(self._status(result) for result in results),
            info=_info(records, ids),
            problems=(*kept, *problems, *id_problems),
            warnings=(*config.warnings, *slice_warnings(config, records)),
        )

    def _pace(self, config: Config) -> Pace:
        return Pace(
            interval_seconds=config.interval_seconds,
            shortest_interval_seconds=config.shortest_interval_seconds,
            look_margin_seconds=config.look_margin_seconds,
            enforcing=config.enforce and self._enforce,
        )

    def _tree(self, config: Config, name: str) -> ManagedTree:
        device = next(device for device in config.devices if device.name == name)
        line_rate = device.line_rate_bytes_per_second or self._facts[name].line_rate_bytes_per_second
        if line_rate is None:
            text = f"is missing: the driver of {name} does not say its speed; write for example line_rate: 1gbit"
            raise ConfigError([Problem(str(config.path), 0, f"devices.{name}.line_rate", text)])
        cap = min(device.cap_bytes_per_second, line_rate)
        return ManagedTree(
            device=name,
            cap_bytes_per_second=cap,
            line_rate_bytes_per_second=line_rate,
            default_bytes_per_second=device.default_bytes_per_second or cap,
            gso_max_bytes=self._facts[name].gso_max_bytes,
        )

    def _source(self, path: Path) -> FileSource:
        """Return the reader of a file, the same one at each reload: it keeps the last good reading."""
        return self._sources.setdefault(path, FileSource(path))

    def _status(self, result: SourceResult) -> SourceStatus:
        if result.up:
            self._last_success[result.source] = self._wall_clock()
        return SourceStatus(
            name=result.source,
            up=result.up,
            slices=len(result.records),
            problems=tuple(str(problem) for problem in result.problems),
            last_success_wall_seconds=self._last_success.get(result.source, 0.0),
        )


def _what_can_change(running: Config, new: Config) -> tuple[Config, list[Problem]]:
    """Return the new configuration with what needs a restart as it was, and a problem for each such key."""
    problems = [
        Problem(str(new.path), 0, key, "takes effect after a restart; until then the running value is kept")
        for key, before, after in (
            ("node", running.node, new.node),
            ("state", running.state, new.state),
            ("devices", _names(running), _names(new)),
            ("web.listen", running.listen, new.listen),
            ("control.socket", running.control_socket, new.control_socket),
            ("control.group", running.control_group, new.control_group),
        )
        if before != after
    ]
    devices = new.devices if _names(running) == _names(new) else running.devices
    kept = replace(
        new,
        node=running.node,
        state=running.state,
        devices=devices,
        listen=running.listen,
        control_socket=running.control_socket,
        control_group=running.control_group,
    )
    return kept, problems


def _names(config: Config) -> list[str]:
    return [device.name for device in config.devices]


def _claims(records: Sequence[SliceRecord], ids: Mapping[str, int], user_ids: Mapping[str, int]) -> tuple[Claim, ...]:
    """Return what each slice with lanes claims.

    The node's own traffic, that of root, is claimed last, so that a slice may have it. The claim of `_default` says
    where unclassified exempt traffic goes.
    """
    slices = [record for record in records if record.name in ids and record.name not in RESERVED_NAMES]
    return (
        *(claim(record.name, ids[record.name], record.match, user_ids) for record in slices),
        replace(claim(ROOT_SLICE, ids[ROOT_SLICE], Match(), user_ids), uids=((0, 0),)),
        claim(DEFAULT_SLICE, ids[DEFAULT_SLICE], Match(), user_ids),
    )


def _info(records: Sequence[SliceRecord], ids: Mapping[str, int]) -> dict[str, SliceInfo]:
    return {
        record.name: SliceInfo(record.name, ids[record.name], record.source, record.owners, record.labels)
        for record in records
        if record.name in ids
    }
