"""The course of a run of any task: what ends it early is said in a line, with the command that goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from datasets import UnreadableImageError
from engine import runs
from engine.callbacks import (
    LAST,
    RanksDisagreeError,
    TooManyUnreadableError,
    WorkerError,
    bounded_waits,
    named_worker_errors,
    started_ranks,
    watched_ranks,
)
from engine.guard import NonFiniteError
from engine.out_of_memory import advice, is_out_of_memory
from engine.signals import Stopped, StoppedWaiting, StopSignals
from engine.status.writing import with_last_words
from system.launch import find_launch

logger = logging.getLogger(__name__)


@with_last_words
def supervised(session: Any, work: Callable[[], None], report: Callable[[Path], None], program: str = "") -> int:
    """Do the work of a run and return its exit code; what ends it early is said in a line.

    Args:
        session: of the run, with `config`, `folder`, `trainer`, `stop` and `failures`.
        work: training.
        report: what follows it, on the rank that has the folder.
        program: whose command goes on with the run; "": of the one without a name.
    """
    try:
        with watched_ranks(session.trainer), named_worker_errors(), bounded_waits(session.stop, session.trainer):
            work()
    except Stopped as stopped:
        _say_how_to_go_on(str(stopped), session.folder, program)
        code = session.stop.leave(stopped.number)
        # Of a wait that was given up the other ranks know nothing: to them this one has died.
        return code or (128 + stopped.number if isinstance(stopped, StoppedWaiting) else 0)
    except (NonFiniteError, RanksDisagreeError, TooManyUnreadableError, WorkerError, UnreadableImageError) as error:
        here = isinstance(error, UnreadableImageError)  # met by this process itself: there are no workers
        logger.error("%s%s", error, "; the run ends, resume it from its last checkpoint" if here else "")
        return 1
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        logger.error("%s", advice(error, session.config.batch_size, session.trainer.global_step + 1))
        return 1
    if session.folder is not None:
        report(session.folder)
    return session.failures.exit_code()


def answer_signals(stop: StopSignals, trainer: pl.Trainer, folder: Path | None, program: str = "") -> None:
    """Let the first signal say how to go on, and the second end the ranks that this process has started."""
    stop.on_exit = partial(_say_how_to_go_on, "stopped", folder, program)
    stop.on_second = partial(_kill_started_ranks, trainer)


def _say_how_to_go_on(what: str, folder: Path | None, program: str = "") -> None:
    """Log why a run ends, and the command that goes on with it."""
    if folder is None:  # rank 0 says it
        logger.warning("%s", what)
    elif (folder / LAST).exists():
        launch = find_launch()
        how = "" if launch is None else f", on all ranks by {launch.launcher}"
        logger.warning("%s; to go on%s: %s", what, how, runs.command_to_go_on(folder / LAST, program))
    else:
        logger.warning("%s; no checkpoint was written yet: start the same command again", what)


def _kill_started_ranks(trainer: pl.Trainer) -> None:
    """End the ranks that this process has started."""
    for process in started_ranks(trainer):
        process.kill()
