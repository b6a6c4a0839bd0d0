"""Means of what training measures, over steps and ranks, kept on the device until a row of metrics.csv is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ops import is_distributed

Sums = dict[str, Tensor]


class RunningMeans:
    """Means of scalars by name, in float64. All ranks must add the same names."""

    def __init__(self) -> None:
        self._sums: Sums = {}  # [2] each: the sum of the values, and their number

    def add(self, values: Mapping[str, Tensor], accepted: Tensor) -> None:
        """Take scalars in, unless `accepted`, a bool scalar on the device, is False; the host waits for nothing."""
        for name, value in values.items():
            pair = torch.stack([value.detach().double(), torch.ones_like(value, dtype=torch.double)])
            pair = torch.where(accepted, pair, 0.0)
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def take(self) -> dict[str, float]:
        """Return the means over all ranks of what was accepted since the last call; all ranks must call it together."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        if is_distributed():
            dist.all_reduce(sums)
        self._sums = {}
        return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}

    def state_dict(self) -> Sums:
        """Return what was added on this rank, [2] float64 by name."""
        return {name: pair.cpu() for name, pair in self._sums.items()}

    def load_state_dicts(
        self, shares: Sequence[Mapping[str, Tensor]], names: Sequence[str], device: torch.device
    ) -> None:
        """Go on with what one or several ranks had added, or none, of these names."""
        none = torch.zeros(2, dtype=torch.double)
        self._sums = {name: torch.stack([none, *(s[name] for s in shares)]).sum(0).to(device) for name in names}
