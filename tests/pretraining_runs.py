"""Pretrainings inside the test process: their flags, and what they leave."""

import csv
from pathlib import Path

import torch

SMALL = [
    *("--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "8", "--queue_size", "20", "--epochs", "2"),
    *("--projection_size", "8", "--warmup_steps", "0", "--gpus", "0", "--num_workers", "0", "--log_every_n_steps", "1"),
    *("--heartbeat_seconds", "0", "--align", "no", "--threads", "1"),
]
CLUSTERED = [
    *("--pseudo_pairs", "0:0,1:1", "--refresh_every", "1", "--cluster_threshold", "0.1", "--max_cluster_size", "6"),
]


def only(pattern):
    (found,) = Path("experiments").glob(pattern)
    return found


def content(path):
    return torch.load(path, weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]
