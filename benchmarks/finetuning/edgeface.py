"""EdgeFace's forward pass against a plain composition of the same layers.

Run as `python -m benchmarks edgeface`. "Plain" is the published formulation written out in functions: one call of each
of the same layers, convolutions, layer norms and linear layers of torch, in the papers' order, in eval mode without
gradients. The rest is written between them as published: scale, then add; heads split, normalized, multiplied and
joined; positions made anew in every pass. Blocks as modules, checks and the embedding's length are ours alone. Outputs
are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import nets
from benchmarks.harness.measure import alternate, ratio
from benchmarks.harness.program import Benchmark, scaled
from benchmarks.harness.tables import Column, Row, Table
from nets.edgeface import SIZES, EdgeFace

BATCH_SIZES = (1, 32)
GOAL = 1.05
TOLERANCE = 1e-4  # of an output, absolute

EDGEFACE = Table(
    "edgeface",
    (
        Column("network", "what", width=22),
        Column("images", "images"),
        Column("time", "time_ratio", "{:.2f}x"),
        Column("goal", "goal", "<= {:.2f}x"),
        Column("ours ms", "milliseconds", "{:.1f}"),
        Column("plain ms", "plain_milliseconds", "{:.1f}"),
    ),
)


def plain_forward(layers: Mapping[str, Any], size: str, images: Tensor) -> Tensor:
    """Return the outputs [B, D], not normalized, of images [B, 3, 112, 112] by the published formulation.

    Args:
        layers: parameters and torch's layers by the names of EdgeFace's files.
        size: a key of `SIZES`.
    """
    _, depths, heads = SIZES[size]
    x = layers["stem.1"](layers["stem.0"](images))
    for stage, depth in enumerate(depths):
        place = f"stages.{stage}."
        if stage:
            x = layers[f"{place}downsample.1"](layers[f"{place}downsample.0"](x))
        for block in range(depth):
            name = f"{place}blocks.{block}."
            attends = f"{name}gamma_xca" in layers
            x = _attention_block(layers, name, x, heads) if attends else _convolution_block(layers, name, x)
    return _linear(layers, "head.fc", layers["head.norm"](x.mean((2, 3))))


def _linear(layers: Mapping[str, Any], name: str, x: Tensor) -> Tensor:
    if f"{name}.linear1" in layers:
        return layers[f"{name}.linear2"](layers[f"{name}.linear1"](x))
    return layers[name](x)


def _per_cell(layers: Mapping[str, Any], name: str, x: Tensor) -> Tensor:
    """Return what the two layers at the end of a block add, from cells [..., C]."""
    hidden = F.gelu(_linear(layers, f"{name}mlp.fc1", layers[f"{name}norm"](x)))
    return layers[f"{name}gamma"] * _linear(layers, f"{name}mlp.fc2", hidden)


def _convolution_block(layers: Mapping[str, Any], name: str, x: Tensor) -> Tensor:
    return x + _per_cell(layers, name, layers[f"{name}conv_dw"](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _attention_block(layers: Mapping[str, Any], name: str, x: Tensor, heads: int) -> Tensor:
    batch, channels, height, width = x.shape
    convolutions = layers[f"{name}convs"]
    groups, filtered = x.chunk(len(convolutions) + 1, dim=1), list[Tensor]()
    for number, convolution in enumerate(convolutions):
        filtered.append(convolution(groups[number] + filtered[-1] if number else groups[number]))
    tokens = torch.cat([*filtered, groups[-1]], dim=1).reshape(batch, channels, -1).permute(0, 2, 1)
    if f"{name}pos_embd.token_projection" in layers:
        tokens = tokens + layers[f"{name}pos_embd.token_projection"](_waves(height, width)).flatten(2).transpose(1, 2)
    tokens = tokens + layers[f"{name}gamma_xca"] * _attend(
        layers, f"{name}xca.", layers[f"{name}norm_xca"](tokens), heads
    )
    cells = tokens.reshape(batch, height, width, channels)
    return x + _per_cell(layers, name, cells).permute(0, 3, 1, 2)


def _attend(layers: Mapping[str, Any], name: str, tokens: Tensor, heads: int) -> Tensor:
    batch, count, channels = tokens.shape
    parts = _linear(layers, f"{name}qkv", tokens).reshape(batch, count, 3, heads, -1)
    query, key, value = parts.permute(2, 0, 3, 4, 1)
    weights = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
    weights = (weights * layers[f"{name}temperature"]).softmax(-1)
    mixed = (weights @ value).permute(0, 3, 1, 2).reshape(batch, count, channels)
    return _linear(layers, f"{name}proj", mixed)


def _waves(height: int, width: int) -> Tensor:
    """Return the sines and cosines of a map's rows and columns, [1, 64, height, width]."""
    rates = 10_000 ** (2 * torch.div(torch.arange(32), 2, rounding_mode="floor") / 32)
    waves = []
    for side, shape in ((height, (-1, 1, 1)), (width, (1, -1, 1))):
        angles = 2 * math.pi * torch.arange(1, side + 1) / (side + 1e-6)
        phases = angles.reshape(shape) / rates
        waves.append(torch.stack((phases[..., ::2].sin(), phases[..., 1::2].cos()), -1).flatten(-2))
    return torch.cat([wave.expand(height, width, -1) for wave in waves], dim=-1).permute(2, 0, 1)[None]


def steps(arch: str, size: str, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the outputs, not normalized, by the network and by the plain composition of its layers."""
    torch.manual_seed(0)
    model = nets.build_model(arch).eval()
    assert isinstance(model, EdgeFace)
    for name, parameter in model.named_parameters():
        if "gamma" in name:  # fresh scales would hide what the blocks do
            parameter.data.fill_(0.5)
    layers: dict[str, Any] = {**dict(model.named_modules()), **dict(model.named_parameters())}

    def ours() -> Tensor:
        features = model(images)
        return features.embedding * features.norm

    return {"ours": ours, "plain": lambda: plain_forward(layers, size, images)}


def measure(arguments: argparse.Namespace) -> Iterator[tuple[Table, Row]]:
    """Yield a row for each network and batch.

    Raises:
        ArithmeticError: if the two do not compute the same.
    """
    for arch, size in (("edgeface_xxs", "xx_small"), ("edgeface_xs_gamma_06", "x_small")):
        for count in BATCH_SIZES:
            images = torch.rand(scaled(count, arguments.scale, 1), 3, 112, 112) * 2 - 1
            with torch.inference_mode():
                both = steps(arch, size, images)
                difference = (both["ours"]() - both["plain"]()).abs().max().item()
                if not difference < TOLERANCE:
                    raise ArithmeticError(f"{arch}: outputs differ by {difference:.1e} from those of the plain layers")
                runs = alternate(both, arguments.repeats)
            ours, plain = (sorted(runs[name])[len(runs[name]) // 2] for name in ("ours", "plain"))
            yield EDGEFACE, {
                "what": arch, "images": len(images), "time_ratio": ratio(ours, plain), "goal": GOAL,
                "milliseconds": 1000 * ours, "plain_milliseconds": 1000 * plain, "runs": runs["ours"],
            }  # fmt: skip


BENCHMARK = Benchmark((EDGEFACE,), measure)
