"""A margin head whose classes are split over the ranks, of which a step may see a part."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ops import gather, gather_with_gradient, own_rank, world_size

from .head import Embedded, Head, HeadLoss
from .margin_head import MarginHead, unit_means
from .split_softmax import Logits, Targets, split_cross_entropy

_BLOCK_BYTES = 64 * 2**20  # of the classes that travel at a time
_DRAWN_CLASSES = 4096  # initial weights that come from one generator


def shard_bounds(num_classes: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """Return the first class of a rank and the one behind its last; shards differ by one class at most.

    Raises:
        ValueError: if there are fewer classes than ranks.
    """
    if num_classes < num_ranks:
        raise ValueError(f"PartialFC: {num_classes} classes cannot be split over {num_ranks} ranks; use fewer ranks")
    least, larger = divmod(num_classes, num_ranks)
    return rank * least + min(rank, larger), (rank + 1) * least + min(rank + 1, larger)


def num_sampled(shard_size: int, rate: float, max_positives: int) -> int:
    """Return how many classes of a shard take part in a step: always as many, so that no step waits for a count."""
    return min(shard_size, max(math.ceil(rate * shard_size), max_positives))


class _Rows(torch.autograd.Function):
    """(weight [N, D], rows [k], sorted and distinct) -> [k, D]; the weight's gradient is sparse."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        sparse = torch.sparse_coo_tensor(rows[None], grad, ctx.shape, check_invariants=False, is_coalesced=True)
        return sparse, None


