"""The transform of training images."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import OCCLUDERS, TrainingTransform, View

NAMES = tuple(OCCLUDERS)
SEEDS = st.integers(0, 2**32 - 1)
STEPS = ("occlusion_prob", "low_res_prob", "crop_prob", "photometric_prob", "grayscale_prob", "flip_prob")


def make_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (112, 112, 3), dtype=np.uint8)


def make_transform(**probabilities: float) -> TrainingTransform:
    return TrainingTransform(NAMES, **({"flip_prob": 0.0} | probabilities))


def apply(transform: TrainingTransform, seed: int, image: np.ndarray | None = None) -> View:
    return transform(make_image() if image is None else image, np.random.default_rng(seed))


@settings(max_examples=20)
@given(seed=SEEDS)
def test_without_any_probability_the_image_stays_and_everything_is_visible(seed: int) -> None:
    view = apply(TrainingTransform(flip_prob=0.0), seed)
    np.testing.assert_array_equal(view.image, make_image())
    assert view.visibility.dtype == np.uint8 and view.visibility.shape == (112, 112) and view.visibility.all()


def test_only_flipping_mirrors_the_image() -> None:
    np.testing.assert_array_equal(apply(make_transform(flip_prob=1.0), 0).image, make_image()[:, ::-1])


@pytest.mark.parametrize("step", STEPS)
def test_each_probability_is_the_share_of_changed_images(step: str) -> None:
    transform = make_transform(**{step: 0.3})
    changed = [(apply(transform, seed).image != make_image()).any() for seed in range(300)]
    assert 0.22 < np.mean(changed) < 0.38


def test_default_flips_half_and_does_nothing_else() -> None:
    image, transform = make_image(), TrainingTransform()
    flipped = 0
    for seed in range(200):
        view = apply(transform, seed)
        is_flipped = (view.image == image[:, ::-1]).all()
        assert is_flipped or (view.image == image).all()
        flipped += is_flipped
    assert 75 < flipped < 125


@pytest.mark.parametrize(("first", "second"), list(combinations(STEPS, 2)))
def test_whether_a_step_runs_does_not_depend_on_another_step(first: str, second: str) -> None:
    alone = [(apply(make_transform(**{first: 0.5}), seed).image != make_image()).any() for seed in range(30)]
    gates = np.array([np.random.default_rng(seed).random(6) for seed in range(30)]) < 0.5
    order = ("flip_prob", "occlusion_prob", "crop_prob", "low_res_prob", "photometric_prob", "grayscale_prob")
    np.testing.assert_array_equal(alone, gates[:, order.index(first)])
    both = make_transform(**{first: 0.5, second: 1.0})
    assert all((apply(both, seed).image != make_image()).any() for seed in range(5))


@settings(max_examples=25)
@given(seed=SEEDS)
def test_degrading_the_image_leaves_the_mask_alone(seed: int) -> None:
    plain = apply(make_transform(occlusion_prob=1.0, crop_prob=1.0), seed)
    degraded = apply(make_transform(occlusion_prob=1.0, crop_prob=1.0, low_res_prob=1.0, photometric_prob=1.0), seed)
    np.testing.assert_array_equal(plain.visibility, degraded.visibility)
    assert not plain.visibility.all()


@settings(max_examples=25)
@given(seed=SEEDS)
def test_occlusion_after_a_flip_has_the_mask_of_its_own_pixels(seed: int) -> None:
    # The occluder comes after the flip: what it hides differs from the flipped image, what it leaves hardly does.
    view = apply(make_transform(flip_prob=1.0, occlusion_prob=1.0), seed)
    changed = (view.image != make_image()[:, ::-1]).any(axis=2)
    assert changed[view.visibility == 0].mean() > 0.98
    assert changed[view.visibility == 1].mean() < 0.35


def test_a_view_is_a_function_of_image_and_generator() -> None:
    transform = make_transform(**dict.fromkeys(STEPS, 0.5))
    for seed in range(20):
        first, again = apply(transform, seed), apply(transform, seed)
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.visibility, again.visibility)


def test_the_input_image_is_never_written() -> None:
    image = make_image()
    image.flags.writeable = False
    for seed in range(30):
        apply(make_transform(**dict.fromkeys(STEPS, 0.7)), seed, image)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_grayscale_takes_the_colors_of_face_and_occluder_and_nothing_else(seed: int) -> None:
    colored = apply(make_transform(occlusion_prob=1.0), seed)
    gray = apply(make_transform(occlusion_prob=1.0, grayscale_prob=1.0), seed)
    np.testing.assert_array_equal(gray.visibility, colored.visibility)
    luminance = colored.image @ [0.299, 0.587, 0.114]
    assert np.abs(gray.image - luminance[..., None]).max() <= 1


def test_red_stays_in_channel_0() -> None:
    red = np.full((112, 112, 3), [230, 10, 10], np.uint8)
    transform = TrainingTransform(("sunglasses",), occlusion_prob=1.0, low_res_prob=1.0, photometric_prob=1.0)
    for seed in range(10):
        lower = transform(red, np.random.default_rng(seed)).image[85:]
        assert (lower.argmax(axis=2) == 0).mean() > 0.99


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"crop_prob must be in \[0, 1\], got 1\.5"):
        TrainingTransform(crop_prob=1.5)
    with pytest.raises(ValueError, match=r"flip_prob must be in \[0, 1\], got nan"):
        TrainingTransform(flip_prob=float("nan"))
    with pytest.raises(ValueError, match=r"unknown occluders \['helmet'\]; choose from surgical"):
        TrainingTransform(("helmet",))
    with pytest.raises(ValueError, match=r"occlusion_prob is 0\.5 but occluders is empty"):
        TrainingTransform(occlusion_prob=0.5)


def test_another_image_is_refused() -> None:
    with pytest.raises(TypeError, match="TrainingTransform: image must be a numpy array of uint8"):
        apply(TrainingTransform(), 0, np.zeros((112, 112, 3)))
    with pytest.raises(ValueError, match=r"must be \[112, 112, 3\], got \[224, 224, 3\]"):
        apply(TrainingTransform(), 0, np.zeros((224, 224, 3), np.uint8))
