"""Sweeps: every combination of values as a run of its own, and one table over all of them."""
