"""Receiver operating characteristic of pair scores: curve, area, and rates at a false-accept rate (FAR)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.protocols.checks import FloatArray, IntArray, check_both_kinds, check_issame, check_scores


class RocCurve(NamedTuple):
    """One point per distinct score, strictest first; a pair is accepted when score >= threshold. All [T]."""

    threshold: FloatArray  # descending; the first is +inf and accepts nothing
    num_false_accepts: IntArray
    far: FloatArray
    tar: FloatArray


class OperatingPoint(NamedTuple):
    """Where a FAR limit is met: rates, threshold (accept when score >= threshold) and count of false accepts."""

    tar: float
    far: float
    threshold: float
    num_false_accepts: int


def roc_curve(scores: ArrayLike, issame: ArrayLike) -> RocCurve:
    """Return the full curve of scores [N] with labels bool [N]; both kinds of pairs are needed."""
    labels = check_issame("roc_curve", issame)
    num_genuine, num_impostor = check_both_kinds("roc_curve", labels)
    values = check_scores("roc_curve", scores, labels.size)
    thresholds = np.unique(values)[::-1]
    genuine, impostor = np.sort(values[labels]), np.sort(values[~labels])
    true_accepts = np.append(0, num_genuine - np.searchsorted(genuine, thresholds, side="left"))
    false_accepts = np.append(0, num_impostor - np.searchsorted(impostor, thresholds, side="left"))
    far, tar = false_accepts / num_impostor, true_accepts / num_genuine
    return RocCurve(np.append(np.inf, thresholds), false_accepts, far, tar)


def operating_point(curve: RocCurve, far: float) -> OperatingPoint:
    """Return the most lenient point whose FAR <= far: it has the largest TAR of those that do.

    Counts are compared as quotients, so that 784 of 78,400 meets a far of 1e-2 exactly.
    """
    point = int(np.searchsorted(curve.far, far, side="right")) - 1
    return OperatingPoint(
        float(curve.tar[point]),
        float(curve.far[point]),
        float(curve.threshold[point]),
        int(curve.num_false_accepts[point]),
    )


def is_resolved(far: float, num_impostor: int) -> bool:
    """Return whether num_impostor pairs can show this FAR at all: one false accept must not exceed it."""
    return num_impostor > 0 and 1 / num_impostor <= far


def tar_at_far(scores: ArrayLike, issame: ArrayLike, fars: Sequence[float]) -> dict[float, float]:
    """Return for each FAR limit the largest TAR whose FAR <= limit, accepting when score >= threshold.

    Args:
        scores: [N] floating, larger = more alike. Pairs with equal scores are accepted together or not at all.
        issame: bool [N] with at least one genuine pair.
        fars: limits in (0, 1].
    Returns:
        {far: TAR in [0, 1]}; NaN where far * impostors < 1, because no such FAR can then be observed.
    Raises:
        ValueError: on disagreeing shapes, NaN scores, a limit outside (0, 1], or no genuine pairs.
    """
    labels = check_issame("tar_at_far", issame)
    values = check_scores("tar_at_far", scores, labels.size)
    if not all(0 < far <= 1 for far in fars):
        raise ValueError(f"tar_at_far: fars must lie in (0, 1], got {list(fars)}.")
    num_impostor = int((~labels).sum())
    resolved = [far for far in fars if is_resolved(far, num_impostor)]
    if num_impostor == labels.size:
        raise ValueError("tar_at_far: at least one genuine pair is needed, got none.")
    result = {float(far): float("nan") for far in fars}
    if resolved:
        curve = roc_curve(values, labels)
        result.update({float(far): operating_point(curve, far).tar for far in resolved})
    return result


def auc(scores: ArrayLike, issame: ArrayLike) -> float:
    """Return the share of (genuine, impostor) comparisons ranked right, ties counting half. In [0, 1]."""
    labels = check_issame("auc", issame)
    check_both_kinds("auc", labels)
    values = check_scores("auc", scores, labels.size)
    genuine, impostor = values[labels], np.sort(values[~labels])
    below = np.searchsorted(impostor, genuine, side="left")
    not_above = np.searchsorted(impostor, genuine, side="right")
    return float(np.mean(below + not_above) / (2 * impostor.size))


def det(scores: ArrayLike, issame: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (fmr, fnmr, thresholds), each [T], thresholds ascending: the detection error trade-off.

    A pair is accepted when score >= threshold. fmr is the share of impostor pairs accepted, fnmr that of genuine pairs
    refused. Of the thresholds on which every genuine pair is accepted only the highest is kept, and of those on which
    no impostor pair is, only the lowest: the rest are better by no measure.

    Raises:
        ValueError: on disagreeing shapes, NaN scores, or one kind of pairs only.
    Reference: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    return curve_det(roc_curve(scores, issame))


def curve_det(curve: RocCurve) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `det` of a curve that is there already."""
    strictest = int(np.searchsorted(curve.num_false_accepts[1:], curve.num_false_accepts[1], side="right"))
    most_lenient = 1 + int(np.searchsorted(curve.tar[1:], 1.0))
    kept = slice(strictest, most_lenient + 1)
    return curve.far[kept][::-1], 1 - curve.tar[kept][::-1], curve.threshold[kept][::-1]


def eer(scores: ArrayLike, issame: ArrayLike) -> float:
    """Return the equal error rate, where FAR = 1 - TAR on straight lines between the points of the ROC. In [0, 1].

    Raises:
        ValueError: on disagreeing shapes, NaN scores, or one kind of pairs only.
    """
    return curve_eer(roc_curve(scores, issame))


def curve_eer(curve: RocCurve) -> float:
    """Return `eer` of a curve that is there already."""
    excess = curve.far - (1 - curve.tar)  # ascends strictly from -1 to 1
    after = int(np.searchsorted(excess, 0.0))
    before = after - 1
    share = excess[before] / (excess[before] - excess[after])
    return float(curve.far[before] + share * (curve.far[after] - curve.far[before]))


def roc_points(curve: RocCurve, num_points: int = 200) -> tuple[FloatArray, FloatArray]:
    """Return (far, tar), each [num_points]: the curve sampled at FARs evenly spaced on a log axis, for drawing.

    The FARs run from the smallest that can be observed, 1 / impostors, to 1.
    """
    num_impostor = curve.num_false_accepts[-1]
    far = np.geomspace(1 / num_impostor, 1, num_points)
    far[[0, -1]] = 1 / num_impostor, 1  # geomspace may miss its ends by one rounding
    return far, curve.tar[np.searchsorted(curve.far, far, side="right") - 1]


def det_points(curve: RocCurve, num_points: int = 100) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (fmr, fnmr, thresholds) of `det` thinned for drawing: at most 2 * num_points + 2 points, each exact.

    Kept are both ends; of num_points FMRs, evenly spaced on a log axis from the smallest above 0 to 1, the point with
    the largest FMR that is not above each; and likewise of FNMRs.
    """
    fmr, fnmr, thresholds = curve_det(curve)
    last = len(fmr) - 1
    kept = np.unique([0, last, *(last - _last_not_above(fmr[::-1], num_points)), *_last_not_above(fnmr, num_points)])
    return fmr[kept], fnmr[kept], thresholds[kept]


def _last_not_above(rates: FloatArray, num_points: int) -> IntArray:
    """Return for limits evenly spaced on a log axis the place of the last of the ascending rates not above each."""
    smallest = rates[rates > 0].min(initial=1)
    limits = np.geomspace(smallest, 1, num_points) * (1 + 1e-9)  # the ends are met despite rounding
    return np.searchsorted(rates, limits, side="right") - 1
