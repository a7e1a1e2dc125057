"""The daemon sorts packets into lanes by what the slices' records say of them, on the real kernel."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.daemon_rig import (
    FAR_END,
    HEADER_BYTES,
    PACKET_BYTES,
    LaneName,
    Program,
    Room,
    handle_of,
    skip_where_no_room_can_be_made,
    wait_for,
)
from tests.kernel.test_classifier_real import needs_uids, user

pytestmark = pytest.mark.kernel

EXEMPT = ("10.9.0.66", 9)
CONFIG = {
    "interval": "200ms",
    "devices": [{"name": "v0", "cap": "80mbit", "line_rate": "100mbit"}],
    "defaults": {"normal": {"allowance": "unlimited"}, "exempt": {"allowance": "unlimited"}},
    "exempt": {"prefixes": ["10.9.0.64/26"]},
}
ANN = {"name": "ann", "id": 1, "match": {"mark": 7}}
BOB = {"name": "bob", "id": 2, "match": {"uid": 1002}}
CYD = {"name": "cyd", "id": 3, "match": {"addresses": ["10.9.0.11/32"]}}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Return a daemon with three slices that are told apart by mark, user and address."""
    skip_where_no_room_can_be_made()
    with Room() as room:
        room.run("ip neighbour add 10.9.0.66 lladdr 02:00:00:00:00:02 dev v0 nud permanent")
        room.run("ip address add 10.9.0.11/32 dev v0")
        with Program(room, tmp_path, CONFIG, [ANN, BOB, CYD]).start() as program:
            program.turn()
            yield program


def send(
    program: Program,
    packets: int,
    *,
    mark: int = 0,
    priority: int = 0,
    source: str = "",
    to: tuple[str, int] = FAR_END,
) -> None:
    """Send packets of PACKET_BYTES as root."""
    with program.room.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        sender.bind((source, 0))
        for _ in range(packets):
            sender.sendto(bytes(PACKET_BYTES - HEADER_BYTES), to)


def send_as(program: Program, uid: int, packets: int) -> None:
    """Send packets of PACKET_BYTES as a user."""
    with program.room.entered(), user(uid):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(packets):
            sender.sendto(bytes(PACKET_BYTES - HEADER_BYTES), FAR_END)


def used(program: Program) -> Counter[LaneName]:
    """Return what every lane has used."""
    return Counter(
        {lane: row["period_used_bytes"] for lane, row in program.lanes().items() if row["period_used_bytes"]}
    )


def assert_used(program: Program, packets: dict[LaneName, int]) -> None:
    """Wait until these are the packets of the lanes, to the byte."""
    wanted = Counter({lane: count * PACKET_BYTES for lane, count in packets.items()})
    wait_for(lambda: used(program) == wanted or None, what=f"{wanted} instead of {used(program)}")


def test_traffic_lands_in_its_slices_lanes(program: Program) -> None:
    """Mark and address tell slices apart; the exempt destination has its lane; root's own is `_root`'s."""
    send(program, 5, mark=7)
    send(program, 6, mark=7, to=EXEMPT)
    send(program, 7, source="10.9.0.11")
    send(program, 8)
    send(program, 9, priority=handle_of(2))

    assert_used(
        program,
        {("ann", "normal"): 5, ("ann", "exempt"): 6, ("cyd", "normal"): 7, ("_root", "normal"): 8 + 9},
    )


def test_users_have_their_slices_lanes_and_others_the_default_one(program: Program) -> None:
    """The user that opened the socket tells whose packets they are."""
    needs_uids(1002, 1003)
    send_as(program, 1002, 4)
    send_as(program, 1003, 3)

    assert_used(program, {("bob", "normal"): 4, ("_default", "normal"): 3})


