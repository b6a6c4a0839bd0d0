"""What the backbones share: the shapes they state, the forward pass, the initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .features import Features, split_norm
from .recomputation import run_recomputed

INPUT_SIZE = 112
MAP_SIZE = 7  # the strides of every backbone take 112 to 7


class Backbone(nn.Module):
    """A network of three parts: input_layer, body, output_layer. A subclass builds them.

    Attributes:
        input_size: side of the images.
        embedding_size: length D of the embedding.
        map_shape: (channels, height, width) of the feature map.
        activation_checkpointing: whether the blocks of the body compute their activations again in the backward pass
            of training instead of keeping them.
    """

    input_size: int = INPUT_SIZE
    embedding_size: int
    map_shape: tuple[int, int, int]
    input_layer: nn.Sequential
    output_layer: nn.Sequential
    body: nn.Sequential
    activation_checkpointing: bool = False

    def forward(self, images: Tensor) -> Features:
        """Return embedding [B, D], norm [B, 1] and feature map [B, *map_shape] of images [B, 3, 112, 112].

        The feature map is the raw output of the last body block.

        Raises:
            ValueError: if the images have another shape.
        """
        size = self.input_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"model(images): expected images [B, 3, {size}, {size}] in [-1, 1], RGB, got {list(images.shape)}; "
                f"use transforms.to_tensor on crops of {size} x {size}"
            )
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        stem = self.input_layer(images)
        feature_map = run_recomputed(self.body, stem) if recompute else self.body(stem)
        embedding, norm = split_norm(self.output_layer(feature_map))
        return Features(embedding, norm, feature_map)


def initialise(model: nn.Module) -> None:
    """Draw the weights for training from scratch: Kaiming normal (fan out), biases 0, batch norms 1 and 0.

    The fan of a grouped convolution is counted per group.

    Reference: He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.data.mul_(module.groups**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
