"""Readers of faces, samplers and the synthetic faces."""

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

__all__ = [
    "BENCHMARKS",
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
