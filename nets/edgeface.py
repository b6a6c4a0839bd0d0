"""EdgeFace: EdgeNeXt, of convolutions and attention between channels, with a linear layer that gives the embedding.

The order in which modules and parameters are created is the order of the state-dict keys, and that of the public files
without their leading `model.`: part of the format.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbone import Backbone

KERNELS = (3, 5, 7, 9)  # of the depthwise convolutions, by stage
GROUPS = (1, 2, 3, 4)  # of channels in the block that ends a stage; 1: the stage ends with a block like the others
EXPANSION = 4
EPSILON = 1e-6  # of every layer norm
FIRST_SCALE = 1e-6  # of the residual branches, as EdgeNeXt is trained
FIRST_STD = 0.02
STEM_STRIDE = 4
NUM_WAVES = 32  # sines and cosines a direction of the position encoding
WAVE_BASE = 10_000.0


class Size(NamedTuple):
    """What the sizes of EdgeNeXt differ in: channels and blocks of the four stages, heads of the attention."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: int


SIZES = {
    "xx_small": Size((24, 48, 88, 168), (2, 2, 6, 2), heads=4),
    "x_small": Size((32, 64, 100, 192), (3, 3, 9, 3), heads=4),
    "small": Size((48, 96, 160, 304), (3, 3, 9, 3), heads=8),
    "base": Size((80, 160, 288, 584), (3, 3, 9, 3), heads=8),
}


class LowRankLinear(nn.Module):
    """A linear layer as the product of two: `linear1` to `rank` numbers, without bias, and `linear2` from them."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features] of x [..., in_features]."""
        return self.linear2(self.linear1(x))


