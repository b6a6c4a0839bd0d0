from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import PKBatchSampler, PlannedBatches, ShuffleBatchSampler
from datasets.sampling.pk_plan import count_batches

COUNTS = st.lists(st.integers(1, 25), min_size=6, max_size=14)
SHAPES = st.sampled_from([(1, 3, 1), (2, 2, 1), (4, 2, 1), (4, 4, 2), (3, 6, 3), (4, 6, 2)])  # K, P, ranks
MODES = st.sampled_from(["images", "identities"])


def make_labels(counts, seed):
    """Labels with gaps between identities, in any order."""
    return np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(counts)), counts))


def greedy_batches(groups, per_batch):
    """The most batches of distinct identities: always serve those with the most groups left."""
    left, batches = sorted(groups), 0
    while sum(count > 0 for count in left) >= per_batch:
        left = sorted([*left[:-per_batch], *(count - 1 for count in left[-per_batch:])])
        batches += 1
    return batches


@settings(max_examples=80)
@given(COUNTS, SHAPES, MODES, st.integers(0, 5))
def test_batches_hold_distinct_identities_and_every_image_once(counts, shape, mode, seed):
    instances, per_batch, _ = shape
    labels = make_labels(counts, seed)
    sampler = PKBatchSampler(labels, instances * per_batch, instances, seed, epoch_by=mode)
    batches = list(sampler)
    sizes = Counter(labels.tolist())
    groups = [-(-count // instances) for count in counts] if mode == "images" else [1] * len(counts)

    assert len(batches) == len(sampler) == greedy_batches(groups, per_batch)
    placed = Counter()
    for batch in batches:
        blocks = np.array(batch).reshape(per_batch, instances)
        owners = labels[blocks]
        assert (owners == owners[:, :1]).all()
        assert len(set(owners[:, 0].tolist())) == per_batch
        placed.update(owners[:, 0].tolist())
        for owner, block in zip(owners[:, 0].tolist(), blocks.tolist(), strict=True):
            assert len(set(block)) == min(instances, sizes[owner])
            assert max(Counter(block).values()) == -(-instances // min(instances, sizes[owner]))

    uses = Counter(index for batch in batches for index in batch)
    for owner, size in sizes.items():
        own = [uses[index] for index in np.flatnonzero(labels == owner).tolist()]
        # Repeats only fill groups: what is not dropped comes once, and twice at most where there are K images.
        assert max(own) <= (2 if size >= instances else instances)
        if mode == "images" and placed[owner] == -(-size // instances):
            assert min(own) >= 1 and sum(own) - size < max(instances, 1)
    if mode == "images" and max(groups) <= len(batches):
        assert sum(groups) - sum(placed.values()) < per_batch

    summary = sampler.summary()
    wanted = len(labels) if mode == "images" else sum(min(count, instances) for count in counts)
    assert summary.num_images == len(uses) and summary.num_batches == len(batches)
    assert summary.num_repeated == sum(uses.values()) - len(uses)
    assert summary.num_dropped == wanted - len(uses) >= 0


@settings(max_examples=40)
@given(COUNTS, SHAPES, MODES, st.integers(0, 3))
def test_the_ranks_side_by_side_are_the_one_process_batches(counts, shape, mode, epoch):
    instances, per_batch, world_size = shape
    labels = make_labels(counts, 0)
    samplers = [
        PKBatchSampler(labels, instances * per_batch, instances, 1, rank, world_size, mode)
        for rank in range(world_size)
    ]
    alone = PKBatchSampler(labels, instances * per_batch, instances, 1, epoch_by=mode)
    for sampler in (*samplers, alone):
        sampler.set_epoch(epoch)
    for parts, whole in zip(zip(*samplers, strict=True), alone, strict=True):
        assert [index for part in parts for index in part] == whole
        owners = [set(labels[part].tolist()) for part in parts]
        assert sum(map(len, owners)) == len(set().union(*owners)) == per_batch
    keys = [list(sampler.keys()) for sampler in samplers]
    for parts, whole in zip(zip(*keys, strict=True), alone.keys(), strict=True):
        assert [key for part in parts for key in part] == whole


@settings(max_examples=40)
@given(COUNTS, st.integers(0, 4), st.data())
def test_a_resumed_sampler_yields_exactly_the_remaining_batches(counts, epoch, data):
    labels = make_labels(counts, 1)
    sampler = PKBatchSampler(labels, 8, 2, seed=5)
    sampler.set_epoch(epoch)
    whole, iterator = list(sampler), iter(sampler)
    done = data.draw(st.integers(0, len(whole) - 1))
    assert [next(iterator) for _ in range(done)] == whole[:done]
    state = sampler.state_dict()
    assert state == {"seed": 5, "epoch": epoch, "batches_done": done}

    parts = [PKBatchSampler(labels, 8, 2, 77, rank, 2) for rank in range(2)]
    for part in parts:
        part.load_state_dict(state)
        part.set_epoch(epoch)  # what the trainer does at the start of the epoch it resumes
        assert part.state_dict() == state and len(part) == len(whole)
    resumed = [first + second for first, second in zip(*parts, strict=True)]
    assert resumed == whole[done:]
    # The next epoch is a whole one, the same that the sampler that was not stopped has.
    sampler.set_epoch(epoch + 1)
    for part in parts:
        part.set_epoch(epoch + 1)
        assert part.state_dict()["batches_done"] == 0
    assert [first + second for first, second in zip(*parts, strict=True)] == list(sampler)


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next():
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8, 4)
    list(sampler)
    state = sampler.state_dict()
    assert state == {"seed": 0, "epoch": 0, "batches_done": len(sampler)}
    sampler.set_epoch(1)
    following = list(sampler)
    resumed = PKBatchSampler(np.repeat(np.arange(6), 8), 8, 4)
    resumed.load_state_dict(state)
    assert list(resumed) == following
    assert resumed.state_dict()["epoch"] == 1


def test_a_discarded_iterator_does_not_lose_the_position():
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8, 4)
    whole = list(sampler)
    sampler.load_state_dict({"seed": 0, "epoch": 0, "batches_done": 2})
    assert next(iter(sampler)) == whole[2]
    assert list(sampler) == whole[2:]
    assert list(sampler) == whole


def test_the_position_is_counted_and_may_be_given():
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8, 4)
    iterator = iter(sampler)
    for done in (1, 2, 3):
        next(iterator)
        assert sampler.state_dict()["batches_done"] == done
    assert sampler.state_dict(batches_done=1) == {"seed": 0, "epoch": 0, "batches_done": 1}


def test_keys_are_the_batches_with_their_place_in_the_plan():
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8, 4, seed=2, rank=1, world_size=2)
    sampler.set_epoch(3)
    batches, keys = list(sampler), list(sampler.keys())
    assert [[key.index for key in batch] for batch in keys] == batches
    flat = sampler.plan().ravel()
    for number, batch in enumerate(keys):
        assert [key.position for key in batch] == list(range(8 * number + 4, 8 * number + 8))
        assert all(key.epoch == 3 and flat[key.position] == key.index for key in batch)