class PartialFC(Head):
    """Margin softmax over classes split over the ranks of the process group; one rank without a group.

    Weights and momentum of a rank are those of its own classes, and so is the block of logits it computes. In training
    mode a step sees `rate` of each rank's classes: those of the global batch, and others drawn by a generator keyed by
    seed, step and shard. Weights and momentum of the rest stay as they are, weight decay included. The weights are no
    business of DDP: an optimizer of this rank's rows updates them.

    Its state dict holds the rank's classes. Checkpoints hold those of all ranks in the layout of the dense head
    (`gather_dense_state`), which this module loads on any number of ranks.

    Args:
        margin: the head that defines margin, scale and clamping, of any number of classes; its own kernel is dropped.
        num_classes: identities to tell apart, over all ranks.
        rate: share of the classes that takes part in a step, in (0, 1]. 1 is the dense head.
        seed: of initial weights, the same for any number of ranks, and of the classes drawn.
        max_positives: the most different classes that a global batch may hold; None: each sample may have its own.
            So many classes of a shard take part at least. A batch with more may lose a true class: its loss is NaN.
    Attributes:
        weight: [classes of this rank, embedding_size] float32, a class per row; rows are normalized when they are used.
    Raises:
        ValueError: if the rate is out of range, there are fewer classes than ranks, or the margin head does more than
            add a margin: its negatives, sub-centers or extra term would need exchanges that are not made here.
    Reference: An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
        Partial FC", CVPR 2022, arXiv:2203.15565, Sec. 3.
    """

    def __init__(
        self, margin: MarginHead, num_classes: int, rate: float = 1.0, seed: int = 0, max_positives: int | None = None
    ) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"PartialFC: rate must be in (0, 1], got {rate}")
        if not margin.can_split:
            raise ValueError(f"PartialFC: {type(margin).__name__} cannot be split over ranks; use it dense")
        self.rank, self.num_ranks = own_rank(), world_size()
        self.start, self.stop = shard_bounds(num_classes, self.rank, self.num_ranks)
        self.num_classes, self.rate, self.seed, self.max_positives = num_classes, rate, seed, max_positives
        self.weight = nn.Parameter(_initial_weights(self.start, self.stop, margin.kernel.shape[0], seed))
        margin.register_parameter("kernel", None)
        self.margin = margin
        self.reads_norms = margin.reads_norms
        self.register_load_state_dict_pre_hook(_take_own_classes)

    @property
    def margin_scale(self) -> float:
        """Factor on the margin, see `MarginHead`."""
        return self.margin.margin_scale

    @margin_scale.setter
    def margin_scale(self, value: float) -> None:
        self.margin.margin_scale = value

    def forward(self, embeddings: Tensor, norms: Tensor, labels: Tensor, step: int = 0) -> HeadLoss:
        """Return the cross entropy of the global batch; all ranks must call it together.

        Maths is in float32 under any autocast, in float64 where embeddings or weights are. The gradient that reaches
        the embeddings is the one that DDP, which averages over the ranks, turns into that of the returned loss.

        Args:
            embeddings: [B, embedding_size] floating, unit length, of this rank; B is equal on all ranks.
            norms: [B, 1] floating, L2 norms before normalizing; detached.
            labels: [B] int64 in [0, num_classes).
            step: update that the batch belongs to; with the seed it decides the classes drawn.
        Raises:
            ValueError, TypeError: as a MarginHead does.
        """
        self.margin.check(embeddings, norms, labels, self.weight.shape[1])
        dtype = torch.promote_types(torch.promote_types(embeddings.dtype, self.weight.dtype), torch.float32)
        norms = norms.detach().to(dtype)
        if self.training:
            self.margin.follow(norms)
        # Without this, autocast would run the product in half precision: too coarse for acos near 1.
        with torch.autocast(embeddings.device.type, enabled=False):
            everyone = gather_with_gradient(embeddings.to(dtype), gradient_scale=self.num_ranks)
            norms, labels = gather(norms), gather(labels)
            weight, targets, lost = self._participants(labels, step)
            logits = Logits(
                lambda cosine: self.margin.add_margin(cosine, norms).masked_fill(lost[:, None], torch.nan),
                self.margin.s,
                1 - self.margin.eps,
            )
            unit = functional.normalize(weight.to(dtype), dim=1)
            loss, correct = split_cross_entropy(everyone, unit, targets, logits)
        return HeadLoss(loss.mean(), correct.float().mean())

    def loss(self, features: Embedded, labels: Tensor, step: int) -> HeadLoss:
        """Return `forward` of what a net returns."""
        return self(features.embedding, features.norm, labels, step)

    def class_weights(self) -> Tensor:
        """Return the weights of all ranks, [embedding_size, num_classes]; all ranks must call it together."""
        whole = self.gather_classes(self.weight, everywhere=True)
        assert whole is not None
        return whole.T.to(self.weight.device)

    def start_from(self, norms: Tensor) -> str:
        """Let the margin take the norms [N, 1], the same on all ranks."""
        return self.margin.start_from(norms)

    @torch.no_grad()
    def start_from_means(self, means: Tensor) -> None:
        """Let the weights of this rank's classes begin as their means, of those of all ranks [num_classes, D].

        Raises:
            ValueError: as `Head.start_from_means` says.
        """
        own = unit_means(means, (self.num_classes, self.weight.shape[1]), type(self).__name__)[self.start : self.stop]
        own = own.to(self.weight)
        self.weight.copy_(torch.where(own.any(dim=1, keepdim=True), own, self.weight))

    def _participants(self, labels: Tensor, step: int) -> tuple[Tensor, Targets, Tensor]:
        """Return the weights that take part, the true classes among them, and the samples whose own is missing."""
        size = self.weight.shape[0]
        owned = (labels >= self.start) & (labels < self.stop)
        local = (labels - self.start).clamp(0, size - 1)
        count = num_sampled(size, self.rate, len(labels) if self.max_positives is None else self.max_positives)
        if count == size or not self.training:
            return self.weight, Targets(owned, local[:, None]), torch.zeros_like(owned)
        rows = self._sample(local, owned, count, step)
        column = torch.searchsorted(rows, local).clamp(max=count - 1)
        lost = owned & (rows[column] != local)
        return _Rows.apply(self.weight, rows), Targets(owned, column[:, None]), lost

    def _sample(self, local: Tensor, owned: Tensor, count: int, step: int) -> Tensor:
        """Return `count` different rows in ascending order, those of the batch among them."""
        generator = torch.Generator(self.weight.device).manual_seed(_key(self.seed, "step", step, self.start))
        order = torch.rand(self.weight.shape[0], device=self.weight.device, generator=generator)
        order.scatter_reduce_(0, local, 2 * owned.to(order.dtype), "amax")  # 2 is above every number drawn
        return order.topk(count, sorted=False).indices.sort().values

    # ---------------------------------------------------------------- checkpoint

    def gather_classes(self, values: Tensor, everywhere: bool = False) -> Tensor | None:
        """Return the rows of all ranks, in blocks of 64 MiB; all ranks must call it together.

        Args:
            values: [classes of this rank, D]: the weight or its momentum.
            everywhere: every rank keeps them, else rank 0 alone.
        Returns:
            [num_classes, D] on the CPU; None on a rank that keeps nothing.
        """
        values = values.detach()
        keeps = everywhere or self.rank == 0
        whole = torch.empty(self.num_classes, values.shape[1], dtype=values.dtype, device="cpu") if keeps else None
        for owner, start, stop in self._blocks(values.shape[1] * values.element_size()):
            mine = values[start - self.start : stop - self.start] if owner == self.rank else None
            block = values.new_empty(stop - start, values.shape[1]) if mine is None else mine
            if self.num_ranks > 1:
                # Not send and receive: NCCL would open a channel, with memory of its own, for every pair of ranks.
                distributed.broadcast(block, owner)
            if whole is not None:
                whole[start:stop] = block
        return whole

    def gather_dense_state(self) -> dict[str, Tensor]:
        """Return the state dict of the dense head, kernel [embedding_size, num_classes] included, on rank 0.

        Elsewhere the kernel is missing. All ranks must call it together.
        """
        state = self.margin.state_dict()
        whole = self.gather_classes(self.weight)
        return state if whole is None else state | {"kernel": whole.T}

    def own_classes(self, whole: Tensor) -> Tensor:
        """Return a copy of this rank's rows of [num_classes, D], as `gather_classes` made it on any number of ranks."""
        return whole[self.start : self.stop].clone(memory_format=torch.contiguous_format)

    def _blocks(self, row_bytes: int) -> Iterator[tuple[int, int, int]]:
        """Yield (owner, first class, the one behind the last) of every block."""
        size = max(1, _BLOCK_BYTES // row_bytes)
        for owner in range(self.num_ranks):
            start, stop = shard_bounds(self.num_classes, owner, self.num_ranks)
            yield from ((owner, first, min(first + size, stop)) for first in range(start, stop, size))


def shard_bytes(
    num_classes: int, embedding_size: int, num_ranks: int, rate: float, batch_size: int, max_positives: int
) -> int:
    """Return the memory of the largest shard in a step: weights, momentum, what of them takes part, logits.

    Args:
        batch_size: samples of all ranks together, of at most `max_positives` classes.
    """
    size = -(-num_classes // num_ranks)
    count = num_sampled(size, rate, max_positives)
    # Taking part: rows at unit length, their gradient, three more on the way back from there; a sample is a copy too.
    copies = 5 + (count < size)
    # Logits and their gradient, four bytes each, and one that says which cosines were clamped.
    return 4 * embedding_size * (2 * size + copies * count) + 9 * batch_size * count


def _take_own_classes(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Turn the dense head's entries of a state dict into those of this rank, before they are loaded."""
    assert isinstance(module, PartialFC)
    kernel = state.pop(f"{prefix}kernel", None)
    if kernel is None:
        return
    if kernel.shape[1] != module.num_classes:
        raise ValueError(f"{prefix}kernel: expected {module.num_classes} classes, one a column, got {[*kernel.shape]}")
    state[f"{prefix}weight"] = module.own_classes(kernel.T)
    for name in module.margin.state_dict():
        state[f"{prefix}margin.{name}"] = state.pop(f"{prefix}{name}")


def _initial_weights(start: int, stop: int, embedding_size: int, seed: int) -> Tensor:
    """Return random directions [stop - start, embedding_size], each class's the same on any number of ranks."""
    weight = torch.empty(stop - start, embedding_size)
    for block in range(start // _DRAWN_CLASSES, -(-stop // _DRAWN_CLASSES)):
        generator = torch.Generator("cpu").manual_seed(_key(seed, "classes", block))
        drawn = torch.empty(_DRAWN_CLASSES, embedding_size, device="cpu").uniform_(-1, 1, generator=generator)
        first = block * _DRAWN_CLASSES
        low, high = max(start, first), min(stop, first + _DRAWN_CLASSES)
        weight[low - start : high - start] = functional.normalize(drawn[low - first : high - first], dim=1)
    return weight


def _key(*parts: int | str) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")
