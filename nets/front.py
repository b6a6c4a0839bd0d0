"""Fronts: small networks that enlarge low-resolution faces to the size that backbones read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ops import MAX_WEIGHT, nonfinite

from .backbone import INPUT_SIZE


class Bicubic(nn.Module):
    """Bicubic interpolation, without weights: [B, 3, h, w] in [0, 1] -> [B, 3, 112, 112] in [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """Return enlarged images; overshoot beyond [0, 1] is clipped."""
        return enlarged(images).clamp(0, 1)


class SRCNN(nn.Module):
    """Three convolutions of 9, 1 and 5 pixels, which correct bicubically enlarged images of any size.

    As first drawn it corrects nothing. Reference: Dong, Loy, He, Tang, "Image Super-Resolution Using Deep Convolutional
    Networks", TPAMI 2016, arXiv:1501.00092; that the correction is added, not the image made, is ours.

    Args:
        widths: channels of the two inner maps.
    """

    def __init__(self, widths: tuple[int, int] = (32, 16)) -> None:
        super().__init__()
        self.layers = _convolutions(widths, (9, 1, 5), 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return enlarged images [B, 3, 112, 112] in [0, 1] of images [B, 3, h, w] in [0, 1]."""
        whole = enlarged(images)
        return (whole + self.layers(whole)).clamp(0, 1)


class ESPCN(nn.Module):
    """Three convolutions of 5, 3 and 3 pixels on the small image, whose channels become pixels.

    What they give is `scale` times as large as the image; it is resized to 112 and corrects the bicubically enlarged
    image. For 16 pixels that is a sixteenth of SRCNN's multiplications. As first drawn it corrects nothing. Reference:
    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network", CVPR 2016, arXiv:1609.05158, whose tanh is a ReLU here.

    Args:
        widths: channels of the two inner maps.
        scale: >= 1; 7 for images of 16 pixels, 4 for 28.
    """

    def __init__(self, widths: tuple[int, int] = (32, 16), scale: int = 7) -> None:
        super().__init__()
        self.scale = scale
        self.layers = _convolutions(widths, (5, 3, 3), 3 * scale**2)

    def forward(self, images: Tensor) -> Tensor:
        """Return enlarged images [B, 3, 112, 112] in [0, 1] of images [B, 3, h, w] in [0, 1]."""
        correction = functional.pixel_shuffle(self.layers(images), self.scale)
        return (enlarged(images) + enlarged(correction)).clamp(0, 1)


FRONTS: dict[str, Callable[..., nn.Module]] = {"bicubic": Bicubic, "espcn": ESPCN, "srcnn": SRCNN}


def front_of(state: Mapping[str, Tensor]) -> nn.Module | None:
    """Return the front of ours whose weights these are, by their names and shapes; None: they are another network's.

    Raises:
        ValueError: if they are of a front and hold values that are not finite.
    """
    front = _empty_front([tuple(state[name].shape) for name in _WEIGHTS if name in state])
    if front is None:
        return None
    own = {name: tuple(value.shape) for name, value in front.state_dict().items()}
    if own != {name: tuple(value.shape) for name, value in state.items()}:
        return None
    if fault := next(filter(None, (nonfinite(value, name, MAX_WEIGHT) for name, value in state.items())), None):
        raise ValueError(fault)
    front.to_empty(device="cpu")
    front.load_state_dict(state)
    return front


def enlarged(images: Tensor) -> Tensor:
    """Return images [B, C, h, w] as [B, C, 112, 112], bicubically, not clipped."""
    return functional.interpolate(images, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", align_corners=False)


_WEIGHTS = ("layers.0.weight", "layers.2.weight", "layers.4.weight")


def _empty_front(shapes: list[tuple[int, ...]]) -> nn.Module | None:
    """Return a front without memory whose convolutions may have these shapes."""
    if len(shapes) != len(_WEIGHTS) or any(len(shape) != 4 or 0 in shape for shape in shapes):
        return None
    widths, kernels = (shapes[0][0], shapes[1][0]), tuple(shape[-1] for shape in shapes)
    scale = math.isqrt(shapes[2][0] // 3)
    with torch.device("meta"):
        if kernels == (9, 1, 5):
            return SRCNN(widths)
        return ESPCN(widths, scale) if kernels == (5, 3, 3) and scale else None


def _convolutions(widths: tuple[int, int], kernels: tuple[int, int, int], channels: int) -> nn.Sequential:
    first, second = widths
    sizes = zip((3, first, second), (first, second, channels), kernels, strict=True)
    convolutions = [nn.Conv2d(inputs, outputs, k, padding=k // 2) for inputs, outputs, k in sizes]
    nn.init.zeros_(convolutions[2].weight)
    nn.init.zeros_(convolutions[2].bias)  # type: ignore[arg-type]  # it has one
    return nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
