"""The architectures by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .backbone import Backbone
from .edgeface import EdgeFace
from .insightface import DEPTHS, InsightFaceIResNet
from .ir_tiny import ir_tiny
from .iresnet import iresnet
from .mobilefacenet import MobileFaceNet

MODELS: dict[str, Callable[[int], Backbone]] = {
    "ir_18": partial(iresnet, depths=(2, 2, 2, 2)),
    "ir_34": partial(iresnet, depths=(3, 4, 6, 3)),
    "ir_50": partial(iresnet, depths=(3, 4, 14, 3)),
    "ir_101": partial(iresnet, depths=(3, 13, 30, 3)),
    "ir_se_18": partial(iresnet, depths=(2, 2, 2, 2), squeeze_excite=True),
    "ir_se_34": partial(iresnet, depths=(3, 4, 6, 3), squeeze_excite=True),
    "ir_se_50": partial(iresnet, depths=(3, 4, 14, 3), squeeze_excite=True),
    "ir_se_101": partial(iresnet, depths=(3, 13, 30, 3), squeeze_excite=True),
    "ir_tiny": ir_tiny,
    "mobilefacenet": MobileFaceNet,
    "edgeface_xxs": partial(EdgeFace, size="xx_small"),
    "edgeface_xs": partial(EdgeFace, size="x_small"),
    "edgeface_xs_gamma_06": partial(EdgeFace, size="x_small", rank_ratio=0.6),
    "edgeface_s_gamma_05": partial(EdgeFace, size="small", rank_ratio=0.5),
    "edgeface_base": partial(EdgeFace, size="base"),
    **{f"insightface_r{depth}": partial(InsightFaceIResNet, depth=depth) for depth in DEPTHS},
}


def build_model(arch: str, embedding_size: int = 512) -> Backbone:
    """Return a backbone with freshly drawn weights.

    `model(images [B, 3, 112, 112])` gives `Features(embedding, norm, feature_map)`, and the model states its
    `embedding_size`, `map_shape` (channels, height, width of the feature map) and `input_size`.

    Args:
        arch: a key of `MODELS`.
        embedding_size: length of the embedding.
    Raises:
        ValueError: if the architecture is unknown or the embedding size below 1.
    """
    if arch not in MODELS:
        raise ValueError(f"build_model: unknown arch {arch!r}, expected one of {', '.join(MODELS)}")
    if embedding_size < 1:
        raise ValueError(f"build_model: embedding_size must be at least 1, got {embedding_size}")
    return MODELS[arch](embedding_size)
