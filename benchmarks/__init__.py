"""Speed and memory, as ratios against a plain formulation in the same run; each module runs with python -m."""
