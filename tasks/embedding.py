"""Images of the data embedded in the middle of a training, dealt to the ranks; the training does not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets import Image, LabeledFaces, Sample, SampleKey, TrainingView, collate
from datasets.progress import tracked
from engine.signals import start_worker
from nets import Backbone, Features
from ops import is_distributed
from transforms import View, to_tensor


def embed_images(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    backbone: Backbone,
    keys: Sequence[SampleKey],
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the embeddings of some images on every rank, [N, D] of unit length, on the module's device.

    See `visit_images`. The number of ranks changes no bit.

    Args:
        dtype: of the result.
    """
    embeddings = torch.zeros(len(keys), backbone.embedding_size, device=module.device, dtype=dtype)

    def keep(start: int, batch: Sample[Tensor, Tensor], features: Features) -> None:
        embeddings[start : start + len(features.embedding)] = features.embedding.to(dtype)

    visit_images(trainer, module, backbone, keys, keep, batch_size=batch_size, num_workers=num_workers)
    return sum_over_ranks(embeddings)


def visit_images(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    backbone: Backbone,
    keys: Sequence[SampleKey],
    keep: Callable[[int, Sample[Tensor, Tensor], Features], None],
    *,
    batch_size: int = 256,
    num_workers: int = 0,
) -> None:
    """Show some images to a backbone, dealt to the ranks.

    Images go through the backbone as they are, without augmentation, in eval mode under the run's autocast; one that
    cannot be read is replaced as `TrainingView` does. No mode, running statistic or generator changes, but that every
    rank takes the running statistics of rank 0, as DDP does before a forward pass.

    Args:
        trainer: of the run; its data module has `train_dataset`.
        module: that is trained.
        backbone: a part of it.
        keys: of the images, the same on every rank.
        keep: called with the place among the keys of a batch's first image, the batch, and what the backbone says of
            it. Batches of other ranks are theirs.
        batch_size: images a forward pass.
        num_workers: processes that read them.
    """
    if is_distributed():
        for buffer in backbone.buffers():
            dist.broadcast(buffer, src=0)
    # Whole batches are dealt to the ranks: their number changes no batch, hence no bit of an embedding.
    batches = [list(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)]
    own = range(trainer.global_rank, len(batches), trainer.world_size)
    dataset: LabeledFaces = trainer.datamodule.train_dataset  # type: ignore[attr-defined]  # Lightning attaches it
    # A generator of its own: the loader would draw from that of training.
    loader = DataLoader(
        TrainingView(dataset, _as_it_is, seed=0),
        batch_sampler=[batches[number] for number in own],
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    # The bar of the epoch is on the same terminal: this one leaves no line behind.
    shown = tracked(own, "embedding", hidden=trainer.global_rank > 0, transient=True)
    with _evaluating(backbone), trainer.precision_plugin.forward_context(), torch.inference_mode():
        for number, batch in zip(shown, loader, strict=True):
            images = to_tensor(batch.image.to(module.device)).to(module.dtype)
            keep(number * batch_size, batch, backbone(images))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up, in place, what the ranks have filled in; the rest of each is 0."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def _as_it_is(image: Image, rng: np.random.Generator) -> View:
    return View(image, np.broadcast_to(np.uint8(1), image.shape[:2]))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and each of its parts back into the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
