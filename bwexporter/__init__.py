"""bwexporter: Prometheus exporter and enforcer for Linux HTB."""

__version__ = "0.1.0"
