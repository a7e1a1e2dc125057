"""Loans: rates and shares that one slice lends to another.

Turns the loans that records promise, in plain keys and PlanetLab's tags alike, and the tariffs of all devices, into
tariffs in which what one slice gains another gives. Knows: what can be lent, what a lender keeps, how much a borrower
may have. Does not know: records, orders by hand, verdicts.

A loan is carried out as a whole, on all devices of the lender, or not at all. Only what is a slice's own can be lent:
what it has borrowed itself cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from bwexporter import forms
from bwexporter.core.lanes import I8, Lane, Tariffs, Traffic
from bwexporter.settings import MOST_SHARES, MaybeShare
from bwexporter.slices.tags import TAGS, read_tags
from bwexporter.units import print_rate
from bwexporter.written import Fault, MaybeRate, Text, Written, as_form, check

LARGEST_GUARANTEE = 0.25
"""A guarantee is at most this part of its parent's ceiling (policy, rule 7)."""

_COLUMNS: Mapping[str, str] = {
    "full": "full_bytes_per_second",
    "guarantee": "guarantee_bytes_per_second",
    "share": "share",
}
_KEPT: Mapping[str, int] = {"full": 1000, "guarantee": 125, "share": 1}
"""What a lender keeps of its own at least: 8 kbit/s, 1 kbit/s, one share."""

_SETTINGS: Mapping[str, str] = {"full": "full", "guarantee_bytes_per_second": "guarantee", "share": "share"}
"""What can be lent, by the settings that tags set."""

_TAGS = {name: tag for name, tag in TAGS.items() if tag.setting in _SETTINGS}
_TAGS_FORM = forms.keys(
    "The same in PlanetLab's tags: rates in kbit/s; numbers may be written as text.", dict.fromkeys(_TAGS, forms.NUMBER)
)


class Lent(Written):
    """What is lent of one kind of traffic."""

    full: MaybeRate = None
    guarantee: MaybeRate = None
    share: MaybeShare = None


class Loan(Written):
    """What a record promises another slice."""

    to: Text
    normal: Lent = Field(default_factory=Lent)
    exempt: Lent = Field(default_factory=Lent)
    tags: Annotated[dict[str, Any], as_form(_TAGS_FORM)] = Field(default_factory=dict)

    def lent(self, traffic: Traffic) -> Mapping[str, int]:
        """Return what is lent of one traffic, by the keys of settings."""
        lent = self.normal if traffic is Traffic.NORMAL else self.exempt
        return {key: amount for key in _COLUMNS if (amount := getattr(lent, key)) is not None}


def read_loan(written: object, lender: str) -> tuple[Loan | None, list[Fault]]:
    """Check one loan of a slice; None where anything of it is wrong, since half a loan is none."""
    loan, faults = check(Loan, written)
    if loan is None or faults:
        return None, faults
    if loan.to == lender:
        return None, [Fault(("to",), f"is {lender} itself; name another slice")]
    amounts, faults = _read_tags(loan)
    if faults:
        return None, faults
    loan = loan.model_copy(
        update={traffic.value: _over_tags(getattr(loan, traffic.value), amounts, traffic) for traffic in Traffic}
    )
    if not any(loan.lent(traffic) for traffic in Traffic):
        return None, [Fault((), "lends nothing; write for example normal: {guarantee: 2mbit}")]
    return loan, []


def _read_tags(loan: Loan) -> tuple[dict[str, int], list[Fault]]:
    """Read the tags of a loan, of which those that set no rate and no share cannot be lent."""
    known = [name for name in loan.tags if name in TAGS and name not in _TAGS]
    text = f"is a volume, and volumes are not lent; there are {', '.join(_TAGS)}"
    amounts, faults = read_tags("", {name: written for name, written in loan.tags.items() if name not in known})
    return amounts, [*(Fault(("tags", name), text) for name in known), *faults]


def _over_tags(plain: Lent, amounts: Mapping[str, int], traffic: Traffic) -> Lent:
    """Return what is lent of one traffic in plain keys, completed by tags: a plain key beats a tag."""
    of_tags = {
        _SETTINGS[_TAGS[name].setting]: amount for name, amount in amounts.items() if _TAGS[name].traffic is traffic
    }
    return plain.model_copy(update={key: amount for key, amount in of_tags.items() if getattr(plain, key) is None})


@dataclass(frozen=True, slots=True)
class Promise:
    """A loan, whose it is and where it stands."""

    lender: str
    loan: Loan
    source: str = ""
    line: int = 0


class Parents(NamedTuple):
    """The ceilings that the lanes of a device stand under, in bytes per second."""

    normal: int
    exempt: int

    def of(self, traffic: Traffic) -> int:
        """Return the ceiling for one traffic."""
        return self.normal if traffic is Traffic.NORMAL else self.exempt


@dataclass(frozen=True, slots=True)
class Lending:
    """Tariffs after the loans, what each lane gave or got, and the loans that were refused, with why."""

    tariffs: Mapping[str, Tariffs]
    refused: tuple[tuple[Promise, str], ...]
    notes: Mapping[tuple[Lane, str], tuple[str, ...]]  # by lane and key of its settings


