"""Receiver operating characteristic of pair scores: curve, area, and rates at a false-accept rate (FAR)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

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
    # Impostor pairs are the many: they are sorted once, and what is looked up in them are the genuine scores alone.
    impostor, genuine = values[~labels], np.sort(values[labels])
    impostor.sort()  # in place: the choice above is a copy
    first = np.flatnonzero(np.append(True, impostor[1:] > impostor[:-1]))  # of each distinct score
    below = np.searchsorted(impostor, genuine, side="left")
    of_both = impostor.take(below, mode="clip") == genuine
    others = np.flatnonzero(~of_both & np.append(True, genuine[1:] > genuine[:-1]))  # scores of genuine pairs alone
    places = np.searchsorted(first, below[others], side="left")
    thresholds = np.insert(impostor[first], places, genuine[others])
    num_refused = np.insert(first, places, below[others])  # impostor pairs below each threshold, which ascend
    num_false = np.append(0, num_impostor - num_refused[::-1])
    ends = np.append(np.searchsorted(thresholds, genuine), len(thresholds) - 1)
    genuine_below = np.repeat(np.arange(num_genuine + 1), np.diff(ends, prepend=-1))  # genuine pairs below each
    num_true = np.append(0, num_genuine - genuine_below[::-1])
    return RocCurve(np.append(np.inf, thresholds[::-1]), num_false, num_false / num_impostor, num_true / num_genuine)


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
    values = _check_lightly("tar_at_far", scores, labels.size)
    _check_fars("tar_at_far", fars)
    num_impostor = int((~labels).sum())
    if num_impostor == labels.size:
        raise ValueError("tar_at_far: at least one genuine pair is needed, got none.")
    result = {float(far): float("nan") for far in fars}
    if resolved := [float(far) for far in fars if is_resolved(far, num_impostor)]:
        allowed = {far: _most_accepts(far, num_impostor) for far in resolved}
        # From below, the first impostor pair that would be one too many; pairs that score more are accepted.
        places = {far: num_impostor - number - 1 for far, number in allowed.items() if number < num_impostor}
        ordered = values[~labels]
        if places:
            ordered.partition([*places.values()])  # in place: the choice above is a copy
        genuine = values[labels]
        accepts = {far: int(np.count_nonzero(genuine > ordered[place])) for far, place in places.items()}
        result |= {far: accepts.get(far, genuine.size) / genuine.size for far in resolved}
    return result


def tar_at_nearest_far(scores: ArrayLike, issame: ArrayLike, fars: Sequence[float]) -> dict[float, float]:
    """Return for each FAR the TAR at the corner of the ROC whose FAR is nearest, which may lie above the one asked for.

    This is how most published figures on IJB-B and IJB-C are made; `tar_at_far` never exceeds its limit. Of two FARs
    equally near the larger one counts. Points between others on a straight line are no corners. A FAR that the pairs do
    not resolve is not refused: it gives the TAR at a FAR of 0, as the published script does.

    Args:
        scores: [N] floating, larger = more alike; accepted when score >= threshold.
        issame: bool [N] of both kinds.
        fars: in (0, 1].
    Raises:
        ValueError: on disagreeing shapes, NaN scores, one kind of pairs only, or a FAR outside (0, 1].
    Reference: InsightFace's evaluation of IJB, which takes scikit-learn's curve without collinear points.
    """
    _check_fars("tar_at_nearest_far", fars)
    curve = roc_curve(scores, issame)
    corners = _corners(curve, int(np.count_nonzero(issame)))[::-1]
    far = curve.far[corners]
    return {float(wanted): float(curve.tar[corners[np.argmin(np.abs(far - wanted))]]) for wanted in fars}


def clopper_pearson(num_found: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact (conservative) interval of a share of which num_found of num_trials were seen.

    It takes the trials for independent, which pairs that share people are not: a check of a bootstrap, no replacement.

    Raises:
        ValueError: unless 0 <= num_found <= num_trials, num_trials >= 1 and 0 < confidence < 1.
    Reference: Clopper, Pearson, "The use of confidence or fiducial limits", Biometrika 26(4), 1934.
    """
    if not 0 <= num_found <= num_trials or num_trials < 1 or not 0 < confidence < 1:
        raise ValueError(
            "clopper_pearson: 0 <= num_found <= num_trials >= 1 and a confidence in (0, 1) are needed, got"
            f" {num_found}, {num_trials}, {confidence}."
        )
    tail, num_others = (1 - confidence) / 2, num_trials - num_found
    lower = float(betaincinv(num_found, num_others + 1, tail)) if num_found else 0.0
    upper = float(betaincinv(num_found + 1, num_others, 1 - tail)) if num_others else 1.0
    return lower, upper


