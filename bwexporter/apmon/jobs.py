"""Jobs: sets of processes that belong together, and their figures under ApMon's names.

Turns a table of processes into the `job_*` parameters of each job: a pid, also one that a file names, and all its
descendants, the processes of some users, or a control group. Knows: who belongs to a job, CPU time that does not fall
when a process ends, numbers of processes that are used again. Does not know: intervals, destinations, why a job is
watched.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bwexporter.apmon import procfs, workdir
from bwexporter.apmon.options import Options
from bwexporter.apmon.procfs import TICKS_PER_SECOND, Process

CGROUPS = Path("/sys/fs/cgroup")
HYBRID_CGROUPS = CGROUPS / "unified"  # where version 1 has the main place
KIB = 1024
MICROSECONDS = 1e6
_CLOCKS_AGREE_SECONDS = 2.0  # of a file's time and a process's start

Identity = tuple[int, int]
UserRange = tuple[int, int]


class Table:
    """All processes at one moment; read when they are first asked for."""

    def __init__(self, proc: Path = procfs.PROC) -> None:
        self.proc = proc
        self._all: dict[int, Process] | None = None
        self._users: dict[int, int | None] | None = None

    @property
    def by_pid(self) -> Mapping[int, Process]:
        """Return the processes by their numbers."""
        if self._all is None:
            self._all = {one.pid: one for one in procfs.processes(self.proc)}
        return self._all

    def of_users(self, ranges: Sequence[UserRange]) -> list[Process]:
        """Return the processes of some users."""
        if self._users is None:
            self._users = {pid: procfs.user_of(self.proc, pid) for pid in self.by_pid}
        users = self._users
        return [
            one
            for one in self.by_pid.values()
            if (user := users[one.pid]) is not None and any(first <= user <= last for first, last in ranges)
        ]

    def with_descendants(self, roots: Iterable[Identity]) -> list[Process]:
        """Return those of these processes that still live, and all that descend from them."""
        children = defaultdict(list)
        for one in self.by_pid.values():
            children[one.parent].append(one)
        table, found = self.by_pid, dict[int, Process]()
        waiting = [table[pid] for pid, start in roots if pid in table and table[pid].start_ticks == start]
        while waiting:
            one = waiting.pop()
            if one.pid not in found:
                found[one.pid] = one
                waiting += children[one.pid]
        return list(found.values())


class PidTree:
    """A process and its descendants; those that lose their parent stay members."""

    def __init__(self, root: Process) -> None:
        self._known: set[Identity] = {root.identity}

    def members(self, table: Table) -> list[Process]:
        """Return the members that live."""
        members = table.with_descendants(self._known)
        self._known = {one.identity for one in members}
        return members


class PidFile:
    """The process whose number a file holds, and its descendants; one that is written there later takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root: Identity | None = None
        self._tree: PidTree | None = None

    def __eq__(self, other: object) -> bool:
        """Compare by the file."""
        return isinstance(other, PidFile) and self._path == other._path

    def __hash__(self) -> int:
        """Return one number for one file."""
        return hash(self._path)

    def members(self, table: Table) -> list[Process]:
        """Return the members that live."""
        root = self._named(table)
        if root is not None and root.identity != self._root:
            self._root, self._tree = root.identity, PidTree(root)
        return [] if self._tree is None else self._tree.members(table)

    def _named(self, table: Table) -> Process | None:
        """Return the named process; not one that began after the file was written, which has a dead one's number."""
        text = procfs.read(self._path).strip()
        named = table.by_pid.get(int(text)) if text.isdecimal() else None
        if named is None:
            return None
        try:
            written = procfs.uptime_seconds() - (time.time() - self._path.stat().st_mtime)
        except OSError:
            return None
        return named if named.start_ticks / TICKS_PER_SECOND <= written + _CLOCKS_AGREE_SECONDS else None


