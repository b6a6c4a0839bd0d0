"""Identification: is the right person first in the gallery (closed set), and is a stranger refused (open set)?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray
from evaluation.protocols.roc import tar_at_far
from evaluation.scores.triangle import num_unordered_pairs, square_rows

RANKS = (1, 5)


@dataclass(frozen=True)
class Identification:
    """Every image of a set searched among all others.

    Attributes:
        rank_accuracy: {k: share of the probes whose identity is among the k best others}.
        num_probes: images of identities with at least two.
        num_strangers: images whose identity has no other: they are searched in, but cannot be found.
    """

    rank_accuracy: dict[int, float]
    num_probes: int
    num_strangers: int

    def to_dict(self) -> dict[str, object]:
        """Return the entry of a result dictionary (see `evaluation.report.results`)."""
        shares = {str(rank): share for rank, share in self.rank_accuracy.items()}
        return {"rank_accuracy": shares, "num_probes": self.num_probes, "num_strangers": self.num_strangers}


def rank_accuracy(
    scores: ArrayLike, probe_labels: ArrayLike, gallery_labels: ArrayLike, ranks: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Return {k: share of probes whose identity is among the k best gallery images}.

    An image of another identity with the same score counts as better, so equal scores cannot flatter.

    Args:
        scores: [P, G], larger = more alike. probe_labels: int [P]. gallery_labels: int [G], holding every probe's
            label.
        ranks: k >= 1.
    Raises:
        ValueError: on disagreeing shapes, NaN scores, or a probe whose identity the gallery lacks.
    """
    values, is_mate = _check_matrix("rank_accuracy", scores, probe_labels, gallery_labels)
    mated = is_mate.any(1)
    if not mated.all():
        raise ValueError(
            "rank_accuracy: every probe needs its identity in the gallery,"
            f" probe {int(np.flatnonzero(~mated)[0])} has none; leave it out or use tpir_at_fpir."
        )
    rank, _ = _mate_rank_and_score(values, is_mate)
    return {k: float(np.mean(rank <= k)) for k in ranks}


def leave_one_out(
    pair_scores: ArrayLike, labels: ArrayLike, ranks: Sequence[int] = RANKS, with_later: ArrayLike | None = None
) -> Identification:
    """Search every image among all others and return how often its identity is among the best; see `rank_accuracy`.

    Args:
        pair_scores: [N * (N - 1) / 2] of all unordered pairs of images, in the order of np.triu_indices(N, 1).
        labels: int [N].
        ranks: k >= 1.
        with_later: [N * (N - 1) / 2], scores of the same pairs where the two images have different roles: here the
            first one is the probe, in pair_scores the second one. None: one score serves both.
    Raises:
        ValueError: on disagreeing shapes, NaN scores, or if no identity has two images.
    """
    values, identities = np.asarray(pair_scores, dtype=np.float64), np.asarray(labels)
    num_images = identities.size
    later = None if with_later is None else np.asarray(with_later, dtype=np.float64)
    if values.shape != (num_unordered_pairs(num_images),) or (later is not None and later.shape != values.shape):
        raise ValueError(
            f"leave_one_out: scores of all {num_unordered_pairs(num_images)} pairs of {num_images} images are needed,"
            f" got {list(values.shape)}."
        )
    _, place, counts = np.unique(identities, return_inverse=True, return_counts=True)
    probes = np.flatnonzero(counts[place] > 1)
    if not len(probes):
        raise ValueError("leave_one_out: no identity has two images; there is nothing to find.")
    correct = dict.fromkeys(ranks, 0.0)
    for block, scores in square_rows(values, probes, num_images, later):
        # An image's own score is -inf there, so that it never finds itself.
        for rank, share in rank_accuracy(scores, identities[block], identities, ranks).items():
            correct[rank] += share * len(block)
    shares = {rank: number / len(probes) for rank, number in correct.items()}
    return Identification(shares, len(probes), num_images - len(probes))


def tpir_at_fpir(
    scores: ArrayLike, probe_labels: ArrayLike, gallery_labels: ArrayLike, fpirs: Sequence[float], rank: int = 1
) -> dict[float, float]:
    """Return {FPIR limit: largest share of known probes that are identified while at most that share of strangers is}.

    A known probe is identified when its identity is within rank and scores >= threshold; a stranger (label absent from
    the gallery) when any gallery image scores >= threshold. NaN where limit * strangers < 1.

    Raises:
        ValueError: on disagreeing shapes, NaN scores, no known probe, or a limit outside (0, 1).
    Reference: ISO/IEC 19795-1 (true- and false-positive identification rates).
    """
    values, is_mate = _check_matrix("tpir_at_fpir", scores, probe_labels, gallery_labels)
    if not all(0 < fpir < 1 for fpir in fpirs):
        raise ValueError(f"tpir_at_fpir: fpirs must lie in (0, 1), got {list(fpirs)}.")
    known = np.asarray(is_mate.any(1))
    mate_rank, mate_score = _mate_rank_and_score(values[known], is_mate[known])
    identified = np.where(mate_rank <= rank, mate_score, -np.inf)  # below every threshold with an FPIR under 1
    return tar_at_far(
        np.concatenate([identified, values[~known].max(1)]), np.arange(known.size) < known.sum(), list(fpirs)
    )


def _mate_rank_and_score(scores: FloatArray, is_mate: BoolArray) -> tuple[np.ndarray, FloatArray]:
    best_mate = np.where(is_mate, scores, -np.inf).max(1, initial=-np.inf)
    rank = 1 + np.sum(~is_mate & (scores >= best_mate[:, None]), axis=1)
    return rank, best_mate


def _check_matrix(
    place: str, scores: ArrayLike, probe_labels: ArrayLike, gallery_labels: ArrayLike
) -> tuple[FloatArray, BoolArray]:
    values, probes, gallery = np.asarray(scores, dtype=np.float64), np.asarray(probe_labels), np.asarray(gallery_labels)
    if values.shape != (probes.size, gallery.size) or gallery.size == 0:
        raise ValueError(
            f"{place}: scores must be [probes, gallery] = [{probes.size}, {gallery.size}], a gallery not empty,"
            f" got {list(values.shape)}."
        )
    if np.isnan(values).any():
        probe, image = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"{place}: scores must be numbers, got NaN for probe {probe}, gallery image {image}.")
    return values, probes[:, None] == gallery[None, :]
