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
    from datasets.alignment import Alignment, check_alignment
    from datasets.benchmark import BENCHMARKS, Benchmark, find_benchmarks, load_benchmark, save_benchmark
    from datasets.cache import cache_benchmark, cache_folder
    from datasets.graph_sampler import GraphBatchSampler
    from datasets.image_folder import ImageFolderDataset
    from datasets.images import UnreadableImageError
    from datasets.pair_dataset import PairDataset, PairSample, shard_pairs
    from datasets.pair_files import read_pairs
    from datasets.pairs import Pairs, all_pairs, make_benchmark
    from datasets.record import RecordDataset
    from datasets.record_format import RecordError
    from datasets.record_writer import RecordWriter, write_faces
    from datasets.sample import Draw, FaceDataset, Image, Sample, collate
    from datasets.samplers import PKBatchSampler, PlannedBatches, PlannedSampler, PlanSummary
    from datasets.subset import IdentitySubset, ImageSubset, Subset, read_indices, split_identities
    from datasets.view import TrainingView

# The names above, by module; a test compares them.
_MODULES = {
    "alignment": ("Alignment", "check_alignment"),
    "benchmark": ("BENCHMARKS", "Benchmark", "find_benchmarks", "load_benchmark", "save_benchmark"),
    "cache": ("cache_benchmark", "cache_folder"),
    "graph_sampler": ("GraphBatchSampler",),
    "image_folder": ("ImageFolderDataset",),
    "images": ("UnreadableImageError",),
    "pair_dataset": ("PairDataset", "PairSample", "shard_pairs"),
    "pair_files": ("read_pairs",),
    "pairs": ("Pairs", "all_pairs", "make_benchmark"),
    "record": ("RecordDataset",),
    "record_format": ("RecordError",),
    "record_writer": ("RecordWriter", "write_faces"),
    "sample": ("Draw", "FaceDataset", "Image", "Sample", "collate"),
    "samplers": ("PKBatchSampler", "PlannedBatches", "PlannedSampler", "PlanSummary"),
    "subset": ("IdentitySubset", "ImageSubset", "Subset", "read_indices", "split_identities"),
    "view": ("TrainingView",),
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
    "Benchmark",
    "Draw",
    "FaceDataset",
    "GraphBatchSampler",
    "IdentitySubset",
    "Image",
    "ImageFolderDataset",
    "ImageSubset",
    "PKBatchSampler",
    "PairDataset",
    "PairSample",
    "Pairs",
    "PlanSummary",
    "PlannedBatches",
    "PlannedSampler",
    "RecordDataset",
    "RecordError",
    "RecordWriter",
    "Sample",
    "Subset",
    "TrainingView",
    "UnreadableImageError",
    "all_pairs",
    "cache_benchmark",
    "cache_folder",
    "check_alignment",
    "collate",
    "find_benchmarks",
    "load_benchmark",
    "make_benchmark",
    "read_indices",
    "read_pairs",
    "save_benchmark",
    "shard_pairs",
    "split_identities",
    "write_faces",
]
