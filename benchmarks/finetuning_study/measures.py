"""What is measured of a network on people whom no training has seen, with resamples of the people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import models
import transforms
from benchmarks.finetuning_study.people import Views
from benchmarks.studies.kept import kept_beside
from datasets import Image
from evaluation import Draws, Resampling, average
from evaluation.protocols.bootstrap import draw_all
from evaluation.protocols.checks import FloatArray
from evaluation.protocols.weighted import WeightedMeasure, weighted_auc

NUM_RESAMPLES = 400
_BATCH_SIZE = 50
Embeddings = NDArray[np.float32]  # [N, D], of length 1
Labels = NDArray[np.int64]
Measures = dict[str, Draws]


def embed(model: models.FaceModel, images: Image) -> Embeddings:
    """Return the embeddings of images uint8 [N, 112, 112, 3] RGB, without those of their mirror images."""
    parts = [
        model.model(transforms.to_tensor(torch.from_numpy(images[at : at + _BATCH_SIZE]))).embedding.numpy()
        for at in range(0, len(images), _BATCH_SIZE)
    ]
    return np.concatenate(parts)


def embedded(
    checkpoint: Path, kept: str, images: Mapping[str, Image], color_space: str | None = None
) -> dict[str, Embeddings]:
    """Return the embeddings of images by name.

    Args:
        checkpoint: of a run, or foreign weights in this color space.
        kept: name of the file beside a run's checkpoint that keeps them for as long as that stays the same.
        images: by name.
        color_space: of foreign weights, beside which nothing is kept; None: of a run.
    """

    def measure() -> dict[str, Embeddings]:
        with torch.inference_mode():
            model = models.load(checkpoint, color_space=color_space)
            return {name: embed(model, each) for name, each in images.items()}

    return kept_beside(checkpoint, kept, measure) if color_space is None else measure()


def images_of(views: Views) -> dict[str, Image]:
    """Return the images of views by name: hr, and <side>/<draw>."""
    return {"hr": views.hr} | {
        f"{side}/{draw}": each for side, draws in views.lr.items() for draw, each in enumerate(draws)
    }


def at_both_resolutions(found: Mapping[str, Embeddings], labels: Labels) -> Measures:
    """Return by "<figure> <side>" what LR images of each side are worth against HR ones, and by "<figure> HR" HR ones.

    The same people are drawn for all networks and figures, so that these can be subtracted. Of several draws of the
    degradation the means count.
    """
    measured = {f"{name} HR": drawn for name, drawn in compared(found["hr"], found["hr"], labels).items()}
    for side in dict.fromkeys(key.split("/")[0] for key in found if key != "hr"):
        draws = [compared(each, found["hr"], labels) for key, each in found.items() if key.split("/")[0] == side]
        measured |= {f"{name} {side}": average([each[name] for each in draws]) for name in draws[0]}
    return measured


def compared(probes: Embeddings, gallery: Embeddings, labels: Labels) -> Measures:
    """Return the figures of probes in a gallery without each one's own image.

    Returns:
        "rank-1": share of probes whose nearest image is of their person; ties count as wrong. "AUC" of all pairs.
        "paired": cosine of both images in a row. "impostor": cosine of different people.
    """
    cosines = probes.astype(np.float64) @ gallery.T.astype(np.float64)
    same, others = labels[:, None] == labels, ~np.eye(len(labels), dtype=np.bool_)
    mate = np.where(same & others, cosines, -np.inf).max(1)
    hits = mate > np.where(same, -np.inf, cosines).max(1)
    of_images = draw_all(
        ["rank-1", "paired"], [_weighted_means(np.column_stack([hits, cosines.diagonal()]))],
        np.ones(len(labels), np.bool_), _people(labels, labels),
    )  # fmt: skip
    first, second = np.nonzero(others)
    scores, issame = cosines[first, second], same[first, second]

    def impostors(weights: FloatArray) -> FloatArray:
        different = weights[:, ~issame]
        total = different.sum(1)  # 0 where a resample holds one person
        return different @ scores[~issame] / np.where(total > 0, total, np.nan)

    of_pairs = draw_all(
        ["AUC", "impostor"], [weighted_auc(scores, issame), impostors], issame, _people(labels[first], labels[second])
    )
    return of_images | of_pairs


def _weighted_means(values: FloatArray) -> WeightedMeasure:
    return lambda weights: weights @ values / weights.sum(1, keepdims=True)


def _people(first: Labels, second: Labels) -> Resampling:
    return Resampling(np.column_stack([first, second]), NUM_RESAMPLES, 0)
