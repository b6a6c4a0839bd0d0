"""The best matches of `qaconv.correlation` on CUDA: one fused kernel forward, one per side backward.

A program correlates some probe maps with some gallery maps on the tensor cores, takes both maxima in registers and
writes them alone. Operands are float16 or bfloat16, or float32 (exact, or rounded to TF32 if the caller allows it);
sums, maxima and gradients are float32. The backward pass makes of a pair's gradients a matrix of near by far cells and
multiplies it with the far features: as many operations as the forward pass for each side, without atomics or sorting.
Repeated on one device both give the same bits.

Legend of the shape suffixes: L groups, P probe maps, G gallery maps, S probe cells, R gallery cells, C channels; a
gradient has A maps whose gradient it is, K cells each, and B maps on the other side, J cells each.
"""

# ruff: noqa: N806  (shape suffixes are capitals)

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from qaconv.blocks import Maps

MAX_CELLS = 1024  # of either map: a gallery map is one tile wide
_OPERANDS = (torch.float16, torch.bfloat16, torch.float32)
_STEP_BYTES = 2**16  # of operands; a multiprocessor's shared memory holds three steps, or two
SHARED_BYTES = 140 * 2**10  # of shared memory that a program may take: A100, H100 and later have it, GeForce has not
_MOST_MAPS = 8  # of one side in a tile; the kernel's code grows with them
# The largest gradient is scaled to this before it is rounded to float16, whose smallest normal number is 2^-14.
_LARGEST_EXPONENT = 10
_LEAST_EXPONENT = -100  # below, the scale itself would leave float32


class Tiling(NamedTuple):
    """What one program handles, and on how much of a multiprocessor. Maps, rows and steps are powers of two."""

    near_maps: int  # maps whose cells are rows, `rows` each
    rows: int  # at least 16; near_maps is 1 if a map has more cells, and they go by in pieces
    far_maps: int  # forward: maps whose cells are columns, back to back; backward: one at a time
    columns: int  # forward: >= far_maps * cells; backward: far cells per step
    channels: int  # forward: channels per step; backward: channels whose gradient one program sums
    warps: int
    stages: int  # steps whose loads are under way
    registers: int | None = None  # of a thread, at most
    band: int = 8  # tiles of rows between which the far maps stay in the L2 cache


class Direction(NamedTuple):
    """The gradients that came back for one direction's best matches, and where these are."""

    grad: Tensor  # [L, A, K, B] float32
    cell: Tensor  # [L, A, K, B] uint8 or int16


def triton_available() -> bool:
    """Return whether Triton is installed and can build; without it the blocked form runs on every device."""
    return find_spec("triton") is not None and builds_extensions()


@cache
def fits(device: torch.device) -> bool:
    """Return whether a program of the kernels has room on a CUDA device; on others the blocked form runs."""
    properties = torch.cuda.get_device_properties(device)
    # Builds for AMD do not say how much it is; it is less.
    return getattr(properties, "shared_memory_per_block_optin", 0) >= SHARED_BYTES


