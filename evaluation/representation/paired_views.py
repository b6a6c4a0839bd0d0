"""How two views of the same images, low and high resolution, serve recognition: figures that cannot be fooled.

The mean cosine between both views of an image says nothing about people: an untrained net reaches 0.90, a collapsed
one 1.0. What counts is whether a view is nearer to another image of its person than to strangers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import FloatArray, IntArray
from evaluation.protocols.roc import is_resolved
from evaluation.representation.likelihood import min_cllr_of_counts

FARS = (1e-2, 1e-3, 1e-4)
_PAIRS_AT_ONCE = 2**22
# Cosines are rounded to multiples of this: equal embeddings then have equal cosines, whatever order they are summed in.
_GRID = 2.0**-40
_HIGH_IMPOSTORS = 0.5
_HIGH_PAIRED = 0.9
_CHANCE = 0.6  # AUC
_RISE = 0.05  # of the impostors' mean


class Paired(NamedTuple):
    """Cosines between both views of each image: mean, population std, least, median.

    Attributes:
        rank1: share of LR images whose own HR image is nearer than every other; ties count as wrong.
    """

    mean: float
    std: float
    min: float
    median: float
    rank1: float


class CrossFigures(NamedTuple):
    """Each image of one side against every image of the other side but its own; None where nothing can be computed.

    Attributes:
        genuine_mean, impostor_mean: mean cosine of images of one person, of two people.
        d_prime: difference of both means over the root of the mean of both population variances.
        auc: share of (genuine, impostor) comparisons ranked right, ties half.
        min_cllr: see `evaluation.min_cllr`, bits.
        accuracy: right decisions at the best threshold for these pairs, both kinds weighing the same.
        tar: largest true-accept rate by limit of FAR; None where the impostor pairs resolve no such FAR.
        rank1: share of the probes whose nearest image is of their person; ties with strangers count as wrong.
        num_probes: images of people with two or more images.
        num_genuine, num_impostor: pairs.
    """

    genuine_mean: float | None
    impostor_mean: float | None
    d_prime: float | None
    auc: float | None
    min_cllr: float | None
    accuracy: float | None
    tar: dict[float, float | None]
    rank1: float | None
    num_probes: int
    num_genuine: int
    num_impostor: int


class PairedViews(NamedTuple):
    """Figures of LR views against HR views, and of HR against HR, which tells what fine-tuning has forgotten.

    Attributes:
        paired: both views of one image. Never choose a net by these.
        lr_hr: LR probes in a gallery of HR images, each without its own.
        hr_hr: HR likewise.
        missing: why figures are None, in sentences.
    """

    paired: Paired
    lr_hr: CrossFigures
    hr_hr: CrossFigures
    missing: tuple[str, ...]

    @property
    def gap(self) -> float | None:
        """Mean paired cosine less the impostors' of LR and HR: what is left to watch where no person has two images."""
        return None if self.lr_hr.impostor_mean is None else self.paired.mean - self.lr_hr.impostor_mean

    @property
    def gap_cross(self) -> float | None:
        """Mean cosine of LR and HR of one person, not of one image, less the impostors'."""
        genuine, impostor = self.lr_hr[:2]
        return None if genuine is None or impostor is None else genuine - impostor

    def figures(self) -> dict[str, float | None]:
        """Return all figures by flat names: paired_mean, lr_hr_auc, hr_hr_rank1, lr_hr_tar_0.001, gap and so on."""
        flat: dict[str, float | None] = {f"paired_{name}": value for name, value in self.paired._asdict().items()}
        for side, cross in (("lr_hr", self.lr_hr), ("hr_hr", self.hr_hr)):
            named = {name: value for name, value in cross._asdict().items() if name != "tar"}
            flat |= {f"{side}_{name}": value for name, value in named.items()}
            flat |= {f"{side}_tar_{far:g}": value for far, value in cross.tar.items()}
        return flat | {"gap": self.gap, "gap_cross": self.gap_cross}

    def warnings(self, before: PairedViews | None = None) -> list[str]:
        """Return in sentences what is wrong with a net that these figures describe.

        Args:
            before: figures of the same images before this epoch, or before fine-tuning.
        """
        found, impostors, auc = [], self.lr_hr.impostor_mean, self.lr_hr.auc
        if impostors is not None and impostors > _HIGH_IMPOSTORS:
            found.append(
                f"Different people have a mean cosine of {impostors:.2f}: the embeddings collapse onto each other."
            )
        if auc is not None and auc < _CHANCE and self.paired.mean > _HIGH_PAIRED:
            found.append(
                f"Both views of an image agree (mean cosine {self.paired.mean:.2f}), but people are not told apart "
                f"(AUC {auc:.2f}, chance is 0.50): do not choose a net by the paired cosine."
            )
        if before is not None:
            found += _risen(before.lr_hr, self.lr_hr)
        return found


