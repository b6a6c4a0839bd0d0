"""Backbones in eight bits: rounding, what it costs, and files of them."""
