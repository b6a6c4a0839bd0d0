"""What is exported: networks with plain tensors in and out."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

import nets
from evaluation import Description, describe_with_flip
from models.face_model import FaceModel, describe
from qaconv import QAConv
from transforms import IMAGE_SIZE

ORDERS = ("rgb", "bgr")
SIZE = (IMAGE_SIZE, IMAGE_SIZE)  # of a face


class Form(NamedTuple):
    """How a network is wrapped.

    Attributes:
        preprocess: whether it takes uint8 [B, H, W, 3] instead of float32 [B, 3, H, W].
        color_order: of the channels that it takes, "rgb" or "bgr".
        flip: whether it describes the mirror image too and fuses both, as `evaluation.describe_with_flip` does.
        half: whether it computes in float16; what goes in and out is float32 all the same.
    """

    preprocess: bool = False
    color_order: str = "rgb"
    flip: bool = False
    half: bool = False


PLAIN = Form()


class Wrapped(nn.Module):
    """Base: images in the form's layout -> float [B, 3, H, W] in [-1, 1], RGB.

    Raises:
        ValueError: if the color order is unknown, or flip or half is asked of what is no whole FaceModel.
    """

    names: tuple[str, ...]  # of the outputs

    def __init__(self, form: Form) -> None:
        super().__init__()
        if (form.flip or form.half) and not isinstance(self, WrappedModel):
            raise ValueError("export: flip and half are for a whole FaceModel; leave them out")
        if form.color_order not in ORDERS:
            raise ValueError(f"export: color_order must be one of {', '.join(ORDERS)}, got {form.color_order!r}")
        self.form = form

    def images(self, given: Tensor) -> Tensor:
        """Return the images as float32 [B, 3, H, W] in [-1, 1], RGB."""
        images = (given.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5 if self.form.preprocess else given
        return images.flip(1) if self.form.color_order == "bgr" else images

    def example(self, size: tuple[int, int], seed: int = 0, batch: int = 2) -> Tensor:
        """Return random images of a height and width in the layout that it takes."""
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (batch, *size, 3), generator=generator, dtype=torch.uint8)
        return pixels if self.form.preprocess else (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


class WrappedBackbone(Wrapped):
    """A backbone: images -> embedding, norm and raw feature map."""

    names = ("embedding", "norm", "feature_map")

    def __init__(self, backbone: nets.Backbone, form: Form = PLAIN) -> None:
        super().__init__(form)
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return embedding [B, D], norm [B, 1] and feature map [B, C, h, w], float32."""
        return tuple(self.backbone(self.images(images)))


class _Networks(nn.Module):
    def __init__(self, model: FaceModel, half: bool) -> None:
        super().__init__()
        self.model, self.occlusion_head = (
            copy.deepcopy(part).half() if half and part is not None else part
            for part in (model.model, model.occlusion_head)
        )
        self.modulator = None if model.modulator is None else _InFloat32(model.modulator)

    def forward(self, images: Tensor) -> Description:
        return describe(self.model, self.occlusion_head, images, self.modulator)  # type: ignore[arg-type]


class _InFloat32(nn.Module):
    """A modulator, whose covariates are float32 whatever the map is."""

    def __init__(self, modulator: nets.Modulator) -> None:
        super().__init__()
        self.modulator = modulator

    def forward(self, feature_map: Tensor) -> Tensor:
        modulated: Tensor = self.modulator(feature_map.float())
        return modulated


class WrappedModel(Wrapped):
    """A FaceModel without its matcher: images -> embedding, norm, feature map and, with an occlusion head, visibility.

    The feature map is the one that the matcher takes: modulated, of unit length over its channels. With `form.flip`,
    embedding and norm are of image and mirror image together, and maps and visibilities have both: [B, 2, ...].
    """

    def __init__(self, model: FaceModel, form: Form = PLAIN) -> None:
        super().__init__(form)
        self.networks = _Networks(model, form.half)
        self.names = ("embedding", "norm", "feature_map", "visibility")[: 3 if model.occlusion_head is None else 4]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return embedding [B, D], norm [B, 1], feature map [B, (2,) C, h, w], visibility [B, (2,) 1, h, w]."""
        images = self.images(images)
        if self.form.flip:
            return self._fused(images)
        return tuple(each.float() for each in self._describe(images) if each is not None)

    def _describe(self, images: Tensor) -> Description:
        found: Description = self.networks(images.half() if self.form.half else images)
        return found

    def _fused(self, images: Tensor) -> tuple[Tensor, ...]:
        # One pass over both, so that the graph holds the network once.
        both = [
            None if each is None else each.float().unflatten(0, (2, -1))
            for each in self._describe(torch.cat([images, images.flip(-1)]))
        ]
        embedding, norm, *views = both
        assert embedding is not None and norm is not None
        fused = nn.functional.normalize((embedding * norm).sum(0), dim=1)
        return fused, norm.mean(0), *(view.transpose(0, 1) for view in views if view is not None)


class WrappedOcclusionHead(nn.Module):
    """An occlusion head alone: what it reads -> visibility; the fine head reads the detail map too."""

    names = ("visibility",)

    def __init__(self, head: nets.AnyOcclusionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *read: Tensor) -> Tensor:
        """Return visibility [B, 1, h, w]."""
        visibility: Tensor = self.head(*read)
        return visibility


class WrappedMatcher(nn.Module):
    """A matcher: maps of P probes and G galleries, and their visibilities where it is told them -> scores [P, G]."""

    names = ("scores",)

    def __init__(self, matcher: QAConv) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(
        self,
        probe_map: Tensor,
        gallery_map: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
    ) -> Tensor:
        """Return scores [P, G] of maps [P, C, h, w] with [G, C, h, w]; visibilities [., 1, h, w] or none."""
        scores: Tensor = self.matcher(probe_map, gallery_map, probe_visibility, gallery_visibility)
        return scores


class WrappedDetector(Wrapped):
    """A detector: images of any size -> loc, conf and landmarks of every prior; see `nets.Detections`.

    Without `form.preprocess` it takes what the network does, BGR in 0..255 minus its mean, whatever the color order.
    """

    names = ("loc", "conf", "landmarks")

    def __init__(self, detector: nets.Detector, form: Form = PLAIN) -> None:
        super().__init__(form)
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return loc [B, P, 4], conf [B, P, 2], landmarks [B, P, 10]."""
        read = nets.detector_input(self.images(images)) if self.form.preprocess else images
        return tuple(self.detector(read))


def reference(model: FaceModel, images: Tensor, flip: bool) -> tuple[Tensor, ...]:
    """Return what a `WrappedModel` should say of images in [-1, 1], by the path that evaluation takes."""
    if not flip:
        return tuple(each for each in model.describe(images) if each is not None)
    found = describe_with_flip(model.describe, images)
    norm = (model.describe(images).norm + model.describe(images.flip(-1)).norm) / 2
    maps = torch.stack([view.local_map for view in found.views], 1)
    seen = [view.visibility for view in found.views if view.visibility is not None]
    return found.embedding, norm, maps, *([torch.stack(seen, 1)] if seen else [])
