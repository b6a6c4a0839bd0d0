"""Where the faces of a set lie, judged on synthetic faces with known moves."""

import cv2
import numpy as np
import pytest

from datasets.doctor.alignment import (
    MIN_SAMPLE,
    SUSPECT_BELOW,
    features_of,
    fit,
    half_of,
)
from datasets.doctor.skin import red_minus_blue
from datasets.synthetic.prepare import render_identities


def move(gray, right=0.0, down=0.0, angle=0.0, scale=1.0):
    """Moved here in another way than the doctor moves its copies: about another point, with other borders."""
    matrix = cv2.getRotationMatrix2D((55.5, 55.5), angle, scale)
    matrix[:, 2] += right, down
    return cv2.warpAffine(gray, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def images():
    return render_identities("check alignment", 75, 4)[0]


@pytest.fixture(scope="module")
def grays(images):
    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]


def judge(grays):
    indices = np.arange(len(grays))
    model = fit(grays, indices)
    scores = model.score(np.stack([features_of(gray) for gray in grays]))
    return model, scores[indices, half_of(indices)] < SUSPECT_BELOW


def test_aligned_faces_are_consistent(grays):
    model, suspected = judge(grays)
    assert model.consistency > 0.95 and model.is_consistent
    assert suspected.mean() < 0.03


def test_moved_faces_are_suspected_and_the_others_are_not(grays):
    rng = np.random.default_rng(0)
    moves = [{"right": 16}, {"down": -15}, {"angle": 90}, {"angle": 180}, {"angle": -40}, {"scale": 0.6}]
    moved = np.zeros(len(grays), bool)
    moved[rng.choice(len(grays), 24, replace=False)] = True
    mixed = [move(gray, **moves[index % 6]) if moved[index] else gray for index, gray in enumerate(grays)]
    model, suspected = judge(mixed)
    assert model.is_consistent
    assert suspected[moved].mean() > 0.4  # chance is 0.01
    assert suspected[~moved].mean() < 0.03


@pytest.mark.parametrize(
    "change", [{"right": 7, "down": 7}, {"angle": 20}, {"scale": 0.75}, {"scale": 1.3}, {"angle": 180}]
)
def test_faces_all_moved_alike_are_consistent(grays, change):
    model, _ = judge([move(gray, **change) for gray in grays[:MIN_SAMPLE]])
    assert model.is_consistent


def test_faces_each_moved_otherwise_are_not_consistent(grays):
    rng = np.random.default_rng(1)
    model, _ = judge([move(gray, *rng.uniform(-12, 12, 2)) for gray in grays[:MIN_SAMPLE]])
    assert not model.is_consistent


def test_features_do_not_see_light_and_contrast(grays):
    """A half as bright, with a ramp of light over it, an image has nearly the features it had."""
    own, other, darker = features_of(grays[0]), features_of(grays[1]), grays[0] // 2 + np.arange(112, dtype=np.uint8)
    assert np.corrcoef(own, features_of(darker))[0, 1] > 0.8 > 0.5 > np.corrcoef(own, other)[0, 1]


def test_halves_take_turns_whatever_the_step():
    for step in (1, 2, 3, 4, 64, 1000, 2900):
        assert 0.4 < half_of(np.arange(0, 2000 * step, step)).mean() < 0.6


def test_skin_tells_the_channel_order(images):
    warmth = np.array([red_minus_blue(image) for image in images])
    swapped = np.array([red_minus_blue(image[..., ::-1]) for image in images])
    np.testing.assert_array_equal(swapped, -warmth)
    assert (warmth < 0).mean() < 0.2
    gray = np.repeat(images[0][..., :1], 3, axis=2)
    assert red_minus_blue(gray) is None
