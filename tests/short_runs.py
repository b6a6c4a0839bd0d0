"""Training inside the test process: a data set of colored noise, a small network, one rank or two."""

import csv
import gc
import os
import socket
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from gloo_ranks import forkserver
from pytorch_lightning.callbacks import RichProgressBar

from config import Config
from data import FaceDataModule
from datasets import Benchmark, save_benchmark
from engine.devices import world_size
from engine.files import WriteFailures
from engine.trainer import build_trainer
from system.launch import is_main_process
from tasks.recognition.callbacks import build_callbacks
from tasks.recognition.mixture_picture import MixturePicture
from tasks.recognition.sharded_head import weigh_sets
from tasks.sample_sheet import SampleSheet
from tasks.score_histograms import ScoreHistograms
from train_val import Recognizer

SMALL = {
    **{"arch": "ir_tiny", "embedding_size": 16, "batch_size": 16, "optimizer": "sgd", "lr": 0.01},
    **{"num_workers": 0, "log_every_n_steps": 1, "gpus": 0, "epochs": 1, "val_occlusion": ()},
    "score_normalization": "none",  # to learn it takes as long as the validation
    "align": "no",  # to look for faces in noise takes a tenth of a run
}

SHOWN = (SampleSheet, ScoreHistograms, MixturePicture, RichProgressBar)


def write_faces(root, *, identities=8, images=4, pairs=6):
    """Write identity folders of noise around one color each, and, with pairs, the benchmark `lfw`."""
    rng = np.random.default_rng(0)
    colors = rng.integers(40, 216, (identities, 1, 1, 3))

    def face(identity):
        return (colors[identity] + rng.integers(-40, 40, (112, 112, 3))).clip(0, 255).astype(np.uint8)

    for identity in range(identities):
        folder = root / "train" / f"person_{identity:02d}"
        folder.mkdir(parents=True)
        for number in range(images):
            cv2.imwrite(str(folder / f"{number}.png"), face(identity))
    if pairs:
        issame = np.arange(pairs) % 2 == 0
        people = np.stack([np.arange(pairs), np.arange(pairs) + ~issame], 1) % identities
        save_benchmark(Benchmark(np.stack([face(i) for i in people.ravel()]), issame, "lfw"), root)
    return root


def write_pairs(root, **options):
    """Write the people of `write_faces` as `hr`, and each image at 16 pixels in `lr`."""
    write_faces(root, pairs=0, **options)
    (root / "train").rename(root / "hr")
    for path in sorted((root / "hr").rglob("*.png")):
        small = root / "lr" / path.relative_to(root / "hr")
        small.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(small), cv2.resize(cv2.imread(str(path)), (16, 16), interpolation=cv2.INTER_AREA))
    return root


def opened_data(root, world_size=1, **options):
    """Return the data module of a folder for options over those of SMALL, ready."""
    datamodule = FaceDataModule(Config(**{**SMALL, "data_root": str(root), **options}), world_size)
    datamodule.setup()
    return datamodule


def build(folder, stop=None, failures=None, **options):
    """Return (model, datamodule, trainer) for options over those of SMALL, without pictures and progress bar."""
    config = Config(**{**SMALL, **options})
    datamodule = FaceDataModule(config, world_size(config))
    datamodule.setup()
    pl.seed_everything(config.seed, verbose=False)
    model = Recognizer(config.to_dict(), datamodule.classes)
    weigh_sets(model.heads, datamodule.loss_weights, datamodule.class_shares)
    own = folder if is_main_process() else None
    failures = failures or WriteFailures()
    trainer = build_trainer(config, own, stop, failures, callbacks=build_callbacks(config, own, failures))
    trainer.callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, SHOWN)]
    return model, datamodule, trainer


def fit(folder, *watchers, ckpt_path=None, **options):
    """Train under the eyes of some callbacks and return (model, datamodule, trainer)."""
    model, datamodule, trainer = build(folder, **options)
    trainer.callbacks += watchers
    trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return model, datamodule, trainer


def metrics(folder):
    """Return the rows of metrics.csv, numbers where there are any."""
    with (folder / "metrics.csv").open() as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def on_two_ranks(function, *args, timeout=120):
    """Return [function(*args) on rank 0, on rank 1], each rank a process as torchrun would start it.

    The function must be importable, and what it returns must be plain data or tensors.
    """
    context = forkserver()
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        processes = [context.Process(target=_rank, args=(rank, port, folder, function, args)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert codes == [0, 0], f"exit codes of the ranks: {codes}"
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _rank(rank, port, folder, function, args):
    gc.freeze()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    torch.save(function(*args), Path(folder) / f"{rank}.pt")


class Recorder(pl.Callback):
    """Keep the indices of the training batches and the values of all weights after each."""

    def __init__(self):
        self.indices = []
        self.weights = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.indices.append(batch.index.tolist())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.weights.append(state(module))


def state(module):
    """Return a copy of everything in a module's state dict."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def trained_state(folder, options, *watchers):
    """Train on this rank and return what it saw and ended with."""
    recorder = Recorder()
    model, datamodule, trainer = fit(Path(folder), recorder, *watchers, **options)
    return {
        "indices": recorder.indices,
        "steps": trainer.global_step,
        "weights": state(model),
        "skipped": model.guard.skipped,
        "scores": plain_scores(model),
        "unreadable": dict(datamodule.unreadable),
    }


def plain_scores(model):
    """Return the scores of the last validation or test as tensors."""
    return {
        f"{name}/{condition}/{matcher}": torch.from_numpy(values)
        for name, conditions in model.last_scores.items()
        for condition, by_matcher in conditions.items()
        for matcher, values in by_matcher.items()
    }
