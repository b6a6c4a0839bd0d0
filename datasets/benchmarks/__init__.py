"""Benchmark sets and lists of pairs, in every format that users have them in."""
