"""What watches a training without taking part in it."""

from engine.callbacks.best_checkpoint import BEST, BestCheckpoint, Patience
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
from engine.callbacks.unreadable_list import TooManyUnreadableError, UnreadableList
from engine.callbacks.weight_average import KEY as AVERAGED_KEY
from engine.callbacks.weight_average import WeightAverage, averaged
from engine.callbacks.worker_failure import WorkerError, named_worker_errors
from engine.callbacks.workers import bounded_waits

__all__ = [
    "AVERAGED_KEY",
    "BEST",
    "LAST",
    "PREVIOUS",
    "RANKS_KEY",
    "BestCheckpoint",
    "Heartbeat",
    "IdleWorkers",
    "IncidentList",
    "LastCheckpoint",
    "LossBar",
    "OverriddenNumbers",
    "Patience",
    "RankState",
    "RanksDisagreeError",
    "SameStart",
    "TooManyUnreadableError",
    "UnreadableList",
    "WeightAverage",
    "WorkerError",
    "averaged",
    "bounded_waits",
    "named_worker_errors",
    "started_ranks",
    "truncate_incidents",
    "watched_ranks",
]
