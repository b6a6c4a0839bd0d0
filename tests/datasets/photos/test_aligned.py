"""Where a face is looked for, which one is taken, how it comes back to the photograph, and what is refused."""

import numpy as np
import pytest
from photographs import FakeDetector, faces, photograph, place

from datasets.photos import aligned
from datasets.photos.aligned import ALIGNED, CUT, DEGENERATE, LOOKS, NO_FACE, align_face, align_points, center_crop
from datasets.photos.detection import Detection
from transforms import TEMPLATE, align, fit_similarity

PHOTO = photograph().image


def face_at(x, y, scale=1.0, score=0.9):
    points = (TEMPLATE.astype(float) - TEMPLATE.mean(axis=0)) * scale + [x, y]
    half = 50 * scale
    return Detection(np.array([x - half, y - half, x + half, y + half]), score, points)


class SpotDetector:
    """Finds the five brightest spots of five colors in any view, as a face whose points they are.

    An independent way through every look: it sees pixels, not matrices.
    """

    name = "spots"
    COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]])

    def __init__(self, answers_at):
        self.answers_at, self.calls = answers_at, 0

    def detect(self, image, threshold=None):
        self.calls += 1
        if self.calls != self.answers_at:
            return []
        points = []
        for color in self.COLORS:
            near = np.abs(image.astype(int) - color).sum(axis=2) < 200
            rows, columns = np.nonzero(near)
            points.append([columns.mean(), rows.mean()])
        five = np.array(points)
        return [Detection(np.concatenate([five.min(axis=0), five.max(axis=0)]), 0.8, five)]


@pytest.mark.parametrize("shape", [(300, 400), (1100, 1500)])
@pytest.mark.parametrize("number", range(len(LOOKS)))
def test_every_look_brings_points_back_to_the_photograph(shape, number):
    height, width = shape
    points = (TEMPLATE.astype(float) - 56) * (height / 200) + [width * 0.55, height * 0.45]
    image = np.full((*shape, 3), 128, np.uint8)
    radius = height // 60
    for (x, y), color in zip(points.round().astype(int), SpotDetector.COLORS, strict=True):
        image[y - radius : y + radius + 1, x - radius : x + radius + 1] = color
    found = align_face(image, SpotDetector(number + 1))
    assert found.status == ALIGNED and found.look == LOOKS[number].name
    np.testing.assert_allclose(found.points, points.round(), atol=height / 400)
    np.testing.assert_allclose(found.matrix, fit_similarity(found.points))
    np.testing.assert_allclose(found.box, [*found.points.min(axis=0), *found.points.max(axis=0)])


def test_looks_follow_the_measured_order_and_end_with_the_first_face():
    detector = FakeDetector()
    result = align_face(PHOTO, detector)
    assert result == aligned.Aligned(NO_FACE, reason="no face found, 8 ways of looking tried")
    sides = [image.shape[:2] for image, _ in detector.seen]
    assert sides == [
        (240, 320), (480, 640), (720, 960), (120, 160), (320, 240), (240, 320), (320, 240), (240, 320),
    ]  # fmt: skip
    assert [threshold for _, threshold in detector.seen] == [None] * 7 + [0.3]
    assert np.array_equal(detector.seen[4][0], np.rot90(PHOTO))
    detector = FakeDetector([], [face_at(300, 200)])
    assert align_face(PHOTO, detector).look == "x2" and len(detector.seen) == 2


def test_a_large_photograph_is_first_looked_at_with_640_pixels_and_never_with_more_than_1280():
    detector = FakeDetector()
    align_face(np.zeros((3000, 4000, 3), np.uint8), detector)
    assert detector.seen[0][0].shape == (480, 640, 3)
    assert max(max(image.shape) for image, _ in detector.seen) == 1280


def test_a_strip_is_looked_at_only_where_something_is_left_of_it():
    detector = FakeDetector()
    align_face(np.zeros((20, 9000, 3), np.uint8), detector)
    assert detector.seen == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (15, 200, 3)])
def test_a_tiny_photograph_is_named(shape):
    result = align_face(np.zeros(shape, np.uint8), FakeDetector())
    assert result.status == NO_FACE and result.reason.endswith("pixels: too small to hold a face")


