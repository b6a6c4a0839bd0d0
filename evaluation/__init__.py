"""Verification and identification protocols, score fusion, intervals and reports."""

from evaluation.protocols.bootstrap import (
    Draws,
    Interval,
    Resampling,
    accuracy_measure,
    auc_interval,
    auc_measure,
    average,
    paired_bootstrap,
    paired_draws,
    summarize,
    tar_measure,
)
from evaluation.protocols.folds import fold_of_pairs, one_kind_folds, stratified_folds, usual_folds
from evaluation.protocols.fusion import FusionStatistics, combine_folds, fit_statistics, fuse, fuse_with
from evaluation.protocols.identification import Identification, leave_one_out, rank_accuracy, tpir_at_fpir
from evaluation.protocols.normalization import ScoreNormalization, fit_normalization
from evaluation.protocols.protocol import FARS, MATCHERS, METHODS, MethodResult, evaluate_pairs, score_histogram
from evaluation.protocols.roc import auc, det, eer, operating_point, roc_curve, roc_points, tar_at_far
from evaluation.protocols.validation_rate import fold_mean_rates, validation_rate
from evaluation.protocols.verification import VerificationResult, best_threshold, verification
from evaluation.scores.descriptions import (
    FLIP_FUSION,
    Describe,
    Description,
    FaceDescriptions,
    FlipFusion,
    LocalView,
    describe_batches,
    describe_with_flip,
)
from evaluation.scores.map_store import MAP_DTYPES
from evaluation.scores.scoring import Match, MatchPairs, Progress, score_all_pairs, score_pair_list, score_pairs
from evaluation.scores.search import Hits, ShortlistedScores, merge_hits, score_shortlisted_pairs, search
from evaluation.scores.shares import Shares, shares_of
from evaluation.scores.triangle import unordered_pairs

__all__ = [
    "FARS",
    "FLIP_FUSION",
    "MAP_DTYPES",
    "MATCHERS",
    "METHODS",
    "Describe",
    "Description",
    "Draws",
    "FaceDescriptions",
    "FlipFusion",
    "FusionStatistics",
    "Hits",
    "Identification",
    "Interval",
    "LocalView",
    "Match",
    "MatchPairs",
    "MethodResult",
    "Progress",
    "Resampling",
    "ScoreNormalization",
    "Shares",
    "ShortlistedScores",
    "VerificationResult",
    "accuracy_measure",
    "auc",
    "auc_interval",
    "auc_measure",
    "average",
    "best_threshold",
    "combine_folds",
    "describe_batches",
    "describe_with_flip",
    "det",
    "eer",
    "evaluate_pairs",
    "fit_normalization",
    "fit_statistics",
    "fold_mean_rates",
    "fold_of_pairs",
    "fuse",
    "fuse_with",
    "leave_one_out",
    "merge_hits",
    "one_kind_folds",
    "operating_point",
    "paired_bootstrap",
    "paired_draws",
    "rank_accuracy",
    "roc_curve",
    "roc_points",
    "score_all_pairs",
    "score_histogram",
    "score_pair_list",
    "score_pairs",
    "score_shortlisted_pairs",
    "search",
    "shares_of",
    "stratified_folds",
    "summarize",
    "tar_at_far",
    "tar_measure",
    "tpir_at_fpir",
    "unordered_pairs",
    "usual_folds",
    "validation_rate",
    "verification",
]
