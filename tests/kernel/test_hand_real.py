"""Orders by hand, given with the very commands to the very daemon on the real kernel."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bwexporter import control
from tests.kernel.daemon_rig import Program, Room, handle_of, skip_where_no_room_can_be_made, wait_for

pytestmark = pytest.mark.kernel

FULL = 1_250_000
CONFIG = {
    "interval": "1s",
    "look_margin": "200ms",
    "period": "1h",
    "devices": [{"name": "v0", "cap": "100mbit", "line_rate": "1gbit"}],
}
SLICES = [
    {"name": name, "id": number, "normal": {"full": "10mbit", "allowance": "100MB"}}
    for number, name in ((1, "ann"), (2, "bob"))
]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The daemon with ann and bob, 100 MB an hour at 10 Mbit/s."""
    skip_where_no_room_can_be_made()
    with Room() as room, Program(room, tmp_path, CONFIG, SLICES) as running:
        yield running.start()


def said(program: Program, *words: str, code: int = 0) -> str:
    """Run a command of the hand, and return what it says."""
    reason = () if "--reason" in words else ("--reason", "a test")
    command = [*program.room.enter, program.room.python, "-m", "bwexporter", *words, *reason]
    done = subprocess.run(
        [*command, "--config", str(program.config_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=program.room.environment,
        cwd=program.folder,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def ceiling(program: Program, slice_id: int = 1) -> float:
    """Return what `tc` says of a normal lane's ceiling."""
    return program.room.classes()[handle_of(slice_id)].ceiling


def of_hand(program: Program, slice_name: str = "ann") -> list[tuple[str, str]]:
    """Return what the state file tells of the hand."""
    told = [json.loads(inputs) for _, inputs in program.events("by_hand", slice_name)]
    return [(inputs["action"], inputs["outcome"]) for inputs in told]


def test_every_order_is_in_force_when_the_command_returns(program: Program) -> None:
    """Cap, release, top-up, loan and restore, as `tc` and the API see them."""
    capped = said(program, "slice", "cap", "ann", "2mbit", "--for", "2h", "--reason", "too loud")
    ceilings = [ceiling(program)]
    until = program.metrics()[
        'bwexporter_slice_hand_until_timestamp_seconds{device="v0",slice="ann",traffic="normal",action="cap"}'
    ]
    asked_at = program.answer()["taken_at"]
    said(program, "slice", "release", "ann", "--for", "2h")
    ceilings.append(ceiling(program))
    said(program, "slice", "top-up", "ann", "50MB")
    topped_up = program.lane("ann")
    said(program, "slice", "lend", "ann", "bob", "--rate", "4mbit", "--for", "1h")
    ceilings += [ceiling(program), ceiling(program, 2)]
    refused = said(program, "slice", "lend", "ann", "bob", "--rate", "8mbit", "--for", "1h", code=1)
    said(program, "slice", "restore", "ann")
    ceilings += [ceiling(program), ceiling(program, 2)]

    assert "ann normal on v0: By hand, cap at 2mbit until" in capped
    assert '"too loud"' in capped
    assert [250_000, FULL, 750_000, 1_750_000, FULL, FULL] == ceilings
    assert 7_100 < until - asked_at < 7_200.001, "metrics say milliseconds"
    assert (topped_up["period_allowance_bytes"], topped_up["period_threshold_bytes"]) == (150_000_000, 120_000_000)
    assert "ann cannot spare that much of its full rate" in refused
    assert program.metrics()["bwexporter_control_refusals_total"] == 1.0
    told = ["cap", "cap", "release", "top-up", "lend", "release", "top-up", "lend"]
    wait_for(lambda: [one for one, _ in of_hand(program)] == told, what="the events")


def test_an_order_ends_when_its_time_is_up(program: Program) -> None:
    said(program, "slice", "cap", "ann", "2mbit", "--for", "1500ms")

    wait_for(lambda: ceiling(program) == FULL, what="the end of the cap")
    wait_for(lambda: of_hand(program) == [("cap", "given"), ("cap", "expired")], what="the event")


TOP_UP = {"action": "top-up", "slice": "ann", "traffic": "normal", "volume_bytes": 10_000_000, "reason": "a test"}


def sent(program: Program) -> socket.socket:
    """Send the top-up with the token that it always has, and do not wait for the answer."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    with control.within_reach(Path(f"{program.state_file}.control")) as place:
        connection.connect(place)
    connection.sendall(json.dumps({**TOP_UP, "token": "the same"}).encode() + b"\n")
    return connection


def answered(program: Program) -> dict[str, Any]:
    """Send it, and return the answer."""
    with sent(program) as connection:
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
    return answer


def test_killed_before_the_effect_nothing_is_done_and_asked_again_it_is_done_once(program: Program) -> None:
    """The command had arrived when the program was killed."""
    with program.halted(), sent(program):
        program.kill()
    program.start()
    before = program.lane("ann")["period_allowance_bytes"]

    answers = [answered(program) for _ in range(2)]
    program.turn()

    assert before == 100_000_000
    assert [(True, False), (True, True)] == [(answer["done"], answer["again"]) for answer in answers]
    assert program.lane("ann")["period_allowance_bytes"] == 110_000_000


def test_killed_after_the_effect_the_repeated_command_is_not_done_twice(program: Program) -> None:
    """The answer was lost, the order was not; who asks again under the same token is told so."""
    with sent(program):
        wait_for(lambda: of_hand(program), what="the save")
        program.kill()
    program.start()

    answer = answered(program)
    program.turn()

    assert (answer["done"], answer["again"]) == (True, True)
    assert program.lane("ann")["period_allowance_bytes"] == 110_000_000
    assert of_hand(program) == [("top-up", "given")]


def test_orders_survive_restart_and_reload(program: Program) -> None:
    said(program, "slice", "cap", "ann", "2mbit", "--for", "1h")
    said(program, "slice", "top-up", "bob", "50MB")
    program.kill()
    program.start()
    restarted = (ceiling(program), program.lane("bob")["period_allowance_bytes"])
    program.write_slices([{**one, "normal": {**one["normal"], "allowance": "200MB"}} for one in SLICES])
    wait_for(lambda: program.lane("bob")["period_allowance_bytes"] == 250_000_000, what="the reload")

    assert restarted == (250_000, 150_000_000)
    assert ceiling(program) == 250_000


def test_freeze_full_rates_and_thaw(program: Program) -> None:
    """Nothing is repaired while it is frozen; after thaw it is."""
    said(program, "freeze")
    frozen = (program.metrics()["bwexporter_frozen"], program.lane("ann")["verdict"])
    program.room.run("tc class change dev v0 parent 1:10 classid 1:1001 htb rate 8kbit ceil 3mbit")
    program.turn()
    left_alone = ceiling(program)
    said(program, "full-rates", "--for", "1h")
    full = (program.metrics()["bwexporter_frozen"], program.lane("ann")["verdict"], ceiling(program))
    said(program, "thaw")

    assert (frozen, left_alone) == ((1.0, "frozen"), 375_000)
    assert full == (0.0, "off", FULL)
    assert program.lane("ann")["verdict"] == "within"
    assert "nothing to undo" in said(program, "thaw")


def test_a_command_that_nobody_hears_says_so(program: Program) -> None:
    program.stop()

    answer: Any = said(program, "freeze", code=1)

    assert "is it running?" in answer
    assert "Traceback" not in answer
