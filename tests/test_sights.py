"""Whose word a ceiling of somebody else's class is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bwexporter.core.lanes import Classes, Endings, Snapshot, no_endings
from bwexporter.core.sights import Kept, Sights, asked_for, looked, open_sights
from tests.builders import table

A, B = 0x7_0010, 0x7_0011
BOTH = np.array([A, B])


def look(ceilings: dict[int, int], *, ended: tuple[int, ...] = (), tree_ended: bool = False) -> Snapshot:
    """Return a look that finds these ceilings."""
    handles = sorted(ceilings)
    given = {"handle": handles, "ceiling_bytes_per_second": [ceilings[one] for one in handles]}
    endings = table(Endings, len(ended), {}, {"handle": list(ended)}) if ended else no_endings()
    column = np.zeros(len(handles), np.int64)
    return Snapshot(
        device="v0",
        ifindex=2,
        tree_present=True,
        clean=True,
        watched_since_last_look=True,
        classes=table(Classes, len(handles), {}, given),
        counts=None,  # type: ignore[arg-type]  # nobody asks for them
        backlog_bytes=column,
        endings=endings,
        tree_endings_bytes=(5,) if tree_ended else (),
        tree_sent_bytes=0,
        direct_packets=0,
    )


def ask(sights: Sights, ceilings: dict[int, int]) -> Sights:
    """Remember that these were asked for."""
    return asked_for(sights, look(ceilings).classes)


def found(sights: Sights) -> dict[int, int]:
    """Return the owner's words."""
    return dict(zip(sights.handle.tolist(), sights.found.tolist(), strict=True))


def begin(kept: dict[int, int] | None = None) -> Sights:
    """Return what a program begins with."""
    remembered = None if kept is None else Kept("boot", 2, kept)
    return open_sights(remembered, boot_id="boot", ifindex=2)


def test_the_ceiling_at_first_sight_is_the_owners() -> None:
    """Of claimed classes that are there."""
    sights = looked(begin(), look({A: 500, 0x7_0099: 7}), BOTH, same_device=True)
    assert found(sights) == {A: 500}


def test_what_we_asked_for_is_not() -> None:
    """Nor is a ceiling that stays as it was while another one is asked for and refused."""
    sights = looked(begin(), look({A: 500}), BOTH, same_device=True)
    for asked, seen in ((90, 90), (80, 90), (70, 90), (60, 60)):
        sights = looked(ask(sights, {A: asked}), look({A: seen}), BOTH, same_device=True)
        assert found(sights) == {A: 500}


@pytest.mark.parametrize("word", [50, 400, 900])
def test_any_other_ceiling_is_the_owners_new_word(word: int) -> None:
    """Higher or lower than ours."""
    sights = looked(begin(), look({A: 500}), BOTH, same_device=True)
    sights = looked(ask(sights, {A: 90}), look({A: 90}), BOTH, same_device=True)
    sights = looked(ask(sights, {A: 80}), look({A: word}), BOTH, same_device=True)
    assert found(sights) == {A: word}


def test_a_cap_that_is_seen_after_a_restart_is_not_the_owners() -> None:
    """It is remembered what was found; only a higher ceiling can be a new word."""
    sights = looked(begin({A: 500, B: 500}), look({A: 90, B: 600}), BOTH, same_device=True)
    assert found(sights) == {A: 500, B: 600}


@pytest.mark.parametrize("boot_id", ["boot", "another"])
@pytest.mark.parametrize("ifindex", [2, 3])
def test_what_is_remembered_holds_for_this_boot_and_this_device(boot_id: str, ifindex: int) -> None:
    """A tree that was built anew is seen anew."""
    sights = open_sights(Kept("boot", 2, {A: 500}), boot_id=boot_id, ifindex=ifindex)
    assert found(sights) == ({A: 500} if (boot_id, ifindex) == ("boot", 2) else {})


@pytest.mark.parametrize("how", ["class", "tree", "device", "gone"])
def test_a_class_that_was_made_anew_is_seen_anew(how: str) -> None:
    """Also with a ceiling below the one that we had asked for."""
    sights = ask(looked(begin(), look({A: 500}), BOTH, same_device=True), {A: 90})
    if how == "gone":
        sights = looked(sights, look({}), BOTH, same_device=True)
        assert found(sights) == {}
    again = look({A: 70}, ended=(A,) if how == "class" else (), tree_ended=how == "tree")
    sights = looked(sights, again, BOTH, same_device=how != "device")
    assert found(sights) == {A: 70}


def test_a_class_that_a_disturbed_look_misses_is_not_forgotten() -> None:
    """It may be there."""
    sights = ask(looked(begin(), look({A: 500}), BOTH, same_device=True), {A: 90})
    sights = looked(sights, replace(look({}), clean=False), BOTH, same_device=True)
    assert found(sights) == {A: 500}


def test_a_class_that_nobody_claims_any_more_stays_known() -> None:
    """Until its ceiling is given back."""
    sights = ask(looked(begin(), look({A: 500}), BOTH, same_device=True), {A: 90})
    sights = looked(sights, look({A: 90}), BOTH[:0], same_device=True)
    assert found(sights) == {A: 500}
