"""What can be known to go wrong before a run begins is refused here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from config import Config, Run
from data import FaceDataModule
from engine.devices import local_ranks, uses_gpu, world_size
from engine.out_of_memory import IMAGE_BYTES, refuse_beyond_memory
from evaluation import METHODS
from evaluation.run import CONDITIONS
from options.overrides import BETWEEN_EPOCHS, changed_options
from tasks.recognition.paired_nets import PairedNetsOfRun
from tasks.recognition.paired_watch import PAIRED, watch_names
from tasks.validation import metric_names
from train_val import Recognizer

logger = logging.getLogger(__name__)
RANK_BYTES = 150e6  # resident memory of a further process, at least


def check_override(config: Config, saved: Config, checkpoint: Mapping[str, Any]) -> None:
    """Refuse what --override may not change in this checkpoint, and log what it does change."""
    parameters = checkpoint["hyper_parameters"]
    changes = check_batches(config, saved, int(checkpoint["FaceDataModule"]["batches_done"]))
    if not changes:
        return
    if config.has_teacher and not saved.has_teacher:
        raise ValueError(f"--override {', '.join(changes)}: the checkpoint holds no teacher to learn from")
    before, after = (_shapes(options, parameters["num_classes"]) for options in (saved, config))
    other = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if other:
        raise ValueError(
            f"--override {', '.join(changes)}: {other[0]} in the checkpoint would not fit; start a new run"
        )
    for name, value in changes.items():
        logger.warning(
            "--override: %s is %s from here on; in the checkpoint it is %s", name, value, getattr(saved, name)
        )


def check_batches(config: Run, saved: Run, done: int) -> dict[str, Any]:
    """Return what --override changes; refuse other batches within an epoch of which so many are done."""
    changes = changed_options(saved, config.override)
    between = sorted(changes.keys() & BETWEEN_EPOCHS)
    if between and done:
        raise ValueError(
            f"--override {between[0]}: {config.resume_from_checkpoint} lies inside an epoch, {done} batches after its"
            " start; the batches of an epoch can change at its end only, so resume a checkpoint from there"
        )
    return changes


def _shapes(config: Config, num_classes: Mapping[str, int]) -> dict[str, tuple[torch.Size, bool]]:
    """Return shape and whether it is trained of everything that a checkpoint of a run holds."""
    with torch.device("meta"):
        model = Recognizer(config.to_dict(), num_classes)
    return {name: (tensor.shape, tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()}


def check_memory(config: Config, num_classes: Mapping[str, int]) -> None:
    """Refuse sizes that cannot fit into memory. What is counted is certain; activations come on top of it."""
    if config.evaluate:
        return  # the file says how large the model is
    ranks = local_ranks(config)
    refuse_beyond_memory({f"--num_processes {ranks}": (ranks - 1) * RANK_BYTES})
    with torch.device("meta"):  # every shape, no memory
        model = Recognizer(config.to_dict(), num_classes)
    people = sum(num_classes.values())
    states = (2 if config.optimizer == "adamw" else int(config.momentum > 0)) if not uses_gpu(config) else -1
    matcher = [] if model.matcher is None else [*model.matcher.named_parameters()]
    sizes = {
        f"--arch {config.arch} with --embedding_size {config.embedding_size}": model.model.parameters(),
        f"--embedding_size {config.embedding_size} for {people} identities": model.heads.parameters(),
        f"--qaconv_channels {config.qaconv_channels}": [p for name, p in matcher if "class_embeddings" not in name],
    }
    # On the CPU each weight has a gradient and the optimizer's states; a GPU has its own memory for them.
    demands: dict[str, float] = {
        flags: (2 + states) * sum(p.numel() * p.element_size() for p in parameters)
        for flags, parameters in sizes.items()
    }
    maps = [p.numel() * p.element_size() for name, p in matcher if "class_embeddings" in name]
    demands[f"--class_embeddings for {people} identities"] = sum(maps)
    num_images = config.batch_size * (2 if config.trains_on_views else 1)
    demands[f"--batch_size {config.batch_size}"] = num_images * IMAGE_BYTES / world_size(config)
    refuse_beyond_memory({flags: ranks * size for flags, size in demands.items()})


def check_training(config: Config, datamodule: FaceDataModule, has_matcher: bool) -> None:
    """Refuse files of networks that the first step would refuse, and a metric that the first validation would."""
    if config.has_teacher or config.front:
        PairedNetsOfRun(config)
    check_monitor(config, datamodule, has_matcher)


def check_monitor(config: Config, datamodule: FaceDataModule, has_matcher: bool) -> None:
    """Refuse now what the first validation would not find."""
    conditions = CONDITIONS if config.val_occlusion else CONDITIONS[:1]
    names = metric_names(datamodule.benchmarks, conditions, METHODS if has_matcher else METHODS[:1])
    names += watch_names(datamodule.watched)
    if config.monitor not in names:
        raise ValueError(f"--monitor: no metric will be called {config.monitor!r}; choose one of {', '.join(names)}")
    if config.monitor.endswith(PAIRED):
        logger.warning(
            "--monitor %s: the mean cosine of both views of an image rises when all embeddings collapse; val_lr_hr_auc"
            " says whether people are known", config.monitor,
        )  # fmt: skip
