"""Planned visits against loops over sorted cosines, and against what the search then finds."""

import numpy as np
import pytest
import torch

from datasets.clustering import SearchSettings, edge_recall, merge_neighbours, nearest, neighbours, visits
from datasets.clustering.lists import Visits, k_means
from datasets.clustering.vectors import Vectors

K, THRESHOLD, LISTS = 7, 0.4, 24


def clustered(num, seed=0, dim=32):
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(num // 8, dim)), 8, axis=0) + 0.6 * rng.normal(size=(num, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planned(vectors, threshold=THRESHOLD, seed=0, num_lists=LISTS):
    data = Vectors(vectors)
    return visits.planned_visits(data, k_means(data, num_lists, seed), K, threshold, seed)


def naive_plan(vectors, queries, centers):
    """Return the fewest visits and the share of edges that they find."""
    own, to_lists = (vectors @ centers.T).argmax(axis=1), np.argsort(-(vectors @ centers.T), axis=1)
    needed = []
    for query in queries:
        cosines = vectors @ vectors[query]
        near = [other for other in np.argsort(-cosines) if other != query and cosines[other] >= THRESHOLD][:K]
        ranks = [[list(to_lists[a]).index(own[b]) for a, b in ((query, other), (other, query))] for other in near]
        needed.append([1 + min(pair) for pair in ranks])
    num_edges = sum(map(len, needed))
    for probe in range(1, len(centers) + 1):
        found = [sum(number <= probe for number in numbers) for numbers in needed]
        share = sum(found) / num_edges
        residual = [number - share * len(numbers) for number, numbers in zip(found, needed, strict=True)]
        if share - sum(r * r for r in residual) ** 0.5 / num_edges >= 0.99:
            return probe, share
    raise AssertionError("all lists find all")


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_that_of_loops(seed, monkeypatch):
    monkeypatch.setattr(visits, "_FEWEST", 100)
    monkeypatch.setattr(visits, "CHUNK", 64)
    vectors = clustered(480, seed)
    centers = k_means(Vectors(vectors), LISTS, seed).numpy()
    queries = np.random.default_rng((seed, 1)).permutation(480)[:100]
    probe, share = naive_plan(vectors, queries, centers)
    plan = planned(vectors, seed=seed)
    assert (plan.num_lists, plan.probe, plan.planning_queries) == (LISTS, probe, 100) and 1 < probe < LISTS
    assert plan.planned_recall == pytest.approx(share) and not plan.is_capped


def test_the_search_finds_what_was_planned(monkeypatch):
    vectors = clustered(2400, dim=64)
    sampled = neighbours(vectors, K, THRESHOLD, "lists", SearchSettings(64))
    assert sampled.visits == planned(vectors, num_lists=64) and sampled.visits.planning_queries == 256
    # Seven edges of each of 256 images, which an image finds or misses together: a standard error below 0.4 %.
    assert edge_recall(vectors, sampled, THRESHOLD, 2400) >= visits.RECALL - 0.008
    monkeypatch.setattr(visits, "_FEWEST", 2400)
    monkeypatch.setattr(visits, "_MOST", 2400)
    found = neighbours(vectors, K, THRESHOLD, "lists", SearchSettings(64))
    recall = edge_recall(vectors, found, THRESHOLD, 2400)
    assert recall == pytest.approx(found.visits.planned_recall, abs=1e-9) and recall >= visits.RECALL
    given = neighbours(vectors, K, THRESHOLD, "lists", SearchSettings(64, probe=2))
    assert given.visits == Visits(64, 2) and edge_recall(vectors, given, THRESHOLD, 2400) < visits.RECALL


def test_a_cap_ends_the_plan_and_is_told(monkeypatch):
    monkeypatch.setattr(visits, "MAX_PROBE", 2)
    plan = planned(clustered(480))
    assert plan.probe == 2 and plan.is_capped and 0.5 < plan.planned_recall < visits.RECALL
    assert planned(clustered(480), num_lists=1) == Visits(1, 1, 256, 1.0)


def test_images_without_neighbours_and_duplicates_take_one_visit():
    vectors = clustered(480)
    assert planned(vectors, threshold=1.0) == Visits(LISTS, 1, 256, None) and not planned(vectors, 1.0).is_capped
    same = np.repeat(vectors[:1], 40, axis=0)
    found = neighbours(same, K, THRESHOLD, "lists", SearchSettings(num_lists=5))
    assert found.visits == Visits(5, 1, 40, 1.0)  # all centers are equally near
    np.testing.assert_array_equal(found.indices, neighbours(same, K, THRESHOLD, "exact").indices)


def test_every_rank_plans_the_same(monkeypatch):
    vectors = torch.from_numpy(clustered(480)).half()
    settings = SearchSettings(LISTS, seed=3)
    one = neighbours(vectors, K, THRESHOLD, "lists", settings)
    parts = [
        neighbours(vectors, K, THRESHOLD, "lists", settings._replace(rank=rank, world_size=3)) for rank in range(3)
    ]
    assert {part.visits for part in parts} == {one.visits}
    merged = merge_neighbours(parts)
    assert merged.visits == one.visits
    np.testing.assert_array_equal(merged.indices, one.indices)
    np.testing.assert_array_equal(merged.similarities, one.similarities)


def test_nothing_is_planned_where_all_pairs_are_multiplied_or_a_number_is_given(monkeypatch):
    monkeypatch.setattr(nearest, "planned_visits", None)
    vectors = clustered(80)
    assert neighbours(vectors, K, THRESHOLD).visits is None
    assert neighbours(vectors, K, THRESHOLD, "lists", SearchSettings(4, probe=9)).visits == Visits(4, 4)
    for name in ("probe", "num_lists"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            neighbours(vectors, K, THRESHOLD, "lists", SearchSettings(**{name: 0}))


def test_figures_of_a_search_are_safe_in_json():
    assert visits.search_figures(None, float("nan")) == {"edge_recall": None, "visits": None}
    told = {"num_lists": 8, "probe": 2, "planning_queries": 5, "planned_recall": 0.5}
    assert visits.search_figures(Visits(8, 2, 5, 0.5), 0.25) == {"edge_recall": 0.25, "visits": told}
