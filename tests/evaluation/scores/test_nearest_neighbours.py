"""The blocked search against a plain sort of all cosines."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.scores.neighbours import nearest_neighbours, sorting_keys


def signs(num, dimensions, seed):
    """Vectors of few directions with exact cosines, so that ties, opposites and twins abound."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (num, dimensions), generator=generator).float().mul(2).sub(1) / 2


def plain(embeddings, count):
    """Sort the others by falling cosine and rising index."""
    rows = []
    for own, row in enumerate((embeddings @ embeddings.T).tolist()):
        others = [index for index in range(len(row)) if index != own]
        rows.append(sorted(others, key=lambda index: (-row[index], index))[:count])
    return rows


@settings(max_examples=60)
@given(st.integers(2, 25), st.integers(1, 5), st.integers(0, 9), st.data())
def test_the_nearest_come_first_and_of_equal_ones_the_lower_index(num, dimensions, seed, data):
    embeddings = signs(num, dimensions, seed)
    count, block = data.draw(st.integers(0, num - 1)), data.draw(st.integers(1, num))
    table = nearest_neighbours(embeddings, count, block)
    assert table.dtype == torch.int64 and table.shape == (num, count)
    assert table.tolist() == plain(embeddings, count)


def test_ordinary_embeddings_and_cosines_of_either_sign():
    embeddings = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert nearest_neighbours(embeddings, 59).tolist() == plain(embeddings, 59)


@settings(max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9))
def test_keys_are_ordered_as_the_floats_and_equal_for_equal_ones(values):
    keys = sorting_keys(torch.tensor([*values, 0.0, -0.0])).tolist()
    assert all(key % 2**32 == 0 for key in keys)
    for (a, key), (b, other) in combinations(zip([*values, 0.0, -0.0], keys, strict=True), 2):
        assert (a < b) == (key < other) and (a == b) == (key == other)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_sum_over_the_ranks_is_the_whole_table(world_size):
    embeddings = signs(11, 4, 0)
    parts = [nearest_neighbours(embeddings, 4, 2, rank, world_size) for rank in range(world_size)]
    assert torch.stack(parts).sum(0).equal(nearest_neighbours(embeddings, 4, 2))
    assert sum(int((part != 0).any(1).sum()) for part in parts) <= 11, "no row is found twice"


def test_autocast_does_not_round_the_cosines():
    embeddings = F.normalize(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = nearest_neighbours(embeddings, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_neighbours(embeddings, 20).equal(expected)


@pytest.mark.parametrize(
    ("embeddings", "count", "error", "message"),
    [
        (torch.ones(3), 1, ValueError, r"must be \[C, D\] and count in \[0, C\), got \[3\] and 1"),
        (torch.ones(3, 2), 3, ValueError, r"got \[3, 2\] and 3"),
        (torch.ones(3, 2), -1, ValueError, "and -1"),
        (torch.ones(3, 2).double(), 1, TypeError, "must be float32, got torch.float64"),
        (torch.tensor([[1.0], [float("nan")], [float("inf")]]), 1, ValueError, "2 of 3 embeddings .*first is number 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(embeddings, count, error, message):
    with pytest.raises(error, match=message):
        nearest_neighbours(embeddings, count)
