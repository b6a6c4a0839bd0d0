"""The Triton kernels on the CPU: `test_triton_matches.py` runs this file in a process whose Triton interprets them.

Their values, indices and gradients against the plain formulation: einsum, `max` and autograd. Tiles are small, since
the interpreter takes tens of microseconds per number of a maximum.
"""

import pytest
import torch
import torch.nn.functional as F

from qaconv import correlation
from qaconv.blocks import Maps
from qaconv.triton_matches import Direction, Tiling, triton_best_matches, triton_gradient

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}  # of gradients, to the largest


def plain_direction(looking, looked_at, looking_hidden, looked_at_hidden):
    """Return values and cells [L, A, K, B] by `max` over a dense tensor, 0 where there is no match."""
    sim = torch.einsum("lakc,lbjc->lakbj", looking, looked_at)
    if looking_hidden is None:
        return sim.max(dim=4)
    sim = sim.masked_fill(looked_at_hidden[:, None, None], -torch.inf)
    without_match = looking_hidden[..., None] | looked_at_hidden.all(dim=2)[:, None, None]
    best, cell = sim.masked_fill(without_match[..., None], 0).max(dim=4)
    return best, cell


def features(generator, shape, dtype):
    return F.normalize(torch.randn(*shape, generator=generator), dim=3).to(dtype)


def check(probe, gallery, tiling=None):
    """Compare both passes with the plain formulation; gallery None: the probe set against itself."""
    is_self, other = gallery is None, gallery or probe
    inputs = [side.features.float().clone().requires_grad_() for side in (probe, other)]
    wanted = (
        plain_direction(inputs[0], inputs[1], probe.hidden, other.hidden),
        plain_direction(inputs[1], inputs[0], other.hidden, probe.hidden),
    )
    found = triton_best_matches(*probe[:2], *(gallery or (None, None))[:2], tiling=tiling)
    for (best, cell), value, index in zip(wanted, found[::2], found[1::2], strict=True):
        torch.testing.assert_close(value, best.detach(), rtol=0, atol=1e-6)
        assert torch.equal(index.long(), cell)
    assert (found[2] is found[0]) == is_self

    grads = [torch.randn(value.shape) for value in found[::2]]
    if is_self:
        grads[1] = grads[0]
    loss = (wanted[0][0] * grads[0]).sum() + (0 if is_self else (wanted[1][0] * grads[1]).sum())
    expected = torch.autograd.grad(loss, inputs)
    if is_self:
        expected = (sum(expected),) * 2
    directions = Direction(grads[0], found[1]), Direction(grads[1], found[3])
    tolerance = TOLERANCE[probe.features.dtype]
    near = triton_gradient(probe, other, *directions, tiling=tiling)
    far = triton_gradient(other, probe, *directions[::-1], tiling=tiling)
    for grad, want in zip((near, far), expected, strict=True):
        assert (grad - want).abs().max() <= tolerance * want.abs().amax().clamp_min(1e-3)


def sides(seed, groups, probe_shape, gallery_shape, dtype=torch.float32, hide=False):
    generator = torch.Generator().manual_seed(seed)
    return [
        Maps(
            features(generator, (groups, *shape), dtype),
            torch.rand(groups, *shape[:2], generator=generator) < 0.5 if hide else None,
        )
        for shape in (probe_shape, gallery_shape)
    ]


# A device would want 16 and more of each.
SMALL = Tiling(near_maps=1, rows=4, far_maps=1, columns=4, channels=8, warps=4, stages=2)


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize(
    ("probe", "gallery", "tiling"),
    [
        ((2, 3, 20), (3, 3, 20), SMALL),  # channels no multiple of the step
        ((1, 4, 8), (3, 2, 8), SMALL),  # one probe, maps of two shapes
        ((3, 3, 8), (1, 2, 8), SMALL._replace(near_maps=2)),  # one gallery map; a last tile of one map
        ((2, 2, 8), (5, 2, 8), SMALL._replace(near_maps=2, far_maps=3, columns=8)),  # gallery no multiple of the tile
        ((2, 10, 8), (1, 3, 8), SMALL),  # a probe map in three pieces
        ((1, 1, 4), (2, 1, 4), SMALL),  # maps of one cell
    ],
)
def test_both_passes_equal_the_plain_formulation(probe, gallery, tiling, hide):
    check(*sides(0, 2, probe, gallery, hide=hide), tiling)


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("tiling", [SMALL._replace(band=1), SMALL._replace(near_maps=2, far_maps=2, columns=8)])
def test_a_set_against_itself(tiling, hide):
    (side, _) = sides(1, 1, (5, 3, 8), (1, 1, 8), hide=hide)
    check(side, None, tiling)


def test_half_precision_and_the_default_tiling():
    # Not bfloat16: the interpreter multiplies its bits as integers.
    check(*sides(2, 1, (2, 9, 32), (1, 9, 32), torch.float16, hide=True))


def test_a_set_of_groups_of_pairs():
    check(*sides(3, 4, (1, 4, 8), (1, 4, 8), hide=True), SMALL)


