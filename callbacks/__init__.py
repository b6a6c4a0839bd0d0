"""Lightning callbacks and loggers of ours."""

from callbacks.best_checkpoint import BEST, BestCheckpoint
from callbacks.checkpoint_io import AtomicCheckpointIO, damage, remove_unfinished
from callbacks.heartbeat import Heartbeat
from callbacks.idle_workers import IdleWorkers
from callbacks.incident_list import IncidentList, truncate_incidents
from callbacks.last_checkpoint import LAST, PREVIOUS, LastCheckpoint
from callbacks.loss_bar import LossBar
from callbacks.metrics_logger import MetricsLogger, truncate_metrics
from callbacks.neighbours import NeighbourTable
from callbacks.override import OverriddenNumbers
from callbacks.rank_state import KEY as RANKS_KEY
from callbacks.rank_state import RankState
from callbacks.rank_watch import started_ranks, watched_ranks
from callbacks.same_start import RanksDisagreeError, SameStart
from callbacks.sample_sheet import SampleSheet
from callbacks.score_histograms import ScoreHistograms
from callbacks.stalls import bounded_waits
from callbacks.tensorboard_logger import TensorBoardLogger, require_tensorboard, restart_tensorboard
from callbacks.unreadable_list import TooManyUnreadableError, UnreadableList
from callbacks.wandb_run import WandbIdentity, restore_wandb_id, start_wandb
from callbacks.weight_average import KEY as AVERAGED_KEY
from callbacks.weight_average import WeightAverage, is_averaged
from callbacks.worker_failure import WorkerError, named_worker_errors

__all__ = [
    "AVERAGED_KEY",
    "BEST",
    "LAST",
    "PREVIOUS",
    "RANKS_KEY",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "Heartbeat",
    "IdleWorkers",
    "IncidentList",
    "LastCheckpoint",
    "LossBar",
    "MetricsLogger",
    "NeighbourTable",
    "OverriddenNumbers",
    "RankState",
    "RanksDisagreeError",
    "SameStart",
    "SampleSheet",
    "ScoreHistograms",
    "TensorBoardLogger",
    "TooManyUnreadableError",
    "UnreadableList",
    "WandbIdentity",
    "WeightAverage",
    "WorkerError",
    "bounded_waits",
    "damage",
    "is_averaged",
    "named_worker_errors",
    "remove_unfinished",
    "require_tensorboard",
    "restart_tensorboard",
    "restore_wandb_id",
    "start_wandb",
    "started_ranks",
    "truncate_incidents",
    "truncate_metrics",
    "watched_ranks",
]