def test_the_plan_follows_seed_and_epoch():
    labels = np.repeat(np.arange(10), 8)
    first, second = PKBatchSampler(labels, 16, seed=1), PKBatchSampler(labels, 16, seed=1)
    base = list(first)
    assert base == list(second) == list(first)
    first.set_epoch(1)
    assert list(first) != base
    assert list(PKBatchSampler(labels, 16, seed=2)) != base
    first.set_epoch(0)
    assert list(first) == base


def test_planned_batches_pass_everything_on():
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8)
    batches = PlannedBatches(sampler)
    assert batches.sampler is sampler and sampler.sampler is sampler and len(batches) == len(sampler)
    batches.sampler.set_epoch(2)
    expected = list(sampler.keys())
    assert list(batches) == expected and batches.state_dict()["epoch"] == 2
    batches.load_state_dict(batches.state_dict(batches_done=1))
    assert list(batches) == expected[1:]
    batches.set_epoch(0)
    assert sampler.epoch == 0


def test_identities_that_share_few_batches_are_mixed():
    # A cyclic layout would put the same identities together in most of their batches.
    labels = np.repeat(np.arange(64), 64)
    plan = labels[PKBatchSampler(labels, 32, seed=0).plan()[:, ::4]]
    together = np.zeros((64, 64), int)
    for batch in plan:
        together[np.ix_(batch, batch)] += 1
    np.fill_diagonal(together, 0)
    # 16 groups each in 128 batches of 8: two identities meet twice on average.
    assert together.max() <= 9
    # Each is on both halves of the batches, so no rank keeps an identity to itself.
    on_first = np.bincount(plan[:, :4].ravel(), minlength=64)
    assert on_first.min() >= 2 and on_first.max() <= 14


def test_an_identity_larger_than_all_others_is_in_every_batch():
    labels = np.repeat([0, 1, 2, 3], [1000, 8, 8, 8])
    sampler = PKBatchSampler(labels, 8, 4, seed=0)
    assert len(sampler) == 6
    assert all(0 in labels[batch] for batch in sampler)
    assert sampler.summary().num_dropped == 1000 - 24


