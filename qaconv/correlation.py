"""Best matches between the cells of feature maps, with nothing of size [P, G, S, R] beyond one bounded block.

Legend of the shape suffixes: L groups (matched independently of each other), P probe maps, G gallery maps, S probe
cells, R gallery cells, C channels. A direction has A maps that look, K cells, and B maps that are looked at.
Groups let one operator serve a score matrix (L = 1), a list of pairs (P = G = 1) and a short list per probe (P = 1).

Importing this module registers the operators maskwise::best_matches and maskwise::best_matches_backward with
torch.library, through which torch.compile and torch.export see forward and backward pass as one node each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qaconv import triton_matches
from qaconv.blocks import Maps
from qaconv.gradients import add_gradients
from qaconv.maxima import Direction, empty_direction, find_maxima


class Maxima(NamedTuple):
    """The best match of every cell, in both directions.

    A cell without a match (it is hidden, or looks at a map with no visible cell) has value 0 and index 0, and the
    gradient that comes back for it is ignored. When a set is matched against itself both directions are equal, and
    are the same tensors. Values are float32, or float64 for float64 maps; indices that nobody asked for are None.
    """

    probe: Tensor  # [L, P, S, G] max over R
    probe_cell: Tensor | None  # [L, P, S, G] the first R that reaches it; uint8 up to 256 cells, else int16
    gallery: Tensor  # [L, G, R, P] max over S
    gallery_cell: Tensor | None  # [L, G, R, P] the first S that reaches it


def _suits_triton(probe: Tensor, gallery: Tensor) -> bool:
    num_cells = max(probe.shape[2], gallery.shape[2])
    is_suitable = probe.is_cuda and probe.dtype != torch.float64 and num_cells <= triton_matches.MAX_CELLS
    return is_suitable and triton_matches.triton_available() and triton_matches.fits(probe.device)


def _allows_tf32() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def _operand(side: Maps, half: bool) -> Maps:
    features = side.features.half() if half else side.features
    return Maps(features.contiguous(), side.hidden)


def _fused_maxima(sides: list[Maps], half: bool) -> list[Direction]:
    probe, *others = [_operand(side, half) for side in sides]
    gallery = others[0] if others else Maps(None, None)  # type: ignore[arg-type]  # the set against itself
    found = triton_matches.triton_best_matches(*probe[:2], *gallery[:2], allow_tf32=_allows_tf32())
    return [Direction(*found[:2]), Direction(*found[2:])][: len(sides)]


def _fused_gradients(
    sides: list[Maps], grads: list[Tensor | None], cells: list[Tensor], wanted: list[bool], half: bool
) -> list[Tensor]:
    operands = [_operand(side, half) for side in sides]
    directions = [
        None if grad is None else triton_matches.Direction(grad, cell) for grad, cell in zip(grads, cells, strict=True)
    ]
    ordered = zip(operands, reversed(operands), directions, reversed(directions), wanted, strict=True)
    return [
        triton_matches.triton_gradient(near, far, looking, looked_at, allow_tf32=_allows_tf32())
        for near, far, looking, looked_at, is_wanted in ordered
        if is_wanted
    ]


def _per_side(hidden: list[Tensor], num_sides: int) -> Sequence[Tensor | None]:
    return hidden or [None] * num_sides


@torch.library.custom_op("maskwise::best_matches", mutates_args=())
def _best_matches(
    features: list[Tensor], hidden: list[Tensor], with_cells: bool, block_bytes: int | None, half: bool
) -> list[Tensor]:
    """Return the maxima of every side, then the cells of every side.

    One side is a set against itself. Lists have an entry per side; that of the hidden cells is empty if none is.
    """
    sides = [Maps(*side) for side in zip(features, _per_side(hidden, len(features)), strict=True)]
    if _suits_triton(features[0], features[-1]):
        directions = _fused_maxima(sides, half)
    else:
        directions = list(find_maxima(sides[0], sides[-1], with_cells, block_bytes)[: len(sides)])
    cells = [direction.cell for direction in directions if with_cells and direction.cell is not None]
    return [direction.best for direction in directions] + cells


@_best_matches.register_fake
def _(
    features: list[Tensor], hidden: list[Tensor], with_cells: bool, block_bytes: int | None, half: bool
) -> list[Tensor]:
    directions = [
        empty_direction(side, other, with_cells) for side, other in zip(features, reversed(features), strict=True)
    ]
    cells = [direction.cell for direction in directions if direction.cell is not None]
    return [direction.best for direction in directions] + cells


@torch.library.custom_op("maskwise::best_matches_backward", mutates_args=())
def _best_matches_backward(
    grads: list[Tensor | None],
    cells: list[Tensor],
    features: list[Tensor],
    hidden: list[Tensor],
    wanted: list[bool],
    block_bytes: int | None,
    half: bool,
) -> list[Tensor]:
    """Return the gradients of the wanted features; every list has an entry per side."""
    if _suits_triton(features[0], features[-1]):
        plain = [Maps(*side) for side in zip(features, _per_side(hidden, len(features)), strict=True)]
        return _fused_gradients(plain, grads, cells, wanted, half)
    sides = [
        Maps(side, side_hidden, torch.zeros_like(side) if is_wanted else None)
        for side, side_hidden, is_wanted in zip(features, _per_side(hidden, len(features)), wanted, strict=True)
    ]
    for side, other, grad, cell in zip(sides, reversed(sides), grads, cells, strict=True):
        if grad is not None:
            add_gradients(side, other, grad, cell, block_bytes)
    return [side.grad for side in sides if side.grad is not None]


@_best_matches_backward.register_fake
def _(
    grads: list[Tensor | None],
    cells: list[Tensor],
    features: list[Tensor],
    hidden: list[Tensor],
    wanted: list[bool],
    block_bytes: int | None,
    half: bool,
) -> list[Tensor]:
    return [torch.zeros_like(side) for side, is_wanted in zip(features, wanted, strict=True) if is_wanted]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    features, hidden, with_cells, ctx.block_bytes, ctx.half = inputs
    assert with_cells, "best matches with a gradient need their cells"
    ctx.num_sides = len(features)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*features, *output[len(features) :], *hidden)


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[list[Tensor | None], list[None], None, None, None]:
    count, saved = ctx.num_sides, list(ctx.saved_tensors)
    features, cells, hidden = saved[:count], saved[count : 2 * count], saved[2 * count :]
    wanted = ctx.needs_input_grad[0]
    options = (list(wanted), ctx.block_bytes, ctx.half)
    found = iter(_best_matches_backward(grads[:count], cells, features, hidden, *options))
    return [next(found) if is_wanted else None for is_wanted in wanted], [None] * len(hidden), None, None, None


_best_matches.register_autograd(_backward, setup_context=_keep_for_backward)


def best_matches(
    probe: Maps, gallery: Maps, block_bytes: int | None = None, with_cells: bool = True, half: bool = False
) -> Maxima:
    """Return, for every cell and every map of the other side, the largest dot product and where it is reached.

    The numbers do not depend on `block_bytes` beyond rounding. Of cells that tie the first is taken, by the gradient
    too. Memory beyond the result: two blocks of correlations at a time, and about as much in the backward pass.

    Args:
        probe: features [L, P, S, C], float32 or float64, without a gradient also float16 or bfloat16, of which the
            products are summed in float32 and rounded once to half precision (on CUDA float32 products follow
            torch.set_float32_matmul_precision, by default without TF32); hidden [L, P, S] bool on both sides or
            on neither.
        gallery: features [L, G, R, C], likewise. The same object as `probe` means the set against itself: the
            correlations of (g, p) are those of (p, g) transposed, and half the work is saved.
        block_bytes: size of a block of correlations; None: CPU_BLOCK_BYTES or ACCELERATOR_BLOCK_BYTES by device.
        with_cells: whether to return the indices. Where a gradient is recorded they are found in any case.
        half: of float32 features the fused kernels (CUDA, with Triton) multiply float16 copies, forward and backward;
            sums, maxima and gradients stay float32. Without: float32 exactly, or TF32 where
            torch.set_float32_matmul_precision allows it.
    """
    sides = [probe] if gallery is probe else [probe, gallery]
    features = [side.features for side in sides]
    with_cells = with_cells or (torch.is_grad_enabled() and any(side.requires_grad for side in features))
    hidden = [side.hidden for side in sides if side.hidden is not None]
    found = _best_matches(features, hidden if len(hidden) == len(sides) else [], with_cells, block_bytes, half)
    cells = found[len(sides) :] if with_cells else [None]
    return Maxima(found[0], cells[0], found[len(sides) - 1], cells[-1])
