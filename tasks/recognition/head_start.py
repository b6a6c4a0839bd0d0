"""What a head begins with when the net is loaded: statistics of the net's norms, means of its embeddings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

import heads
from datasets import Sample, SampleKey
from nets import Backbone, Features
from options.names import ONLY_DATASET
from tasks.embedding import sum_over_ranks, visit_images

logger = logging.getLogger(__name__)
STATISTICS = "head's statistics"  # what a checkpoint's part is called that has the running means of norms
BATCH = 256  # images a forward pass
NUM_NORMS = 1000  # images whose norms are looked at: their mean is known to 3 % of a standard deviation


class Span(NamedTuple):
    """Where a data set lies among all of a training that are laid end to end."""

    images: range
    labels: range


def part_of_set(part: str, data_set: str) -> str:
    """Return what a part of the head of a data set is called, in a log and among what was loaded."""
    return part if data_set == ONLY_DATASET else f"{part} of {data_set}"


class HeadStart(Callback):
    """Let the margin head begin from what the loaded backbone gives, ahead of the first step of a new run.

    A head that reads norms gets those of up to 1,000 training images, which the seed draws; a head that is to start
    from class means those of all training images. Both are without augmentation, and the same on every rank. A run
    that goes on has what follows from them in its checkpoint.

    The data module must have `train_dataset` and `spans`, which say where in it each data set lies; the module `model`,
    a backbone, `heads`, and `loaded`, names of the parts of it that were loaded for a new run: if the statistics of a
    head were, norms are not looked at for it.

    Args:
        class_means: whether class weights start from class means.
        seed: of the run.
        num_workers: processes that read images.
    """

    def __init__(self, class_means: bool, seed: int, num_workers: int = 0) -> None:
        self._class_means = class_means
        self._seed = seed
        self._num_workers = num_workers

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the images, and tell the head; it is early, so that an average of the weights begins with it."""
        if trainer.global_step or not module.loaded:
            return
        spans = trainer.datamodule.spans  # type: ignore[attr-defined]  # Lightning attaches it
        for name, head in module.heads.items():  # type: ignore[operator,union-attr]
            self._start(trainer, module, head, name, spans[name])

    def _start(self, trainer: pl.Trainer, module: pl.LightningModule, head: heads.Head, name: str, span: Span) -> None:
        backbone, loaded, number, of = module.model, module.loaded, len(span.images), part_of_set("", name)
        assert isinstance(backbone, Backbone) and isinstance(loaded, tuple)
        if head.reads_norms and part_of_set(STATISTICS, name) not in loaded:
            drawn = torch.randperm(number, generator=torch.Generator().manual_seed(self._seed))[:NUM_NORMS].sort()
            places = [span.images[place] for place in drawn.values.tolist()]
            norms = self._look_at_norms(trainer, module, backbone, places)
            says = head.start_from(norms)
            logger.info(
                "norms of %d training images%s: %.3g on average%s", len(norms), of, norms.mean(), says and f"; {says}"
            )
        if self._class_means:
            means, counts = self._class_sums(trainer, module, backbone, span)
            head.start_from_means(means)
            empty = int((counts == 0).sum())
            says = f"; {empty} without an image keep a random direction" if empty else ""
            logger.info(
                "class weights%s start from the means of %d images of %d classes%s", of, number, len(span.labels), says
            )

    def _look_at_norms(
        self, trainer: pl.Trainer, module: pl.LightningModule, backbone: Backbone, places: Sequence[int]
    ) -> Tensor:
        """Return the norms of some images, [N, 1], on every rank."""
        norms = torch.zeros(len(places), 1, device=module.device)

        def keep(number: int, batch: Sample[Tensor, Tensor], features: Features) -> None:
            norms[number * BATCH :][: len(features.norm)] = features.norm.float()

        visit_images(trainer, backbone, _keys(places), keep, batch_size=BATCH, num_workers=self._num_workers)
        return sum_over_ranks(norms)

    def _class_sums(
        self, trainer: pl.Trainer, module: pl.LightningModule, backbone: Backbone, span: Span
    ) -> tuple[Tensor, Tensor]:
        """Return the sums [classes, D] of a set's unit embeddings by class, and their counts, on every rank."""
        # In double precision the order of addition, which follows the ranks, is lost in the rounding to single.
        sums = torch.zeros(len(span.labels), backbone.embedding_size + 1, dtype=torch.float64)

        def keep(number: int, batch: Sample[Tensor, Tensor], features: Features) -> None:
            rows = torch.nn.functional.pad(features.embedding.double().cpu(), (0, 1), value=1.0)
            sums.index_add_(0, batch.label - span.labels.start, rows)

        visit_images(trainer, backbone, _keys(span.images), keep, batch_size=BATCH, num_workers=self._num_workers)
        everyone = sum_over_ranks(sums.to(module.device))
        return everyone[:, :-1].float(), everyone[:, -1]


def _keys(places: Sequence[int]) -> list[SampleKey]:
    return [SampleKey(0, place, 0, position) for position, place in enumerate(places)]
