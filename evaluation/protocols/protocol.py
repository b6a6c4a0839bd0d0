"""The verification protocol of a benchmark: every measure of every method on the same pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.protocols.bootstrap import Resampling, draw_all
from evaluation.protocols.checks import BoolArray, FloatArray, Folds, check_both_kinds, check_issame, check_scores
from evaluation.protocols.folds import fold_of_pairs, one_kind_folds
from evaluation.protocols.fusion import FusionStatistics, combine_folds, fuse, fuse_with
from evaluation.protocols.measured import Measured
from evaluation.protocols.roc import (
    OperatingPoint,
    RocCurve,
    auc,
    curve_eer,
    det_points,
    is_resolved,
    operating_point,
    roc_curve,
    roc_points,
)
from evaluation.protocols.verification import VerificationResult, verification
from evaluation.protocols.weighted import weighted_accuracy, weighted_auc, weighted_tars_at_fars
from evaluation.representation.likelihood import cross_fitted_cllr

MATCHERS = ("adaface", "qaconv")
METHODS = (*MATCHERS, "combined")
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of these each set is told at those that its pairs resolve
_NUM_BINS = 40


@dataclass(frozen=True)
class MethodResult:
    """Everything measured of one method on one set of pairs.

    Attributes:
        verification: cross-validated accuracy with its folds and thresholds.
        auc: area under the curve.
        curve: the full curve.
        issame, scores: labels bool [N] and scores float64 [N]; of the combined method each pair's from its own fold's
            row.
        fold_scores, folds: what verification saw: the scores, or [F, N] rows of the combined method; and the folds.
    """

    verification: VerificationResult
    auc: float
    curve: RocCurve
    issame: BoolArray
    scores: FloatArray
    fold_scores: FloatArray
    folds: Folds

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the folds, in [0, 1]."""
        return self.verification.accuracy

    @property
    def std(self) -> float:
        """Population standard deviation of the accuracy over the folds."""
        return self.verification.std

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean accuracy where genuine and impostor pairs count equally, computed anew; None: a fold holds one kind."""
        if one_kind_folds(self.issame, fold_of_pairs(self.folds, self.issame.size)):
            return None
        return verification(self.fold_scores, self.issame, self.folds, balanced=True).accuracy

    @property
    def eer(self) -> float:
        """Equal error rate, in [0, 1]."""
        return curve_eer(self.curve)

    @property
    def cllr(self) -> float | None:
        """Cost of the scores as evidence, in bits, each fold calibrated by the others; None: they cannot be."""
        return cross_fitted_cllr(self.fold_scores, self.issame, self.folds)

    @property
    def num_impostor(self) -> int:
        """Number of impostor pairs."""
        return int((~self.issame).sum())

    def rates(self, fars: Sequence[float] = ()) -> dict[float, OperatingPoint | None]:
        """Return {FAR limit: where it is met, or None where the impostor pairs cannot resolve it}.

        Args:
            fars: limits in (0, 1]; none: those of FARS that the pairs resolve.
        """
        limits = fars or [far for far in FARS if is_resolved(far, self.num_impostor)]
        return {
            far: operating_point(self.curve, far) if is_resolved(far, self.num_impostor) else None for far in limits
        }

    def to_dict(self, resampling: Resampling | None = None, fars: Sequence[float] = ()) -> dict[str, object]:
        """Return the entry of this method in a result dictionary (see `evaluation.report`); scores are left out.

        Args:
            resampling: how to find the intervals of accuracy, AUC and TAR; None: no intervals.
            fars: FAR limits, as of `rates`.
        """
        return self.measure(resampling, fars).to_dict()

    def measure(self, resampling: Resampling | None = None, fars: Sequence[float] = ()) -> Measured:
        """Return the figures of `to_dict`, and what their intervals come from."""
        far, tar = roc_points(self.curve)
        figures = {
            "accuracy": self.accuracy,
            "std": self.std,
            "fold_accuracy": self.verification.fold_accuracy.tolist(),
            "fold_threshold": self.verification.fold_threshold.tolist(),
            "balanced_accuracy": self.balanced_accuracy,
            "auc": self.auc,
            "eer": self.eer,
            "cllr": self.cllr,
            "tar_at_far": {
                f"{limit:.12g}": self._rate_entry(limit, point) for limit, point in self.rates(fars).items()
            },
            "num_genuine": int(self.issame.sum()),
            "num_impostor": self.num_impostor,
            "constant_accuracy": max(self.num_impostor, int(self.issame.sum())) / self.issame.size,
            "roc": {"far": far.round(8).tolist(), "tar": tar.round(6).tolist()},
            "det": self._det_entry(),
            "histogram": score_histogram(self.scores, self.issame),
        }
        if resampling is None:
            return Measured(figures, {})
        limits = list(self.rates(fars))
        measures = [
            weighted_accuracy(self.fold_scores, self.issame, self.folds),
            weighted_auc(self.scores, self.issame),
            weighted_tars_at_fars(self.scores, self.issame, limits),
        ]
        names = ["accuracy", "auc", *(f"{limit:.12g}" for limit in limits)]
        return Measured(figures, draw_all(names, measures, self.issame, resampling))

    def _det_entry(self) -> dict[str, list[float]]:
        fmr, fnmr, thresholds = det_points(self.curve)
        # Of a threshold no digit is left out: a score that equals it is accepted.
        return {"fmr": fmr.round(10).tolist(), "fnmr": fnmr.round(10).tolist(), "threshold": thresholds.tolist()}

    def _rate_entry(self, far: float, point: OperatingPoint | None) -> dict[str, object]:
        if point is not None:
            return {**point._asdict(), "note": None}
        needed = int(np.ceil(round(1 / far, 6)))
        note = f"FAR {far:.12g} needs at least {needed:,} impostor pairs, there are {self.num_impostor:,}"
        return {**dict.fromkeys(OperatingPoint._fields), "note": note}


def evaluate_pairs(
    scores_by_matcher: Mapping[str, ArrayLike],
    issame: ArrayLike,
    weights: Mapping[str, float] | None = None,
    folds: Folds = 10,
    statistics: FusionStatistics | None = None,
) -> dict[str, MethodResult]:
    """Return the result of "adaface" and, where QAConv's scores are given, of "qaconv" and "combined".

    Args:
        scores_by_matcher: "adaface" and optionally "qaconv" -> [N] finite scores; "combined" ones too, where they are
            fused already.
        issame: bool [N], both kinds.
        weights: of the combined score, whose statistics then come from each fold's training folds (`fuse`). Needed with
            "qaconv" unless statistics or "combined" scores are given.
        folds: a count (contiguous folds) or an integer array [N].
        statistics: fuse with these, fitted on other data, and their weights; not together with weights.
    Raises:
        ValueError: on an unknown matcher or none named "adaface", disagreeing shapes, NaN scores, one kind of pairs
            only, or unless exactly one of weights and statistics is given with "qaconv".
    """
    labels = check_issame("evaluate_pairs", issame)
    check_both_kinds("evaluate_pairs", labels)
    if "adaface" not in scores_by_matcher or not set(scores_by_matcher) <= set(METHODS):
        raise ValueError(
            f'evaluate_pairs: matchers must be "adaface" and maybe "qaconv", got {list(scores_by_matcher)}.'
        )
    by_method = {
        name: check_scores(f"evaluate_pairs, {name}", scores_by_matcher[name], labels.size)
        for name in METHODS
        if name in scores_by_matcher
    }
    if "qaconv" in by_method and "combined" not in by_method:
        by_method["combined"] = _combined(by_method, labels, weights, folds, statistics)
    return {name: _evaluate(scores, labels, folds) for name, scores in by_method.items()}


def score_histogram(scores: FloatArray, issame: BoolArray) -> dict[str, list[float]]:
    """Return {"edges": [41], "genuine": [40], "impostor": [40]}: counts of both kinds in the same equal bins."""
    edges = np.histogram_bin_edges(scores, bins=_NUM_BINS)
    counts = {"genuine": np.histogram(scores[issame], edges)[0], "impostor": np.histogram(scores[~issame], edges)[0]}
    return {"edges": edges.round(6).tolist(), **{name: count.tolist() for name, count in counts.items()}}


def _combined(
    scores: Mapping[str, NDArray[np.float64]],
    issame: BoolArray,
    weights: Mapping[str, float] | None,
    folds: Folds,
    statistics: FusionStatistics | None,
) -> FloatArray:
    if statistics is not None and weights is None:
        return fuse_with(scores, statistics)
    if weights is not None and statistics is None:
        return fuse(scores, issame, weights, folds)
    raise ValueError(
        "evaluate_pairs: the combined method needs weights or statistics, not both, got"
        f" {'neither' if weights is None else 'both'}; statistics carry their own weights."
    )


def _evaluate(fold_scores: FloatArray, issame: BoolArray, folds: Folds) -> MethodResult:
    scores = fold_scores if fold_scores.ndim == 1 else combine_folds(fold_scores, folds)
    return MethodResult(
        verification=verification(fold_scores, issame, folds),
        auc=auc(scores, issame),
        curve=roc_curve(scores, issame),
        issame=issame,
        scores=scores,
        fold_scores=fold_scores,
        folds=folds,
    )