def paired_views(hr: ArrayLike, lr: ArrayLike, labels: ArrayLike, fars: Sequence[float] = FARS) -> PairedViews:
    """Compare two views of N images.

    Cosines are computed in float64 and never held all at once: besides the embeddings and a few float64 a genuine pair
    it takes 0.3 GB for any N. The time is that of two products [N, D] x [D, N] and of sorting their entries: on
    one busy CPU thread 13 s for 8,000 images and 128 dimensions.

    Args:
        hr, lr: [N, D] floating, finite, of any length above 0; row i of both is one image.
        labels: int [N] >= 0, people.
        fars: limits in (0, 1].
    Returns:
        `PairedViews`.
    Raises:
        ValueError: on disagreeing shapes, no image, an embedding that is not finite or 0, a label below 0, or a limit
            outside (0, 1].
        TypeError: if labels are not whole numbers.
    """
    people = _checked_labels(labels)
    probes, gallery = _unit("lr", lr, len(people)), _unit("hr", hr, len(people))
    if probes.shape != gallery.shape:
        raise ValueError(f"paired_views: hr and lr must have one shape, got {gallery.shape} and {probes.shape}")
    if not all(0 < far <= 1 for far in fars):
        raise ValueError(f"paired_views: fars must lie in (0, 1], got {list(fars)}")
    own = _on_grid((probes * gallery).sum(axis=1))
    lr_hr, num_found = _compare(probes, gallery, people, own, fars, 1)
    hr_hr, _ = _compare(gallery, gallery, people, own, fars, 2)
    mean, std, least, median = own.mean(), own.std(), own.min(), np.median(own)
    paired = Paired(float(mean), float(std), float(least), float(median), num_found / len(people))
    return PairedViews(paired, lr_hr, hr_hr, _reasons(lr_hr, hr_hr))


class _Moments(NamedTuple):
    """Count, mean and population variance of a block of values."""

    num: int
    mean: float
    variance: float


def _compare(
    probes: FloatArray, gallery: FloatArray, people: IntArray, own: FloatArray, fars: Sequence[float], repeats: int
) -> tuple[CrossFigures, int]:
    """Return the figures of probes in a gallery without each one's own image, and how many find their own first.

    Impostor cosines are counted between the sorted genuine ones, block after block: area, rates and Cllr follow.
    A pair of images comes up `repeats` times.
    """
    genuine = np.sort(_genuine_cosines(probes, gallery, people))
    below, not_above = np.zeros((2, len(genuine)), np.int64)
    blocks, num_first, num_own_first = [], 0, 0
    has_other = np.bincount(people)[people] > 1
    for rows, cosines in _blocks(probes, gallery):
        same = people[rows, None] == people
        strangers = cosines[~same]
        nearest_stranger = np.where(same, -np.inf, cosines).max(axis=1)
        cosines[np.arange(len(cosines)), rows] = -np.inf
        nearest_mate = np.where(same, cosines, -np.inf).max(axis=1)
        num_first += int((nearest_mate > nearest_stranger).sum())
        num_own_first += int((own[rows] > np.maximum(nearest_mate, nearest_stranger)).sum())
        if strangers.size:
            strangers.sort()
            below += np.searchsorted(strangers, genuine, side="left")
            not_above += np.searchsorted(strangers, genuine, side="right")
            blocks.append(_Moments(strangers.size, float(strangers.mean()), float(strangers.var())))
    num_probes = int(has_other.sum())
    rank1 = num_first / num_probes if num_probes and blocks else None
    figures = _figures(genuine, below, not_above, blocks, fars, repeats)
    return figures._replace(rank1=rank1, num_probes=num_probes), num_own_first


def _figures(
    genuine: FloatArray,
    below: IntArray,
    not_above: IntArray,
    blocks: list[_Moments],
    fars: Sequence[float],
    repeats: int,
) -> CrossFigures:
    """Return the figures of sorted genuine cosines; so many impostor ones are below, or not above, each of them."""
    counts, means, variances = np.array(blocks).reshape(-1, 3).T
    num = int(counts.sum())
    num_pairs = len(genuine) // repeats, num // repeats
    nothing = CrossFigures(None, None, None, None, None, None, dict.fromkeys(fars), None, 0, *num_pairs)
    if len(genuine):
        nothing = nothing._replace(genuine_mean=float(genuine.mean()))
    if num:
        impostor_mean = float(counts @ means / num)
        variance = float(counts @ (variances + (means - impostor_mean) ** 2) / num)
        nothing = nothing._replace(impostor_mean=impostor_mean)
    if not num or not len(genuine):
        return nothing
    spread = np.sqrt((genuine.var() + variance) / 2)
    gap = float(genuine.mean()) - impostor_mean
    tar = np.arange(len(genuine), 0, -1) / len(genuine)  # accepting what is at or above each genuine cosine
    far = (num - below) / num
    # Accepted are the genuine pairs at or above which so few impostor pairs lie.
    rates = {limit: float((far <= limit).mean()) if is_resolved(limit, num_pairs[1]) else None for limit in fars}
    return nothing._replace(
        d_prime=gap / float(spread) if spread > _GRID else None,
        auc=float((below + not_above).mean() / (2 * num)),
        min_cllr=min_cllr_of_counts(*_counted_by_score(genuine, below, not_above, num)),
        accuracy=float((tar + 1 - far).max() / 2),
        tar=rates,
    )


