"""A batch of a TrainingView is its samples one by one."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from datasets import Draw, ImageFolderDataset, PKBatchSampler, PlannedBatches, TrainingView, collate
from datasets.random_streams import RandomStreams
from transforms import OCCLUDERS, TrainingTransform, View, flip

EVERYTHING = TrainingTransform(
    tuple(OCCLUDERS), occlusion_prob=0.4, low_res_prob=0.3, crop_prob=0.3, photometric_prob=0.3
)
DRAWS = st.lists(st.builds(Draw, st.integers(0, 8), st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=12)
SIZES = [(112, 112), (30, 20), (250, 250), (112, 111)]
MAY_SHARE_FOLDER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def dataset(tmp_path, write_image):
    """Nine images of three identities and several sizes."""
    for number in range(9):
        path = tmp_path / f"faces/id{number // 3}/{number % 3}.png"
        write_image(path, size=SIZES[number % len(SIZES)], seed=number)
    return ImageFolderDataset(tmp_path / "faces")


def check_equal(sample, batch, row):
    for field, expected in sample._asdict().items():
        np.testing.assert_array_equal(getattr(batch, field)[row], expected, err_msg=field)


@MAY_SHARE_FOLDER
@given(draws=DRAWS, is_sorted=st.booleans())
def test_a_batch_is_its_draws_one_by_one_in_any_order(dataset, draws, is_sorted):
    draws = sorted(draws, key=lambda draw: draw[1:]) if is_sorted else draws
    view = TrainingView(dataset, EVERYTHING, seed=3, dataset_id=4)
    batch = view.__getitems__(draws)
    for row, draw in enumerate(draws):
        check_equal(TrainingView(dataset, EVERYTHING, seed=3, dataset_id=4)[draw], batch, row)


def test_the_parts_of_a_plan_are_the_whole_of_it(dataset):
    draws = [Draw(place % 9, 1, place) for place in range(40)]
    view = TrainingView(dataset, EVERYTHING, seed=0)
    whole = view.__getitems__(draws)
    for part in (slice(0, 7), slice(7, 40), slice(3, 40, 5), slice(None, None, -1)):
        for values, expected in zip(view.__getitems__(draws[part]), whole, strict=True):
            np.testing.assert_array_equal(values, expected[part])


def test_a_view_is_the_steps_that_its_uniform_numbers_choose(dataset):
    draws = [Draw(place % 9, 2, place) for place in range(30)]
    batch = TrainingView(dataset, EVERYTHING, seed=8).__getitems__(draws)
    streams = RandomStreams(8)
    num_altered = 0
    for row, (index, epoch, position) in enumerate(draws):
        mirrored, steps = EVERYTHING.choose(streams.uniforms([epoch], [position]))
        view = View(dataset.read(index), np.ones((112, 112), np.uint8))
        view = flip(view) if mirrored[0] else view
        EVERYTHING.alter(view, steps[0], streams.generator(epoch, position))
        np.testing.assert_array_equal(batch.image[row], view.image)
        np.testing.assert_array_equal(batch.visibility[row], view.visibility)
        num_altered += bool(steps.any())
    assert 5 < num_altered < 30


def test_half_of_the_images_are_mirrored_and_all_of_them_visible(dataset):
    draws = [Draw(place % 9, 0, place) for place in range(200)]
    batch = TrainingView(dataset, TrainingTransform(), seed=0).__getitems__(draws)
    num_mirrored = 0
    for image, draw in zip(batch.image, draws, strict=True):
        expected = dataset.read(draw.index)
        is_mirrored = (image == expected[:, ::-1]).all()
        assert is_mirrored or (image == expected).all()
        num_mirrored += is_mirrored
    assert 75 < num_mirrored < 125
    assert batch.visibility.all()


def test_an_unreadable_image_inside_a_batch_is_replaced_and_leaves_the_others_alone(dataset):
    draws = [Draw(place % 9, 0, place) for place in range(18)]
    view = TrainingView(dataset, EVERYTHING, seed=1)
    before = view.__getitems__(draws)
    dataset.paths[4].write_bytes(b"broken")
    after = view.__getitems__(draws)
    assert after.index.tolist() == [5 if draw.index == 4 else draw.index for draw in draws]
    assert after.unreadable.tolist() == [4 if draw.index == 4 else -1 for draw in draws]
    np.testing.assert_array_equal(after.label, before.label)
    readable = np.array([draw.index != 4 for draw in draws])
    np.testing.assert_array_equal(after.image[readable], before.image[readable])
    for row in np.flatnonzero(~readable).tolist():
        check_equal(view[draws[row]], after, row)


def test_batches_that_are_kept_stay_as_they_are(dataset):
    sampler = PKBatchSampler(dataset.labels, batch_size=3, instances=3)
    loader = DataLoader(TrainingView(dataset, EVERYTHING, 0), batch_sampler=PlannedBatches(sampler), collate_fn=collate)
    kept, copies = [], []
    for _ in range(3):
        for batch in loader:
            kept.append(batch)
            copies.append([values.clone() for values in batch])
    for batch, copy in zip(kept, copies, strict=True):
        assert all(map(torch.equal, batch, copy))


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_workers_make_the_same_batches(dataset, workers, method):
    def batches(**options):
        sampler = PKBatchSampler(dataset.labels, batch_size=3, instances=3, seed=3)
        view = TrainingView(dataset, EVERYTHING, seed=3)
        view[Draw(0, 0, 0)]  # what is pickled was in use
        return list(DataLoader(view, batch_sampler=PlannedBatches(sampler), collate_fn=collate, **options))

    received = batches(num_workers=workers, multiprocessing_context=method)
    for alone, shared in zip(batches(), received, strict=True):
        assert all(map(torch.equal, alone, shared))


def test_a_pickled_view_gives_the_same_samples(dataset):
    view = TrainingView(dataset, EVERYTHING, seed=2)
    draws = [Draw(place, 1, place) for place in range(9)]
    expected = view.__getitems__(draws)
    state = pickle.dumps(view)
    assert len(state) < 20_000
    for values, others in zip(pickle.loads(state).__getitems__(draws), expected, strict=True):
        np.testing.assert_array_equal(values, others)


def test_images_of_another_shape_or_type_are_refused(dataset):
    dataset.transform = lambda image: image[..., :1]
    with pytest.raises(ValueError, match=r"TrainingView: image must be \[112, 112, 3\], got \[112, 112, 1\]"):
        TrainingView(dataset, TrainingTransform(), seed=0)[Draw(0, 0, 0)]
    dataset.transform = lambda image: image / 255
    with pytest.raises(TypeError, match="TrainingView: image must be a numpy array of uint8, got float64"):
        TrainingView(dataset, TrainingTransform(), seed=0)[Draw(0, 0, 0)]


def test_collate_wraps_a_batch_without_a_copy(dataset):
    batch = TrainingView(dataset, TrainingTransform(), seed=0).__getitems__([Draw(0, 0, 0), Draw(4, 0, 1)])
    tensors = collate(batch)
    for values, tensor in zip(batch, tensors, strict=True):
        assert tensor.data_ptr() == values.ctypes.data
    stacked = collate(
        [TrainingView(dataset, TrainingTransform(), seed=0)[draw] for draw in (Draw(0, 0, 0), Draw(4, 0, 1))]
    )
    assert all(map(torch.equal, tensors, stacked))
