"""What a client takes: formats and codings by weight.

Turns the headers of a request into decisions. Knows: the Accept headers of RFC 9110, and what Prometheus writes in
them. Does not know: any content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple


class _Range(NamedTuple):
    """One element of an Accept header."""

    name: str
    parameters: dict[str, str]
    weight: float


def takes_gzip(values: Sequence[str]) -> bool:
    """Say whether a client takes gzip; a weight of 0 means that it does not."""
    weights = {one.name: one.weight for one in _ranges(",".join(values))}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def prefers_open_metrics(values: Sequence[str]) -> bool:
    """Say whether a client would rather have OpenMetrics 1.0 than text format; whoever does not ask gets text.

    >>> prefers_open_metrics(["application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"])
    True
    """
    ranges = _ranges(",".join(values))
    of_open = [
        one.weight
        for one in ranges
        if one.name == "application/openmetrics-text" and one.parameters.get("version", "1.0.0") == "1.0.0"
    ]
    of_text = [one.weight for one in ranges if one.name in {"text/plain", "text/*"}]
    return max(of_open, default=0.0) > 0 and max(of_open) >= max(of_text, default=0.0)


@lru_cache(maxsize=64)
def _ranges(value: str) -> tuple[_Range, ...]:
    """Return the elements of a header; a client says the same at every scrape."""
    return tuple(_split(value))


def _split(value: str) -> Iterator[_Range]:
    for element in value.lower().split(","):
        name, *written = [part.strip() for part in element.split(";")]
        parameters = dict(part.partition("=")[::2] for part in written)
        yield _Range(name, parameters, _weight(parameters.get("q", "1")))


def _weight(written: str) -> float:
    try:
        return min(max(float(written or "1"), 0.0), 1.0)
    except ValueError:
        return 0.0
