"""The hand on the wheel, through the real turn: what is ordered holds, for as long as it was ordered, and no longer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core.hand import Obeyed, over
from bwexporter.core.lanes import UNLIMITED, Lane, Reason, Traffic
from bwexporter.core.orders import Action, Command
from bwexporter.core.periods import Calendar, Rolling, Unit
from bwexporter.core.report import DeviceReport, EventKind, Report
from tests.node import DEVICE, Node

MEGABYTE = 1_000_000
HOUR = 3600.0
_TOKENS = (f"token {number}" for number in itertools.count())


def a_node(**given_: Any) -> Node:
    """Return a node with ann and bob, 100 MB an hour at 10 Mbit/s, whose tree stands and has been seen."""
    usual = {
        "rule": Rolling(HOUR),
        "allowance_bytes": 100 * MEGABYTE,
        "threshold_bytes": 80 * MEGABYTE,
        "full_bytes_per_second": 1_250_000,
        "guarantee_bytes_per_second": 1_000,
        "share": 4,
    }
    node = Node({"ann": 1, "bob": 2}, **{**usual, **given_})
    node.turn()
    node.pass_seconds(10.0)
    node.turn()
    return node


def command(action: Action, **given_: Any) -> Command:
    """Return a command about ann's normal lane, for an hour unless said otherwise."""
    usual = {"token": next(_TOKENS), "who": "root", "reason": "a test", "slice_name": "ann", "seconds": HOUR}
    return Command(action=action, **{"traffic": Traffic.NORMAL, **usual, **given_})


def order(node: Node, action: Action, **given_: Any) -> Obeyed:
    """Give an order between two turns."""
    return node.turns.obey(command(action, **given_), node.now())


def switch(node: Node, action: Action, seconds: float | None = None) -> Obeyed:
    """Set the node's switch."""
    return order(node, action, slice_name="", traffic=None, seconds=seconds)


def after(node: Node, seconds: float = 10.0) -> Report:
    """Let time pass, and take a turn of all devices."""
    node.pass_seconds(seconds)
    return node.whole_turn()


def ceiling(node: Node, name: str = "ann") -> int:
    """Return what the kernel enforces."""
    root = node.kernel.links[DEVICE].root
    assert root is not None
    return root.classes[node.class_of(name)].ceiling


def reason(report: DeviceReport, name: str = "ann") -> Reason:
    """Return why the normal lane has its ceiling."""
    return Reason(int(report.verdicts.reason[report.tariffs.lanes.index(Lane(DEVICE, name, Traffic.NORMAL))]))


def send(node: Node, size: int, name: str = "ann") -> None:
    """Let a slice send so much."""
    assert node.kernel.offer(DEVICE, node.class_of(name), size, seconds=1e6) == size


def outcomes(report: Report) -> list[tuple[str, str]]:
    """Return what was told of the hand."""
    told = [event.inputs for event in report.events if event.kind is EventKind.BY_HAND]
    return [(str(inputs["action"]), str(inputs["outcome"])) for inputs in told]


def kill(node: Node) -> None:
    """End the program as kill -9 does, and start it anew from what was saved."""
    node.start()
    node.enlist()


# Orders.


def test_a_top_up_for_a_while_is_gone_when_that_is_over() -> None:
    """What was used by then stays used, and the period goes on."""
    node = a_node()
    order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=95.0)
    during = after(node)
    send(node, 110 * MEGABYTE)
    over = after(node, 90.0)

    row = node.row("ann")
    allowances = [int(report.devices[0].verdicts.allowance_bytes[row]) for report in (during, over)]
    assert [150 * MEGABYTE, 100 * MEGABYTE] == allowances
    assert 80.0 < during.by_hand[0].until_wall_seconds - during.at.wall_seconds < 90.0
    assert outcomes(over) == [("top-up", "expired")]
    assert node.account("ann")["used_bytes"] == 110 * MEGABYTE
    assert reason(over.devices[0]) is Reason.OVER_ALLOWANCE


def test_a_cap_holds_from_the_next_turn_until_it_expires() -> None:
    """A look is due at the very end, and the audit names both."""
    node = a_node()
    order(node, Action.CAP, rate_bytes_per_second=5_000, seconds=95.0)

    first = node.whole_turn(early=True)
    held = (ceiling(node), reason(first.devices[0]))
    given_at = node.wall_seconds
    looks = [after(node, node.turns.next_look_seconds(node.now())) for _ in range(11)]

    assert held == (5_000, Reason.CAPPED_BY_HAND)
    assert ceiling(node, "bob") == 1_250_000
    assert ceiling(node) == 1_250_000
    assert [("cap", "given")] == outcomes(first)
    assert [95.0] == [look.at.wall_seconds - given_at for look in looks if outcomes(look) == [("cap", "expired")]]


