"""Functions of tensors, ranks and paths that several packages need."""

from ops.checksum import append_checksum, damage
from ops.paths import utf8_path
from ops.structure import MAX_WEIGHT, Rule, at_least, each, either, first_fault, foreign_tensor, named, nonfinite
from ops.tensors import (
    at_least_float32,
    gather,
    gather_objects,
    gather_with_gradient,
    is_distributed,
    own_rank,
    unit_map,
    world_size,
)

__all__ = [
    "MAX_WEIGHT",
    "Rule",
    "append_checksum",
    "at_least",
    "at_least_float32",
    "damage",
    "each",
    "either",
    "first_fault",
    "foreign_tensor",
    "gather",
    "gather_objects",
    "gather_with_gradient",
    "is_distributed",
    "named",
    "nonfinite",
    "own_rank",
    "unit_map",
    "utf8_path",
    "world_size",
]