def test_ties_go_to_the_first_cell():
    cells = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]]).expand(1, 2, 5, 2).contiguous()
    found = triton_best_matches(cells, None, cells.clone(), None, tiling=SMALL._replace(columns=8))
    assert found[1][0, 0, :, 0].tolist() == [0, 1, 0, 1, 0]
    assert found[3][0, 0, :, 0].tolist() == [0, 1, 0, 1, 0]
    check(Maps(cells, torch.tensor([[[True, False, False, True, False]] * 2])), None, SMALL._replace(columns=8))


def test_ties_between_the_pieces_of_a_map():
    probe = torch.ones(1, 1, 10, 2)
    found = triton_best_matches(probe, None, probe[:, :, :2].contiguous(), None, tiling=SMALL)
    assert found[3].flatten().tolist() == [0, 0]


def test_maps_without_a_visible_cell():
    probe, gallery = sides(4, 1, (2, 4, 8), (3, 4, 8), hide=True)
    probe.hidden[0, 1], gallery.hidden[0, 0] = True, True
    check(probe, gallery, SMALL)
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    assert not found[0][0, 1].any() and not found[1][0, :, :, 0].any()


def test_what_comes_back_for_hidden_cells_is_ignored():
    probe, gallery = sides(5, 1, (1, 4, 8), (1, 4, 8), hide=True)
    probe.hidden[:], gallery.hidden[:] = torch.tensor([[True, False] * 2]), torch.tensor([[False, True] * 2])
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    grads = [torch.ones_like(value) for value in found[::2]]
    clean = triton_gradient(probe, gallery, Direction(grads[0], found[1]), Direction(grads[1], found[3]))
    grads[0][0, 0, 0], grads[1][0, 0, 1] = 100.0, -100.0
    other = triton_gradient(probe, gallery, Direction(grads[0], found[1]), Direction(grads[1], found[3]))
    assert torch.equal(other, clean)
    assert not clean[probe.hidden].any() and clean[~probe.hidden].any()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_gradients_of_any_size_survive_half_precision(scale):
    probe, gallery = sides(6, 1, (2, 4, 8), (2, 4, 8), torch.float16)
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    grad = torch.rand(found[0].shape) + 0.5
    one = triton_gradient(probe, gallery, Direction(grad, found[1]), None)
    scaled = triton_gradient(probe, gallery, Direction(grad * scale, found[1]), None)
    torch.testing.assert_close(scaled / scale, one, rtol=2e-3, atol=1e-3)


def test_one_direction_alone():
    probe, gallery = sides(7, 1, (2, 4, 8), (3, 4, 8))
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    directions = [
        Direction(torch.randn(value.shape), cell) for value, cell in zip(found[::2], found[1::2], strict=True)
    ]
    both = triton_gradient(probe, gallery, *directions)
    parts = [triton_gradient(probe, gallery, directions[0], None), triton_gradient(probe, gallery, None, directions[1])]
    torch.testing.assert_close(sum(parts), both)


def test_gradients_of_any_strides():
    probe, gallery = sides(9, 1, (2, 4, 8), (3, 4, 8))
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    expanded = torch.ones(()).expand(found[0].shape)
    wanted = triton_gradient(probe, gallery, Direction(torch.ones_like(found[0]), found[1]), None)
    assert torch.equal(triton_gradient(probe, gallery, Direction(expanded, found[1]), None), wanted)


def test_not_a_number_is_seen_in_both_directions():
    probe, gallery = sides(8, 1, (1, 4, 8), (2, 4, 8))
    probe.features[0, 0, 1, 2] = torch.nan
    found = triton_best_matches(*probe[:2], *gallery[:2], tiling=SMALL)
    assert found[0][0, 0, 1].isnan().all() and not found[0][0, 0, [0, 2, 3]].isnan().any()
    assert found[2].isnan().all()


def test_cells_beyond_256_are_indexed():
    looked_at = torch.eye(300).view(1, 1, 300, 300)[..., 284:].contiguous()
    looking = looked_at[:, :, 284:].flip(2).contiguous()
    found = triton_best_matches(
        looking, None, looked_at, None, tiling=SMALL._replace(rows=16, columns=512, channels=16)
    )
    assert found[1].dtype == torch.int16
    assert found[1].flatten().tolist() == list(range(299, 283, -1))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("is_self", [False, True])
def test_the_operator_gives_on_a_gpu_what_it_gives_on_the_cpu(monkeypatch, is_self, half):
    probe, gallery = sides(10, 1, (2, 4, 8), (3, 4, 8), hide=True)
    found = []
    for fused in (False, True):
        monkeypatch.setattr(correlation, "_suits_triton", lambda probe, gallery, fused=fused: fused)
        inputs = [side.features.clone().requires_grad_() for side in (probe, gallery)]
        near = Maps(inputs[0], probe.hidden)
        far = near if is_self else Maps(inputs[1], gallery.hidden)
        maxima = correlation.best_matches(near, far, half=half and fused)
        weights = torch.arange(maxima.probe.numel()).view(maxima.probe.shape) / 10
        loss = (maxima.probe * weights).sum() + (0 if is_self else maxima.gallery.square().sum())
        found.append([maxima.probe, maxima.probe_cell, *torch.autograd.grad(loss, inputs[: 1 if is_self else 2])])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=2e-3 if half else 1e-5, atol=2e-3 if half else 1e-5)
