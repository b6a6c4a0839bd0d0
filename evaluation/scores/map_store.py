"""Local maps held compactly, in memory or in files mapped into it, and restored a block at a time.

How unit maps x over C channels are held, and how far the restored ones are from them:

- float32: as they are.
- float16: rounded, each channel by at most 2^-11 of itself (2^-25 below 2^-14).
- int8: q = round(127 x / max|x|), the maximum over the channels of a cell; restored as q / |q|. The scale is not held,
  since a unit length gives it back. Each channel is rounded by at most max|x| / 254, a cell by e = max|x| sqrt(C) / 254
  in length, so that it turns by an angle of at most arcsin(e) and a cosine of two cells moves by at most 2 e (1 + e).
  Rounding errors are nearly independent, so a cosine moves by about max|x| / 300, whatever C is.

Visibility stays in float32: it is one channel of hundreds, and rounded it could cross the threshold of "masking".
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAP_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_LEVELS = 127


def compact_maps(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """Return unit maps [B, C, h, w] as they are held in dtype, one of MAP_DTYPES."""
    if dtype != torch.int8:
        return maps.to(dtype)
    largest = maps.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (maps.float() / largest * _LEVELS).round().to(torch.int8)


def restore_maps(held: Tensor) -> Tensor:
    """Return held maps [B, C, h, w] in float32; those of int8 get unit length again."""
    return F.normalize(held.float(), dim=1) if held.dtype == torch.int8 else held.float()


def allocate_maps(shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: Path | None) -> Tensor:
    """Return memory for maps [N, C, h, w] of dtype, the channels of a cell side by side, as matching wants them."""
    num_images, channels, height, width = shape
    return allocate((num_images, height, width, channels), dtype, device, folder).permute(0, 3, 1, 2)


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: Path | None) -> Tensor:
    """Return a tensor with any values on the device, or one in a file in folder.

    The file has no name and its space is given back when the tensor is gone, however the process ends.

    Raises:
        OSError: if the folder cannot be written or has not enough space.
    """
    if folder is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    numpy_dtype = np.dtype(str(dtype).removeprefix("torch."))
    num_bytes = int(np.prod(shape)) * numpy_dtype.itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a bus error when a page is written
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        return torch.from_numpy(np.memmap(file, numpy_dtype, "w+", shape=tuple(shape)))
