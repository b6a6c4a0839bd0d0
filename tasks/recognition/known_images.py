"""What frozen networks say of images that come again: computed once, kept in memory, where that changes no bit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from config import Config
from nets import Backbone
from ops import gather
from system.memory import gigabytes
from tasks.recognition.paired_nets import PairedNets

logger = logging.getLogger(__name__)
MAX_BYTES = 2**30  # of what is kept on a rank of one network
LEAST_EPOCHS = 3  # an image and its mirror image are looked at in one epoch: that pays from the third on
Views = Sequence[Tensor]


class KnownRows:
    """Rows of numbers that a frozen network gives for images, kept by their pixels.

    A batch with an image that is not known is looked at as a whole, and its mirror image with it, which a later epoch
    may draw: the last bits of a row follow the size of the batch. That they follow neither the place in it nor the
    other images is tried on the first batch; where they do, nothing is kept. Nor is a batch of another size. Whatever
    else changes an image makes another image of it, which is looked at.

    All ranks know what one of them has seen. They must look together, at as many images.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, Tensor] = {}
        self._is_exact: bool | None = None  # not tried yet
        self._batch_size: int | None = None

    def look(self, views: Views, see: Callable[[Views], Tensor]) -> Tensor:
        """Return what the network says of the images of a batch.

        Args:
            views: uint8 [B, h, h, 3] each; all of them in every batch, in one order.
            see: shows them to the network, [views * B, K] of any views like these, without a gradient.
        """
        self._batch_size = self._batch_size or len(views[0])
        if self._is_exact is False or len(views[0]) != self._batch_size:
            return see(views)
        keys = _keys(views)
        found = [self._rows[key] for key in keys if key in self._rows]
        is_new = torch.tensor([len(found) < len(keys)], device=views[0].device)
        if not gather(is_new).any():
            return torch.stack(found).to(views[0].device)
        rows, mirrored = see(views), [view.flip(2) for view in views]
        of_mirrored = see(mirrored)
        if self._is_exact is None:
            self._is_exact = _follows_pixels_alone(views, mirrored, rows, of_mirrored, see)
        if self._is_exact:
            self._keep(keys, rows)
            self._keep(_keys(mirrored), of_mirrored)
        return rows

    def _keep(self, keys: Sequence[bytes], rows: Tensor) -> None:
        """Take the rows of all ranks."""
        size = len(keys[0])
        of_all = gather(torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).to(rows.device)).cpu()
        joined = of_all.numpy().tobytes()
        for number, row in enumerate(gather(rows).cpu()):
            self._rows.setdefault(joined[number * size : (number + 1) * size], row.clone())


def _keys(views: Views) -> list[bytes]:
    """Return 16 bytes for each image that no other has, nor the same image in another view."""
    return [
        hashlib.blake2b(image.numpy().data, digest_size=16, salt=bytes([number])).digest()
        for number, view in enumerate(views)
        for image in view.cpu().contiguous()
    ]


def _follows_pixels_alone(
    views: Views, mirrored: Views, rows: Tensor, of_mirrored: Tensor, see: Callable[[Views], Tensor]
) -> bool:
    """Return whether, on every rank, images at other places and among others have the same rows, to the bit."""

    def mixed(one: Tensor, other: Tensor) -> Tensor:
        is_odd = torch.arange(len(one), device=one.device).remainder(2).bool()
        return torch.where(is_odd.view(-1, *[1] * (one.ndim - 1)), one, other).roll(1, 0)

    moved = see([mixed(one, other) for one, other in zip(views, mirrored, strict=True)])
    parts = (each.chunk(len(views)) for each in (rows, of_mirrored))
    expected = torch.cat([mixed(one, other) for one, other in zip(*parts, strict=True)])
    return bool(gather(torch.tensor([torch.equal(moved, expected)], device=rows.device)).all())


class KnownImages(Callback):
    """Let embeddings of a backbone that is frozen, and of a teacher, be computed once where the images come again.

    They do where no augmentation but the mirror image is on: of a backbone both views then have to be files, or there
    is one; of a teacher, which sees the HR images, a degradation of the others does no harm. What is kept is in float32
    (float64 for --check_mode), at most 1 GiB of each network, and in no checkpoint: a run that goes on looks again.
    Images are read as ever, and a step that is logged, which needs the maps too, looks at them. A run ends with the
    same bits as one in which nothing is kept.

    The module must have `model` and `beside`, the data module `train_dataset`.

    Args:
        config: options of the run.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        by_set = config.by_set().values()
        # Why not, each None where it does not apply.
        self._changes = next((why for each in by_set if (why := _augmentation(each))), None)
        self._degrades = "--degradation makes other LR images" if any(each.degradation for each in by_set) else None
        weights = ("qaconv_loss_weight", "occlusion_loss_weight")
        self._maps = next((f"--{name} needs maps" for name in weights if getattr(config, name)), None)
        self._is_decided = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep what the teacher says."""
        beside = module.beside
        assert isinstance(beside, PairedNets)
        if beside.teacher is not None and self._config.epochs - trainer.current_epoch >= LEAST_EPOCHS:
            size = beside.teacher.backbone.embedding_size
            beside.taught = self._begin(trainer, "the teacher", self._changes, 1, size)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to keep what the backbone says where it is frozen, and forget it where it is not."""
        backbone, beside = module.model, module.beside
        assert isinstance(backbone, Backbone) and isinstance(beside, PairedNets)
        if not is_frozen(backbone):
            beside.known, self._is_decided = None, False
        elif not self._is_decided and self._epochs_left(trainer.current_epoch) >= LEAST_EPOCHS:
            self._is_decided = True
            num_views = 2 if self._config.trains_on_views else 1
            why = self._maps or self._changes or self._degrades
            beside.known = self._begin(trainer, "the frozen backbone", why, num_views, backbone.embedding_size + 1)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Forget everything."""
        beside = module.beside
        assert isinstance(beside, PairedNets)
        beside.known = beside.taught = None

    def _epochs_left(self, epoch: int) -> int:
        """Return for how many epochs, this one too, nothing changes that is trained."""
        ends = accumulate(stage.epochs for stage in self._config.run_stages)
        return next((end for end in ends if end > epoch), self._config.epochs) - epoch

    def _begin(self, trainer: pl.Trainer, who: str, why: str | None, num_views: int, width: int) -> KnownRows | None:
        """Return what keeps rows, or None for a reason, and say which of both."""
        num_images = len(trainer.datamodule.train_dataset)  # type: ignore[attr-defined]  # Lightning attaches it
        size = 2 * num_views * num_images * width * (8 if self._config.check_mode else 4)
        if why is None and size > MAX_BYTES:
            why = f"to keep all would take {gigabytes(size)}"
        if why is not None:
            logger.info("%s computes its embeddings anew in every epoch: %s", who, why)
            return None
        logger.info(
            "%s sees each of %d images and its mirror image once: what it says is kept, at most %.1f MB on a rank",
            who, num_images, size / 1e6,
        )  # fmt: skip
        return KnownRows()


def is_frozen(backbone: Backbone) -> bool:
    """Return whether nothing of a backbone is trained, nor follows the batches."""
    return not backbone.training and not any(parameter.requires_grad for parameter in backbone.parameters())


def _augmentation(config: Config) -> str | None:
    """Return what changes images beyond their mirror image; None: nothing does."""
    names = ("low_res", "crop", "photometric", "grayscale")
    flags = [f"{name}_augmentation_prob" for name in names if getattr(config, f"{name}_augmentation_prob")]
    flags += ["occlusion_prob"] if config.occlusion_prob and config.occluders else []
    return f"--{flags[0]} changes images" if flags else None
