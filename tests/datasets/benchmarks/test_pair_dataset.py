from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from datasets import Benchmark, PairDataset, PairSample, load_benchmark, save_benchmark, shard_pairs
from transforms import OCCLUDERS


class FakeView(NamedTuple):
    image: np.ndarray
    visibility: np.ndarray


def stamp(image, rng, names):
    """An occluder that shows its generator and the names it got."""
    image = image.copy()
    image[0, :, 0] = rng.integers(0, 256, 112)
    image[1, :, 0] = len(names)
    return FakeView(image, np.ones((112, 112), np.uint8))


@pytest.fixture
def benchmarks(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for name, num_pairs in (("lfw", 5), ("cfp_fp", 3)):
        images = rng.integers(0, 256, (2 * num_pairs, 112, 112, 3), dtype=np.uint8)
        save_benchmark(Benchmark(images, np.arange(num_pairs) % 2 == 0, name), tmp_path)
        made.append(load_benchmark(tmp_path, name))
    return made


def test_items_are_the_pairs_of_all_benchmarks_in_order(benchmarks):
    pairs = PairDataset(benchmarks)
    assert pairs.locations.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0], [1, 1], [1, 2]]
    for item, (number, index) in enumerate(pairs.locations.tolist()):
        sample = pairs[item]
        assert (sample.benchmark, sample.index) == (number, index)
        np.testing.assert_array_equal(sample.images, benchmarks[number].images[2 * index : 2 * index + 2])


def test_the_occluded_variant_is_of_the_second_image_and_deterministic(benchmarks):
    pairs = PairDataset(benchmarks, ["a", "b"], seed=3, occlude=stamp)
    sample = pairs[6]
    assert sample.images.shape == (3, 112, 112, 3)
    np.testing.assert_array_equal(sample.images[:2], benchmarks[1].images[2:4])
    np.testing.assert_array_equal(sample.images[2, 2:], benchmarks[1].images[3, 2:])
    assert (sample.images[2, 1, :, 0] == 2).all()
    # The same pair of the same set is occluded alike whatever else is validated, another pair or seed is not.
    alone = PairDataset(benchmarks[1:], ["a", "b"], seed=3, occlude=stamp)
    np.testing.assert_array_equal(alone[1].images, sample.images)
    rows = [pairs[item].images[2, 0, :, 0].tolist() for item in range(len(pairs))]
    rows.append(PairDataset(benchmarks, ["a"], seed=4, occlude=stamp)[6].images[2, 0, :, 0].tolist())
    assert len({tuple(row) for row in rows}) == len(rows)


def test_the_default_collate_makes_batches(benchmarks):
    pairs = PairDataset(benchmarks, ["a"], occlude=stamp)
    loader = DataLoader(pairs, batch_sampler=shard_pairs(len(pairs), 3, 0, 1))
    batches = list(loader)
    assert all(isinstance(batch, PairSample) for batch in batches)
    assert batches[0].images.shape == (3, 3, 112, 112, 3) and batches[0].images.dtype == torch.uint8
    assert torch.cat([batch.benchmark for batch in batches]).tolist() == [0] * 5 + [1] * 3
    assert torch.cat([batch.index for batch in batches]).tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_the_occluders_of_the_project_are_the_default(benchmarks):
    first, second = (PairDataset(benchmarks, tuple(OCCLUDERS), seed=1)[2].images for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:2], benchmarks[0].images[4:6])
    assert (first[2] != first[1]).any()


def test_no_benchmarks_are_refused():
    with pytest.raises(ValueError, match="at least one benchmark"):
        PairDataset([])


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 8))
def test_shards_hold_every_pair_once_in_as_many_batches_on_each_rank(num_pairs, batch_size, world_size):
    if num_pairs < world_size:
        with pytest.raises(ValueError, match=f"{num_pairs} pairs for {world_size} ranks"):
            shard_pairs(num_pairs, batch_size, 0, world_size)
        return
    shards = [shard_pairs(num_pairs, batch_size, rank, world_size) for rank in range(world_size)]
    assert len({len(shard) for shard in shards}) == 1
    assert sorted(index for shard in shards for batch in shard for index in batch) == list(range(num_pairs))
    sizes = [len(batch) for shard in shards for batch in shard]
    assert min(sizes) >= 1 and max(sizes) <= (batch_size if batch_size > 1 else 2)
    if world_size == 1:
        assert len(shards[0]) == -(-num_pairs // batch_size)


@pytest.mark.parametrize("arguments", [(5, 0, 0, 1), (5, 2, 1, 1), (5, 2, -1, 2)])
def test_impossible_shards_are_refused(arguments):
    with pytest.raises(ValueError, match="batch_size must be >= 1 and rank in"):
        shard_pairs(*arguments)
