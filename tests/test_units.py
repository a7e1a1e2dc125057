"""Units: what people write is read exactly, and what is printed can be read again."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwexporter.core.lanes import UNLIMITED
from bwexporter.units import (
    UnitError,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_volume,
    print_duration,
    print_percent,
    print_rate,
    print_volume,
    rate_of_kbit,
    volume_of_kbyte,
)

RATES = [
    ("10mbit", 1_250_000),
    ("10 Mbit", 1_250_000),
    (" 10MBIT ", 1_250_000),
    ("1.5gbit", 187_500_000),
    ("500kbit", 62_500),
    ("1tbit", 125_000_000_000),
    ("8bit", 1),
    ("1bit", 1),
    ("15bit", 1),
    ("0bit", 0),
    ("999999bit", 124_999),
    ("2mbps", 2_000_000),
    ("3bps", 3),
    ("1kbps", 1000),
    ("1gbps", 1_000_000_000),
    ("8kibit", 1024),
    ("8mibit", 1024**2),
    ("8gibit", 1024**3),
    ("1kibps", 1024),
    ("1tibps", 1024**4),
    ("62.5kB/s", 62_500),
    ("1 MB/s", 1_000_000),
]
VOLUMES = [
    ("5GB", 5_000_000_000),
    ("5GiB", 5 * 1024**3),
    ("1KB", 1000),
    ("1kB", 1000),
    ("1KiB", 1024),
    ("1.5MB", 1_500_000),
    ("1 MiB", 1024**2),
    ("2TB", 2 * 10**12),
    ("1TiB", 1024**4),
    ("7B", 7),
    ("0B", 0),
    ("10546875KiB", 10_800_000_000),
]
DURATIONS = [
    ("500ms", 0.5),
    ("10s", 10),
    ("0s", 0),
    ("5m", 300),
    ("1h", 3600),
    ("1d", 86400),
    ("1w", 604800),
    ("1.5h", 5400),
    ("3h 12m", 11520),
    ("1h30m", 5400),
]
NO_RATES = [
    "",
    "10",
    "mbit",
    "-5mbit",
    "1e9bit",
    "1.2.3mbit",
    "10mbits",
    "1,5mbit",
    "10Mb/s",
    "10mb",
    "٣mbit",
    "9" * 50 + "bit",
]
NO_VOLUMES = ["", "5", "GB", "-5GB", "5 mbit", "5PB", "1e3KB", "99999999TB"]
NO_DURATIONS = ["", "5", "s", "-5s", "5 years", "5M", "10s later", "inf s", "9999999w", "1h 5"]
BARE = [0, 5, -1, 1.5, 10**60]
STRANGE = [None, True, [], {}, "\n", "10mbit\n\n10mbit"]


@pytest.mark.parametrize(("written", "bytes_per_second"), RATES)
def test_rates_are_read_as_tc_reads_them(written: str, bytes_per_second: int) -> None:
    """A rate is bytes per second, rounded down, and at least 1 unless it is 0."""
    assert parse_rate(written) == bytes_per_second


@pytest.mark.parametrize(("written", "volume_bytes"), VOLUMES)
def test_volumes_are_decimal_unless_they_say_binary(written: str, volume_bytes: int) -> None:
    """GB is 10^9 bytes and GiB is 2^30."""
    assert parse_volume(written) == volume_bytes


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_durations_are_seconds(written: str, seconds: float) -> None:
    """Parts of a duration add up."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", NO_RATES + STRANGE)
def test_what_is_no_rate_is_refused(written: object) -> None:
    """Every other text is refused with a sentence."""
    with pytest.raises(UnitError, match=r"kbit|tbit"):
        parse_rate(written)


@pytest.mark.parametrize("written", NO_VOLUMES + STRANGE)
def test_what_is_no_volume_is_refused(written: object) -> None:
    """Every other text is refused with a sentence."""
    with pytest.raises(UnitError, match=r"KiB|TB"):
        parse_volume(written)


@pytest.mark.parametrize("written", NO_DURATIONS + STRANGE)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """Every other text is refused with a sentence."""
    with pytest.raises(UnitError, match=r"ms, s, m, h, d, w|3660d"):
        parse_duration(written)