def test_a_release_gives_the_full_rate_and_bytes_still_count() -> None:
    node = a_node()
    send(node, 120 * MEGABYTE)
    capped = after(node)
    order(node, Action.RELEASE)
    send(node, MEGABYTE)

    report = after(node)

    assert reason(capped.devices[0]) is Reason.OVER_ALLOWANCE
    assert (ceiling(node), reason(report.devices[0])) == (1_250_000, Reason.RELEASED)
    assert node.account("ann")["used_bytes"] == 121 * MEGABYTE


def test_a_cap_takes_the_place_of_a_release_and_the_other_way_round() -> None:
    node = a_node()
    order(node, Action.RELEASE)
    order(node, Action.CAP, rate_bytes_per_second=7_000)

    report = after(node)

    assert ceiling(node) == 7_000
    assert [("release", "given"), ("release", "replaced"), ("cap", "given")] == outcomes(report)


def test_a_top_up_adds_to_this_period_and_keeps_what_was_used() -> None:
    """The threshold moves with it; two of them add up; the next period has none."""
    node = a_node()
    send(node, 95 * MEGABYTE)
    after(node)
    for _ in range(2):
        order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    topped_up = after(node)
    row = node.row("ann")
    verdicts = topped_up.devices[0].verdicts
    within = (int(verdicts.allowance_bytes[row]), int(verdicts.threshold_bytes[row]), ceiling(node))
    period_end = float(node.account("ann")["period_end_at"])

    rolled = after(node, HOUR)

    assert within == (200 * MEGABYTE, 160 * MEGABYTE, 1_250_000)
    assert {one.until_wall_seconds for one in topped_up.by_hand} == {period_end}
    assert node.account("ann")["used_bytes"] == 0
    assert int(rolled.devices[0].verdicts.allowance_bytes[row]) == 100 * MEGABYTE
    assert [("top-up", "ended with its period")] * 2 == outcomes(rolled)
    assert rolled.by_hand == ()


def test_restore_is_the_law_again() -> None:
    node = a_node()
    order(node, Action.CAP, rate_bytes_per_second=5_000)
    order(node, Action.TOP_UP, volume_bytes=MEGABYTE, seconds=None)
    order(node, Action.CAP, rate_bytes_per_second=6_000, slice_name="bob")
    after(node)
    order(node, Action.RESTORE)

    report = after(node)

    assert (ceiling(node), ceiling(node, "bob")) == (1_250_000, 6_000)
    assert int(report.devices[0].verdicts.allowance_bytes[node.row("ann")]) == 100 * MEGABYTE
    assert {("cap", "restored"), ("top-up", "restored")} == set(outcomes(report))
    told = next(event for event in report.events if event.inputs.get("outcome") == "restored")
    assert (told.inputs["by"], told.inputs["by_reason"]) == ("root", "a test")


def test_a_loan_moves_rate_guarantee_and_share() -> None:
    """Nothing is made of nothing: what one has more, the other has less."""
    node = a_node()
    lent = {"rate_bytes_per_second": 250_000, "guarantee_bytes_per_second": 400, "share": 3}
    order(node, Action.LEND, borrower="bob", **lent)

    tariffs = after(node).devices[0].tariffs

    ann, bob = node.row("ann"), node.row("bob")
    for column, sums in (("full", (1_000_000, 1_500_000)), ("guarantee", (600, 1_400))):
        values = getattr(tariffs, f"{column}_bytes_per_second")
        assert (int(values[ann]), int(values[bob])) == sums
    assert (int(tariffs.share[ann]), int(tariffs.share[bob])) == (1, 7)
    assert (ceiling(node), ceiling(node, "bob")) == (1_000_000, 1_500_000)


@pytest.mark.parametrize(
    ("lent", "words"),
    [
        ({"rate_bytes_per_second": 1_250_000}, "cannot spare that much of its full rate"),
        ({"guarantee_bytes_per_second": 1_000}, "cannot spare that much of its guarantee"),
        ({"share": 4}, "cannot spare that much of its share"),
        ({"share": 1, "borrower": "eve"}, "no slice 'eve'"),
        ({"share": 1, "borrower": "ann"}, "lend to itself"),
    ],
)
def test_a_loan_over_capacity_is_refused_and_changes_nothing(lent: dict[str, Any], words: str) -> None:
    node = a_node()

    with pytest.raises(ValueError, match=words):
        order(node, Action.LEND, **{"borrower": "bob", **lent})

    assert after(node).by_hand == ()


