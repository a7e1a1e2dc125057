"""Installing on fresh systems: `python -m tests.install`."""
