"""Benchmarks: each figure is a ratio of two measurements of one run on one machine."""
