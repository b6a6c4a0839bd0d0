"""Benchmarks whose tables stand on pages of their own, not on docs/benchmarks.md."""
