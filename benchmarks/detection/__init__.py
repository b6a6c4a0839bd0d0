"""Detectors: what one costs, and what the one of the demo has learned."""