def auc(scores: ArrayLike, issame: ArrayLike) -> float:
    """Return the share of (genuine, impostor) comparisons ranked right, ties counting half. In [0, 1]."""
    labels = check_issame("auc", issame)
    check_both_kinds("auc", labels)
    values = _check_lightly("auc", scores, labels.size)
    genuine, impostor = values[labels], values[~labels]
    impostor.sort()  # in place: the choice above is a copy
    below = np.searchsorted(impostor, genuine, side="left")
    not_above = np.searchsorted(impostor, genuine, side="right")
    return float(np.mean(below + not_above) / (2 * impostor.size))


def det(scores: ArrayLike, issame: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (fmr, fnmr, thresholds), each [T], thresholds ascending: the detection error trade-off.

    A pair is accepted when score >= threshold. fmr is the share of impostor pairs accepted, fnmr that of genuine pairs
    refused. Of the thresholds on which every genuine pair is accepted only the highest is kept, and of those on which
    no impostor pair is, only the lowest (+inf where an impostor pair has the highest score): the rest are better by no
    measure.

    Raises:
        ValueError: on disagreeing shapes, NaN scores, or one kind of pairs only.
    Reference: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    """
    return curve_det(roc_curve(scores, issame))


def curve_det(curve: RocCurve) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `det` of a curve that is there already."""
    strictest = int(np.searchsorted(curve.num_false_accepts, 0, side="right")) - 1
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

    The point that accepts nothing, whose threshold is +inf, is left out. Of the others both ends are kept; of
    num_points FMRs, evenly spaced on a log axis from the smallest above 0 to 1, the one with the largest FMR that is
    not above each; and likewise of FNMRs.
    """
    whole = curve_det(curve)
    fmr, fnmr, thresholds = (values[np.isfinite(whole[2])] for values in whole)
    last = len(fmr) - 1
    kept = np.unique([0, last, *(last - _last_not_above(fmr[::-1], num_points)), *_last_not_above(fnmr, num_points)])
    return fmr[kept], fnmr[kept], thresholds[kept]


def _last_not_above(rates: FloatArray, num_points: int) -> IntArray:
    """Return for limits evenly spaced on a log axis the place of the last of the ascending rates not above each."""
    smallest = rates[rates > 0].min(initial=1)
    limits = np.geomspace(smallest, 1, num_points) * (1 + 1e-9)  # the ends are met despite rounding
    return np.searchsorted(rates, limits, side="right") - 1


def _check_fars(place: str, fars: Sequence[float]) -> None:
    if not all(0 < far <= 1 for far in fars):
        raise ValueError(f"{place}: fars must lie in (0, 1], got {list(fars)}.")


def _corners(curve: RocCurve, num_genuine: int) -> IntArray:
    """Return the points of a curve that do not lie on a straight line between two others at equal steps."""
    counts = np.stack([curve.num_false_accepts, np.rint(curve.tar * num_genuine).astype(np.int64)])
    is_corner = np.ones(curve.far.size, dtype=np.bool_)
    is_corner[2:-1] = np.diff(counts[:, 1:], 2).any(0)  # the first point, which accepts nothing, always stays
    return np.flatnonzero(is_corner)


def _check_lightly(place: str, scores: ArrayLike, num_pairs: int) -> NDArray[np.floating]:
    """Return scores as `check_scores` does, but float32 as float32: all pairs of a set are a hundred million."""
    array = np.asarray(scores)
    is_sound = array.dtype == np.float32 and array.shape == (num_pairs,) and not np.isnan(array).any()
    return array if is_sound else check_scores(place, scores, num_pairs)


def _most_accepts(far: float, num_impostor: int) -> int:
    """Return the largest number of false accepts whose quotient is at most far; quotients as in `roc_curve`."""
    number = min(num_impostor, int(far * num_impostor) + 1)
    return number if number / num_impostor <= far else number - 1
