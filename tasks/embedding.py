"""Images of the data embedded in the middle of a training, dealt to the ranks; the training does not notice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets import Image, LabeledFaces, Sample, SampleKey, TrainingView, collate
from datasets.progress import tracked
from engine.callbacks.heartbeat import occupied
from engine.signals import start_worker
from nets import Backbone, Features
from ops import is_distributed
from tasks.kept_rows import KeptRows
from transforms import View, to_tensor


def embed_images(
    trainer: pl.Trainer,
    backbone: Backbone,
    keys: Sequence[SampleKey],
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    dtype: torch.dtype = torch.float32,
    kept: KeptRows | None = None,
) -> Tensor:
    """Return the embeddings of some images on every rank, [N, D] of unit length, on the module's device.

    See `visit_images`. The number of ranks changes no bit.

    Args:
        dtype: of the result.
        kept: where batches are kept, for the same embedding after an interruption; it gives the same bits.
    """
    device = trainer.lightning_module.device
    embeddings = torch.zeros(len(keys), backbone.embedding_size, device=device, dtype=dtype)
    found: dict[int, Tensor] = {}
    if kept is not None:
        digest = _digest(backbone, keys, (trainer.precision, batch_size, dtype))
        kept.open(digest, len(keys), backbone.embedding_size, dtype, batch_size)
        own = range(trainer.global_rank, -(-len(keys) // batch_size), trainer.world_size)
        found = {number: rows for number in own if (rows := kept.read(number)) is not None}
        for number, rows in found.items():
            embeddings[number * batch_size :][: len(rows)] = rows.to(device)

    def keep(number: int, batch: Sample[Tensor, Tensor], features: Features) -> None:
        rows = features.embedding.to(dtype)
        embeddings[number * batch_size :][: len(rows)] = rows
        if kept is not None:
            kept.write(number, rows)

    visit_images(trainer, backbone, keys, keep, batch_size=batch_size, num_workers=num_workers, done=found)
    return sum_over_ranks(embeddings)


def visit_images(
    trainer: pl.Trainer,
    backbone: Backbone,
    keys: Sequence[SampleKey],
    keep: Callable[[int, Sample[Tensor, Tensor], Features], None],
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    done: Container[int] = (),
) -> None:
    """Show some images to a backbone, dealt to the ranks.

    Images go through the backbone as they are, without augmentation, in eval mode under the run's autocast; one that
    cannot be read is replaced as `TrainingView` does. No mode, running statistic or generator changes, but that every
    rank takes the running statistics of rank 0, as DDP does before a forward pass.

    Args:
        trainer: of the run; its data module has `train_dataset`.
        backbone: a part of the module that is trained.
        keys: of the images, the same on every rank.
        keep: called with the number of a batch, the batch, and what the backbone says of it. Batches of other ranks are
            theirs.
        batch_size: images a forward pass.
        num_workers: processes that read them.
        done: numbers of batches of this rank that are passed over.
    """
    module = trainer.lightning_module
    _share_buffers(backbone)
    # Whole batches are dealt to the ranks: their number changes no batch, hence no bit of an embedding.
    batches = [list(keys[start : start + batch_size]) for start in range(0, len(keys), batch_size)]
    own = [n for n in range(trainer.global_rank, len(batches), trainer.world_size) if n not in done]
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
    forward = trainer.precision_plugin.forward_context()
    with occupied(module, "embedding") as say, _evaluating(backbone), forward, torch.inference_mode():
        for place, (number, batch) in enumerate(zip(shown, loader, strict=True)):
            say(f"embedding, batch {place} of {len(own)}")
            images = to_tensor(batch.image.to(module.device)).to(module.dtype)
            keep(number, batch, backbone(images))


def embed_pixels(
    trainer: pl.Trainer, backbone: Backbone, images: Image, prepare: Callable[[Tensor], Tensor], batch_size: int = 64
) -> Tensor:
    """Return the embeddings of images in memory on every rank, [N, D] of unit length, on the module's device.

    As `visit_images` does it: in eval mode under the run's autocast, batches dealt to the ranks, nothing changed.

    Args:
        trainer: of the run.
        backbone: a part of the module that is trained.
        images: uint8 [N, h, h, 3] RGB, the same on every rank.
        prepare: makes of a batch of them on the device what the backbone takes.
        batch_size: images a forward pass.
    """
    module = trainer.lightning_module
    _share_buffers(backbone)
    embeddings = torch.zeros(len(images), backbone.embedding_size, device=module.device, dtype=torch.float64)
    with _evaluating(backbone), trainer.precision_plugin.forward_context(), torch.inference_mode():
        for start in range(trainer.global_rank * batch_size, len(images), trainer.world_size * batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size]).to(module.device)
            embeddings[start : start + len(pixels)] = backbone(prepare(pixels).to(module.dtype)).embedding.double()
    return sum_over_ranks(embeddings)


def _share_buffers(backbone: Backbone) -> None:
    """Give every rank the running statistics of rank 0, as DDP does before a forward pass."""
    if is_distributed():
        for buffer in backbone.buffers():
            dist.broadcast(buffer, src=0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up, in place, what the ranks have filled in; the rest of each is 0."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def _digest(backbone: Backbone, keys: Sequence[SampleKey], facts: tuple[object, ...]) -> str:
    """Return the SHA-256 of weights and statistics, of the images and their epoch, and of how they are embedded."""
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(np.array([(key.index, key.epoch) for key in keys], "<i8").tobytes())
    for name, value in backbone.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()


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
