"""Where a number that is not finite comes up first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.guard import KeptBuffers


def first_bad_module(module: nn.Module, forward: Callable[[], object]) -> str | None:
    """Return the name of the submodule that was the first to return a number that is not finite; None if none did.

    The running statistics of the module stay as they are.

    Args:
        module: in training mode, as it was when the number came up.
        forward: calls submodules of it.
    """
    names: list[str] = []
    kept = KeptBuffers(module)
    # A compiled graph passes its hooks by.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), _told_of_bad_outputs(module, names.append):
        forward()
    kept.put_back()
    return names[0] if names else None


@contextmanager
def _told_of_bad_outputs(module: nn.Module, tell: Callable[[str], None]) -> Iterator[None]:
    def look(name: str, output: Any) -> None:
        if not all(torch.isfinite(tensor).all() for tensor in _tensors(output)):
            tell(name)

    handles = [
        child.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, child in module.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, tuple | list) else (output,)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
