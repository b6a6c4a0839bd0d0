"""The operator against naive loops, over block sizes, groups, ties and hidden cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qaconv.blocks import Maps, choose_block, tiles
from qaconv.correlation import best_matches
from qaconv.maxima import maximum_by_index, maximum_by_marks


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


def whole_numbers(generator, groups, maps, cells, hide):
    """A side whose products are exact, and often tie."""
    features = torch.randint(-2, 3, (groups, maps, cells, 4), generator=generator).double()
    return Maps(features, torch.rand(groups, maps, cells, generator=generator) < 0.4 if hide else None)


def dense_direction(looking, looked_at):
    """Best match of each cell and its first index [L, A, K, B] from the whole correlation."""
    sim = torch.einsum("lakc,lbrc->lakbr", looking.features, looked_at.features)
    if looking.hidden is not None:
        sim = sim.masked_fill(looked_at.hidden[:, None, None], -torch.inf)
    best, cell = sim.max(dim=4)
    if looking.hidden is not None:
        without_match = looking.hidden[..., None] | best.isneginf()
        best, cell = best.masked_fill(without_match, 0), cell.masked_fill(without_match, 0)
    return best, cell


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    groups=st.integers(1, 2),
    probes=st.sampled_from([1, 3, 31, 32, 40]),
    galleries=st.sampled_from([1, 5, 32, 33, 70]),
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    hide=st.booleans(),
    block_bytes=st.sampled_from([800, 8 * 32 * 40, 8 * 32 * 400, 10**6]),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_layout_give_the_first_of_the_largest(groups, probes, galleries, cells, hide, block_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    probe = whole_numbers(generator, groups, probes, cells[0], hide)
    gallery = whole_numbers(generator, groups, galleries, cells[1], hide)

    maxima = best_matches(probe, gallery, block_bytes)
    values_alone = best_matches(probe, gallery, block_bytes, with_cells=False)

    for found, expected in zip(
        maxima, (*dense_direction(probe, gallery), *dense_direction(gallery, probe)), strict=True
    ):
        assert torch.equal(found.double(), expected.double())
    assert torch.equal(values_alone.probe, maxima.probe) and torch.equal(values_alone.gallery, maxima.gallery)
    assert values_alone.probe_cell is None and values_alone.gallery_cell is None


def test_blocks_lie_for_vectorized_maxima_where_there_are_maps_enough():
    maps, few = torch.empty(1, 64, 196, 8), torch.empty(1, 9, 196, 8)
    block = choose_block(maps, torch.empty_like(maps), None)
    assert block.maps_are_neighbours and block.galleries % 32 == 0 and block.cells < 196
    assert not choose_block(maps, maps, None).maps_are_neighbours  # squares, of which half are skipped
    assert not choose_block(maps, few, None).maps_are_neighbours


@pytest.mark.parametrize("dim", [2, 3])
def test_both_ways_to_find_the_first_maximum_agree(dim):
    sim = torch.randint(3, (2, 5, 7, 6), generator=torch.Generator().manual_seed(0)).float()
    num_cells = sim.shape[dim]
    rank = torch.arange(num_cells - 1, -1, -1.0).view(-1, *[1] * (3 - dim))
    by_marks = maximum_by_marks(sim, dim, rank, torch.empty_like(sim))
    by_index = maximum_by_index(sim, dim, rank)
    for found, expected in zip(by_marks, by_index, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(num_cells - 1 - by_marks[1], sim.max(dim).indices.float())


@pytest.mark.parametrize("num_gallery", [2, 32])
def test_not_a_number_stays_one_with_an_index_in_range(num_gallery):
    probe = torch.randn(1, 3, 4, 5)
    probe[0, 1, 2] = torch.nan
    probe.requires_grad_()
    maxima = best_matches(Maps(probe, None), Maps(torch.randn(1, num_gallery, 4, 5), None))
    assert maxima.probe[0, 1, 2].isnan().all() and maxima.gallery[..., 1].isnan().all()
    assert not maxima.probe[0, 0].isnan().any()
    assert maxima.probe_cell.max() < 4 and maxima.gallery_cell.max() < 4
    maxima.gallery.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_gallery", [3, 32])
def test_half_precision_gives_float32_maxima_of_rounded_products(dtype, num_gallery):
    probe, gallery = (torch.randn(2, n, 5, 16).to(dtype) for n in (4, num_gallery))
    maxima = best_matches(Maps(probe, None), Maps(gallery, None))
    expected = best_matches(Maps(probe.float(), None), Maps(gallery.float(), None))
    for found, exact in ((maxima.probe, expected.probe), (maxima.gallery, expected.gallery)):
        assert found.dtype == torch.float32
        assert torch.equal(found, exact.to(dtype).float())  # rounding keeps the order


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("is_self", [False, True])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_operator_keeps_the_rules_of_custom_operators(with_gradient, is_self, hide):
    generator = torch.Generator().manual_seed(0)
    sides = [random_side(generator, 2, num_maps, 4, 3, hide) for num_maps in ([3] if is_self else [3, 5])]
    features = [side.features if with_gradient else side.features.detach() for side in sides]
    arguments = (features, [side.hidden for side in sides if hide], with_gradient, 500, False)
    torch.library.opcheck(torch.ops.maskwise.best_matches.default, arguments)


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
