"""Photographs looked at in several sizes and mirrored: what comes back to them, what is one face, what goes first."""

import numpy as np
import pytest
from photographs import FakeDetector

from datasets.photos.detection import Detection
from models.detectors.sized import SizedChoice, SizedDetector, TestSizes

POINTS = np.array([[40.0, 40], [80, 38], [62, 60], [45, 80], [76, 82]])


class Spots:
    """Finds five white spots in any view and takes them for a face: eyes above, of two the left one first."""

    name, threshold = "spots", 0.3

    def __init__(self):
        self.seen = []

    def detect(self, image, threshold=None):
        self.seen.append((image.shape[:2], threshold))
        width = image.shape[1]
        rows, columns = np.nonzero(image[..., 0] > 128)
        unit = width / 240
        near = POINTS if image[:, : width // 2, 0].max() > 128 else POINTS * [-1, 1] + [239, 0]
        five = np.array([
            [columns[at].mean(), rows[at].mean()]
            for x, y in near * unit
            for at in [np.hypot(columns - x, rows - y) < 9 * unit]
        ])  # fmt: skip
        upper, nose, lower = np.split(five[np.argsort(five[:, 1])], [2, 3])
        points = np.concatenate(
            [*(pair[np.argsort(pair[:, 0])] for pair in (upper,)), nose, lower[np.argsort(lower[:, 0])]]
        )
        return [Detection(np.concatenate([five.min(axis=0), five.max(axis=0)]), 0.5 + width / 1e4, points)]


def spotted():
    image = np.zeros((160, 240, 3), np.uint8)
    for x, y in POINTS.astype(int):
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
    return image


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 1.3])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_view_brings_points_back_with_left_and_right_where_they_are(scale, mirror):
    inner = Spots()
    detector = SizedDetector(inner, TestSizes(scales=(scale,), mirror=mirror, overlap=1.0))
    found = detector.detect(spotted(), 0.1)
    assert len(found) == 1 + mirror and (detector.name, detector.threshold) == ("spots", 0.3)
    for one in found:
        np.testing.assert_allclose(one.points, POINTS, atol=0.6)
        np.testing.assert_allclose(one.box, [40, 38, 80, 82], atol=0.6)
    assert inner.seen == [((round(160 * scale), round(240 * scale)), 0.1)] * (1 + mirror)


def test_a_large_photograph_is_brought_to_the_side_and_the_scales_are_times_that():
    inner = Spots()
    found = SizedDetector(inner, TestSizes(120, (1.0, 0.5, 3.0))).detect(spotted())
    assert inner.seen == [((80, 120), None), ((40, 60), None), ((240, 360), None)]
    assert len(found) == 1 and found[0].score == 0.5 + 360 / 1e4  # one face, of the surest view
    small = Spots()
    SizedDetector(small, TestSizes(9999)).detect(spotted())
    assert small.seen == [((160, 240), None)]


def face(x1, y1, x2, y2, score):
    return Detection(np.array([x1, y1, x2, y2], float), score, POINTS)


def test_faces_are_joined_by_overlap_and_ties_go_to_the_earlier_view():
    image = np.zeros((100, 100, 3), np.uint8)
    first = [face(0, 0, 49, 49, 0.8), face(60, 60, 89, 89, 0.7)]
    second = [face(0, 0, 98, 78, 0.8), face(122, 122, 177, 177, 0.9), face(120, 10, 160, 50, 0.6)]  # twice the size
    views = [
        [one.score for one in SizedDetector(FakeDetector(first, second), TestSizes(scales=(1.0, 2.0), overlap=overlap))
         .detect(image)] for overlap in (0.4, 0.95)
    ]  # fmt: skip
    assert views == [[0.9, 0.8, 0.6], [0.9, 0.8, 0.8, 0.7, 0.6]]
    both = SizedDetector(FakeDetector(first, second), TestSizes(scales=(1.0, 2.0))).detect(image)
    assert np.array_equal(both[1].box, first[0].box)
    assert SizedDetector(FakeDetector(), TestSizes()).detect(image) == []


def test_a_detector_that_has_diverged_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        SizedDetector(FakeDetector([face(0, 0, np.nan, 9, 0.5)]), TestSizes()).detect(np.zeros((9, 9, 3), np.uint8))


def test_a_choice_is_opened_once_and_a_table_of_points_is_none(tmp_path):
    assert SizedChoice().load() is SizedChoice("mtcnn").load()
    (tmp_path / "points.csv").write_text(f"a.png,{','.join(map(str, POINTS.ravel()))}\n")
    with pytest.raises(ValueError, match=r"points\.csv: a table of points finds no faces"):
        SizedChoice(str(tmp_path / "points.csv")).load()
