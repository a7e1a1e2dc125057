"""Faults: everything that may go wrong around the turn, on the fake machine and on the real kernel."""
