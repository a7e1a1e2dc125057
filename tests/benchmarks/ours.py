"""Our own node as a contender: the real rooms over the real kernel, put together as `bwexporter run` does.

Turns orders into turns, looks, changes and expositions, and their seconds. Knows: how the rooms are put together.
Does not know: the other contenders, any goal.

Each turn finds one lane in a hundred with another use than before, so that its ceiling has to be changed: the accounts
are moved to and fro between the turns, outside of the time that is taken.
"""

from __future__ import annotations

import ctypes
import http.client
import itertools
import json
import logging
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bwexporter.cli import run as _everything_that_a_daemon_imports  # noqa: F401 - for its memory
from bwexporter.config import load_config
from bwexporter.core.enrolment import open_ledger
from bwexporter.core.lanes import Act, Changes, Classes, Outcomes
from bwexporter.daemon import SWITCH_SECONDS, read_clocks
from bwexporter.desk import Desk
from bwexporter.kernel import dump, wire
from bwexporter.kernel.htb import Device
from bwexporter.kernel.sockets import Listener, Requests
from bwexporter.kernel.tree import FIRST_LANE_MINOR
from bwexporter.metrics import Exposition, Rendered
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.roster import Roster
from bwexporter.state import open_state
from bwexporter.turn import Turns
from bwexporter.web.app import build_app
from bwexporter.web.server import Server
from tests.benchmarks.worker import Stopwatch, Taken, resident_bytes, serve, timed

FIRST_SPARE = 0x10100  # classes that belong to nobody, for the changes of others
NORMAL_TRUNK = 0x10010
PORT = 10099
_SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: node\r\nAccept-Encoding: gzip\r\n\r\n"
_CONFIG = """\
state: state.db
devices:
  - {{name: {device}, cap: 1gbit, line_rate: 10gbit}}
slices:
  - {{file: slices.yml}}
"""


