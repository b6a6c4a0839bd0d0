"""Faces of people at both resolutions, to see whether a low-resolution one finds its person among the others."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.counted import counted
from datasets.faces.images import UnreadableImageError
from datasets.paired.dataset import pair_reader
from datasets.sample import FaceDataset, Image
from transforms import IMAGE_SIZE, Degradation
from transforms.degradation import resized

logger = logging.getLogger(__name__)


class EvaluationViews(NamedTuple):
    """N images of people at two resolutions; row i of both is one image.

    Attributes:
        hr: uint8 [N, 112, 112, 3] RGB.
        lr: uint8 [N, h, h, 3] RGB, h = 112 unless asked for.
        labels: int64 [N], as of the data set.
        positions: int64 [N], in the data set, ascending.
    """

    hr: Image
    lr: Image
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]


def evaluation_views(
    dataset: FaceDataset,
    degradation: Degradation | None = None,
    seed: int = 0,
    max_images: int = 1000,
    lr_size: int = IMAGE_SIZE,
) -> EvaluationViews:
    """Return the images of a data set at a high and at a low resolution, without augmentation.

    Whole people are taken, at random and those with several images first, as long as they fit into `max_images`: a
    search needs another image of each probe's person. An image is degraded by (seed, its position) alone, however
    many others there are. What cannot be read is left out, which a warning says.

    Args:
        dataset: people that training does not know; `PairedFaces` or a subset of one, or with a degradation any.
        degradation: what makes low-resolution images, as `transforms.shrinking_alone(16)`; None: the data set has them.
        seed: >= 0, of the choice and of the degradation.
        max_images: at most; the memory is 75 kB an image.
        lr_size: side in pixels of low-resolution images, see `PairedTrainingView`.
    Raises:
        ValueError: if there are neither pairs nor a degradation, or both; or fewer than two people can be taken, or
            none of them with two readable images.
    """
    read = pair_reader(dataset, degradation is not None, "evaluation_views")
    hr, lr, chosen = [], [], []
    positions = _choose(dataset.labels, max_images, np.random.default_rng(seed))
    for index in positions.tolist():
        try:
            image, small = read(index)
        except UnreadableImageError:
            continue
        if degradation is not None:
            small = degradation.shrink(image, np.random.default_rng((seed, index))).image
        hr.append(image)
        lr.append(resized(small, lr_size))
        chosen.append(index)
    if len(chosen) < len(positions):
        logger.warning("%s of the paired evaluation cannot be read", counted(len(positions) - len(chosen), "image"))
    labels = dataset.labels[chosen]
    if len(np.unique(labels)) < 2 or len(np.unique(labels)) == len(labels):
        raise ValueError(
            f"evaluation_views: {counted(len(labels), 'image')} of {counted(len(np.unique(labels)), 'identity')} leave "
            "nothing to compare; two people, one of them with two readable images, are the least"
        )
    return EvaluationViews(np.stack(hr), np.stack(lr), labels, np.array(chosen))


def _choose(labels: NDArray[np.int64], max_images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    counts = np.bincount(labels)
    people = rng.permutation(np.flatnonzero(counts))
    people = people[np.argsort(counts[people] < 2, kind="stable")]
    taken, room = [], max_images
    for person in people.tolist():
        if counts[person] <= room:
            taken.append(person)
            room -= int(counts[person])
    return np.flatnonzero(np.isin(labels, taken))
