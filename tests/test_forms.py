"""Forms: what an editor accepts of a single value is what the program reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from zoneinfo import available_timezones

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bwexporter import forms
from bwexporter.planned import _time_of_day
from bwexporter.slices.tags import SWITCH, TAGS, TAGS_FORM, read_tags
from bwexporter.units import (
    _RATE_IN_BITS,
    _RATE_PER_SECOND_IN_BITS,
    _VOLUME_IN_BYTES,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_volume,
)
from bwexporter.written import read_device_name, read_positive, read_text

UNITS = [
    *_RATE_IN_BITS,
    *_RATE_PER_SECOND_IN_BITS,
    *_VOLUME_IN_BYTES,
    "ms",
    "s",
    "m",
    "h",
    "d",
    "w",
    "%",
    "",
    "k",
    "is",
]
BEYOND = ("more than any line", "is too large", "is too long")
"""Upper limits, of which forms say nothing."""

QUANTITIES: dict[str, tuple[forms.Form, Callable[[object], object]]] = {
    "rate": (forms.RATE, read_positive(parse_rate)),
    "volume": (forms.VOLUME, read_positive(parse_volume)),
    "volume or none": (forms.VOLUME_OR_NONE, parse_volume),
    "duration": (forms.DURATION, read_positive(parse_duration)),
    "duration or none": (forms.DURATION_OR_NONE, parse_duration),
    "percentage": (forms.PERCENTAGE, parse_percent),
    "time of day": (forms.TIME_OF_DAY, _time_of_day),
}


def fits(form: forms.Form, written: object) -> bool:
    """Ask what an editor asks; to it `$` is the end of the text, to Python also the place before a last line's end."""
    strict = json.loads(json.dumps(form).replace('$"', '\\\\Z"'))
    return Draft202012Validator(strict).is_valid(written)


def refusal(read: Callable[[object], object], written: object) -> str:
    """Return what the program says against a value; nothing where it reads it."""
    try:
        read(written)
    except ValueError as trouble:
        return str(trouble)
    return ""


def in_any_case(word: str) -> st.SearchStrategy[str]:
    """Return ways to write a word."""
    return st.sampled_from([word, word.upper(), word.lower(), word.title()])


BLANKS = st.sampled_from(["", "", " ", "\t "])
NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str), st.integers(0, 100).map(str), st.decimals(0, 101, places=2).map(str), st.just("010")
)
TEXTS = st.one_of(
    st.tuples(BLANKS, NUMBERS, BLANKS, st.sampled_from(UNITS).flatmap(in_any_case), BLANKS).map("".join),
    st.tuples(NUMBERS, st.sampled_from("smhd"), BLANKS, NUMBERS, st.sampled_from(["m", "ms", "M", ""])).map("".join),
    st.tuples(st.integers(0, 25), st.integers(0, 61)).map(lambda at: f"{at[0]}:{at[1]:02}"),
    st.text("0123456789.:% kmbit/sB", max_size=42),
    st.one_of(st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.text())),
)


@pytest.mark.parametrize("kind", QUANTITIES)
@given(written=TEXTS)
def test_a_quantity_fits_its_form_where_it_is_read(kind: str, written: object) -> None:
    """In both directions; upper limits, and volumes of less than a byte, are left to the program."""
    form, read = QUANTITIES[kind]
    said = refusal(read, written)
    event(f"{kind}: {'refused' if said else 'read'}")
    if any(words in said for words in BEYOND) or (kind == "volume" and str(written).strip().startswith("0.")):
        return

    assert fits(form, written) is (said == "")


@pytest.mark.parametrize("unit", [*_RATE_IN_BITS, *_RATE_PER_SECOND_IN_BITS])
def test_every_unit_of_a_rate_fits(unit: str) -> None:
    """None is forgotten in the pattern."""
    assert fits(forms.RATE, f"5{unit}")


@pytest.mark.parametrize("unit", _VOLUME_IN_BYTES)
def test_every_unit_of_a_volume_fits(unit: str) -> None:
    """The same for volumes."""
    assert fits(forms.VOLUME, f"5{unit}")


def test_every_time_zone_fits() -> None:
    """Those that this machine knows."""
    assert [zone for zone in available_timezones() if not fits(forms.ZONE, zone)] == []


@given(st.one_of(st.text(), st.text("abc \t\n", max_size=3)))
def test_text_fits_where_it_breaks_no_line(written: str) -> None:
    """What is empty, and control characters."""
    assert fits(forms.TEXT, written) is (refusal(read_text, written) == "")  # type: ignore[arg-type]


@given(st.text("ab0.-:/ \x01\t", max_size=17))
def test_a_device_s_name_fits_where_the_kernel_takes_it(written: str) -> None:
    """By what ASCII can hold."""
    assert fits(forms.DEVICE, written) is (refusal(read_device_name, written) == "")  # type: ignore[arg-type]


@given(
    st.sampled_from([*TAGS, "net_max_kbytes"]),
    st.one_of(st.integers(-3, 9000), st.sampled_from(["5", "05", "0", "-1", "", "5 ", "5kbit", True, None, 1.5])),
)
def test_a_tag_fits_where_it_is_read(name: str, written: object) -> None:
    """The switch of `_default` fits everywhere: a form does not know whose tags they are."""
    _, faults = read_tags("_default", {name: written})

    assert fits(TAGS_FORM, {name: written}) is (not faults)
    assert SWITCH in TAGS
