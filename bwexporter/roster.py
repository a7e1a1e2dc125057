"""The roster: who may send what on which device, read from files.

Turns the configuration, the sources and the remembered ids into a roll: a tree and tariffs for each device. Knows:
which rooms to ask in which order, what a running program cannot change. Does not know: accounts, verdicts, schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bwexporter.config import Config, load_config
from bwexporter.core.lanes import DEFAULT_SLICE, ROOT_SLICE, DeviceFacts, Lane, Tariffs
from bwexporter.core.periods import PeriodRule
from bwexporter.core.report import SliceInfo, SourceStatus
from bwexporter.desk import Desk
from bwexporter.errors import ConfigError, Problem
from bwexporter.kernel.addresses import Addresses
from bwexporter.kernel.claims import Claim, claim, clashes
from bwexporter.kernel.existing import ExistingTree, Memory
from bwexporter.kernel.tree import ManagedTree
from bwexporter.keys import Device
from bwexporter.keys import Tree as TreeKind
from bwexporter.slices.adoption import Adoption, adopted, misplaced_classes
from bwexporter.slices.caps import cap_of
from bwexporter.slices.combining import combine
from bwexporter.slices.file import Identity, identities
from bwexporter.slices.fleet import FleetNode, each_once
from bwexporter.slices.gathering import Sources
from bwexporter.slices.ids import allot_ids
from bwexporter.slices.loans import Lending, Parents, Promise, lend
from bwexporter.slices.polled import PolledSource
from bwexporter.slices.records import RESERVED_NAMES, Match, SliceRecord
from bwexporter.slices.source import SourceResult
from bwexporter.slices.tariffs import assemble, devices_of, slice_warnings
from bwexporter.stages import Pace
from bwexporter.written import Network


@dataclass(frozen=True, slots=True)
class Roll:
    """What is wanted now, on every device, and what was wrong with how it was written."""

    config: Config
    pace: Pace
    trees: Mapping[str, ManagedTree | ExistingTree]
    tariffs: Mapping[str, tuple[Tariffs, tuple[PeriodRule, ...]]]
    claims: tuple[Claim, ...]
    exempt_prefixes: tuple[Network, ...]
    ids: Mapping[str, int]
    sources: tuple[SourceStatus, ...]
    info: Mapping[str, SliceInfo]
    records: Mapping[str, SliceRecord]
    lent: Mapping[tuple[Lane, str], tuple[str, ...]]  # what loans did to a lane's key
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    fleet: tuple[FleetNode, ...] = ()

    @property
    def built(self) -> tuple[str, ...]:
        """Return the devices whose trees bwexporter builds, and whose packets it sorts."""
        return tuple(name for name, tree in self.trees.items() if isinstance(tree, ManagedTree))

    def desks(self, before: Mapping[str, Desk]) -> Iterator[Desk]:
        """Yield each desk with its new tree and tariffs."""
        for device, (tariffs, rules) in self.tariffs.items():
            yield replace(before[device], tree=self.trees[device], tariffs=tariffs, rules=rules)


class Roster:
    """Calls the roll, at the start and at each reload. `remembered` gives the ids of slices by name.

    One thread calls at a time; any thread may ask how the sources stand.
    """

    def __init__(  # noqa: PLR0913 - whatever the files cannot say is asked of somebody else
        self,
        config: Config,
        facts: Mapping[str, DeviceFacts],
        remembered: Callable[[], Mapping[str, int]],
        wall_clock: Callable[[], float],
        *,
        user_ids: Callable[[], Mapping[str, int]] = dict,
        addresses: Callable[[Sequence[str]], Mapping[str, Addresses]] = lambda _: {},
        enforce: bool = True,
        keeps: bool = False,
        memories: Mapping[str, Memory] | None = None,
    ) -> None:
        self._memories = dict(memories or {})  # of devices with somebody else's tree
        self.read_since: dict[Path, Identity] = {}  # what the files were when they were read
        self._running = config
        self._user_ids = user_ids
        self._addresses = addresses
        self._facts = facts
        self._remembered = remembered
        self._wall_clock = wall_clock
        self._enforce = enforce
        self._sources = Sources(config.state, wall_clock, user_ids, keeps=keeps)
        self._records: dict[str, SliceRecord] = {}  # as they run
        self._last_success: dict[str, float] = {}
        self.fleet: tuple[FleetNode, ...] = ()  # replaced as a whole; any thread may read it

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
        self._check_line_rates(config)
        self.read_since |= identities(config.slice_files)
        results = self._sources.read(config.sources)
        caps, cap_problems = self._caps(config, results)
        records, problems = combine(results, self._records)
        problems = (*problems, *cap_problems)
        ids, id_problems = allot_ids(records, self._remembered())
        adoptions = {
            device.name: adopted(config, records, device.name)
            for device in config.devices
            if device.tree is TreeKind.EXISTING
        }
        trees = {
            device.name: self._tree(device, caps.get(device.name), adoptions.get(device.name))
            for device in config.devices
        }
        problems = (*problems, *misplaced_classes(config, records))
        tariffs = {}
        for name, tree in trees.items():
            of_device, rules, device_problems = assemble(
                config,
                records,
                ids,
                device=name,
                cap_bytes_per_second=tree.cap_bytes_per_second,
                line_rate_bytes_per_second=tree.line_rate_bytes_per_second,
                only=adoptions[name].classes if name in adoptions else None,
            )
            tariffs[name] = (of_device, rules)
            problems = (*problems, *device_problems, *(adoptions[name].problems if name in adoptions else ()))
        lending = _lent(records, tariffs, trees)
        problems = (*problems, *(_refusal(promise, why) for promise, why in lending.refused))
        tariffs = {name: (lending.tariffs[name], rules) for name, (_, rules) in tariffs.items()}
        claims = _claims(config, records, ids, self._user_ids())
        clashing = _clashing(claims, records)
        self._running = config
        self._records = {record.name: record for record in records}
        problems = (*problems, *id_problems, *clashing.values())
        self.fleet = each_once(node for result in results for node in result.reading.fleet)
        return Roll(
            config=config,
            pace=self._pace(config),
            trees=trees,
            tariffs=tariffs,
            claims=claims,
            exempt_prefixes=_exempt(config, results),
            ids=ids,
            sources=tuple(self._status(result, problems) for result in results),
            info=_info(records, ids, lending, clashing),
            records=self._records,
            lent=lending.notes,
            problems=(*kept, *problems),
            warnings=(*config.warnings, *slice_warnings(config, records)),
            fleet=self.fleet,
        )

    def _pace(self, config: Config) -> Pace:
        return Pace(
            interval_seconds=config.interval_seconds,
            shortest_interval_seconds=config.shortest_interval_seconds,
            look_margin_seconds=config.look_margin_seconds,
            enforcing=config.enforce and self._enforce,
        )

    def _check_line_rates(self, config: Config) -> None:
        for at, device in enumerate(config.devices):
            if self._line_rate(device) is None:
                text = f"is missing: the driver of {device.name} does not say its speed; write as line_rate: 1gbit"
                raise ConfigError([Problem(str(config.path), 0, f"devices[{at}].line_rate", text)])

    def _line_rate(self, device: Device) -> int | None:
        return device.line_rate_bytes_per_second or self._facts[device.name].line_rate_bytes_per_second

    def _caps(self, config: Config, results: Sequence[SourceResult]) -> tuple[dict[str, int], tuple[Problem, ...]]:
        """Return the caps that sources give to devices for which the configuration gives none."""
        names = [device.name for device in config.devices if device.cap_bytes_per_second is None]
        known = self._addresses(names) if names else {}
        caps, problems = dict[str, int](), tuple[Problem, ...]()
        for result in results:
            for name, addresses in known.items():
                cap, of_device = cap_of(result, device=name, mac=addresses.mac, ips=addresses.ips)
                problems = (*problems, *of_device)
                if cap is not None:
                    caps.setdefault(name, cap)
        return caps, problems

    def _tree(self, device: Device, cap_by_source: int | None, adoption: Adoption | None) -> ManagedTree | ExistingTree:
        line_rate = self._line_rate(device) or 0
        cap = min(device.cap_bytes_per_second or cap_by_source or line_rate, line_rate)
        if adoption is not None:
            memory = self._memories.setdefault(device.name, Memory(None, lambda _: None, boot_id="", ifindex=0))
            return ExistingTree(device.name, cap, line_rate, adoption.classes, adoption.as_found, memory)
        return ManagedTree(
            device=device.name,
            cap_bytes_per_second=cap,
            line_rate_bytes_per_second=line_rate,
            default_bytes_per_second=min(device.default_bytes_per_second or cap, cap),
            gso_max_bytes=self._facts[device.name].gso_max_bytes,
        )

    def polled(self) -> tuple[PolledSource, ...]:
        """Return the servers that are asked for slices; asking them is not the roster's."""
        return self._sources.polled

    def statuses(self, of_roll: tuple[SourceStatus, ...]) -> tuple[SourceStatus, ...]:
        """Return how the sources of a roll stand now; servers may have been asked since the last call."""
        asked = {source.name: source.read() for source in self.polled()}
        return tuple(
            replace(status, last_success_wall_seconds=asked[status.name].last_success_wall_seconds or 0.0)
            if status.name in asked
            else status
            for status in of_roll
        )

    def _status(self, result: SourceResult, problems: Sequence[Problem]) -> SourceStatus:
        """Return how a source stands; what is wrong between its records and others' is a problem of its own too."""
        if result.last_success_wall_seconds is not None:
            self._last_success[result.source] = result.last_success_wall_seconds
        elif result.up:
            self._last_success[result.source] = self._wall_clock()
        return SourceStatus(
            name=result.source,
            up=result.up,
            slices=len(result.records),
            problems=tuple(str(problem) for problem in problems if problem.file == result.source),
            last_success_wall_seconds=self._last_success.get(result.source, 0.0),
            unkept=result.unkept,
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
            ("web", running.web, new.web),
            ("metrics", running.metrics, new.metrics),
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
        web=running.web,
        metrics=running.metrics,
        control_socket=running.control_socket,
        control_group=running.control_group,
    )
    return kept, problems


