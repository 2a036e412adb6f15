"""Measurements, each a ratio of two things measured interleaved in one run."""
