"""The hand on the wheel: caps, releases, top-ups and loans of slices, and the node's switch.

Turns commands into orders in force, and tariffs as they are written into tariffs as they are judged. Knows: which order
ends which, when each ends by itself, what each makes of a tariff. Does not know: the clock, who may command, where
orders are kept, what a verdict makes of a tariff.

Hand time is Unix time as of the first order, then moved on by elapsed time alone, as ledger time is: no stepped clock,
restart or reboot prolongs or shortens an order. Orders end at an instant of hand time. A top-up belongs to its lane's
account and ends at the latest when that rolls, in the very turn that rolls it, whatever any clock says.

A command carries a token. One that comes again, because its answer was lost, is done once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bwexporter.core.accounting import elapsed_seconds
from bwexporter.core.lanes import I8, UNLIMITED, Instant, Lane, Ledger, Tariffs, Traffic
from bwexporter.core.orders import FOR_GOOD, OF_NODE, Action, Command, InForce, Order, Outcome
from bwexporter.core.report import Event, EventKind

MOST_ORDERS = 1_000
MOST_TOKENS = 64

_SAME_WHEEL = frozenset({Action.CAP, Action.RELEASE})  # one of them holds a lane at a time
_NOBODY = Lane("", "", Traffic.NORMAL)


@dataclass(frozen=True, slots=True)
class Hand:
    """The orders in force, oldest first, and the time that they are measured by."""

    at: Instant
    seconds: float  # hand time
    orders: tuple[Order, ...] = ()
    tokens: tuple[str, ...] = ()  # of the last commands that were done

    def has(self, action: Action) -> bool:
        """Say whether such an order is in force."""
        return any(order.action is action for order in self.orders)

    @property
    def next_end_seconds(self) -> float:
        """Return the seconds until the first order ends by the clock, infinity where none does."""
        return min((order.until_seconds for order in self.orders), default=FOR_GOOD) - self.seconds


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What came of a command, or of time: the hand, the orders that were given and those that ended, with why."""

    hand: Hand
    given: tuple[Order, ...] = ()
    ended: tuple[tuple[Order, Outcome], ...] = ()
    again: bool = False  # the command had been done before


@dataclass(frozen=True, slots=True)
class Done:
    """What is answered to a command: what was told of it, and whether that would survive the program's end."""

    events: tuple[Event, ...]
    saved: bool
    again: bool


def open_hand(now: Instant) -> Hand:
    """Return a hand without an order."""
    return Hand(now, now.wall_seconds)


def moved_on(hand: Hand, now: Instant) -> Obeyed:
    """Move hand time on to a reading of the clocks, and end the orders that are over."""
    seconds = hand.seconds + elapsed_seconds(hand.at, now)
    over_now = [order for order in hand.orders if order.until_seconds <= seconds]
    left = tuple(order for order in hand.orders if order.until_seconds > seconds)
    return Obeyed(replace(hand, at=now, seconds=seconds, orders=left), ended=_all(over_now, Outcome.EXPIRED))


def ended_with_periods(hand: Hand, ledger: Ledger, rolled: Sequence[int]) -> Obeyed:
    """End the top-ups of accounts of a device that have rolled, or that ended with a slice's last period."""
    topped_up = [
        order
        for order in hand.orders
        if order.action is Action.TOP_UP and order.lane is not None and order.lane.device == ledger.device
    ]
    if not topped_up:
        return Obeyed(hand)
    going_on = set(ledger.lanes) - {ledger.lanes[row] for row in rolled}
    over_now = [order for order in topped_up if order.lane not in going_on]
    return Obeyed(_without(hand, over_now), ended=_all(over_now, Outcome.PERIOD_ENDED))


