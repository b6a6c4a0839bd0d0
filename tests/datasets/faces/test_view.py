from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import (
    ImageFolderDataset,
    PKBatchSampler,
    PlannedBatches,
    Sample,
    SampleKey,
    TrainingView,
    UnreadableImageError,
    collate,
)
from transforms import TrainingTransform


class FakeView(NamedTuple):
    image: np.ndarray
    visibility: np.ndarray


def stamp(image, rng):
    """A transform that shows its generator in the first pixels."""
    image = image.copy()
    image[0, :, 0] = rng.integers(0, 256, 112)
    return FakeView(image, np.ones((112, 112), np.uint8))


@pytest.fixture
def dataset(make_folder):
    return ImageFolderDataset(make_folder([4, 3, 2]))


def test_a_sample_carries_its_origin(dataset):
    sample = TrainingView(dataset, stamp, seed=0)[SampleKey(2, 5, 1, 9)]
    assert (sample.label, sample.dataset_id, sample.index, sample.unreadable) == (1, 2, 5, -1)
    np.testing.assert_array_equal(sample.image[1:], dataset.read(5)[1:])
    assert sample.visibility.shape == (112, 112)


def test_the_augmentation_depends_on_the_seed_and_the_key_but_for_the_index(dataset):
    def stamped(seed, epoch, position, index=0):
        return TrainingView(dataset, stamp, seed)[SampleKey(0, index, epoch, position)].image[0, :, 0].tolist()

    base = stamped(0, 1, 2)
    assert base == stamped(0, 1, 2) == stamped(0, 1, 2, index=3)
    assert base != stamped(1, 1, 2) and base != stamped(0, 2, 2) and base != stamped(0, 1, 3)
    assert base == np.random.Generator(np.random.Philox(0, counter=[0, 2, 1, 0])).integers(0, 256, 112).tolist()
    keyed = {
        tuple(TrainingView(dataset, stamp, 0)[SampleKey(number, 0, 1, 2, view)].image[0, :, 0].tolist())
        for number in (0, 1)
        for view in (0, 1)
    }
    assert len(keyed) == 4 and tuple(base) in keyed


def test_what_an_augmentation_draws_leaves_the_next_one_alone(dataset):
    def greedy(image, rng):
        rng.random(5 * int(image[0, 0, 0]) + 3, np.float32)  # float32 and small integers leave halves of words behind
        return stamp(image, rng)

    view = TrainingView(dataset, greedy, seed=0)
    view[SampleKey(0, 3, 0, 1)]
    np.testing.assert_array_equal(
        view[SampleKey(0, 2, 0, 0)].image, TrainingView(dataset, greedy, seed=0)[SampleKey(0, 2, 0, 0)].image
    )


def test_an_unreadable_image_is_replaced_by_the_next_of_its_identity(dataset):
    dataset.paths[1].write_bytes(b"broken")
    dataset.paths[6].write_bytes(b"broken")
    view = TrainingView(dataset, stamp, seed=0)
    sample = view[SampleKey(0, 1, 0, 0)]
    assert (sample.index, sample.unreadable, sample.label) == (2, 1, 0)
    np.testing.assert_array_equal(sample.image[1:], dataset.read(2)[1:])
    # Past the last image of the identity it goes on with its first, not with the next identity.
    assert view[SampleKey(0, 6, 0, 0)].index == 4
    dataset.paths[4].unlink()
    assert view[SampleKey(0, 6, 0, 0)].index == 5


def test_an_identity_without_a_readable_image_is_replaced_by_the_next_one(dataset):
    for index in (4, 5, 6, 7):
        dataset.paths[index].write_bytes(b"")
    view = TrainingView(dataset, stamp, seed=0)
    sample = view[SampleKey(0, 5, 0, 0)]
    assert (sample.index, sample.unreadable, sample.label) == (8, 5, 2)


def test_a_data_set_without_a_readable_image_is_an_error(dataset):
    for index in range(9):
        dataset.paths[index].write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"1\.png: the file is empty; nor can any other of the 9 images"):
        TrainingView(dataset, stamp, seed=0)[SampleKey(0, 8, 0, 0)]


def test_the_loader_gives_the_planned_batches_whatever_the_workers(dataset):
    batches = {}
    for workers in (0, 2):
        sampler = PKBatchSampler(dataset.labels, batch_size=4, instances=2, seed=3)
        loader = DataLoader(
            TrainingView(dataset, stamp, seed=3),
            batch_sampler=PlannedBatches(sampler),
            num_workers=workers,
            collate_fn=collate,
        )
        batches[workers] = list(loader)
        assert [batch.index.tolist() for batch in batches[workers]] == sampler.plan().tolist()
    for alone, shared in zip(batches[0], batches[2], strict=True):
        assert isinstance(shared, Sample) and shared.second is None
        for expected, received in zip(alone[:6], shared[:6], strict=True):
            assert torch.equal(expected, received)
    batch = batches[0][0]
    assert batch.image.shape == (4, 112, 112, 3) and batch.image.dtype == torch.uint8
    assert batch.visibility.shape == (4, 112, 112)
    assert all(values.dtype == torch.int64 for values in (batch.label, batch.dataset_id, batch.index, batch.unreadable))


def test_the_training_transform_of_the_project_fits(dataset):
    transform = TrainingTransform(occluders=("block",), occlusion_prob=1.0)
    sample = TrainingView(dataset, transform, seed=0)[SampleKey(0, 0, 0, 0)]
    again = TrainingView(dataset, transform, seed=0)[SampleKey(0, 0, 0, 0)]
    np.testing.assert_array_equal(sample.image, again.image)
    assert set(np.unique(sample.visibility).tolist()) == {0, 1}


def test_collate_refuses_a_mixture(dataset):
    sample = dataset[0]
    assert collate([sample, dataset[1]]).visibility is None
    with pytest.raises(ValueError, match="1 of 2 samples carry a visibility mask"):
        collate([sample, sample._replace(visibility=np.ones((112, 112), np.uint8))])
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])
    with pytest.raises(ValueError, match="1 of 2 samples carry a second view"):
        collate([sample, sample._replace(second=sample)])
