"""Lightning callbacks and loggers of ours."""

from callbacks.checkpoint_io import AtomicCheckpointIO
from callbacks.metrics_logger import MetricsLogger, truncate_metrics
from callbacks.neighbours import NeighbourTable
from callbacks.sample_sheet import SampleSheet
from callbacks.score_histograms import ScoreHistograms
from callbacks.unreadable_list import TooManyUnreadableError, UnreadableList
from callbacks.wandb_run import start_wandb

__all__ = [
    "AtomicCheckpointIO",
    "MetricsLogger",
    "NeighbourTable",
    "SampleSheet",
    "ScoreHistograms",
    "TooManyUnreadableError",
    "UnreadableList",
    "start_wandb",
    "truncate_metrics",
]
