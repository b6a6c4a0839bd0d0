"""What a quantized model costs against its float net: accuracy, area under the curve, cosine, time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation import auc, stratified_folds, verification
from models.face_model import FaceModel
from models.portraits import Crops, Scores, describe_portraits, score_listed
from transforms import to_tensor

_TIMED = 11  # images, one at a time
_LEAST = 2  # pairs of each kind


class Figures(NamedTuple):
    """Of one model: balanced ten-fold accuracy and area under the curve by score, milliseconds an image alone takes."""

    accuracy: Mapping[str, float]
    auc: Mapping[str, float]
    milliseconds: float


class Cost(NamedTuple):
    """What was measured on the same pairs, float net and quantized model one after the other.

    Attributes:
        before, after: of the float net, of the quantized model.
        mean_cosine, least_cosine: of an image's two embeddings, over the images.
        num_images, num_genuine, num_impostors: measured on.
        num_threads: of torch, at the time.
        scores: of the pairs, before and after.
    """

    before: Figures
    after: Figures
    mean_cosine: float
    least_cosine: float
    num_images: int
    num_genuine: int
    num_impostors: int
    num_threads: int
    scores: tuple[Scores, Scores]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        pairs = f"{self.num_genuine} genuine and {self.num_impostors} impostor pairs of {self.num_images} images"
        yield f"measured on {pairs}; accuracy is balanced, over folds"
        yield f"{'':<20} {'float32':>10} {'quantized':>10}"
        for name in self.before.auc:
            for what, before, after in (
                ("accuracy", self.before.accuracy[name], self.after.accuracy[name]),
                ("AUC", self.before.auc[name], self.after.auc[name]),
            ):
                yield f"{f'{what}, {name}':<20} {before:>10.5f} {after:>10.5f}"
        times = f"{self.before.milliseconds:>10.1f} {self.after.milliseconds:>10.1f}"
        yield f"{'ms an image':<20} {times}  (torch threads: {self.num_threads})"
        yield f"cosine of the two embeddings of an image: mean {self.mean_cosine:.4f}, least {self.least_cosine:.4f}"


def cost_of(
    before: FaceModel, after: FaceModel, crops: Crops, pairs: NDArray[np.int64], issame: NDArray[np.bool_]
) -> Cost:
    """Return what a quantized model costs on pairs of crops, which should show nobody of the calibration.

    Args:
        before, after: the float net and what `quantize` made of it.
        crops: uint8 [N, 112, 112, 3] RGB.
        pairs: int64 [M, 2], places i < j among the crops.
        issame: bool [M].
    Raises:
        ValueError: if there are fewer than two genuine or two impostor pairs, or a score is not finite.
    """
    num_genuine = int(issame.sum())
    num_folds = min(10, num_genuine, len(issame) - num_genuine)
    if num_folds < _LEAST:
        raise ValueError(
            f"{num_genuine} genuine and {len(issame) - num_genuine} impostor pairs: two of each are needed to measure"
        )
    described = [describe_portraits(model, crops, bar="Describing faces") for model in (before, after)]
    scores = tuple(
        score_listed(model, each.faces, pairs) for model, each in zip((before, after), described, strict=True)
    )
    cosines = (described[0].faces.embedding * described[1].faces.embedding).sum(1)
    folds = stratified_folds(issame, num_folds)
    times = _milliseconds((before, after), crops)
    figures = [_figures(found, issame, folds, time) for found, time in zip(scores, times, strict=True)]
    counts = len(crops), num_genuine, len(issame) - num_genuine, torch.get_num_threads()
    return Cost(figures[0], figures[1], float(cosines.mean()), float(cosines.min()), *counts, (scores[0], scores[1]))


def _figures(scores: Scores, issame: NDArray[np.bool_], folds: NDArray[np.int64], milliseconds: float) -> Figures:
    accuracy = {name: verification(values, issame, folds, balanced=True).accuracy for name, values in scores.items()}
    return Figures(accuracy, {name: auc(values, issame) for name, values in scores.items()}, milliseconds)


def _milliseconds(models: tuple[FaceModel, FaceModel], crops: Crops) -> tuple[float, ...]:
    """Return the median time that an image alone takes; the models take turns, so that a busy machine hits both."""
    images = to_tensor(torch.from_numpy(crops[np.arange(_TIMED + 1) % len(crops)]).to(models[0].device))
    taken: tuple[list[float], ...] = ([], [])
    for number in range(len(images)):
        for model, times in zip(models, taken, strict=True):
            start = time.perf_counter()
            model.describe(images[number : number + 1]).norm.cpu()
            times.append(1000 * (time.perf_counter() - start))
    return tuple(float(np.median(times[1:])) for times in taken)  # the first of each warms up
