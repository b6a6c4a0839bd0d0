import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import PlannedBatches
from datasets.sampling import graph_sampler as module
from datasets.sampling.graph_plan import draw_distinct
from datasets.sampling.graph_sampler import GraphBatchSampler

COUNTS = st.lists(st.integers(1, 12), min_size=6, max_size=14)
SHAPES = st.sampled_from([(1, 3, 1), (2, 2, 1), (4, 1, 1), (4, 4, 2), (3, 6, 3), (4, 6, 2)])  # K, P, ranks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)


def make_labels(counts, seed):
    """Labels with gaps between identities, in any order."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(counts)), counts))


def make_table(num_identities, width, seed=0):
    """Any neighbours: the first of a random order of the others."""
    rng = np.random.default_rng(seed)
    return np.array(
        [rng.permutation([j for j in range(num_identities) if j != i])[:width] for i in range(num_identities)]
    )


def owners(batch, labels, instances):
    """The identities of a batch's blocks, numbered by ascending label."""
    blocks = labels[np.array(batch)].reshape(-1, instances) // 3
    assert (blocks == blocks[:, :1]).all()
    return blocks[:, 0].tolist()


# ---------------------------------------------------------------- batches


@settings(max_examples=60)
@given(COUNTS, SHAPES, st.integers(0, 5), st.integers(0, 3))
def test_a_batch_is_an_identity_with_its_nearest_and_each_is_the_anchor_of_one(counts, shape, seed, epoch):
    instances, per_batch, _ = shape
    labels, table = make_labels(counts, seed), make_table(len(counts), len(counts) - 1, seed)
    sampler = GraphBatchSampler(labels, instances * per_batch, instances, seed)
    sampler.set_neighbours(table)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == len(counts)

    found = [owners(batch, labels, instances) for batch in batches]
    assert all(len(set(identities)) == per_batch for identities in found)
    neighbourhoods = [frozenset([i, *table[i, : per_batch - 1].tolist()]) for i in range(len(counts))]
    assert Counter(map(frozenset, found)) == Counter(neighbourhoods)

    for batch, identities in zip(batches, found, strict=True):
        for identity, block in zip(identities, np.reshape(batch, (per_batch, instances)).tolist(), strict=True):
            uses = Counter(block)
            assert len(uses) == min(instances, counts[identity])
            assert max(uses.values()) == -(-instances // len(uses))


@settings(max_examples=40)
@given(COUNTS, SHAPES, st.integers(0, 5))
def test_before_the_first_table_a_batch_is_an_identity_with_random_others(counts, shape, seed):
    instances, per_batch, _ = shape
    labels = make_labels(counts, seed)
    found = [owners(batch, labels, instances) for batch in GraphBatchSampler(labels, instances * per_batch, instances)]
    assert len(found) == len(counts)
    assert all(len(set(identities)) == per_batch for identities in found)
    assert set().union(*found) == set(range(len(counts)))


@settings(max_examples=40)
@given(COUNTS, SHAPES, st.integers(0, 3), st.booleans())
def test_the_ranks_side_by_side_are_the_one_process_batches(counts, shape, epoch, has_table):
    instances, per_batch, world_size = shape
    labels = make_labels(counts, 0)
    samplers = [
        GraphBatchSampler(labels, instances * per_batch, instances, 1, rank, world)
        for rank, world in [(0, 1), *((rank, world_size) for rank in range(world_size))]
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        if has_table:
            sampler.set_neighbours(make_table(len(counts), per_batch - 1))
    whole, *parts = [list(sampler.keys()) for sampler in samplers]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        together = [part[number] for part in parts]
        assert [draw for part in together for draw in part] == batch
        held = [set(labels[[draw.index for draw in part]].tolist()) for part in together]
        assert sum(map(len, held)) == len(set().union(*held)) == per_batch


def test_draws_are_the_plan_with_its_places():
    sampler = GraphBatchSampler(make_labels([8] * 9, 0), 8, 2, seed=2, rank=1, world_size=2)
    sampler.set_neighbours(make_table(9, 3))
    sampler.set_epoch(3)
    batches, draws, plan = list(sampler), list(PlannedBatches(sampler)), sampler.plan()
    assert plan.shape == (9, 8) and plan.dtype == np.int64
    assert batches == plan[:, 4:].tolist() == [[draw.index for draw in batch] for batch in draws]
    for number, batch in enumerate(draws):
        assert [draw.position for draw in batch] == list(range(8 * number + 4, 8 * number + 8))
        assert {draw.epoch for draw in batch} == {3}


def test_the_plan_follows_seed_epoch_and_table_alone():
    labels = make_labels([8] * 10, 0)

    def plan(seed=1, epoch=2, table=0, num_before=0):
        sampler = GraphBatchSampler(labels, 16, seed=seed)
        for other in range(num_before):
            sampler.set_neighbours(make_table(10, 5, seed=7 + other))
            list(sampler)
        sampler.set_neighbours(make_table(10, 5, seed=table))
        sampler.set_epoch(epoch)
        return list(sampler)

    base = plan()
    assert plan() == plan(num_before=2) == base
    assert all(other != base for other in (plan(seed=3), plan(epoch=0), plan(table=1)))


def test_the_order_within_a_batch_gives_every_rank_anchors_and_neighbours():
    labels = np.repeat(np.arange(200), 2)
    sampler = GraphBatchSampler(labels, 8, 2)
    sampler.set_neighbours((np.arange(200)[:, None] + [1, 2, 3]) % 200)
    found = np.sort(labels[sampler.plan()[:, ::2]], axis=1)
    nearest_to = {frozenset((i + np.arange(4)) % 200): i for i in range(200)}
    anchors = [nearest_to[frozenset(row.tolist())] for row in found]
    places = np.bincount(np.argmax(labels[sampler.plan()[:, ::2]] == np.array(anchors)[:, None], axis=1), minlength=4)
    assert sorted(anchors) == list(range(200)) and anchors != sorted(anchors)
    assert places.min() > 25


# ---------------------------------------------------------------- chance


def test_every_set_of_images_is_equally_likely():
    drawn = draw_distinct(np.full(6000, 5), 3, np.random.default_rng(0))
    uses = Counter(frozenset(row) for row in drawn.tolist())
    assert set(uses) == {frozenset(chosen) for chosen in combinations(range(5), 3)}
    assert max(abs(count - 600) for count in uses.values()) < 100  # 4 standard deviations


def test_images_and_random_others_are_spread_evenly():
    labels = np.repeat(np.arange(10), 6)
    sampler = GraphBatchSampler(labels, 20, 4)
    images, together = np.zeros(60, int), np.zeros((10, 10), int)
    for epoch in range(60):
        sampler.set_epoch(epoch)
        plan = sampler.plan()
        images += np.bincount(plan.ravel(), minlength=60)
        for row in labels[plan[:, ::4]]:
            together[np.ix_(row, row)] += 1
    # 600 batches of 5 of the 10 identities, 4 of their 6 images each: 200 uses of an image, 133 of a pair.
    assert np.abs(images - 200).max() < 50
    np.fill_diagonal(together, 133)
    assert np.abs(together - 133).max() < 45


def test_pictures_are_one_of_each_identity_and_change_with_the_epoch():
    labels = make_labels([6] * 40, 1)
    sampler = GraphBatchSampler(labels, 8, 2, seed=4)
    first, second = sampler.draw_pictures(0), sampler.draw_pictures(1)
    for pictures in (first, second):
        assert labels[pictures].tolist() == [3 * identity for identity in range(40)]
    assert (first != second).sum() > 20
    assert first.tolist() == GraphBatchSampler(labels, 16, 4, seed=4, world_size=2).draw_pictures(0).tolist()
    assert first.tolist() != GraphBatchSampler(labels, 8, 2, seed=5).draw_pictures(0).tolist()


# ---------------------------------------------------------------- position


@settings(max_examples=40)
@given(COUNTS, st.integers(0, 4), st.booleans(), st.data())
def test_a_resumed_sampler_with_the_table_yields_exactly_the_remaining_batches(counts, epoch, has_table, data):
    labels = make_labels(counts, 1)
    table = make_table(len(counts), 3) if has_table else None

    def build(*args):
        sampler = GraphBatchSampler(labels, 8, 2, *args)
        if table is not None:
            sampler.set_neighbours(table)
        return sampler

    sampler = build(5)
    sampler.set_epoch(epoch)
    whole, iterator = list(sampler), iter(sampler)
    done = data.draw(st.integers(0, len(whole) - 1))
    assert [next(iterator) for _ in range(done)] == whole[:done]
    state = sampler.state_dict()
    assert state == {"seed": 5, "epoch": epoch, "batches_done": done}

    parts = [build(77, rank, 2) for rank in range(2)]
    for part in parts:
        part.load_state_dict(state)
        part.set_epoch(epoch)  # what the trainer does at the start of the epoch it resumes
        assert part.state_dict() == state
    assert [first + second for first, second in zip(*parts, strict=True)] == whole[done:]
    for each in (sampler, *parts):
        each.set_epoch(epoch + 1)
    assert [first + second for first, second in zip(*parts, strict=True)] == list(sampler)


def test_the_end_of_an_epoch_is_the_start_of_the_next_and_a_discarded_iterator_loses_nothing():
    sampler = GraphBatchSampler(make_labels([4] * 6, 0), 8, 4)
    whole = list(sampler)
    assert sampler.state_dict()["batches_done"] == 6
    sampler.load_state_dict({"seed": 0, "epoch": 0, "batches_done": 5})
    assert next(iter(sampler)) == whole[5]
    assert list(sampler) == whole[5:]
    assert list(sampler) == whole
    sampler.load_state_dict({"seed": 0, "epoch": 0, "batches_done": 6})
    assert sampler.state_dict() == {"seed": 0, "epoch": 1, "batches_done": 0}


def test_a_new_table_leaves_the_running_iteration_alone():
    sampler = GraphBatchSampler(make_labels([4] * 12, 0), 8, 2)
    sampler.set_neighbours(make_table(12, 3, seed=1))
    whole, plan = list(sampler), sampler.plan()
    iterator = iter(sampler)
    start = [next(iterator) for _ in range(5)]
    sampler.set_neighbours(make_table(12, 3, seed=2))
    assert start + list(iterator) == whole
    assert list(sampler) != whole
    assert not np.array_equal(sampler.plan(), plan)


def test_the_table_is_a_copy_and_the_nearest_of_it_are_used():
    sampler = GraphBatchSampler(make_labels([4] * 6, 0), 6, 2)
    table = make_table(6, 5)
    sampler.set_neighbours(table)
    expected = table[:, :2].copy()
    table[:] = -1
    assert sampler.neighbours.dtype == np.int32
    assert np.array_equal(sampler.neighbours, expected)


def test_the_summary_is_one_line():
    sampler = GraphBatchSampler(make_labels([4] * 6, 0), 12)
    assert sampler.summary() == "epoch 0: 6 batches, each an identity with 2 of random others, 4 images of each"
    sampler.set_neighbours(make_table(6, 2))
    assert "2 of its nearest neighbours" in sampler.summary()


def test_an_epoch_is_drawn_in_little_memory(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 256)
    num_identities, batch_size = 12_000, 64
    sampler = GraphBatchSampler(np.repeat(np.arange(num_identities), 5), batch_size, rank=0, world_size=16)
    sampler.set_neighbours((np.arange(num_identities)[:, None] + np.arange(1, 16)) % num_identities)
    tracemalloc.start()
    num_batches = sum(1 for _ in sampler)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_batches == num_identities
    assert peak < num_identities * batch_size * 8 / 2, "the whole plan would be twice as much"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 10}, r"multiple of 4 \(4 images per identity, 1 ranks .*got 10"),
        ({"batch_size": 0}, "positive multiple"),
        ({"batch_size": 8, "instances": 0}, "positive multiple"),
        ({"batch_size": 12, "world_size": 2}, "positive multiple of 8 .*got 12"),
        ({"batch_size": 8, "world_size": 0}, "positive multiple"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, r"rank must be in \[0, world_size = 2\), got 2"),
        ({"batch_size": 24}, "batch of 24 needs 6 identities with 4 images each, the data hold 5"),
        ({"batch_size": 8, "labels": []}, "GraphBatchSampler: labels must be a non-empty"),
        ({"batch_size": 8, "labels": [0, -1]}, "labels must be >= 0, got -1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, message):
    arguments = {"labels": np.repeat(np.arange(5), 5), **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        GraphBatchSampler(**arguments)
    assert "\n" not in str(caught.value)


def test_a_batch_may_hold_all_identities():
    assert len(GraphBatchSampler(np.repeat(np.arange(5), 5), 20)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:5], r"must be \[6, 2 or more\], .*got \[5, 3\]"),
        (lambda table: table[:, :1], r"must be \[6, 2 or more\], .*got \[6, 1\]"),
        (lambda table: table[0], r"got \[3\]"),
        (lambda table: np.where(table == 5, 6, table), r"rows hold an identity outside \[0, 6\)"),
        (lambda table: np.where(table == 5, -1, table), r"rows hold an identity outside \[0, 6\)"),
        (lambda table: (table - [1, 0, 0]) % 6, r"6 rows hold itself, the first is row 0: \[0, 2\]"),
        (lambda table: table[:, [0, 0, 1]], r"6 rows hold an identity twice, the first is row 0: \[1, 1\]"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(change, message):
    sampler = GraphBatchSampler(np.repeat(np.arange(6), 5), 12)
    table = (np.arange(6)[:, None] + [1, 2, 3]) % 6
    sampler.set_neighbours(table)
    with pytest.raises(ValueError, match=message) as caught:
        sampler.set_neighbours(change(table))
    assert "\n" not in str(caught.value)
    assert np.array_equal(sampler.neighbours, table[:, :2])


def test_labels_and_tables_must_be_integers():
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        GraphBatchSampler([0.0, 1.0], 4)
    with pytest.raises(TypeError, match="table must be integers, got float64"):
        GraphBatchSampler(np.repeat(np.arange(6), 5), 12).set_neighbours(np.ones((6, 2)))
