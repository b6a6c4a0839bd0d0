"""What the backbones share: the forward pass, what it returns, and the first weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from ops import at_least_float32

from .lora import set_quality
from .quality import image_quality
from .recomputation import run_recomputed

INPUT_SIZE = 112
MAP_SIZE = 7  # to which the strides of IResNets and MobileFaceNet take 112
# Below this length an output has no direction to speak of; float32 squares of smaller values underflow.
MIN_NORM = 1e-12


class Features(NamedTuple):
    """What a backbone returns, in training, evaluation and export alike.

    Attributes:
        embedding: [B, D] at least float32, unit L2 length (all zeros where the network's output is zero).
        norm: [B, 1] at least float32, L2 length before normalizing.
        feature_map: [B, C, h, w], raw output of the last body block, in the dtype the body computed in.
    """

    embedding: Tensor
    norm: Tensor
    feature_map: Tensor


def split_norm(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split outputs into unit vectors and their lengths.

    Values and gradients are finite everywhere: outputs shorter than 1e-12 are returned as they are instead of
    being divided, so a zero stays zero.

    Args:
        outputs: [B, D] floating.
    Returns:
        ([B, D] unit vectors, [B, 1] lengths), float64 for float64 outputs, else float32.
    """
    outputs = at_least_float32(outputs)
    norm = torch.linalg.vector_norm(outputs, dim=1, keepdim=True)
    divisor = torch.where(norm > MIN_NORM, norm, 1.0)
    return outputs / divisor, norm


class Backbone(nn.Module):
    """A network of three parts: input_layer, body, output_layer. A subclass builds them, or says what its `parts` are.

    Attributes:
        input_size: side of the images.
        embedding_size: length D of the embedding.
        map_shape: (channels, height, width) of the feature map.
        detail_channels: of the detail map, an earlier one with twice the feature map's height and width, or one more.
        detail_blocks: how many blocks of the body make it.
        first_convolution: name of the weight that sees the images, [C, 3, k, k].
        last_linear: name of the matrix that gives the embedding, [embedding_size, C].
        activation_checkpointing: whether the blocks of the body compute their activations again in the backward pass
            of training instead of keeping them.
        mixes_by_quality: whether its adapters are two, mixed by the `image_quality` of each image, which it then
            measures in every forward pass.
    """

    input_size: int = INPUT_SIZE
    embedding_size: int
    map_shape: tuple[int, int, int]
    detail_channels: int
    detail_blocks: int
    first_convolution: str = "input_layer.0.weight"
    last_linear: str = "output_layer.3.weight"
    input_layer: nn.Sequential
    output_layer: nn.Sequential
    body: nn.Sequential
    activation_checkpointing: bool = False
    mixes_by_quality: bool = False

    @overload
    def forward(self, images: Tensor, detailed: Literal[False] = False) -> Features: ...

    @overload
    def forward(self, images: Tensor, detailed: Literal[True]) -> tuple[Features, Tensor]: ...

    def forward(self, images: Tensor, detailed: bool = False) -> Features | tuple[Features, Tensor]:
        """Return embedding [B, D], norm [B, 1] and feature map [B, *map_shape] of images [B, 3, 112, 112].

        The feature map is the raw output of the last body block. With `detailed` the second of two results is the
        detail map [B, detail_channels, H, W], of twice the sides or one more: h = H // 2, w = W // 2.

        Raises:
            ValueError: if the images have another shape.
        """
        size = self.input_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"model(images): expected images [B, 3, {size}, {size}] in [-1, 1], RGB, got {list(images.shape)}; "
                f"use transforms.to_tensor on crops of {size} x {size}"
            )
        if self.mixes_by_quality:
            set_quality(self, image_quality(images))
        input_layer, blocks, output_layer = self.parts()
        before = self.detail_blocks if detailed else 0
        detail = self._run(blocks[:before], input_layer(images))
        feature_map = self._run(blocks[before:], detail)
        features = Features(*split_norm(output_layer(feature_map)), feature_map)
        return (features, detail) if detailed else features

    def parts(self) -> tuple[Callable[[Tensor], Tensor], list[nn.Module], Callable[[Tensor], Tensor]]:
        """Return what makes the first map, the blocks that make the feature map of it, and what makes the output."""
        return self.input_layer, list(self.body), self.output_layer

    def _run(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return run_recomputed(blocks, x)
        for block in blocks:
            x = block(x)
        return x


def initialize(model: nn.Module) -> None:
    """Draw the weights for training from scratch: Kaiming normal (fan out), biases 0, batch norms 1 and 0.

    The fan of a grouped convolution is counted per group.

    Reference: He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return  # no numbers to draw, and torch would take a second to load how normal ones are drawn there
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.data.mul_(module.groups**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
