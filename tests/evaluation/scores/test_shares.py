"""Visible shares of pairs against loops over single cells."""

import numpy as np
import pytest
import torch

from evaluation import FaceDescriptions, LocalView, shares_of, unordered_pairs
from evaluation.scores import shares as shares_module


def describe_faces(num_images, seed, num_views=2, has_visibility=True):
    generator = torch.Generator().manual_seed(seed)
    views = tuple(
        LocalView(
            torch.randn(num_images, 3, 2, 3, generator=generator),
            torch.rand(num_images, 1, 2, 3, generator=generator) if has_visibility else None,
        )
        for _ in range(num_views)
    )
    return FaceDescriptions(torch.randn(num_images, 4, generator=generator), views)


def naive(first, second, i, j):
    cells = [
        (float(a), float(b))
        for one, other in zip(first.views, second.views, strict=True)
        for a, b in zip(one.visibility[i].flatten(), other.visibility[j].flatten(), strict=True)
    ]
    return [sum(a for a, _ in cells), sum(b for _, b in cells), sum(a * b for a, b in cells)], len(cells)


@pytest.mark.parametrize("chunk", [3, 2**16])
@pytest.mark.parametrize("listed", [False, True])
def test_shares_are_means_over_the_cells_of_all_views(monkeypatch, chunk, listed):
    monkeypatch.setattr(shares_module, "_CHUNK", chunk)
    first, second = describe_faces(7, 0), describe_faces(7, 1)
    places = np.array([[0, 3], [6, 6], [5, 1], [2, 4]]) if listed else unordered_pairs(7)
    found = np.full((len(places), 3), np.nan)
    for chosen, part in shares_of(first, second, places if listed else None):
        found[chosen] = np.stack(part, axis=1)
    for row, (i, j) in zip(found, places.tolist(), strict=True):
        sums, count = naive(first, second, i, j)
        np.testing.assert_allclose(row, np.array(sums) / count, rtol=1e-5)


def test_without_visibility_there_are_none():
    assert shares_of(describe_faces(3, 0, has_visibility=False), describe_faces(3, 0)) is None
    assert shares_of(describe_faces(3, 0, num_views=0), describe_faces(3, 0, num_views=0)) is None