def obey(hand: Hand, command: Command, written: Sequence[Tariffs], parents: Mapping[str, tuple[int, int]]) -> Obeyed:
    """Carry out a command; ValueError, with a sentence for people, where it cannot be.

    `written` are the tariffs of each device without any order; `parents` the ceilings of a device's normal and exempt
    lanes together.
    """
    if command.token in hand.tokens:
        again = tuple(order for order in hand.orders if order.token == command.token)
        return Obeyed(hand, given=again, again=True)
    done = replace(hand, tokens=(*hand.tokens, command.token)[-MOST_TOKENS:])
    if command.action in OF_NODE:
        return _switched(done, command)
    lanes = _lanes(command, written)
    if command.action is Action.RESTORE:
        over_now = [order for order in done.orders if order.lane and (order.lane in lanes or order.debtor in lanes)]
        return Obeyed(_without(done, over_now), ended=_all(over_now, Outcome.RESTORED))
    if command.action is Action.TOP_UP:
        lanes = _with_allowance(command, lanes, written)
    given = tuple(_order(command, done, lane) for lane in lanes)
    ends = _SAME_WHEEL if command.action in _SAME_WHEEL else frozenset[Action]()
    over_now = [order for order in done.orders if order.lane in lanes and order.action in ends]
    after = _with(_without(done, over_now), given)
    if command.action is Action.LEND:
        _refuse_what_does_not_fit(command, given, after, written, parents)
    return Obeyed(after, given, _all(over_now, Outcome.REPLACED))


def over(tariffs: Tariffs, orders: Sequence[Order]) -> Tariffs:
    """Return what the orders make of tariffs; the very tariffs where they make nothing of them.

    A loan that its lender can no longer spare, because less is written for it now, rests as a whole until it can.
    """
    row_of = {lane: row for row, lane in enumerate(tariffs.lanes)}
    ours = [order for order in orders if order.action is Action.FULL_RATES or order.lane in row_of]
    if not ours:
        return tariffs
    columns = _Wheel(tariffs)
    for order in ours:
        columns.turn(order, row_of)
    return columns.tariffs()


class _Wheel:
    """The columns that orders change, on their way from one tariff to the next."""

    def __init__(self, tariffs: Tariffs) -> None:
        self._tariffs = tariffs
        self.full = tariffs.full_bytes_per_second.copy()
        self.guarantee = tariffs.guarantee_bytes_per_second.copy()
        self.share = tariffs.share.copy()
        self.cap = tariffs.hand_cap_bytes_per_second.copy()
        self.top_up = tariffs.hand_top_up_bytes.copy()
        self.released = tariffs.released.copy()
        self.off = tariffs.off.copy()

    def turn(self, order: Order, row_of: Mapping[Lane, int]) -> None:
        """Carry out one order."""
        row = row_of[order.lane] if order.lane is not None else -1
        match order.action:
            case Action.CAP:
                self.cap[row] = order.rate_bytes_per_second
            case Action.RELEASE:
                self.released[row] = True
            case Action.TOP_UP:
                self.top_up[row] = min(int(self.top_up[row]) + order.volume_bytes, UNLIMITED)
            case Action.FULL_RATES:
                self.off[:] = True
            case Action.LEND:
                self._lend(order, row, row_of.get(order.debtor or _NOBODY, -1))

    def _lend(self, order: Order, lender: int, borrower: int) -> None:
        if borrower < 0 or self.spare(order, lender):
            return
        for column, lent in self._lent(order):
            column[lender] -= lent
            column[borrower] += lent
        self.guarantee[lender] = min(self.guarantee[lender], self.full[lender])

    def spare(self, order: Order, lender: int) -> str:
        """Say what the lender cannot spare, nothing where it can spare all: it keeps at least one of each."""
        names = ("of its full rate", "of its guarantee", "of its share")
        short = [name for name, (column, lent) in zip(names, self._lent(order), strict=True) if lent >= column[lender]]
        return short[0] if short else ""

    def _lent(self, order: Order) -> tuple[tuple[I8, int], ...]:
        return (
            (self.full, order.rate_bytes_per_second),
            (self.guarantee, order.guarantee_bytes_per_second),
            (self.share, order.share),
        )

    def tariffs(self) -> Tariffs:
        """Return the tariffs as they are now."""
        return replace(
            self._tariffs,
            full_bytes_per_second=self.full,
            guarantee_bytes_per_second=self.guarantee,
            share=self.share,
            hand_cap_bytes_per_second=self.cap,
            hand_top_up_bytes=self.top_up,
            released=self.released,
            off=self.off,
        )


