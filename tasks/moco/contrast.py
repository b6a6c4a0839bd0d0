"""Momentum contrast: two encoders of one form, of which one is trained and the other follows it, and a queue of keys.

Reference: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722,
and for the cosine schedule of the momentum Chen et al., "An Empirical Study of Training Self-Supervised Vision
Transformers" (MoCo v3), arXiv:2104.02057.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

import losses
from ops import at_least_float32, gather
from tasks.moco.key_norm import encode_keys, sync_norms
from tasks.moco.queue import KeyQueue


def momentum_at(step: int, total: int, base: float, schedule: str) -> float:
    """Return the key encoder's momentum before the update with this 0-based number.

    constant: `base`. cosine: 1 - (1 - base) * (1 + cos(pi * step / total)) / 2, from `base` to 1.

    Raises:
        ValueError: if the schedule is unknown.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return 1 - (1 - base) * (1 + math.cos(math.pi * min(1.0, step / max(1, total)))) / 2
    raise ValueError(f"momentum_at: unknown schedule {schedule!r}; choose constant or cosine")


@dataclass(frozen=True)
class Rules:
    """How queries and keys are compared.

    Attributes:
        margin, temperature: see `losses.margin_nce`.
        top_k: see `losses.left_out`.
        key_norm, key_groups: see `encode_keys`.
        seed: the random orders of `encode_keys` follow it.
    """

    margin: float = 0.1
    temperature: float = 0.07
    top_k: int = 0
    key_norm: str = "shuffle"
    key_groups: int = 4
    seed: int = 0


class Side(NamedTuple):
    """What a batch's images are; one of these for the queries and one for the keys.

    Attributes:
        images: [B] int64, positions in the data.
        clusters: [B] int64, -1 = none.
    """

    images: Tensor
    clusters: Tensor


class Comparison(NamedTuple):
    """Queries against their keys and the queue.

    Attributes:
        loss: [B].
        positive: [B], cosines of queries and keys.
        similarity: [B, K], cosines of queries and slots.
        left_out: [B, K] bool, which slots are no negatives.
    """

    loss: Tensor
    positive: Tensor
    similarity: Tensor
    left_out: Tensor


class MomentumContrast(nn.Module):
    """A query encoder, the key encoder that follows it, and the queue.

    Args:
        query: images -> [B, dim] of any length; it is trained.
        queue: of keys with `dim` numbers.
        rules: how they are compared.
    Attributes:
        query, key: the encoders. The key encoder begins as a copy and has no gradient; its parameters follow the
            query's, its running statistics are its own.
    """

    def __init__(self, query: nn.Module, queue: KeyQueue, rules: Rules) -> None:
        super().__init__()
        self.query = query
        self.key = copy.deepcopy(query).requires_grad_(False)
        if rules.key_norm == "sync":
            sync_norms(self.key)
        self.queue = queue
        self.rules = rules

    @torch.no_grad()
    def restart_key(self) -> None:
        """Make the key encoder the query encoder's equal, as at the beginning."""
        self.key.load_state_dict(self.query.state_dict())

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the key encoder's parameters: key <- momentum * key + (1 - momentum) * query."""
        pairs = ([*self.key.parameters()], [*self.query.parameters()])
        get_ema_multi_avg_fn(momentum)(*pairs, 1)

    def encode_queries(self, images: Tensor) -> Tensor:
        """Return unit queries [B, dim], at least float32 under any autocast."""
        return functional.normalize(at_least_float32(self.query(images)), dim=1)

    def encode_keys(self, images: Tensor, step: int, way: int = 0) -> Tensor:
        """Return unit keys [B, dim] without a gradient, at least float32 under any autocast.

        Args:
            images: of this rank.
            step: number of the update.
            way: 0, or 1 for the second pass of a symmetric loss; both with the seed choose the company of each key.
        """

        def encode(images: Tensor) -> Tensor:
            return functional.normalize(at_least_float32(self.key(images)), dim=1)

        rules = self.rules
        return encode_keys(encode, images, rules.key_norm, rules.key_groups, (rules.seed, step, way))

    def compare(self, queries: Tensor, keys: Tensor, query: Side, positive: Side) -> Comparison:
        """Compare queries with their keys and with the queue as it is.

        Args:
            queries: [B, dim], unit.
            keys: [B, dim], unit, without a gradient.
            query, positive: what images they were made of.
        """
        queue, rules = self.queue, self.rules
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries @ queue.keys.T
            cosines = (queries * keys).sum(dim=1)
        out = losses.left_out(
            similarity, query.clusters, queue.clusters, query.images, positive.images, queue.images, queue.valid,
            rules.top_k,
        )  # fmt: skip
        loss = losses.margin_nce(cosines, similarity, out, rules.margin, rules.temperature)
        return Comparison(loss, cosines, similarity, out)

    def enqueue(self, keys: Tensor, images: Tensor, clusters: Tensor) -> None:
        """Put the keys of all ranks into the queue of each, rank after rank; all ranks must call it together."""
        self.queue.enqueue(*(gather(values) for values in (keys, images, clusters)))
