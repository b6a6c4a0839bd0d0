"""Speed and memory, as ratios of what was measured in one run; `python -m benchmarks` runs them all."""
