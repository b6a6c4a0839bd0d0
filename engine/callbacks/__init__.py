"""Lightning callbacks and loggers of ours."""

from engine.callbacks.best_checkpoint import BEST, BestCheckpoint
from engine.callbacks.heartbeat import Heartbeat
from engine.callbacks.idle_workers import IdleWorkers
from engine.callbacks.incident_list import IncidentList, truncate_incidents
from engine.callbacks.last_checkpoint import LAST, PREVIOUS, LastCheckpoint
from engine.callbacks.loss_bar import LossBar
from engine.callbacks.override import OverriddenNumbers
from engine.callbacks.rank_state import KEY as RANKS_KEY
from engine.callbacks.rank_state import RankState
from engine.callbacks.rank_watch import started_ranks, watched_ranks
from engine.callbacks.same_start import RanksDisagreeError, SameStart
from engine.callbacks.stalls import bounded_waits
from engine.callbacks.unreadable_list import TooManyUnreadableError, UnreadableList
from engine.callbacks.weight_average import KEY as AVERAGED_KEY
from engine.callbacks.weight_average import WeightAverage, is_averaged
from engine.callbacks.worker_failure import WorkerError, named_worker_errors
from engine.checkpoint_file import AtomicCheckpointIO, damage, remove_unfinished
from engine.loggers.metrics_logger import MetricsLogger, truncate_metrics
from engine.loggers.tensorboard_logger import TensorBoardLogger, require_tensorboard, restart_tensorboard
from engine.loggers.wandb_run import WandbIdentity, restore_wandb_id, start_wandb
from tasks.recognition.neighbours import NeighbourTable
from tasks.recognition.sample_sheet import SampleSheet
from tasks.recognition.score_histograms import ScoreHistograms

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
