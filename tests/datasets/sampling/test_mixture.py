"""Batches from several data sets: quotas, what is drawn of each set, ranks and resuming."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from datasets import (
    Curriculum,
    CurriculumMix,
    ImageFolderDataset,
    MixedView,
    MixtureBatchSampler,
    PKBatchSampler,
    PlannedBatches,
    TrainingView,
    collate,
)
from transforms import OCCLUDERS, TrainingTransform

SETS = st.lists(st.lists(st.integers(1, 14), min_size=8, max_size=16), min_size=1, max_size=5)
WEIGHTS = st.lists(st.floats(0.01, 10), min_size=5, max_size=5)
SHAPES = st.sampled_from([(1, 3, 1), (4, 4, 2), (2, 8, 4), (4, 6, 3), (None, 8, 2)])  # K, P, ranks


def make_labels(counts, seed=0):
    """Labels with gaps between identities, in any order."""
    return np.random.default_rng(seed).permutation(np.repeat(2 * np.arange(len(counts)), counts))


def make(sets, shape, weights=None, seed=0, rank=0, world_size=1):
    instances, per_batch, _ = shape
    labels = [make_labels(counts, number) for number, counts in enumerate(sets)]
    weights = weights and weights[: len(sets)]
    batch_size = per_batch * (instances or 1)
    return labels, MixtureBatchSampler(labels, batch_size, weights, instances, seed, rank, world_size)


def side_by_side(ranks):
    """The batches of all ranks, each batch as one process has it."""
    return [[place for part in parts for place in part] for parts in zip(*ranks, strict=True)]


@settings(deadline=None)
@given(SETS, SHAPES, st.none() | WEIGHTS, st.integers(0, 2))
def test_a_batch_holds_the_quota_of_each_set_in_groups_of_different_identities(sets, shape, weights, epoch):
    labels, sampler = make(sets, shape, weights)
    sampler.set_epoch(epoch)
    instances, per_batch, _ = shape
    quotas = sampler.quotas()
    assert quotas.shape == (len(sampler), len(sets)) and (quotas.sum(1) == per_batch).all()
    batches = list(sampler.keys())
    assert len(batches) == len(sampler)
    for quota, batch in zip(quotas.tolist(), batches, strict=True):
        groups = np.array([key[:2] for key in batch]).reshape(per_batch, instances or 1, 2)
        assert (groups[..., 0] == groups[:, :1, 0]).all(), "a group is of one set"
        owners = []
        for group in groups:
            number, indices = int(group[0, 0]), group[:, 1].tolist()
            of_set = labels[number][indices]
            assert len(set(of_set.tolist())) == 1
            size = int((labels[number] == of_set[0]).sum())
            assert instances is None or len(set(indices)) == min(instances, size)
            owners.append((number, indices[0] if instances is None else int(of_set[0])))
        assert len(set(owners)) == per_batch
        assert np.bincount([number for number, _ in owners], minlength=len(sets)).tolist() == quota


@settings(deadline=None, max_examples=60)
@given(SETS, st.integers(1, 8), st.none() | WEIGHTS)
def test_the_groups_of_a_set_stay_within_two_of_its_share_through_all_epochs(sets, per_batch, weights):
    _, sampler = make(sets, (4, per_batch, 1), weights)
    shares = [sum(-(-count // 4) for count in counts) for counts in sets] if weights is None else weights[: len(sets)]
    shares = np.array(shares) / sum(shares)
    given_so_far, batches = np.zeros(len(sets)), 0
    for epoch in range(6):
        sampler.set_epoch(epoch)
        for quota in sampler.quotas():
            batches += 1
            given_so_far += quota
            assert np.abs(given_so_far - batches * per_batch * shares).max() < 2
    later = make(sets, (4, per_batch, 1), weights)[1]
    later.set_epoch(5)
    np.testing.assert_array_equal(later.quotas(), sampler.quotas())


@pytest.mark.parametrize("instances", [4, None])
def test_a_set_is_passed_evenly_however_small_or_large_its_share(instances):
    sets, weights = [[8] * 20, [4] * 60, [12] * 15], [6, 1, 2]
    labels, sampler = make(sets, (instances, 8, 1), weights)
    used_of_second = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        uses = Counter((key.dataset, key.index) for batch in sampler.keys() for key in batch)
        drawn = sampler.quotas().sum(0) * (instances or 1)
        used_of_second.append(frozenset(index for number, index in uses if number == 1))
        for number, of_set in enumerate(labels):
            counts = [uses[number, index] for index in range(len(of_set))]
            assert sum(counts) == drawn[number]
            assert {min(counts), max(counts)} <= {drawn[number] // len(of_set), -(-drawn[number] // len(of_set))}
    assert drawn[0] > 1.5 * len(labels[0]) and drawn[1] < 0.5 * len(labels[1])
    assert len(set(used_of_second)) == 3, "other images in each epoch"
    sizes = list(map(len, labels))
    passes = [f"set {n}: {drawn[n]} of {sizes[n]} images, {drawn[n] / sizes[n]:.2f} passes" for n in range(3)]
    assert sampler.summary() == f"epoch 2: {len(sampler)} batches; " + "; ".join(passes)


@pytest.mark.parametrize("instances", [4, None])
@pytest.mark.parametrize("final", [None, [1, 7, 2]])
def test_what_was_drawn_of_each_set_is_the_sum_of_the_quotas(instances, final):
    mix = CurriculumMix(Curriculum(1, 3), [6, 1, 2], final)
    labels, _ = make([[8] * 20, [4] * 60, [12] * 15], (4, 8, 1))

    def build():
        return MixtureBatchSampler(labels, 8 * (instances or 1), mix, instances)

    sampler, before = build(), np.zeros(3, np.int64)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        quotas = sampler.quotas() * (instances or 1)
        for batches in (0, 1, 5, len(sampler)):
            expected = (before + quotas[:batches].sum(0)).tolist()
            assert sampler.drawn(epoch, batches).tolist() == build().drawn(epoch, batches).tolist() == expected
        before += quotas.sum(0)


def test_sets_are_called_by_their_names():
    _, sampler = make([[8] * 20, [4] * 60], (4, 5, 1), [1, 1])
    sampler.names = ["web", "masked"]
    assert "; set web: 200 of 160 images, " in sampler.summary() and "; set masked: " in sampler.summary()
    assert sampler.warnings(1000)[0].startswith("Set web has 160 images and is passed ")


def test_without_weights_every_set_is_passed_once():
    labels, sampler = make([[8] * 20, [4] * 60, [12] * 15], (4, 5, 1))
    uses = Counter(index for batch in sampler for index in batch)
    assert len(sampler) == (40 + 60 + 45) // 5
    assert set(uses.values()) == {1} and len(uses) == sum(map(len, labels))


@settings(deadline=None, max_examples=40)
@given(SETS, SHAPES, st.none() | WEIGHTS, st.integers(0, 3), st.data())
def test_any_ranks_resume_at_any_batch_and_are_the_one_process_batches(sets, shape, weights, epoch, data):
    world_size = shape[2]
    _, alone = make(sets, shape, weights, seed=5)
    alone.set_epoch(epoch)
    whole, indices = list(alone.keys()), list(alone)
    done = data.draw(st.integers(0, len(whole) - 1))
    state = alone.state_dict(batches_done=done)
    ranks = [make(sets, shape, weights, 77, rank, world_size)[1] for rank in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(state)
        rank.set_epoch(epoch)
    assert side_by_side([rank.keys() for rank in ranks]) == whole[done:]
    alone.set_epoch(epoch + 1)
    for rank in ranks:
        rank.set_epoch(epoch + 1)
    assert side_by_side(ranks) == list(alone)
    alone.set_epoch(epoch)
    assert list(alone) == indices


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.3, 0.6, 0.1], [3, 6, 1]),
        ([2, 1, 2], [4, 2, 4]),
        ([1 / 3, 1 / 3, 1 / 6], [4, 4, 2]),
        ([3e-9, 6e-9, 1e-9], [3, 6, 1]),
    ],
)
def test_weights_that_divide_a_batch_give_every_batch_the_same_quotas(weights, expected):
    # A set has as many identities as its quota: one more is not there to be asked for.
    sampler = make([[4] * count for count in expected], (4, 10, 1), weights)[1]
    for epoch in (0, 7):
        sampler.set_epoch(epoch)
        assert (sampler.quotas() == expected).all()
    assert len(list(sampler)) == len(sampler) == 1


def test_every_rank_gets_about_its_share_of_every_set():
    for world_size in (2, 4, 8):
        sets = [[8] * 40, [4] * 80, [12] * 30]
        parts = [make(sets, (4, 32, 1), [5, 2, 1], 0, rank, world_size)[1] for rank in range(world_size)]
        quotas = parts[0].quotas()
        for part in parts:
            for batch, quota in zip(part.keys(), quotas, strict=True):
                groups = np.bincount([key.dataset for key in batch[::4]], minlength=3)
                assert np.abs(groups - quota / world_size).max() <= 2


def test_identities_of_a_set_meet_others_in_each_batch():
    labels = np.repeat(np.arange(64), 64)
    sampler = MixtureBatchSampler([labels, labels], 32, [3, 1])
    together = np.zeros((64, 64), int)
    for batch in sampler.keys():
        owners = [int(labels[key.index]) for key in batch[::4] if key.dataset == 0]
        together[np.ix_(owners, owners)] += 1
    np.fill_diagonal(together, 0)
    # 24 groups each in 256 batches of 6: two identities meet not quite twice on average.
    assert together.max() <= 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], 8), ValueError, "0 sets need as many weights"),
        (([[0, 1]], 10), ValueError, "multiple of the 4 images per identity"),
        (([[0, 1]], 4, None, 0), ValueError, "multiple of the 0 images per identity"),
        (([[0, 1]] * 2, 8, [1, 0]), ValueError, r"2 sets need as many weights, finite and above 0, got \[1, 0\]"),
        (([[0, 1]] * 2, 8, [1, float("nan")]), ValueError, "finite and above 0"),
        (([[0, 1]] * 2, 8, [1e308, 1e-308]), ValueError, "would never be drawn from"),
        (([[0, 1]] * 2, 8, [1]), ValueError, "2 sets need as many weights"),
        (([[0, 1, 2], [0, 1]], 16, [1, 3]), ValueError, "3 groups of 4 images from set 1, which has 2 identities"),
        (([[0, 1], []], 8), ValueError, "non-empty"),
        (([[0.5]], 8), TypeError, "labels must be integers"),
    ],
)
def test_mixtures_that_cannot_be_made_are_refused_in_one_line(arguments, error, message):
    with pytest.raises(error, match=f"MixtureBatchSampler: .*{message}") as caught:
        MixtureBatchSampler(*arguments)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- real loaders


@pytest.fixture
def views(make_folder, tmp_path):
    """Two sets whose labels overlap, each augmented in its own way; both with a second view."""
    everything = TrainingTransform(tuple(OCCLUDERS), 0.4, low_res_prob=0.3, photometric_prob=0.3)
    folders = [make_folder([4, 3, 5, 4], tmp_path / "web"), make_folder([6, 5, 4], tmp_path / "masked")]
    transforms = [TrainingTransform(), everything]
    return [
        TrainingView(ImageFolderDataset(folder), transform, seed=3, second=everything)
        for folder, transform in zip(folders, transforms, strict=True)
    ]


def load(views, workers=0, state=None, rank=0, world_size=1):
    sampler = MixtureBatchSampler([view.labels for view in views], 8, [3, 1], 2, 3, rank, world_size)
    if state is not None:
        sampler.load_state_dict(state)
    loader = DataLoader(
        MixedView(views), batch_sampler=PlannedBatches(sampler), collate_fn=collate, num_workers=workers
    )
    return list(loader)


def arrays(batch):
    return [*batch[:6], *(arrays(batch.second) if batch.second is not None else [])]


def test_a_loader_of_two_sets_gives_the_same_batches_with_workers_ranks_and_after_a_resume(views):
    whole = load(views)
    assert len(whole) >= 2
    for alone, shared in zip(whole, load(views, workers=2), strict=True):
        assert all(map(torch.equal, arrays(alone), arrays(shared))) and len(arrays(shared)) == 12
    state = {"seed": 3, "epoch": 0, "batches_done": 1}
    parts = [load(views, workers=1, state=state, rank=rank, world_size=2) for rank in range(2)]
    for expected, *halves in zip(whole[1:], *parts, strict=True):
        for values, *of_ranks in zip(arrays(expected), *map(arrays, halves), strict=True):
            assert torch.equal(values, torch.cat(of_ranks))


def test_a_mixed_batch_is_the_samples_of_its_sets_with_their_own_labels(views):
    mixed = MixedView(views)
    assert len(mixed) == 16 + 15
    sampler = MixtureBatchSampler([view.labels for view in views], 8, instances=2)
    for keys in sampler.keys():
        batch = collate(mixed.__getitems__(keys))
        assert batch.dataset_id.tolist() == [key.dataset for key in keys]
        assert batch.label.tolist() == [views[key.dataset].labels[key.index] for key in keys]
        for row, key in enumerate(keys):
            for values, expected in zip(arrays(batch), arrays(views[key.dataset][key]), strict=True):
                np.testing.assert_array_equal(values[row], expected)


def test_one_set_alone_is_what_it_is_without_a_mixture(views):
    sampler = PKBatchSampler(views[0].labels, 4, 2)
    for keys in sampler.keys():
        for values, expected in zip(
            arrays(MixedView(views).__getitems__(keys)), arrays(views[0].__getitems__(keys)), strict=True
        ):
            np.testing.assert_array_equal(values, expected)


def test_views_of_unlike_number_are_refused(views):
    single = TrainingView(views[0].dataset, TrainingTransform(), seed=3)
    with pytest.raises(ValueError, match=r"MixedView: .* second"):
        MixedView([views[0], single])
    with pytest.raises(ValueError, match="at least one view"):
        MixedView([])
