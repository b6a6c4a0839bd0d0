"""A thin IResNet for machines without a GPU."""

from __future__ import annotations

from torch import nn

from .iresnet import IResNet, Stage, conv_bn_prelu

# Layers on large maps cost the most time on a CPU and teach the least: 16 channels at 56 x 56, one block at 28 x 28.
STEM_CHANNELS = (16, 32)
STAGES = (Stage(32, 1, stride=1), Stage(64, 2, stride=2), Stage(128, 2, stride=2))


def ir_tiny(embedding_size: int) -> IResNet:
    """Return an IResNet whose stem takes 112 to 28 at once, with stages of 32, 64 and 128 channels, map [128, 7, 7].

    There is no dropout: so small a network underfits before it overfits.
    """
    narrow, wide = STEM_CHANNELS
    stem = nn.Sequential(*conv_bn_prelu(3, narrow, stride=2), *conv_bn_prelu(narrow, wide, stride=2))
    return IResNet(stem, wide, STAGES, embedding_size, dropout=0.0)
