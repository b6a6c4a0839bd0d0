"""Degradations: what they keep, what they lose, and that only their generator decides."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j1

from transforms import DEGRADATIONS, FirstOrder, SecondOrder, difficulty, second_order, shrinking_alone
from transforms.degradation import compressed, resized
from transforms.second_order import draw_kernel, sinc_kernel

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(DEGRADATIONS))
QUIET = {"first_order": {"noise": (0.0, 0.0), "jpeg_prob": 0.0}, "second_order": {"noise_prob": 0.0, "jpeg_prob": 0.0}}


def textured(seed=0):
    """Return an image with detail of every size."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(0, 25, (s, s, 3)), (112, 112), interpolation=cv2.INTER_CUBIC) for s in (7, 28, 112)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def constant(color):
    return np.broadcast_to(np.array(color, np.uint8), (112, 112, 3)).copy()


def generator(seed):
    return np.random.default_rng(seed)


@settings(max_examples=40)
@given(NAMES, SEEDS)
def test_shape_range_sides_and_bits_follow_the_generator_alone(name, seed):
    image, degradation = textured(seed % 5), DEGRADATIONS[name]()
    before, state = image.copy(), np.random.get_state()[1].copy()
    first, second = degradation(image, generator(seed)), degradation(image, generator(seed))
    small, side = degradation.shrink(image, generator(seed))
    assert first.image.tobytes() == second.image.tobytes() and first.side == second.side == side
    assert first.image.shape == image.shape and first.image.dtype == small.dtype == np.uint8
    assert small.shape == (len(small), len(small), 3) and 8 <= len(small) <= 64 and 4 <= side <= len(small)
    assert name == "second_order" or side == len(small)
    assert np.array_equal(first.image, resized(small, 112)) and np.array_equal(image, before)
    assert np.array_equal(np.random.get_state()[1], state)
    assert degradation(image, generator(seed + 1)).image.tobytes() != first.image.tobytes()


@settings(max_examples=30)
@given(NAMES, SEEDS, st.tuples(*[st.integers(0, 255)] * 3))
def test_a_constant_image_without_noise_stays_as_it_is(name, seed, color):
    found = DEGRADATIONS[name](**QUIET[name])(constant(color), generator(seed)).image
    assert np.array_equal(found, constant(color))


@settings(max_examples=30)
@given(NAMES, SEEDS)
def test_red_stays_red_and_blue_blue(name, seed):
    for channel in (0, 2):
        color = [20, 20, 20]
        color[channel] = 220
        means = DEGRADATIONS[name]()(constant(color), generator(seed)).image.mean(axis=(0, 1))
        assert means.argmax() == channel and means[channel] > 1.2 * np.delete(means, channel).max()


@pytest.mark.parametrize("name", sorted(DEGRADATIONS))
def test_less_is_left_of_an_image_at_a_smaller_side(name):
    image = textured()
    sides = (8, 16, 24, 40, 64)

    def lost(side):
        degradation = DEGRADATIONS[name]((side, side), **QUIET[name])
        pairs = [degradation(image, generator(seed)).image for seed in range(30)]
        return np.mean([np.abs(found.astype(float) - image).mean() for found in pairs])

    losses = [lost(side) for side in sides]
    assert losses == sorted(losses, reverse=True) and losses[-1] > 1


def test_shrinking_alone_averages_blocks_and_at_112_changes_nothing():
    image = textured()
    small, side = shrinking_alone(16).shrink(image, generator(0))
    blocks = image.reshape(16, 7, 16, 7, 3).mean(axis=(1, 3))
    assert side == 16 and np.abs(small - blocks).max() <= 0.5 + 1e-6
    assert np.array_equal(shrinking_alone(112)(image, generator(0)).image, image)
    assert np.array_equal(
        shrinking_alone(16)(image, generator(0)).image, shrinking_alone(16)(image, generator(9)).image
    )
    assert difficulty(np.array([112, 56, 14])).tolist() == [0, 1, 3] and difficulty(8) == math.log2(14)