def test_a_removed_slices_traffic_is_nobodys_and_a_new_ones_is_its_own(program: Program) -> None:
    """Rules follow the roster: a class is named while it exists, and forgotten before it goes."""
    send(program, 5, mark=7)
    program.turn()
    program.write_slices([BOB, {"name": "dan", "id": 9, "match": {"mark": 9}}])
    wait_for(lambda: handle_of(9) in program.room.classes() and handle_of(1) not in program.room.classes())
    program.turn()
    send(program, 4, mark=7)
    send(program, 3, mark=9)

    assert_used(program, {("_root", "normal"): 4, ("dan", "normal"): 3})
    assert "packets are not sorted as wanted" not in program.said()


def test_rules_changed_by_hand_are_put_right_and_counted(program: Program) -> None:
    """A deleted element, and a deleted table, are back within a turn or two."""
    drift = 'bwexporter_drift_repairs_total{device="v0"}'
    program.room.run("nft delete element netdev bwexporter marks { 7 }")
    wait_for(lambda: program.metrics()[drift] == 1, what="the repair of an element")
    program.room.run("nft delete table netdev bwexporter")
    wait_for(lambda: program.metrics()[drift] > 1, what="the repair of the table")
    send(program, 5, mark=7)

    assert_used(program, {("ann", "normal"): 5})


def test_a_user_that_does_not_exist_costs_its_slice_alone(program: Program) -> None:
    """It is said in the log, once, and the others go on."""
    program.write_slices([ANN, {"name": "eve", "id": 5, "match": {"user": "nobody_of_that_name"}}])
    wait_for(lambda: "there is no user nobody_of_that_name on this node" in program.said(), what="the line in the log")
    program.turn()
    send(program, 5, mark=7)

    assert_used(program, {("ann", "normal"): 5})
    assert program.said().count("nobody_of_that_name") == 1


def test_without_a_match_no_table_is_made(program: Program) -> None:
    """Where files tell no traffic apart, other people's rules are left to do it."""
    assert "table netdev bwexporter" in program.room.run("nft list tables")
    program.write_config({key: value for key, value in CONFIG.items() if key != "exempt"})
    program.write_slices([{"name": "ann", "id": 1}])
    wait_for(lambda: "bwexporter" not in program.room.run("nft list tables"), what="the removal of the tables")
    send(program, 5, priority=handle_of(1))

    assert_used(program, {("ann", "normal"): 5})


def test_exempt_destinations_come_and_go_with_the_configuration(program: Program) -> None:
    """A reload moves them in and out; what was sent before stays where it was counted."""
    send(program, 2, mark=7, to=EXEMPT)
    program.turn()
    program.write_config({**CONFIG, "exempt": {"prefixes": ["10.9.0.2/32"]}})
    wait_for(lambda: "10.9.0.2" in exempt_of(program), what="the new destination")
    send(program, 3, mark=7, to=EXEMPT)
    send(program, 5, mark=7)

    assert_used(program, {("ann", "exempt"): 2 + 5, ("ann", "normal"): 3})


def exempt_of(program: Program) -> str:
    """Return the exempt destinations in the kernel."""
    return program.room.run("nft list set netdev bwexporter exempt4")


def test_a_strangers_table_is_told_of_and_left_alone_and_sorting_begins_when_it_is_gone(program: Program) -> None:
    """Meanwhile everything is counted, as nobody's."""
    program.stop()
    program.room.run("nft flush ruleset")
    program.room.run("nft -f -", given=STRANGER)
    before = program.room.run("nft list ruleset")
    program.start()
    told = "there is a table netdev bwexporter that bwexporter did not make; nothing was touched"
    wait_for(lambda: told in program.said(), what="the line in the log")
    send(program, 4, mark=7)
    assert_used(program, {("_default", "normal"): 4})
    assert program.room.run("nft list ruleset") == before
    program.room.run("nft delete table netdev bwexporter")
    wait_for(lambda: "made by bwexporter" in program.room.run("nft list ruleset"), what="tables of ours")
    send(program, 5, mark=7)

    assert_used(program, {("_default", "normal"): 4, ("ann", "normal"): 5})
    assert program.said().count(told) == 1


STRANGER = """
table netdev bwexporter {
    map theirs {
        type mark : mark
    }
}
"""


