"""A rank that dies ends the run: the ranks on one machine watch the processes that they hang on."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment

from engine.signals import RANK_0

logger = logging.getLogger(__name__)

PERIOD = 0.1  # seconds; Lightning, which kills without a word, looks every five
SECONDS_TO_DIE = 5.0  # from the end of a process's connections to its own


@contextmanager
def watched_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Within the block, say which rank died and why.

    This is about ranks that rank 0 has started itself; torchrun and srun watch over theirs. A rank whose peer has died
    gets an error from the next exchange, which tells neither who nor why. If it waits for something else, Lightning
    kills it a few seconds after a rank has died, without a word; when that was rank 0, `watch_rank_0` ends it.
    """
    over = threading.Event()
    is_child = trainer.local_rank > 0 and isinstance(_environment(trainer), LightningEnvironment)
    find_dead = _dead_parent if is_child else partial(_dead_child, trainer)
    if not is_child:
        threading.Thread(target=_tell_of_the_dead, args=(over, find_dead), daemon=True, name="rank watch").start()
    try:
        yield
    except RuntimeError:
        if trainer.world_size > 1 and not over.is_set():
            _tell_of_the_dead(over, find_dead, SECONDS_TO_DIE)
        raise
    finally:
        over.set()


def started_ranks(trainer: pl.Trainer) -> list[subprocess.Popen]:
    """Return the processes of the ranks that this one has started, in order; rank 1 is the first."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _environment(trainer: pl.Trainer) -> object:
    return getattr(trainer.strategy, "cluster_environment", None)


def _dead_child(trainer: pl.Trainer) -> str | None:
    dead = ((rank, process.poll()) for rank, process in enumerate(started_ranks(trainer), start=1))
    return next((f"rank {rank} {_cause(code)}" for rank, code in dead if code), None)


def _dead_parent() -> str | None:
    return None if str(os.getppid()) == os.environ.get(RANK_0) else "rank 0 has died"


def _cause(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tell_of_the_dead(over: threading.Event, find_dead: Callable[[], str | None], seconds: float = math.inf) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not over.wait(PERIOD):
        if (death := find_dead()) is not None:
            over.set()
            logger.error("%s: the run ends; resume it from its last checkpoint", death)
