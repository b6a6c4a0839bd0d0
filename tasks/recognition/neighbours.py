"""The neighbours of every identity for graph sampling, found anew for each epoch."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from datasets import SampleKey
from datasets.sampling.graph_sampler import GraphBatchSampler
from evaluation.scores.neighbours import nearest_neighbours
from nets import Backbone
from tasks.embedding import embed_images, sum_over_ranks

logger = logging.getLogger(__name__)


class NeighbourTable(Callback):
    """Find each identity's nearest neighbours for every epoch and give them to the sampler, the same on every rank.

    One image of each identity, drawn from (seed, epoch), goes through the backbone as it is, without augmentation, in
    eval mode under the run's autocast; an unreadable image is replaced as `TrainingView` does. Images and rows of the
    table are dealt to the ranks. Nothing but the sampler changes: no mode, running statistic or generator.

    The table of an epoch is found before any batch of it is drawn: for the epoch that a run starts or goes on with when
    the sampler is asked for the first batch, which Lightning does as early as when it counts the steps of a schedule;
    for the others at the end of the epoch before, ahead of its checkpoint. Checkpoints hold the table of their epoch:
    a run resumed inside an epoch goes on with the table it was planned by; one that was saved between the last batch
    and the new table finds that again.

    The data module must have `train_dataset` and, from its setup on, `train_sampler`, the `GraphBatchSampler` of this
    rank; the module `model`, a backbone.

    Args:
        first_epoch: the first epoch with neighbours: 1 where the weights are drawn at random, 0 where they are loaded.
        batch_size: images a forward pass.
        num_workers: processes that read them.
    """

    def __init__(self, first_epoch: int = 1, batch_size: int = 256, num_workers: int = 0) -> None:
        self._first_epoch = first_epoch
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._table: NDArray[np.int32] | None = None
        self._epoch: int | None = None  # of the table

    def state_dict(self) -> dict[str, Any]:
        """Return {epoch, table int32 [num_identities, num_neighbours]}, or nothing before the first table."""
        return {} if self._table is None else {"epoch": self._epoch, "table": torch.from_numpy(self._table)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the table until the run starts, which takes it if it goes on in that table's epoch."""
        self._epoch, self._table = state_dict["epoch"], state_dict["table"].numpy()

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Let the sampler ask before the first epoch of this process: by then weights, table and place are restored."""
        if stage == "fit":
            _sampler(trainer).before_epoch = partial(self._provide, trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Provide for the next epoch, if there is one, before the checkpoint of this one is written."""
        epoch: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # typed as its base
        if epoch != trainer.max_epochs:
            self._provide(trainer, module, epoch)

    def _provide(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
        if self._epoch != epoch:
            if epoch < self._first_epoch:
                return
            self._table, self._epoch = self._find(trainer, module, epoch), epoch
        assert self._table is not None
        _sampler(trainer).set_neighbours(self._table)

    def _find(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> NDArray[np.int32]:
        start = time.monotonic()
        sampler = _sampler(trainer)
        embeddings = self._embed(trainer, module, sampler.draw_pictures(epoch), epoch)
        table = nearest_neighbours(
            embeddings, sampler.num_neighbours, rank=trainer.global_rank, world_size=trainer.world_size
        )
        sum_over_ranks(table)
        seconds = time.monotonic() - start
        logger.info("neighbours of %d identities for epoch %d: found in %.1f s", len(table), epoch, seconds)
        return table.to("cpu", torch.int32).numpy()

    def _embed(
        self, trainer: pl.Trainer, module: pl.LightningModule, pictures: NDArray[np.int64], epoch: int
    ) -> Tensor:
        """Return the embeddings of some images on every rank, [num_identities, D] float32."""
        keys = [SampleKey(0, int(picture), epoch, identity) for identity, picture in enumerate(pictures)]
        backbone = module.model
        assert isinstance(backbone, Backbone)
        return embed_images(trainer, backbone, keys, batch_size=self._batch_size, num_workers=self._num_workers)


def _sampler(trainer: pl.Trainer) -> GraphBatchSampler:
    sampler = trainer.datamodule.train_sampler  # type: ignore[attr-defined]  # Lightning attaches it
    assert isinstance(sampler, GraphBatchSampler)
    return sampler
