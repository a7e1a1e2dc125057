"""Prometheus, Alertmanager and a mail server on loopback: what is shipped, from a scrape to a mail."""
