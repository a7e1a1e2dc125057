"""Which lanes a reader wants to see, and in which order.

Turns the parameters of a URL into a query, and a query into the lanes that it picks of a report. Knows: the parameters
that there are, searching and sorting by column, so that ten thousand slices cost milliseconds. Does not know: how a
lane is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bwexporter.core.lanes import B1, I8, UNLIMITED, Reason, Traffic
from bwexporter.core.report import DeviceReport, Report

MOST_ROWS = 20_000
LONGEST_SEARCH = 255
VERDICTS = tuple(reason.name.lower() for reason in Reason)
CAPPED = "capped"

Key = NDArray[Any]


class BadQuery(ValueError):
    """A parameter that cannot be used; the text names it and says what to write."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to show: all that is empty or None restricts nothing; without a sort, lanes stand as they are configured."""

    search: str = ""
    verdict: str = ""  # or `capped`
    device: str = ""
    traffic: str = ""
    sort: str = ""
    descending: bool = False
    offset: int = 0
    limit: int | None = None


class Picked(NamedTuple):
    """What a query picked: lanes are counted through all devices in order."""

    total: int  # that it fits, of which `lanes` are one page
    lanes: I8


def read_query(parameters: Mapping[str, str]) -> Query:
    """Read the parameters of a URL; those that are none of a query are left to others. BadQuery.

    >>> read_query({"search": "ali", "order": "desc", "sort": "used"})
    Query(search='ali', verdict='', device='', traffic='', sort='used', descending=True, offset=0, limit=None)
    """
    return Query(
        search=parameters.get("search", "").strip()[:LONGEST_SEARCH],
        verdict=_one_of(parameters, "verdict", (*VERDICTS, CAPPED)),
        device=parameters.get("device", ""),
        traffic=_one_of(parameters, "traffic", tuple(traffic.value for traffic in Traffic)),
        sort=_one_of(parameters, "sort", tuple(SORTS)),
        descending=_one_of(parameters, "order", ("asc", "desc")) == "desc",
        offset=number(parameters, "offset", 0, 10**9) or 0,
        limit=number(parameters, "limit", 1, MOST_ROWS),
    )


def _one_of(parameters: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    written = parameters.get(name, "")
    if written and written not in known:
        raise BadQuery(f"{name} is one of {', '.join(known)}")
    return written


def number(parameters: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Return a whole number, None where none is written. BadQuery."""
    written = parameters.get(name, "")
    if not written:
        return None
    if not (written.isascii() and written.isdigit() and len(written) < 12 and least <= int(written) <= most):
        raise BadQuery(f"{name} is a number from {least} to {most}")
    return int(written)


def pick(report: Report, query: Query) -> Picked:
    """Return the lanes that fit, in order, of one page."""
    rows = np.flatnonzero(_fits(report, query))
    if query.sort:
        rows = rows[_order(_through_devices(report, SORTS[query.sort])[rows], descending=query.descending)]
    end = None if query.limit is None else query.offset + query.limit
    return Picked(len(rows), rows[query.offset : end])


def _order(key: Key, *, descending: bool) -> I8:
    """Return the order of a key; what is equal stays as it is configured."""
    if not descending:
        return np.argsort(key, kind="stable")
    backwards = np.argsort(key[::-1], kind="stable")[::-1]
    return len(key) - 1 - backwards


def _fits(report: Report, query: Query) -> B1:
    fits = np.ones(sum(len(device.tariffs) for device in report.devices), bool)
    if query.search:
        wanted = query.search.casefold()
        fits &= _through_devices(report, lambda device: _matching(device, lambda lane: wanted in lane[1].casefold()))
    if query.verdict == CAPPED:
        fits &= _through_devices(report, lambda device: device.verdicts.capped)
    elif query.verdict:
        fits &= _through_devices(report, lambda device: device.verdicts.reason == VERDICTS.index(query.verdict))
    if query.device:
        fits &= _through_devices(report, lambda device: np.full(len(device.tariffs), device.device == query.device))
    if query.traffic:
        traffic = Traffic(query.traffic)
        fits &= _through_devices(report, lambda device: _matching(device, lambda lane: lane[2] is traffic))
    return fits


def _matching(device: DeviceReport, fits: Callable[[Any], bool]) -> B1:
    return np.fromiter((fits(lane) for lane in device.tariffs.lanes), bool, len(device.tariffs))


def _through_devices(report: Report, column: Callable[[DeviceReport], Key]) -> Key:
    return np.concatenate([column(device) for device in report.devices]) if report.devices else np.empty(0, bool)


def _name(device: DeviceReport) -> Key:
    return np.array([lane.slice_name.casefold() for lane in device.tariffs.lanes], dtype=object)


def used_share(device: DeviceReport) -> Key:
    """Return the part of the allowance that was used, negative without an allowance."""
    allowance, used = device.verdicts.allowance_bytes, device.used_bytes
    return np.where(allowance >= UNLIMITED, -1.0, used / np.maximum(allowance, 1))


def _still_to_threshold(device: DeviceReport) -> Key:
    """Return the forecast, where the threshold is still ahead."""
    return np.where(device.seconds_to_threshold > 0, device.seconds_to_threshold, np.inf)


SORTS: Mapping[str, Callable[[DeviceReport], Key]] = {
    "slice": _name,
    "used": lambda device: device.used_bytes,
    "share": used_share,
    "ceiling": lambda device: device.enforced_ceiling_bytes_per_second,
    "verdict": lambda device: device.verdicts.reason,
    "threshold": _still_to_threshold,
    "end": lambda device: device.ledger.accounts.period_end_at[: len(device.tariffs)],
}
"""What lanes can be sorted by."""
