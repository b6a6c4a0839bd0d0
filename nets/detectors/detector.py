"""The detectors: backbone, attention, pyramid, context, and heads that describe each prior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..backbone import initialize
from .attention import ATTENTIONS
from .context import MIXINGS, SSH
from .deformable import DeformableConv2d
from .mobilenet import CHANNELS, MobileNet
from .pyramid import FPN, BiFPN, Maps

NUM_LEVELS = len(CHANNELS)
PRIORS_PER_CELL = 2
MEAN_BGR = (104.0, 117.0, 123.0)  # of ImageNet, as Caffe's models subtract it


class Detections(NamedTuple):
    """What a detector says about each of P priors of each image; `ops.boxes` has the priors and decodes.

    Attributes:
        loc: [B, P, 4] boxes, encoded against the priors.
        conf: [B, P, 2] background and face: probabilities in eval mode, logits in training mode.
        landmarks: [B, P, 10] five points, encoded: x1 y1 ... x5 y5, the eye on the left of the image first.
    """

    loc: Tensor
    conf: Tensor
    landmarks: Tensor


class DetectorForm(NamedTuple):
    """What tells one detector from another.

    Attributes:
        width: channels of the pyramid, a multiple of 4.
        cells: of the BiFPN; 0 is RetinaFace's FPN.
        attention: before and after the pyramid, a key of `ATTENTIONS`, or none.
        convolutions: those of the context module, a key of `context.CONVOLUTIONS`.
        mixing: of channels before the heads, a key of `context.MIXINGS`, or none.
        has_second_laterals: whether the first cell has second 1x1 convolutions of the two coarse maps.
    """

    width: int
    cells: int = 0
    attention: str | None = None
    convolutions: str = "plain"
    mixing: str | None = None
    has_second_laterals: bool = False


class Head(nn.Module):
    """A 1x1 convolution that gives `size` numbers for each prior of a cell."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv1x1 = nn.Conv2d(width, PRIORS_PER_CELL * size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, h * w * priors of a cell, size] of x [B, width, h, w], row by row."""
        return self.conv1x1(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.size))


def detector_input(images: Tensor) -> Tensor:
    """Return what detectors expect, BGR in 0..255 minus its mean over ImageNet, of RGB images in [-1, 1].

    The mean is not folded into the weights: the first convolution pads with zeros, which are this mean, so a folded
    network would differ along two edges of the image; and public files would not stay themselves.

    Args:
        images: [..., 3, H, W] floating.
    """
    mean = images.new_tensor(MEAN_BGR)[:, None, None]
    return images.flip(-3) * 127.5 + (127.5 - mean)


class Detector(nn.Module):
    """A face detector over the 16,800 priors (at 640 x 640) of RetinaFace, with the keys of its public files.

    `model(images) -> Detections` takes BGR images in 0..255 minus (104, 117, 123), of any size: `detector_input` makes
    them of RGB images in [-1, 1].

    Args:
        form: what it is made of; `build_detector` has the published ones by name.
    Raises:
        ValueError: if the width is not a multiple of 4.
    Reference: Deng et al., "RetinaFace", arXiv:1905.00641; Kim et al., "FeatherFace", Electronics 14(3) 517, 2025.
    """

    def __init__(self, form: DetectorForm) -> None:
        super().__init__()
        self.form = form
        width, attention = form.width, ATTENTIONS.get(form.attention or "")
        if width < 4 or width % 4:
            raise ValueError(f"Detector: width must be a multiple of 4, got {width}")
        self.body = MobileNet()
        # In the order of the public keys.
        self._before = [attention.before.format(level) for level in range(NUM_LEVELS)] if attention else []
        self._after = [attention.after.format(level) for level in range(NUM_LEVELS)] if attention else []
        if attention:
            for name, channels in zip(self._before, CHANNELS, strict=True):
                self.add_module(name, attention.build(channels))
        if form.cells:
            cells = [BiFPN(width, cell == 0, form.has_second_laterals) for cell in range(form.cells)]
            self.bifpn = nn.Sequential(*cells)
        else:
            self.fpn = FPN(width)
        if attention:
            for name in self._after:
                self.add_module(name, attention.build(width))
        for level in range(NUM_LEVELS):
            self.add_module(f"ssh{level + 1}", SSH(width, form.convolutions))
        for level in range(NUM_LEVELS):
            self.add_module(f"ssh{level + 1}_cs", nn.Sequential(*(MIXINGS[form.mixing](width) if form.mixing else [])))
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(Head(width, size) for _ in range(NUM_LEVELS)) for size in (2, 4, 10)
        )
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Start training from Kaiming's weights, plain convolutions in place of deformable ones, and no opinion."""
        initialize(self)
        for module in self.modules():
            if isinstance(module, DeformableConv2d):
                for convolution in (module.offset_conv, module.modulator_conv):
                    nn.init.zeros_(convolution.weight)
            elif isinstance(module, Head):
                nn.init.normal_(module.conv1x1.weight, std=0.01)

    def maps(self, images: Tensor) -> Maps:
        """Return the maps [B, width, ceil(H / stride), ceil(W / stride)], strides 8, 16 and 32, that the heads read.

        Args:
            images: [B, 3, H, W] floating, BGR in 0..255 minus (104, 117, 123).
        Raises:
            ValueError: if the images have another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"detector(images): expected images [B, 3, H, W], BGR in 0..255 minus {MEAN_BGR}, got "
                f"{list(images.shape)}; nets.detector_input makes them of RGB in [-1, 1]"
            )
        maps = self._each(self._before, self.body(images))
        maps = self._each(self._after, self.bifpn(maps) if self.form.cells else self.fpn(maps))
        maps = self._each(["ssh1", "ssh2", "ssh3"], maps)
        return self._each(["ssh1_cs", "ssh2_cs", "ssh3_cs"], maps)

    def _each(self, names: list[str], maps: Maps) -> Maps:
        """Return what the modules of these names make of the maps; no names: the maps."""
        if not names:
            return maps
        fine, middle, coarse = (self.get_submodule(name)(each) for name, each in zip(names, maps, strict=True))
        return fine, middle, coarse

    def heads(self, maps: Maps) -> Detections:
        """Return what the heads say about the priors of three maps, level by level."""
        loc, conf, landmarks = (
            torch.cat([head(each) for head, each in zip(heads, maps, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return Detections(loc, conf if self.training else conf.softmax(dim=-1), landmarks)

    def forward(self, images: Tensor) -> Detections:
        """Return boxes, classes and landmarks of each prior of images [B, 3, H, W]; see `maps`."""
        return self.heads(self.maps(images))
