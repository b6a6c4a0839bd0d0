"""Functions of tensors and ranks that several packages need."""

from ops.precision import at_least_float32
from ops.ranks import gather, gather_objects, gather_with_gradient, is_distributed, rank_and_ranks

__all__ = [
    "at_least_float32",
    "gather",
    "gather_objects",
    "gather_with_gradient",
    "is_distributed",
    "rank_and_ranks",
]
