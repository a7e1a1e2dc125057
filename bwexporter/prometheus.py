"""Recorded use from a Prometheus server.

Turns a server's URL and lanes into what each of them sent in every interval, as the state file has it. Knows: the
server's HTTP API and its limits, what a counter is that began again or was not scraped for a while. Does not know: the
state file, what the sums are for.

Growth between two samples that are further apart than an interval is divided in proportion to time, as the state file
does; before the first sample and after the last one nothing is known, which counts as nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from bwexporter.core.lanes import F8, I8, Lane, Traffic
from bwexporter.core.report import Event
from bwexporter.credentials import Credentials
from bwexporter.errors import BwexporterError
from bwexporter.fetch import fetch, shown_url

SENT = "bwexporter_slice_sent_bytes_total"
HAND_UNTIL, FROZEN = "bwexporter_slice_hand_until_timestamp_seconds", "bwexporter_frozen"
FULL_RATE = "bwexporter_slice_full_rate_bytes_per_second"
PERIOD_START, USED = "bwexporter_slice_period_start_timestamp_seconds", "bwexporter_slice_period_used_bytes"

_MOST_POINTS = 10_000
"""A server gives no more than 11 000 points of a series in one answer."""

_MOST_SAMPLES = 1_000_000
"""In one answer, so that it stays small here and below the server's own bound of samples a query (50 million)."""

_MOST_BYTES = 64 << 20
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_SECONDS = 60.0


