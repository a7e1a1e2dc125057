"""Places of classes in a dump: found by a table where handles lie close together and by search where they do not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core.lanes import Classes
from bwexporter.core.places import find, found, is_among, placed

CLOSE = st.lists(st.integers(0x11000, 0x11100), max_size=60)
FAR = st.lists(st.integers(0, (1 << 32) - 1), max_size=60)


@settings(deadline=None, max_examples=200)
@given(st.one_of(CLOSE, FAR), st.one_of(CLOSE, FAR))
def test_what_is_there_is_found_in_its_row(there: list[int], sought: list[int]) -> None:
    handles, wanted = np.unique(np.array(there, np.int64)), np.array(there[::2] + sought, np.int64)
    row, present = find(handles, wanted)
    assert present.tolist() == np.isin(wanted, handles).tolist()
    assert handles[row[present]].tolist() == wanted[present].tolist()
    assert found(handles, wanted).tolist() == np.isin(handles, wanted).tolist()
    assert is_among(wanted, np.array(sought, np.int64)).tolist() == np.isin(wanted, sought).tolist()


@pytest.mark.parametrize("outside", [-5, 0, 99, 1 << 40])
def test_a_handle_outside_of_all_that_are_there_is_not_found(outside: int) -> None:
    _, present = find(np.array([100, 101, 103]), np.array([outside] * 3 + [103]))
    assert present.tolist() == [False, False, False, True]


def test_handles_are_found_by_their_rows() -> None:
    """Those that are not there have row 0 and are marked absent."""
    row, present = find(np.array([3, 5, 9]), np.array([9, 4, 3, 10, 0]))

    assert [True, False, True, False, False] == present.tolist()
    assert [2, 0] == row[present].tolist()


def test_nothing_is_found_in_an_empty_dump() -> None:
    """A device without a tree has no classes."""
    row, present = find(np.empty(0, np.int64), np.array([9, 4]))

    assert ([0, 0], [False, False]) == (row.tolist(), present.tolist())


# Keeping places.


def dump(*handles: int) -> Classes:
    """Return the classes of a dump, below one inner class where it is among them."""
    columns = [np.zeros(len(handles), np.int64) for _ in Classes.__dataclass_fields__]
    classes = Classes(*columns)
    parent = np.array([1 if handle == 10 else 10 for handle in handles], np.int64)
    return replace(classes, handle=np.array(handles, np.int64), parent=parent)


def test_places_say_what_is_there_what_is_strange_and_what_has_children() -> None:
    places = placed(dump(10, 11, 12, 15), np.array([15, 13, 11]))

    assert [True, False, True] == places.present.tolist()
    assert [3, 1] == places.row[places.present].tolist()
    assert [10, 0, 10] == places.parent.tolist()
    assert ([0, 2], [0]) == (places.strange.tolist(), places.inner.tolist())
    assert not places.whole


def test_places_hold_while_the_same_classes_are_there() -> None:
    sought = np.array([12, 11])
    places = placed(dump(10, 11, 12), sought)

    assert places.whole
    assert placed(dump(10, 11, 12), sought, places) is places
    assert placed(dump(10, 11, 12), sought.copy(), places) is places


@pytest.mark.parametrize(
    ("there", "sought"),
    [((10, 11, 13), (12, 11)), ((10, 11), (12, 11)), ((10, 11, 12), (11, 12)), ((), (12, 11))],
    ids=["another class", "a class less", "another order", "no class"],
)
def test_places_are_found_anew_when_classes_change(there: tuple[int, ...], sought: tuple[int, ...]) -> None:
    before = placed(dump(10, 11, 12), np.array([12, 11]))
    places = placed(dump(*there), np.array(sought), before)

    assert np.isin(sought, there).tolist() == places.present.tolist()
    assert set(sought) & set(there) == {there[row] for row in places.row[places.present].tolist()}


def test_a_class_below_another_parent_is_another_dump() -> None:
    sought = np.array([12, 11])
    before = placed(dump(10, 11, 12), sought)
    moved = replace(dump(10, 11, 12), parent=np.array([1, 10, 1]))

    assert [1, 10] == placed(moved, sought, before).parent.tolist()
