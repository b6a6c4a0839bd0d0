"""Ranks that agree to stop, at the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ops import is_distributed


class StopAgreement:
    """Tell every rank which signal one of them received, at the same call on each; 0 is none.

    The numbers travel between the processes' memories by gloo, beside whatever the devices do, so that nobody waits for
    a device. A rank whose peer has died gets an error, also where the devices' own communication would wait for it.

    Every rank must make the same calls in the same order.
    """

    def __init__(self) -> None:
        several = is_distributed() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None
        self._sent: tuple[dist.Work, Tensor] | None = None

    def poll(self, number: int) -> int:
        """Return the largest number that a rank gave at the call before, which costs no waiting; pass on this rank's.

        With a single rank: its own, of this call.
        """
        if self._group is None:
            return number
        sent, self._sent = self._sent, self._send(number)
        return 0 if sent is None else self._receive(sent)

    def ask(self, number: int) -> int:
        """Return the largest number that a rank gives now, having waited for all of them."""
        return number if self._group is None else self._receive(self._send(number))

    def least(self, number: int) -> int:
        """Return the smallest number of all ranks."""
        if self._group is None:
            return number
        smallest = torch.tensor(number)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, self._group)
        return int(smallest)

    def _send(self, number: int) -> tuple[dist.Work, Tensor]:
        largest = torch.tensor(number)
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, self._group, async_op=True)
        assert work is not None
        return work, largest

    @staticmethod
    def _receive(sent: tuple[dist.Work, Tensor]) -> int:
        work, largest = sent
        work.wait()
        return int(largest)