def _names(config: Config) -> list[str]:
    return [f"{device.name} {device.tree.value}" for device in config.devices]


def _claims(
    config: Config, records: Sequence[SliceRecord], ids: Mapping[str, int], user_ids: Mapping[str, int]
) -> tuple[Claim, ...]:
    """Return what each slice with lanes in a tree of ours claims.

    The node's own traffic, that of root, is claimed last, so that a slice may have it. The claim of `_default` says
    where unclassified exempt traffic goes.
    """
    built = {device.name for device in config.devices if device.tree is TreeKind.MANAGED}
    if not built:
        return ()
    slices = [record for record in records if record.name in ids and record.name not in RESERVED_NAMES]
    return (
        *(
            claim(record.name, ids[record.name], record.match, user_ids)
            for record in slices
            if built & set(devices_of(record, config))
        ),
        replace(claim(ROOT_SLICE, ids[ROOT_SLICE], Match(), user_ids), uids=((0, 0),)),
        claim(DEFAULT_SLICE, ids[DEFAULT_SLICE], Match(), user_ids),
    )


def _clashing(claims: Sequence[Claim], records: Sequence[SliceRecord]) -> dict[str, Problem]:
    """Return by slice what its record claims and another slice has."""
    found = clashes(claims)
    return {
        record.name: Problem(record.source, record.line, "match", f"{record.name}: {'; '.join(found[record.name])}")
        for record in records
        if record.name in found
    }


