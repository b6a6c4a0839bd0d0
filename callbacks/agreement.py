"""Ranks that agree to stop, at the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class StopAgreement:
    """Tell every rank that one of them wants to stop, at the same call on each.

    Flags travel between the processes' memories by gloo, beside whatever the devices do, so that nobody waits for a
    device. A rank whose peer has died gets an error, also where the devices' own communication would wait for it.

    Every rank must make the same calls in the same order.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None
        self._sent: tuple[dist.Work, Tensor] | None = None

    def poll(self, wants: bool) -> bool:
        """Return whether any rank wanted to stop at the call before, which costs no waiting; pass on what this wants.

        With a single rank: what it wants now.
        """
        if self._group is None:
            return wants
        sent, self._sent = self._sent, self._send(wants)
        return sent is not None and self._receive(sent)

    def ask(self, wants: bool) -> bool:
        """Return whether any rank wants to stop now, having waited for all of them."""
        return wants if self._group is None else self._receive(self._send(wants))

    def least(self, number: int) -> int:
        """Return the smallest number of all ranks."""
        if self._group is None:
            return number
        smallest = torch.tensor(number)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, self._group)
        return int(smallest)

    def _send(self, wants: bool) -> tuple[dist.Work, Tensor]:
        flag = torch.tensor(int(wants))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, self._group, async_op=True)
        assert work is not None
        return work, flag

    @staticmethod
    def _receive(sent: tuple[dist.Work, Tensor]) -> bool:
        work, flag = sent
        work.wait()
        return bool(flag)