@dataclass(frozen=True, slots=True)
class Users:
    """The processes of some users."""

    ranges: tuple[UserRange, ...]

    def members(self, table: Table) -> list[Process]:
        """Return the members that live."""
        return table.of_users(self.ranges)


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The processes of a control group (v2) and of the groups below it."""

    path: str
    root: Path = CGROUPS

    @property
    def folder(self) -> Path:
        """Return where the group's files are."""
        hybrid = HYBRID_CGROUPS / self.path
        return hybrid if self.root == CGROUPS and hybrid.is_dir() else self.root / self.path

    def pids(self) -> list[int]:
        """Return the numbers of the members, also of those that may not be seen."""
        words = (word for file in self.folder.rglob("cgroup.procs") for word in procfs.read(file).split())
        return [int(word) for word in words if word.isdecimal()]

    def members(self, table: Table) -> list[Process]:
        """Return the members that live and may be seen."""
        return [one for pid in self.pids() if (one := table.by_pid.get(pid))]

    def cpu_seconds(self) -> float | None:
        """Return the CPU time that the kernel has counted for the group."""
        for line in procfs.read(self.folder / "cpu.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / MICROSECONDS
        return None

    def memory_bytes(self) -> int | None:
        """Return the memory that the kernel charges to the group; version 1 does so in a tree of its own."""
        for file in (self.folder / "memory.current", self.root / "memory" / self.path / "memory.usage_in_bytes"):
            text = procfs.read(file).strip()
            if text.isdecimal():
                return int(text)
        return None


class CpuTime:
    """CPU time of a changing set of processes, which never falls.

    What a process has used is counted as it grows. When one ends, its time appears once more in its parent's time of
    reaped children; only what is more than was known of it already is added.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self._before: Mapping[Identity, Process] = {}

    def add(self, members: Sequence[Process]) -> None:
        """Count what was used since the last time."""
        now = {one.identity: one for one in members}
        counted = self._counted_of_ended(now)
        for identity, one in now.items():
            before = self._before.get(identity)
            if before is None:
                self.ticks += one.own_ticks + one.reaped_ticks
                continue
            self.ticks += max(0, one.own_ticks - before.own_ticks)
            self.ticks += max(0, one.reaped_ticks - before.reaped_ticks - counted[one.pid])
        self._before = now

    def _counted_of_ended(self, now: Mapping[Identity, Process]) -> Mapping[int, int]:
        """Return the known time of processes that have ended, by the nearest ancestor that lives and was told it."""
        parents = {one.pid: one.parent for one in self._before.values()}
        alive = {one.pid for one in now.values()}
        counted: dict[int, int] = defaultdict(int)
        for identity, one in self._before.items():
            if identity not in now:
                heir = one.parent
                while heir in parents and heir not in alive:
                    heir = parents[heir]
                counted[heir] += one.own_ticks + one.reaped_ticks
        return counted


@dataclass(frozen=True, slots=True)
class Sample:
    """A job's CPU time at a moment, kept for each destination."""

    at: float
    cpu_seconds: float


class Job:
    """One job under the names it is pushed as."""

    def __init__(
        self,
        cluster: str,
        node: str,
        members: PidTree | PidFile | Users | ControlGroup,
        folder: Path | None = None,
        *,
        prefix: str = "",
    ) -> None:
        self.cluster, self.node, self.prefix = cluster, node, prefix
        self.rule = members
        self._folder = folder
        self._cpu = CpuTime()
        self._looked_at: Table | None = None
        self._members: list[Process] = []
        self._folder_figures: tuple[Table, dict[str, float]] | None = None

    @property
    def ends(self) -> bool:
        """Say whether the job is over for good when it has no process: users, groups and files may have some again."""
        return isinstance(self.rule, PidTree)

    def look(self, table: Table) -> list[Process]:
        """Return the members, having counted their CPU time; a table is counted once."""
        if self._looked_at is not table:
            self._looked_at, self._members = table, self.rule.members(table)
            self._cpu.add(self._members)
        return self._members

    def cpu_seconds(self) -> float:
        """Return the CPU time until the last look."""
        counted = self.rule.cpu_seconds() if isinstance(self.rule, ControlGroup) else None
        return self._cpu.ticks / TICKS_PER_SECOND if counted is None else counted

    def figures(
        self, table: Table, at: float, before: Sample | None, options: Options
    ) -> tuple[dict[str, float], Sample]:
        """Return the parameters that are wanted, and what the next reading needs; nothing where the job is over."""
        members = self.look(table)
        sample = Sample(at, self.cpu_seconds())
        count = len(self.rule.pids()) if isinstance(self.rule, ControlGroup) else len(members)
        if not count:
            return {}, sample
        found = {**self._times(members, sample, before), **self._memory(table, members), "processes": count}
        wanted = {name: value for name, value in found.items() if options.wants(f"job_{name}")}
        if options.wants("job_open_files"):
            opened = [files for one in members if (files := procfs.open_files(table.proc, one.pid)) is not None]
            if opened:
                wanted["open_files"] = sum(opened)
        wanted.update(
            (name, value) for name, value in self._folders(table, options).items() if options.wants(f"job_{name}")
        )
        return {f"{self.prefix}{name}": value for name, value in wanted.items()}, sample

    def _times(self, members: Sequence[Process], sample: Sample, before: Sample | None) -> dict[str, float]:
        found = {"cpu_time": sample.cpu_seconds}
        if members:
            began = min(one.start_ticks for one in members) / TICKS_PER_SECOND
            found["run_time"] = max(0.0, procfs.uptime_seconds() - began)
        if before is not None and sample.at > before.at and sample.cpu_seconds >= before.cpu_seconds:
            used = sample.cpu_seconds - before.cpu_seconds
            found["cpu_usage"] = 100.0 * used / (sample.at - before.at)
        return found

    def _memory(self, table: Table, members: Sequence[Process]) -> dict[str, float]:
        """Return what is charged or, where nobody counts that, what the members hold; nothing of members unseen."""
        charged = self.rule.memory_bytes() if isinstance(self.rule, ControlGroup) else None
        found = {"virtualmem": sum(one.virtual_bytes for one in members) / KIB} if members else {}
        if charged is None and not members:
            return found
        resident = sum(procfs.resident_bytes(table.proc, one.pid) for one in members) if charged is None else charged
        found["rss"] = resident / KIB
        total_kib = procfs.memory_kib(table.proc).get("MemTotal", 0)
        return {**found, "mem_usage": 100.0 * resident / KIB / total_kib} if total_kib else found

    def _folders(self, table: Table, options: Options) -> dict[str, float]:
        """Measure the folder once for each table, whoever asks."""
        if self._folder is None:
            return {}
        if self._folder_figures is None or self._folder_figures[0] is not table:
            found = workdir.disk(self._folder)
            size = workdir.size_mib(self._folder) if options.wants("job_workdir_size") else None
            self._folder_figures = table, found if size is None else {**found, "workdir_size": size}
        return self._folder_figures[1]


def watch_pid(
    pid: int, folder: str, cluster: str, node: str, find: Callable[[int], Process | None] | None = None
) -> Job | None:
    """Return the job of a process that lives; None where there is none with this number."""
    root = (find or _find)(pid)
    return None if root is None else Job(cluster, node, PidTree(root), Path(folder) if folder else None)


def _find(pid: int) -> Process | None:
    return procfs.process(procfs.PROC, pid)
