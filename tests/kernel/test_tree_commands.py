"""`bwexporter tree` and `plan` as users run them, on the real kernel."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import Program, Room, Traffic, handle_of, skip_where_no_room_can_be_made

pytestmark = pytest.mark.kernel

CONFIG = {
    "interval": "300ms",
    "devices": [{"name": "v0", "cap": "400mbit", "line_rate": "800mbit"}],
    "defaults": {"normal": {"full": "80mbit"}, "exempt": {"full": "80mbit"}},
}
SLICES = [{"name": "ann", "id": 1, "normal": {"allowance": "5GB"}}, {"name": "bob", "id": 2}]
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.fixture(scope="module", autouse=True)
def _room_can_be_made() -> None:
    skip_where_no_room_can_be_made()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return the program in a room of its own, not started."""
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as made:
        yield made


def ask(program: Program, *words: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line in the room."""
    command = [*program.room.enter, *through, program.room.python, "-m", "bwexporter", *words]
    return subprocess.run(
        [*command, "--config", str(program.config_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=program.room.environment,
        cwd=program.folder,
    )


def said(program: Program, *words: str, through: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a command prints as JSON."""
    done = ask(program, *words, "--json", through=through)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def classes(program: Program) -> str:
    """Return everything that tc says of the classes but their counters."""
    return program.room.run("tc -d class show dev v0")


class TestPlan:
    """`plan`."""

    def test_it_says_the_whole_tree_in_lines_and_changes_nothing(self, program: Program) -> None:
        """On a bare device; without privilege, without a state file, and without making one."""
        done = ask(program, "plan", through=WITHOUT_NET_ADMIN)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "v0: build the tree: root queue 1: htb"
        assert "v0: create 1:10 (node cap: normal lanes) below 1:1, rate 400mbit, ceiling 400mbit" in lines
        assert "v0: create 1:1001 (ann normal) below 1:10, rate 1kbit, ceiling 80mbit" in lines
        assert len(lines) == 1 + 3 + 2 * 4
        assert classes(program) == ""
        assert not program.state_file.exists()

    def test_it_says_what_differs_and_what_is_of_nobody(self, program: Program) -> None:
        """One line a change, in the order in which they are made; as rows too."""
        assert ask(program, "tree", "build").returncode == 0
        program.room.run("tc class change dev v0 classid 1:1001 htb rate 1kbit ceil 70mbit quantum 65536 cburst 10000b")
        program.room.run("tc class del dev v0 classid 1:8002")
        program.room.run("tc class add dev v0 parent 1:10 classid 1:1777 htb rate 1mbit")
        before = classes(program)
        lines = ask(program, "plan", through=WITHOUT_NET_ADMIN).stdout.splitlines()
        assert [line.partition(":")[2].split()[0] for line in lines] == ["create", "change", "remove"]
        assert "v0: create 1:8002 (bob exempt) below 1:20" in lines[0]
        assert "v0: change 1:1001 (ann normal): ceiling 70mbit -> 80mbit" in lines[1]
        assert lines[2] == "v0: remove 1:1777 (of nobody)"
        rows = said(program, "plan")["changes"]
        assert [(row["act"], row["class"]) for row in rows] == [
            ("create", "1:8002"), ("change", "1:1001"), ("remove", "1:1777"),
        ]  # fmt: skip
        assert rows[1]["before"]["ceiling_bytes_per_second"] == 8_750_000
        assert rows[1]["after"]["ceiling_bytes_per_second"] == 10_000_000
        assert classes(program) == before

    def test_nothing_to_do_is_said_beside_a_running_daemon(self, program: Program) -> None:
        """Which keeps the tree as it should be."""
        program.start()
        assert ask(program, "plan").stdout == "nothing to do: every class is as it should be\n"
        assert said(program, "plan") == {"changes": [], "notes": []}

    def test_it_says_that_a_shadow_changes_nothing(self, program: Program) -> None:
        """And what would be changed otherwise."""
        program.write_config({**CONFIG, "enforce": False})
        lines = ask(program, "plan").stdout.splitlines()
        assert "enforce is false: the next turn changes nothing" in lines[0]
        assert len(lines) == 1 + 1 + 3 + 2 * 4

    def test_a_foreign_queue_is_named_and_taken_over_only_if_told(self, program: Program) -> None:
        """The plan is refused as the start would be."""
        program.room.run("tc qdisc add dev v0 root handle 5: pfifo limit 77")
        refused = ask(program, "plan")
        assert refused.returncode == 1
        assert "v0 has a root queue that is not bwexporter's (pfifo 5:); nothing was touched" in refused.stderr
        assert "build the tree" in ask(program, "plan", "--take-over").stdout
        assert "pfifo 5:" in program.room.run("tc qdisc show dev v0")


class TestBuildAndRemove:
    """`tree build` and `tree remove`."""

    def test_a_tree_is_built_completed_and_removed(self, program: Program) -> None:
        """Building twice does nothing; half a tree is completed; afterwards the device is as it was."""
        bare = program.room.run("tc qdisc show dev v0")
        done = ask(program, "tree", "build")
        assert done.returncode == 0, done.stderr
        assert "create 1:1001 (ann normal)" in done.stdout
        assert len(program.room.classes()) == 3 + 2 * 4
        assert "nothing to do" in ask(program, "tree", "build").stdout
        program.room.run("tc class del dev v0 classid 1:1001")
        again = said(program, "tree", "build")
        assert ([(row["act"], row["class"]) for row in again["changes"]], again["left"]) == ([("create", "1:1001")], [])
        removed = ask(program, "tree", "remove")
        assert (removed.returncode, removed.stdout) == (0, "v0: the tree is removed\n"), removed.stderr
        assert program.room.run("tc qdisc show dev v0") == bare
        assert "no tree of bwexporter's" in ask(program, "tree", "remove").stdout

    def test_a_ceiling_that_the_law_moves_on_meanwhile_is_no_failure(self, program: Program) -> None:
        """So small a volume is paced, by what is left of it and by when the next look is due."""
        defaults = {"normal": {"full": "10mbit"}, "exempt": {"full": "10mbit"}}
        program.write_config({**CONFIG, "interval": "2s", "defaults": defaults})
        program.write_slices([{"name": "ann", "id": 1, "normal": {"allowance": "2MB"}}])
        assert ask(program, "tree", "build").returncode == 0
        Traffic(program.room).send(("ann", "normal"), handle_of(1), 100)
        foreseen = ask(program, "plan").stdout.splitlines()
        built = [ask(program, "tree", "build") for _ in range(2)]
        assert [(one.returncode, "could not" in one.stderr) for one in built] == [(0, False), (0, False)], built
        assert [line.partition("ceiling ")[0] for line in foreseen] == ["v0: change 1:1001 (ann normal): "]
        assert built[0].stdout.splitlines()[1:] == ["1 done"]

    def test_a_tree_goes_only_when_what_it_tells_is_saved(self, program: Program) -> None:
        """Another process holds the state file for longer than a turn waits: so the command waits, and then does it."""
        assert ask(program, "tree", "build").returncode == 0
        state = program.folder / "state.db"
        with closing(sqlite3.connect(state, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(4.0, other.execute, ["ROLLBACK"])
            release.start()
            removed = ask(program, "tree", "remove")
            release.join()
        assert (removed.returncode, removed.stdout) == (0, "v0: the tree is removed\n"), removed.stderr

    def test_what_was_sent_is_counted_before_the_tree_goes(self, program: Program) -> None:
        """An account survives the removal."""
        assert ask(program, "tree", "build").returncode == 0
        Traffic(program.room).send(("ann", "normal"), handle_of(1), 40)
        assert ask(program, "tree", "remove").returncode == 0
        program.start()
        assert program.lane("ann")["period_used_bytes"] == 40_000

    @pytest.mark.parametrize("command", ["build", "remove"])
    def test_a_running_daemon_keeps_its_tree(self, program: Program, command: str) -> None:
        """Whether it has the same state file or another one."""
        program.start()
        before = classes(program)
        refused = ask(program, "tree", command)
        assert refused.returncode == 1
        assert "another bwexporter" in refused.stderr
        program.write_config({**CONFIG, "state": "other.db"})
        refused = ask(program, "tree", command)
        assert refused.returncode == 1
        assert "another bwexporter runs on this device" in refused.stderr
        assert classes(program) == before

    def test_a_foreign_tree_is_never_removed(self, program: Program) -> None:
        """Nor is anything built into it."""
        program.room.run("tc qdisc add dev v0 root handle 1: htb")
        for command in ("build", "remove"):
            refused = ask(program, "tree", command)
            assert refused.returncode == 1
            assert "not bwexporter's (htb 1:); nothing was touched" in refused.stderr
        assert "htb 1:" in program.room.run("tc qdisc show dev v0")

    def test_in_shadow_nothing_is_built(self, program: Program) -> None:
        """The configuration says so."""
        program.write_config({**CONFIG, "enforce": False})
        refused = ask(program, "tree", "build")
        assert refused.returncode == 1
        assert "enforce: false" in refused.stderr
        assert classes(program) == ""

    @pytest.mark.parametrize("command", ["build", "remove"])
    def test_without_the_capability_nothing_is_half_done(self, program: Program, command: str) -> None:
        """One line says what is missing."""
        refused = ask(program, "tree", command, through=WITHOUT_NET_ADMIN)
        assert refused.returncode == 1
        assert "CAP_NET_ADMIN" in refused.stderr
        assert classes(program) == ""

    def test_a_thousand_slices_are_built_to_the_last(self, program: Program) -> None:
        """However many turns that takes."""
        program.write_slices([{"name": f"s{number}", "id": number} for number in range(1, 1001)])
        done = ask(program, "tree", "build")
        assert done.returncode == 0, done.stderr
        assert len(program.room.classes()) == 3 + 2 * 1002
        assert "nothing to do" in ask(program, "plan").stdout


class TestShow:
    """`tree show`."""

    def test_it_draws_the_tree_of_a_running_daemon_with_names_rates_and_use(self, program: Program) -> None:
        """It holds nothing that the daemon holds, and needs no privilege."""
        program.start()
        Traffic(program.room).send(("ann", "normal"), handle_of(1), 50)
        program.turn()
        program.turn()
        done = ask(program, "tree", "show", through=WITHOUT_NET_ADMIN)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if "ann normal" in line]
        for words in ("1:1001", "ceiling 80mbit", "sent 50.0 kB", "used 50.0 kB of 5.00 GB"):
            assert words in line
        assert "node cap: normal lanes" in done.stdout
        assert "_default" in done.stdout

    def test_one_slice_is_shown_with_what_is_above_it(self, program: Program) -> None:
        """And a slice that has no class is named."""
        program.start()
        done = ask(program, "tree", "show", "ann")
        assert "ann" in done.stdout
        assert "1:10 " in done.stdout
        assert "bob" not in done.stdout
        refused = ask(program, "tree", "show", "nobody")
        assert refused.returncode == 1
        assert "no class belongs to 'nobody'" in refused.stderr

    def test_the_rows_are_the_kernels(self, program: Program) -> None:
        """Every class once, in JSON, with its lane."""
        program.start()
        (device,) = said(program, "tree", "show")["devices"]
        assert {row["class"] for row in device["classes"]} == {
            f"{handle >> 16:x}:{handle & 0xFFFF:x}" for handle in program.room.classes()
        }
        assert {row["slice"] for row in device["classes"]} == {None, "_root", "_default", "ann", "bob"}

    def test_a_bare_device_has_no_tree(self, program: Program) -> None:
        """Which is no error: there is nothing to show."""
        done = ask(program, "tree", "show")
        assert done.returncode == 0
        assert "no tree" in done.stdout
