"""Faces stay on the pixels that they name, whatever is done to the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import DetectionSample, DetectionTransform, face_boxes
from transforms.detection.augment import (
    CROP_SHARES,
    PADDING,
    mirror_sample,
    pad_to_square,
    resize,
    square_crop,
)

PLAIN = DetectionTransform(size=200, color_prob=0.0)


def drawn(seed):
    """Return a gray image with one face drawn as a rectangle, its five points on it as in a face, and a bystander."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 160, 2).tolist()
    x1, y1 = rng.integers(0, width - 12), rng.integers(0, height - 12)
    x2, y2 = rng.integers(x1 + 8, width), rng.integers(y1 + 8, height)
    image = np.full((height, width, 3), 60, np.uint8)
    image[y1:y2, x1:x2] = 250
    shares = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.8], [0.65, 0.8]])
    points = np.array([x1, y1]) + shares * [x2 - x1, y2 - y1]
    return DetectionSample(image, face_boxes([[x1, y1, x2, y2]], points[None])), rng


def bright_box(image):
    rows, columns = np.nonzero(image[..., 2] > 155)  # between the face and what is around it, padding too
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_box_drawn_as_pixels_stays_where_its_coordinates_say(seed):
    sample, rng = drawn(seed)
    before = sample.image.copy()
    view = PLAIN(*sample, rng)
    assert view.image.shape == (200, 200, 3) and np.array_equal(sample.image, before)
    assert len(view.faces.boxes) == 1  # a crop without the only face is never taken
    enlarged = 200 / (CROP_SHARES[0] * 40)
    box = view.faces.boxes[0]
    assert np.abs(bright_box(view.image) - box).max() <= 1 + enlarged / 4
    on_face = [view.image[int(y), int(x), 2] > 155 for x, y in view.faces.points[0] if (1 < x < 198) and (1 < y < 198)]
    assert all(on_face)
    left_eye, right_eye, _, left_mouth, right_mouth = view.faces.points[0]
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0] and left_eye[1] < left_mouth[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_crops_and_mirror_images_are_exact(seed):
    sample, rng = drawn(seed)
    crop = square_crop(sample, rng)
    height, width = sample.image.shape[:2]
    sides = {int(share * min(height, width)) for share in CROP_SHARES}
    assert crop.image.shape[0] == crop.image.shape[1] and crop.image.shape[0] in sides
    for one in (crop, mirror_sample(crop), pad_to_square(sample), mirror_sample(pad_to_square(sample))):
        assert np.array_equal(bright_box(one.image), one.faces.boxes[0])
        wanted = one.image[tuple(one.faces.boxes[0, :2].astype(int)[::-1])]
        assert (wanted == 250).all()


def test_the_mirror_image_of_a_mirror_image_is_the_first():
    sample, _ = drawn(3)
    again = mirror_sample(mirror_sample(sample))
    assert np.array_equal(again.image, sample.image)
    assert np.allclose(again.faces.points, sample.faces.points, atol=1e-4)
    assert np.array_equal(again.faces.boxes, sample.faces.boxes)


def test_a_mirror_image_swaps_eyes_and_mouth_corners_and_keeps_what_is_unknown():
    points = np.arange(10.0).reshape(1, 5, 2)
    points[0, 3] = np.nan
    mirrored = mirror_sample(DetectionSample(np.zeros((20, 30, 3), np.uint8), face_boxes([[1, 2, 9, 12]], points)))
    expected = [[28, 3], [30, 1], [26, 5], [22, 9], [np.nan, np.nan]]
    assert np.array_equal(mirrored.faces.points[0], np.float32(expected), equal_nan=True)
    assert mirrored.faces.boxes.tolist() == [[21, 2, 29, 12]]


def test_faces_with_their_center_outside_a_crop_are_gone_and_the_others_cut():
    image = np.zeros((100, 100, 3), np.uint8)
    faces = face_boxes([[0, 0, 10, 10], [80, 80, 98, 98], [45, 45, 55, 55]], hidden=[0.1, 0.2, 0.3])
    kept = set()
    for seed in range(200):
        crop = square_crop(DetectionSample(image, faces), np.random.default_rng(seed))
        side = crop.image.shape[0]
        assert len(crop.faces.boxes) >= 1 and crop.faces.boxes.min() >= 0 and crop.faces.boxes.max() <= side
        middle = (crop.faces.boxes[:, :2] + crop.faces.boxes[:, 2:]) / 2
        assert ((middle > 0) & (middle < side)).all()
        kept.add(tuple(np.round(crop.faces.hidden, 1).tolist()))
    assert len(kept) >= 5  # alone, in pairs, and all of them


def test_ignored_faces_attract_no_crop_and_an_image_without_faces_stays_whole():
    image = np.zeros((50, 80, 3), np.uint8)
    for faces in (face_boxes([]), face_boxes([[1, 1, 9, 9]], ignored=[True])):
        crop = square_crop(DetectionSample(image, faces), np.random.default_rng(0))
        assert crop.image.shape == image.shape and len(crop.faces.boxes) == len(faces.boxes)
    view = PLAIN(image, face_boxes([]), np.random.default_rng(0))
    assert view.image.shape == (200, 200, 3) and view.faces.points.shape == (0, 5, 2)
    assert (view.image[150:] == PADDING).all()


def test_a_view_is_a_function_of_its_generator_and_small_faces_are_ignored():
    sample, _ = drawn(7)
    transform = DetectionTransform(size=64, color_prob=1.0, least_side=1000.0)
    first, again, other = (transform(*sample, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)
    assert first.faces.ignored.all() and not PLAIN(*sample, np.random.default_rng(1)).faces.ignored.any()


def test_every_step_runs_as_often_as_its_probability_says():
    sample, _ = drawn(11)
    whole = DetectionTransform(size=64, crop_prob=0.0, color_prob=0.0, flip_prob=0.0)
    square = pad_to_square(sample)
    for seed in range(5):
        view = whole(*sample, np.random.default_rng(seed))
        assert np.allclose(view.faces.boxes, resize(square, 64).faces.boxes)
    mirrored = DetectionTransform(size=64, crop_prob=0.0, color_prob=0.0, flip_prob=1.0)
    view = mirrored(*sample, np.random.default_rng(0))
    assert np.allclose(view.faces.boxes, resize(mirror_sample(square), 64).faces.boxes)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop_prob": 1.5}, {"least_side": -1}, {"color_prob": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="DetectionTransform: "):
        DetectionTransform(**wrong)
