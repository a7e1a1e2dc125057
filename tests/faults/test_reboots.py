"""Reboots: another boot id, another boot clock, counters that begin at nothing, perhaps under the same indexes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.campaign import PORTS, class_of, differences
from tests.faults.conftest import Start
from tests.faults.machine import Machine, can_unshare
from tests.faults.program import Files, started
from tests.node import DEVICE, Node

ANN = "ann normal"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
ROOMS = ("--mount", "--time", "--boottime", "864000")
Boot = Callable[[], list[str]]


@pytest.fixture
def boot(tmp_path: Path, machine: Machine) -> Boot:
    """Return what boots the machine: its tree is gone, its index is the same, and programs run inside the answer."""
    if not can_unshare(*ROOMS):
        pytest.skip("no clocks of its own may be made here")
    script = f'mount --bind "$0" {BOOT_ID} && exec "$@"'

    def again() -> list[str]:
        ifindex = machine.ifindex
        machine.remove_link()
        machine.add_link(ifindex)
        boot_id = tmp_path / "boot_id"
        boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
        return ["unshare", *ROOMS, "sh", "-c", script, str(boot_id)]

    return again


@pytest.mark.kernel
def test_a_reboot_keeps_accounts_periods_and_caps(machine: Machine, start: Start, boot: Boot) -> None:
    """The counters begin at nothing, which neither forgives nor counts again what was sent before."""
    periods: dict[str, tuple[float, float]] = {}
    first = start()
    assert first.hear() == {"recovered": "", "lost": False}
    first.turn()
    machine.send(class_of(ANN), 200, port=PORTS[ANN])
    machine.settle()
    said = first.turn()
    assert list(differences(said, machine, periods)) == []
    assert said["lanes"][ANN]["capped"]
    first.kill()

    second = start(inside=boot())
    second.hear()
    said = second.turn()
    assert list(differences(said, machine, periods)) == []
    machine.send(class_of(ANN), 20, port=PORTS[ANN])
    machine.settle()
    assert list(differences(second.turn(), machine, periods)) == []


@pytest.mark.kernel
def test_counters_that_regrew_past_their_old_values_since_the_boot_are_counted_whole(
    machine: Machine, start: Start, boot: Boot, tmp_path: Path
) -> None:
    """Under the same index and the same classes, made by another program before ours had its first look."""
    first = start()
    first.hear()
    first.turn()
    machine.send(class_of(ANN), 30, port=PORTS[ANN])
    machine.settle()
    first.turn()
    first.kill()

    room = boot()
    (tmp_path / "other").mkdir()
    elsewhere = Files(tmp_path / "other")
    elsewhere.write({"ann": 1})
    other = started(elsewhere.config)
    other.hear()
    other.turn()
    machine.send(class_of(ANN), 90, port=PORTS[ANN])
    machine.settle()
    other.kill()

    second = start(inside=room)
    second.hear()
    assert list(differences(second.turn(), machine, {})) == []


@pytest.mark.parametrize("wall_seconds", [-86_400.0, -5.0, 0.0, 40.0, 3600.0])
def test_a_period_goes_on_across_a_reboot_whatever_the_clock_says(wall_seconds: float) -> None:
    """Elapsed time is what the wall clock says, and never less than nothing; use and period are the old ones."""
    node = Node({"ann": 1})
    node.turn()
    node.kernel.offer(DEVICE, node.class_of("ann"), 5_000_000)
    node.pass_seconds(100)
    node.turn()
    before, ledger_seconds = node.account("ann"), node.turns.desks[DEVICE].ledger.ledger_seconds

    node.kernel.remove_link(DEVICE)
    node.kernel.add_link(DEVICE)
    node.boot_id, node.boot_seconds = "boot 2", 3.0
    node.wall_seconds += wall_seconds
    node.start()
    node.turn()

    after = node.account("ann")
    assert (after["used_bytes"], after["period_start_at"], after["period_end_at"]) == (
        5_000_000,
        before["period_start_at"],
        before["period_end_at"],
    )
    assert node.turns.desks[DEVICE].ledger.ledger_seconds - ledger_seconds == max(0.0, wall_seconds)


def test_a_period_that_ended_while_the_machine_was_down_has_ended() -> None:
    """A night of 20 hours ends a day that had four to go; the new one began when the old one ended."""
    node = Node({"ann": 1})
    node.turn()
    node.kernel.offer(DEVICE, node.class_of("ann"), 5_000_000)
    node.pass_seconds(20 * 3600)
    node.turn()
    ended_at = node.account("ann")["period_end_at"]
    node.kernel.remove_link(DEVICE)
    node.kernel.add_link(DEVICE)
    node.boot_id, node.boot_seconds = "boot 2", 3.0
    node.wall_seconds += 20 * 3600
    node.start()
    node.turn()
    account = node.account("ann")
    assert (account["used_bytes"], account["sent_bytes"], account["period_start_at"]) == (0, 5_000_000, ended_at)
