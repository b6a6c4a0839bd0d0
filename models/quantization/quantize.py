"""A face model whose backbone computes in eight bits."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import NamedTuple

import torch

from datasets.progress import tracked
from models.face_model import FaceModel
from models.portraits import FLOAT, Crops
from models.quantization import rounding
from transforms import to_tensor

_BATCH = 32


class Quantization(NamedTuple):
    """How a backbone is quantized.

    Attributes:
        mode: "static": levels of inputs that a calibration found; "dynamic": of each image its own.
        depthwise: whether depthwise convolutions are quantized too.
        keep: names or patterns of layers of the backbone that stay in float32.
    """

    mode: str = rounding.STATIC
    depthwise: bool = False
    keep: Collection[str] = ()


USUAL = Quantization()


def quantize(model: FaceModel, crops: Crops | None = None, form: Quantization = USUAL) -> FaceModel:
    """Return a copy of a model whose backbone computes with weights and inputs of eight bits.

    Occlusion head and matcher stay as they are, and so does what scores mean; calibrations and galleries belong to one
    net and are refused by the other.

    Args:
        model: as `models.load` returns it.
        crops: uint8 [N, 112, 112, 3] RGB, faces like those to come, for "static"; their mirror images are seen too.
        form: how.
    Raises:
        ValueError: if the mode is unknown, crops are missing or of no use, the model is quantized already, or a pattern
            fits no layer.
    """
    if form.mode not in rounding.MODES:
        raise ValueError(f"quantize: mode must be one of {', '.join(rounding.MODES)}, got {form.mode!r}")
    if model.form != FLOAT:
        raise ValueError(f"quantize: the model is {model.form} already; give the float32 one")
    if (form.mode == rounding.STATIC) != (crops is not None and len(crops) > 0):
        raise ValueError("quantize: static needs crops for a calibration, and dynamic takes none")
    quantized = copy.deepcopy(model)
    layers = rounding.layers_of(quantized.model, form.depthwise, form.keep)
    levels = {} if crops is None else rounding.find_levels(lambda: _show(quantized, crops), layers)
    for name, layer in layers.items():
        scale = rounding.weight_scale(layer.weight)
        layer.weight.data.copy_(rounding.floats(rounding.integers(layer.weight, scale), scale))
        rounding.attach(layer, rounding.Rounding(scale, levels.get(name)))
    quantized.form = form_name(form.mode)
    return quantized


def form_name(mode: str) -> str:
    """Return what a model of a mode is called, beside "float32"."""
    return f"int8 {mode}"


def _show(model: FaceModel, crops: Crops) -> None:
    for start in tracked(range(0, len(crops), _BATCH), "Calibrating"):
        images = to_tensor(torch.from_numpy(crops[start : start + _BATCH]).to(model.device))
        for view in (images, images.flip(-1)):
            model.model(view)