def _switched(hand: Hand, command: Command) -> Obeyed:
    """Set the node's switch: nothing is changed, or all have their full rates, or neither."""
    thrown = [order for order in hand.orders if order.lane is None]
    if command.action is Action.THAW:
        return Obeyed(_without(hand, thrown), ended=_all(thrown, Outcome.RESTORED))
    given = (_order(command, hand, None),)
    return Obeyed(_with(_without(hand, thrown), given), given, _all(thrown, Outcome.REPLACED))


def _lanes(command: Command, written: Sequence[Tariffs]) -> tuple[Lane, ...]:
    """Return the lanes that a command is about."""
    of_slice = [lane for tariffs in written for lane in tariffs.lanes if lane.slice_name == command.slice_name]
    if not of_slice:
        raise ValueError(f"there is no slice {command.slice_name!r} here; `bwexporter status` lists them")
    devices = {lane.device for lane in of_slice}
    if command.device and command.device not in devices:
        raise ValueError(f"{command.slice_name} has no lane on {command.device}; it has some on {_listed(devices)}")
    if command.action in {Action.TOP_UP, Action.LEND} and not command.device and len(devices) > 1:
        raise ValueError(f"{command.slice_name} is on {_listed(devices)}: say which device is meant")
    return tuple(
        lane for lane in of_slice if command.device in {"", lane.device} and command.traffic in {None, lane.traffic}
    )


def _with_allowance(command: Command, lanes: Sequence[Lane], written: Sequence[Tariffs]) -> tuple[Lane, ...]:
    found = tuple(lane for lane in lanes if _allowance_bytes(lane, written) < UNLIMITED)
    if not found:
        raise ValueError(f"{command.slice_name} has no allowance that could be added to: it may send without limit")
    return found


def _allowance_bytes(lane: Lane, written: Sequence[Tariffs]) -> int:
    tariffs = next(one for one in written if lane in one.lanes)
    return int(tariffs.allowance_bytes[tariffs.lanes.index(lane)])


def _refuse_what_does_not_fit(
    command: Command,
    given: Sequence[Order],
    hand: Hand,
    written: Sequence[Tariffs],
    parents: Mapping[str, tuple[int, int]],
) -> None:
    """Raise ValueError for a loan that its lender cannot spare or that the borrower's parent cannot carry."""
    if command.borrower == command.slice_name:
        raise ValueError(f"{command.slice_name} cannot lend to itself")
    for order in given:
        tariffs = next(one for one in written if order.lane in one.lanes)
        row_of = {lane: row for row, lane in enumerate(tariffs.lanes)}
        borrower = order.debtor
        if borrower is None or borrower not in row_of:
            raise ValueError(f"there is no slice {command.borrower!r} on {tariffs.lanes[0].device}")
        before = _Wheel(over(tariffs, [one for one in hand.orders if one not in given]))
        short = before.spare(order, row_of[order.lane or _NOBODY])
        if short:
            raise ValueError(f"{command.slice_name} cannot spare that much {short}, and keeps at least a little of it")
        parent = parents[borrower.device][borrower.traffic is Traffic.EXEMPT]
        if int(before.full[row_of[borrower]]) + order.rate_bytes_per_second > parent:
            raise ValueError(f"{command.borrower} would have more than all {borrower.traffic.value} lanes together may")


def _order(command: Command, hand: Hand, lane: Lane | None) -> Order:
    until = FOR_GOOD if command.seconds is None else hand.seconds + command.seconds
    return Order(
        token=command.token,
        action=command.action,
        who=command.who,
        reason=command.reason,
        lane=lane,
        borrower=command.borrower,
        rate_bytes_per_second=command.rate_bytes_per_second,
        guarantee_bytes_per_second=command.guarantee_bytes_per_second,
        volume_bytes=command.volume_bytes,
        share=command.share,
        given_at_wall_seconds=hand.at.wall_seconds,
        until_seconds=until,
    )


