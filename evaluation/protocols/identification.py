"""Identification: is the right person first in the gallery (closed set), and is a stranger refused (open set)?

The words are those of NIST and of ISO/IEC 19795-1. A search is mated when the gallery holds the probe's person. FPIR is
the share of unmated searches in which anybody scores at or above the threshold; FNIR the share of mated ones in which
the probe's person scores below it or is not within the rank; TPIR = 1 - FNIR.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import BoolArray, FloatArray, IntArray
from evaluation.scores.triangle import num_unordered_pairs, square_rows

RANKS = (1, 5)
TIES = ("pessimistic", "optimistic")


class OpenPoint(NamedTuple):
    """Where a limit of FPIR is met: rates and threshold; somebody is named when a score >= threshold."""

    fpir: float
    tpir: float
    threshold: float  # +inf: nobody is ever named


class OpenSet(NamedTuple):
    """One point per distinct best score of a probe, strictest threshold first, all [T]."""

    threshold: FloatArray  # somebody is named when a score >= threshold
    fpir: FloatArray
    tpir: FloatArray

    @property
    def fnir(self) -> FloatArray:
        """False-negative identification rate, 1 - TPIR."""
        return 1 - self.tpir


@dataclass(frozen=True, eq=False)
class Identification:
    """P probes searched in a gallery: where each one's person came, and the score of whoever came first.

    Attributes:
        known: bool [P], whether the gallery holds the probe's person.
        above: int64 [P], how many others of the gallery score strictly above the probe's person; 0 for the unknown.
        tied: int64 [P], how many others score the same.
        own: float64 [P], score of the probe's person, the best of its entries; -inf for the unknown.
        best: float64 [P], the highest score of anybody in the gallery.
    """

    known: BoolArray
    above: IntArray
    tied: IntArray
    own: FloatArray
    best: FloatArray

    def rank(self, ties: str = "pessimistic") -> IntArray:
        """Return the rank of each known probe's person, from 1; int64, in the order of the probes.

        Args:
            ties: "pessimistic": others with the same score come first; "optimistic": they come after.
        """
        if ties not in TIES:
            raise ValueError(f"Identification: ties must be one of {', '.join(TIES)}, got {ties!r}.")
        rank = 1 + self.above + (self.tied if ties == "pessimistic" else 0)
        return rank[self.known]

    def cmc(self, max_rank: int, ties: str = "pessimistic") -> FloatArray:
        """Return the share of known probes whose person is within rank 1, 2, ... max_rank, float64 [max_rank].

        Raises:
            ValueError: if max_rank is below 1, ties are not known, or no probe is known.
        """
        if max_rank < 1:
            raise ValueError(f"Identification: max_rank must be at least 1, got {max_rank}.")
        self._check_known()
        rank = np.sort(self.rank(ties))
        return np.searchsorted(rank, np.arange(1, max_rank + 1), side="right") / rank.size

    def open_set(self, rank: int | None = None) -> OpenSet:
        """Return FPIR and TPIR at every threshold; ties are pessimistic.

        Args:
            rank: within which the probe's person must be; None: any.
        Raises:
            ValueError: if known or unknown probes are missing, or rank is below 1.
        """
        if rank is not None and rank < 1:
            raise ValueError(f"Identification: rank must be at least 1, or None for any, got {rank}.")
        self._check_known()
        if self.known.all():
            raise ValueError("Identification: no probe is unknown to the gallery; FPIR needs some that are.")
        own = self.own[self.known]
        hits = np.sort(own if rank is None else own[self.rank() <= rank])
        strangers = np.sort(self.best[~self.known])
        thresholds = np.unique(self.best)[::-1]
        num_hits, num_named = (side.size - np.searchsorted(side, thresholds) for side in (hits, strangers))
        return OpenSet(thresholds, num_named / strangers.size, num_hits / own.size)

    def tpir_at_fpir(self, fpir: float, rank: int | None = None) -> float:
        """Return TPIR at the lowest threshold whose FPIR <= fpir; NaN where fpir * unknown probes < 1.

        Args and raises: as `point_at_fpir`.
        """
        point = self.point_at_fpir(fpir, rank)
        return float("nan") if point is None else point.tpir

    def point_at_fpir(self, fpir: float, rank: int | None = None) -> OpenPoint | None:
        """Return the point with the lowest threshold whose FPIR <= fpir; None where fpir * unknown probes < 1.

        Args:
            fpir: in (0, 1).
            rank: within which the probe's person must be; None: any.
        Raises:
            ValueError: as `open_set`, or on an fpir outside (0, 1).
        """
        if not 0 < fpir < 1:
            raise ValueError(f"Identification: fpir must lie in (0, 1), got {fpir}.")
        curve = self.open_set(rank)
        if 1 / np.count_nonzero(~self.known) > fpir:
            return None
        place = int(np.searchsorted(curve.fpir, fpir, side="right")) - 1
        if place < 0:
            return OpenPoint(0.0, 0.0, float("inf"))
        return OpenPoint(float(curve.fpir[place]), float(curve.tpir[place]), float(curve.threshold[place]))

    def to_dict(self, ranks: Sequence[int] = RANKS) -> dict[str, object]:
        """Return the entry of a result dictionary (see `evaluation.report.results`)."""
        cmc = self.cmc(max(ranks))
        num_known = int(np.count_nonzero(self.known))
        return {
            "rank_accuracy": {str(rank): float(cmc[rank - 1]) for rank in ranks},
            "num_probes": num_known,
            "num_strangers": self.known.size - num_known,
        }

    def _check_known(self) -> None:
        if not self.known.any():
            raise ValueError("Identification: the gallery holds no probe's person; there is nobody to find.")


def open_set_points(curve: OpenSet, num_points: int = 100) -> OpenSet:
    """Return at most num_points + 2 points of a curve for drawing, each exact: both ends, and of FPIRs evenly spaced on
    a log axis the most lenient point that is not above each."""
    smallest = curve.fpir[curve.fpir > 0].min(initial=1)
    limits = np.geomspace(smallest, 1, num_points) * (1 + 1e-9)  # the ends are met despite rounding
    places = np.searchsorted(curve.fpir, limits, side="right") - 1
    kept = np.unique([0, len(curve.fpir) - 1, *places.clip(min=0)])
    return OpenSet(*(values[kept] for values in curve))


def identify(
    scores: ArrayLike, probe_people: ArrayLike, gallery_people: ArrayLike, by_entry: bool = False
) -> Identification:
    """Search every probe in the gallery.

    Args:
        scores: [P, G] floating, larger = more alike; -inf for an entry that a probe is not to find, such as itself.
        probe_people: int [P]. People that the gallery lacks are unknown.
        gallery_people: int [G]; several entries of a person count as one, by the best of them.
        by_entry: whether each entry of another person takes a rank of its own, as in retrieval.
    Raises:
        ValueError: on disagreeing shapes, an empty gallery, or NaN scores.
    """
    values, probes, gallery = _check_matrix(scores, np.asarray(probe_people), np.asarray(gallery_people))
    people, person_of_entry = np.unique(gallery, return_inverse=True)
    own_place = np.searchsorted(people, probes).clip(max=len(people) - 1)
    by_person = _best_of_each(values, person_of_entry, len(people))
    own = by_person[np.arange(len(probes)), own_place]
    # A probe that is its person's only entry, and must not find itself, is a stranger to the rest.
    known = (people[own_place] == probes) & (own > -np.inf)
    own = np.where(known, own, -np.inf)
    columns = person_of_entry if by_entry else np.arange(len(people))
    candidates = values if by_entry else by_person
    is_other = (columns != own_place[:, None]) & known[:, None]
    above = np.sum(is_other & (candidates > own[:, None]), axis=1)
    tied = np.sum(is_other & (candidates == own[:, None]), axis=1)
    return Identification(known, above, tied, own, by_person.max(1))


def join_searches(parts: Sequence[Identification]) -> Identification:
    """Return the searches of several blocks of probes in one gallery as one, in the order of the blocks."""
    return Identification(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("known", "above", "tied", "own", "best"))
    )


def leave_one_out(pair_scores: ArrayLike, labels: ArrayLike, with_later: ArrayLike | None = None) -> Identification:
    """Search every image among all others; each image of another identity takes a rank of its own.

    Args:
        pair_scores: [N * (N - 1) / 2] of all unordered pairs of images, in the order of np.triu_indices(N, 1).
        labels: int [N].
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
    if len(np.unique(identities)) == num_images:
        raise ValueError("leave_one_out: no identity has two images; there is nothing to find.")
    return join_searches(
        [
            identify(scores, identities[block], identities, by_entry=True)
            for block, scores in square_rows(values, np.arange(num_images), num_images, later)
        ]
    )


def _best_of_each(values: FloatArray, person_of_entry: IntArray, num_people: int) -> FloatArray:
    """Return the best score of each person [P, people]."""
    if num_people == len(person_of_entry):
        return values[:, np.argsort(person_of_entry)]
    order = np.argsort(person_of_entry, kind="stable")
    starts = np.searchsorted(person_of_entry[order], np.arange(num_people))
    return np.maximum.reduceat(values[:, order], starts, axis=1)


def _check_matrix(
    scores: ArrayLike, probes: np.ndarray, gallery: np.ndarray
) -> tuple[FloatArray, np.ndarray, np.ndarray]:
    values = np.asarray(scores)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    if probes.ndim != 1 or gallery.ndim != 1 or values.shape != (probes.size, gallery.size) or 0 in values.shape:
        raise ValueError(
            f"identify: scores must be [probes, gallery] = [{probes.size}, {gallery.size}], neither of them empty,"
            f" got {list(values.shape)}."
        )
    if np.isnan(values).any():
        probe, image = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"identify: scores must be numbers, got NaN for probe {probe}, gallery image {image}.")
    return values, probes, gallery
