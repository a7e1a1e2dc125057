"""What would be, live: a node in shadow says turn by turn what a replay of its record says afterwards."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bwexporter import telling
from bwexporter.core.lanes import UNLIMITED, Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.periods import Rolling
from bwexporter.core.plans import Policy
from bwexporter.core.report import DeviceReport, Report
from bwexporter.core.wheel import moves
from bwexporter.replay import Recorded, Told, replayed
from bwexporter.shadowing import Shadowing
from bwexporter.stages import Pace
from bwexporter.web import api
from tests.node import DEVICE, START_WALL_SECONDS, Node

INTERVAL = 10.0
RATE = 20_000
ALLOWANCE = 10_000_000
HOUR = 3600.0


class Watched:
    """A node in shadow, whose slices send at rates of their own, and its record."""

    def __init__(self, *, in_shadow: bool = True, **tariff: Any) -> None:
        self.shadowing = Shadowing()
        pace = Pace(INTERVAL, 1.0, 2.0, enforcing=not in_shadow)
        given = {"allowance_bytes": ALLOWANCE, "threshold_bytes": ALLOWANCE * 4 // 5, **tariff}
        self.node = Node(
            {"ann": 1, "bob": 2}, pace=replace(pace, enforcing=True), guarantee_bytes_per_second=1, **given
        )
        self.node.whole_turn()  # a tree that is there: shadow builds none
        self.node.turns.pace = pace
        self.chance = random.Random(4)
        self.sums: list[list[int]] = []
        self.before = self._sent()
        self.report = self.look()

    def look(self) -> Report:
        """Take a turn, and hear what would be."""
        return self.shadowing.seen(self.node.whole_turn(), self.node.turns)

    def send(self, seconds: float, **rates: int) -> None:
        """Let time pass by turns, some of them a little late, in which slices send."""
        left = seconds
        while left > 0:
            part = min(INTERVAL, left)
            for name, rate in rates.items():
                self.node.kernel.offer(DEVICE, self.node.class_of(name), int(rate * part), seconds=1e6)
            self.node.pass_seconds(part)
            self.report = self.look()
            now = self._sent()
            self.sums.append([mine - theirs for mine, theirs in zip(now, self.before, strict=True)])
            self.before, left = now, left - part

    def _sent(self) -> list[int]:
        ledger = self.node.turns.desks[DEVICE].ledger
        return ledger.accounts.sent_bytes[: ledger.enrolled].tolist()

    def row(self, name: str) -> dict[str, Any]:
        """Return what the API says of a slice's normal lane."""
        rows = api.slices(self.report)["slices"]
        found: dict[str, Any] = next(one for one in rows if (one["slice"], one["traffic"]) == (name, "normal"))
        return found

    def replayed(self) -> dict[str, Told]:
        """Replay the record."""
        desk = self.node.turns.desks[DEVICE]
        recorded = Recorded(
            START_WALL_SECONDS, INTERVAL, desk.tariffs.lanes, np.array(self.sums, np.int64),
            moved=tuple(moves(self.node.shelf.events)),
        )  # fmt: skip
        terms = replace(desk.without_hand, shadow=np.zeros(len(desk.tariffs), np.bool_))
        told = replayed(recorded, DEVICE, desk.tree, terms, desk.rules, self.node.turns.pace)
        return {one.lane.slice_name: one for one in told if one.lane.traffic is Traffic.NORMAL}

    @property
    def device(self) -> DeviceReport:
        """Return the device of the last full turn."""
        return self.report.devices[0]


def agrees(live: dict[str, Any], told: Told) -> bool:
    """Say whether both tell the same, within a turn of either."""
    spans = [tuple(span) for span in live["capped"]]
    return (
        live["recorded_bytes"] == told.recorded_bytes
        and abs(live["sent_bytes"] - told.sent_bytes) <= 2 * RATE * INTERVAL
        and len(spans) == len(told.spans)
        and all(
            abs(at - other) <= 2 * INTERVAL
            for span, its in zip(spans, told.spans, strict=True)
            for at, other in zip(span, its, strict=True)
        )
    )


def test_a_node_in_shadow_says_what_a_replay_of_its_record_says() -> None:
    """Ann passes the threshold and goes on, Bob stays below his: nothing in the kernel is changed for either."""
    watched = Watched()
    ceiling = watched.node.kernel.links[DEVICE].root.classes[watched.node.class_of("ann")].ceiling  # type: ignore[union-attr]

    watched.send(0.5 * HOUR, ann=RATE, bob=1_000)
    ann, bob, told = watched.row("ann"), watched.row("bob"), watched.replayed()

    assert watched.node.kernel.links[DEVICE].root.classes[watched.node.class_of("ann")].ceiling == ceiling  # type: ignore[union-attr]
    assert ann["verdict"] == "over_allowance"
    assert agrees(ann["would_be"], told["ann"])
    assert agrees(bob["would_be"], told["bob"])
    assert ann["would_be"]["less_bytes"] > 0.75 * (0.5 * HOUR * RATE - ALLOWANCE)
    assert ann["would_be"]["capped"][0][0] == pytest.approx(
        START_WALL_SECONDS + 0.8 * ALLOWANCE / RATE, abs=4 * INTERVAL
    )
    assert ann["would_be"]["capped_now"] is True
    assert 0 < ann["would_be"]["ceiling_bytes_per_second"] < RATE
    assert (bob["would_be"]["less_bytes"], bob["would_be"]["capped"]) == (0, [])


