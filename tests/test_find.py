"""Finding handles among sorted ones, by a table where they lie close together and by search where they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwexporter.core.lives import find, found, is_among

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
