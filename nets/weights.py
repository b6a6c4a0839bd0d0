"""Puts weights from a file into a backbone, strictly and in RGB."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import NamedTuple

import torch
from torch import Tensor

from .backbone import Backbone
from .files.fit import COUNTER, check_values, differences_of, listed, shapes
from .files.weight_file import WeightFile, read_state_dict
from .lora import LoraForm, is_adapter, merged_tensors
from .registry import MODELS, build_model

COLOR_SPACES = ("rgb", "bgr")
ENCODERS = ("query", "key")  # of momentum contrast, by a word of their prefix; the first is taken unless asked


def backbone_state(state_dict: Mapping[str, Tensor], encoder: str = ENCODERS[0]) -> dict[str, Tensor]:
    """Return the backbone's part of a state dict: the keys under the one prefix, "" or any other, that it has there.

    Where there is no backbone of ours, the keys are returned as they are.

    Args:
        state_dict: tensors by name.
        encoder: query or key: which of the two that a pretraining leaves.
    Raises:
        ValueError: if there are several backbones, such as weights and their moving average.
    """
    found = _backbone_prefixes(state_dict)
    if len(found) == len(ENCODERS) and len({re.sub(r"\b(query|key)\b", "*", prefix) for prefix in found}) == 1:
        found = [prefix for prefix in found if encoder in prefix.split(".")]
    if len(found) > 1:
        listed = ", ".join(f"{prefix}*" for prefix in sorted(found))
        raise ValueError(f"holds {len(found)} backbones: {listed}; save the one that is meant by itself")
    prefix = found[0] if found else ""
    computed = frozenset[str]().union(*(_layout(arch).computed for arch in MODELS))
    own = {key: key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
    return {name: state_dict[key] for key, name in own.items() if name not in computed}


def _backbone_prefixes(keys: Iterable[str]) -> list[str]:
    """Return the prefixes under which an architecture's keys are, or most of them; else that of most known keys."""
    layouts = [_layout(arch).keys for arch in MODELS]
    known = frozenset[str]().union(*layouts)
    longest = max(map(len, known))
    under: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        for start in range(max(0, len(key) - longest), len(key)):
            if (start == 0 or key[start - 1] == ".") and key[start:] in known:
                under[key[:start]].add(key[start:])
    least = min(map(len, layouts))
    found = [
        prefix
        for prefix, names in under.items()
        if 2 * len(names) > least and any(2 * len(names & layout) > len(layout) for layout in layouts)
    ]
    return found or sorted(under, key=lambda prefix: len(under[prefix]))[-1:]


class _Layout(NamedTuple):
    """What an architecture calls its tensors; the counters, which may be missing, left out."""

    keys: frozenset[str]
    computed: frozenset[str]  # buffers that no state dict has, but a TorchScript
    first_convolution: str
    last_linear: str


@cache
def _layout(arch: str) -> _Layout:
    with torch.device("meta"):
        model = build_model(arch, 1)
    state = model.state_dict()
    keys = frozenset(key for key in state if not key.endswith(COUNTER))
    computed = frozenset(name for name, _ in model.named_buffers() if name not in state)
    return _Layout(keys, computed, model.first_convolution, model.last_linear)


@cache
def _expected_shapes(arch: str, embedding_size: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes(build_model(arch, embedding_size).state_dict())


def plain_state(file: WeightFile) -> dict[str, Tensor]:
    """Return the tensors of a file, adapters of a run of ours merged into the weights beside them.

    Raises:
        ValueError: one line that names the file, if they cannot be: mixed by quality, or of a rank that is not known.
    """
    if not any(map(is_adapter, file.state_dict)):
        return file.state_dict
    parameters = file.metadata.get("hyper_parameters")
    options = parameters.get("config") if isinstance(parameters, dict) else None
    options = options if isinstance(options, dict) else {}
    rank, alpha = options.get("lora_rank"), options.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float, NoneType):
        raise ValueError(f"{file.path}: has adapters, and no options that say their rank; save the net merged")
    if options.get("lora_by_quality"):
        raise ValueError(
            f"{file.path}: its adapters are mixed by image quality, and merge at none; models.load reads it as it is,"
            " or merges it at the quality it is told"
        )
    try:
        return merged_tensors(file.state_dict, LoraForm(rank, alpha))
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def infer_arch(state_dict: Mapping[str, Tensor]) -> str:
    """Return the architecture whose keys and shapes a state dict has.

    Args:
        state_dict: a backbone's, or one in which a backbone's keys have a prefix.
    Raises:
        ValueError: if it fits no architecture of ours or holds several backbones.
    """
    state = backbone_state(state_dict)
    keys = {key for key in state if not key.endswith(COUNTER)}
    sized = _sized(state)
    for arch, size in sized.items():
        if keys == _layout(arch).keys and not any(differences_of(_expected_shapes(arch, size), state).values()):
            return arch
    nearest = ""
    if closest := nearest_arch(state):
        nearest = f"; nearest is {closest}: {listed(differences_of(_expected_shapes(closest, sized[closest]), state))}"
    first = ", ".join(key[:80] for key in list(state)[:3])
    raise ValueError(
        f"the keys and shapes fit none of {', '.join(MODELS)}; {len(state)} tensors, first: {first}{nearest}"
    )