def test_what_is_set_by_hand_is_compared_too() -> None:
    """A release in the middle, which is over before the end."""
    watched = Watched()
    watched.send(600.0, ann=RATE)
    release = Command("one", Action.RELEASE, "root", "test", "ann", seconds=300.0)

    watched.node.turns.obey(release, watched.node.now())
    watched.send(600.0, ann=RATE)

    assert agrees(watched.row("ann")["would_be"], watched.replayed()["ann"])
    assert len(watched.row("ann")["would_be"]["capped"]) == 2


def test_with_its_period_the_figures_of_a_lane_begin_anew() -> None:
    watched = Watched(rule=Rolling(1_000.0))
    watched.send(900.0, ann=RATE)
    before = watched.row("ann")["would_be"]
    watched.send(205.0, ann=RATE)
    after = watched.row("ann")["would_be"]

    assert before["from"] == pytest.approx(START_WALL_SECONDS, abs=INTERVAL)
    assert after["from"] == pytest.approx(START_WALL_SECONDS + 1_000.0, abs=1.0)
    assert after["recorded_bytes"] == pytest.approx(105 * RATE, abs=INTERVAL * RATE)
    assert before["less_bytes"] > 0
    assert (after["less_bytes"], after["capped"]) == (0, [])


def test_a_reload_goes_on_and_reckons_a_new_slice_from_then_on() -> None:
    watched = Watched()
    watched.send(600.0, ann=RATE)
    less = watched.row("ann")["would_be"]["less_bytes"]

    watched.node.ids = {"ann": 1, "eve": 3}
    watched.node.enlist()
    watched.report = watched.look()
    watched.node.turns.pace = replace(watched.node.turns.pace, enforcing=True)
    watched.node.whole_turn()  # somebody makes her class
    watched.node.turns.pace = replace(watched.node.turns.pace, enforcing=False)
    watched.before = watched._sent()
    watched.send(100.0, ann=RATE, eve=1_000)

    assert watched.row("ann")["would_be"]["less_bytes"] > less > 0
    assert watched.row("eve")["would_be"]["recorded_bytes"] == pytest.approx(100_000, abs=20_000)
    assert watched.row("eve")["would_be"]["from"] >= START_WALL_SECONDS + 600.0


def test_one_slice_in_shadow_is_compared_and_the_others_are_not() -> None:
    """The node enforces; Bob alone is only judged."""
    lanes = ["_root", "_root", "_default", "_default", "ann", "ann", "bob", "bob"]
    watched = Watched(in_shadow=False, shadow=np.array([name == "bob" for name in lanes]))

    watched.send(600.0, ann=RATE, bob=RATE)

    assert watched.row("ann")["would_be"] is None
    assert watched.row("bob")["would_be"]["less_bytes"] > 0
    assert watched.row("bob")["would_be"]["capped_now"]


def test_where_all_is_enforced_nothing_is_compared() -> None:
    watched = Watched(in_shadow=False)

    watched.send(60.0, ann=RATE)

    assert watched.device.would_be is None
    assert watched.row("ann")["would_be"] is None


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"less_bytes": 5_000_000, "recorded_bytes": 9_000_000, "capped_now": True,
             "ceiling_bytes_per_second": 1250, "capped": [[1_700_000_100.0, 1_700_000_200.0]]},
            "Enforced, it would be capped at 10kbit since 2023-11-14 22:15:00 UTC, and would have sent 5.00 MB less",
        ),
        (
            {"less_bytes": 5_000_000, "recorded_bytes": 9_000_000, "capped_now": False, "capped_seconds": 100.0,
             "capped": [[1_700_000_100.0, 1_700_000_200.0]]},
            "Enforced, it would have been capped for 1m 40s and would not be now; it would have sent 5.00 MB less",
        ),
        ({"less_bytes": 0, "capped_now": False, "capped": [], "recorded_bytes": 1},
         "Enforced, it would not have been capped since 2023-11-14 22:13:20 UTC, and would have sent as much."),
    ],
)  # fmt: skip
def test_it_is_said_in_a_sentence(told: dict[str, Any], said: str) -> None:
    assert telling.of_would_be({"from": 1_700_000_000.0, **told}).startswith(said)


def test_lanes_without_an_allowance_send_as_much() -> None:
    watched = Watched(allowance_bytes=UNLIMITED, threshold_bytes=UNLIMITED)

    watched.send(300.0, ann=10 * RATE)

    assert watched.row("ann")["would_be"]["less_bytes"] == 0


def test_a_sliding_window_holds_in_shadow_what_it_held_before() -> None:
    """Nine of ten megabytes were sent before the shadow began, in a window of a day: it would be capped at once."""
    ann = 4  # behind `_root` and `_default`, two lanes each
    watched = Watched(in_shadow=False, policies={ann: Policy(sliding_seconds=24 * HOUR)})
    watched.send(450.0, ann=RATE)
    watched.node.turns.pace = replace(watched.node.turns.pace, enforcing=False)
    watched.look()
    watched.send(2 * INTERVAL, ann=100)

    would_be = watched.device.would_be
    assert would_be is not None
    assert would_be.capped[ann]
    assert would_be.ceiling_bytes_per_second[ann] < 100
    assert watched.device.used_bytes[ann] == 450 * RATE + 2 * INTERVAL * 100
