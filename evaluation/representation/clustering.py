"""How well clusters follow the true identities: pairwise and BCubed precision and recall, NMI, coverage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]

NOISE = ("single", "drop")


class ClusteringQuality(NamedTuple):
    """Figures of a clustering in [0, 1]; NaN where one is undefined.

    Attributes:
        precision: share of the pairs in one cluster that show one person; NaN without such pairs.
        recall: share of the pairs of one person that are in one cluster; NaN without such pairs.
        f: their harmonic mean; 0 if both are 0.
        bcubed_precision, bcubed_recall: the same seen from each image, itself included, and averaged.
        bcubed_f: their harmonic mean.
        nmi: mutual information over the mean of both entropies; 1 if both are one cluster. It is high for many small
            clusters whatever they hold: of no use alone.
        coverage: share of the images that are in a cluster, the same under both conventions.
    """

    precision: float
    recall: float
    f: float
    bcubed_precision: float
    bcubed_recall: float
    bcubed_f: float
    nmi: float
    coverage: float


def clustering_quality(truth: ArrayLike, predicted: ArrayLike, noise: str = "single") -> ClusteringQuality:
    """Compare predicted clusters with true identities.

    Args:
        truth: int [N], identities; images with a negative one are left out.
        predicted: int [N], clusters; negative: in none.
        noise: what an image in no cluster counts as: "single", a cluster of its own, or "drop", left out.
    Raises:
        ValueError: if the lengths differ or noise is another word.
        TypeError: if they are not whole numbers.
    Reference: Amigo et al., "A comparison of extrinsic clustering evaluation metrics", Information Retrieval 12, 2009
        (BCubed); Strehl, Ghosh, JMLR 3, 2002 (NMI, here with the arithmetic mean).
    """
    if noise not in NOISE:
        raise ValueError(f"clustering_quality: noise must be one of {', '.join(NOISE)}, got {noise!r}")
    truth, predicted = _labels(truth, "truth"), _labels(predicted, "predicted")
    if truth.shape != predicted.shape:
        raise ValueError(
            f"clustering_quality: truth and predicted must have one length, got {len(truth)} and {len(predicted)}"
        )
    truth, predicted = truth[truth >= 0], predicted[truth >= 0]
    is_clustered = predicted >= 0
    coverage = _ratio(int(is_clustered.sum()), len(truth))
    if noise == "drop":
        truth, predicted = truth[is_clustered], predicted[is_clustered]
    else:
        lonely = np.flatnonzero(~is_clustered)
        predicted = predicted.copy()
        predicted[lonely] = predicted.max(initial=-1) + 1 + np.arange(len(lonely))
    if not len(truth):
        return ClusteringQuality._make([float("nan")] * 7 + [coverage])
    return ClusteringQuality._make([*_figures(truth, predicted), coverage])


def described_quality(truth: ArrayLike, predicted: ArrayLike) -> dict[str, dict[str, float | None]]:
    """Return {convention for noise: {figure: value}}, None where a figure is undefined, as JSON takes it."""
    return {
        noise: {
            name: None if math.isnan(value) else value
            for name, value in clustering_quality(truth, predicted, noise)._asdict().items()
        }
        for noise in NOISE
    }


def _figures(truth: Int64Array, predicted: Int64Array) -> tuple[float, ...]:
    num = len(truth)
    identities, clusters = (np.unique(labels, return_inverse=True)[1] for labels in (truth, predicted))
    of_identity, of_cluster = np.bincount(identities).astype(np.float64), np.bincount(clusters).astype(np.float64)
    # The cells of the contingency table that are not empty.
    cells, counts = np.unique(identities * len(of_cluster) + clusters, return_counts=True)
    shared = counts.astype(np.float64)
    row, column = of_identity[cells // len(of_cluster)], of_cluster[cells % len(of_cluster)]

    both = _pairs(shared)
    precision, recall = _ratio(both, _pairs(of_cluster)), _ratio(both, _pairs(of_identity))
    bcubed_precision = float((shared * shared / column).sum() / num)
    bcubed_recall = float((shared * shared / row).sum() / num)
    entropies = _entropy(of_identity / num), _entropy(of_cluster / num)
    information = float((shared / num * (np.log(shared * num) - np.log(row * column))).sum())
    nmi = 1.0 if max(entropies) == 0 else max(0.0, information) / (sum(entropies) / 2)
    bcubed = _harmonic(bcubed_precision, bcubed_recall)
    return precision, recall, _harmonic(precision, recall), bcubed_precision, bcubed_recall, bcubed, nmi


def _labels(labels: ArrayLike, name: str) -> Int64Array:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"clustering_quality: {name} must be [N], got {list(array.shape)}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"clustering_quality: {name} must be integers, got {array.dtype}")
    return array.astype(np.int64, copy=False)


def _pairs(sizes: FloatArray) -> float:
    return float((sizes * (sizes - 1) / 2).sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _harmonic(precision: float, recall: float) -> float:
    return 0.0 if precision == recall == 0 else 2 * precision * recall / (precision + recall)


def _entropy(shares: FloatArray) -> float:
    return 0.0 if len(shares) == 1 else float(-(shares * np.log(shares)).sum())
