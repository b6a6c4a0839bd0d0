"""Faces of what a network says: the public codes and suppression by loops, ties, and numbers that mean nothing."""

import math

import numpy as np
import pytest
import torch
from golden_vectors import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detectors.found import found_faces
from nets import Detections
from ops import boxes

SHAPE = (96, 128)


def golden() -> Detections:
    """Return what the public RetinaFace says about two images of 96 x 128."""
    g = load_golden("detection/detector/retinaface_mnet025.npz")
    return Detections(*(torch.from_numpy(g[name]) for name in ("loc", "conf", "landm")))


def by_hand(said: Detections, image: int, threshold: float, overlap: float, variances=(0.1, 0.2)):
    """Decode and suppress one box after another, in Python's floats."""
    (height, width), found = SHAPE, []
    for row, (cx, cy, w, h) in enumerate(boxes.priors(*SHAPE).tolist()):
        loc, landmarks = said.loc[image, row].tolist(), said.landmarks[image, row].tolist()
        score = said.conf[image, row, 1].item()
        x, y = cx + loc[0] * variances[0] * w, cy + loc[1] * variances[0] * h
        half_w, half_h = w * math.exp(loc[2] * variances[1]) / 2, h * math.exp(loc[3] * variances[1]) / 2
        box = ((x - half_w) * width, (y - half_h) * height, (x + half_w) * width, (y + half_h) * height)
        points = [
            ((cx + landmarks[i] * variances[0] * w) * width, (cy + landmarks[i + 1] * variances[0] * h) * height)
            for i in range(0, 10, 2)
        ]
        if score > threshold:
            found.append((-score, row, box, points))
    found.sort(key=lambda one: one[:2])
    kept = []
    for one in found:
        if all(shared(one[2], other[2]) <= overlap for other in kept):
            kept.append(one)
    return kept


def shared(a, b) -> float:
    def area(box) -> float:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return both / (area(a) + area(b) - both)


@pytest.mark.parametrize(("threshold", "overlap"), [(0.02, 0.4), (0.5, 0.4), (0.5, 0.0), (0.6, 1.0)])
@pytest.mark.parametrize("variances", [(0.1, 0.2), (0.2, 0.05)])
def test_faces_of_a_public_network_are_those_of_loops(threshold, overlap, variances) -> None:
    said = golden()
    said.conf[:, ::9] = said.conf[:, :1]  # ties
    faces = found_faces(said, boxes.priors(*SHAPE), *SHAPE, threshold, overlap, variances)
    assert len(faces) == 2
    for image, found in enumerate(faces):
        expected = by_hand(said, image, threshold, overlap, variances)
        assert len(found.boxes) == len(expected) > 2
        assert (found.scores.diff() <= 0).all() and found.points.shape == (len(expected), 5, 2)
        np.testing.assert_allclose(found.boxes, [one[2] for one in expected], atol=2e-3, rtol=1e-5)
        np.testing.assert_allclose(found.points, [one[3] for one in expected], atol=2e-3, rtol=1e-5)
        np.testing.assert_array_equal(-found.scores.double(), [one[0] for one in expected])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 503), st.floats(0.51, 1)), min_size=1, max_size=6))
def test_what_is_encoded_at_a_prior_is_found_there_in_pixels(given_rows) -> None:
    priors = boxes.priors(*SHAPE).double()
    said = Detections(torch.zeros(1, 504, 4), torch.zeros(1, 504, 2), torch.zeros(1, 504, 10))
    rows = dict(given_rows)
    for row, score in rows.items():
        said.conf[0, row, 1] = score
    (found,) = found_faces(said, priors, *SHAPE, 0.5, overlap=1.0)
    order = sorted(rows, key=lambda row: (-np.float32(rows[row]), row))
    sides = torch.tensor([128.0, 96.0, 128.0, 96.0], dtype=torch.float64)
    torch.testing.assert_close(found.boxes, boxes.corners(priors[order]) * sides)  # beyond the image too
    torch.testing.assert_close(found.points, (priors[order, :2] * sides[:2])[:, None].expand(-1, 5, -1))


def test_an_image_without_faces_and_a_batch_without_images_give_none() -> None:
    said = golden()
    said.conf[0] = 0
    nothing, something = found_faces(said, boxes.priors(*SHAPE), *SHAPE, 0.5)
    assert [each.shape for each in nothing] == [(0, 4), (0,), (0, 5, 2)] and len(something.boxes)
    assert found_faces(Detections(*(each[:0] for each in said)), boxes.priors(*SHAPE), *SHAPE, 0.5) == []


def test_of_very_many_boxes_the_surest_are_looked_at(monkeypatch) -> None:
    """A network that has learned nothing yet finds a face at every prior."""
    said = golden()
    monkeypatch.setattr("models.detectors.found.MOST", 40)
    one, _ = found_faces(said, boxes.priors(*SHAPE), *SHAPE, threshold=0.0, overlap=1.0)
    scores = said.conf[0, :, 1].sort(descending=True).values
    torch.testing.assert_close(one.scores, scores[:40], rtol=0, atol=0)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_even_where_no_face_is(part, value) -> None:
    said = golden()
    said[part][1, 7, 0] = value
    with pytest.raises(ValueError, match="not finite; it has diverged"):
        found_faces(said, boxes.priors(*SHAPE), *SHAPE, threshold=2.0)


def test_a_box_too_large_for_a_number_is_refused() -> None:
    said = golden()
    said.loc[0, 0, 2], said.conf[0, 0] = 1e3, 1
    with pytest.raises(ValueError, match="not finite"):
        found_faces(said, boxes.priors(*SHAPE), *SHAPE, 0.5)


def test_priors_of_another_size_and_logits_are_refused() -> None:
    said = golden()
    with pytest.raises(ValueError, match="the network has 504 priors at 128 x 100, but 560 are given"):
        found_faces(said, boxes.priors(100, 128), 100, 128, 0.5)
    said.conf[0, 0, 0] = -1
    with pytest.raises(ValueError, match="put the network into eval mode"):
        found_faces(said, boxes.priors(*SHAPE), *SHAPE, 0.5)
