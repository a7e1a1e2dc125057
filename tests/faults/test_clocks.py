"""Clocks that are stepped, both ways, under the real daemon and under the turn."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bwexporter.core import periods
from bwexporter.core.report import EventKind
from tests.faults.campaign import PORTS, SLICES, class_of
from tests.faults.machine import Machine, wait_for
from tests.faults.program import ROOT, Files
from tests.kernel.conftest import run
from tests.node import DEVICE, START_WALL_SECONDS, Node

URL = "http://127.0.0.1:10099/metrics"
ANN = 'device="eth0",slice="ann",traffic="normal"'
INTERVAL_SECONDS = 0.2
STEPS = [-0.7, 0.7, -3600.0, 3600.0, -10 * 86_400.0, 400 * 86_400.0]

PRELOAD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long step(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("STEP_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += step();
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


def published(name: str, labels: str = "") -> float:
    """Return a number that the daemon publishes."""
    with urllib.request.urlopen(URL, timeout=60) as answer:
        text = answer.read().decode()
    series = re.escape(f"bwexporter_{name}" + (f"{{{labels}}}" if labels else ""))
    found = re.search(rf"^{series} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.fixture
def stepped(machine: Machine, tmp_path: Path) -> Iterator[Path]:  # noqa: ARG001 - the daemon's device
    """Run the daemon under a wall clock that is that of the machine and the number in the file that is returned."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    run("ip link set lo up")
    source, library, step = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "step"
    source.write_text(PRELOAD)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    step.write_text("0")
    files = Files(tmp_path)
    files.write(SLICES, interval=f"{INTERVAL_SECONDS:g}s", web={"listen": ["127.0.0.1:10099"]})
    daemon = subprocess.Popen(
        [sys.executable, "-m", "bwexporter", "run", "--config", str(files.config)],
        env={"LD_PRELOAD": str(library), "STEP_FILE": str(step), "OPENBLAS_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    wait_for(_answers)
    yield step
    daemon.terminate()
    _, said = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, said.decode()
    assert b"Traceback" not in said, said.decode()


def _answers() -> bool:
    try:
        return published("turns_total") > 1
    except (OSError, AssertionError):
        return False


@pytest.mark.kernel
def test_a_stepped_clock_neither_stops_nor_floods_the_turns_of_the_daemon(stepped: Path, machine: Machine) -> None:
    """Back and forth by an hour, days and a year: turns go on, use is what arrived, the period ends when it would."""
    began = time.monotonic()
    left = published("slice_period_end_timestamp_seconds", ANN) - published("last_turn_timestamp_seconds")
    for count, step in enumerate((-3600, 7200, -10 * 86_400, 400 * 86_400, 0), 1):
        beside = stepped.with_name("next step")
        beside.write_text(str(step))
        beside.replace(stepped)
        wait_for(lambda count=count: published("clock_steps_total") == count)
        before, stepped_at = published("turns_total"), time.monotonic()
        machine.send(class_of("ann normal"), 40, port=PORTS["ann normal"])
        machine.settle()
        arrived = machine.arrived[PORTS["ann normal"]]
        wait_for(lambda arrived=arrived: published("slice_period_used_bytes", ANN) == arrived)
        wait_for(lambda before=before: published("turns_total") > before + 2)
        most = 60 + 10 * (time.monotonic() - stepped_at) / INTERVAL_SECONDS
        assert published("turns_total") < before + most
        now_left = published("slice_period_end_timestamp_seconds", ANN) - published("last_turn_timestamp_seconds")
        assert left - 5 - (time.monotonic() - began) < now_left <= left
    assert published("slice_capped", ANN) == 1
    ceiling = "slice_ceiling_bytes_per_second"
    wait_for(lambda: published(ceiling, ANN) == machine.classes()[class_of("ann normal")].ceiling)


def passed(node: Node, seconds: float = 10.0) -> list[EventKind]:
    """Let time pass and take a turn; return what it told."""
    node.pass_seconds(seconds)
    return [event.kind for event in node.whole_turn().events]


@pytest.mark.parametrize("step", STEPS)
def test_a_rolling_period_does_not_notice_a_step(step: float) -> None:
    """Use stays, start and end stay, and a period that is over by elapsed time alone is over."""
    node = Node({"ann": 1})
    node.turn()
    node.kernel.offer(DEVICE, node.class_of("ann"), 5_000_000)
    passed(node)
    before = node.account("ann")
    node.wall_seconds += step
    assert EventKind.CLOCK_STEPPED in passed(node)
    after = node.account("ann")
    for name in ("used_bytes", "sent_bytes", "period_start_at", "period_end_at"):
        assert after[name] == before[name], name
    assert EventKind.PERIOD_ROLLED in passed(node, 86_400.0)


@pytest.mark.parametrize("step", [-3 * 86_400.0, -3600.0, 3600.0, 3 * 86_400.0])
def test_a_step_moves_a_calendar_account_to_the_day_it_then_is_with_its_use(step: float) -> None:
    """Nobody wins a fresh allowance by a clock that is set to tomorrow, nor by one that is set back."""
    day = periods.Calendar(periods.Unit.DAY, 1, "UTC")
    node = Node({"ann": 1}, rule=day)
    node.turn()
    node.kernel.offer(DEVICE, node.class_of("ann"), 5_000_000)
    passed(node)
    node.wall_seconds += step
    assert EventKind.PERIOD_ROLLED not in passed(node)
    account, offset = node.account("ann"), node.turns.desks[DEVICE].ledger.wall_offset_seconds
    assert account["used_bytes"] == 5_000_000
    start, end = account["period_start_at"] + offset, account["period_end_at"] + offset
    assert start <= node.wall_seconds < end
    assert start % 86_400 == 0


def test_a_step_while_the_program_was_dead_is_known_by_the_boot_clock() -> None:
    """The program is killed, the clock is set a month ahead, and the period goes on all the same."""
    node = Node({"ann": 1})
    node.turn()
    node.kernel.offer(DEVICE, node.class_of("ann"), 5_000_000)
    passed(node)
    before = node.account("ann")
    node.wall_seconds += 30 * 86_400.0
    node.pass_seconds(60)
    node.start()
    assert EventKind.CLOCK_STEPPED in passed(node)
    after = node.account("ann")
    assert (after["used_bytes"], after["period_end_at"]) == (5_000_000, before["period_end_at"])
    assert after["period_start_at"] == START_WALL_SECONDS
