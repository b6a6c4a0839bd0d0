"""Backbones for `torch.hub.load(path_of_this_checkout, "ir_50", source="local")`."""

from __future__ import annotations

from collections.abc import Callable

import nets

dependencies = ["torch", "safetensors"]


def _entry(arch: str) -> Callable[..., nets.Backbone]:
    def build(embedding_size: int = 512, weights: str | None = None, color_space: str | None = None) -> nets.Backbone:
        model = nets.build_model(arch, embedding_size)
        if weights is not None:
            nets.load_weights(model, weights, color_space)
        return model.eval()

    build.__doc__ = f"""Return {arch} in eval mode: images [B, 3, 112, 112] float32 in [-1, 1], RGB -> nets.Features.

    Args:
        embedding_size: length of the embedding.
        weights: file to read weights from; None: random ones.
        color_space: channel order of weights whose file does not state it, see nets.load_weights.
    """
    return build


globals().update({arch: _entry(arch) for arch in nets.MODELS})
