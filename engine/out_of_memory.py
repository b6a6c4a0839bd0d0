"""Memory that a run cannot have: refused before anything is built, or told when it has run out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from system.memory import gigabytes, group_limits

IMAGE_BYTES = 3 * 112 * 112 * 4  # of a batch, as the model takes it
# Where torch has no type of error: on the host, and on a GPU beside its own allocator.
_IN_WORDS = (
    "can't allocate memory", "Cannot allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device or of the host is exhausted."""
    in_words = isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in _IN_WORDS)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or in_words


def advice(error: BaseException, batch_size: int, step: int) -> str:
    """Return one line: where memory ran out and which options need less."""
    where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
    reason = str(error).strip().partition("\n")[0]
    return (
        f"out of {where} in step {step}: lower --batch_size ({batch_size}) and raise --accumulate_grad_batches, or use "
        f"--precision bf16, --activation_checkpointing, a smaller --arch, or --partial_fc_rate for many identities "
        f"({reason})"
    )


def refuse_beyond_memory(demands: Mapping[str, float]) -> None:
    """Refuse what cannot fit into the memory of this machine, whatever else is in it.

    Args:
        demands: bytes that are needed at least, by the flags that decide on them.
    Raises:
        ValueError: one line with the flags that need most.
    """
    available, needed = available_memory(), sum(demands.values())
    if available is None or needed <= available:
        return
    largest = max(demands, key=lambda flags: demands[flags])
    raise ValueError(
        f"{largest}: needs at least {gigabytes(demands[largest])} of memory, of {gigabytes(needed)} for the whole"
        f" run; {gigabytes(available)} are available here"
    )


def available_memory() -> float | None:
    """Return the bytes that this process may still get, swap included, within its control groups; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        limits = [1024.0 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))]
    except (OSError, ValueError, LookupError):
        return None  # another system
    return min([*limits, *group_limits()])
