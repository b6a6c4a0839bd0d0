"""A rank that dies ends the run: the ranks on one machine watch the processes that they hang on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment

logger = logging.getLogger(__name__)

PERIOD = 0.5  # seconds
GRACE = 10.0


@contextmanager
def watched_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Within the block, say which rank died and why, and end a rank that is left alone by rank 0.

    This is about ranks that rank 0 has started itself; torchrun and srun watch over theirs. Lightning kills rank 0 and
    the others a few seconds after one has failed, without a word; but nobody ends the others when rank 0 is killed.
    """
    over = threading.Event()
    is_child = trainer.local_rank > 0 and isinstance(_environment(trainer), LightningEnvironment)
    target, args = (_end_without_parent, (over, os.getppid())) if is_child else (_tell_of_the_dead, (over, trainer))
    threading.Thread(target=target, args=args, daemon=True, name="rank watch").start()
    try:
        yield
    finally:
        over.set()


def started_ranks(trainer: pl.Trainer) -> list[subprocess.Popen]:
    """Return the processes of the ranks that this one has started, in order; rank 1 is the first."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _environment(trainer: pl.Trainer) -> object:
    return getattr(trainer.strategy, "cluster_environment", None)


def _tell_of_the_dead(over: threading.Event, trainer: pl.Trainer) -> None:
    while not over.wait(PERIOD):
        for rank, process in enumerate(started_ranks(trainer), start=1):
            code = process.poll()
            if code:
                logger.error("rank %d %s: the run ends; resume it from its last checkpoint", rank, _cause(code))
                return


def _cause(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _end_without_parent(over: threading.Event, parent: int) -> None:
    while not over.wait(PERIOD):
        if os.getppid() != parent:
            over.wait(GRACE)  # an error on this rank, or the end of the run, may be on its way
            if not over.is_set():
                logger.error("rank 0 has died: this rank ends too")
                os._exit(1)
            return
