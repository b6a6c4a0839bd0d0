"""The operator against naive loops, over block sizes, groups, ties and hidden cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qaconv.blocks import Maps, tiles
from qaconv.correlation import best_matches


def naive_direction(looking, looked_at, looking_hidden=None, looked_at_hidden=None):
    """Best match of each cell [L, A, K, B], 0 where there is none, by explicit indices."""
    rows = []
    for group in range(looking.shape[0]):
        for a in range(looking.shape[1]):
            for cell in range(looking.shape[2]):
                for b in range(looked_at.shape[1]):
                    found = [
                        torch.dot(looking[group, a, cell], looked_at[group, b, other])
                        for other in range(looked_at.shape[2])
                        if looked_at_hidden is None or not looked_at_hidden[group, b, other]
                    ]
                    if looking_hidden is not None and looking_hidden[group, a, cell]:
                        found = []
                    rows.append(torch.stack(found).max() if found else looking.new_zeros(()))
    shape = (*looking.shape[:3], looked_at.shape[1])
    return torch.stack(rows).view(shape) if rows else looking.new_zeros(shape)


def random_side(generator, groups, maps, cells, channels, hide):
    features = torch.randn(groups, maps, cells, channels, generator=generator, dtype=torch.float64)
    hidden = torch.rand(groups, maps, cells, generator=generator) < 0.4 if hide else None
    return Maps(features.requires_grad_(), hidden)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    groups=st.integers(1, 3),
    probes=st.integers(1, 4),
    galleries=st.integers(0, 4),
    cells=st.integers(1, 5),
    hide=st.booleans(),
    block_bytes=st.sampled_from([1, 400, 900, 10**6]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_equal_naive_loops(groups, probes, galleries, cells, hide, block_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    probe = random_side(generator, groups, probes, cells, 3, hide)
    gallery = random_side(generator, groups, galleries, cells, 3, hide)

    maxima = best_matches(probe, gallery, block_bytes)
    expected = (
        naive_direction(probe.features, gallery.features, probe.hidden, gallery.hidden),
        naive_direction(gallery.features, probe.features, gallery.hidden, probe.hidden),
    )

    torch.testing.assert_close(maxima.probe, expected[0])
    torch.testing.assert_close(maxima.gallery, expected[1])
    weights = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in expected]
    inputs = (probe.features, gallery.features)
    if expected[0].requires_grad:
        loss = sum((weight * value).sum() for weight, value in zip(weights, expected, strict=True))
        wanted = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        loss = (weights[0] * maxima.probe).sum() + (weights[1] * maxima.gallery).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), wanted)


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 5 * 5 * 8 * 4, 5 * 5 * 8 * 5, 10**6])
def test_a_set_against_itself_equals_the_general_form(hide, block_bytes):
    side = random_side(torch.Generator().manual_seed(0), 2, 7, 5, 3, hide)
    twin = Maps(side.features.detach().clone().requires_grad_(), side.hidden)
    probe_weight, gallery_weight = torch.randn(2, 2, 7, 5, 7, dtype=torch.float64)

    own = best_matches(side, side, block_bytes)
    general = best_matches(side, twin, block_bytes)

    assert own.gallery is own.probe
    for mine, wanted in zip(own, general, strict=True):
        torch.testing.assert_close(mine, wanted)
    (grad,) = torch.autograd.grad((own.probe * probe_weight + own.gallery * gallery_weight).sum(), side.features)
    loss = (general.probe * probe_weight + general.gallery * gallery_weight).sum()
    torch.testing.assert_close(grad, sum(torch.autograd.grad(loss, (side.features, twin.features))))


@pytest.mark.parametrize("is_self", [False, True])
def test_ties_go_to_the_first_cell_in_values_and_gradients(is_self):
    probe = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]], requires_grad=True)
    side = Maps(probe, None)
    twin = side if is_self else Maps(probe.detach().clone(), None)

    maxima = best_matches(side, twin)

    assert maxima.probe_cell.flatten().tolist() == [0, 0, 2]
    assert maxima.gallery_cell.flatten().tolist() == [0, 0, 2]
    (grad,) = torch.autograd.grad(maxima.gallery.sum(), probe)
    # Gallery cells 0 and 1 both choose probe cell 0; against itself they are probe cells too and receive their match.
    expected = [[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]] if is_self else [[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    assert grad[0, 0].tolist() == expected


def test_cells_beyond_256_are_indexed():
    features = torch.eye(300).view(1, 1, 300, 300).requires_grad_()
    maxima = best_matches(Maps(features, None), Maps(features.detach().flip(2), None))
    assert maxima.probe_cell.flatten().tolist() == list(range(299, -1, -1))


def test_hidden_cells_get_no_gradient_whatever_comes_back():
    hidden = torch.tensor([[[False, True]], [[True, True]]])
    probe = Maps(torch.randn(2, 1, 2, 3, requires_grad=True), hidden)
    gallery = Maps(torch.randn(2, 1, 2, 3, requires_grad=True), torch.tensor([[[True, False]], [[False, False]]]))
    maxima = best_matches(probe, gallery)
    (maxima.probe.sum() + maxima.gallery.sum()).backward()
    for side in (probe, gallery):
        assert not side.features.grad[side.hidden].any()
    assert not gallery.features.grad[1].any()  # the probe it is matched with has no visible cell
    assert probe.features.grad[0, 0, 0].any()


@pytest.mark.parametrize("frozen", ["probe", "gallery"])
def test_a_frozen_side_costs_and_gets_nothing(frozen):
    probe, gallery = torch.randn(1, 2, 4, 3), torch.randn(1, 3, 4, 3)
    (gallery if frozen == "probe" else probe).requires_grad_()
    maxima = best_matches(Maps(probe, None), Maps(gallery, None))
    maxima.probe.sum().backward()
    assert (probe.grad is None) == (frozen == "probe")
    assert (gallery.grad is None) == (frozen == "gallery")


@given(st.integers(1, 5), st.integers(0, 9), st.integers(0, 9), st.integers(1, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_tiles_cover_every_pair_once_within_the_budget(groups, probes, galleries, max_pairs):
    probe, gallery = torch.empty(groups, probes, 2, 1), torch.empty(groups, galleries, 3, 1)
    covered = torch.zeros(groups, probes, galleries, dtype=torch.int64)
    for tile in tiles(probe, gallery, max_pairs * 2 * 3 * 4):
        covered[tile] += 1
        assert covered[tile].numel() <= max_pairs
    assert (covered == 1).all()


class _Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("is_self", [False, True])
def test_nothing_larger_than_the_maxima_or_one_block_is_ever_made(is_self):
    num_maps, cells, channels, block_bytes = 24, 36, 8, 2**16
    probe = Maps(torch.randn(1, num_maps, cells, channels, requires_grad=True), None)
    gallery = probe if is_self else Maps(torch.randn(1, num_maps, cells, channels, requires_grad=True), None)
    with _Largest() as largest:
        maxima = best_matches(probe, gallery, block_bytes)
        (maxima.probe.sum() + maxima.gallery.sum()).backward()
    assert largest.numel <= max(num_maps**2 * cells, block_bytes // 4)
