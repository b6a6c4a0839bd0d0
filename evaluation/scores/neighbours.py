"""The nearest neighbours among many embeddings, without holding all their cosines at once."""

import torch
from torch import Tensor

_KEY_BYTES = 128 * 2**20  # of the sorting keys held at a time


def nearest_neighbours(
    embeddings: Tensor, count: int, block: int | None = None, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Return for every embedding the `count` others with the largest cosine, nearest first, on the embeddings' device.

    Of equal cosines the lower index comes first.

    Args:
        embeddings: [C, D] float32, finite, unit L2 norm along D (the caller's duty, not checked).
        count: in [0, C).
        block: rows whose cosines are held at a time; None = as many as fit 128 MiB of sorting keys.
        rank, world_size: with several ranks each finds every world_size-th block of rows and leaves 0 in the others, so
            that the sum over the ranks is the whole table, the same for any number of them.
    Returns:
        [C, count] int64; none is its own neighbour.
    Raises:
        ValueError: if embeddings are no matrix or not finite, or count is outside [0, C).
        TypeError: if embeddings are not float32.
    """
    _check(embeddings, count)
    num, device = len(embeddings), embeddings.device
    block = block or max(1, _KEY_BYTES // (8 * num))
    lower_first = torch.arange(num - 1, -1, -1, device=device)
    table = torch.zeros(num, count, dtype=torch.int64, device=device)
    for start in range(rank * block, num, world_size * block):
        rows = embeddings[start : start + block]
        with torch.autocast(device.type, enabled=False):
            keys = sorting_keys(rows @ embeddings.T) + lower_first
        own = torch.arange(start, start + len(rows), device=device)
        keys.scatter_(1, own[:, None], torch.iinfo(torch.int64).min)
        table[start : start + block] = keys.topk(count, dim=1).indices
    return table


def sorting_keys(values: Tensor) -> Tensor:
    """Return int64 in the order of float32 values, the lower 32 bits free: top-k alone breaks ties as it likes."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0, to which it is equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the larger a negative float's bits, the smaller the float
    return ordered.long() << 32


def _check(embeddings: Tensor, count: int) -> None:
    if embeddings.ndim != 2 or not 0 <= count < len(embeddings):
        raise ValueError(
            f"nearest_neighbours: embeddings must be [C, D] and count in [0, C), got {list(embeddings.shape)} and "
            f"{count}"
        )
    if embeddings.dtype != torch.float32:
        raise TypeError(f"nearest_neighbours: embeddings must be float32, got {embeddings.dtype}")
    broken = ~embeddings.isfinite().all(dim=1)
    if broken.any():
        raise ValueError(
            f"nearest_neighbours: {int(broken.sum())} of {len(embeddings)} embeddings are NaN or infinite, the first "
            f"is number {int(broken.int().argmax())}; the network's weights or running statistics are not finite"
        )
