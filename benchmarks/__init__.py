"""Measured: against the floor and against every peer. ``make bench``, or ``python -m benchmarks --help``."""
