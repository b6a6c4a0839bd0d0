"""Embeddings that are read by rows: from memory or a file, as float32 on the device that multiplies them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHECKED_ROWS = 2**15
# float16 rounds a unit vector's length by less than this.
_LENGTH_TOLERANCE = 5e-3


class Vectors:
    """Unit vectors [N, D], float16 or float32.

    Args:
        embeddings: of numpy (a memory map stays on disk) or torch. Checked: finite and of unit length.
        device: what multiplies them; for one that is not the CPU they are copied there whole.
    Raises:
        TypeError: if they are neither float16 nor float32.
        ValueError: if they are no matrix, not finite or not of unit length; says which one.
    """

    def __init__(self, embeddings: NDArray[np.floating] | Tensor, device: torch.device | None = None) -> None:
        if isinstance(embeddings, Tensor):
            device = device or embeddings.device
            embeddings = embeddings.detach()
        self.device = device or torch.device("cpu")
        is_ours = isinstance(embeddings, Tensor) and embeddings.device == self.device and self.device.type != "cpu"
        array = None if is_ours else np.asarray(embeddings.cpu() if isinstance(embeddings, Tensor) else embeddings)
        shape, dtype = tuple(embeddings.shape), str(embeddings.dtype).removeprefix("torch.")
        if len(shape) != 2 or not shape[1]:
            raise ValueError(f"embeddings must be [N, D], got {list(shape)}")
        if dtype not in ("float16", "float32"):
            raise TypeError(f"embeddings must be float16 or float32, got {dtype}")
        self.num, self.dim = shape
        self._array = array if self.device.type == "cpu" else None
        self._tensor = embeddings if is_ours else None if array is None or self._array is not None else _copy(array)
        if isinstance(self._tensor, Tensor):
            self._tensor = self._tensor.to(self.device)
        self._check()

    def rows(self, index: NDArray[np.integer] | slice) -> Tensor:
        """Return vectors as float32 [n, D] on the device."""
        if isinstance(self._tensor, Tensor):
            where = index if isinstance(index, slice) else torch.from_numpy(np.ascontiguousarray(index)).to(self.device)
            return self._tensor[where].float()
        assert self._array is not None
        return _copy(self._array[index]).float()

    def _check(self) -> None:
        for start in range(0, self.num, _CHECKED_ROWS):
            length = self.rows(slice(start, start + _CHECKED_ROWS)).norm(dim=1)
            wrong = ~((length - 1).abs() <= _LENGTH_TOLERANCE)  # NaN is wrong too
            if wrong.any():
                first = int(wrong.int().argmax())
                raise ValueError(
                    f"embeddings must be finite and of unit length; number {start + first} has length"
                    f" {float(length[first]):g}"
                )


def _copy(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor of its own: what is mapped from a file cannot be written, which torch warns of."""
    return torch.from_numpy(np.array(array, order="C"))
