"""Run bwexporter by `python -m bwexporter`."""

from bwexporter.cli.main import main

main()