@pytest.mark.parametrize("written", BARE)
def test_a_bare_number_is_told_its_units(written: float) -> None:
    """A number without a unit, 0 too, is refused and the units are listed."""
    for parse, units in ((parse_rate, "kbit"), (parse_volume, "GiB"), (parse_duration, "ms, s")):
        with pytest.raises(UnitError, match=f"has no unit.*{units}"):
            parse(written)


@pytest.mark.parametrize(
    ("written", "part"), [("80%", Fraction(4, 5)), ("0%", Fraction(0)), ("33.3 %", Fraction(333, 1000))]
)
def test_percentages_are_exact(written: str, part: Fraction) -> None:
    """A percentage is an exact part of one."""
    assert parse_percent(written) == part


@pytest.mark.parametrize("written", ["101%", "80", 80, "-1%", "%", None])
def test_what_is_no_percentage_is_refused(written: object) -> None:
    """More than everything is no percentage."""
    with pytest.raises(UnitError):
        parse_percent(written)


def test_planetlab_units() -> None:
    """kbit/s count 1000 bits and a KByte 1024 bytes; 0 and less are refused (B17)."""
    assert (rate_of_kbit(1), volume_of_kbyte(10_546_875)) == (125, 10_800_000_000)
    for bad in (0, -1, 10**30):
        with pytest.raises(UnitError):
            rate_of_kbit(bad)
        with pytest.raises(UnitError):
            volume_of_kbyte(bad)


@given(st.integers(1, 10**15 // 8))
def test_a_printed_rate_reads_back(bytes_per_second: int) -> None:
    """What is printed is within half of the third digit or a byte, and never longer than a table's column."""
    text = print_rate(bytes_per_second)
    assert parse_rate(text) == pytest.approx(bytes_per_second, rel=0.006, abs=1.0)
    assert len(text) <= 10


@given(st.integers(0, 999), st.sampled_from([1000, 10**6, 10**9]))
def test_rates_that_people_write_are_printed_exactly(number: int, factor: int) -> None:
    """A rate of three digits in kbit, mbit or gbit is printed without loss."""
    assert parse_rate(print_rate(number * factor // 8)) == number * factor // 8


@given(st.integers(0, 10**15))
def test_a_printed_volume_reads_back(volume_bytes: int) -> None:
    """What is printed is within half of the third digit."""
    assert parse_volume(print_volume(volume_bytes)) == pytest.approx(volume_bytes, rel=0.006)


@given(st.floats(0, 3600 * 24 * 400))
def test_a_printed_duration_reads_back(seconds: float) -> None:
    """What is printed is within a part in twenty, from a millisecond on."""
    assert parse_duration(print_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.001)


@given(st.fractions(0, 1))
def test_a_printed_percentage_reads_back(part: Fraction) -> None:
    """What is printed is within half of a tenth of a percent."""
    assert abs(parse_percent(print_percent(part)) - part) <= Fraction(6, 10_000)


@given(st.text(max_size=12) | st.integers() | st.floats() | st.none() | st.lists(st.integers()))
def test_nothing_raises_anything_else(written: object) -> None:
    """Whatever is written, it is a quantity or a UnitError."""
    for parse in (parse_rate, parse_volume, parse_duration, parse_percent):
        outcome: object = "nothing"
        try:
            outcome = parse(written)
        except UnitError as refused:
            outcome = str(refused)
        assert outcome >= 0 if not isinstance(outcome, str) else "\n" not in outcome


def test_unlimited_and_never_have_words() -> None:
    """What is never reached is not a number."""
    assert (print_rate(UNLIMITED), print_volume(UNLIMITED), print_duration(float("inf"))) == (
        "unlimited",
        "unlimited",
        "never",
    )


def test_prints_are_short() -> None:
    """Examples as people see them."""
    assert [print_rate(rate) for rate in (0, 1, 125, 8000, 62_500, 64_512, 1_234_567)] == [
        "0bit", "8bit", "1kbit", "64kbit", "500kbit", "516kbit", "9.88mbit",
    ]  # fmt: skip
    assert [print_volume(volume) for volume in (0, 999, 1500, 10_800_000_000)] == ["0 B", "999 B", "1.50 kB", "10.8 GB"]
    assert [print_duration(seconds) for seconds in (0, 0.02, 59.97, 3599.9, 86400, 90061)] == [
        "0s", "20ms", "60s", "60m", "1d", "1d 1h",
    ]  # fmt: skip