def test_the_summary_is_one_line():
    sampler = PKBatchSampler(np.repeat(np.arange(5), 5), 8)
    assert str(sampler.summary()) == (
        "epoch 0: 5 batches of 25 images, 15 repeated to fill groups, 0 left out with the last partial batch"
    )


def test_a_batch_of_one_identity_and_a_count_without_batches():
    assert count_batches(np.array([3, 1]), 1) == 4
    assert count_batches(np.array([5, 1]), 2) == 1
    assert len(PKBatchSampler([7, 7], 4)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 10}, "multiple of the 4 images per identity, got 10"),
        ({"batch_size": 0}, "positive multiple"),
        ({"batch_size": 12, "world_size": 2}, "3 identities, which cannot be divided among 2 ranks; .* multiple of 8"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, r"rank must be in \[0, world_size = 2\), got 2"),
        ({"batch_size": 32}, "needs 8 identities .*the data hold 5; the largest batch that works is 20"),
        ({"batch_size": 32, "world_size": 2}, "the largest batch that works is 16"),
        ({"batch_size": 32, "world_size": 8}, "8 ranks need 8"),
        ({"batch_size": 8, "epoch_by": "steps"}, "epoch_by must be one of"),
        ({"batch_size": 8, "labels": []}, "non-empty"),
        ({"batch_size": 8, "labels": [[1, 2]]}, "non-empty list"),
        ({"batch_size": 8, "labels": [0, -1]}, "labels must be >= 0, got -1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, message):
    arguments = {"labels": np.repeat(np.arange(5), 5), **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        PKBatchSampler(**arguments)
    assert "\n" not in str(caught.value)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        PKBatchSampler([0.0, 1.0], 4)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seed": 0, "epoch": 0}, r"missing \['batches_done'\]"),
        ({"seed": 0, "epoch": 0, "batches_done": 7}, r"must be in \[0, 6\], got 7"),
        ({"seed": 0, "epoch": 0, "batches_done": -1}, r"must be in \[0, 6\], got -1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state, message):
    sampler = PKBatchSampler(np.repeat(np.arange(6), 8), 8)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(state)


# ---------------------------------------------------------------- shuffled images


@given(st.integers(12, 90), st.sampled_from([(6, 1), (6, 2), (6, 3), (12, 4)]), st.integers(0, 3), st.data())
def test_shuffled_batches_hold_every_image_once_on_any_ranks_and_are_resumed_exactly(images, shape, epoch, data):
    batch_size, world_size = shape
    alone = ShuffleBatchSampler(images, batch_size, seed=3)
    alone.set_epoch(epoch)
    whole = list(alone)
    used = [index for batch in whole for index in batch]
    assert len(whole) == len(alone) == images // batch_size
    assert all(len(batch) == batch_size for batch in whole)
    assert len(set(used)) == len(used) and set(used) <= set(range(images))
    summary = alone.summary()
    assert (summary.num_images, summary.num_repeated, summary.num_dropped) == (len(used), 0, images % batch_size)

    done = data.draw(st.integers(0, len(whole) - 1))
    ranks = [ShuffleBatchSampler(images, batch_size, 9, rank, world_size) for rank in range(world_size)]
    for rank in ranks:
        rank.load_state_dict({"seed": 3, "epoch": epoch, "batches_done": done})
        rank.set_epoch(epoch)
    parts = list(zip(*(rank.keys() for rank in ranks), strict=True))
    assert [[key.index for part in of_ranks for key in part] for of_ranks in parts] == whole[done:]
    positions = [key.position for of_ranks in parts for part in of_ranks for key in part]
    assert positions == list(range(done * batch_size, len(used)))
    alone.set_epoch(epoch + 1)
    for rank in ranks:
        rank.set_epoch(epoch + 1)
    whole_next = [[index for part in parts for index in part] for parts in zip(*ranks, strict=True)]
    assert whole_next == list(alone) != whole


def test_shuffled_batches_leave_other_images_out_in_each_epoch():
    sampler = ShuffleBatchSampler(30, 16)
    left_out = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        left_out.append(frozenset(range(30)) - {index for batch in sampler for index in batch})
    assert len(set(left_out)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 4), "a batch of 4 needs as many images, got 3"),
        ((8, 0), "positive multiple"),
        ((8, 4, 0, 0, 3), "a batch of 4 of single images cannot be divided among 3 ranks; choose a multiple of 3"),
        ((8, 4, 0, 2, 2), r"rank must be in \[0, world_size = 2\)"),
    ],
)
def test_shuffled_batches_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"ShuffleBatchSampler: .*{message}"):
        ShuffleBatchSampler(*arguments)
