"""Whole runs of main.py in processes of their own that meet a fault at a given place."""

import gc
import json
import multiprocessing
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import cv2
import pictures
import pytorch_lightning as pl
import torch
from gloo_ranks import forkserver
from programs import kill_group

import main
from engine import checkpoint_file
from engine import trainer as trainer_module
from engine.callbacks import workers as waiting
from engine.callbacks.weight_average import KEY
from engine.callbacks.workers import workers
from engine.runs import run_folders
from tasks.kept_rows import KeptRows
from tasks.moco import refresh

FLAGS = [
    *("--arch", "ir_tiny", "--embedding_size", "16", "--batch_size", "8", "--lr", "0.05", "--gpus", "0"),
    *("--align", "no", "--num_workers", "0", "--epochs", "2", "--val_check_interval", "0.5", "--val_occlusion", "none"),
    *("--log_every_n_steps", "3", "--checkpoint_every_n_steps", "1", "--resume_from_checkpoint", "auto"),
]
NUM_STEPS = 8
OTHER_TASKS = ("pretrain", "detect")
HOOKS = {
    "forward": "on_train_batch_start",
    "update": "on_after_backward",
    "step's end": "on_train_batch_end",
    "validation": "on_validation_batch_start",
    "epoch's end": "on_train_epoch_end",
}
PLACES = (*HOOKS, "checkpoint")
# What the rest of a run follows from, as far as its last checkpoint has it.
KEPT = (
    *("state_dict", KEY, "optimizer_states", "lr_schedulers", "FaceDataModule", "PretrainingData", "DetectionData"),
    *("ranks", "teacher", "skipped_steps", "global_step", "epoch"),
)


class FaultAt(pl.Callback):
    """Send this process, or a worker that reads images for it, a signal at a place in the training.

    Args:
        place: of PLACES, or "refresh": while a pretraining embeds the images that it clusters.
        steps: number of steps that must be done there; in a refresh, also of the batches that this rank has embedded.
        number: the signal's.
        worker: place of the worker among those there are; None: this process itself.
    """

    def __init__(self, place, steps, number, worker=None):
        self._trainer, self._steps, self._number, self._worker = None, steps, number, worker
        if place == "checkpoint":
            self._whole_save, torch.save = torch.save, self._save_half
        elif place == "refresh":
            self._whole_write, self._written = KeptRows.write, 0
            KeptRows.write = lambda *told: self._write(*told)
        else:
            setattr(self, HOOKS[place], lambda trainer, *_: self._send(trainer))

    def setup(self, trainer, module, stage):
        self._trainer = trainer

    def _send(self, trainer):
        if self._number and trainer.state.fn == "fit" and trainer.global_step >= self._steps:
            number, self._number = self._number, None
            os.kill(os.getpid() if self._worker is None else workers()[self._worker], number)

    def _save_half(self, value, stream, **options):
        if isinstance(value, dict):  # ranks tell each other tensors by this function too
            if self._number and self._trainer.global_step >= self._steps:
                stream.write(b"PK" * 5000)
                stream.flush()
                stream.seek(0)
            self._send(self._trainer)
        self._whole_save(value, stream, **options)

    def _write(self, *told):
        self._whole_write(*told)
        self._written += 1
        if self._written >= self._steps:
            self._send(self._trainer)


def start(argv, cwd, fault=None, ranks=1, faulty_rank=0, stop_seconds=waiting.STOP_SECONDS, **environment):
    """Start `main.py argv` in a folder, and return its processes, one per rank.

    Args:
        fault: what FaultAt takes, or None.
        stop_seconds: how long a wait for a worker may last after a signal.
        environment: variables of these processes.
    """
    environment |= _ranks_environment(ranks)
    argv = [
        *argv,
        *(["--cross_rank_pairs"] if ranks > 1 and argv[0] not in OTHER_TASKS else []),
    ]  # a rank has one identity
    context = forkserver()
    faults = [fault if rank == faulty_rank else None for rank in range(ranks)]
    processes = [
        context.Process(target=_run, args=(list(map(str, argv)), cwd, faults[rank], rank, stop_seconds, environment))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes, timeout=600):
    """Return the exit codes of processes that end within a time."""
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        kill_group(process)
    return codes


def _ranks_environment(ranks):
    if ranks == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    return {**sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}


def _run(argv, cwd, fault, rank, stop_seconds, environment):
    os.setpgrp()  # whoever ends this process early ends its workers too, stopped ones among them
    gc.freeze()  # a run asks for a collection in each validation
    multiprocessing.set_start_method("fork", force=True)  # as in a program that nobody started by multiprocessing
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    pictures.leave_blank()
    os.chdir(cwd)
    with Path(f"out_{rank}.txt").open("ab") as stream:
        for handle in (1, 2):
            os.dup2(stream.fileno(), handle)
    os.environ.update(environment)
    if "WORLD_SIZE" in environment:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    if fault is not None:
        callbacks = trainer_module._callbacks
        trainer_module._callbacks = lambda *args: [FaultAt(*fault), *callbacks(*args)]
    waiting.STOP_SECONDS = stop_seconds
    refresh.embed_images = partial(refresh.embed_images, batch_size=4)  # several batches, some of them before a fault
    raise SystemExit(main.main(argv))


def run_folder(cwd):
    """Return the newest run folder below a working folder; one that died before its first step may be there too."""
    return run_folders(Path(cwd) / "experiments", "maskwise")[0]


def output(cwd, rank=0):
    """Return what a rank wrote to the terminal."""
    return (Path(cwd) / f"out_{rank}.txt").read_text()


def outcome(cwd):
    """Return what a finished run leaves: metrics, report if it makes one, last checkpoint and best weights if any."""
    folder = run_folder(cwd)
    assert not list(folder.glob(".*.tmp"))
    report, best = folder / "report" / "results.json", folder / "best.ckpt"
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return (
        (folder / "metrics.csv").read_text(),
        _without_folder(json.loads(report.read_text())) if report.exists() else None,
        {key: saved[key] for key in KEPT if key in saved},
        torch.load(best, weights_only=True)["state_dict"] if best.exists() else {},
    )


def _without_folder(report):
    report["protocol"].pop("run")
    return report


def assert_same(first, second):
    """Compare two outcomes, bit by bit."""
    assert first[:2] == second[:2]
    torch.testing.assert_close(first[2:], second[2:], rtol=0, atol=0)


SIGKILL, SIGTERM, SIGINT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
assert checkpoint_file.torch is torch, "FaultAt replaces torch.save"
