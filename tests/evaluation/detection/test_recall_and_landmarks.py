"""Recall by group and errors of points."""

import numpy as np
import pytest

from evaluation import clopper_pearson, face_sizes, interocular, landmark_errors, recall_by, recall_by_name
from evaluation.detection.recall import SIZE_EDGES


def test_recall_is_counted_in_each_group():
    boxes = np.array([[0.0, 0, 8, 8], [0, 0, 4, 9], [0, 0, 7, 7], [0, 0, 100, 400]])
    assert face_sizes(boxes).tolist() == [8.0, 6.0, 7.0, 200.0]
    groups = recall_by(np.array([True, True, False, True]), face_sizes(boxes), SIZE_EDGES)
    assert [group[:3] for group in groups[:2]] == [("0 to 8", 2, 1), ("8 to 16", 1, 1)]
    assert groups[0].recall == 0.5 and groups[0].interval == clopper_pearson(1, 2)
    assert groups[-1].num_faces == 1 and np.isnan(groups[2].recall)


def test_the_last_group_has_its_upper_bound_and_unknown_values_none():
    groups = recall_by(np.array([True, False, True]), [1.0, np.nan, 0.0], (0.0, 0.5, 1.0))
    assert [group.num_faces for group in groups] == [1, 1]


def test_recall_is_counted_by_word():
    groups = recall_by_name(np.array([True, False, True]), ["none", "cap", "none"])
    assert [group[:4] for group in groups] == [("cap", 1, 0, 0.0), ("none", 2, 2, 1.0)]
    with pytest.raises(ValueError, match="a word for each"):
        recall_by_name(np.array([True]), [])


@pytest.mark.parametrize(
    ("values", "edges", "message"),
    [([0.5], (0, 1), "a value for each"), ([0.1, 0.2], (0, 0), "must rise"), ([0.1, 2.0], (0, 1), "outside")],
)
def test_groups_that_make_no_sense_are_refused(values, edges, message):
    with pytest.raises(ValueError, match=message):
        recall_by(np.array([True, False]), values, edges)


def faces(num, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (num, 5, 2))


def test_errors_are_those_of_a_loop():
    true, found = faces(4), faces(4, 1)
    true[1, 2] = true[2] = np.nan
    lengths = interocular(true)
    lengths[2] = np.nan
    result = landmark_errors(found, true, lengths)
    means = []
    for face in (0, 1, 3):
        each = [np.hypot(*(found[face, p] - true[face, p])) for p in range(5) if not np.isnan(true[face, p, 0])]
        means.append(np.mean(each) / np.hypot(*(true[face, 0] - true[face, 1])))
    assert result.mean == pytest.approx(np.mean(means)) and result.median == pytest.approx(np.median(means))
    assert (result.num_faces, result.num_unlabeled, result.failures) == (3, 1, 1.0)
    eyes = [np.hypot(*(found[f, 0] - true[f, 0])) / lengths[f] for f in (0, 1, 3)]
    assert result.by_point[0] == pytest.approx(np.mean(eyes))


def test_perfect_points_have_no_error_and_an_unlabeled_kind_no_figure():
    true = faces(3)
    true[:, 4] = np.nan
    result = landmark_errors(np.nan_to_num(true), true, np.full(3, 10.0))
    assert result.mean == result.failures == 0.0 and np.isnan(result.by_point[4])


def test_bad_points_are_refused():
    with pytest.raises(ValueError, match="predicted point is not finite"):
        landmark_errors(np.full((1, 5, 2), np.nan), faces(1), [1.0])
    with pytest.raises(ValueError, match="length of a face is 0"):
        landmark_errors(faces(2), faces(2), [1.0, 0.0])
    with pytest.raises(ValueError, match="no point is labeled"):
        landmark_errors(faces(1), np.full((1, 5, 2), np.nan), [1.0])
    with pytest.raises(ValueError, match=r"\[N, 5, 2\] twice"):
        landmark_errors(faces(1)[0], faces(1)[0], [1.0])
