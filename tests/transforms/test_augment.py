"""Flip, low resolution, crop with padding and photometric changes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import View, crop_with_padding, flip, low_resolution, photometric
from transforms.augment import INTERPOLATIONS

SEEDS = st.integers(0, 2**32 - 1)


def make_view(seed: int = 0) -> View:
    rng = np.random.default_rng(seed)
    return View(rng.integers(1, 256, (112, 112, 3), dtype=np.uint8), rng.integers(0, 2, (112, 112), dtype=np.uint8))


class Draws:
    """A generator that returns fixed draws of a ratio and of two interpolations."""

    def __init__(self, ratio: float, down: int, up: int) -> None:
        self.ratio, self.indices = ratio, (down, up)

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == (0.2, 1.0)
        return self.ratio

    def integers(self, high: int, size: int) -> Any:
        assert (high, size) == (5, 2)
        return np.array(self.indices)


def test_flip_mirrors_image_and_mask_together() -> None:
    view = make_view()
    mirrored = flip(view)
    for column in (0, 30, 111):
        np.testing.assert_array_equal(mirrored.image[:, column], view.image[:, 111 - column])
        np.testing.assert_array_equal(mirrored.visibility[:, column], view.visibility[:, 111 - column])
    np.testing.assert_array_equal(flip(mirrored).image, view.image)


def test_low_resolution_at_half_with_nearest_keeps_every_other_pixel() -> None:
    image = make_view().image
    halved = low_resolution(image, Draws(0.5, down=0, up=0))
    np.testing.assert_array_equal(halved, image[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))


def test_low_resolution_at_half_with_area_averages_blocks() -> None:
    image = make_view().image
    halved = low_resolution(image, Draws(0.5, down=2, up=0))
    means = image.reshape(56, 2, 56, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved[::2, ::2] - means).max() <= 0.5


def test_five_interpolations_differ() -> None:
    image = make_view().image
    results = [low_resolution(image, Draws(0.4, down=index, up=1)).tobytes() for index in range(len(INTERPOLATIONS))]
    assert len(INTERPOLATIONS) == 5 and len(set(results)) == 5
    results = [low_resolution(image, Draws(0.4, down=1, up=index)).tobytes() for index in range(len(INTERPOLATIONS))]
    # Enlarging by area is enlarging linearly in OpenCV, up to where the pixel centers are.
    assert len(set(results)) >= 4


@settings(max_examples=40)
@given(seed=SEEDS)
def test_low_resolution_keeps_a_flat_image_and_its_size(seed: int) -> None:
    flat = np.full((112, 112, 3), [10, 120, 240], np.uint8)
    np.testing.assert_array_equal(low_resolution(flat, np.random.default_rng(seed)), flat)


@settings(max_examples=60)
@given(seed=SEEDS)
def test_crop_keeps_one_rectangle_in_place_and_nothing_else(seed: int) -> None:
    view = make_view()._replace(visibility=np.ones((112, 112), np.uint8))
    cropped = crop_with_padding(view, np.random.default_rng(seed))
    rows, columns = cropped.visibility.any(axis=1).nonzero()[0], cropped.visibility.any(axis=0).nonzero()[0]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    kept = cropped.visibility.astype(bool)
    assert kept.sum() == height * width
    np.testing.assert_array_equal(cropped.image[kept], view.image[kept])
    assert not cropped.image[~kept].any()
    # Sides are rounded to whole pixels.
    assert 0.19 <= height * width / 112**2 <= 1.0
    assert 0.73 <= width / height <= 1.37


def test_crop_hides_what_an_occluder_left_visible_and_shows_nothing_it_hid() -> None:
    view = make_view()
    for seed in range(10):
        cropped = crop_with_padding(view, np.random.default_rng(seed))
        black = ~cropped.image.any(axis=2)
        np.testing.assert_array_equal(cropped.visibility, np.where(black, 0, view.visibility))


def test_crops_span_sizes_and_places() -> None:
    view = make_view()._replace(visibility=np.ones((112, 112), np.uint8))
    masks = [crop_with_padding(view, np.random.default_rng(seed)).visibility for seed in range(300)]
    areas = np.array([mask.mean() for mask in masks])
    assert areas.min() < 0.25 and areas.max() > 0.9
    mean = np.mean(masks, axis=0)
    assert abs(mean[:, :56].mean() - mean[:, 56:].mean()) < 0.05
    assert abs(mean[:56].mean() - mean[56:].mean()) < 0.05


@settings(max_examples=40)
@given(seed=SEEDS)
def test_photometric_follows_its_formula(seed: int) -> None:
    image = np.random.default_rng(1).integers(60, 150, (112, 112, 3), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    order, (brightness, contrast, saturation) = rng.permutation(3), rng.uniform(0.5, 1.5, 3)
    luma = np.array([0.299, 0.587, 0.114])
    expected = image.astype(float)
    for step in order:
        if step == 0:
            expected = expected * brightness
        elif step == 1:
            expected = contrast * expected + (1 - contrast) * (expected @ luma).mean()
        else:
            expected = saturation * expected + (1 - saturation) * (expected @ luma)[..., None]
        expected = expected.clip(0, 255)
    result = photometric(image, np.random.default_rng(seed))
    assert result.dtype == np.uint8
    # Three roundings, each enlarged by up to 1.5 twice.
    assert np.abs(result - expected).max() <= 4.0


def test_photometric_keeps_red_in_channel_0() -> None:
    red = np.full((112, 112, 3), [220, 30, 20], np.uint8)
    for seed in range(20):
        assert (photometric(red, np.random.default_rng(seed)).argmax(axis=2) == 0).all()


def test_photometric_changes_every_property() -> None:
    image = make_view().image
    results = [photometric(image, np.random.default_rng(seed)).astype(float) for seed in range(60)]
    means = [result.mean() for result in results]
    assert min(means) < 90 and max(means) > 150
    spreads = [np.ptp(result, axis=2).mean() / result.mean() for result in results]
    assert max(spreads) > 2 * min(spreads)


@pytest.mark.parametrize("function", [low_resolution, photometric])
def test_augmentations_refuse_another_image(function: Any) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__}: image must be a numpy array of uint8"):
        function(np.zeros((112, 112, 3)), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"got \[3, 112, 112\]"):
        function(np.zeros((3, 112, 112), np.uint8), np.random.default_rng(0))
