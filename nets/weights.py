"""Puts weights from a file into a backbone, strictly and in RGB."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ops import MAX_WEIGHT, nonfinite

from .backbone import Backbone
from .registry import MODELS, build_model
from .weight_file import WeightFile, read_state_dict

# Every backbone of ours names these two layers so.
FIRST_CONVOLUTION = "input_layer.0.weight"
LAST_LINEAR = "output_layer.3.weight"
COUNTER = "num_batches_tracked"  # of a batch norm; it decides nothing

COLOR_SPACES = ("rgb", "bgr")
ENCODERS = ("query", "key")  # of momentum contrast, by a word of their prefix; the first is taken unless asked


def backbone_state(state_dict: Mapping[str, Tensor], encoder: str = ENCODERS[0]) -> dict[str, Tensor]:
    """Return the backbone's part of a state dict: the keys under the one prefix, "" or any other, that it has there.

    Where there is no backbone of ours, the keys are returned as they are.

    Args:
        state_dict: tensors by name.
        encoder: query or key: which of the two that a pretraining leaves.
    Raises:
        ValueError: if there are several backbones, such as weights and their moving average, or it is InsightFace's.
    """
    counts = Counter(prefix for key in state_dict for prefix in _prefixes(key))
    found = [prefix for prefix, count in counts.items() if 2 * count > max(counts.values())]
    if len(found) == len(ENCODERS) and len({re.sub(r"\b(query|key)\b", "*", prefix) for prefix in found}) == 1:
        found = [prefix for prefix in found if encoder in prefix.split(".")]
    if len(found) > 1:
        names = ", ".join(f"{prefix}*" for prefix in sorted(found))
        raise ValueError(f"holds {len(found)} backbones: {names}; save the one that is meant by itself")
    _refuse_insightface(state_dict)
    prefix = found[0] if found else ""
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


def _prefixes(key: str) -> list[str]:
    """Return what stands before the name of a backbone's tensor in a key, a list of one or none."""
    words = key.split(".")
    starts = (len(".".join(words[:i])) + bool(i) for i in range(len(words)))
    return [key[:start] for start in starts if key[start:] in _known_keys()]


@cache
def _known_keys() -> frozenset[str]:
    return frozenset(key for arch in MODELS for key in _expected_shapes(arch, 1))


@cache
def _expected_shapes(arch: str, embedding_size: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return _shapes(build_model(arch, embedding_size).state_dict())


def infer_arch(state_dict: Mapping[str, Tensor]) -> str:
    """Return the architecture whose keys and shapes a state dict has.

    Args:
        state_dict: a backbone's, or one in which a backbone's keys have a prefix.
    Raises:
        ValueError: if it is InsightFace's layout, fits no architecture of ours or holds several.
    """
    state = backbone_state(state_dict)
    nearest = ""
    if LAST_LINEAR in state:
        size = infer_embedding_size(state)
        differences = {arch: _differences(_expected_shapes(arch, size), state) for arch in MODELS}
        fits = next((arch for arch, keys in differences.items() if not any(keys.values())), None)
        if fits is not None:
            return fits
        arch = min(differences, key=lambda arch: sum(map(len, differences[arch].values())))
        nearest = f"; nearest is {arch}: {_listed(differences[arch])}"
    first = ", ".join(key[:80] for key in list(state)[:3])
    raise ValueError(
        f"the keys and shapes fit none of {', '.join(MODELS)}; {len(state)} tensors, first: {first}{nearest}"
    )


def infer_embedding_size(state_dict: Mapping[str, Tensor]) -> int:
    """Return the embedding size of a state dict, read off the last linear layer.

    Raises:
        ValueError: if there is no such layer.
    """
    state = backbone_state(state_dict)
    if LAST_LINEAR not in state or state[LAST_LINEAR].ndim != 2 or not len(state[LAST_LINEAR]):
        raise ValueError(f"no matrix {LAST_LINEAR} among {len(state)} tensors; not a backbone of ours")
    return state[LAST_LINEAR].shape[0]


def load_weights(model: Backbone, path: str | Path, color_space: str | None = None, encoder: str = ENCODERS[0]) -> None:
    """Load a backbone's weights from a file; afterwards the model expects RGB, whatever the file's order was.

    Every key and shape must agree, once a prefix that all keys of the backbone have is taken off; the counters
    `num_batches_tracked` may be missing. When anything does not fit, the model is left as it was.

    Args:
        model: as `build_model` returns it.
        path: AdaFace's or our own .ckpt, a bare .pt state dict, one in a dict, or .safetensors.
        color_space: "rgb" or "bgr", the channel order that the weights expect; required when the file does not state
            it. AdaFace's public weights expect "bgr": the input channels of the first convolution are reversed.
        encoder: query or key: which one of a pretraining's checkpoint.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names the file, if it is damaged, its order is unknown or contradicted, it has
            InsightFace's layout, or it belongs to another architecture.
    """
    file = read_state_dict(path)
    try:
        state = backbone_state(file.state_dict, encoder)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    order = _color_space(file, color_space)
    _check_fit(model, state, file.path)
    if order == "bgr":
        state[FIRST_CONVOLUTION] = state[FIRST_CONVOLUTION].flip(1)
    counters = {key: value for key, value in model.state_dict().items() if key.endswith(COUNTER)}
    model.load_state_dict(counters | state, strict=True)


def _color_space(file: WeightFile, given: str | None) -> str:
    if given not in (None, *COLOR_SPACES):
        raise ValueError(f"load_weights: color_space must be 'rgb' or 'bgr', got {given!r}")
    if given is None and file.color_space is None:
        raise ValueError(
            f"{file.path}: does not state its channel order; pass color_space='bgr' (AdaFace's public weights) or 'rgb'"
        )
    if given is not None and file.color_space not in (None, given):
        raise ValueError(
            f"{file.path}: states color_space {file.color_space!r}, but {given!r} was given; drop the latter"
        )
    return file.color_space or str(given)


def _check_fit(model: Backbone, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a state dict that differs from the model's in keys or shapes, in one line."""
    own = model.state_dict()
    differences = _differences(_shapes(own), state)
    if any(differences.values()):
        raise ValueError(
            f"{path}: looks like {_describe(state)}, but the model is {_describe(own)}: {_listed(differences)}"
        )
    for key, value in state.items():
        if value.is_floating_point() != own[key].is_floating_point() or value.is_complex():
            kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (own[key], value)]
            raise ValueError(f"{path}: {key}: {kinds[0]} expected, found {kinds[1]}")
        if fault := nonfinite(value, key, MAX_WEIGHT):
            raise ValueError(f"{path}: {fault}")


def _differences(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the keys by which a state dict differs from what is expected, by how they differ."""
    return {
        "missing": [key for key in expected if key not in state and not key.endswith(COUNTER)],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in expected if key in state and expected[key] != tuple(state[key].shape)],
    }


def _listed(differences: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{len(keys)} {kind} ({keys[0][:80]})" for kind, keys in differences.items() if keys)


def _describe(state: Mapping[str, Tensor]) -> str:
    try:
        return f"{infer_arch(state)} with embedding size {infer_embedding_size(state)}"
    except ValueError:
        return "no architecture of ours"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _refuse_insightface(state: Mapping[str, Tensor]) -> None:
    names = ("conv1.weight", "layer1.0.conv1.weight")
    if any(key.endswith(names[1]) and key.removesuffix(names[1]) + names[0] in state for key in state):
        raise ValueError(
            "InsightFace's iresnet layout (conv1, layer1.0.downsample: a projection in stage 1) is not supported; "
            "convertible weights are those of AdaFace's layout (input_layer, body, output_layer)"
        )
