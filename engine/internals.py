"""Every private name of Lightning, torch and multiprocessing that the engine touches, in one place.

Seen in torch 2.13.0, pytorch-lightning 2.6.6 and Python 3.11; tests/engine/test_internals.py fails when one goes, or
does something else.
"""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.queues
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import dataloader

if TYPE_CHECKING:  # an evaluation does without Lightning
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import ModelCheckpoint

_LoaderWithWorkers = dataloader._MultiProcessingDataLoaderIter

# ---------------------------------------------------------------- multiprocessing


def started_processes() -> list[BaseProcess]:
    """Return what this process has started by `multiprocessing`, in order, those that died included.

    Not `active_children()`: it collects those that died, and torch would no longer learn from what.
    """
    started: set[BaseProcess] = multiprocessing.process._children  # type: ignore[attr-defined]
    return sorted((process for process in tuple(started) if process.pid is not None), key=lambda each: each.pid or 0)


def on_lost_object(handler: Callable[[multiprocessing.queues.Queue, Exception, object], None]) -> None:
    """Have the threads of all queues call `handler(queue, error, lost)` where they would print and go on.

    A plain function in place of a static method is given the queue.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = handler  # type: ignore[attr-defined]


# ---------------------------------------------------------------- the data loader


def wrapped_error(error: Exception, where: str) -> ExceptionWrapper:
    """Return what a worker of a data loader sends in place of a batch: the main process raises it."""
    return ExceptionWrapper((type(error), error, error.__traceback__), where)


def is_wrapped_error(sent: object) -> bool:
    """Return whether a worker has sent an error in place of a batch."""
    return isinstance(sent, ExceptionWrapper)


def awaited_batch(frame: FrameType | None) -> tuple[int, int] | None:
    """Return which loader with workers a stack is inside of, and for which of its batches; None if of none."""
    for each, _ in traceback.walk_stack(frame) if frame is not None else ():
        loader = each.f_locals.get("self") if each.f_code.co_filename == dataloader.__file__ else None
        if isinstance(loader, _LoaderWithWorkers):
            return id(loader), vars(loader).get("_rcvd_idx", -1)  # absent while the workers start
    return None


def worker_exit_codes(frames: Iterable[FrameType]) -> dict[int, int]:
    """Return the exit codes of the workers of the loader that an error's frames came through, by process; 0: alive."""
    loaders = (frame.f_locals["self"] for frame in frames if frame.f_code.co_name == "_try_get_data")
    loader = next(loaders, None)
    return {} if loader is None else {worker.pid: worker.exitcode or 0 for worker in loader._workers}


# ---------------------------------------------------------------- torch


def lerp_all(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move tensors towards others in place, by one kernel for many."""
    torch._foreach_lerp_(tensors, ends, weight)


class foreach:  # noqa: N801  # read as a namespace
    """What is done to each of many tensors, on a device by one kernel; in place where the name ends in _."""

    abs = torch._foreach_abs
    add_ = torch._foreach_add_
    clamp_max_ = torch._foreach_clamp_max_
    clamp_min = torch._foreach_clamp_min
    clamp_min_ = torch._foreach_clamp_min_
    div_ = torch._foreach_div_
    mul = torch._foreach_mul
    mul_ = torch._foreach_mul_
    neg = torch._foreach_neg
    norm = torch._foreach_norm
    reciprocal_ = torch._foreach_reciprocal_
    sign_ = torch._foreach_sign_
    sqrt = torch._foreach_sqrt
    sub_ = torch._foreach_sub_


def refuse_update(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, refused: Tensor) -> None:
    """Let a loss scaler that has unscaled the gradients take them for overflowed where `refused` is 1.

    Args:
        refused: float32 scalar on the device, 0 or 1.
    """
    for found in scaler._found_inf_per_device(optimizer).values():
        found.clamp_(min=refused)  # the kernels look for 1, not for more


def remember_rates(scheduler: torch.optim.lr_scheduler.LRScheduler, rates: list[float | Tensor]) -> None:
    """Have a schedule say that these are the rates it has set."""
    scheduler._last_lr = rates


def onednn_has_bf16() -> bool:
    """Return whether oneDNN multiplies in bfloat16 on this CPU; on x86 any AVX-512 will do to it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def x86_has_bf16() -> bool:
    """Return whether this CPU has instructions of x86 for bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def record_gpu_memory() -> None:
    """Note from now on who takes memory of the GPU and gives it back."""
    torch.cuda.memory._record_memory_history(max_entries=100_000)


def write_gpu_memory(path: str) -> None:
    """Write what the GPU's memory holds, and what was noted, into a file that pytorch.org/memory_viz shows."""
    torch.cuda.memory._dump_snapshot(path)


# ---------------------------------------------------------------- Lightning


def validate_now(trainer: pl.Trainer) -> None:
    """Validate before the first step, as Lightning does between two of them."""
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first


def save_best_now(checkpoint: ModelCheckpoint, trainer: pl.Trainer) -> None:
    """Have a callback compare what was validated with its best, before the first step too, which it passes over."""
    checkpoint._save_topk_checkpoint(trainer, checkpoint._monitor_candidates(trainer))


def end_validation_workers(trainer: pl.Trainer) -> None:
    """End the workers of the last validation, which Lightning keeps until the next one starts others."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._data_fetcher is not None:
        loop._data_fetcher.teardown()
        loop._data_fetcher = None  # a second teardown would ask for the length of what is gone


def clock_fetches(trainer: pl.Trainer) -> Callable[[], float]:
    """Have a trainer add up how long its training waits for batches, and return what reads the seconds so far.

    Lightning calls both methods around each fetch, for its profilers.
    """
    loop = trainer.fit_loop.epoch_loop
    begin, waited = 0.0, 0.0

    def before() -> None:
        nonlocal begin
        begin = time.monotonic()

    def after() -> None:
        nonlocal waited
        waited += time.monotonic() - begin

    loop._on_before_fetch, loop._on_after_fetch = before, after  # type: ignore[method-assign]
    return lambda: waited


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Have Lightning take no signal and tell the ranks of none, before it trains: `LastCheckpoint` does both.

    Its own handler broadcasts amid whatever the ranks are exchanging, and the news of a signal, broadcast at every
    batch, would make the host wait for the device.
    """
    from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
    from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

    class NoSignals(_SignalConnector):
        def register_signal_handlers(self) -> None:
            pass

    class EpochLoop(_TrainingEpochLoop):
        def _broadcast_sigterm_tensor(self) -> None:
            pass

    trainer._signal_connector = NoSignals(trainer)
    trainer.fit_loop.epoch_loop = EpochLoop(trainer)