def _without(hand: Hand, over_now: Sequence[Order]) -> Hand:
    return replace(hand, orders=tuple(order for order in hand.orders if order not in over_now)) if over_now else hand


def _with(hand: Hand, given: Sequence[Order]) -> Hand:
    if len(hand.orders) + len(given) > MOST_ORDERS:
        raise ValueError(f"{len(hand.orders)} orders are in force, and {MOST_ORDERS} are the most: restore some first")
    return replace(hand, orders=(*hand.orders, *given))


def _all(orders: Sequence[Order], outcome: Outcome) -> tuple[tuple[Order, Outcome], ...]:
    return tuple((order, outcome) for order in orders)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def told(obeyed: Obeyed, at_wall_seconds: float, *, ended_by: Command | None = None) -> tuple[Event, ...]:
    """Tell what was given and what ended, one event a lane, with who did it and why."""
    return tuple(_told(obeyed, at_wall_seconds, ended_by))


def _told(obeyed: Obeyed, at_wall_seconds: float, ended_by: Command | None) -> Iterator[Event]:
    for order, outcome in obeyed.ended:
        inputs = _inputs(order, outcome, obeyed.hand, at_wall_seconds)
        if ended_by is not None:
            inputs |= {"by": ended_by.who, "by_reason": ended_by.reason}
        yield _event(order, at_wall_seconds, inputs)
    for order in () if obeyed.again else obeyed.given:
        yield _event(order, at_wall_seconds, _inputs(order, Outcome.GIVEN, obeyed.hand, at_wall_seconds))


def _event(order: Order, at_wall_seconds: float, inputs: Mapping[str, int | float | str]) -> Event:
    return Event(at_wall_seconds, EventKind.BY_HAND, order.lane.device if order.lane else "", order.lane, inputs)


def _inputs(order: Order, outcome: Outcome, hand: Hand, at_wall_seconds: float) -> dict[str, int | float | str]:
    inputs: dict[str, int | float | str] = {"outcome": outcome.value, **order.terms}
    if order.until_seconds < FOR_GOOD:
        inputs["until_timestamp_seconds"] = round(at_wall_seconds + order.until_seconds - hand.seconds, 3)
    return {**inputs, "who": order.who, "reason": order.reason, "token": order.token}


def standing(hand: Hand, written: Mapping[str, Tariffs], ledgers: Mapping[str, Ledger]) -> tuple[InForce, ...]:
    """Tell every order in force, with its end on the wall clock."""
    asked = {order.lane.device for order in hand.orders if order.lane and order.action is Action.TOP_UP}
    ends = {lane: at for device in asked if device in ledgers for lane, at in _period_ends(ledgers[device])}
    return tuple(_in_force(order, hand, ends, written) for order in hand.orders)


def _in_force(order: Order, hand: Hand, ends: Mapping[Lane, float], written: Mapping[str, Tariffs]) -> InForce:
    until = hand.at.wall_seconds + order.until_seconds - hand.seconds
    if order.action is Action.TOP_UP and order.lane is not None:
        return InForce(order, min(until, ends.get(order.lane, until)), resting=False)
    return InForce(order, until, _rests(order, hand, written))


def _period_ends(ledger: Ledger) -> zip[tuple[Lane, float]]:
    ends = ledger.accounts.period_end_at + ledger.wall_offset_seconds
    return zip(ledger.lanes, ends.tolist(), strict=True)


def _rests(order: Order, hand: Hand, written: Mapping[str, Tariffs]) -> bool:
    """Say whether a loan rests, because its lender or its borrower is gone or its lender cannot spare it."""
    if order.action is not Action.LEND or order.lane is None:
        return False
    tariffs = written.get(order.lane.device)
    if tariffs is None or order.lane not in tariffs.lanes or order.debtor not in tariffs.lanes:
        return True
    earlier = hand.orders[: hand.orders.index(order)]
    return bool(_Wheel(over(tariffs, earlier)).spare(order, tariffs.lanes.index(order.lane)))
