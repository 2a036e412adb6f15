"""Measurements of the library, beside its alternatives and beside lower bounds.

`python -m benchmarks` runs all of them.
"""