def test_without_the_program_nft_it_counts_on_and_says_what_to_install(program: Program) -> None:
    """No half of a table is there; the tree is, and all packets are nobody's."""
    program.stop()
    program.room.run("nft flush ruleset")
    hide = ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null {shutil.which("nft")} && exec "$@"', "sh")
    done = program.run("--once", through=hide)
    assert done.returncode == 0, done.stderr
    assert "needs the program nft; install the Debian package nftables" in done.stderr
    assert program.room.run("nft list ruleset") == ""
    assert handle_of(1) in program.room.classes()


REFUSAL = "another bwexporter sorts the packets of this network namespace"
ON_V1 = {**CONFIG, "devices": [{"name": "v1", "cap": "80mbit", "line_rate": "100mbit"}]}
WITHOUT_RULES = {**ON_V1, "exempt": {"prefixes": []}}
DAN = {"name": "dan", "id": 4, "match": {"uid": 1004}}
EVE = {"name": "eve", "id": 5}


def ask(program: Program, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line in the room."""
    command = [*program.room.enter, program.room.python, "-m", "bwexporter", *words]
    return subprocess.run(
        [*command, "--config", str(program.config_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=program.room.environment,
        cwd=program.folder,
    )


def neighbour(program: Program, config: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> Program:
    """Return another daemon of the same room, with files of its own; it is not started."""
    folder = program.folder / "neighbour"
    folder.mkdir()
    return Program(program.room, folder, config, slices)


def test_the_rules_of_a_network_namespace_have_one_keeper(program: Program) -> None:
    """Whoever comes second is refused with one sentence, touches nothing, and may come once the first one has gone."""
    with neighbour(program, ON_V1, [DAN]) as second:
        program.room.run("ip neighbour add 10.9.0.66 lladdr 02:00:00:00:00:01 dev v1 nud permanent")
        before = program.room.run("nft list tables"), program.room.run("tc qdisc show dev v1")
        for words in (("run",), ("run", "--once"), ("tree", "build"), ("tree", "remove")):
            refused = ask(second, *words)
            assert (refused.returncode, refused.stdout) == (1, ""), words
            last = refused.stderr.splitlines()[-1]
            assert REFUSAL in last
            assert "`devices`" in last
        assert (program.room.run("nft list tables"), program.room.run("tc qdisc show dev v1")) == before
        program.turn()
        send(program, 3, mark=7)
        assert_used(program, {("ann", "normal"): 3})
        assert "had been changed" not in program.said()

        program.stop()
        second.start()
        wait_for(lambda: "1:1004" in program.room.run("nft list ruleset"), what="dan's rule")


def test_a_configuration_without_rules_stands_beside_one_with_them(program: Program) -> None:
    """Its tree comes and goes, and the tables stay; rules that a reload asks for come when the other has gone."""
    with neighbour(program, WITHOUT_RULES, [EVE]) as second:
        for command in ("build", "remove"):
            done = ask(second, "tree", command)
            assert done.returncode == 0, done.stderr
        second.start()
        second.write_slices([DAN, EVE])
        wait_for(lambda: REFUSAL in second.said(), what="the refusal")
        program.turn()
        second.turn()
        send(program, 3, mark=7)
        assert_used(program, {("ann", "normal"): 3})
        for one in (program, second):
            assert "had been changed" not in one.said()

        program.stop()
        wait_for(lambda: "1:1004" in program.room.run("nft list ruleset"), what="dan's rule")


def test_rules_that_a_reload_no_longer_needs_are_left_to_another(program: Program) -> None:
    """The tables go, and a daemon of another device may make its own."""
    program.write_config({**CONFIG, "exempt": {"prefixes": []}})
    program.write_slices([EVE])
    wait_for(lambda: program.room.run("nft list tables") == "", what="no tables")
    with neighbour(program, ON_V1, [DAN]) as second:
        second.start()
        wait_for(lambda: "1:1004" in program.room.run("nft list ruleset"), what="dan's rule")
        program.turn()
        second.turn()
        assert "had been changed" not in second.said()
