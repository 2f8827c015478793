"""Tests of the report in a real browser; `tests` holds those that need none."""