@cache
def builds_extensions() -> bool:
    """Return whether there are a C compiler and Python's headers: Triton builds with them what launches a kernel.

    Images that are made to run programs alone often lack one of them.
    """
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's, as Triton has it
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    has_headers = Path(sysconfig.get_paths(scheme=scheme)["include"], "Python.h").is_file()
    return has_headers and any(map(shutil.which, compilers))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _near_maps(near: Tensor, rows: int, most_rows: int) -> int:
    """Return how many maps share a tile's rows: one that is larger than the rows has the tile for itself."""
    return min(most_rows // rows, _MOST_MAPS, _power_of_two(near.shape[1])) if near.shape[2] <= rows else 1


def forward_tiling(probe: Tensor, gallery: Tensor, allow_tf32: bool = False) -> Tiling:
    """Return the tiling of `triton_best_matches`: 128 x 128 at 7 x 7, which lets two programs share a multiprocessor.

    Exact float32 has no tensor cores and gets the smaller tiles that its registers allow.
    """
    exact = probe.dtype == torch.float32 and not allow_tf32
    size, num_cells = probe.element_size(), gallery.shape[2]
    far_maps = 1 if exact else max(1, min(128 // num_cells, _MOST_MAPS, gallery.shape[1]))
    columns = max(16, _power_of_two(far_maps * num_cells))
    rows = min(64, max(16, _power_of_two(probe.shape[2])), 2**15 // columns)
    near_maps = 1 if exact else _near_maps(probe, rows, 128 if columns <= 128 else rows)
    channels = min(128 // size, _STEP_BYTES // (size * (near_maps * rows + columns)), _power_of_two(probe.shape[3]))
    channels = max(16, _power_of_two(channels + 1) // 2)
    warps = 4 if near_maps * columns <= 64 else 8
    # At 128 x 128 and 128 registers a multiprocessor holds two programs: one multiplies while the other takes maxima.
    registers = 128 if near_maps * rows * columns == 128 * 128 else None
    stages = 3 if 3 * size * (near_maps * rows + columns) * channels <= SHARED_BYTES else 2
    return Tiling(near_maps, rows, far_maps, columns, channels, warps, stages, registers)


def backward_tiling(near: Tensor, far: Tensor) -> Tiling:
    """Return the tiling of `triton_gradient`: the channels of one map as wide as registers allow, read once."""
    rows = min(64, max(16, _power_of_two(near.shape[2])))
    is_half = near.element_size() == 2
    far_cells = min(64 if is_half else 16, max(16, _power_of_two(far.shape[2])))
    channels = min(512 if is_half else 128, max(16, _power_of_two(near.shape[3])))
    return Tiling(_near_maps(near, rows, 64), rows, 1, far_cells, channels, warps=8, stages=2)


def _check(probe: Tensor, gallery: Tensor, where: str) -> None:
    if probe.dtype not in _OPERANDS or gallery.dtype != probe.dtype:
        raise TypeError(
            f"{where}: features must be float16, bfloat16 or float32 on both sides, got {probe.dtype} and "
            f"{gallery.dtype}; the blocked form matches float64."
        )
    if max(probe.shape[2], gallery.shape[2]) > MAX_CELLS:
        raise ValueError(
            f"{where}: maps must have at most {MAX_CELLS} cells, got {probe.shape[2]} and {gallery.shape[2]}; the "
            "blocked form has no limit."
        )


def _bytes_of(hidden: Tensor | None, features: Tensor) -> Tensor:
    """Return the mask as bytes, or any tensor where there is none: the kernel then reads no mask."""
    return features if hidden is None else hidden.view(torch.uint8)


def _precision(features: Tensor, allow_tf32: bool) -> str:
    return "tf32" if allow_tf32 and features.dtype == torch.float32 else "ieee"


def _empty_direction(looking: Tensor, looked_at: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*looking.shape[:3], looked_at.shape[1])
    index_dtype = torch.uint8 if looked_at.shape[2] <= 256 else torch.int16
    return looking.new_empty(shape, dtype=torch.float32), looking.new_empty(shape, dtype=index_dtype)


def triton_best_matches(
    probe: Tensor,
    probe_hidden: Tensor | None,
    gallery: Tensor | None,
    gallery_hidden: Tensor | None,
    allow_tf32: bool = False,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, for every cell and every map of the other side, the largest dot product and the first cell to reach it.

    Args:
        probe: [L, P, S, C] contiguous on CUDA, float16, bfloat16 or float32; normalize in float32 before rounding.
        probe_hidden: [L, P, S] bool contiguous, or None on both sides.
        gallery: [L, G, R, C], likewise; None: the probe set against itself, of which half the pairs are computed.
        gallery_hidden: [L, G, R], likewise.
        allow_tf32: round float32 features to TF32 (10 bits of mantissa) for the tensor cores; off, their products are
            exact float32 without tensor cores.
        tiling: another tiling than `forward_tiling`'s; the results do not depend on it beyond rounding.
    Returns:
        The fields of `qaconv.correlation.Maxima`, values float32 whatever the features: a cell without a match has
        value 0 and index 0. Against itself the second direction is the same two tensors as the first.
    Raises:
        TypeError: for other dtypes. ValueError: for maps of more than MAX_CELLS cells.
    """
    is_self = gallery is None
    if gallery is None:
        gallery, gallery_hidden = probe, probe_hidden
    _check(probe, gallery, "triton_best_matches")
    of_probe = _empty_direction(probe, gallery)
    of_gallery = of_probe if is_self else _empty_direction(gallery, probe)
    if of_probe[0].numel() > 0:
        _launch_forward(
            Maps(probe, probe_hidden), Maps(gallery, gallery_hidden), of_probe, of_gallery, allow_tf32, tiling
        )
    return *of_probe, *of_gallery


def _launch_forward(
    probe: Maps,
    gallery: Maps,
    of_probe: tuple[Tensor, Tensor],
    of_gallery: tuple[Tensor, Tensor],
    allow_tf32: bool,
    tiling: Tiling | None,
) -> None:
    from qaconv.triton_kernels import best_matches_kernel  # here: it needs Triton

    num_groups, num_probe, S, C = probe.features.shape
    num_gallery, R = gallery.features.shape[1:3]
    tiling = forward_tiling(probe.features, gallery.features, allow_tf32) if tiling is None else tiling
    num_tiles = num_groups * -(-num_probe // tiling.near_maps) * -(-num_gallery // tiling.far_maps)
    with torch.cuda.device_of(probe.features):  # Triton launches on the current device
        best_matches_kernel[(num_tiles,)](
            (probe.features, _bytes_of(probe.hidden, probe.features)),
            (gallery.features, _bytes_of(gallery.hidden, gallery.features)),
            of_probe,
            of_gallery,
            num_probe,
            num_gallery,
            S=S,
            R=R,
            C=C,
            PROBES=tiling.near_maps,
            ROWS=tiling.rows,
            GALLERIES=tiling.far_maps,
            COLUMNS=tiling.columns,
            CHANNELS=tiling.channels,
            BAND=tiling.band,
            PRECISION=_precision(probe.features, allow_tf32),
            HAS_HIDDEN=probe.hidden is not None and gallery.hidden is not None,
            IS_SELF=of_gallery is of_probe,
            num_warps=tiling.warps,
            num_stages=tiling.stages,
            maxnreg=tiling.registers,
        )


def _scale(*directions: Direction | None) -> Tensor:
    """Return, on the device, the power of two that brings the largest gradient to about 2^_LARGEST_EXPONENT."""
    largest = torch.stack([direction.grad.abs().amax() for direction in directions if direction is not None]).amax()
    exponent = torch.frexp(largest).exponent.clamp_min(_LEAST_EXPONENT)
    return torch.ldexp(torch.ones_like(largest), _LARGEST_EXPONENT - exponent)


def triton_gradient(
    near: Maps,
    far: Maps,
    looking: Direction | None,
    looked_at: Direction | None,
    allow_tf32: bool = False,
    tiling: Tiling | None = None,
) -> Tensor:
    """Return the gradient [L, A, K, C], float32, of one side's features; call it once per side that wants one.

    The gradients are rounded to the features' dtype after scaling by a power of two (to TF32 if that is allowed), their
    products with the features are summed in float32, map by map in one order. What comes back for a cell without a
    match is ignored.

    Args:
        near: the side, features [L, A, K, C] and hidden as for `triton_best_matches`.
        far: the other side, features [L, B, J, C]; against itself the same as `near`.
        looking: gradients [L, A, K, B] float32 of the near cells' best matches, of any strides; None: none came back.
        looked_at: gradients [L, B, J, A] float32 of the far cells' best matches, None likewise; against itself the same
            as `looking`.
    Raises:
        TypeError, ValueError: as `triton_best_matches`.
    """
    _check(near.features, far.features, "triton_gradient")
    grad = torch.zeros_like(near.features, dtype=torch.float32)
    if (looking is None and looked_at is None) or 0 in (near.features.numel(), far.features.numel()):
        return grad
    _launch_backward(near, far._replace(grad=None), grad, (looking, looked_at), allow_tf32, tiling)
    return grad


def _launch_backward(
    near: Maps,
    far: Maps,
    grad: Tensor,
    directions: tuple[Direction | None, Direction | None],
    allow_tf32: bool,
    tiling: Tiling | None,
) -> None:
    from qaconv.triton_kernels import gradient_kernel  # here: it needs Triton

    num_groups, num_near, K, C = near.features.shape
    num_far, J = far.features.shape[1:3]
    tiling = backward_tiling(near.features, far.features) if tiling is None else tiling
    num_row_tiles = -(-num_near // tiling.near_maps) * -(-K // tiling.rows)
    # A direction without gradients is not read: any tensors stand in for it.
    backs = [(grad, grad) if one is None else (one.grad.contiguous(), one.cell) for one in directions]
    with torch.cuda.device_of(grad):  # Triton launches on the current device
        gradient_kernel[(num_groups * num_row_tiles * -(-C // tiling.channels),)](
            grad,
            _bytes_of(near.hidden, near.features),
            (far.features, _bytes_of(far.hidden, far.features)),
            *backs,
            _scale(*directions),
            num_near,
            num_far,
            K=K,
            J=J,
            C=C,
            MAPS=tiling.near_maps,
            ROWS=tiling.rows,
            FAR_CELLS=tiling.columns,
            CHANNELS=tiling.channels,
            BAND=tiling.band,
            PRECISION=_precision(near.features, allow_tf32),
            STAGES=tiling.stages,
            HAS_NEAR=directions[0] is not None,
            HAS_FAR=directions[1] is not None,
            HAS_HIDDEN=near.hidden is not None and far.hidden is not None,
            num_warps=tiling.warps,
            num_stages=tiling.stages,
            maxnreg=tiling.registers,
        )