def test_of_several_faces_the_large_one_near_the_center_is_taken_and_said():
    beside, central, large = face_at(60, 120, 0.8), face_at(160, 120, 0.9), face_at(225, 120, 1.0)
    result = align_face(PHOTO, FakeDetector([beside, large, central]))
    assert np.allclose(result.box, central.box) and result.num_faces == 3
    assert result.status == ALIGNED and result.reason == "3 faces; the large one near the center is taken"
    # The rule itself, by hand: 90 * 90 against 100 * 100 - 2 * 65 * 65.
    larger = face_at(165, 120, 1.0)
    assert np.allclose(align_face(PHOTO, FakeDetector([central, larger])).box, larger.box)


def test_a_degenerate_face_gives_way_to_a_later_look():
    mirrored = face_at(160, 120)
    mirrored = mirrored._replace(points=mirrored.points * [-1, 1] + [320, 0])
    detector = FakeDetector([mirrored], [], [], [face_at(80, 60, 0.5)])
    assert align_face(PHOTO, detector).look == "x0.5"
    result = align_face(PHOTO, FakeDetector([mirrored]))
    assert result.status == DEGENERATE and result.crop is None and result.look == "as is"
    assert "off the template's shape" in result.reason
    np.testing.assert_allclose(result.points, mirrored.points)


@pytest.mark.parametrize(("x", "y"), [(10, 120), (160, 5), (310, 120), (160, 232)])
def test_a_face_cut_by_the_border_is_refused(x, y):
    result = align_face(PHOTO, FakeDetector([face_at(x, y)]))
    assert result.status == CUT and result.crop is None
    assert "cut by the border" in result.reason


def test_a_face_near_the_border_is_black_beyond_it():
    result = align_face(PHOTO, FakeDetector([face_at(40, 120)]))
    assert result.status == ALIGNED and 0.5 < result.inside < 0.95
    assert not result.crop[:, :5].any() and result.crop[:, 60:].all()


@pytest.mark.parametrize("size", [112, 128, 224])
def test_the_crop_has_the_size_and_the_pixels_of_the_warp(size):
    result = align_face(PHOTO, FakeDetector([face_at(160, 120)]), size)
    assert result.crop.shape == (size, size, 3) and result.crop.dtype == np.uint8
    assert np.array_equal(result.crop, align.warp(PHOTO, fit_similarity(face_at(160, 120).points, size), size))


def test_given_points_are_taken_as_they_are():
    placed = photograph(1, angle=0.2)
    result = align_points(placed.image, placed.points)
    assert result.status == ALIGNED and result.residual < 1e-3 and result.look == "given"
    inner = (slice(20, 92), slice(20, 92))
    assert np.abs(result.crop[inner].astype(int) - faces()[1][inner]).mean() < 6
    assert align_points(placed.image, np.zeros((5, 2))).status == DEGENERATE


def test_upside_down_is_found_after_a_turn():
    detector = FakeDetector([], [], [], [], [], [face_at(160, 120)])
    result = align_face(PHOTO, detector)
    assert result.look == "turned by 180"
    assert result.points[0, 0] > result.points[1, 0] and result.points[0, 1] > result.points[3, 1]
    straight = align_face(np.rot90(PHOTO, 2).copy(), FakeDetector([face_at(160, 120)]))
    assert np.abs(result.crop.astype(int) - straight.crop.astype(int)).max() <= 2


def test_the_center_crop_is_the_middle_square():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 200
    assert (center_crop(image) == 200).all() and center_crop(image).shape == (112, 112, 3)
    assert center_crop(np.ones((1, 1, 3), np.uint8), 128).shape == (128, 128, 3)


def test_the_embedded_detector_aligns_large_small_and_turned_faces():
    from models.detectors import open_detector

    detector = open_detector()
    for how in ({"scale": 3.0, "shape": (900, 1200)}, {"scale": 0.5}, {"angle": 0.4}, {"angle": np.pi}):
        placed = photograph(2, **how)
        result = align_face(placed.image, detector)
        assert result.status == ALIGNED, how
        assert np.linalg.norm(result.points - placed.points, axis=1).mean() < 12 * placed.scale
    two = place(faces()[0], photograph(1, shape=(240, 500), center=(140, 120)).image, center=(380, 120), scale=1.6)
    result = align_face(two.image, detector)
    assert result.num_faces == 2 and "2 faces" in result.reason