def nearest_arch(state: Mapping[str, Tensor]) -> str | None:
    """Return the architecture from which a backbone's state dict differs least; None if it has no embedding layer."""
    sized = _sized(state)
    if not sized:
        return None
    keys = {key for key in state if not key.endswith(COUNTER)}
    least = min(len(keys ^ _layout(arch).keys) for arch in sized)
    close = [arch for arch in sized if len(keys ^ _layout(arch).keys) == least]
    differences = {arch: differences_of(_expected_shapes(arch, sized[arch]), state) for arch in close}
    return min(close, key=lambda arch: sum(map(len, differences[arch].values())))


def _sized(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the architectures whose embedding layer is there, with the embedding size that it tells."""
    return {arch: len(state[name]) for arch in MODELS if _is_matrix(state.get(name := _layout(arch).last_linear))}


def infer_embedding_size(state_dict: Mapping[str, Tensor]) -> int:
    """Return the embedding size of a state dict, read off the last linear layer.

    Raises:
        ValueError: if there is no such layer.
    """
    state = backbone_state(state_dict)
    names = list(dict.fromkeys(_layout(arch).last_linear for arch in MODELS))
    found = [name for name in names if _is_matrix(state.get(name))]
    if not found:
        raise ValueError(f"no matrix {' or '.join(names)} among {len(state)} tensors; not a backbone of ours")
    return state[found[0]].shape[0]


def _is_matrix(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 2 and tensor.numel() > 0


def load_weights(model: Backbone, path: str | Path, color_space: str | None = None, encoder: str = ENCODERS[0]) -> None:
    """Load a backbone's weights from a file; afterwards the model expects RGB, whatever the file's order was.

    Every key and shape must agree, once a prefix that all keys of the backbone have is taken off; the counters
    `num_batches_tracked` may be missing. When anything does not fit, the model is left as it was. Adapters in the file
    are merged; those of the model stay as they are.

    Args:
        model: as `build_model` returns it, or `add_lora`.
        path: AdaFace's or our own .ckpt, a bare .pt state dict, one in a dict, a TorchScript or .safetensors; see
            `read_state_dict` and docs/weights.md.
        color_space: "rgb" or "bgr", the channel order that the weights expect; required when the file does not state
            it. AdaFace's public weights expect "bgr": the input channels of the first convolution are reversed.
        encoder: query or key: which one of a pretraining's checkpoint.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: one line that names the file, if it is damaged, its order is unknown or contradicted, or it belongs
            to another architecture.
    """
    file = read_state_dict(path)
    try:
        state = backbone_state(plain_state(file), encoder)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    order = _color_space(file, color_space)
    _check_fit(model, state, file.path)
    if order == "bgr":
        state[model.first_convolution] = state[model.first_convolution].flip(1)
    kept = {key: value for key, value in model.state_dict().items() if key.endswith(COUNTER) or is_adapter(key)}
    model.load_state_dict(kept | state, strict=True)


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
    own = {key: value for key, value in model.state_dict().items() if not is_adapter(key)}
    differences = differences_of(shapes(own), state)
    if any(differences.values()):
        raise ValueError(
            f"{path}: looks like {_describe(state)}, but the model is {_describe(own)}: {listed(differences)}"
        )
    check_values(own, state, path)


def _describe(state: Mapping[str, Tensor]) -> str:
    try:
        return f"{infer_arch(state)} with embedding size {infer_embedding_size(state)}"
    except ValueError:
        return "no architecture of ours"
