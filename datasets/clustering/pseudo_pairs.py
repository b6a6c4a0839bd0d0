"""Which other image of its cluster stands for an image as the second view, a function of seed, epoch and place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.sampling.grouping import group_by_label

Int64Array = NDArray[np.int64]


def pseudo_pairs(clusters: Int64Array, probability: float, seed: int, epoch: int) -> Int64Array:
    """Return for each image the image that its second view shows, int64 [N].

    An image with n - 1 mates in its cluster gets each of them with probability p / (n - 1) and itself with 1 - p; an
    image without mates gets itself. One of the n - 1 mates is drawn by a shift around the cluster, without rejection.
    Nothing depends on workers or ranks: every process draws the numbers of all images.

    Args:
        clusters: int64 [N], -1 = alone.
        probability: p in [0, 1].
        seed: >= 0, of the run.
        epoch: >= 0; each epoch draws anew.
    Raises:
        ValueError: if the clusters are no vector or the probability is out of range.
    """
    if clusters.ndim != 1:
        raise ValueError(f"pseudo_pairs: clusters must be [N], got {list(clusters.shape)}")
    if not 0 <= probability <= 1:
        raise ValueError(f"pseudo_pairs: the probability must be in [0, 1], got {probability}")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    # Both are drawn for all images, so that other clusters change no other image's numbers.
    is_drawn, turn = rng.random(len(clusters)) < probability, rng.random(len(clusters))
    partners = np.arange(len(clusters))
    clustered = np.flatnonzero(clusters >= 0)
    if not len(clustered):
        return partners
    groups = group_by_label(clusters[clustered])
    sizes, starts = np.repeat(groups.counts, groups.counts), np.repeat(groups.starts, groups.counts)
    image = clustered[groups.order]  # cluster by cluster
    place = np.arange(len(image)) - starts
    shift = 1 + np.floor(turn[image] * (sizes - 1)).astype(np.int64)  # in [1, n - 1], as turn is below 1
    mate = image[starts + (place + shift) % sizes]
    partners[image] = np.where(is_drawn[image] & (sizes > 1), mate, image)
    return partners
