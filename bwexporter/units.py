"""Rates, volumes, durations and percentages: from what people write to numbers, and back to what people read.

Turns text into bytes per second, bytes, seconds and exact fractions, and such numbers into short text. Knows: every
unit, and so is the only place that multiplies by 8, 1000 or 1024. Does not know: which key a value stands at.

Rates are those of tc(8), section PARAMETERS: `bit` units count bits, `bps` units count bytes, an `i` means 1024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from bwexporter.core.lanes import UNLIMITED

_RATE_IN_BITS = {
    "bit": 1,
    "kbit": 1000,
    "mbit": 1000**2,
    "gbit": 1000**3,
    "tbit": 1000**4,
    "kibit": 1024,
    "mibit": 1024**2,
    "gibit": 1024**3,
    "tibit": 1024**4,
    "bps": 8,
    "kbps": 8 * 1000,
    "mbps": 8 * 1000**2,
    "gbps": 8 * 1000**3,
    "tbps": 8 * 1000**4,
    "kibps": 8 * 1024,
    "mibps": 8 * 1024**2,
    "gibps": 8 * 1024**3,
    "tibps": 8 * 1024**4,
}
# As they are printed. `Mb/s` means bits to many people, so that these are read only with their exact capitals.
_RATE_PER_SECOND_IN_BITS = {"B/s": 8, "kB/s": 8 * 1000, "MB/s": 8 * 1000**2, "GB/s": 8 * 1000**3, "TB/s": 8 * 1000**4}
_VOLUME_IN_BYTES = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_DURATION_IN_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

_RATE_UNITS = "bit, kbit, mbit, gbit (bits), bps, kbps, mbps (bytes), kibit, kibps ... (1024)"
_VOLUME_UNITS = "B, KB, MB, GB, TB (1000), KiB, MiB, GiB, TiB (1024)"
_DURATION_UNITS = "ms, s, m, h, d, w"

_LARGEST_RATE = 10**15 // 8
_LARGEST_VOLUME = 10**18
_LARGEST_DURATION_MS = 3660 * 86_400_000
_LONGEST_TEXT = 40

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/%]*)\s*")
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


class UnitError(ValueError):
    """A text that is no such quantity; its own text says which units there are."""


class TooLong(UnitError):
    """A duration that is longer than the longest; its own text says which that is."""


def parse_rate(written: object) -> int:
    """Return bytes per second, rounded down, at least 1 unless the rate is 0; raise UnitError.

    >>> parse_rate("10mbit"), parse_rate("1.5 Gbit"), parse_rate("2mbps"), parse_rate("62.5kB/s"), parse_rate("1bit")
    (1250000, 187500000, 2000000, 62500, 1)
    """
    number, unit = _split(written, what="a rate", example="10mbit", units=_RATE_UNITS)
    bits = _RATE_PER_SECOND_IN_BITS.get(unit) or _RATE_IN_BITS.get(unit.lower())
    if bits is None:
        raise UnitError(f"{shown(written)} has no unit of a rate; there are {_RATE_UNITS}")
    wanted = _times(number, bits)
    if wanted > _LARGEST_RATE * 8:
        raise UnitError(f"{shown(written)} is more than any line carries; the largest rate is 1000tbit")
    return max(int(wanted) // 8, 1) if wanted else 0


def parse_volume(written: object) -> int:
    """Return bytes, rounded down; raise UnitError.

    >>> parse_volume("5GB"), parse_volume("5 GiB"), parse_volume("10546875KiB")
    (5000000000, 5368709120, 10800000000)
    """
    number, unit = _split(written, what="a volume", example="5GB", units=_VOLUME_UNITS)
    factor = _VOLUME_IN_BYTES.get(unit.lower())
    if factor is None:
        raise UnitError(f"{shown(written)} has no unit of a volume; there are {_VOLUME_UNITS}")
    wanted = int(_times(number, factor))
    if wanted > _LARGEST_VOLUME:
        raise UnitError(f"{shown(written)} is too large; the largest volume is 1000000TB")
    return wanted


def parse_duration(written: object) -> float:
    """Return seconds; several parts add up; raise UnitError.

    >>> parse_duration("500ms"), parse_duration("1d"), parse_duration("3h 12m")
    (0.5, 86400.0, 11520.0)
    """
    if not isinstance(written, str) or not _SPAN.match(written.strip()):
        _split(written, what="a duration", example="10s", units=_DURATION_UNITS)
    text = str(written).strip()
    milliseconds, place = Fraction(0), 0
    while place < len(text):
        part = _SPAN.match(text, place)
        factor = _DURATION_IN_MS.get(part[2]) if part else None
        if part is None or factor is None or len(text) > _LONGEST_TEXT:
            raise UnitError(f"{shown(written)} is not a duration; write for example 10s; units are {_DURATION_UNITS}")
        milliseconds += _times(part[1], factor)
        place = part.end()
    if milliseconds > _LARGEST_DURATION_MS:
        raise TooLong(f"{shown(written)} is too long; the longest duration is 3660d")
    return float(milliseconds / 1000)


def parse_percent(written: object) -> Fraction:
    """Return the part of one, between 0 and 1, exact; raise UnitError.

    >>> parse_percent("80%"), parse_percent("12.5 %")
    (Fraction(4, 5), Fraction(1, 8))
    """
    number, unit = _split(written, what="a percentage", example="80%", units="%")
    if unit != "%":
        raise UnitError(f"{shown(written)} is not a percentage; write for example 80%")
    part = _times(number, 1) / 100
    if part > 1:
        raise UnitError(f"{shown(written)} is more than 100%")
    return part


def rate_of_kbit(kbit: int) -> int:
    """Return bytes per second of a PlanetLab rate tag, whose unit is kbit/s of 1000 bits; raise UnitError.

    >>> rate_of_kbit(1000)
    125000
    """
    if not 0 < kbit * 125 <= _LARGEST_RATE:
        raise UnitError(f"{shown(kbit)} is not a rate in kbit/s; the smallest is 1")
    return kbit * 125


def volume_of_kbyte(kbyte: int) -> int:
    """Return bytes of a PlanetLab volume tag, whose unit is a KByte of 1024 bytes; raise UnitError.

    >>> volume_of_kbyte(10546875)
    10800000000
    """
    if not 0 < kbyte * 1024 <= _LARGEST_VOLUME:
        raise UnitError(f"{shown(kbyte)} is not a volume in KByte; the smallest is 1")
    return kbyte * 1024


def print_rate(bytes_per_second: int) -> str:
    """Return a rate as tc writes it, in bits a second with three digits.

    >>> print_rate(1250000), print_rate(8000), print_rate(64512), print_rate(UNLIMITED)
    ('10mbit', '64kbit', '516kbit', 'unlimited')
    """
    if bytes_per_second >= UNLIMITED:
        return "unlimited"
    decimal_bits = {unit: _RATE_IN_BITS[unit] for unit in ("bit", "kbit", "mbit", "gbit", "tbit")}
    number, unit = _three_digits(bytes_per_second * 8, decimal_bits)
    return f"{_without_zeros(number)}{unit}"


def print_volume(volume_bytes: int) -> str:
    """Return a volume in decimal units with three digits.

    >>> print_volume(5_000_000_000), print_volume(512), print_volume(UNLIMITED)
    ('5.00 GB', '512 B', 'unlimited')
    """
    if volume_bytes >= UNLIMITED:
        return "unlimited"
    number, unit = _three_digits(volume_bytes, {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4})
    return f"{volume_bytes} B" if unit == "B" else f"{number} {unit}"


def print_duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> print_duration(11520), print_duration(0.5), print_duration(12.34), print_duration(math.inf)
    ('3h 12m', '500ms', '12.3s', 'never')
    """
    if math.isinf(seconds):
        return "never"
    if seconds < 60:
        return f"{round(seconds * 1000)}ms" if 0 < seconds < 1 else f"{_without_zeros(f'{seconds:.1f}')}s"
    units = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
    large = next(index for index, (_, length) in enumerate(units) if seconds >= length)
    (large_unit, large_length), (small_unit, small_length) = units[large], units[large + 1]
    whole, rest = divmod(round(seconds / small_length), large_length // small_length)
    return f"{whole}{large_unit} {rest}{small_unit}" if rest else f"{whole}{large_unit}"


def print_percent(part: Fraction | float) -> str:
    """Return a part of one as a percentage with at most one decimal.

    >>> print_percent(Fraction(4, 5)), print_percent(0.125)
    ('80%', '12.5%')
    """
    return f"{_without_zeros(f'{float(part) * 100:.1f}')}%"


def shown(written: object) -> str:
    """Return a value as an error names it: short, and on one line whatever it holds."""
    match written:
        case None:
            return "nothing"
        case bool():
            return "true" if written else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case int() if abs(written) >= 10**_LONGEST_TEXT:
            return "a number of more than 40 digits"
    text = ascii(written)[1:-1] if isinstance(written, str) and not written.isprintable() else f"{written}"
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
    return f'"{text}"' if isinstance(written, str) else text


def _split(written: object, *, what: str, example: str, units: str) -> tuple[str, str]:
    """Split a quantity into its number and its unit; a bare number is refused with the units there are."""
    if isinstance(written, (int, float)) and not isinstance(written, bool):
        raise UnitError(f"{shown(written)} has no unit; write for example {example}; units are {units}")
    match = _QUANTITY.fullmatch(written) if isinstance(written, str) and len(written) <= _LONGEST_TEXT else None
    if match is None:
        raise UnitError(f"{shown(written)} is not {what}; write for example {example}; units are {units}")
    if not match[2]:
        raise UnitError(f"{shown(written)} has no unit; write for example {example}; units are {units}")
    return match[1], match[2]


def _times(number: str, factor: int) -> Fraction:
    """Multiply a decimal number exactly."""
    whole, _, decimals = number.partition(".")
    return Fraction(int(whole + decimals) * factor, 10 ** len(decimals))


def _three_digits(value: int, units: Mapping[str, int]) -> tuple[str, str]:
    """Return a number of three digits, zeros kept, and the largest unit that leaves at least 1 before the point."""
    smallest = min(units.values())
    unit = max((name for name in units if units[name] <= max(value, smallest)), key=lambda name: units[name])
    number = value / units[unit]
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}", unit


def _without_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
