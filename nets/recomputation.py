"""Activation checkpointing: blocks keep their input only, and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .lora import Lora, quality_of


def run_recomputed(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Return blocks(x), bit for bit with its gradients, for one more forward pass and less memory.

    Each block keeps its input; the backward pass computes what else it needs from that, in the same autocast and with
    the same random numbers. Running statistics move once.

    Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """
    for block in blocks:
        x = _run_block(block, x)
    return x


def _run_block(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # Compiled code has no contexts of ours in it; it writes its buffers once, at the end of the forward pass.
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the forward pass and its repetition."""
    qualities = [(part, part.quality) for part in block.modules() if isinstance(part, Lora)]
    return nullcontext(), _repeated(block, qualities)


@contextmanager
def _repeated(block: nn.Module, qualities: Sequence[tuple[Lora, Tensor | None]]) -> Iterator[None]:
    """Let a block compute again as in its forward pass; another may have followed, of images of other quality."""
    with quality_of(qualities), _on_copies_of_buffers(block):
        yield


@contextmanager
def _on_copies_of_buffers(module: nn.Module) -> Iterator[None]:
    """Let running statistics be updated where nobody sees it."""
    buffers = [(part, name, buffer) for part in module.modules() for name, buffer in part.named_buffers(recurse=False)]
    for part, name, buffer in buffers:
        setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in buffers:
            setattr(part, name, buffer)