def lend(promises: Sequence[Promise], tariffs: Mapping[str, Tariffs], parents: Mapping[str, Parents]) -> Lending:
    """Carry out the loans in their order, each as a whole or not at all."""
    books = {device: _Book.of(of_device, parents[device]) for device, of_device in tariffs.items()} if promises else {}
    refused, notes = list[tuple[Promise, str]](), dict[tuple[Lane, str], tuple[str, ...]]()
    for promise in promises:
        transfers = [transfer for book in books.values() for transfer in book.transfers(promise)]
        refusal = next(filter(None, (book.refusal(promise) for book in books.values())), "")
        if refusal or not transfers:
            refused.append((promise, refusal or f"{promise.lender} has no lanes"))
            continue
        for transfer in transfers:
            transfer.book.carry_out(transfer)
            amount = _shown(transfer.key, transfer.amount)
            for row, text in (
                (transfer.lender, f"{amount} lent to {promise.loan.to}"),
                (transfer.borrower, f"{amount} borrowed from {promise.lender}"),
            ):
                place = transfer.book.tariffs.lanes[row], transfer.key
                notes[place] = (*notes.get(place, ()), text)
    return Lending({**tariffs, **{device: book.result() for device, book in books.items()}}, tuple(refused), notes)


class _Transfer(NamedTuple):
    """What goes from one row of a column to another."""

    book: _Book
    key: str
    lender: int
    borrower: int
    amount: int


@dataclass(frozen=True, slots=True)
class _Book:
    """The columns of one device, on their way from one loan to the next."""

    tariffs: Tariffs
    parents: Parents
    rows: Mapping[tuple[str, Traffic], int]
    now: Mapping[str, I8] = field(repr=False)
    own: Mapping[str, I8] = field(repr=False)  # what is left of what is a slice's own

    @classmethod
    def of(cls, tariffs: Tariffs, parents: Parents) -> _Book:
        """Open the book of a device."""
        rows = {(lane.slice_name, lane.traffic): row for row, lane in enumerate(tariffs.lanes)}
        columns = {key: getattr(tariffs, name) for key, name in _COLUMNS.items()}
        return cls(
            tariffs,
            parents,
            rows,
            {key: column.copy() for key, column in columns.items()},
            {key: column.copy() for key, column in columns.items()},
        )

    def transfers(self, promise: Promise) -> Iterator[_Transfer]:
        """Yield what a loan means here; nothing where the lender has no lanes."""
        for traffic in Traffic:
            lender, borrower = (self.rows.get((name, traffic), -1) for name in (promise.lender, promise.loan.to))
            if lender >= 0:
                for key, amount in promise.loan.lent(traffic).items():
                    yield _Transfer(self, key, lender, borrower, amount)

    def refusal(self, promise: Promise) -> str:
        """Say why a loan cannot be carried out here; empty where it can."""
        for transfer in self.transfers(promise):
            if transfer.borrower < 0:
                return f"{promise.loan.to} has no lanes on {self.tariffs.lanes[transfer.lender].device}"
            refusal = self._refusal(transfer, promise)
            if refusal:
                return refusal
        return ""

    def _refusal(self, transfer: _Transfer, promise: Promise) -> str:
        key, amount, lender = transfer.key, transfer.amount, transfer.lender
        left = int(self.own[key][lender]) - amount
        if left < _KEPT[key]:
            own, kept = _shown(key, int(self.own[key][lender])), _shown(key, _KEPT[key])
            return f"{promise.lender} has {own} of its own and is to keep {kept}"
        gets = promise.loan.lent(self.tariffs.lanes[lender].traffic)
        guarantee = int(self.own["guarantee"][lender]) - gets.get("guarantee", 0)
        if key == "full" and int(self.now[key][lender]) - amount < guarantee:
            return f"{promise.lender} would be left with less than its guarantee {print_rate(guarantee)}"
        most, why = self._most(key, self.tariffs.lanes[transfer.borrower].traffic)
        would_have = int(self.now[key][transfer.borrower]) + amount
        if would_have > most:
            amounts = (str, print_rate)[key != "share"]
            return f"{promise.loan.to} would have {_shown(key, would_have)}, more than {amounts(most)}, {why}"
        full = int(self.now["full"][transfer.borrower]) + gets.get("full", 0)
        if key == "guarantee" and would_have > full:
            return f"{promise.loan.to} would have {print_rate(would_have)}, more than its full rate {print_rate(full)}"
        return ""

    def _most(self, key: str, traffic: Traffic) -> tuple[int, str]:
        parent = self.parents.of(traffic)
        name = "the node cap" if traffic is Traffic.NORMAL else "the line rate"
        if key == "full":
            return parent, name
        if key == "guarantee":
            return int(parent * LARGEST_GUARANTEE), f"a quarter of {name}"
        return MOST_SHARES, "the most there is"

    def carry_out(self, transfer: _Transfer) -> None:
        """Move what a loan moves."""
        self.own[transfer.key][transfer.lender] -= transfer.amount
        self.now[transfer.key][transfer.lender] -= transfer.amount
        self.now[transfer.key][transfer.borrower] += transfer.amount

    def result(self) -> Tariffs:
        """Return the tariffs as they are now."""
        if all(np.array_equal(self.now[key], getattr(self.tariffs, name)) for key, name in _COLUMNS.items()):
            return self.tariffs
        return replace(
            self.tariffs,
            full_bytes_per_second=self.now["full"],
            guarantee_bytes_per_second=self.now["guarantee"],
            share=self.now["share"],
        )


def _shown(key: str, amount: int) -> str:
    if key == "share":
        return f"{amount} share{'s' * (amount != 1)}"
    return f"{print_rate(amount)} of {'full rate' if key == 'full' else 'guarantee'}"
