"""The same families for any prometheus_client registry.

Turns the exposition's standing into prometheus_client's metrics, for programs that embed bwexporter. Knows: how
prometheus_client names things. Does not know: what any figure means. The process's own figures are left to the registry
that it is registered with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector as RegistryCollector

from bwexporter.metrics.exposition import Exposition
from bwexporter.metrics.families import Family, Kind, LaneFamily, Sample, Standing
from bwexporter.metrics.of_lanes import LANE_FAMILIES
from bwexporter.metrics.of_node import STANDING_FAMILIES

AnyFamily = TypeVar("AnyFamily", bound=Family)


class Collector(RegistryCollector):
    """Collects what the exposition last published; register it with `registry.register(Collector(exposition))`."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def collect(self) -> Iterable[Metric]:
        """Yield every family with its samples, made new each time: what is gone disappears."""
        standing = self._exposition.standing
        for lane_family in self._shown(LANE_FAMILIES):
            yield _metric(lane_family, _lane_samples(lane_family, standing))
        for family in self._shown((self._exposition.info, *STANDING_FAMILIES)):
            yield _metric(family, family.samples(standing))
        yield from self._own()

    def describe(self) -> Iterable[Metric]:
        """Yield every family without a sample, so that a registry knows the names."""
        for family in self._shown((*LANE_FAMILIES, self._exposition.info, *STANDING_FAMILIES)):
            yield _metric(family, ())
        for own in self._own():
            own.samples = []
            yield own

    def _shown(self, families: Iterable[AnyFamily]) -> Iterator[AnyFamily]:
        return (family for family in families if family.name not in self._exposition.off)

    def _own(self) -> Iterator[Metric]:
        for metric in self._exposition.instruments.collect():
            if not {metric.name, f"{metric.name}_total"} & self._exposition.off:
                yield metric


def _lane_samples(family: LaneFamily, standing: Standing) -> Iterator[Sample]:
    report = standing.report
    if report is None:
        return iter(())
    return chain.from_iterable(
        (
            ((lane.device, lane.slice_name, lane.traffic.value), value)
            for lane, value in zip(device.tariffs.lanes, family.column(report, device).tolist(), strict=True)
            if not math.isnan(value)
        )
        for device in report.devices
    )


def _metric(family: Family, samples: Iterable[Sample]) -> Metric:
    """Build a metric; prometheus_client names a counter's family without the _total of its samples."""
    name = family.name.removesuffix("_total") if family.kind is Kind.COUNTER else family.name
    metric = Metric(name, family.text, family.kind.value, family.unit)
    for values, value in samples:
        metric.add_sample(family.name, dict(zip(family.labels, values, strict=True)), value)
    return metric
