"""Searches for neighbours against sorting all cosines, of numbers that are exact in float32: ties are real."""

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.clustering import (
    SearchSettings,
    best,
    edge_recall,
    lists,
    merge_neighbours,
    nearest,
    neighbours,
    unfinished,
)
from datasets.clustering.lists import Visits
from datasets.clustering.unfinished import Unfinished

GRAPHS = {name: load_golden(f"pretraining/graph_{name}.npz") for name in ("exact", "real")}
ALL_LISTS = SearchSettings(num_lists=6, probe=6)


def clustered(num, seed=0, dim=32):
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(num // 8, dim)), 8, axis=0) + 0.6 * rng.normal(size=(num // 8 * 8, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def all_pairs(vectors, k, threshold):
    """Return the indices that sorting every row gives."""
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(cosine, order, axis=1) >= threshold, order, -1)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("method", ["exact", "lists"])
def test_neighbours_agree_with_the_vectors(name, method):
    graph = GRAPHS[name]
    found = neighbours(torch.from_numpy(graph["vectors"]), 20, -1, method, ALL_LISTS)
    np.testing.assert_array_equal(found.indices, graph["neighbours"])
    np.testing.assert_allclose(found.similarities, graph["similarities"], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.sampled_from([-1.0, 0.0, 0.25, 1.0]))
def test_any_small_set_has_the_neighbours_that_sorting_gives(seed, num, k, threshold):
    # Four entries of +-1/2 out of eight: cosines are multiples of 1/4, and most of them ties.
    rng = np.random.default_rng(seed)
    vectors = np.zeros((num, 8), np.float32)
    for row in vectors:
        row[rng.permutation(8)[:4]] = rng.choice([-0.5, 0.5], 4)
    expected = all_pairs(vectors, k, threshold)
    expected = np.pad(expected, ((0, 0), (0, k - expected.shape[1])), constant_values=-1)
    for method in ("exact", "lists"):
        found = neighbours(vectors, k, threshold, method, SearchSettings(num_lists=4, probe=4))
        np.testing.assert_array_equal(found.indices, expected)


def test_small_blocks_many_hits_and_ranks_change_nothing(monkeypatch):
    vectors = clustered(400)
    plain = neighbours(vectors, 10, 0.1, "exact")
    np.testing.assert_array_equal(plain.indices, all_pairs(vectors, 10, 0.1))
    monkeypatch.setattr(nearest, "_BLOCK", {"cpu": 37})
    monkeypatch.setattr(best, "WAITING", 500)
    for method in ("exact", "lists"):
        for threshold in (-1.0, 0.1):  # all products are hits; some are
            one = neighbours(vectors, 10, threshold, method, ALL_LISTS)
            ranks = [
                neighbours(vectors, 10, threshold, method, ALL_LISTS._replace(rank=r, world_size=3)) for r in range(3)
            ]
            merged = merge_neighbours(ranks)
            np.testing.assert_array_equal(merged.indices, one.indices)
            np.testing.assert_array_equal(merged.similarities, one.similarities)
            expected = all_pairs(vectors, 10, threshold)
            np.testing.assert_array_equal(one.indices, expected)


def test_few_lists_find_most_edges_and_the_recall_says_how_many():
    vectors = clustered(4000, dim=64)
    expected = neighbours(vectors, 7, 0.5, "exact")
    found = neighbours(vectors.astype(np.float16), 7, 0.5, "lists", SearchSettings(num_lists=64, probe=2))
    again = neighbours(vectors.astype(np.float16), 7, 0.5, "lists", SearchSettings(num_lists=64, probe=2))
    np.testing.assert_array_equal(found.indices, again.indices)
    true = [set(row[row >= 0]) for row in expected.indices]
    share = sum(len(a & set(b)) for a, b in zip(true, found.indices, strict=True)) / sum(map(len, true))
    assert 0.8 < share < 1
    assert edge_recall(vectors, found, 0.5, num_queries=10**6) == pytest.approx(share, abs=2e-3)
    assert edge_recall(vectors, expected, 0.5) == 1
    assert np.isnan(edge_recall(vectors, expected, 1.0))


def test_the_method_follows_the_size(monkeypatch):
    cpu = torch.device("cpu")
    assert nearest.chosen_method("auto", 50_000, cpu) == "exact"
    assert nearest.chosen_method("auto", 50_001, cpu) == "lists"
    assert nearest.chosen_method("exact", 10**6, cpu) == "exact"
    assert [lists.number_of_lists(n) for n in (2, 100_000, 1_000_000)] == [1, 1024, 4096]


def test_faiss_finds_the_same(monkeypatch):
    pytest.importorskip("faiss", reason="the extra faiss is not installed (make setup-extras)")
    vectors = clustered(2400)
    expected = neighbours(vectors, 10, 0.4, "exact")
    for settings_ in (SearchSettings(num_lists=16), SearchSettings(num_lists=2000)):  # inverted file, flat
        found = neighbours(vectors, 10, 0.4, "faiss", settings_)
        assert found.visits == (Visits(16, 16) if settings_.num_lists == 16 else None)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


def test_without_faiss_its_method_is_refused_in_a_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ValueError, match="needs the package faiss-cpu"):
        neighbours(clustered(16), 2, 0.4, "faiss")


@pytest.mark.parametrize("told", [ALL_LISTS, ALL_LISTS._replace(probe=None)])
def test_an_interrupted_search_goes_on(told, tmp_path, monkeypatch):
    vectors = clustered(400)
    expected = neighbours(vectors, 5, 0.2, "lists", told)
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    run, file = nearest.ListSearch.run, tmp_path / "search.npz"
    done = []

    def run_twice(self, portion, found):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(portion)
        run(self, portion, found)

    monkeypatch.setattr(nearest.ListSearch, "run", run_twice)
    with pytest.raises(KeyboardInterrupt):
        neighbours(vectors, 5, 0.2, "lists", told, Unfinished(file, "a", "b"))
    later = []
    monkeypatch.setattr(
        nearest.ListSearch, "run", lambda self, portion, found: later.append(portion) or run(self, portion, found)
    )
    monkeypatch.setattr(nearest, "k_means", None)  # the lists are there, and what was planned
    found = neighbours(vectors, 5, 0.2, "lists", told, Unfinished(file, "a", "b"))
    assert done == [0, 1] and later == [2, 3, 4, 5]
    assert found.visits == expected.visits and bool(found.visits.planning_queries) == (told.probe is None)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert Unfinished(file, "a", "other settings").lists is None
    with pytest.raises(ValueError, match="other weights, a instead of c"):
        Unfinished(file, "c", "b")
    file.write_bytes(file.read_bytes()[:100])
    assert Unfinished(file, "a", "b").lists is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * 2, "unit length; number 0 has length 2"),
        (lambda v: np.where(np.arange(16)[:, None] == 3, np.nan, v).astype(np.float32), "number 3 has length nan"),
        (lambda v: v[0], r"must be \[N, D\], got \[32\]"),
    ],
)
def test_vectors_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        neighbours(change(clustered(16)), 3, 0.5)
    with pytest.raises(TypeError, match="float16 or float32, got float64"):
        neighbours(clustered(16).astype(np.float64), 3, 0.5)