def test_each_step_of_the_first_order_does_what_it_is_called():
    image, plain = textured(), shrinking_alone(64)
    base = plain.shrink(image, generator(3)).image.astype(float)

    def change(**fields):
        return replace(plain, **fields).shrink(image, generator(3)).image - base

    assert change(blur=(2.0, 2.0)).std() > 3 and base.std() > (base + change(blur=(2.0, 2.0))).std()
    assert 9 < change(noise=(10.0, 10.0)).std() < 11 and abs(change(noise=(10.0, 10.0)).mean()) < 0.5
    assert 0 < np.abs(change(jpeg_prob=1.0, jpeg_quality=(95, 95))).mean()
    assert (
        np.abs(change(jpeg_prob=1.0, jpeg_quality=(40, 40))).mean()
        > 1.5 * np.abs(change(jpeg_prob=1.0, jpeg_quality=(95, 95))).mean()
    )
    assert np.abs(change(methods=("bicubic",))).max() > 5
    half = replace(plain, jpeg_prob=0.5)
    share = np.mean([(half.shrink(image, generator(seed)).image != base).any() for seed in range(200)])
    assert 0.4 < share < 0.6


def test_sides_are_spread_evenly_over_their_logarithm():
    quick = FirstOrder(blur=(0.0, 0.0), noise=(0.0, 0.0), jpeg_prob=0.0)
    image = textured()
    sides = np.array([quick.shrink(image, generator(seed)).side for seed in range(600)])
    assert sides.min() == 8 and sides.max() >= 62
    shares = np.histogram(np.log2(sides), bins=[2.9, 4, 5, 6.1])[0] / len(sides)
    assert np.abs(shares - 1 / 3).max() < 0.07


@given(st.sampled_from([7, 11, 21]), st.floats(math.pi / 5, math.pi))
def test_the_low_pass_is_the_formula_of_the_paper(size, cutoff):
    kernel = sinc_kernel(size, cutoff)
    expected = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            radius = math.hypot(row - size // 2, column - size // 2)
            wave = cutoff * j1(cutoff * radius) / (2 * math.pi * radius) if radius else cutoff**2 / (4 * math.pi)
            expected[row, column] = wave
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-6)


@given(SEEDS)
def test_a_blur_keeps_the_brightness_and_has_no_direction_of_its_own(seed):
    kernel = draw_kernel((0.2, 3.0), generator(seed))
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] in range(7, 22, 2)
    assert abs(kernel.sum() - 1) < 1e-9 and kernel.argmax() == kernel.size // 2
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)  # it shifts nothing


def test_the_second_order_records_the_smallest_image_on_the_way():
    sides = [SecondOrder((64, 64)).shrink(textured(), generator(seed)) for seed in range(60)]
    assert {len(small) for small, _ in sides} == {64}
    assert min(side for _, side in sides) < 32 and max(side for _, side in sides) == 64


def test_ringing_comes_before_the_last_compression_or_after_it(monkeypatch):
    steps = []
    for name in ("_low_passed", "compressed"):
        step = getattr(second_order, name)
        monkeypatch.setattr(second_order, name, lambda *given, step=step, name=name: steps.append(name) or step(*given))
    for seed in range(20):
        SecondOrder().shrink(textured(), generator(seed))
    orders = [tuple(steps[start : start + 3]) for start in range(0, 60, 3)]
    assert set(orders) == {("compressed", "_low_passed", "compressed"), ("compressed", "compressed", "_low_passed")}


def test_jpeg_turns_the_channels_twice():
    image = constant((200, 60, 30))
    assert np.abs(compressed(image, (95, 95), generator(0)).astype(int) - image).max() <= 3


@pytest.mark.parametrize("sides", [(0, 8), (3, 8), (16, 8), (8, 113)])
def test_sides_that_are_none_are_refused(sides):
    with pytest.raises(ValueError, match=rf"4 <= least <= greatest <= 112, got {sides[0]} and {sides[1]}"):
        FirstOrder(sides)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FirstOrder(blur=(2.0, 0.2)), "blur must be 0 <= low <= high <= 112, got 2.0 and 0.2"),
        (lambda: FirstOrder(jpeg_quality=(0, 95)), "jpeg_quality must be 1 <= low"),
        (lambda: FirstOrder(noise=(0.0, math.nan)), "noise must be 0 <= low"),
        (lambda: FirstOrder(methods=("nearest",)), "methods must be some of area, bicubic"),
        (lambda: FirstOrder(jpeg_prob=1.5), r"FirstOrder: jpeg_prob must be in \[0, 1\], got 1.5"),
        (lambda: SecondOrder(noise_prob=-1), r"SecondOrder: noise_prob must be in \[0, 1\]"),
    ],
)
def test_numbers_that_are_none_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_images_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="FirstOrder: image must be a numpy array of uint8"):
        FirstOrder()(textured().astype(float), generator(0))
    with pytest.raises(ValueError, match=r"SecondOrder: image must be \[112, 112, 3\], got \[16, 16, 3\]"):
        SecondOrder()(textured()[:16, :16], generator(0))
