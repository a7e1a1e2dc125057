"""The frame of verdicts: what tariffs alone come to, kept from turn to turn."""

from dataclasses import replace

import numpy as np
import pytest

from bwexporter.core import policy
from bwexporter.core.lanes import Ledger, Tariffs, Verdicts
from tests.builders import DAY_SECONDS, GIGABIT, make_accounts, make_ledger, make_tariffs

PARENTS = {"cap_bytes_per_second": GIGABIT, "line_rate_bytes_per_second": GIGABIT}
USED = [0, 1_000_000_000, 8_640_000_000, 9_700_000_000, 10_800_000_000]


def framed(ledger: Ledger, tariffs: Tariffs, kept: policy.Frame | None = None, **given: object) -> policy.Frame:
    """Return the frame of a day."""
    usual = {"period_seconds": np.full(len(tariffs), DAY_SECONDS), **PARENTS}
    return policy.framed(ledger, tariffs, **{**usual, **given}, kept=kept)


def judge(ledger: Ledger, tariffs: Tariffs, kept: policy.Frame | None) -> Verdicts:
    """Judge with a look every 10 s."""
    return policy.judge(
        ledger,
        tariffs,
        period_seconds=np.full(len(tariffs), DAY_SECONDS),
        held_ceiling_bytes_per_second=tariffs.full_bytes_per_second,
        **PARENTS,
        next_look_seconds=10.0,
        look_margin_seconds=2.0,
        frozen=False,
        kept=kept,
    )


def same(one: Verdicts, other: Verdicts) -> bool:
    """Say whether two verdicts are equal in every column."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def test_a_frame_is_kept_while_nothing_but_use_changes() -> None:
    tariffs = make_tariffs(len(USED))
    frame = framed(make_ledger(make_accounts(len(USED))), tariffs)
    later = make_ledger(make_accounts(len(USED), used_bytes=USED))
    assert framed(later, tariffs, frame) is frame
    assert same(judge(later, tariffs, frame), judge(later, tariffs, None))


@pytest.mark.parametrize(
    "changed",
    [
        {"cap_bytes_per_second": 1000},
        {"line_rate_bytes_per_second": 2 * GIGABIT},
        {"period_seconds": np.full(len(USED), 7 * DAY_SECONDS)},
    ],
    ids=["the node cap", "the line rate", "the length of a period"],
)
def test_a_frame_is_made_anew_when_something_else_changes(changed: dict[str, object]) -> None:
    ledger, tariffs = make_ledger(make_accounts(len(USED))), make_tariffs(len(USED))
    before = framed(ledger, tariffs)
    assert framed(ledger, tariffs, before, **changed) is not before


def test_the_frame_of_other_tariffs_is_not_believed() -> None:
    ledger = make_ledger(make_accounts(len(USED), used_bytes=USED))
    before = make_tariffs(len(USED))
    tariffs = replace(before, allowance_bytes=before.allowance_bytes * 2)
    assert same(judge(ledger, tariffs, framed(ledger, before)), judge(ledger, tariffs, None))