def linear(in_features: int, out_features: int, rank_ratio: float | None) -> nn.Module:
    """Return a linear layer with bias, whole or of rank max(2, floor(rank_ratio * min(in_features, out_features)))."""
    if rank_ratio is None:
        return nn.Linear(in_features, out_features)
    return LowRankLinear(in_features, out_features, max(2, int(min(in_features, out_features) * rank_ratio)))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell of a map [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PerCell(nn.Module):
    """The two layers that every block ends with, for each cell by itself: expand, GELU, project."""

    def __init__(self, channels: int, rank_ratio: float | None) -> None:
        super().__init__()
        self.fc1 = linear(channels, EXPANSION * channels, rank_ratio)
        self.fc2 = linear(EXPANSION * channels, channels, rank_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., C] of x [..., C]."""
        return self.fc2(functional.gelu(self.fc1(x)))


def add_scaled(x: Tensor, scale: Tensor, branch: Tensor) -> Tensor:
    """Return x + scale * branch, in the branch's precision: scales are float32 under autocast, the sum need not be."""
    return torch.addcmul(x.to(branch.dtype), scale.to(branch.dtype), branch)


class ConvolutionBlock(nn.Module):
    """Depthwise convolution, layer norm and the two layers for each cell, in a scaled residual branch."""

    def __init__(self, channels: int, kernel: int, rank_ratio: float | None) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), FIRST_SCALE))
        self.conv_dw = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.mlp = PerCell(channels, rank_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w]."""
        cells = x.permute(0, 2, 3, 1)
        branch = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return add_scaled(cells, self.gamma, branch).permute(0, 3, 1, 2)


class PositionEncoding(nn.Module):
    """What tells the attention where a cell lies: sines and cosines of its row and column, projected to channels.

    Row i of n, from 1, is the angle a = 2 pi i / (n + 1e-6); of it sin(a / 10000^(2 k / 32)) and the cosine are taken
    in turn, k = 0 ... 15; the same of the column.

    Args:
        channels: of the map to which it is added.
        side: rows and columns of that map.
    """

    waves: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * NUM_WAVES, channels, 1)
        angles = torch.arange(1, side + 1, dtype=torch.float64, device="cpu") * (2 * math.pi / (side + 1e-6))
        rates = WAVE_BASE ** (-torch.arange(0, NUM_WAVES, 2, dtype=torch.float64, device="cpu") / NUM_WAVES)
        phases = angles[:, None] * rates
        waves = torch.stack((phases.sin(), phases.cos()), dim=2).reshape(side, NUM_WAVES).T.float()
        rows = waves[:, :, None].expand(-1, side, side)
        columns = waves[:, None, :].expand(-1, side, side)
        # Computed on the CPU: arithmetic on the meta device imports a compiler, which takes seconds.
        made = torch.cat((rows, columns))[None].to(self.token_projection.weight.device)
        self.register_buffer("waves", made, persistent=False)

    def forward(self) -> Tensor:
        """Return [1, channels, side, side]."""
        return self.token_projection(self.waves)


class ChannelAttention(nn.Module):
    """Attention between the channels of a head instead of between cells: its cost grows with cells linearly.

    Reference: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv:2106.09681, Eq. 2.
    """

    def __init__(self, channels: int, heads: int, rank_ratio: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = linear(channels, 3 * channels, rank_ratio)
        self.proj = linear(channels, channels, rank_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, N, C] of the cells x [B, N, C]."""
        batch, cells, channels = x.shape
        parts = self.qkv(x).reshape(batch, cells, 3, self.heads, channels // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 4, 1).unbind()  # each [B, heads, C / heads, N]
        queries, keys = functional.normalize(queries, dim=-1), functional.normalize(keys, dim=-1)
        attention = (queries @ keys.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.proj((attention @ values).permute(0, 3, 1, 2).reshape(batch, cells, channels))


class AttentionBlock(nn.Module):
    """EdgeNeXt's split depthwise transpose attention: groups of channels filtered one after the other, then attention.

    The first group is filtered by a 3x3 depthwise convolution; its output is added to the next group, and so on; the
    last group stays as it is. Attention between channels follows, in a scaled residual branch of its own, then layer
    norm and the two layers for each cell, as in the other blocks.

    Args:
        channels: of the map.
        groups: into how many the channels are split, at least 2; the last one may be smaller.
        heads: of the attention.
        rank_ratio: of the linear layers, None: whole.
        side: rows and columns of the map, if positions are added before the attention.
    Reference: Maaz et al., "EdgeNeXt", CADL 2022, arXiv:2206.10589, Sec. 3.
    """

    def __init__(self, channels: int, groups: int, heads: int, rank_ratio: float | None, side: int | None) -> None:
        super().__init__()
        self.group_size = width = math.ceil(channels / groups)
        self.gamma_xca = nn.Parameter(torch.full((channels,), FIRST_SCALE))
        self.gamma = nn.Parameter(torch.full((channels,), FIRST_SCALE))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(groups - 1))
        self.pos_embd = None if side is None else PositionEncoding(channels, side)
        self.norm_xca = nn.LayerNorm(channels, eps=EPSILON)
        self.xca = ChannelAttention(channels, heads, rank_ratio)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.mlp = PerCell(channels, rank_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] of x [B, C, h, w]."""
        mixed = self._filter(x)
        if self.pos_embd is not None:
            mixed = mixed + self.pos_embd()
        cells = mixed.permute(0, 2, 3, 1)
        tokens = cells.flatten(1, 2)
        tokens = add_scaled(tokens, self.gamma_xca, self.xca(self.norm_xca(tokens)))
        branch = self.mlp(self.norm(tokens)).view_as(cells)
        return add_scaled(x.permute(0, 2, 3, 1), self.gamma, branch).permute(0, 3, 1, 2)

    def _filter(self, x: Tensor) -> Tensor:
        *groups, last = x.split(self.group_size, dim=1)
        filtered: list[Tensor] = []
        for group, convolution in zip(groups, self.convs, strict=True):
            filtered.append(convolution(group + filtered[-1] if filtered else group))
        return torch.cat((*filtered, last), dim=1)


class Output(nn.Module):
    """Mean over the cells, layer norm, linear layer."""

    def __init__(self, channels: int, embedding_size: int, rank_ratio: float | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.fc = linear(channels, embedding_size, rank_ratio)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return [B, embedding_size] of a map [B, C, h, w]."""
        return self.fc(self.norm(feature_map.mean(dim=(2, 3))))


class EdgeFace(Backbone):
    """EdgeFace for images of 112 x 112: maps of 28, 14, 7 and 3 cells a side.

    Each stage after the first begins with a layer norm and a 2x2 convolution of stride 2, which leaves out the last row
    and column of 7: so the feature map is 3 x 3, of the last stage, and the detail map 7 x 7, of the one before.
    Published weights give outputs of length 2, not 20 as the other backbones do, and expect RGB.

    Args:
        embedding_size: length D of the embedding.
        size: a key of `SIZES`.
        rank_ratio: gamma: every linear layer is the product of two, of a rank that is this share of its smaller side;
            None: they are whole.
    Reference: George et al., "EdgeFace: Efficient Face Recognition Model for Edge Devices", IEEE T-BIOM 2024,
        arXiv:2307.01838; Maaz et al., "EdgeNeXt", CADL 2022, arXiv:2206.10589.
    """

    first_convolution = "stem.0.weight"

    def __init__(self, embedding_size: int, size: str, rank_ratio: float | None = None) -> None:
        super().__init__()
        channels, depths, heads = SIZES[size]
        self.embedding_size = embedding_size
        self.last_linear = "head.fc.weight" if rank_ratio is None else "head.fc.linear2.weight"
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], STEM_STRIDE, STEM_STRIDE),
            ChannelNorm(channels[0]),
        )
        stages = []
        side = self.input_size // STEM_STRIDE
        for index, (width, depth, kernel, groups) in enumerate(zip(channels, depths, KERNELS, GROUPS, strict=True)):
            downsample: list[nn.Module] = []
            if index > 0:
                narrow = channels[index - 1]
                downsample = [ChannelNorm(narrow), nn.Conv2d(narrow, width, 2, stride=2)]
                side //= 2
            blocks: list[nn.Module] = [ConvolutionBlock(width, kernel, rank_ratio) for _ in range(depth)]
            if groups > 1:
                # Positions are told once, to the first attention.
                positions = side if index == 1 else None
                blocks[-1] = AttentionBlock(width, groups, heads, rank_ratio, positions)
            stage = {"downsample": nn.Sequential(*downsample), "blocks": nn.Sequential(*blocks)}
            stages.append(nn.Sequential(OrderedDict(stage)))
        self.stages = nn.Sequential(*stages)
        self.head = Output(channels[-1], embedding_size, rank_ratio)
        self.map_shape = (channels[-1], side, side)
        self.detail_channels = channels[-2]
        self.detail_blocks = sum(depths[:-1]) + 2 * 2  # the blocks of three stages, and two layers between each
        _draw(self)

    def parts(self) -> tuple[nn.Module, list[nn.Module], nn.Module]:
        """Return the stem, the blocks of all stages with the layers between stages, and the head."""
        parts = [part for stage in self.stages.children() for part in stage.children()]
        body = [block for part in parts for block in part.children()]
        return self.stem, body, self.head


def _draw(model: nn.Module) -> None:
    """Draw the weights for training from scratch as EdgeNeXt does: truncated normal, 0.02 wide; biases 0."""
    if next(model.parameters()).is_meta:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=FIRST_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
