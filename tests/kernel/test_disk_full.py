"""A disk that is full while a server's last good answer is to be kept: a real one, with the daemon as users run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bwexporter.slices.shelf import NOT_KEPT, Shelf
from tests.faults.disk import Disk
from tests.kernel.daemon_rig import Program, Room, skip_where_no_room_can_be_made, wait_for
from tests.kernel.test_sources_real import CONFIG, MARK, NEIGHBOUR, SECRET, Central, Http, Node
from tests.servers import Certificates, Server

pytestmark = pytest.mark.kernel

WIDE_BYTES = 500_000
AGAIN = "what is good now is kept for the next start again"


class OnDisk:
    """A node whose state, and with it what servers last said, is on a small disk."""

    def __init__(self, node: Node, disk: Disk, kind: str) -> None:
        self.node, self.disk, self.program = node, disk, node.program
        (keys,) = node.origin.item.values()
        self.name = keys["url"]
        self.kept = disk.seen / Shelf(Path("state.db"), kind, keys["url"]).path.name

    def fill_and_tighten(self) -> None:
        """Leave no room for what the server says from now on.

        The state's files beside the database come and go with every save that fails, and so do some blocks: the new
        answer is longer than all of them. While the disk fills up the program stands still, and takes none in between.
        """
        with self.program.halted():
            self.disk.fill()
            self.node.origin.say("ann", tight=True, wide_bytes=WIDE_BYTES)
        self.node.ask()

    def told(self, words: str) -> int:
        """Count the lines of the log that say this of the server."""
        return sum(self.name in line and words in line for line in self.program.said().splitlines())

    def polled(self, times: int = 2) -> None:
        """Wait until the server has been asked some more times, and the turns after that."""
        for _ in range(times):
            before = self.node.source("last_success_timestamp_seconds")
            self.node.ask()
            wait_for(lambda before=before: self.node.source("last_success_timestamp_seconds") > before, what="a poll")
        self.program.turn()

    def nothing_lies_beside(self) -> bool:
        """Say whether no half of a new file is left, as it is for a moment at each poll."""
        return not list(self.disk.seen.glob("*.new"))


@pytest.fixture(params=[Http, Central], ids=["http", "plc"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnDisk]:
    """Return a node whose server gives the slice `ann`, on a disk that is full by now."""
    skip_where_no_room_can_be_made()
    certificates = Certificates(tmp_path)
    (tmp_path / "disk").mkdir()
    with ExitStack() as open_things:
        room, disk = open_things.enter_context(Room()), open_things.enter_context(Disk(tmp_path / "disk"))

        def serve(server: Server) -> str:
            with room.entered():
                return open_things.enter_context(server.running(certificates.here)).url

        origin = request.param(tmp_path, serve)
        origin.say("ann")
        patch = {"name": "ann", "override": True, "match": MARK}
        (tmp_path / "patch.yml").write_text(json.dumps({"slices": [patch] if isinstance(origin, Central) else []}))
        sources = [{"file": "slices.yml"}, origin.item, {"file": "patch.yml"}]
        config = {**CONFIG, "state": "disk/state.db", "slices": sources}
        program = open_things.enter_context(Program(room, tmp_path, config, [NEIGHBOUR]))
        node = OnDisk(Node(room, program.start(through=disk.inside), origin), disk, next(iter(origin.item)))
        assert node.node.has("ann")
        yield node


def test_a_full_disk_costs_the_next_start_the_last_change_alone(full: OnDisk) -> None:
    """The slices are the server's, the older file stays whole, nothing lies beside it, and room ends the trouble."""
    node, disk, program = full.node, full.disk, full.program
    assert node.source("problems") == 0
    full.fill_and_tighten()
    wait_for(lambda: full.told(NOT_KEPT), what="the line in the log")
    before = full.kept.read_bytes()
    wait_for(lambda: program.lane("ann")["period_allowance_bytes"] == 20_480_000_000, what="the change in force")
    full.polled()
    assert (node.source("up"), node.source("problems"), node.source("slices")) == (1, 1, 1)
    assert full.told("No space left on device") == full.told(NOT_KEPT) == 1
    assert full.kept.read_bytes() == before
    wait_for(full.nothing_lies_beside, what="the end of what could not be written")

    node.origin.fail()
    node.ask()
    wait_for(lambda: node.source("up") == 0, what="the trouble")
    program.kill()
    program.start(through=disk.inside)
    assert program.lane("ann")["period_allowance_bytes"] is None, "the slice is there as it was kept last"
    assert full.kept.read_bytes() == before
    full.fill_and_tighten()
    wait_for(lambda: program.lane("ann")["period_allowance_bytes"], what="the answer")
    wait_for(lambda: full.told(NOT_KEPT) == 2, what="the line of the second program")

    disk.make_room()
    node.ask()
    wait_for(lambda: full.told(AGAIN), what="the end of the trouble")
    full.polled()
    assert (node.source("up"), node.source("problems")) == (1, 0)
    assert (full.told(AGAIN), full.told(NOT_KEPT)) == (1, 2)
    assert full.kept.read_bytes() != before
    assert full.kept.stat().st_mode & 0o777 == 0o600
    wait_for(full.nothing_lies_beside, what="the end of a poll")
    assert SECRET not in program.said()
    program.kill()
    node.origin.fail()
    program.start(through=disk.inside)
    assert program.lane("ann")["period_allowance_bytes"] == 20_480_000_000, "what was kept is what was said last"
