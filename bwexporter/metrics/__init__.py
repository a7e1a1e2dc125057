"""The catalogue of metrics and its rendering: from a turn's report to the bytes of a scrape."""

from bwexporter.metrics.catalogue import every_family, metrics_table
from bwexporter.metrics.collector import Collector
from bwexporter.metrics.exposition import Exposition, check_labels, check_names
from bwexporter.metrics.rendered import Rendered

__all__ = ["Collector", "Exposition", "Rendered", "check_labels", "check_names", "every_family", "metrics_table"]
