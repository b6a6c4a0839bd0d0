"""COCO's average precision against figures of its own code and a naive reference."""

import numpy as np
import pytest
from detected_scenes import scenes
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import Found, Truth, coco_ap, find_faces
from evaluation.detection.boxes import match, overlaps

# Of pycocotools 2.0.11, `stats` 0 to 5 and 8 of `scenes(seed)`.
PUBLISHED = {
    1: [
        0.230227371310909,
        0.496928597813965,
        0.120845859889633,
        0.302817067421028,
        0.182553663252557,
        0.441222693697941,
        0.408333333333333,
    ],
    2: [
        0.228740032955028,
        0.492904290429043,
        0.105101162290142,
        0.256219621962196,
        0.23969808661028,
        0.201980198019802,
        0.348387096774194,
    ],
    3: [
        0.225512859386516,
        0.512069064049262,
        0.090490697421391,
        0.154266855256954,
        0.235456606389384,
        0.41453323903819,
        0.414285714285714,
    ],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_figures_are_those_of_cocos_own_code(seed):
    assert coco_ap(*scenes(seed))[:7] == pytest.approx(PUBLISHED[seed], abs=1e-12)


def naive_ap(truths, found, iou):
    """Average precision at one overlap, nobody ignored, one detection after the other."""
    rows = [(score, image, row) for image, one in enumerate(found) for row, score in enumerate(one.scores.tolist())]
    taken, right, curve = set(), 0, []
    num_faces = sum(len(truth.boxes) for truth in truths)
    for place, (_, image, row) in enumerate(sorted(rows, key=lambda entry: -entry[0])):
        x1, y1, x2, y2 = found[image].boxes[row].tolist()
        best, choice = iou, None
        for face, (a1, b1, a2, b2) in enumerate(truths[image].boxes.tolist()):
            both = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            shared = both / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both)
            if shared >= best and (image, face) not in taken:
                best, choice = shared, face
        if choice is not None:
            taken.add((image, choice))
            right += 1
        curve.append((right / num_faces, right / (place + 1)))
    return np.mean([max([p for r, p in curve if r >= step], default=0.0) for step in np.linspace(0, 1, 101)])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_average_precision_is_that_of_a_naive_reference(seed):
    truths, found = scenes(seed)
    rng = np.random.default_rng(seed)
    truths = [truth._replace(ignored=np.zeros(len(truth.boxes), bool)) for truth in truths]
    found = [one._replace(scores=rng.random(len(one.scores))) for one in found]
    result = coco_ap(truths, found)
    if result.num_faces:
        assert result.ap_50 == pytest.approx(naive_ap(truths, found, 0.5))
        assert result.ap_75 == pytest.approx(naive_ap(truths, found, 0.75))


def test_perfect_detections_have_one_and_no_faces_have_no_figure():
    truths, _ = scenes(3)
    result = coco_ap(truths, [Found(t.boxes, np.linspace(1, 0.5, len(t.boxes))) for t in truths])
    assert result.ap == result.recall == 1.0
    empty = coco_ap([Truth(np.zeros((0, 4)), np.zeros(0, bool))], [Found(np.array([[0.0, 0, 9, 9]]), np.ones(1))])
    assert np.isnan(empty[:7]).all() and empty.num_faces == 0


def test_the_surest_detections_of_an_image_alone_take_part():
    box = np.array([[0.0, 0, 50, 50], [100, 100, 150, 150]])
    truth, found = [Truth(box, np.zeros(2, bool))], [Found(box, np.array([0.2, 0.9]))]
    assert coco_ap(truth, found).ap == 1.0
    assert coco_ap(truth, found, max_detections=1).recall == 0.5


def test_a_taken_face_leaves_a_second_choice_and_a_counting_face_comes_first():
    shared = np.array([[0.9, 0.6], [0.8, 0.7], [0.6, 0.5]])
    assert match(shared, np.zeros(2, bool), 0.5).tolist() == [0, 1, -1]
    assert match(shared, np.array([True, False]), 0.5).tolist() == [1, 0, -1]
    assert match(shared, np.array([True, False]), 0.5, np.array([True, False])).tolist() == [1, 0, 0]
    assert match(np.array([[0.5, 0.5]]), np.zeros(2, bool), 0.5).tolist() == [1]


def test_overlap_counts_pixels_only_where_asked():
    first, second = np.array([[0.0, 0, 9, 9]]), np.array([[5.0, 0, 14, 9], [9, 9, 20, 20], [3, 3, 3, 3]])
    assert overlaps(first, second).tolist() == [[pytest.approx(36 / 126), 0.0, 0.0]]
    assert overlaps(first, second, 1.0).tolist() == [
        [pytest.approx(50 / 150), pytest.approx(1 / 243), pytest.approx(1 / 100)]
    ]


def test_find_faces_names_the_detection_of_each_face():
    truth = Truth(np.array([[0.0, 0, 10, 10], [40, 40, 50, 50]]), np.zeros(2, bool))
    found = Found(np.array([[40.0, 40, 50, 50], [1, 1, 10, 10], [0, 0, 10, 10]]), np.array([0.3, 0.4, 0.9]))
    assert find_faces(truth, found).tolist() == [2, 0]
    assert find_faces(truth, found, threshold=0.5).tolist() == [2, -1]


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([[0, 0, 1, 1]], None, "detections of 0 images, but 1 have a truth"),
        ([[0, 0, 1]], ([], []), "boxes must be"),
        ([[0, 0, -1, 1]], ([], []), "box 0 is"),
        ([[0, 0, 1, 1]], ([[0, 0, 1, 1]], [np.nan]), "1 finite scores expected"),
        ([[0, 0, 1, 1]], ([[0, 0, 1, np.inf]], [1.0]), "box 0 is"),
    ],
)
def test_bad_boxes_and_scores_are_refused(truth, found, message):
    truths = [Truth(np.array(truth, float), np.zeros(len(truth), bool))]
    every = [] if found is None else [Found(np.array(found[0], float).reshape(-1, 4), np.array(found[1], float))]
    with pytest.raises(ValueError, match=message):
        coco_ap(truths, every)
