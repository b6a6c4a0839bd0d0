"""Layers that compute with eight-bit weights and inputs: numbers are rounded as integer arithmetic rounds them.

Weights have 255 levels around 0 and a scale for each output channel; inputs 256 levels between two ends, which contain
0. Products and sums are exact in integer arithmetic, so float32 of rounded numbers gives the same to its own rounding.

Reference: Nagel et al., "A White Paper on Neural Network Quantization", 2021, arXiv:2106.08295, sections 2.2, 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

MODES = STATIC, DYNAMIC = ("static", "dynamic")
ROUNDING = "rounding"  # name of the module that a layer gets; part of the names of its numbers
MOST = 255  # of the levels of inputs
_MOST_WEIGHT = 127
_SAMPLE = 2**16  # numbers of a layer's input that a batch is judged by
_SHARES = tuple(share / 20 for share in range(20, 5, -1))  # of the range seen, from all of it to 0.3


class Levels(NamedTuple):
    """Levels of inputs: x is (n - zero_point) * scale, n an integer in [0, 255]. Float32, [] or [B, 1, ...]."""

    scale: Tensor
    zero_point: Tensor

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> Levels:
        """Return the levels from low to high, which 0 is made to lie between and to be one of."""
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = torch.where(high > low, (high - low) / MOST, 1.0)
        return cls(scale, (-low / scale).round())

    def round(self, x: Tensor) -> Tensor:
        """Return x at the nearest levels; NaN stays."""
        return (x / self.scale + self.zero_point).round().clamp(0, MOST).sub(self.zero_point).mul(self.scale)


class Rounding(nn.Module):
    """What makes a layer compute in eight bits: how its weight and its input are rounded.

    Attributes:
        weight_scale: [out], of the weight's rows: weight / weight_scale are integers in [-127, 127].
        scale, zero_point: [], of the input, found by calibration ("static"). None ("dynamic"): each image's input has
            levels from its own least number to its largest. Those of a whole batch, which torch's dynamic quantization
            takes, would make an embedding depend on the other images.
    """

    weight_scale: Tensor
    scale: Tensor | None
    zero_point: Tensor | None

    def __init__(self, weight_scale: Tensor, levels: Levels | None) -> None:
        super().__init__()
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("scale", None if levels is None else levels.scale)
        self.register_buffer("zero_point", None if levels is None else levels.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Return an input [B, ...] rounded."""
        if self.scale is not None and self.zero_point is not None:
            return Levels(self.scale, self.zero_point).round(x)
        sides = tuple(range(1, x.ndim))
        return Levels.between(x.amin(sides, keepdim=True), x.amax(sides, keepdim=True)).round(x)


def layers_of(net: nn.Module, depthwise: bool = False, keep: Collection[str] = ()) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the layers of a net that are to be rounded, by name.

    Args:
        net: any.
        depthwise: grouped convolutions too, which hold few weights, and whose channels differ most in their range.
        keep: names or patterns of layers that stay as they are.
    Raises:
        ValueError: if a pattern fits no layer, or no layer is left.
    """
    every = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise ValueError(f"no layer is called {pattern!r}; there are {', '.join([*every][:3])}, ...")
    chosen = {
        name: layer
        for name, layer in every.items()
        if not any(fnmatchcase(name, pattern) for pattern in keep)
        and (depthwise or isinstance(layer, nn.Linear) or layer.groups == 1)
    }
    if not chosen:
        raise ValueError("no layer is left to quantize")
    return chosen


def weight_scale(weight: Tensor) -> Tensor:
    """Return the scale [out] at which the largest number of each row of a weight [out, ...] is 127 or -127."""
    most = weight.detach().flatten(1).abs().amax(1)
    return torch.where(most > 0, most / _MOST_WEIGHT, 1.0)


def integers(weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight [out, ...] in int8, at the scale [out] of its rows."""
    return (weight.detach() / _by_row(scale, weight)).round().clamp(-_MOST_WEIGHT, _MOST_WEIGHT).to(torch.int8)


def floats(weight: Tensor, scale: Tensor) -> Tensor:
    """Return an int8 weight [out, ...] in float32."""
    return weight.float() * _by_row(scale, weight)


def attach(layer: nn.Module, rounding: Rounding) -> None:
    """Let a layer round its input; its weight is rounded already."""
    layer.add_module(ROUNDING, rounding)
    layer.register_forward_pre_hook(_round_input)


def find_levels(run: Callable[[], object], layers: Mapping[str, nn.Module]) -> dict[str, Levels]:
    """Return for each layer the levels at which its inputs lose least, in mean square, of a range from 30 % to all.

    A range that leaves out the farthest numbers has finer levels for the others.

    Args:
        run: passes the images of the calibration through the net; is called twice, and gives the layers the same twice.
        layers: by name; of the net.
    Raises:
        ValueError: if a layer gets no input, or one that is not finite.
    """
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    losses: dict[str, Tensor] = {}

    def widen(name: str, x: Tensor) -> None:
        low, high = x.aminmax()
        before = ends.get(name, (low, high))
        ends[name] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    def weigh(name: str, x: Tensor) -> None:
        few = x.flatten()[:: x.numel() // _SAMPLE | 1]  # an odd step, to meet all channels
        lost = [(_candidate(ends[name], share).round(few) - few).square().sum(dtype=torch.float64) for share in _SHARES]
        losses[name] = losses.get(name, 0) + torch.stack(lost)

    with torch.inference_mode():
        for look in (widen, weigh):
            with _watched(layers, look):
                run()
    for name in layers:
        if name not in losses or not losses[name].isfinite().all():
            raise ValueError(f"calibration: the layer {name} gets no input, or one that is not finite")
    found = {name: _candidate(ends[name], _SHARES[int(losses[name].argmin())]) for name in layers}
    return {name: Levels(*(values.clone() for values in levels)) for name, levels in found.items()}


def _candidate(ends: tuple[Tensor, Tensor], share: float) -> Levels:
    return Levels.between(share * ends[0], share * ends[1])


@contextmanager
def _watched(layers: Mapping[str, nn.Module], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_row(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


def _round_input(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    rounding = getattr(layer, ROUNDING)
    return (rounding(inputs[0]),)
