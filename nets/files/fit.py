"""Whether a state dict fits a network: keys, shapes, kinds of numbers, and the numbers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ops import MAX_WEIGHT, nonfinite

COUNTER = "num_batches_tracked"  # of a batch norm; it decides nothing


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {key: tuple(value.shape) for key, value in state.items()}


def differences_of(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the keys by which a state dict differs from the shapes expected, by how they differ."""
    return {
        "missing": [key for key in expected if key not in state and not key.endswith(COUNTER)],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in expected if key in state and expected[key] != tuple(state[key].shape)],
    }


def listed(differences: Mapping[str, list[str]]) -> str:
    """Return how many keys differ in which way, with the first of each, or nothing."""
    return "; ".join(f"{len(keys)} {kind} ({keys[0][:80]})" for kind, keys in differences.items() if keys)


def check_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors of another kind than a network's own of the same names, and numbers that are no weights.

    Raises:
        ValueError: one line with the file and the key.
    """
    for key, value in state.items():
        if value.is_floating_point() != own[key].is_floating_point() or value.is_complex():
            kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (own[key], value)]
            raise ValueError(f"{path}: {key}: {kinds[0]} expected, found {kinds[1]}")
        if fault := nonfinite(value, key, MAX_WEIGHT):
            raise ValueError(f"{path}: {fault}")
