"""Puts weights from a file into a backbone, strictly and in RGB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .backbone import Backbone
from .registry import MODELS, build_model
from .weight_file import WeightFile, read_state_dict

# Every backbone of ours names these two layers so.
FIRST_CONVOLUTION = "input_layer.0.weight"
LAST_LINEAR = "output_layer.3.weight"

COLOR_SPACES = ("rgb", "bgr")


def backbone_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's part of a state dict: the keys under "model." without it, or all where none has it."""
    inner = {key.removeprefix("model."): value for key, value in state_dict.items() if key.startswith("model.")}
    return inner or dict(state_dict)


def infer_arch(state_dict: Mapping[str, Tensor]) -> str:
    """Return the architecture whose keys and shapes a state dict has.

    Args:
        state_dict: a backbone's, or a checkpoint's with the backbone under "model.".
    Raises:
        ValueError: if it is InsightFace's layout or fits no architecture of ours.
    """
    state = backbone_state(state_dict)
    _refuse_insightface(state)
    if LAST_LINEAR in state:
        shapes = _shapes(state)
        for arch in MODELS:
            with torch.device("meta"):
                candidate = build_model(arch, infer_embedding_size(state))
            if _shapes(candidate.state_dict()) == shapes:
                return arch
    first = ", ".join(list(state)[:3])
    raise ValueError(f"the keys and shapes fit none of {', '.join(MODELS)}; {len(state)} tensors, first: {first}")


def infer_embedding_size(state_dict: Mapping[str, Tensor]) -> int:
    """Return the embedding size of a state dict, read off the last linear layer.

    Raises:
        ValueError: if there is no such layer.
    """
    state = backbone_state(state_dict)
    if LAST_LINEAR not in state or state[LAST_LINEAR].ndim != 2:
        raise ValueError(f"no matrix {LAST_LINEAR} among {len(state)} tensors; not a backbone of ours")
    return state[LAST_LINEAR].shape[0]


def load_weights(model: Backbone, path: str | Path, color_space: str | None = None) -> None:
    """Load a backbone's weights from a file; afterwards the model expects RGB, whatever the file's order was.

    Every key and shape must agree. When anything does not, the model is left as it was.

    Args:
        model: as `build_model` returns it.
        path: AdaFace's or our own .ckpt, a bare .pt state dict, or .safetensors.
        color_space: "rgb" or "bgr", the channel order that the weights expect; required when the file does not state
            it. AdaFace's public weights expect "bgr": the input channels of the first convolution are reversed.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names the file, if it is damaged, its order is unknown or contradicted, it has
            InsightFace's layout, or it belongs to another architecture.
    """
    file = read_state_dict(path)
    state = backbone_state(file.state_dict)
    try:
        _refuse_insightface(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    order = _color_space(file, color_space)
    _check_fit(model, state, file.path)
    if order == "bgr":
        state[FIRST_CONVOLUTION] = state[FIRST_CONVOLUTION].flip(1)
    model.load_state_dict(state, strict=True)


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
    expected, found = _shapes(model.state_dict()), _shapes(state)
    if expected == found:
        return
    differences = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": [key for key in expected if key in found and expected[key] != found[key]],
    }
    listed = "; ".join(f"{len(keys)} {kind} ({keys[0]})" for kind, keys in differences.items() if keys)
    raise ValueError(
        f"{path}: looks like {_describe(state)}, but the model is {_describe(model.state_dict())}: {listed}"
    )


def _describe(state: Mapping[str, Tensor]) -> str:
    try:
        return f"{infer_arch(state)} with embedding size {infer_embedding_size(state)}"
    except ValueError:
        return "no architecture of ours"


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _refuse_insightface(state: Mapping[str, Tensor]) -> None:
    if "conv1.weight" in state and any(key.startswith("layer1.0.") for key in state):
        raise ValueError(
            "InsightFace's iresnet layout (conv1, layer1.0.downsample: a projection in stage 1) is not supported; "
            "convertible weights are those of AdaFace's layout (input_layer, body, output_layer)"
        )
