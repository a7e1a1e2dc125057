"""The rules of tests/test_escape.py on the real kernel: the same ones, few and short runs. So the fake cannot lie."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from bwexporter.core.periods import Rolling
from tests.faults.machine import Machine
from tests.faults.real_node import RealNode
from tests.test_escape import MONTH_SECONDS, NAMES, Escape, names, traffics


class EscapeReal(Escape):
    """The same books; what passes is what arrived at the far end of a cable."""

    machine: Machine

    @initialize()
    def begin(self) -> None:
        """Start with a device that nothing has been done to."""
        self.machine.remove_link()
        self.machine.add_link()
        ids = {name: number for number, name in enumerate(NAMES, 1)}
        self.node = RealNode(self.machine, ids, rule=Rolling(MONTH_SECONDS))
        self.turn(1.0)
        self.turn(1.0)
        self.ends_at = {name: self.node.account(name)["period_end_at"] for name in NAMES}

    @rule(name=names, traffic=traffics, remade=st.booleans(), regrown=st.integers(0, 9_000), heard=st.booleans())
    def stranger_removes_a_class(self, name: str, traffic: object, *, remade: bool, regrown: int, heard: bool) -> None:
        """As on the fake; the kernel tells a listener that has overflowed nothing more until it is read."""
        heard &= not self.node.real.deaf
        super().stranger_removes_a_class(name=name, traffic=traffic, remade=remade, regrown=regrown, heard=heard)

    @precondition(lambda self: self.running and not self.node.real.deaf)
    @rule()
    def stranger_deletes_the_tree(self) -> None:
        """As on the fake, to somebody who listens."""
        super().stranger_deletes_the_tree()

    def dumps_miss_a_class(self) -> None:
        """Never here: the kernel's dumps cannot be told to miss a class."""

    @precondition(lambda self: self.running)
    @rule()
    def program_is_killed(self) -> None:
        """The program is killed, at any moment between turns."""
        super().program_is_killed()
        self.node.real.door = None

    @precondition(lambda self: self.running and not self.node.real.deaf)
    @rule()
    def interface_goes_and_comes_back(self) -> None:
        """The interface is deleted with its tree, and somebody listens."""
        super().interface_goes_and_comes_back()

    def teardown(self) -> None:
        """Leave no socket open."""
        if hasattr(self, "node"):
            self.node.stop()


@pytest.mark.kernel
def test_the_same_rules_hold_on_the_real_kernel(machine: Machine) -> None:
    """Whatever happens in whatever order, used is what arrived; a failure is shown as a short list of rules."""

    class OnThisMachine(EscapeReal):
        """Hypothesis makes the state machine, so that the device is the class's."""

    OnThisMachine.machine = machine
    few = settings(
        max_examples=15,
        stateful_step_count=15,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(OnThisMachine, settings=few)
