"""Flags, exit codes, assembly: the one place that knows every room."""
