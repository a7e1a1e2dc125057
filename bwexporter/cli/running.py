"""`bwexporter run`: opens the doors, assembles the rooms, waits for signals.

Turns a configuration into a running daemon and its end. Knows: what is opened and closed in which order. Does not know:
what the rooms do.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bwexporter.cli.finding import problems_at_start
from bwexporter.cli.privileges import raise_net_admin
from bwexporter.cli.supervised import Supervisor
from bwexporter.cli.surface import Flags, Told, server_of, sockets_of
from bwexporter.cli.table import console, lanes_table
from bwexporter.cli.users import control_group_id, user_ids
from bwexporter.config import Config, load_config
from bwexporter.control import Control
from bwexporter.core.enrolment import open_ledger
from bwexporter.core.habits import Habits, Periods
from bwexporter.core.lanes import DeviceFacts, Instant, Ledger, Snapshot
from bwexporter.core.sights import Kept
from bwexporter.daemon import Daemon, read_clocks
from bwexporter.desk import Desk
from bwexporter.errors import ConfigError, DeviceRefused, KernelUnreadable
from bwexporter.kernel.addresses import addresses_of
from bwexporter.kernel.adopted import AdoptedDevice
from bwexporter.kernel.classifier import Classifier
from bwexporter.kernel.existing import Memory
from bwexporter.kernel.htb import Device
from bwexporter.kernel.watch import Watch
from bwexporter.keys import Device as ConfiguredDevice
from bwexporter.keys import OnStop, Tree
from bwexporter.lock import hold_device
from bwexporter.metrics import Exposition
from bwexporter.pushing import ApmonSink
from bwexporter.roster import Roll, Roster
from bwexporter.slices.file import Identity, identities, watch
from bwexporter.sorting import Sorting
from bwexporter.state import State, open_state
from bwexporter.turn import Turns
from bwexporter.web import api
from bwexporter.web.listening import said

log = logging.getLogger("bwexporter")

FIRST_TURN_SECONDS = 0.1  # how often it is asked whether the first turn has ended


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks of `run`."""

    config_path: Path
    once: bool = False
    shadow: bool = False
    take_over: bool = False
    web: Flags = field(default_factory=Flags)


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr; the journal has its own times."""
    under_systemd = "JOURNAL_STREAM" in os.environ
    form = "%(levelname)s %(message)s" if under_systemd else "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format=form)
    for talkative in ("watchfiles", "asyncio", "apscheduler", "pyroute2", "httpx", "httpcore"):
        logging.getLogger(talkative).setLevel(logging.WARNING)


def run(wanted: Wanted) -> int:
    """Run until a signal says to stop, or for one turn; return the exit code."""
    with ExitStack() as open_things:
        config = load_config(wanted.config_path)
        if problems := problems_at_start(replace(config, web=wanted.web.over(config.web))):
            raise ConfigError(problems)
        sockets = [] if wanted.once else sockets_of(config, wanted.web)
        for listening in sockets:
            open_things.callback(listening.close)
        node = assembled(wanted, open_things)
        return node.take_one_turn() if wanted.once else node.serve(sockets)


def assembled(wanted: Wanted, open_things: ExitStack) -> Node:
    """Open the state file and the devices, which are held until `open_things` closes, and put the rooms together."""
    raise_net_admin()
    read_since = identities([wanted.config_path])
    config = load_config(wanted.config_path)
    state = open_state(config.state, now_wall_seconds=time.time())
    open_things.callback(state.close)
    if state.recovered:
        log.error("%s", state.recovered)
    opened = {device.name: _open_door(device, wanted, open_things) for device in config.devices}
    node = Node(config, wanted, state, opened, read_since)
    open_things.callback(node.sorting.close)
    if config.enforce and not wanted.shadow:
        node.sorting.hold()
    return node


class Node:
    """The assembled rooms."""

    def __init__(
        self,
        config: Config,
        wanted: Wanted,
        state: State,
        opened: Mapping[str, Opened],
        read_since: Mapping[Path, Identity],
    ) -> None:
        self._config = config
        self._web = wanted.web
        self.doors = [device.door for device in opened.values()]
        self._on_stop = config.on_stop
        self._state = state
        facts = {name: device.door.facts() for name, device in opened.items()}
        self._roster = Roster(
            config,
            facts,
            self._remembered,
            time.time,
            user_ids=user_ids,
            addresses=addresses_of,
            enforce=not wanted.shadow,
            keeps=True,
            memories={
                name: memory_of(name, one.ifindex, read_clocks().boot_id, state.sights(), self._remember_sights)
                for name, one in facts.items()
            },
        )
        self._roster.read_since |= read_since
        terms = config.metrics
        self._exposition = Exposition(
            list(opened), owner_email=terms.owner_email, record_labels=terms.labels, off=terms.off
        )
        if state.recovered:
            self._exposition.count_state_failure()
        self.sorting = sorting = Sorting(Classifier(take_over=wanted.take_over))
        self._turns = Turns(config.node, state, self._roster.pace(), time.perf_counter, sorting, orders=state.hand)
        self._file_watch = _FileWatch(self._roster)
        roll = self._call_roll(anew=False)
        changed = [server.poll() for server in self._roster.polled() if wanted.once or server.kept is None]
        if any(changed):  # the first turn already has the slices of servers that answer
            roll = self._call_roll(anew=False)
        sinks = () if wanted.once else (ApmonSink(config.node, time.monotonic),)
        look_back = None if wanted.once else self._learnt
        self._daemon = Daemon(
            self._turns, self._exposition, self._call_roll, roll, sorting, self._roster, sinks, look_back
        )
        ledgers, now = state.load(), read_clocks()
        self._turns.desks = {
            name: first_desk(device, roll, ledger_of(ledgers, facts[name], now), state.lost_at_wall_seconds)
            for name, device in opened.items()
        }
        self._daemon.enlist(roll)
        self._watch = Watch(self.doors, self._daemon.look_soon)

    def serve(self, sockets: list[socket.socket]) -> int:
        """Serve until SIGTERM or SIGINT."""
        told = Told(
            exposition=lambda: self._exposition.current,
            last_report=lambda: self._daemon.last_report,
            ready=self._daemon.ready,
            store=self._state,
            reload=self._daemon.reload,
            fleet=lambda: self._roster.fleet,
        )
        server = server_of(self._config, self._web, told, sockets)
        control = self._control()
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        signal.signal(signal.SIGHUP, lambda *_: self._read_all_anew())
        server.start()
        self._daemon.start()
        control.start()
        self._watch.start()
        for listening in sockets:
            log.info("listening on %s", said(listening))
        supervisor = Supervisor()
        with self._file_watch.running(self._daemon.reload), _waking_up() as woken:
            self._watch_over(woken, ended, supervisor)
        supervisor.stopping()
        log.info("stopping")
        control.close()
        self._watch.close()
        saved = self._daemon.stop(hold=self._on_stop is OnStop.HOLD)
        server.stop()
        return 0 if saved else 1

    def _read_all_anew(self) -> None:
        self._daemon.reload()
        self._daemon.ask_all()

    def _control(self) -> Control:
        """Open the socket for orders by hand."""
        group_id = control_group_id(self._config)
        count_refusal = self._exposition.count_control_refusal
        return Control(self._config.control_path, self._daemon.command, count_refusal, group_id=group_id)

    def _watch_over(self, woken: socket.socket, ended: threading.Event, supervisor: Supervisor) -> None:
        """Wait for the end; tell the service manager meanwhile that the first turn has ended and that turns go on."""
        told_ready = False
        while not ended.is_set():
            is_ready, sentence = self._daemon.ready()
            if is_ready and not told_ready:
                supervisor.ready(sentence)
                told_ready = True
            elif self._daemon.alive():
                supervisor.alive(sentence)
            woken.settimeout(supervisor.ping_seconds if told_ready else FIRST_TURN_SECONDS)
            with suppress(TimeoutError):
                woken.recv(1)

    def take_turns(self) -> None:
        """Take a turn, and those that it left changes to."""
        self._daemon.take_turn()
        while self._turns.unfinished:
            time.sleep(self._turns.next_look_seconds(read_clocks()))
            self._daemon.take_turn()

    def refused(self, device: str) -> frozenset[int] | None:
        """Return the classes of a device whose changes the last turn was refused; None where it made none at all."""
        desk = self._turns.desks[device]
        if desk.report is None or desk.report.outcomes is None:
            return None
        return frozenset(handle for _, handle, _ in desk.refused)

    def give_back(self) -> None:
        """Give the classes of trees that somebody else has built their own ceilings back; accounts stay."""
        for desk in tuple(self._turns.desks.values()):
            if not desk.tree.builds:
                self._turns.enlist(replace(desk, tariffs=replace(desk.tariffs.take(np.empty(0, np.int64)), lanes=())))
        self.take_turns()

    def finish(self) -> bool:
        """Count once more and save; true where it was saved."""
        return self._daemon.finish(hold=False)

    def take_one_turn(self) -> int:
        """Take one turn, save it, and print what it found."""
        self.take_turns()
        report = self._daemon.last_report
        saved = self.finish()
        if report is None:
            return 1
        terminal = console()
        now_seconds = report.at.wall_seconds
        terminal.print(lanes_table(api.slices(report), width=terminal.width, now_seconds=now_seconds))
        return 0 if saved and not any(device.trouble for device in report.devices) else 1

    def _call_roll(self, *, anew: bool = True) -> Roll:
        roll = self._roster.call(anew=anew)
        self._state.remember_ids(roll.ids, time.time())
        self._on_stop = roll.config.on_stop
        self._file_watch.follow()
        return roll

    def _learnt(self, desk: Desk, now_wall_seconds: float) -> Habits | None:
        """Return what the lanes of a desk are used to; None too while its roster is just being changed."""
        lanes, ledger = desk.tariffs.lanes, desk.ledger
        if ledger.lanes[: ledger.enrolled] != lanes or not lanes:
            return None
        accounts, rows = ledger.accounts, slice(ledger.enrolled)
        length = np.round(accounts.period_end_at - accounts.period_start_at)[rows]
        remaining = np.maximum(accounts.period_end_at - ledger.ledger_seconds, 0.0)[rows]
        return self._state.habits(desk.device, lanes, Periods(length, remaining), now_wall_seconds)

    def _remember_sights(self, device: str, kept: Kept) -> None:
        self._state.remember_sights(device, kept, time.time())

    def _remembered(self) -> dict[str, int]:
        """Return the ids of slices by name, without those of removed slices whose accounts have ended."""
        desks = [desk.ledger for desk in self._turns.desks.values()]
        ledgers = desks or self._state.load().values()
        return alive_ids(self._state.ids(), ledgers)


def alive_ids(ids: Mapping[str, int], ledgers: Iterable[Ledger]) -> dict[str, int]:
    """Return the ids of slices that have an account."""
    alive = {lane.slice_name for ledger in ledgers for lane in ledger.lanes}
    return {name: number for name, number in ids.items() if name in alive}


@contextmanager
def _waking_up() -> Iterator[socket.socket]:
    """Give a socket that becomes readable with each signal.

    A signal that reaches another thread than the main one, as after a stop, would not end the main one's waiting for an
    event, and Python runs what is to be done for it in the main thread alone.
    """
    woken, wake = socket.socketpair()
    with woken, wake:
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(-1)


class Opened(NamedTuple):
    """A device that has been looked at."""

    door: Device
    look: Snapshot  # the door's first, which no turn has counted: it alone knows that nobody had watched before it


def _open_door(device: ConfiguredDevice, wanted: Wanted, open_things: ExitStack) -> Opened:
    """Open a device that can be used: it is there, it is ours alone, its root queue is ours or nobody's."""
    door = door_of(device, take_over=wanted.take_over, hold=hold_device)
    open_things.callback(door.close)
    try:
        if not wanted.shadow:
            door.check_permission()
        return Opened(door, door.look())
    except KernelUnreadable as error:
        raise DeviceRefused(f"{error}; devices are named in the configuration (`ip link` lists them)") from error