def _counted_by_score(genuine: FloatArray, below: IntArray, not_above: IntArray, num: int) -> tuple[IntArray, IntArray]:
    """Return genuine and impostor pairs by score, ascending: between two genuine scores, then at the upper one."""
    _, first, at_score = np.unique(genuine, return_index=True, return_counts=True)
    between = below[first] - np.append(0, not_above[first][:-1])
    of_genuine = np.stack([np.zeros_like(at_score), at_score], axis=1).ravel()
    of_impostor = np.stack([between, not_above[first] - below[first]], axis=1).ravel()
    return np.append(of_genuine, 0), np.append(of_impostor, num - not_above[-1])


def _genuine_cosines(probes: FloatArray, gallery: FloatArray, people: IntArray) -> FloatArray:
    """Return the cosines of each probe with the other images of its person in the gallery."""
    order = np.argsort(people, kind="stable")
    parts = []
    for images in np.split(order, np.flatnonzero(np.diff(people[order])) + 1):
        if len(images) > 1:
            cosines = _on_grid(probes[images] @ gallery[images].T)
            parts.append(cosines[~np.eye(len(images), dtype=np.bool_)])
    return np.concatenate(parts) if parts else np.empty(0)


def _blocks(probes: FloatArray, gallery: FloatArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the numbers of some probes and their cosines with the whole gallery, which may be overwritten."""
    step = max(1, _PAIRS_AT_ONCE // len(gallery))
    for start in range(0, len(probes), step):
        yield np.arange(start, min(start + step, len(probes))), _on_grid(probes[start : start + step] @ gallery.T)


def _on_grid(cosines: FloatArray) -> FloatArray:
    return np.rint(cosines / _GRID) * _GRID


def _risen(before: CrossFigures, after: CrossFigures) -> list[str]:
    figures = (before.impostor_mean, after.impostor_mean, before.auc, after.auc)
    if None in figures:
        return []
    old_mean, new_mean, old_auc, new_auc = (float(value) for value in figures if value is not None)
    if new_mean <= old_mean + _RISE or new_auc >= old_auc:
        return []
    return [
        f"The mean cosine of different people has risen from {old_mean:.2f} to {new_mean:.2f} and the AUC has fallen "
        f"from {old_auc:.3f} to {new_auc:.3f}: people get mixed up."
    ]


def _reasons(lr_hr: CrossFigures, hr_hr: CrossFigures) -> tuple[str, ...]:
    """Return in sentences why figures are None."""
    reasons = []
    if not lr_hr.num_genuine:
        reasons.append("No person has two images: nothing can be said about recognition; watch `gap` instead.")
    if not lr_hr.num_impostor:
        reasons.append("There is one person only: nobody can be mistaken for another.")
    sides = (("LR with HR", lr_hr), ("HR with HR", hr_hr))
    if lr_hr.auc is not None:
        reasons += [
            f"A FAR of {far:g} needs {int(np.ceil(1 / far))} pairs of different people, there are "
            f"{cross.num_impostor} of {side}."
            for side, cross in sides
            for far, rate in cross.tar.items()
            if rate is None
        ]
        reasons += [
            f"All cosines of {side} are equal: d' has no scale." for side, cross in sides if cross.d_prime is None
        ]
    return tuple(reasons)


def _checked_labels(labels: ArrayLike) -> IntArray:
    people = np.asarray(labels)
    if people.ndim != 1 or not people.size:
        raise ValueError(f"paired_views: labels must be [N] with N >= 1, got {list(people.shape)}")
    if people.dtype.kind not in "iu":
        raise TypeError(f"paired_views: labels must be integers, got {people.dtype}")
    if people.min() < 0:
        raise ValueError(f"paired_views: labels must be >= 0, got {people.min()}; leave unlabeled images out")
    return np.unique(people, return_inverse=True)[1]


def _unit(side: str, embeddings: ArrayLike, num: int) -> FloatArray:
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or len(rows) != num:
        raise ValueError(f"paired_views: {side} must be [{num}, D] to match the labels, got {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ValueError(
            f"paired_views: {len(wrong)} of {num} embeddings of {side} are 0 or not finite, the first is number "
            f"{wrong[0]}; find the image or layer that produced it"
        )
    return rows / lengths
