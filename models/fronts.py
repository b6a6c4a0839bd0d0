"""Fronts: what stands between low-resolution images and a backbone, on its device, never in a worker.

The protocol: a module that turns images [B, 3, h, w] float32 in [0, 1], RGB, into [B, 3, 112, 112] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import nets
from transforms import IMAGE_SIZE

BICUBIC = "bicubic"
_EXTRA = "spandrel>=0.4,<0.5"  # as of the extra `front`; a test compares them
_ROUNDING = 1e-3
_IN_A_DICT = ("params_ema.", "params.")  # under which BasicSR and its relatives save weights; the average first


class Front(nn.Module):
    """A front as networks and losses see it: images as `to_tensor` makes them in and out. Frozen, always in eval mode.

    It computes in float32 under any autocast; its result is no part of a graph.

    Args:
        net: of the protocol above.
        name: what errors call it.
    """

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.name = name
        self.eval()

    def train(self, mode: bool = True) -> Front:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return images [B, 3, 112, 112] in [-1, 1] and their dtype of images [B, 3, h, w] floating in [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = self.net(images.float().add(1).div(2))
        return pixels.to(images.dtype).mul(2).sub(1)

    def check(self, lr_size: int) -> None:
        """Try the net on black, white and random images of a size, before anything is trained with it.

        Raises:
            ValueError: one line, if it does not take them, its images are not 112 x 112, float32, finite and in [0, 1].
        """
        device = next((weight.device for weight in self.net.parameters()), torch.device("cpu"))
        shape = (3, lr_size, lr_size)
        random = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        images = torch.stack([torch.zeros(shape), torch.ones(shape), random]).to(device)
        try:
            with torch.no_grad():
                found = self.net(images)
        except Exception as error:  # a foreign network refuses a size with whatever it likes
            reason = (str(error).splitlines() or [""])[0][:120]
            raise ValueError(
                f"{self.name}: does not take images of {lr_size} x {lr_size} ({type(error).__name__}: {reason})"
            ) from error
        if fault := _fault(found, len(images)):
            raise ValueError(f"{self.name}: for images of {lr_size} x {lr_size} in [0, 1] {fault}")


def open_front(front: str, lr_size: int) -> Front:
    """Return a front by name or from a file, on the CPU, checked with images of `lr_size` pixels.

    Files are read without executing what they hold. Those of `nets.front` are known by their shapes; any other network
    is built by spandrel where that is installed, and what it gives is resized to 112 x 112.

    Args:
        front: "bicubic", or the path of a weight file, see `nets.read_state_dict`.
        lr_size: side of the images that it will get.
    Raises:
        FileNotFoundError, ValueError: one line, if there is no such file, it holds no front, or the front fails
            `Front.check`.
    """
    if front == BICUBIC:
        return Front(nets.FRONTS[BICUBIC](), BICUBIC)
    path = Path(front)
    state = nets.read_state_dict(path).state_dict
    try:
        net = nets.front_of(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    opened = Front(net or _foreign(path, state), str(path))
    opened.check(lr_size)
    return opened


def _fault(found: object, num: int) -> str:
    """Return what is wrong with images that a front has made, "" if nothing is."""
    expected = [num, 3, IMAGE_SIZE, IMAGE_SIZE]
    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        kind = str(found.dtype) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        return f"it gives {kind}, expected torch.float32"
    if list(found.shape) != expected:
        return f"it gives {list(found.shape)}, expected {expected}"
    if not torch.isfinite(found).all():
        return "it gives values that are not finite; the weights are damaged"
    low, high = (float(value) for value in found.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        return f"it gives values in [{low:.3g}, {high:.3g}], expected [0, 1]"
    return ""


class _Resized(nn.Module):
    """A network of spandrel's: called through its descriptor, which pads and clips; resized to 112 x 112."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model = descriptor.model
        self._descriptor = descriptor

    def forward(self, images: Tensor) -> Tensor:
        pixels: Tensor = self._descriptor(images)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        if pixels.shape[-2:] == size:
            return pixels
        return functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)


def _foreign(path: Path, state: Mapping[str, Tensor]) -> nn.Module:
    try:
        from spandrel import ModelLoader
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: holds no front of ours (espcn, srcnn); other networks that enlarge images need spandrel: "
            f"pip install '{_EXTRA}'"
        ) from error
    for prefix in _IN_A_DICT:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner:
            state = inner
            break
    try:
        descriptor = ModelLoader().load_from_state_dict(dict(state))
    except Exception as error:  # whatever its architectures raise when fed with foreign weights
        reason = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(f"{path}: spandrel knows no such network ({type(error).__name__}: {reason})") from error
    channels = (descriptor.input_channels, descriptor.output_channels)
    if descriptor.purpose == "Inpainting" or channels != (3, 3):
        raise ValueError(
            f"{path}: a network for {descriptor.purpose} of {channels[0]} to {channels[1]} channels; a front takes and "
            "gives RGB images"
        )
    return _Resized(descriptor)
