"""Two programs: one device and one state file belong to one of them, and are free as soon as it is dead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import PORTS, class_of, differences
from tests.faults.conftest import Start
from tests.faults.machine import Machine
from tests.faults.program import Files, started

pytestmark = pytest.mark.kernel
ANN = "ann normal"


def test_a_second_program_is_refused_the_device_and_touches_nothing(
    machine: Machine, start: Start, tmp_path: Path
) -> None:
    """Also with a state file of its own; the first one goes on undisturbed."""
    first, periods = start(), {}
    first.hear()
    first.turn()
    machine.send(class_of(ANN), 200, port=PORTS[ANN])
    machine.settle()
    assert list(differences(first.turn(), machine, periods)) == []
    classes = machine.classes()

    (tmp_path / "other").mkdir()
    elsewhere = Files(tmp_path / "other")
    elsewhere.write({"ann": 1})
    second = started(elsewhere.config)
    assert "another bwexporter runs on this device" in second.hear()["refused"]
    second.kill()

    assert machine.classes() == classes
    machine.send(class_of(ANN), 20, port=PORTS[ANN])
    machine.settle()
    assert list(differences(first.turn(), machine, periods)) == []


def test_a_second_program_is_refused_the_state_file(machine: Machine, start: Start) -> None:
    """Two writers of one file would be two truths."""
    first = start()
    first.hear()
    first.turn()
    assert "another bwexporter uses the state file" in start().hear()["refused"]
    assert machine.classes()


def test_what_a_killed_program_held_is_free_at_once(machine: Machine, start: Start) -> None:
    """Neither file nor socket has to be removed by hand."""
    periods: dict[str, tuple[float, float]] = {}
    for _ in range(3):
        program = start()
        assert "refused" not in program.hear()
        assert list(differences(program.turn(), machine, periods)) == []
        program.kill()


def test_a_device_that_came_back_under_another_index_is_still_held(
    machine: Machine, start: Start, tmp_path: Path
) -> None:
    """The first program goes on with it, so that a second one has to be refused."""
    first = start()
    first.hear()
    first.turn()
    machine.remove_link()
    machine.add_link()
    assert not first.turn()["trouble"]
    (tmp_path / "other").mkdir()
    elsewhere = Files(tmp_path / "other")
    elsewhere.write({"ann": 1})
    second = started(elsewhere.config)
    answer = second.hear()
    second.kill()
    assert "another bwexporter runs on this device" in answer.get("refused", "it was not refused")
