"""Batches on their way to the device: pinned as a loader pins ours, copied without a host that waits, and whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.gpu.case import Case, Cases, Figures, need_cuda, no_waiting
from datasets import Image, Sample, collate
from transforms import IMAGE_SIZE, to_tensor, visibility_map

NUM_IMAGES, BATCH = 96, 32


class Drawn(Dataset[Sample[Image, int]]):
    """Random pixels with a mask, and a second view of other pixels."""

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> Sample[Image, int]:
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (2, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        mask = rng.integers(0, 2, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
        return Sample(pixels[0], index, 0, mask, index, -1, Sample(pixels[1], index, 0, None, index))


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, those of its second view too."""
    for part in batch:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, tuple):
            yield from tensors_of(part)


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch on the device; of pinned memory nobody waits for the copies."""
    parts = (
        on_device(part, device)
        if isinstance(part, tuple)
        else part.to(device, non_blocking=True)
        if isinstance(part, Tensor)
        else part
        for part in batch
    )
    return type(batch)(*parts)


def check_pinned(device: torch.device) -> Figures:
    """What arrives from pinned batches must be what was drawn, while the loader fills the next ones."""
    on_gpu = device.type == "cuda"
    loader = DataLoader(Drawn(), batch_size=BATCH, collate_fn=collate, pin_memory=on_gpu)
    arrived = []
    for batch in loader:
        assert isinstance(batch, Sample), f"pinning made a {type(batch).__name__} of a Sample"
        assert all(tensor.is_pinned() == on_gpu for tensor in tensors_of(batch)), "not pinned"
        arrived.append(on_device(batch, device))
    drawn = Drawn()
    for number, batch in enumerate(arrived):
        wanted = collate([drawn[index] for index in range(number * BATCH, (number + 1) * BATCH)])
        for found, want in zip(tensors_of(batch), tensors_of(wanted), strict=True):
            assert torch.equal(found.cpu(), want), f"batch {number} arrived changed"
    return {"batches": len(arrived)}


def check_no_wait(device: torch.device) -> Figures:
    """From a pinned batch to floats and the mask of a map nothing may make the host wait."""
    need_cuda(device)
    batch = next(iter(DataLoader(Drawn(), batch_size=BATCH, collate_fn=collate, pin_memory=True)))

    def prepare() -> None:
        there = on_device(batch, device)
        to_tensor(there.image)
        visibility_map(there.visibility, 7, 7)

    prepare()  # builds memory
    with no_waiting():
        prepare()
    return {}


def check_floats(device: torch.device) -> Figures:
    """The device's floats of all pixel values are those of the CPU, to the bit."""
    values = torch.arange(256, dtype=torch.uint8).repeat(3 * 64).reshape(4, 64, 64, 3)
    assert torch.equal(to_tensor(values.to(device)).cpu(), to_tensor(values)), "other floats"
    return {}


def cases(on_gpu: bool) -> Cases:
    """Return the checks."""
    checks: dict[str, Callable[[torch.device], Figures]] = {
        "pinned batches arrive whole": check_pinned,
        "pinned batches: no wait for the device": check_no_wait,
        "floats of pixels": check_floats,
    }
    return {name: Case(check) for name, check in checks.items()}