class PrometheusError(BwexporterError):
    """The server's series cannot be used."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server; where it scrapes more than one exporter, `instance` says whose series are meant."""

    url: str
    instance: str | None = None
    asked_with: Credentials = field(default_factory=Credentials)

    def __post_init__(self) -> None:
        """Refuse what is no URL of a server."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
            named = parts.username is not None or parts.password is not None
        except ValueError:
            usable = named = False
        if not usable:
            raise PrometheusError(
                "the source is no URL of a Prometheus server; write for example http://localhost:9090"
            )
        if named:
            raise PrometheusError(
                "the source holds a user or a password, which everybody on this machine can see; write --user NAME "
                "--password-file FILE"
            )
        if parts.scheme == "http":
            self._refuse_plain_secrets(parts.hostname in _THIS_MACHINE)

    def _refuse_plain_secrets(self, is_here: bool) -> None:  # noqa: FBT001 - of the server
        """Refuse what http cannot keep, or does not know."""
        asked = self.asked_with
        if asked.ca_file or asked.cert_file:
            raise PrometheusError(f"{shown_url(self.url)} begins with http, which knows no certificates; write https")
        if (asked.token_file or asked.password_file) and not is_here:
            raise PrometheusError(
                f"{shown_url(self.url)} begins with http: a secret is sent over https alone, or to this machine itself"
            )

    def uses(
        self, device: str, lanes: Sequence[Lane], since: int, until: int, step_seconds: int
    ) -> dict[int, Sequence[int]]:
        """Return what each lane of a device sent in each interval, by the interval's start; PrometheusError."""
        found = self._series(device, since, until)
        boundaries = (until - since) // step_seconds + 1
        values = np.full((boundaries, len(lanes)), np.nan)
        column_of = {lane: column for column, lane in enumerate(lanes)}
        points = min(_MOST_POINTS, max(_MOST_SAMPLES // found, 2))
        for first in range(0, boundaries, points):
            last = min(first + points, boundaries) - 1
            span = {"start": since + first * step_seconds, "end": since + last * step_seconds, "step": step_seconds}
            query = self._by_lane(SENT, device)
            for lane, samples in _lanes_of(self._asked("query_range", {"query": query, **span}), "values", self.url):
                if (column := column_of.get(lane)) is not None:
                    _fill(values[:, column], samples, since, step_seconds)
        sums = grown(values)
        return {since + row * step_seconds: sums[row].tolist() for row in range(boundaries - 1)}

    def periods(self, device: str, lanes: Sequence[Lane], at: int, step_seconds: int) -> dict[Lane, tuple[float, int]]:
        """Return when the period of each lane began that ran at an instant, and what was used by then, if known."""
        del step_seconds
        began, used = self._at(PERIOD_START, device, at), self._at(USED, device, at)
        return {lane: (began[lane], int(used[lane])) for lane in lanes if lane in began and lane in used}

    def full_rates(self, device: str, classes: Mapping[Lane, int], at: int) -> dict[Lane, int]:
        """Return the full rates that lanes had at an instant, as far as they are known."""
        return {lane: int(rate) for lane, rate in self._at(FULL_RATE, device, at).items() if lane in classes}

    def by_hand(self, until: int) -> tuple[Event, ...]:
        """Return none: a server's series say that an order was in force, and not what it was."""
        del until
        return ()

    def left_out(self, device: str, since: int, until: int) -> str:
        """Say what of the span is not known, nothing where all of it is."""
        span = {"start": since, "end": until}
        frozen = FROZEN + ("" if self.instance is None else f"{{instance={_quoted(self.instance)}}}")
        found = self._asked("query", {"query": f"max(max_over_time({frozen}[{until - since}s]))", "time": until})
        was_frozen = any(samples[0][1] for samples in _samples(found, "value", self.url) if samples)
        if not was_frozen and not self._asked("series", {"match[]": self._selector(HAND_UNTIL, device), **span}):
            return ""
        return (
            f"orders by hand were in force on {device} in that span, and are left out: their amounts are in the state "
            "file alone"
        )

    def _at(self, metric: str, device: str, at: int) -> dict[Lane, float]:
        """Return the value of each lane at an instant."""
        answer = self._asked("query", {"query": self._by_lane(metric, device), "time": at})
        return {lane: samples[0][1] for lane, samples in _lanes_of(answer, "value", self.url) if samples}

    def _series(self, device: str, since: int, until: int) -> int:
        """Return how many series there are; refuse none, and those of several exporters."""
        query = self._selector(SENT, device)
        answer = self._asked("series", {"match[]": query, "start": since, "end": until})
        try:
            instances = sorted({str(one.get("instance", "")) for one in answer})
        except (AttributeError, TypeError):
            raise _no_prometheus(self.url) from None
        if not instances:
            raise PrometheusError(f"{shown_url(self.url)} has no series {query} in that span")
        if len(instances) > 1:
            some = ", ".join(instances[:5]) + (", ..." if len(instances) > 5 else "")
            raise PrometheusError(
                f"{shown_url(self.url)} has series of {device} from {len(instances)} instances ({some}); "
                "say which with --instance"
            )
        return len(answer)

    def _by_lane(self, metric: str, device: str) -> str:
        """Return a query with one series a lane, also where two jobs scrape the same exporter."""
        return f"max by (device, slice, traffic) ({self._selector(metric, device)})"

    def _selector(self, metric: str, device: str) -> str:
        wanted = {"device": device} | ({} if self.instance is None else {"instance": self.instance})
        return metric + "{" + ",".join(f"{label}={_quoted(value)}" for label, value in wanted.items()) + "}"

    def _asked(self, path: str, parameters: Mapping[str, Any]) -> Any:
        """Return the data of an answer; FetchError, PrometheusError."""
        url = f"{self.url.rstrip('/')}/api/v1/{path}?{urlencode(parameters)}"
        body = fetch(
            url,
            headers=self.asked_with.headers(),
            context=self.asked_with.context(),
            other_hosts=True,
            most_bytes=_MOST_BYTES,
            seconds=_MOST_SECONDS,
        ).body
        try:
            answer = json.loads(body)
            if answer["status"] == "success":
                return answer["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise _no_prometheus(self.url)


def grown(values: F8) -> I8:
    """Return the growth of counters between boundaries: one row a boundary, NaN where there is no sample.

    >>> grown(np.array([[np.nan], [100.0], [130.0], [np.nan], [190.0], [25.0]])).ravel().tolist()
    [0, 30, 30, 30, 25]
    """
    sums = np.zeros((max(len(values) - 1, 0), values.shape[1]), np.int64)
    places = np.arange(len(values))
    for column in range(values.shape[1]):
        known = np.flatnonzero(~np.isnan(values[:, column]))
        if len(known) < 2:
            continue
        samples = values[known, column]
        growth = np.diff(samples)
        total = np.concatenate([[0.0], np.cumsum(np.where(growth < 0, samples[1:], growth))])
        sums[:, column] = np.diff(np.floor(np.interp(places, known, total)).astype(np.int64))
    return sums


def _fill(column: F8, samples: Sequence[tuple[float, float]], since: int, step_seconds: int) -> None:
    for at, value in samples:
        row = round((at - since) / step_seconds)
        if 0 <= row < len(column):
            column[row] = value


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lanes_of(data: Any, key: str, url: str) -> Iterator[tuple[Lane, list[tuple[float, float]]]]:
    """Yield each lane of an answer with its samples."""
    try:
        labels = [one["metric"] for one in data["result"]]
        lanes = [Lane(one["device"], one["slice"], Traffic(one["traffic"])) for one in labels]
    except (KeyError, TypeError, ValueError):
        raise _no_prometheus(url) from None
    yield from zip(lanes, _samples(data, key, url), strict=True)


def _samples(data: Any, key: str, url: str) -> Iterator[list[tuple[float, float]]]:
    """Yield the samples (Unix time, value) of each series of an answer; those that are no number are left out."""
    try:
        for one in data["result"]:
            written = one[key] if key == "values" else [one[key]]
            samples = [(float(at), float(value)) for at, value in written]
            yield [sample for sample in samples if math.isfinite(sample[1])]
    except (KeyError, TypeError, ValueError):
        raise _no_prometheus(url) from None


def _no_prometheus(url: str) -> PrometheusError:
    return PrometheusError(
        f"{shown_url(url)} does not answer as a Prometheus server does; write the URL of its API's root"
    )