def test_a_loan_whose_lender_has_less_after_a_reload_rests_as_a_whole() -> None:
    node = a_node()
    order(node, Action.LEND, borrower="bob", rate_bytes_per_second=1_000_000)
    node.tariff["full_bytes_per_second"] = 900_000
    node.enlist()

    report = after(node)

    assert (ceiling(node), ceiling(node, "bob")) == (900_000, 900_000)
    assert [True] == [one.resting for one in report.by_hand]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"slice_name": "eve"}, "no slice 'eve'"),
        ({"device": "eth7"}, "no lane on eth7; it has some on eth0"),
        ({"action": Action.TOP_UP, "slice_name": "_root", "volume_bytes": 1}, "without limit"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(given_: dict[str, Any], words: str) -> None:
    node = a_node()

    with pytest.raises(ValueError, match=words):
        node.turns.obey(replace(command(Action.CAP, rate_bytes_per_second=1), **given_), node.now())


# The switch.


def test_freeze_changes_nothing_and_thaw_is_the_law_again() -> None:
    node = a_node()
    switch(node, Action.FREEZE)
    send(node, 99 * MEGABYTE)
    frozen = after(node)
    before = ceiling(node)
    switch(node, Action.THAW)

    thawed = after(node)

    assert (frozen.frozen, frozen.devices[0].outcomes, before) == (True, None, 1_250_000)
    assert reason(frozen.devices[0]) is Reason.FROZEN
    assert (thawed.frozen, reason(thawed.devices[0])) == (False, Reason.OVER_THRESHOLD)
    assert ceiling(node) < 8_000
    assert [("freeze", "given")] == outcomes(frozen)
    told = [event.inputs["frozen_by"] for event in frozen.events if event.inputs.get("reason") == "frozen"]
    assert {"hand"} == set(told)
    assert [("freeze", "restored")] == outcomes(thawed)


def test_full_rates_for_all_and_back() -> None:
    """Counting goes on; the later of both switches holds."""
    node = a_node()
    send(node, 120 * MEGABYTE)
    send(node, 120 * MEGABYTE, "bob")
    after(node)
    switch(node, Action.FREEZE)
    switch(node, Action.FULL_RATES, 25.0)
    full = after(node)
    ceilings = (ceiling(node), ceiling(node, "bob"))

    over_again = after(node, 20.0)

    assert (full.frozen, reason(full.devices[0]), ceilings) == (False, Reason.OFF, (1_250_000, 1_250_000))
    assert reason(over_again.devices[0]) is Reason.OVER_ALLOWANCE
    assert [("full-rates", "expired")] == outcomes(over_again)


def test_a_reload_keeps_the_switch_and_the_orders() -> None:
    node = a_node()
    order(node, Action.CAP, rate_bytes_per_second=5_000)
    node.tariff["full_bytes_per_second"] = 2_000_000
    node.enlist()
    after(node)
    capped = (ceiling(node), ceiling(node, "bob"))
    switch(node, Action.FREEZE)
    node.tariff["full_bytes_per_second"] = 3_000_000
    node.enlist()

    assert capped == (5_000, 2_000_000)
    assert after(node).frozen
    assert ceiling(node, "bob") == 2_000_000


# Time: neither lost nor doubled nor prolonged.


def test_a_killed_program_goes_on_with_its_orders() -> None:
    node = a_node()
    order(node, Action.CAP, rate_bytes_per_second=5_000, seconds=100.0)
    order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    after(node)
    kill(node)
    node.pass_seconds(60.0)
    still = node.whole_turn()
    held = ceiling(node)

    over_now = after(node, 40.0)

    assert (held, len(still.by_hand)) == (5_000, 2)
    assert int(still.devices[0].verdicts.allowance_bytes[node.row("ann")]) == 150 * MEGABYTE
    assert ceiling(node) == 1_250_000
    assert [Action.TOP_UP] == [one.order.action for one in over_now.by_hand]


def test_killed_between_command_and_effect_the_repeated_command_is_done_once() -> None:
    """Before the save nothing has happened; after it everything has; a token is done once, whichever it was."""
    node = a_node()
    asked = command(Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    node.turns.obey(asked, node.now())
    kill(node)
    lost = node.whole_turn().by_hand
    node.turns.obey(asked, node.now())
    node.whole_turn()
    kill(node)
    again = node.turns.obey(asked, node.now())

    report = after(node)

    assert lost == ()
    assert again.again
    assert int(report.devices[0].verdicts.allowance_bytes[node.row("ann")]) == 150 * MEGABYTE
    assert [("top-up", "given")] == [
        (event.inputs["action"], event.inputs["outcome"])
        for event in node.shelf.events
        if event.kind is EventKind.BY_HAND
    ]


@pytest.mark.parametrize("step", [-7 * 86_400.0, 7 * 86_400.0])
@pytest.mark.parametrize("rule", [Rolling(HOUR), Calendar(Unit.DAY)], ids=["rolling", "calendar"])
def test_a_stepped_clock_neither_ends_nor_prolongs(rule: Rolling | Calendar, step: float) -> None:
    """A top-up stays with the use that it was given for, in whichever period the clock then says it is."""
    node = a_node(rule=rule)
    order(node, Action.CAP, rate_bytes_per_second=5_000, seconds=60.0)
    order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    after(node, 30.0)
    node.wall_seconds += step
    stepped = after(node, 20.0)
    held = (len(stepped.by_hand), ceiling(node))

    ended = after(node, 10.0)

    assert held == (2, 5_000)
    assert int(ended.devices[0].verdicts.allowance_bytes[node.row("ann")]) == 150 * MEGABYTE
    assert [Action.TOP_UP] == [one.order.action for one in ended.by_hand]


def test_a_reboot_counts_the_time_that_it_took() -> None:
    node = a_node()
    order(node, Action.CAP, rate_bytes_per_second=5_000, seconds=1000.0)
    after(node)
    node.boot_id, node.boot_seconds = "boot 2", 5.0
    node.wall_seconds += 500.0
    kill(node)
    held = [len(node.whole_turn().by_hand), len(after(node, 480.0).by_hand)]

    assert [*held, len(after(node, 20.0).by_hand)] == [1, 1, 0]


def test_a_top_up_of_a_removed_slice_waits_for_its_return_in_the_same_period() -> None:
    node = a_node()
    order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    after(node)
    del node.ids["ann"]
    node.enlist()
    away = after(node)
    node.ids["ann"] = 1
    node.enlist()

    back = after(node)

    assert len(away.by_hand) == 1
    assert int(back.devices[0].verdicts.allowance_bytes[node.row("ann")]) == 150 * MEGABYTE


def test_a_top_up_of_a_removed_slice_ends_with_its_period() -> None:
    node = a_node()
    order(node, Action.TOP_UP, volume_bytes=50 * MEGABYTE, seconds=None)
    after(node)
    del node.ids["ann"]
    node.enlist()

    assert len(after(node).by_hand) == 1
    assert after(node, HOUR).by_hand == ()


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cap"), st.integers(1, 2_000_000), st.floats(5.0, 900.0)),
        st.tuples(st.just("release"), st.just(0), st.floats(5.0, 900.0)),
        st.tuples(st.just("top-up"), st.integers(1, 10**9), st.just(0.0)),
        st.tuples(st.just("restore"), st.just(0), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(1.0, 700.0)),
        st.tuples(st.just("step"), st.just(0), st.floats(-1e6, 1e6)),
        st.tuples(st.just("kill"), st.just(0), st.just(0.0)),
    ),
    max_size=14,
)


