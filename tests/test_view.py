"""The live view: sorts, filters, one slice in full; and the very command on a terminal."""

from __future__ import annotations

import doctest
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bwexporter.cli import view as room
from bwexporter.cli.view import Rates, View, looked, pressed, screen
from bwexporter.core.lanes import Reason, Traffic
from bwexporter.state import open_state
from bwexporter.web import api
from bwexporter.web.listening import bind
from tests.reports import NOW_WALL_SECONDS, LaneFigures, device_report, report
from tests.waiting import PATIENCE_SECONDS
from tests.web import Facts, serving

MEGABYTE = 1_000_000
LANES = (
    LaneFigures(
        "alice",
        used_bytes=900 * MEGABYTE,
        sent_bytes=900 * MEGABYTE,
        reason=Reason.OVER_THRESHOLD,
        capped=True,
        ceiling_bytes_per_second=12_512,
        enforced_ceiling_bytes_per_second=12_512,
    ),
    LaneFigures("bob", Traffic.EXEMPT, slice_id=2, used_bytes=5 * MEGABYTE, sent_bytes=5 * MEGABYTE),
    LaneFigures("carol", slice_id=3, used_bytes=50 * MEGABYTE, sent_bytes=50 * MEGABYTE),
)


def answer(seconds: float = 0.0, **sent: int) -> dict[str, Any]:
    """Return an answer of the API as the view has it, some seconds later, with so many bytes more."""
    told = dict(api.slices(report(device_report(LANES))))
    at = told["taken_at"] + seconds
    rows = [
        {**row, "sent_bytes_total": row["sent_bytes_total"] + sent.get(row["slice"], 0), "taken_at": at}
        for row in told["slices"]
    ]
    return {**told, "taken_at": at, "slices": rows}


def names(view: View, told: dict[str, Any], rates: Rates | None = None) -> list[str]:
    """Return the slices that are shown, in order."""
    return [row["slice"] for row in looked(view, told, rates or Rates())[1]]


def drawn(view: View, told: dict[str, Any], rates: Rates, width: int = 130) -> str:
    """Return the screen as text."""
    view, rows = looked(view, told, rates)
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - ends with the test
    console.print(screen(view, told, rows, rates, width=width, height=24, trouble=""))
    return console.export_text()


def after(view: View, *keys: str) -> View:
    """Return the view after some keys."""
    for key in keys:
        view = pressed(looked(view, answer(), Rates())[0], key)
    return view


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("", ["alice", "bob", "carol"]),
        ("r", ["carol", "bob", "alice"]),
        ("ss", ["alice", "carol", "bob"]),
        ("c", ["alice"]),
        ("cc", ["alice", "bob", "carol"]),
        ("/o", ["bob", "carol"]),
    ],
)
def test_keys_sort_and_filter(keys: str, shown: list[str]) -> None:
    """By name, by use, the capped ones, the ones whose name has an o."""
    assert names(after(View(), *keys), answer()) == shown


def test_a_filter_is_typed_kept_and_taken_back() -> None:
    typed = after(View(), "/", "b", "x", "backspace", "enter", "s")

    assert (typed.search, typed.typing, typed.sort) == ("b", False, "rate")
    assert names(after(typed, "/", "escape"), answer()) == ["alice", "bob", "carol"]


def test_rates_are_those_between_answers_and_sort() -> None:
    """An answer that says nothing new changes no rate."""
    rates = Rates()
    for told in (answer(), answer(10.0, carol=5_000), answer(10.0, carol=5_000), answer(20.0, carol=5_000, bob=90_000)):
        rates.hear(told)

    assert rates.of(("eth0", "carol", "normal")) == [500.0, 0.0]
    assert names(View(sort="rate"), answer(20.0), rates)[0] == "bob"
    assert "72kbit" in drawn(View(), answer(20.0), rates)


def test_one_slice_in_full_says_why() -> None:
    view = after(View(), "enter")

    text = " ".join(drawn(view, answer(), Rates()).split())

    assert view.in_full
    assert "alice normal on eth0" in text
    assert "Over the threshold of 800 MB" in text
    assert not after(view, "escape").in_full


def test_the_chosen_one_moves_and_stays_when_the_order_changes() -> None:
    view = after(View(), "down", "down")

    assert view.chosen == ("eth0", "carol", "normal")
    assert after(view, "r", "s").chosen == ("eth0", "carol", "normal")
    assert after(view, "down", "down").chosen == ("eth0", "carol", "normal")


def test_a_table_higher_than_the_screen_follows_the_chosen_one() -> None:
    told = answer()
    many = [{**told["slices"][0], "slice": f"s{number:03}"} for number in range(200)]
    view = View(chosen=("eth0", "s150", "normal"))

    text = drawn(view, {**told, "slices": many}, Rates())

    assert "s150" in text
    assert "s010" not in text
    assert len(text.splitlines()) <= 24


def test_on_a_terminal_it_follows_keys_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """The very command, on a terminal of its own."""
    state = open_state(tmp_path / "state.db", now_wall_seconds=NOW_WALL_SECONDS)
    facts = Facts(state, report=report(device_report(LANES)))
    with serving(facts, bind("127.0.0.1:0")) as url:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "bwexporter", "status", "--watch", "--url", url, "--sort", "used"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "130", "LINES": "30"}
        watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        seen = _read_until(ours, "carol")
        os.write(ours, b"\r")
        seen += _read_until(ours, "Over the threshold")
        facts.readiness = (False, "The last good turn was 41 s ago.")
        _read_until(ours, "The last good turn was 41 s ago.")
        os.write(ours, b"q")
        assert watching.wait(PATIENCE_SECONDS) == 0
    state.close()
    os.close(ours)
    os.close(theirs)

    assert "by used" in seen


def _read_until(terminal: int, words: str) -> str:
    read, deadline = "", time.monotonic() + PATIENCE_SECONDS
    while words not in read:
        assert time.monotonic() < deadline, read
        if select.select([terminal], [], [], 1.0)[0]:
            read += os.read(terminal, 65536).decode(errors="replace")
    return read


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(room).failed == 0
