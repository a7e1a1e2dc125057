"""The Grafana dashboards: Python that writes them, and the JSON that it has written.

Rooms: `grafana` knows the JSON, `thresholds` reads the alert rules, `asked` has the PromQL that is shared; `fleet`,
`node`, `slice_page` and `exporter` say what is shown. `python -m dashboards` writes the files.
"""
