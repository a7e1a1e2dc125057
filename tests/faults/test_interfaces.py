"""Interfaces that go, come back, and are renamed, before the eyes of the program and while it is dead."""

from __future__ import annotations

import pytest

from tests.faults.campaign import PORTS, class_of, differences
from tests.faults.conftest import Start
from tests.faults.machine import Machine
from tests.kernel.conftest import run

pytestmark = pytest.mark.kernel
ANN, BOB = "ann normal", "bob exempt"


def pass_packets(machine: Machine, packets: int = 40) -> None:
    """Send in two lanes, and wait until all has arrived."""
    for lane in (ANN, BOB):
        machine.send(class_of(lane), packets, port=PORTS[lane])
    machine.settle()


@pytest.mark.parametrize("same_index", [False, True])
def test_an_interface_deleted_and_made_anew_costs_nothing_that_was_counted(
    machine: Machine, start: Start, *, same_index: bool
) -> None:
    """The tree is built on the new one at the next turn, with the caps of the old accounts."""
    program, periods = start(), {}
    program.hear()
    program.turn()
    pass_packets(machine, 150)
    assert list(differences(program.turn(), machine, periods)) == []
    ifindex = machine.ifindex
    machine.remove_link()
    assert "eth0 is not there" in program.turn()["trouble"]
    machine.add_link(ifindex if same_index else 0)
    said = program.turn()
    assert list(differences(said, machine, periods)) == []
    assert said["lanes"][ANN]["capped"]
    pass_packets(machine)
    assert list(differences(program.turn(), machine, periods)) == []


def test_an_interface_made_anew_under_its_old_index_while_nobody_watched(machine: Machine, start: Start) -> None:
    """Its classes were made by somebody else and regrew past what they were: they are other lives."""
    program, periods = start(), {}
    program.hear()
    program.turn()
    pass_packets(machine, 20)
    assert list(differences(program.turn(), machine, periods)) == []
    program.kill()
    ifindex = machine.ifindex
    machine.remove_link()
    machine.add_link(ifindex)
    program = start()
    program.hear()
    assert list(differences(program.turn(), machine, periods)) == []
    pass_packets(machine, 70)
    program.kill()  # between the look that built the tree and one that saw it
    program = start()
    program.hear()
    assert list(differences(program.turn(), machine, periods)) == []


def test_an_interface_that_is_renamed_and_gets_its_name_back(machine: Machine, start: Start) -> None:
    """Without its name it cannot be looked at, and nothing is changed; what it sent meanwhile is counted afterwards."""
    program, periods = start(), {}
    program.hear()
    program.turn()
    pass_packets(machine)
    program.turn()
    machine.rename("eth0", to="eth7")
    assert "eth0 is not there" in program.turn()["trouble"]
    machine.rename("eth7", to="eth0")
    run("ip neighbour replace 10.9.9.2 lladdr 02:00:00:00:09:02 dev eth0 nud permanent")
    pass_packets(machine)
    assert list(differences(program.turn(), machine, periods)) == []


def test_another_interface_that_takes_the_name_is_another_life(machine: Machine, start: Start) -> None:
    """Its classes begin at nothing; what the old one had counted stays counted."""
    program, periods = start(), {}
    program.hear()
    program.turn()
    pass_packets(machine)
    program.turn()
    for link in ("eth0", "far0"):
        machine.rename(link, to=link.replace("0", "7"))
    run("ip address flush dev eth7")
    machine.add_link()
    said = program.turn()
    assert list(differences(said, machine, periods)) == []
    pass_packets(machine)
    assert list(differences(program.turn(), machine, periods)) == []