def door_of(device: ConfiguredDevice, *, take_over: bool, hold: Callable[[int], socket.socket] | None = None) -> Device:
    """Open the door to a device of the configuration; it holds nothing unless it is told how."""
    if device.tree is Tree.EXISTING:
        return AdoptedDevice(device.name, hold=hold)
    return Device(device.name, take_over=take_over, hold=hold)


def memory_of(
    device: str, ifindex: int, boot_id: str, sights: Mapping[str, Kept], keep: Callable[[str, Kept], None]
) -> Memory:
    """Return what is known of a device's classes where somebody else has built them."""
    return Memory(sights.get(device), lambda kept: keep(device, kept), boot_id=boot_id, ifindex=ifindex)


def ledger_of(ledgers: Mapping[str, Ledger], facts: DeviceFacts, now: Instant) -> Ledger:
    """Return the accounts of a device as they were saved, or new ones."""
    return ledgers.get(facts.device) or open_ledger(facts.device, facts.ifindex, now)


def first_desk(opened: Opened, roll: Roll, ledger: Ledger, lost_at_wall_seconds: float | None) -> Desk:
    """Return the desk that a device begins with."""
    device = opened.door.name
    tariffs, rules = roll.tariffs[device]
    return Desk(
        device=device,
        door=opened.door,
        tree=roll.trees[device],
        tariffs=tariffs,
        rules=rules,
        ledger=ledger,
        unread=opened.look,
        lost_at_wall_seconds=lost_at_wall_seconds,
    )


class _FileWatch:
    """Calls for a reload when a file changes; which files those are is asked anew after each reload."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._paths: tuple[Path, ...] = ()
        self._look_again = threading.Event()
        self._ended = False

    def follow(self) -> None:
        """Watch other files where the configuration now names others."""
        if self._roster.paths() != self._paths:
            self._look_again.set()

    @contextmanager
    def running(self, reload: Callable[[], object]) -> Iterator[None]:
        """Watch while the context lasts, in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(reload,), name="file watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended = True
            self._look_again.set()
            thread.join(timeout=5.0)

    def _run(self, reload: Callable[[], object]) -> None:
        while not self._ended:
            self._look_again.clear()
            self._paths = self._roster.paths()
            watch(self._paths, self._look_again, lambda _: reload(), since=dict(self._roster.read_since))
