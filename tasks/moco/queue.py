"""The queue of keys that serve as negatives, with the image and the cluster of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The last `size` keys, as a ring: key i of a batch goes to slot (pointer + i) mod size.

    A batch may be of any size: one that does not divide the queue wraps around, of one that exceeds it the last `size`
    keys stay. Slots start empty and are marked so; nothing random stands in for a key. Ranks that enqueue the same
    gathered keys have the same queue: nothing is broadcast.

    Args:
        size: K, slots.
        dim: length of a key.
    Attributes:
        keys: [K, dim] float32, unit length where valid, else 0.
        images: [K] int64, which image a key was made of; -1 where there is none.
        clusters: [K] int64, its cluster; -1 = none.
        valid: [K] bool, whether a slot was ever written.
        pointer: [] int64, the slot that the next key goes to.
    Raises:
        ValueError: if a size is below 1.
    """

    keys: Tensor
    images: Tensor
    clusters: Tensor
    valid: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"KeyQueue: size and dim must be 1 or more, got {size} and {dim}")
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("images", torch.full((size,), -1))
        self.register_buffer("clusters", torch.full((size,), -1))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @property
    def size(self) -> int:
        """K, how many keys there is room for."""
        return len(self.keys)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, images: Tensor, clusters: Tensor) -> None:
        """Take in a batch of all ranks; one with a key that is not finite is passed over as a whole.

        The host waits for nothing. The loss of the step must have run backwards: its graph reads the queue.

        Args:
            keys: [B, dim] floating, unit length, of all ranks in their order.
            images: [B] int64.
            clusters: [B] int64, -1 = none.
        Raises:
            ValueError: if shapes disagree.
        """
        count = len(keys)
        if keys.shape != (count, self.keys.shape[1]) or images.shape != (count,) or clusters.shape != (count,):
            raise ValueError(
                f"KeyQueue.enqueue: expected keys [B, {self.keys.shape[1]}], images [B] and clusters [B], got "
                f"{[*keys.shape]}, {[*images.shape]} and {[*clusters.shape]}"
            )
        if not count:
            return
        sound = keys.isfinite().all()
        slots = ((self.pointer + torch.arange(count, device=keys.device)) % self.size)[-self.size :]
        for stored, given in (
            (self.keys, keys), (self.images, images), (self.clusters, clusters), (self.valid, torch.ones_like(images)),
        ):  # fmt: skip
            stored[slots] = torch.where(sound, given[-self.size :].to(stored.dtype), stored[slots])
        self.pointer.copy_((self.pointer + count * sound) % self.size)

    def relabel(self, clusters: Tensor) -> None:
        """Give the keys the clusters of their images by a new clustering; the keys stay.

        Args:
            clusters: [N] int64, of every image of the data, -1 = none.
        """
        known = self.images >= 0
        self.clusters.copy_(torch.where(known, clusters.to(self.images.device)[self.images.clamp_min(0)], -1))
