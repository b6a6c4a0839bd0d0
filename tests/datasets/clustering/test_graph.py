"""Edges and clusters against vectors of naive loops, and rules that no drawn graph may break."""

import numpy as np
import pytest
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.clustering import (
    JoiningRules,
    Neighbours,
    capped_union,
    clusters,
    jaccard,
    mutual_edges,
    pseudo_identities,
)

GRAPHS = {name: load_golden(f"pretraining/graph_{name}.npz") for name in ("exact", "real")}
CASES = [
    (name, key.removesuffix(".edges")) for name, graph in GRAPHS.items() for key in graph if key.endswith(".edges")
]


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_and_clusters_agree_with_the_vectors(name, case, dtype):
    graph = GRAPHS[name]
    mutual_k, threshold = case.removeprefix("k").split(".t")
    similarities = graph["similarities"].astype(dtype)
    neighbours = graph["neighbours"].astype(np.int64)
    pairs, cosines = mutual_edges(neighbours, similarities, int(mutual_k), float(threshold))
    np.testing.assert_array_equal(pairs, graph[f"{case}.edges"])
    assert cosines.dtype == dtype and cosines.min() >= dtype(threshold)
    np.testing.assert_array_equal(clusters(pairs, cosines, 500), graph[f"{case}.labels"])
    for cap in (15, 50):
        np.testing.assert_array_equal(clusters(pairs, cosines, 500, cap), graph[f"{case}.cap{cap}.union"])


@pytest.mark.parametrize("name", GRAPHS)
def test_shared_neighbourhoods_agree_with_the_vectors(name):
    graph = GRAPHS[name]
    edges = graph["jaccard_edges"].astype(np.int64)
    np.testing.assert_allclose(jaccard(graph["neighbours"].astype(np.int64), edges), graph["jaccard"], rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(2, 25), st.integers(2, 6))
def test_a_cap_only_splits_components_and_counts_what_it_refuses(data, num_images, cap):
    image = st.integers(0, num_images - 1)
    pairs = data.draw(st.lists(st.tuples(image, image).filter(lambda p: p[0] < p[1]), unique=True, max_size=60))
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    similarities = np.array([data.draw(st.integers(0, 3)) for _ in pairs], np.float32)
    joined = capped_union(edges, similarities, num_images, cap)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(num_images, num_images))
    component = connected_components(graph, directed=False)[1]
    labels, first = np.unique(joined.labels[joined.labels >= 0], return_index=True)
    sizes = np.bincount(joined.labels[joined.labels >= 0])
    assert labels.tolist() == list(range(len(sizes))) and (np.diff(first) > 0).all()
    assert ((sizes >= 2) & (sizes <= cap)).all()
    assert all(len(set(component[joined.labels == label])) == 1 for label in labels)
    # Every image that has an edge to a lonely one is in a cluster that is full, or it would have been joined.
    is_alone = joined.labels[edges] < 0
    assert (is_alone.sum(axis=1) < 2).all()
    if np.bincount(component).max() <= cap:
        assert joined.num_refused == 0


def test_a_component_above_the_cap_is_split_and_the_refused_edges_are_counted():
    edges, similarities = np.array([[0, 1], [1, 2], [2, 3], [4, 5]]), np.array([0.9, 0.7, 0.8, 0.6])
    joined = capped_union(edges, similarities, 7, 3)
    assert joined.labels.tolist() == [0, 0, 1, 1, 2, 2, -1] and joined.num_refused == 1


def test_the_filter_of_shared_neighbourhoods_counts_what_it_drops():
    neighbours = np.array([[1, 2, -1], [0, 2, -1], [0, 1, 3], [2, -1, -1]])
    similarities = np.where(neighbours >= 0, np.float32(0.8), np.float32(-np.inf))
    found = Neighbours(neighbours, similarities)
    plain = pseudo_identities(found, JoiningRules(mutual_k=3))
    strict = pseudo_identities(found, JoiningRules(mutual_k=3, jaccard=0.6))
    assert plain.clusters.tolist() == [0, 0, 0, 0] and (plain.num_mutual, plain.num_unshared) == (4, 0)
    assert strict.clusters.tolist() == [0, 0, 0, -1] and strict.num_unshared == 1 and strict.sizes.tolist() == [3]


def test_odd_input_is_refused():
    near, cosine = np.array([[1], [0]]), np.ones((2, 1))
    with pytest.raises(ValueError, match=r"mutual_k must be in \[1, 1\]"):
        mutual_edges(near, cosine, 2, 0.5)
    with pytest.raises(ValueError, match="another data set's"):
        mutual_edges(near + 5, cosine, 1, 0.5)
    with pytest.raises(ValueError, match="must lie in"):
        clusters(np.array([[0, 7]]), np.ones(1), 3)
    with pytest.raises(ValueError, match="got NaN"):
        clusters(np.array([[0, 1]]), np.array([np.nan]), 3)
