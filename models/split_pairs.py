"""People split in two halves, the pairs within each, and thresholds that one half chooses and the other tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.rates import PeopleDraws, Rate, threshold_at

FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Plan(NamedTuple):
    """How to calibrate.

    Attributes:
        fars: the false-accept rates to find thresholds for.
        max_pairs: at most so many pairs of either half are scored, chosen at random: genuine ones first, up to half.
        num_draws: draws of people behind an interval.
        seed: of the split, the masks and the draws.
    """

    fars: Sequence[float] = FARS
    max_pairs: int = 100_000
    num_draws: int = 1000
    seed: int = 0


USUAL = Plan()


def split_people(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which photographs [N] belong to the half that chooses thresholds; nobody is in both halves.

    People with several photographs and people with one are split each for themselves, so that both halves have both.

    Raises:
        ValueError: if there are fewer than four people.
    """
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 4:
        raise ValueError(
            f"{len(names)} people are too few to calibrate: two choose a threshold and two others test it; give four or"
            " more, each in a folder"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    return np.isin(labels, names[order[::2]])


def draw_pairs(labels: NDArray[np.int64], in_fit: NDArray[np.bool_], plan: Plan) -> NDArray[np.int64]:
    """Return pairs int64 [M, 2] of photographs of the same half, each once, at most `max_pairs` of a half."""
    rng = np.random.default_rng([plan.seed, 1])
    return np.concatenate([draw(labels, np.flatnonzero(half), plan.max_pairs, rng) for half in (in_fit, ~in_fit)])


def draw(
    labels: NDArray[np.int64], members: NDArray[np.int64], max_pairs: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return pairs int64 [M, 2] of members, places among the labels, each once, at most `max_pairs`.

    Genuine ones come first, up to half of them.
    """
    by_person = [members[labels[members] == person] for person in np.unique(labels[members])]
    genuine = np.concatenate([own[np.stack(np.triu_indices(len(own), 1), axis=1)] for own in by_person])
    if len(genuine) > max_pairs // 2:
        genuine = rng.permutation(genuine)[: max_pairs // 2]
    wanted = max_pairs - len(genuine)
    if len(members) ** 2 <= 4 * wanted:
        pairs = members[np.stack(np.triu_indices(len(members), 1), axis=1)]
    else:
        # Far fewer than there are: most draws are new.
        drawn = np.sort(rng.choice(members, (4 * wanted, 2)), axis=1)
        pairs = rng.permutation(np.unique(drawn, axis=0))
    impostors = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
    return np.concatenate([genuine, rng.permutation(impostors)[:wanted]])


def listed_pairs(
    folder: Path, file: Path, places: NDArray[np.int64], in_fit: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], int]:
    """Return the listed pairs within a half, by position among the photographs at places, and how many are left out.

    Raises:
        ValueError: if the list cannot be read, or contradicts the folders.
    """
    from datasets import ImageFolderDataset, read_pairs

    dataset = ImageFolderDataset(folder)
    found = read_pairs(file, dataset)
    if not np.array_equal(dataset.labels[found.first] == dataset.labels[found.second], found.issame):
        raise ValueError(f"{file}: contradicts the folders, which say who is who: people cannot be split; correct one")
    pairs = np.stack([found.first, found.second], axis=1)
    pairs = np.sort(np.searchsorted(places, pairs[np.isin(pairs, places).all(1)]), axis=1)
    within = in_fit[pairs[:, 0]] == in_fit[pairs[:, 1]]
    return pairs[within], len(found.first) - int(within.sum())


class SplitPairs:
    """Pairs of both halves: those that choose thresholds, and those that test them.

    Args:
        people: int [N, 2], whom each pair shows.
        in_fit: bool [N], True for the half that chooses.
        plan: draws and seed.
    Raises:
        ValueError: if a half has no pair of different people.
    """

    def __init__(self, people: NDArray[np.int64], in_fit: NDArray[np.bool_], plan: Plan = USUAL) -> None:
        issame = people[:, 0] == people[:, 1]
        self.fit_impostors = in_fit & ~issame
        self.test_impostors = ~in_fit & ~issame
        self.test_genuine = ~in_fit & issame
        self.num_impostors = min(int(self.fit_impostors.sum()), int(self.test_impostors.sum()))
        if not self.num_impostors:
            raise ValueError("a half of the people has no pair of different ones: nothing can be calibrated; give more")
        self._draws = {
            kind: PeopleDraws(people[chosen], plan.num_draws, plan.seed)
            for kind, chosen in (("impostor", self.test_impostors), ("genuine", self.test_genuine))
            if chosen.any()
        }

    def resolved(self, fars: Sequence[float]) -> list[float]:
        """Return those FARs that the pairs of either half can show."""
        return [far for far in fars if 1 / self.num_impostors <= far]

    def test(self, scores: NDArray[np.float64], far: float) -> tuple[float, Rate, Rate | None]:
        """Return the threshold that the one half has for a FAR, and FAR and TAR of the other half there; scores [N]."""
        threshold = threshold_at(scores[self.fit_impostors], far)
        found = self._draws["impostor"].rate(scores[self.test_impostors] >= threshold)
        genuine = self._draws.get("genuine")
        return threshold, found, None if genuine is None else genuine.rate(scores[self.test_genuine] >= threshold)
