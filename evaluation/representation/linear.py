"""The linear probe: one layer trained on embeddings that stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

_INITIAL_STD = 0.01


class ProbeSettings(NamedTuple):
    """How the layer is trained; the defaults are MoCo's.

    Attributes:
        lr: of SGD with momentum 0.9.
        weight_decay: likewise.
        epochs, milestones: the rate is divided by 10 at each of the latter.
        batch_size: images.
        seed: of the first weights and of the order.
    """

    lr: float = 30.0
    weight_decay: float = 0.0
    epochs: int = 100
    milestones: tuple[int, ...] = (60, 80)
    batch_size: int = 256
    seed: int = 0


def linear_probe(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    settings: ProbeSettings | None = None,
    progress: Callable[..., Iterable[int]] = lambda steps, description: steps,
) -> NDArray[np.int64]:
    """Train a linear layer with bias on embeddings and return the label that it gives to each query.

    Args:
        embeddings: [N, D] floating, of unit length, of a network in eval mode.
        labels: int64 [N] in [0, C).
        queries: [Q, D] likewise.
        settings: how; None: as MoCo does.
        progress: (epochs, description=...) -> the epochs, watched.
    Returns:
        int64 [Q]; of equal logits the lowest label.
    Raises:
        ValueError: if the loss is not finite.
    Reference: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
        arXiv:1911.05722, Sec. 4.1.
    """
    chosen = settings or ProbeSettings()
    generator = torch.Generator().manual_seed(chosen.seed)
    known, people = torch.from_numpy(np.asarray(embeddings, np.float32)), torch.from_numpy(np.asarray(labels, np.int64))
    layer = torch.nn.Linear(known.shape[1], int(people.max()) + 1)
    with torch.no_grad():
        layer.weight.normal_(std=_INITIAL_STD, generator=generator)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), chosen.lr, momentum=0.9, weight_decay=chosen.weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(chosen.milestones), 0.1)
    for epoch in progress(range(chosen.epochs), description="Training the probe"):
        losses = _train_epoch(layer, optimizer, known, people, (chosen.batch_size, generator))
        if not np.isfinite(losses):
            raise ValueError(
                f"linear_probe: the loss is not finite in epoch {epoch}; take a lower rate than {chosen.lr}"
            )
        schedule.step()
    with torch.inference_mode():
        parts = torch.from_numpy(np.asarray(queries, np.float32)).split(4096)
        return torch.cat([layer(part).argmax(dim=1) for part in parts]).numpy()


def _train_epoch(
    layer: torch.nn.Linear,
    optimizer: torch.optim.Optimizer,
    known: torch.Tensor,
    people: torch.Tensor,
    order: tuple[int, Any],
) -> float:
    """Train on every image once and return the sum of the losses."""
    batch_size, generator = order
    total = torch.zeros(())
    for batch in torch.randperm(len(known), generator=generator).split(batch_size):
        loss = F.cross_entropy(layer(known[batch]), people[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total)