def _exempt(config: Config, results: Sequence[SourceResult]) -> tuple[Network, ...]:
    """Return the prefixes that the configuration and the sources exempt, each once; none where nothing is sorted."""
    if all(device.tree is TreeKind.EXISTING for device in config.devices):
        return ()
    of_sources = (prefix for result in results for prefix in result.reading.exempt)
    return tuple(dict.fromkeys((*config.exempt_prefixes, *of_sources)))


def _lent(
    records: Sequence[SliceRecord],
    tariffs: Mapping[str, tuple[Tariffs, tuple[PeriodRule, ...]]],
    trees: Mapping[str, ManagedTree | ExistingTree],
) -> Lending:
    """Carry out what records promise each other."""
    promises = [Promise(record.name, loan, record.source, record.line) for record in records for loan in record.loans]
    parents = {
        name: Parents(tree.cap_bytes_per_second, tree.line_rate_bytes_per_second) for name, tree in trees.items()
    }
    return lend(promises, {name: of_device for name, (of_device, _) in tariffs.items()}, parents)


def _refusal(promise: Promise, why: str) -> Problem:
    text = f"the loan of {promise.lender} to {promise.loan.to} is refused: {why}"
    return Problem(promise.source, promise.line, "loans", text)


def _info(
    records: Sequence[SliceRecord], ids: Mapping[str, int], lending: Lending, clashing: Mapping[str, Problem]
) -> dict[str, SliceInfo]:
    """Return what is known of the slices; of a loan that is refused both sides are told."""
    troubles = {name: (problem.text,) for name, problem in clashing.items()}
    for promise, why in lending.refused:
        for name in (promise.lender, promise.loan.to):
            troubles[name] = (*troubles.get(name, ()), _refusal(promise, why).text)
    return {
        record.name: SliceInfo(
            record.name, ids[record.name], record.source, record.owners, record.labels, troubles.get(record.name, ())
        )
        for record in records
        if record.name in ids
    }
