"""Which images train and which test a probe, and how sure an accuracy is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.protocols.bootstrap import Draws, Interval, summarize


def split_images(
    labels: NDArray[np.int64], test_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the training and of the test images, ascending; each person is in both.

    Args:
        labels: int64 [N].
        test_share: in (0, 1), of the images of each person with two or more; one image at least on either side. People
            with one image train only.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=1)
    ends = np.cumsum(counts)
    rank = np.arange(len(labels)) - np.repeat(ends - counts, counts)  # of each image among its person's
    wanted = np.clip(np.round(counts * test_share), 1, np.maximum(counts - 1, 0)).astype(np.int64)
    wanted[counts < 2] = 0
    is_test = rank < np.repeat(wanted, counts)
    return np.sort(order[~is_test]), np.sort(order[is_test])


def accuracy_over_people(
    is_right: NDArray[np.bool_], people: NDArray[np.int64], num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the share of right answers with a 95 % interval that resamples people, whose answers move together.

    Args:
        is_right: bool [N].
        people: int64 [N].
        num_resamples: draws.
        seed: of the draws.
    """
    return summarize(accuracy_draws(is_right, people, num_resamples, seed))


def accuracy_draws(
    is_right: NDArray[np.bool_], people: NDArray[np.int64], num_resamples: int = 1000, seed: int = 0
) -> Draws:
    """Return the accuracy and what it is in each draw of people; see `accuracy_over_people`."""
    _, person = np.unique(people, return_inverse=True)
    totals, right = np.bincount(person), np.bincount(person, weights=is_right)
    rng, num = np.random.default_rng(seed), len(totals)
    values = np.empty(num_resamples)
    for place in range(num_resamples):
        drawn = rng.integers(num, size=num)
        values[place] = right[drawn].sum() / totals[drawn].sum()
    return Draws(float(right.sum() / totals.sum()), values)
