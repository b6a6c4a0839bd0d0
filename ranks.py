"""What ranks tell each other beyond tensors."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_distributed() -> bool:
    """Return whether this process is one of several ranks, in a process group."""
    return dist.is_available() and dist.is_initialized()


def gather_objects(mine: T) -> list[T]:
    """Return what every rank brings, by rank; all ranks must call it together.

    Args:
        mine: anything that can be pickled.
    """
    if not is_distributed():
        return [mine]
    by_rank: list[T] = [mine] * dist.get_world_size()
    dist.all_gather_object(by_rank, mine)
    return by_rank
