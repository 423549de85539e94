"""Benchmarks against peers, measured in the same run; `make bench` runs them all. They assert nothing."""
