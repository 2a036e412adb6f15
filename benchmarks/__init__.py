"""Measurements of the library beside what one would use instead, and beside what bounds it.

Each figure is a ratio of things measured by turns in one run. `python -m benchmarks` runs all.
"""
