"""FaceModel: what a user loads to describe faces and to compare them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import nets
import qaconv
from evaluation import (
    Description,
    FaceDescriptions,
    FusionStatistics,
    ScoreNormalization,
    describe_with_flip,
    score_pairs,
)
from evaluation.scores.comparable import Sides
from models import answers, pictures, portraits
from models.alignment import Alignment
from models.calibration import Calibration
from ops import unit_map
from options.model import NetworkOptions
from transforms import IMAGE_SIZE, to_tensor

_SHAPE = (3, IMAGE_SIZE, IMAGE_SIZE)
_ROUNDING = 1e-3  # how far beyond [-1, 1] a resampled image may be


class FaceScores(NamedTuple):
    """How alike two faces are; larger is more alike."""

    adaface: float  # cosine of the embeddings
    qaconv: float | None  # the local matcher's score; None without a matcher
    combined: float | None  # both, comparable whatever is hidden; None without a matcher or what scores mean


def describe(model: nn.Module, occlusion_head: nets.AnyOcclusionHead | None, images: Tensor) -> Description:
    """Return what evaluation compares of images [B, 3, 112, 112] in the networks' dtype, in [-1, 1], RGB.

    Args:
        model: a backbone, images -> nets.Features.
        occlusion_head: what `build_occlusion_head` builds; None: the description's visibility is None.
    """
    features, seen = nets.see(model, occlusion_head, images)
    visibility = None if seen is None else nets.pooled(seen, features.feature_map)
    return Description(features.embedding, features.norm, unit_map(features.feature_map), visibility)


def build_backbone(options: NetworkOptions, seed: int = 0) -> nets.Backbone:
    """Return the backbone that the options ask for, with adapters if they do; everything else of it is then frozen.

    Raises:
        ValueError: one line with the flag, if no layer fits a pattern.
    """
    model = nets.build_model(options.arch, options.embedding_size)
    if options.lora_rank:
        form = nets.LoraForm(options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_by_quality)
        try:
            nets.add_lora(model, options.lora_layers or ("*",), form, seed)
        except ValueError as error:
            raise ValueError(f"--lora_layers: {str(error).removeprefix('add_lora: ')}") from None
        model.mixes_by_quality = options.lora_by_quality
    return model


def merge_adapters(model: nets.Backbone, quality: float | None = None) -> None:
    """Merge a backbone's adapters, if it has any, into its weights; those mixed by quality stay, unless one is given.

    Raises:
        ValueError: if a quality is given and no adapters are mixed by it, or it is outside [0, 1].
    """
    if quality is not None and not model.mixes_by_quality:
        raise ValueError(f"quality={quality:g}: the model has no adapters that are mixed by image quality")
    if quality is not None or not model.mixes_by_quality:
        nets.merge_lora(model, quality)
        model.mixes_by_quality = False


def build_matcher(
    options: NetworkOptions, map_shape: tuple[int, int, int], num_classes: int | None = None
) -> qaconv.QAConv | None:
    """Return the local matcher that the options ask for, with class embeddings if `num_classes` is given; or None."""
    if options.qaconv_loss_weight == 0:
        return None
    return qaconv.QAConv(
        *map_shape,
        occlusion_method=options.occlusion_method,
        visible_from=options.visible_from,
        score=options.qaconv_score,
        projection_channels=options.qaconv_channels or None,
        num_classes=num_classes,
        k_nearest=options.k_nearest,
    )


def build_occlusion_head(options: NetworkOptions, model: nets.Backbone) -> nets.AnyOcclusionHead | None:
    """Return the occlusion head of a backbone that the options ask for, or None."""
    if options.occlusion_loss_weight == 0 and options.occlusion_method == "none":
        return None
    if options.occlusion_head == "fine":
        return nets.FineOcclusionHead(model.map_shape[0], model.detail_channels)
    if options.occlusion_head == "pyramid":
        return nets.PyramidOcclusionHead()
    return nets.OcclusionHead(model.map_shape[0])


class FaceModel(nn.Module):
    """Backbone, and where there are some, occlusion head and local matcher; `models.load` builds it from a file.

    The keys of its state dict begin with `model.`, `occlusion_head.` and `matcher.`, as in a run's checkpoints.

    Args:
        options: of the run that trained it.
        with_parts: False: a backbone alone.
        fusion_statistics: how scores are combined; None: they are not.
    Attributes:
        normalization: what scores mean at what can be seen; None in older checkpoints: `fusion_statistics` combines.
        arch: what the backbone is called.
        encoder: which of the encoders of its file it is: "query" or "key" of a pretraining's, else "backbone".
        head_name: the margin head that the embedding was trained with; "not known" of foreign weights.
        alignment: how the photographs of its training became crops; None where it is not known, as of foreign weights.
    """

    def __init__(
        self, options: NetworkOptions, with_parts: bool = True, fusion_statistics: FusionStatistics | None = None
    ) -> None:
        super().__init__()
        self.model = build_backbone(options)
        self.matcher = build_matcher(options, self.model.map_shape) if with_parts else None
        self.occlusion_head = build_occlusion_head(options, self.model) if with_parts else None
        self.fusion_statistics = fusion_statistics
        self.normalization: ScoreNormalization | None = None
        self.arch = options.arch
        self.encoder = "backbone"
        self.head_name = options.head if with_parts else "not known"
        self.alignment: Alignment | None = None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def describe(self, images: Tensor) -> Description:
        """Return embedding, norm, unit local map and predicted visibility of images; no graph is kept.

        Args:
            images: [B, 3, 112, 112] floating in [-1, 1], RGB, on any device.
        Returns:
            Description with float32 tensors on the model's device: embedding [B, D] of unit length, norm [B, 1], local
            map [B, C, h, w], visibility [B, 1, h, w] in [0, 1] or None without an occlusion head.
        Raises:
            TypeError: if images are not floating. ValueError: if they have another shape or range, or hold NaN.
        """
        _check_images(images)
        return describe(self.model, self.occlusion_head, images.to(self.device, torch.float32))

    def describe_image(self, face: pictures.Face) -> Description:
        """Return the description, B = 1, of one face: a path, uint8 [112, 112, 3] RGB, or a PIL image of that size.

        Raises:
            TypeError, ValueError: if it is none of these; a file of another size is resized.
        """
        return self.describe(self._tensor([face]))

    def describe_files(self, paths: Iterable[str | Path], batch_size: int = 64) -> Description:
        """Return the descriptions of image files in their order, as `describe` does; `batch_size` are read at a time.

        Raises:
            ValueError: if there are no paths, or a file cannot be read, which is named.
        """
        listed = [Path(path) for path in paths]
        if not listed:
            raise ValueError("describe_files: paths must name at least one image, got none.")
        if batch_size < 1:
            raise ValueError(f"describe_files: batch_size must be at least 1, got {batch_size}.")
        starts = range(0, len(listed), batch_size)
        parts = [self.describe(self._tensor(listed[start : start + batch_size])) for start in starts]
        embeddings, norms, maps, visibilities = zip(*parts, strict=True)
        seen = None if self.occlusion_head is None else torch.cat(visibilities)
        return Description(torch.cat(embeddings), torch.cat(norms), torch.cat(maps), seen)

    def describe_folder(self, folder: str | Path, batch_size: int = 64) -> tuple[list[Path], Description]:
        """Return the image files in a folder and in the folders below it, sorted, and their descriptions.

        Raises:
            FileNotFoundError: if there is no such folder. ValueError: if it holds no images, or one cannot be read.
        """
        paths = pictures.find_images(Path(folder))
        return paths, self.describe_files(paths, batch_size)

    def normalization_with(self, weights: Mapping[str, float]) -> ScoreNormalization | None:
        """Return what scores mean, with other weights by matcher in the combined one; None where it is not known."""
        known = self.normalization
        return None if known is None else replace(known, weights={name: weights[name] for name in known.weights})

    @torch.inference_mode()
    def compare(self, a: pictures.Face, b: pictures.Face) -> FaceScores:
        """Return how alike two faces are, each described together with its mirror image, as an evaluation does.

        Args:
            a, b: each a path, uint8 [112, 112, 3] RGB, or a PIL image of that size.
        Raises:
            TypeError, ValueError: as for `describe_image`; also if a score is not finite.
        """
        first, second = self._described_with_flip(a), self._described_with_flip(b)
        found = score_pairs(first, second, None if self.matcher is None else self.matcher.match_pairs)
        scores = {name: float(values) for name, values in found.items()}
        if not all(torch.isfinite(values).all() for values in found.values()):
            raise ValueError(f"compare: scores must be finite, got {scores}; the weights may be damaged.")
        sides = Sides(first, second, np.zeros((1, 2), np.int64))
        meant = portraits.with_fused(self, {name: values.cpu().numpy() for name, values in found.items()}, sides)
        combined = float(meant["fused"][0]) if "fused" in meant else None
        return FaceScores(scores["adaface"], scores.get("qaconv"), combined)

    def verify(
        self,
        a: pictures.Face,
        b: pictures.Face,
        calibration: Calibration | None = None,
        score: str | None = None,
        far: float | None = None,
        impostors: answers.Impostors | None = None,
        aligner: pictures.Aligner = pictures.AS_GIVEN,
    ) -> answers.Answer:
        """Say whether two photographs show one person, and how sure that is.

        Args:
            a, b: each a path, uint8 [112, 112, 3] RGB, or a PIL image of that size.
            calibration: thresholds, see `models.calibrate`; None: the answer is a rank among impostors, never a yes.
            score: "fused", "adaface" or "qaconv"; None: fused where the model has it, else adaface.
            far: false-accept rate of the threshold; None: the one nearest to 1e-3 that the calibration has.
            impostors: what a score without calibration is ranked among; None: drawn faces, scored in each call.
            aligner: how a photograph becomes a crop.
        Raises:
            TypeError, ValueError: one line: if a face cannot be read, the model lacks the score, or the calibration
                belongs to other weights, another template or detector, or lacks the FAR.
        """
        return answers.verify(self, (a, b), calibration, score, far, impostors, aligner)

    def _described_with_flip(self, face: pictures.Face) -> FaceDescriptions:
        return describe_with_flip(self.describe, self._tensor([face]))

    def _tensor(self, faces: Sequence[pictures.Face]) -> Tensor:
        pixels = torch.stack([torch.from_numpy(pictures.read_pixels(face)) for face in faces])
        return to_tensor(pixels.to(self.device))


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"describe: images must be a floating tensor, got {kind}; transforms.to_tensor makes it.")
    if images.ndim != 4 or images.shape[1:] != _SHAPE:
        raise ValueError(f"describe: images must be [B, {', '.join(map(str, _SHAPE))}], got {list(images.shape)}.")
    if not images.numel():
        return
    low, high = (float(value) for value in images.aminmax())
    if not (low >= -1 - _ROUNDING and high <= 1 + _ROUNDING):  # NaN is in no range
        raise ValueError(
            f"describe: images must be in [-1, 1], got [{low:g}, {high:g}]; transforms.to_tensor makes it."
        )
