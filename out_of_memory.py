"""Telling an error that means that memory ran out, and what helps."""

from __future__ import annotations

import torch

_ON_THE_HOST = ("can't allocate memory", "Cannot allocate memory")  # torch has no type of error for it


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device or of the host is exhausted."""
    of_torch = isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in _ON_THE_HOST)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or of_torch


def advice(error: BaseException, batch_size: int, step: int) -> str:
    """Return one line: where memory ran out and which options need less."""
    where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
    reason = str(error).strip().partition("\n")[0]
    return (
        f"out of {where} in step {step}: lower --batch_size ({batch_size}) and raise --accumulate_grad_batches, or use "
        f"--precision bf16, --activation_checkpointing, a smaller --arch, or --partial_fc_rate for many identities "
        f"({reason})"
    )
