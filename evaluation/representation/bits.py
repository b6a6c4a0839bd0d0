"""What a classifier knows about each image beyond how frequent the classes are, in bits; and one fitted temperature.

Only for people who are classes of training; for others see `cllr`. A margin head is judged by its logits without the
margin. With its scale of 64 a confident error costs tens of bits: report both the head's own scale and one temperature,
fitted by `fit_temperature` on other images than those that are scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.checks import FloatArray, IntArray

UNKNOWN = -1  # label of whoever is no class of training
_VALUES_AT_ONCE = 2**22
_TEMPERATURES = (1e-3, 1e3)
_PRIOR_SUM = 1e-6  # how far the sum of a prior may be from 1


def bits_over_prior(logits: ArrayLike, labels: ArrayLike, prior: ArrayLike) -> float:
    """Return the mean of log2(softmax(logits)[label] / prior[label]) over the images of known people.

    0: no more than the frequencies say; negative: worse than them, and never clamped, since clamping hides just that.

    Args:
        logits: [N, C] floating, finite, without margin.
        labels: int [N] in [0, C); -1 = no class of training, which counts in nothing.
        prior: [C] >= 0, sums to 1; above 0 for every label that occurs. See `smoothed_prior`.
    Returns:
        Bits per image; NaN if no image is of a known person.
    Raises:
        ValueError: on disagreeing shapes, labels out of range, logits that are not finite, a prior that is none or is
            0 for a label. TypeError: if labels are not whole numbers.
    """
    known, people = _known("bits_over_prior", logits, labels)
    shares = np.asarray(prior, np.float64)
    if shares.shape != known.shape[1:] or not (shares >= 0).all() or abs(shares.sum() - 1) > _PRIOR_SUM:
        raise ValueError(
            f"bits_over_prior: the prior must be {list(known.shape[1:])}, >= 0 and sum to 1, got {list(shares.shape)} "
            f"with a sum of {shares.sum():g}"
        )
    if not (shares[people] > 0).all():
        raise ValueError("bits_over_prior: a label has a prior of 0, which is infinitely far off; use smoothed_prior")
    if not len(people):
        return float("nan")
    gained = np.concatenate([_log_probability(*part) for part in _parts(known, people)]) - np.log(shares[people])
    return float(gained.mean() / np.log(2))


def smoothed_prior(counts: ArrayLike) -> FloatArray:
    """Return (count + 1) / (sum + C), float64 [C]: no class is impossible, whatever the training set held.

    Raises:
        ValueError: if counts are not [C] >= 0 with C >= 1.
    """
    values = np.asarray(counts, np.float64)
    if values.ndim != 1 or not values.size or not (values >= 0).all():
        raise ValueError(f"smoothed_prior: counts must be [C] with C >= 1 and >= 0, got {list(values.shape)}")
    return (values + 1) / (values.sum() + values.size)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the T for which the cross entropy of logits / T is least, in [0.001, 1000].

    An end of that range says that no temperature is best: all answers are right by any factor, or no better than
    none. Fit it on other images than those that are scored with it.

    Args:
        logits, labels: as of `bits_over_prior`.
    Raises:
        ValueError: as `bits_over_prior`, or if no image is of a known person. TypeError: likewise.
    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599, Sec. 4.2.
    """
    from scipy.optimize import brentq  # half a second, which few programs need

    known, people = _known("fit_temperature", logits, labels)
    if not len(people):
        raise ValueError("fit_temperature: no image is of a known person (all labels are -1)")

    def slope(log_temperature: float) -> float:
        """Return how the cross entropy changes with 1 / T, the logits' excess over the right ones; rises with 1 / T."""
        factor = np.exp(-log_temperature)
        return float(np.concatenate([_excess(part, own, factor) for part, own in _parts(known, people)]).mean())

    low, high = np.log(_TEMPERATURES)
    if slope(low) <= 0:  # the smallest T is not small enough
        return _TEMPERATURES[0]
    if slope(high) >= 0:
        return _TEMPERATURES[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-10)))


def _known(place: str, logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], IntArray]:
    """Return the logits and labels of the images whose person is known."""
    values, people = np.asarray(logits), np.asarray(labels)
    if values.ndim != 2 or people.shape != values.shape[:1]:
        raise ValueError(
            f"{place}: logits [N, C] and labels [N] are needed, got {list(values.shape)} and {list(people.shape)}"
        )
    if people.dtype.kind not in "iu":
        raise TypeError(f"{place}: labels must be integers, got {people.dtype}")
    if people.size and not UNKNOWN <= people.min() <= people.max() < values.shape[1]:
        raise ValueError(
            f"{place}: labels must lie in [0, {values.shape[1]}), or be -1 for people unknown to training, got "
            f"{people.min()} to {people.max()}"
        )
    is_known = people != UNKNOWN
    values = values[is_known]
    if not np.isfinite(values).all():
        raise ValueError(f"{place}: logits must be finite; find the image or layer that produced the others")
    return values, people[is_known].astype(np.int64)


def _parts(logits: NDArray[np.floating], labels: IntArray) -> list[tuple[NDArray[np.floating], IntArray]]:
    """Return a few rows at a time, so that float64 copies stay small."""
    step = max(1, _VALUES_AT_ONCE // logits.shape[1])
    return [(logits[start : start + step], labels[start : start + step]) for start in range(0, len(labels), step)]


def _log_probability(logits: NDArray[np.floating], labels: IntArray) -> FloatArray:
    """Return the logarithm of softmax(logits)[label] of each row, float64 [N]."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return values[np.arange(len(labels)), labels] - np.log(np.exp(values).sum(axis=1))


def _excess(logits: NDArray[np.floating], labels: IntArray, factor: float) -> FloatArray:
    """Return the mean logit under softmax(factor * logits) less the logit of the label, of each row."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    weights = np.exp(factor * values)
    return (weights * values).sum(axis=1) / weights.sum(axis=1) - values[np.arange(len(labels)), labels]
