"""The catalogue of metrics and its rendering: from a turn's report to the bytes of a scrape."""

from bwexporter.metrics.catalogue import every_family, metrics_table
from bwexporter.metrics.collector import Collector
from bwexporter.metrics.exposition import Exposition, Rendered

__all__ = ["Collector", "Exposition", "Rendered", "every_family", "metrics_table"]
