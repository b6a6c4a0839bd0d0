"""The Triton kernels of the best matches: correlation, both maxima and the gradient without memory for correlations.

Only `qaconv.triton_matches` imports this module, since only it knows that Triton is there.

Legend of the shape suffixes: L groups, P probe maps, G gallery maps, S probe cells, R gallery cells, C channels; a
gradient has A maps whose gradient it is, K cells each, and B maps on the other side. A tile has M rows (cells of the
probe side), N columns (cells of the gallery side) or J (cells of the other side, summed over).
"""

# ruff: noqa: N803, N806, PLR0913  (shape suffixes are capitals; a kernel's arguments are its tensors, sizes and tiling)

import triton
import triton.language as tl

_NUMBER_BITS = tl.constexpr(0x4B000000)  # of 2^23 as float32; a small number added to the bits is added to the value


@triton.jit
def _larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)  # a NaN must reach the loss, not lose a comparison


@triton.jit
def _smaller(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _best_along(sim: tl.tensor, inside: tl.tensor, cell: tl.tensor, axis: tl.constexpr) -> tl.tensor:
    """Return the largest value along an axis of those inside, and the first cell that reaches it, 0 if none does.

    Multiply-adds run at twice the rate of compare and select: the first cell is the least of number + 2^126 * (best -
    value), the number being 2^23 + cell, made from its bits. Values that differ by less than 2^-102 count as tied.
    """
    best = tl.reduce(tl.where(inside, sim, -float("inf")), axis, _larger)
    number = (cell + _NUMBER_BITS).to(tl.float32, bitcast=True)
    late = tl.fma(sim - tl.expand_dims(best, axis), -(2.0**126), number)
    least = tl.reduce(tl.where(inside, late, float("inf")), axis, _smaller)
    return best, tl.where(least < 2.0**24, least.to(tl.int32, bitcast=True) - _NUMBER_BITS, 0)


@triton.jit
def _store_matches(
    found: tl.tuple, at: tl.tensor, best: tl.tensor, cell: tl.tensor, seen: tl.tensor, mask: tl.tensor
) -> None:
    """Write values and cells, zeros where there is no match."""
    has_match = seen & (best != -float("inf"))
    tl.store(found[0] + at, tl.where(has_match, best, 0.0), mask=mask)
    tl.store(found[1] + at, tl.where(has_match, cell, 0), mask=mask)


@triton.jit
def _seen(hidden: tl.tensor, at: tl.tensor, mask: tl.tensor, HAS_HIDDEN: tl.constexpr) -> tl.tensor:
    if HAS_HIDDEN:
        return tl.load(hidden + at, mask=mask, other=1) == 0
    else:
        return mask


@triton.jit
def _match_rows(
    found: tl.tuple,
    sim_MN: tl.tensor,
    at_M: tl.tensor,
    seen_M: tl.tensor,
    mask_M: tl.tensor,
    first_gallery: tl.tensor,
    lowest_gallery_M: tl.tensor,
    num_gallery: tl.tensor,
    R: tl.constexpr,
    GALLERIES: tl.constexpr,
) -> None:
    """Write each row's best match in each gallery map of the tile, from its lowest one on."""
    column_N = tl.arange(0, sim_MN.shape[1])
    for i in tl.static_range(GALLERIES):
        in_map_N = (column_N >= i * R) & (column_N < (i + 1) * R)
        best, cell = _best_along(sim_MN, in_map_N[None, :], column_N[None, :] - i * R, 1)
        map_of_tile = first_gallery + i
        mask = mask_M & (map_of_tile < num_gallery) & (map_of_tile >= lowest_gallery_M)
        _store_matches(found, at_M * num_gallery + map_of_tile, best, cell, seen_M, mask)


@triton.jit
def _match_columns(
    found: tl.tuple,
    best_PN: tl.tensor,
    cell_PN: tl.tensor,
    at_N: tl.tensor,
    seen_N: tl.tensor,
    mask_N: tl.tensor,
    first_probe: tl.tensor,
    end_probe_N: tl.tensor,
    num_probe: tl.tensor,
) -> None:
    """Write each column's best match in each probe map of the tile, up to its end."""
    map_P = first_probe + tl.arange(0, best_PN.shape[0])
    mask = mask_N[None, :] & (map_P[:, None] < end_probe_N)
    _store_matches(found, at_N[None, :] * num_probe + map_P[:, None], best_PN, cell_PN, seen_N[None, :], mask)


@triton.jit
def _tile_position(num_row_tiles: tl.tensor, num_column_tiles: tl.tensor, BAND: tl.constexpr) -> tl.tensor:
    """Return this program's group, row tile and column tile, by bands of row tiles that share columns in L2."""
    program = tl.program_id(0)
    num_tiles = num_row_tiles * num_column_tiles
    group, tile = program // num_tiles, program % num_tiles
    first_row = tile // (BAND * num_column_tiles) * BAND
    height = tl.minimum(num_row_tiles - first_row, BAND)
    inside = tile % (BAND * num_column_tiles)
    return group.to(tl.int64), first_row + inside % height, inside // height


@triton.jit
def _correlate(
    rows: tl.tensor,
    columns: tl.tensor,
    column_mask: tl.tensor,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """Return the float32 products [M, N] of feature rows, given by the addresses of their first channel."""
    sim_MN = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        a_MC = tl.load(rows[:, None] + channel[None, :], (channel < C)[None, :], other=0.0)
        b_CN = tl.load(columns[None, :] + channel[:, None], column_mask[None, :] & (channel < C)[:, None], other=0.0)
        sim_MN = tl.dot(a_MC, b_CN, sim_MN, input_precision=PRECISION)
    return sim_MN


@triton.jit
def best_matches_kernel(
    probe: tl.tuple,
    gallery: tl.tuple,
    found_LPSG: tl.tuple,
    found_LGRP: tl.tuple,
    num_probe: tl.tensor,
    num_gallery: tl.tensor,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    PROBES: tl.constexpr,
    ROWS: tl.constexpr,
    GALLERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    IS_SELF: tl.constexpr,
) -> None:
    """Write both maxima of the pairs of PROBES x GALLERIES maps.

    Sides are (features, hidden), found are (values, cells).
    Rows: each probe map takes ROWS rows; a map with more cells goes by in pieces (PROBES is then 1), the maxima over
    its cells kept in registers. Columns: the gallery maps' cells back to back, all of each map.
    Against itself only the pairs with gallery >= probe are written, those off the diagonal in both directions.
    """
    group, row_tile, column_tile = _tile_position(tl.cdiv(num_probe, PROBES), tl.cdiv(num_gallery, GALLERIES), BAND)
    first_probe, first_gallery = row_tile * PROBES, column_tile * GALLERIES
    if IS_SELF and first_gallery + GALLERIES <= first_probe:
        return  # the transpose of a tile above the diagonal, which wrote both directions
    column_N, row_M = tl.arange(0, COLUMNS), tl.arange(0, PROBES * ROWS)
    at_N = (group * num_gallery + first_gallery) * R + column_N
    mask_N = column_N < tl.minimum(GALLERIES, num_gallery - first_gallery) * R
    seen_N = _seen(gallery[1], at_N, mask_N, HAS_HIDDEN)
    map_M = tl.minimum(first_probe + row_M // ROWS, num_probe - 1)
    lowest_M = map_M if IS_SELF else 0
    best_PN = tl.full((PROBES, COLUMNS), -float("inf"), tl.float32)
    cell_PN = tl.zeros((PROBES, COLUMNS), tl.int32)
    for piece in range(tl.cdiv(S, ROWS)):
        # Rows beyond a map repeat its last cell, which wins no maximum that the cell itself did not: no mask is needed.
        cell_M = tl.minimum(piece * ROWS + row_M % ROWS, S - 1)
        mask_M = (piece * ROWS + row_M % ROWS < S) & (first_probe + row_M // ROWS < num_probe)
        at_M = (group * num_probe + map_M) * S + cell_M
        sim_MN = _correlate(probe[0] + at_M * C, gallery[0] + at_N * C, mask_N, C, CHANNELS, PRECISION)
        seen_M = _seen(probe[1], at_M, mask_M, HAS_HIDDEN)
        sim_of_rows_MN = tl.where(seen_N[None, :], sim_MN, -float("inf")) if HAS_HIDDEN else sim_MN
        _match_rows(
            found_LPSG, sim_of_rows_MN, at_M, seen_M, mask_M, first_gallery, lowest_M, num_gallery, R, GALLERIES
        )
        if HAS_HIDDEN:
            sim_MN = tl.where(seen_M[:, None], sim_MN, -float("inf"))
        cell_PSN = tl.reshape(cell_M, (PROBES, ROWS, 1))
        best, cell = _best_along(tl.reshape(sim_MN, (PROBES, ROWS, COLUMNS)), cell_PSN >= 0, cell_PSN, 1)
        is_better = (best > best_PN) | (best != best)  # strictly: of cells that tie the first stays
        best_PN, cell_PN = tl.where(is_better, best, best_PN), tl.where(is_better, cell, cell_PN)
    end_N = tl.minimum(num_probe, first_gallery + column_N // R) if IS_SELF else num_probe
    _match_columns(found_LGRP, best_PN, cell_PN, at_N, seen_N, mask_N, first_probe, end_N, num_probe)


@triton.jit
def _scattered(back: tl.tuple, at: tl.tensor, mask: tl.tensor, axis: tl.constexpr, position: tl.tensor) -> tl.tensor:
    """Return the matrix with each gradient at its match's position along a new axis, zero elsewhere."""
    weight, match = tl.load(back[0] + at, mask=mask, other=0.0), tl.load(back[1] + at, mask=mask, other=0)
    return tl.where(tl.expand_dims(match.to(tl.int32), axis) == position, tl.expand_dims(weight, axis), 0.0)


@triton.jit
def gradient_kernel(
    grad_near: tl.tensor,
    near_hidden: tl.tensor,
    far: tl.tuple,
    back_LAKB: tl.tuple,
    back_LBJA: tl.tuple,
    scale: tl.tensor,
    num_near: tl.tensor,
    num_far: tl.tensor,
    K: tl.constexpr,
    J: tl.constexpr,
    C: tl.constexpr,
    MAPS: tl.constexpr,
    ROWS: tl.constexpr,
    FAR_CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BAND: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_NEAR: tl.constexpr,
    HAS_FAR: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
) -> None:
    """Write the gradient [MAPS * ROWS cells, CHANNELS] of the near side's features, summed over all far maps in order.

    The far side is (features, hidden); what came back for the matches of either direction is (gradients, cells). Both
    directions of a pair make one matrix, near cells by far cells, in registers; its product with the far features is
    dense work for the tensor cores, without atomics.
    """
    pieces, parts = tl.cdiv(K, ROWS), tl.cdiv(J, FAR_CELLS)
    group, row_tile, channel_tile = _tile_position(tl.cdiv(num_near, MAPS) * pieces, tl.cdiv(C, CHANNELS), BAND)
    near_A, cell_K = row_tile // pieces * MAPS + tl.arange(0, MAPS), row_tile % pieces * ROWS + tl.arange(0, ROWS)
    mask_AK = (near_A < num_near)[:, None] & (cell_K < K)[None, :]
    at_AK = (group * num_near + near_A)[:, None] * K + cell_K[None, :]
    channel_C = (channel_tile * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    mask_C, power = channel_C < C, tl.load(scale)
    grad_MC = tl.zeros((MAPS * ROWS, CHANNELS), tl.float32)
    for step in tl.range(num_far * parts, num_stages=STAGES):
        cell_J = step % parts * FAR_CELLS + tl.arange(0, FAR_CELLS)
        mask_J, at_J = cell_J < J, (group * num_far + step // parts) * J + cell_J
        weight_AKJ = tl.zeros((MAPS, ROWS, FAR_CELLS), tl.float32)
        if HAS_NEAR:
            at = at_AK * num_far + step // parts
            weight_AKJ += _scattered(back_LAKB, at, mask_AK, 2, cell_J[None, None, :])
        if HAS_FAR:
            at, mask = at_J[None, :] * num_near + near_A[:, None], mask_J[None, :] & (near_A < num_near)[:, None]
            weight_AKJ += _scattered(back_LBJA, at, mask, 1, cell_K[None, :, None])
        if HAS_HIDDEN:  # what comes back for a cell without a match meets a hidden cell on one side at least
            weight_AKJ = tl.where(_seen(far[1], at_J, mask_J, True)[None, None, :], weight_AKJ, 0.0)
        weight_MJ = tl.reshape(weight_AKJ * power, (MAPS * ROWS, FAR_CELLS))
        far_JC = tl.load(far[0] + at_J[:, None] * C + channel_C, mask_J[:, None] & mask_C, other=0.0)
        grad_MC = tl.dot(weight_MJ.to(far_JC.dtype), far_JC, grad_MC, input_precision=PRECISION)
    at_M, mask_M = tl.reshape(at_AK, (MAPS * ROWS,)), tl.reshape(mask_AK, (MAPS * ROWS,))
    grad_MC = tl.where(_seen(near_hidden, at_M, mask_M, HAS_HIDDEN)[:, None], grad_MC / power, 0.0)
    tl.store(grad_near + at_M[:, None] * C + channel_C, grad_MC, mask=mask_M[:, None] & mask_C)
