"""The file of a quantized model: int8 weights and scales, all of it data, nothing of it believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from evaluation import FusionStatistics, ScoreNormalization
from models.alignment import Alignment
from models.checkpoint_rules import ENTRIES, LATER_ENTRIES, PRIMITIVES, indices, state_rules
from models.face_model import FaceModel
from models.quantization import rounding
from models.quantization.quantize import form_name
from ops import Rule, append_checksum, at_least, either, first_fault, named
from options.model import NetworkOptions
from system.files import atomic_write

FORMAT: Final = "maskwise quantized 1"
KEY: Final = "quantization"  # of the entry that tells such a file from others


def save(model: FaceModel, path: str | Path) -> None:
    """Write a quantized model into a file that `models.load` opens: int8 weights and their scales, all of it data.

    Raises:
        ValueError: if the model is not quantized. OSError: if the file cannot be written.
    """
    layers = _quantized_layers(model)
    if not layers:
        raise ValueError("save: the model is not quantized; models.quantize makes it so")
    state = {name: tensor for name, tensor in model.state_dict().items() if f".{rounding.ROUNDING}." not in name}
    for name, layer in layers.items():
        state[_weight_of(name)] = rounding.integers(layer.weight, layer.rounding.weight_scale)
    content = {
        KEY: {
            "format": FORMAT,
            "form": model.form,
            "layers": {name: dict(layer.rounding.state_dict()) for name, layer in layers.items()},
        },
        "options": model.options.to_dict(),
        "with_parts": model.with_parts,
        "color_space": "rgb",
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in state.items()},
        "fusion_statistics": None if model.fusion_statistics is None else model.fusion_statistics.to_dict(),
        "score_normalization": None if model.normalization is None else model.normalization.to_dict(),
        "alignment": {} if model.alignment is None else model.alignment._asdict(),
    }
    with atomic_write(Path(path), "w+b") as stream:
        torch.save(content, stream)
        append_checksum(stream)


def from_content(content: object) -> FaceModel:
    """Return the model of a file that `save` wrote, on the CPU.

    Args:
        content: of the file, all of it data; nothing in it is believed.
    Raises:
        ValueError, TypeError: what is wrong in it.
    """
    _refuse(first_fault(at_least(_HEAD), content, ""))
    assert isinstance(content, dict)
    options = NetworkOptions.from_dict(content["options"])
    with torch.device("meta"):
        template = FaceModel(options, content["with_parts"])
    found: Mapping[str, Mapping[str, Tensor]] = content[KEY]["layers"]
    _refuse(first_fault(_layer_rules(template, content[KEY]["form"], found), found, f"{KEY}.layers"))
    example = template.state_dict()
    for name in found:
        example[_weight_of(name)] = example[_weight_of(name)].to(torch.int8)
    rules = {"state_dict": state_rules(example), **ENTRIES, **LATER_ENTRIES}
    _refuse(first_fault(at_least(rules), content, ""))
    model = FaceModel(options, content["with_parts"])
    state = dict(content["state_dict"])
    for name, numbers in found.items():
        state[_weight_of(name)] = rounding.floats(state[_weight_of(name)], numbers["weight_scale"])
    model.load_state_dict(state)
    for name, numbers in found.items():
        levels = rounding.Levels(numbers["scale"], numbers["zero_point"]) if "scale" in numbers else None
        rounding.attach(model.model.get_submodule(name), rounding.Rounding(numbers["weight_scale"], levels))
    statistics, learned = content["fusion_statistics"], content["score_normalization"]
    model.fusion_statistics = None if statistics is None else FusionStatistics.from_dict(statistics)
    model.normalization = None if learned is None else ScoreNormalization.from_dict(learned)
    model.alignment = Alignment.of(content["alignment"])
    model.form = content[KEY]["form"]
    return model


def _quantized_layers(model: FaceModel) -> dict[str, Any]:
    return {name: layer for name, layer in model.model.named_modules() if hasattr(layer, rounding.ROUNDING)}


def _weight_of(layer: str) -> str:
    return f"model.{layer}.weight"


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise ValueError(fault)


def _tensor(found: object, place: str) -> str | None:
    return None if isinstance(found, Tensor) else f"{place}: a tensor expected"


def _one_of(*words: str) -> Rule:
    return lambda found, place: (
        None if isinstance(found, str) and found in words else f"{place}: one of {', '.join(words)} expected"
    )


def _positive(example: Tensor) -> Rule:
    def rule(found: object, place: str) -> str | None:
        if fault := first_fault(example, found, place):
            return fault
        assert isinstance(found, Tensor)
        return None if bool((found > 0).all()) else f"{place}: numbers above 0 expected"

    return rule


_HEAD = {
    KEY: {
        "format": _one_of(FORMAT),
        "form": _one_of(*map(form_name, rounding.MODES)),
        "layers": named(named(_tensor)),
    },
    "options": PRIMITIVES,
    "with_parts": False,
    "state_dict": named(_tensor),
    "alignment": either({}, {"template": "", "detector": ""}),
}


def _layer_rules(template: FaceModel, form: str, found: Mapping[str, object]) -> dict[str, object]:
    """Return the rules for the numbers of the quantized layers; of a name that is no layer, one that fails."""
    known = {name: layer for name, layer in template.model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    one = torch.empty((), device="meta")
    is_static = form == form_name(rounding.STATIC)
    of_input = {"scale": _positive(one), "zero_point": indices(one, rounding.MOST + 1)} if is_static else {}
    return {
        name: {"weight_scale": _positive(torch.empty(len(layer.weight), device="meta")), **of_input}
        for name, layer in known.items()
        if name in found
    }
