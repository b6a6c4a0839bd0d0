"""A batch of a TrainingView is its samples one by one."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from datasets import ImageFolderDataset, PKBatchSampler, PlannedBatches, Sample, SampleKey, TrainingView, collate
from datasets.random_streams import RandomStreams
from transforms import OCCLUDERS, TrainingTransform, View, flip

EVERYTHING = TrainingTransform(
    tuple(OCCLUDERS), occlusion_prob=0.4, low_res_prob=0.3, crop_prob=0.3, photometric_prob=0.3
)
KEY = st.builds(SampleKey, *(st.integers(0, last) for last in (1, 8, 2, 60, 1)))
KEYS = st.lists(KEY, min_size=1, max_size=12)
SIZES = [(112, 112), (30, 20), (250, 250), (112, 111)]
MAY_SHARE_FOLDER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def dataset(tmp_path, write_image):
    """Nine images of three identities and several sizes."""
    for number in range(9):
        path = tmp_path / f"faces/id{number // 3}/{number % 3}.png"
        write_image(path, size=SIZES[number % len(SIZES)], seed=number)
    return ImageFolderDataset(tmp_path / "faces")


def arrays(sample):
    """Everything in a sample or a batch, of the second view too."""
    assert sample.visibility is not None
    return [*sample[:6], *(arrays(sample.second) if sample.second is not None else [])]


def check_equal(sample, batch, row):
    for values, expected in zip(arrays(batch), arrays(sample), strict=True):
        np.testing.assert_array_equal(values[row], expected)


@MAY_SHARE_FOLDER
@given(keys=KEYS, is_sorted=st.booleans())
def test_a_batch_is_its_draws_one_by_one_in_any_order(dataset, keys, is_sorted):
    keys = sorted(keys, key=lambda key: key[2:]) if is_sorted else keys
    view = TrainingView(dataset, EVERYTHING, 3, TrainingTransform())
    batch = view.__getitems__(keys)
    for row, key in enumerate(keys):
        check_equal(TrainingView(dataset, EVERYTHING, 3, TrainingTransform())[key], batch, row)


def test_the_parts_of_a_plan_are_the_whole_of_it(dataset):
    keys = [SampleKey(0, place % 9, 1, place) for place in range(40)]
    view = TrainingView(dataset, EVERYTHING, 0, EVERYTHING)
    whole = view.__getitems__(keys)
    for part in (slice(0, 7), slice(7, 40), slice(3, 40, 5), slice(None, None, -1)):
        for values, expected in zip(arrays(view.__getitems__(keys[part])), arrays(whole), strict=True):
            np.testing.assert_array_equal(values, expected[part])


def test_a_view_is_the_steps_that_its_uniform_numbers_choose(dataset):
    keys = [SampleKey(0, place % 9, 2, place) for place in range(30)]
    batch = TrainingView(dataset, EVERYTHING, seed=8).__getitems__(keys)
    streams = RandomStreams(8)
    num_altered = 0
    for row, key in enumerate(keys):
        mirrored, steps = EVERYTHING.choose(streams.uniforms([key]))
        view = View(dataset.read(key.index), np.ones((112, 112), np.uint8))
        view = flip(view) if mirrored[0] else view
        EVERYTHING.alter(view, steps[0], streams.generator(key))
        np.testing.assert_array_equal(batch.image[row], view.image)
        np.testing.assert_array_equal(batch.visibility[row], view.visibility)
        num_altered += bool(steps.any())
    assert 5 < num_altered < 30


def test_half_of_the_images_are_mirrored_and_all_of_them_visible(dataset):
    keys = [SampleKey(0, place % 9, 0, place) for place in range(200)]
    batch = TrainingView(dataset, TrainingTransform(), seed=0).__getitems__(keys)
    num_mirrored = 0
    for image, key in zip(batch.image, keys, strict=True):
        expected = dataset.read(key.index)
        is_mirrored = (image == expected[:, ::-1]).all()
        assert is_mirrored or (image == expected).all()
        num_mirrored += is_mirrored
    assert 75 < num_mirrored < 125
    assert batch.visibility.all()


def test_an_unreadable_image_inside_a_batch_is_replaced_and_leaves_the_others_alone(dataset):
    keys = [SampleKey(0, place % 9, 0, place) for place in range(18)]
    view = TrainingView(dataset, EVERYTHING, 1, EVERYTHING)
    before = view.__getitems__(keys)
    dataset.paths[4].write_bytes(b"broken")
    after = view.__getitems__(keys)
    assert after.index.tolist() == [5 if key.index == 4 else key.index for key in keys]
    assert after.unreadable.tolist() == [4 if key.index == 4 else -1 for key in keys]
    np.testing.assert_array_equal(after.label, before.label)
    readable = np.array([key.index != 4 for key in keys])
    np.testing.assert_array_equal(after.image[readable], before.image[readable])
    for row in np.flatnonzero(~readable).tolist():
        check_equal(view[keys[row]], after, row)


def test_batches_that_are_kept_stay_as_they_are(dataset):
    sampler = PKBatchSampler(dataset.labels, batch_size=3, instances=3)
    loader = DataLoader(
        TrainingView(dataset, EVERYTHING, 0, EVERYTHING), batch_sampler=PlannedBatches(sampler), collate_fn=collate
    )
    kept, copies = [], []
    for _ in range(3):
        for batch in loader:
            kept.append(batch)
            copies.append([values.clone() for values in arrays(batch)])
    for batch, copy in zip(kept, copies, strict=True):
        assert all(map(torch.equal, arrays(batch), copy))


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_workers_make_the_same_batches(dataset, workers, method):
    def batches(**options):
        sampler = PKBatchSampler(dataset.labels, batch_size=3, instances=3, seed=3)
        view = TrainingView(dataset, EVERYTHING, 3, TrainingTransform())
        view[SampleKey(0, 0, 0, 0)]  # what is pickled was in use
        return list(DataLoader(view, batch_sampler=PlannedBatches(sampler), collate_fn=collate, **options))

    received = batches(num_workers=workers, multiprocessing_context=method)
    for alone, shared in zip(batches(), received, strict=True):
        assert all(map(torch.equal, arrays(alone), arrays(shared))) and len(arrays(shared)) == 12


def test_a_pickled_view_gives_the_same_samples(dataset):
    view = TrainingView(dataset, EVERYTHING, 2, EVERYTHING)
    keys = [SampleKey(0, place, 1, place) for place in range(9)]
    expected = view.__getitems__(keys)
    state = pickle.dumps(view)
    assert len(state) < 20_000
    for values, others in zip(arrays(pickle.loads(state).__getitems__(keys)), arrays(expected), strict=True):
        np.testing.assert_array_equal(values, others)


def test_images_of_another_shape_or_type_are_refused(dataset):
    dataset.transform = lambda image: image[..., :1]
    with pytest.raises(ValueError, match=r"TrainingView: image must be \[112, 112, 3\], got \[112, 112, 1\]"):
        TrainingView(dataset, TrainingTransform(), seed=0)[SampleKey(0, 0, 0, 0)]
    dataset.transform = lambda image: image / 255
    with pytest.raises(TypeError, match="TrainingView: image must be a numpy array of uint8, got float64"):
        TrainingView(dataset, TrainingTransform(), seed=0)[SampleKey(0, 0, 0, 0)]


def test_collate_wraps_a_batch_without_a_copy(dataset):
    view = TrainingView(dataset, TrainingTransform(), 0, second=EVERYTHING)
    keys = [SampleKey(0, 0, 0, 0), SampleKey(0, 4, 0, 1)]
    batch = view.__getitems__(keys)
    tensors = collate(batch)
    for values, tensor in zip(arrays(batch), arrays(tensors), strict=True):
        assert tensor.data_ptr() == values.ctypes.data
    stacked = collate([view[key] for key in keys])
    assert all(map(torch.equal, arrays(tensors), arrays(stacked)))


def test_the_second_view_is_what_its_key_gives_and_leaves_the_first_alone(dataset):
    keys = [SampleKey(0, place % 9, 1, place) for place in range(30)]
    dataset.paths[4].write_bytes(b"broken")
    reads = []
    dataset.transform = lambda image: reads.append(0) or image
    both = TrainingView(dataset, TrainingTransform(), seed=3, second=EVERYTHING).__getitems__(keys)
    assert len(reads) == 30, "an image is decoded once for both views"
    alone = TrainingView(dataset, TrainingTransform(), seed=3).__getitems__(keys)
    second = TrainingView(dataset, EVERYTHING, seed=3).__getitems__([key._replace(view=1) for key in keys])
    assert alone.second is None and second.second is None
    for values, expected in zip(arrays(both), [*arrays(alone), *arrays(second)], strict=True):
        np.testing.assert_array_equal(values, expected)
    assert (both.image != both.second.image).any(axis=(1, 2, 3)).sum() > 15
    assert both.second.unreadable.max() == 4


def test_both_views_move_to_the_device_together(dataset):
    view = TrainingView(dataset, EVERYTHING, 0, second=EVERYTHING)
    moved = move_data_to_device(collate(view.__getitems__([SampleKey(0, 1, 0, 0)])), torch.device("meta"))
    assert isinstance(moved, Sample) and isinstance(moved.second, Sample)
    assert all(values.is_meta for values in arrays(moved))