class Ours:
    """A node with one device."""

    def __init__(self, device: str, slices: int, folder: Path) -> None:
        self.imports_bytes = resident_bytes()
        self.device = device
        write_files(folder, device, slices)
        config = load_config(folder / "bwexporter.yml")
        self.door = Device(device)
        now, facts = read_clocks(), self.door.facts()
        roster = Roster(config, {device: facts}, dict, time.time)
        self.roll = roster.call(anew=False)
        self.state = open_state(config.state, now_wall_seconds=now.wall_seconds)
        self.turns = Turns("node", self.state, self.roll.pace, time.perf_counter)
        tariffs, rules = self.roll.tariffs[device]
        ledger = open_ledger(device, facts.ifindex, now)
        self.turns.enlist(Desk(device, self.door, self.roll.trees[device], tariffs, rules, ledger))
        self.exposition = Exposition([device])
        self._turn()
        while len(self.report.devices[0].changes):  # a large tree is made over several turns
            self._turn()
        self.overspenders = np.arange(5, len(tariffs), 100)
        self._odd = False
        self._requests, self._reading = Requests(), dump.Reading([])

    def spare(self, count: int) -> int:
        """Make the classes that belong to nobody, and return how many lanes there are."""
        self.door.look()
        assert not self.door.apply(_changes(Act.CREATE, _spare_classes(count, odd=False))).errno.any()
        return len(self.roll.tariffs[self.device][0])

    def listen(self, on: int) -> None:
        """Stop to listen to what the kernel tells of changes, or begin again."""
        if on:
            self.door._listener = Listener()
            self.door.look()
        else:
            self.door._listener.close()

    def send(self) -> None:
        """Let one lane in a hundred send."""
        ledger = self.turns.desks[self.device].ledger
        for handle in ledger.counters.handle[self.overspenders].tolist():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, handle)
                sender.sendto(bytes(1000), ("10.9.0.2", 9))

    def disk_waits(self, waits: int) -> None:
        """Say whether fsync waits for the disk; where the preload is missing it always does."""
        ctypes.c_int.in_dll(ctypes.CDLL(None), "bench_disk_waits").value = waits

    def turn(self, repeat: int) -> list[Taken]:
        """Take turns, and say what each and its stages took."""
        all_taken = []
        for _ in range(repeat):
            self._move_accounts()
            stopwatch = Stopwatch()
            with stopwatch.whole():
                self._turn()
            all_taken.append({**stopwatch.taken, **self.report.stage_seconds})
            changed = len(self.report.devices[0].changes)
            assert changed == len(self.overspenders), f"{changed} changes instead of {len(self.overspenders)}"
        return all_taken

    def turn_and_publish(self, repeat: int) -> None:
        """Take turns with the exposition after each."""
        for _ in range(repeat):
            self._move_counts()
            self.turn(1)
            self._publish()

    def scraped_turn(self, repeat: int) -> list[Taken]:
        """Take turns, each begun together with a scrape: the request is on its way when the turn's time starts."""
        all_taken = []
        with socket.create_connection(("127.0.0.1", PORT)) as scraper, scraper.makefile("rb") as answers:
            for _ in range(repeat):
                self._move_accounts()
                stopwatch = Stopwatch()
                scraper.sendall(_SCRAPE)
                with stopwatch.whole():
                    self._turn()
                all_taken.append(stopwatch.taken)
                _read_answer(answers)
        return all_taken

    def turns_for(self, seconds: float) -> int:
        """Take turn after turn for so long; return how many."""
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            count += len(self.turn(1))
        return count

    def _turn(self) -> None:
        self.report = self.turns.take(read_clocks(), sources=self.roll.sources, info=self.roll.info)
        (device,) = self.report.devices
        assert not device.trouble, device.trouble
        assert self.report.saved, self.report.save_trouble
        assert device.outcomes is not None
        assert not device.outcomes.errno.any()

    def _move_accounts(self) -> None:
        """Move the use of some lanes, all above their threshold: not by so much that it would be an event."""
        self._odd = not self._odd
        desk = self.turns.desks[self.device]
        accounts = desk.ledger.accounts
        used = accounts.used_bytes.copy()
        allowance = desk.tariffs.allowance_bytes[self.overspenders]
        used[self.overspenders] = allowance * (0.88 if self._odd else 0.90)
        ledger = replace(desk.ledger, accounts=replace(accounts, used_bytes=used))
        self.turns.desks[self.device] = replace(desk, ledger=ledger)

    def _move_counts(self) -> None:
        """Let every lane have sent something: no line of what is counted is then that of the turn before."""
        desk = self.turns.desks[self.device]
        accounts = desk.ledger.accounts
        counted = ("sent_bytes", "sent_packets", "dropped_packets", "overlimits")
        moved = {name: getattr(accounts, name) + 1 for name in counted}
        ledger = replace(desk.ledger, accounts=replace(accounts, **moved))
        self.turns.desks[self.device] = replace(desk, ledger=ledger)

    def _publish(self) -> None:
        self.exposition.observe(self.report)
        self.exposition.render(self.report)

    def read(self, repeat: int) -> list[Taken]:
        """Read and decode every class."""
        place = wire.Place(socket.if_nametoindex(self.device), 0, wire.TREE_HANDLE)

        def read() -> None:
            self._requests.read(place, self._reading)
            dump.columns(self._reading.block)

        return timed(read, repeat)

    def look(self, repeat: int) -> list[Taken]:
        """Look as a turn does: what ended, the root queue, every class."""
        return timed(self.door.look, repeat)

    def write(self, count: int, repeat: int) -> list[Taken]:
        """Change spare classes."""
        changes = itertools.cycle(_changes(Act.CHANGE, _spare_classes(count, odd=odd)) for odd in (False, True))

        outcomes = list[Outcomes]()
        all_taken = timed(lambda: outcomes.append(self.door.apply(next(changes))), repeat)
        assert not any(one.errno.any() for one in outcomes)
        return all_taken

    def errors_found(self, count: int) -> bool:
        """Say whether a refusal in the midst of many changes is told of its own class and of no other."""
        classes = _spare_classes(count, odd=False)
        handle = classes.handle.copy()
        missing = [3, count // 2, count - 1]
        handle[missing] = 0x10FFF
        outcomes = self.door.apply(_changes(Act.CHANGE, replace(classes, handle=handle)))
        return np.flatnonzero(outcomes.errno).tolist() == missing

    def render(self, repeat: int) -> list[Taken]:
        """Make the exposition of a fresh turn: all of it, with its gzip form; the text alone is a part."""
        all_taken = []
        for _ in range(repeat):
            stopwatch = Stopwatch()
            self._move_counts()
            self.turn(1)
            with stopwatch.whole():
                self._publish()
            self._move_counts()
            self.turn(1)
            standing = replace(self.exposition.standing, report=self.report)
            with stopwatch.part("text"):
                _ = Rendered(self.exposition._renderer.pieces(standing)).text
            all_taken.append(stopwatch.taken)
        return all_taken

    def shape(self) -> list[int]:
        """Return families, lanes and the bytes of a line's name and labels."""
        (device,) = self.report.devices
        lane, family = device.tariffs.lanes[-1], LANE_FAMILIES[0].name
        line = f'{family}{{device="{lane.device}",slice="{lane.slice_name}",traffic="{lane.traffic.value}"}} '
        return [len(LANE_FAMILIES), len(device.tariffs), len(line)]

    def open_web(self) -> int:
        """Serve the exposition as the daemon does; return the port."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._publish()
        listening = socket.create_server(("127.0.0.1", PORT))
        app = build_app(
            exposition=lambda: self.exposition.current,
            last_report=lambda: self.report,
            ready=lambda: (True, ""),
            store=self.state,
        )
        Server(app, [listening]).start()
        return PORT

    def memory(self) -> dict[str, int]:
        """Return the memory held now and that of the imports alone."""
        return {"now": resident_bytes(), "imports": self.imports_bytes}

    def other_ways_to_save(self, repeat: int) -> dict[str, list[Taken]]:
        """Save the same accounts as a row of SQLite a lane, and as JSON in a file that is renamed."""
        ledger = self.turns.desks[self.device].ledger
        tables = (ledger.accounts, ledger.counters)
        columns = [getattr(table, name)[: len(ledger.lanes)] for table in tables for name in table.__dataclass_fields__]
        names = [f"{lane.device}/{lane.slice_name}/{lane.traffic.value}" for lane in ledger.lanes]

        def rows() -> Iterator[tuple[Any, ...]]:
            return zip(names, *(column.tolist() for column in columns), strict=True)

        def as_rows() -> None:
            connection.execute("BEGIN")
            marks = ", ".join("?" * (1 + len(columns)))
            connection.executemany(f"INSERT OR REPLACE INTO lanes VALUES ({marks})", rows())  # noqa: S608
            connection.execute("COMMIT")

        def as_json() -> None:
            Path("rows.new").write_text(json.dumps({name: figures for name, *figures in rows()}))
            Path("rows.new").rename("rows.json")

        with closing(sqlite3.connect("rows.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            fields = ", ".join(f"figure_{number}" for number in range(len(columns)))
            connection.execute(f"CREATE TABLE IF NOT EXISTS lanes (name PRIMARY KEY, {fields})")
            return {"rows": timed(as_rows, repeat), "json": timed(as_json, repeat)}


def _read_answer(answers: BinaryIO) -> None:
    """Read a whole answer: in chunks, or as long as its header says."""
    status, headers = answers.readline(), http.client.parse_headers(answers)
    assert b" 200 " in status, status
    if "content-length" in headers:
        answers.read(int(headers["content-length"]))
        return
    while size := int(answers.readline(), 16):
        answers.read(size + 2)
    answers.readline()


def write_files(folder: Path, device: str, slices: int) -> None:
    """Write a node's configuration and its slices."""
    (folder / "bwexporter.yml").write_text(_CONFIG.format(device=device))
    records = [f"  - {{name: slice_{number:05d}}}\n" for number in range(slices)]
    (folder / "slices.yml").write_text("slices:\n" + "".join(records) if records else "slices: []\n")


def _spare_classes(count: int, *, odd: bool) -> Classes:
    def all_of(value: int) -> np.ndarray:
        return np.full(count, value, np.int64)

    return Classes(
        handle=FIRST_SPARE + np.arange(count),
        parent=all_of(NORMAL_TRUNK),
        rate_bytes_per_second=all_of(125_000),
        ceiling_bytes_per_second=all_of(1_375_000 if odd else 1_250_000),
        quantum_bytes=all_of(1514),
        burst_ns=all_of(12_800_000),
        ceiling_burst_ns=all_of(1_280_000),
        leaf=all_of(0),
    )


def _changes(act: Act, classes: Classes) -> Changes:
    rows = len(classes)
    assert FIRST_SPARE + rows <= wire.TREE_HANDLE + FIRST_LANE_MINOR
    no = np.zeros(rows, bool)
    return Changes(np.full(rows, act, np.int8), no, no.copy(), np.zeros(rows, np.int64), classes, build_tree=False)


def main() -> None:
    """Serve orders about one device, in the folder that is the working directory."""
    logging.disable()
    device, slices = sys.argv[1:]
    node = Ours(device, int(slices), Path.cwd())
    serve({name: getattr(node, name) for name in dir(Ours) if not name.startswith("_")})


if __name__ == "__main__":
    main()