@given(_STEPS)
@settings(max_examples=40, deadline=None)
def test_a_plain_list_of_what_holds_agrees_at_every_moment(steps: list[tuple[str, int, float]]) -> None:
    """An oracle with one lane, one wheel and a stopwatch; every command is saved by the turn that follows it."""
    node = a_node()
    stopwatch, rolls_at = 10.0, HOUR
    wheel: tuple[str, int, float] | None = None  # what, how much, until
    top_up = 0
    for what, amount, seconds in steps:
        if what in {"cap", "release"}:
            order(node, Action(what), rate_bytes_per_second=amount, seconds=seconds)
            wheel = (what, amount, stopwatch + seconds)
        elif what == "top-up":
            order(node, Action.TOP_UP, volume_bytes=amount, seconds=None)
            top_up += amount
        elif what == "restore":
            order(node, Action.RESTORE)
            wheel, top_up = None, 0
        elif what == "step":
            node.wall_seconds = max(1e6, node.wall_seconds + seconds)
        elif what == "kill":
            kill(node)
        else:
            node.pass_seconds(seconds)
            stopwatch += seconds
        if stopwatch >= rolls_at:
            rolls_at += HOUR * (1 + (stopwatch - rolls_at) // HOUR)
            top_up = 0
        wheel = wheel if wheel and stopwatch < wheel[2] - 1e-6 else None

        tariffs, row = node.turn().tariffs, node.row("ann")

        cap = wheel[1] if wheel and wheel[0] == "cap" else UNLIMITED
        assert (int(tariffs.hand_cap_bytes_per_second[row]), int(tariffs.hand_top_up_bytes[row])) == (cap, top_up)
        assert bool(tariffs.released[row]) == bool(wheel and wheel[0] == "release")


def test_without_an_order_the_very_tariffs_are_judged() -> None:
    """What they come to is kept from turn to turn by their identity."""
    node = a_node()
    tariffs = node.turns.desks[DEVICE].tariffs

    assert over(tariffs, ()) is tariffs
    assert after(node).devices[0].tariffs is tariffs
