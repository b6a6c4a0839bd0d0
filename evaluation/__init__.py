"""Verification and identification protocols, score fusion, intervals and reports."""

from evaluation.detection.boxes import Found, Truth, find_faces
from evaluation.detection.coco import CocoResult, coco_ap
from evaluation.detection.landmarks import LandmarkErrors, interocular, landmark_errors
from evaluation.detection.precision import PrecisionCurve, precision_curve, precision_measure
from evaluation.detection.prediction_files import read_predictions, write_predictions
from evaluation.detection.recall import RecallGroup, face_sizes, recall_by, recall_by_name
from evaluation.detection.summary import DetectedFaces, DetectorFaces, LabeledFaces, compare_detectors, photo_errors
from evaluation.detection.wider import WiderCurve, WiderTruth, read_wider_truth, wider_ap, wider_curves
from evaluation.protocols.bootstrap import (
    Comparison,
    Draws,
    Interval,
    Resampling,
    accuracy_measure,
    auc_interval,
    auc_measure,
    average,
    compare_scores,
    paired_bootstrap,
    paired_draws,
    rate_intervals,
    summarize,
    tar_measure,
)
from evaluation.protocols.folds import fold_of_pairs, one_kind_folds, stratified_folds, usual_folds
from evaluation.protocols.fusion import FusionStatistics, combine_folds, fit_statistics, fuse, fuse_with
from evaluation.protocols.groups import GroupFigures, Grouping, figures_by_group, visible_bins
from evaluation.protocols.identification import Identification, OpenSet, identify, join_searches, leave_one_out
from evaluation.protocols.normalization import ScoreNormalization, fit_normalization
from evaluation.protocols.protocol import FARS, MATCHERS, METHODS, MethodResult, evaluate_pairs, score_histogram
from evaluation.protocols.roc import (
    auc,
    clopper_pearson,
    det,
    eer,
    operating_point,
    roc_curve,
    roc_points,
    tar_at_far,
    tar_at_nearest_far,
)
from evaluation.protocols.templates import pool_templates, score_templates
from evaluation.protocols.validation_rate import fold_mean_rates, validation_rate
from evaluation.protocols.verification import VerificationResult, best_threshold, decide, verification
from evaluation.representation.bits import bits_over_prior, fit_temperature, smoothed_prior
from evaluation.representation.clustering import ClusteringQuality, clustering_quality
from evaluation.representation.likelihood import AffineLlr, cllr, fit_llr, min_cllr
from evaluation.representation.measures import (
    alignment,
    effective_rank,
    rankme,
    std_per_dimension,
    uniformity,
)
from evaluation.representation.paired_views import CrossFigures, Paired, PairedViews, paired_views
from evaluation.representation.split_kind import SplitKind, split_kind
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
    "AffineLlr",
    "ClusteringQuality",
    "CocoResult",
    "Comparison",
    "CrossFigures",
    "Describe",
    "Description",
    "DetectedFaces",
    "DetectorFaces",
    "Draws",
    "FaceDescriptions",
    "FlipFusion",
    "Found",
    "FusionStatistics",
    "GroupFigures",
    "Grouping",
    "Hits",
    "Identification",
    "Interval",
    "LabeledFaces",
    "LandmarkErrors",
    "LocalView",
    "Match",
    "MatchPairs",
    "MethodResult",
    "OpenSet",
    "Paired",
    "PairedViews",
    "PrecisionCurve",
    "Progress",
    "RecallGroup",
    "Resampling",
    "ScoreNormalization",
    "Shares",
    "ShortlistedScores",
    "SplitKind",
    "Truth",
    "VerificationResult",
    "WiderCurve",
    "WiderTruth",
    "accuracy_measure",
    "alignment",
    "auc",
    "auc_interval",
    "auc_measure",
    "average",
    "best_threshold",
    "bits_over_prior",
    "cllr",
    "clopper_pearson",
    "clustering_quality",
    "coco_ap",
    "combine_folds",
    "compare_detectors",
    "compare_scores",
    "decide",
    "describe_batches",
    "describe_with_flip",
    "det",
    "eer",
    "effective_rank",
    "evaluate_pairs",
    "face_sizes",
    "figures_by_group",
    "find_faces",
    "fit_llr",
    "fit_normalization",
    "fit_statistics",
    "fit_temperature",
    "fold_mean_rates",
    "fold_of_pairs",
    "fuse",
    "fuse_with",
    "identify",
    "interocular",
    "join_searches",
    "landmark_errors",
    "leave_one_out",
    "merge_hits",
    "min_cllr",
    "one_kind_folds",
    "operating_point",
    "paired_bootstrap",
    "paired_draws",
    "paired_views",
    "photo_errors",
    "pool_templates",
    "precision_curve",
    "precision_measure",
    "rankme",
    "rate_intervals",
    "read_predictions",
    "read_wider_truth",
    "recall_by",
    "recall_by_name",
    "roc_curve",
    "roc_points",
    "score_all_pairs",
    "score_histogram",
    "score_pair_list",
    "score_pairs",
    "score_shortlisted_pairs",
    "score_templates",
    "search",
    "shares_of",
    "smoothed_prior",
    "split_kind",
    "std_per_dimension",
    "stratified_folds",
    "summarize",
    "tar_at_far",
    "tar_at_nearest_far",
    "tar_measure",
    "uniformity",
    "unordered_pairs",
    "usual_folds",
    "validation_rate",
    "verification",
    "visible_bins",
    "wider_ap",
    "wider_curves",
    "write_predictions",
]
