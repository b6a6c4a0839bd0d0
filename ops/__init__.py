"""Tensor functions that several packages need."""

from ops.precision import at_least_float32
from ops.ranks import gather, gather_with_gradient, rank_and_ranks

__all__ = ["at_least_float32", "gather", "gather_with_gradient", "rank_and_ranks"]
