"""Readers of faces, samplers and the synthetic faces.

A name is imported when it is first asked for, so that the programs of this package answer `--help` without torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Asked once, when OpenCV is imported, by this package or by `transforms`: what has more pixels is not decoded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
# Its lines on damaged files name none; ours do.
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

if TYPE_CHECKING:
    from datasets.arrays.dataset import ArrayDataset
    from datasets.benchmarks.benchmark import BENCHMARKS, Benchmark, find_benchmarks, load_benchmark, save_benchmark
    from datasets.benchmarks.cache import cache_benchmark, cache_folder
    from datasets.benchmarks.janus import TemplateSet, open_janus
    from datasets.benchmarks.pair_dataset import PairDataset, PairSample, shard_pairs
    from datasets.benchmarks.pair_files import read_pairs
    from datasets.benchmarks.pairs import Pairs, all_pairs, make_benchmark
    from datasets.benchmarks.searches import SearchSet, open_rmfrd, open_rof, open_tinyface
    from datasets.detection.labels import PhotoLabels
    from datasets.detection.photos import (
        DetectionBatch,
        DetectionViews,
        LabeledPhotos,
        collate_detections,
        read_labels,
    )
    from datasets.faces.alignment import Alignment, check_alignment, warn_of_unaligned
    from datasets.faces.image_folder import ImageFolderDataset
    from datasets.faces.images import UnreadableImageError
    from datasets.faces.merged_identities import read_merged_identities
    from datasets.faces.view import MixedView, TrainingView
    from datasets.paired.dataset import Pair, PairedFaces, has_pairs, pair_reader
    from datasets.paired.evaluation import EvaluationViews, evaluation_views
    from datasets.paired.view import PairedTrainingView
    from datasets.records.dataset import RecordDataset
    from datasets.records.format import RecordError
    from datasets.records.writer import RecordWriter, write_faces
    from datasets.sample import FaceDataset, Image, LabeledFaces, Sample, SampleKey, collate
    from datasets.sampling.curriculum import Curriculum, CurriculumMix, ease_of
    from datasets.sampling.graph_sampler import GraphBatchSampler
    from datasets.sampling.mixture import MixtureBatchSampler
    from datasets.sampling.samplers import (
        PKBatchSampler,
        PlannedBatches,
        PlannedSampler,
        PlanSummary,
        ShuffleBatchSampler,
    )
    from datasets.sampling.shares import mixture_weights
    from datasets.subset import IdentitySubset, ImageSubset, Subset, read_indices, split_at_random, split_identities

# The names above, by module; a test compares them.
_MODULES = {
    "arrays.dataset": ("ArrayDataset",),
    "faces.alignment": ("Alignment", "check_alignment", "warn_of_unaligned"),
    "benchmarks.benchmark": ("BENCHMARKS", "Benchmark", "find_benchmarks", "load_benchmark", "save_benchmark"),
    "benchmarks.cache": ("cache_benchmark", "cache_folder"),
    "sampling.curriculum": ("Curriculum", "CurriculumMix", "ease_of"),
    "sampling.graph_sampler": ("GraphBatchSampler",),
    "detection.labels": ("PhotoLabels",),
    "detection.photos": ("DetectionBatch", "DetectionViews", "LabeledPhotos", "collate_detections", "read_labels"),
    "faces.image_folder": ("ImageFolderDataset",),
    "faces.images": ("UnreadableImageError",),
    "benchmarks.janus": ("TemplateSet", "open_janus"),
    "benchmarks.pair_dataset": ("PairDataset", "PairSample", "shard_pairs"),
    "benchmarks.pair_files": ("read_pairs",),
    "benchmarks.pairs": ("Pairs", "all_pairs", "make_benchmark"),
    "benchmarks.searches": ("SearchSet", "open_rmfrd", "open_rof", "open_tinyface"),
    "records.dataset": ("RecordDataset",),
    "records.format": ("RecordError",),
    "records.writer": ("RecordWriter", "write_faces"),
    "sample": ("FaceDataset", "Image", "LabeledFaces", "Sample", "SampleKey", "collate"),
    "sampling.mixture": ("MixtureBatchSampler",),
    "sampling.samplers": ("PKBatchSampler", "PlannedBatches", "PlannedSampler", "PlanSummary", "ShuffleBatchSampler"),
    "sampling.shares": ("mixture_weights",),
    "subset": ("IdentitySubset", "ImageSubset", "Subset", "read_indices", "split_at_random", "split_identities"),
    "faces.merged_identities": ("read_merged_identities",),
    "faces.view": ("MixedView", "TrainingView"),
    "paired.dataset": ("Pair", "PairedFaces", "has_pairs", "pair_reader"),
    "paired.evaluation": ("EvaluationViews", "evaluation_views"),
    "paired.view": ("PairedTrainingView",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "BENCHMARKS",
    "Alignment",
    "ArrayDataset",
    "Benchmark",
    "Curriculum",
    "CurriculumMix",
    "DetectionBatch",
    "DetectionViews",
    "EvaluationViews",
    "FaceDataset",
    "GraphBatchSampler",
    "IdentitySubset",
    "Image",
    "ImageFolderDataset",
    "ImageSubset",
    "LabeledFaces",
    "LabeledPhotos",
    "MixedView",
    "MixtureBatchSampler",
    "PKBatchSampler",
    "Pair",
    "PairDataset",
    "PairSample",
    "PairedFaces",
    "PairedTrainingView",
    "Pairs",
    "PhotoLabels",
    "PlanSummary",
    "PlannedBatches",
    "PlannedSampler",
    "RecordDataset",
    "RecordError",
    "RecordWriter",
    "Sample",
    "SampleKey",
    "SearchSet",
    "ShuffleBatchSampler",
    "Subset",
    "TemplateSet",
    "TrainingView",
    "UnreadableImageError",
    "all_pairs",
    "cache_benchmark",
    "cache_folder",
    "check_alignment",
    "collate",
    "collate_detections",
    "ease_of",
    "evaluation_views",
    "find_benchmarks",
    "has_pairs",
    "load_benchmark",
    "make_benchmark",
    "mixture_weights",
    "open_janus",
    "open_rmfrd",
    "open_rof",
    "open_tinyface",
    "pair_reader",
    "read_indices",
    "read_labels",
    "read_merged_identities",
    "read_pairs",
    "save_benchmark",
    "shard_pairs",
    "split_at_random",
    "split_identities",
    "warn_of_unaligned",
    "write_faces",
]
