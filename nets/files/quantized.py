"""Float weights of quantized layers, without torch's quantized dtypes, which are to be dropped (pytorch #184982)."""

from __future__ import annotations

import pickle
from typing import Any

from torch import Tensor

_PACKED = "_packed_params._packed_params"  # a quantized linear layer's weight and bias, in its state dict
_PACKED_DTYPE = "_packed_params.dtype"


def dequantized(integers: Tensor, quantizer: object) -> Tensor:
    """Return (integers - zero point) * scale, float32, rounded as torch does: the scale of a whole tensor first.

    Args:
        integers: any shape, int8, uint8 or int32.
        quantizer: as torch pickles it: ("per_tensor_affine", scale, zero point), or ("per_channel_affine", scales,
            zero points, axis) with one of each for every index of that axis.
    Raises:
        pickle.UnpicklingError: if it is quantized in another way, or scales and zero points do not fit.
    """
    match quantizer:
        case ("per_tensor_affine", float(scale), int(zero_point)):
            return (integers.double() - zero_point).float() * scale
        case ("per_channel_affine", Tensor() as scales, Tensor() as zero_points, int(axis)):
            channels = integers.shape[axis : axis + 1] if axis >= 0 else None
            if not (scales.shape == zero_points.shape == channels) or not integers.numel():
                raise pickle.UnpicklingError("quantized with scales that do not fit")
            shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
            return ((integers.double() - zero_points.view(shape)) * scales.view(shape)).float()
    raise pickle.UnpicklingError("quantized in a way that is not read")


def unpacked(state: dict[Any, object]) -> dict[Any, object]:
    """Return the entries of a state dict, those of quantized layers as a float layer has them: `weight` and `bias`.

    A pair of weight and bias (or None) becomes two entries; scales and zero points of activations are dropped.

    Args:
        state: tensors by name, already dequantized, and whatever else there is.
    """
    entries = dict(state)
    for key, value in state.items():
        if not isinstance(key, str):
            continue
        layer = key.removesuffix(_PACKED)
        if layer != key and layer[-1:] in ("", ".") and isinstance(value, tuple):
            match value:
                case (Tensor() as weight, (Tensor() | None) as bias) if f"{layer}weight" not in state:
                    del entries[key]
                    entries.pop(layer + _PACKED_DTYPE, None)
                    entries |= {f"{layer}weight": weight} | ({} if bias is None else {f"{layer}bias": bias})
        elif key.rpartition(".")[2] == "zero_point" and _is_one_number(value):
            scale = f"{key.removesuffix('zero_point')}scale"
            if _is_one_number(entries.get(scale)):
                del entries[key], entries[scale]
    return entries


def _is_one_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1
