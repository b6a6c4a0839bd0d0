"""Answers of two photographs: never a bare yes, never of other weights, with the cells that match."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from portraits import load_model, write_people
from untrained import write_checkpoint

import models
from evaluation import Shares, fit_normalization
from models import Aligner, Impostors, Plan, calibrate
from models.answers import NUM_DRAWN, best_cells
from models.pictures import read_face, read_pixels
from models.portraits import describe_portraits, scores_of, weights_checksum


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def pair(people):
    return people / "p0" / "0.png", people / "p0" / "1.png"


@pytest.fixture(scope="module")
def calibration(model, people):
    return calibrate(model, people, plan=Plan(fars=(0.5, 0.1), num_draws=100))


@pytest.fixture(scope="module")
def impostors(model, people):
    return Impostors.of(model, people)


def with_threshold(calibration, threshold):
    points = tuple(point._replace(threshold=threshold) for point in calibration.points)
    return replace(calibration, points=points, covered_below=None)


def test_its_scores_are_those_of_compare(model, pair, impostors):
    scores = model.compare(*pair)
    for name, expected in (("fused", scores.combined), ("adaface", scores.adaface), ("qaconv", scores.qaconv)):
        assert model.verify(*pair, score=name, impostors=impostors).value == pytest.approx(expected, abs=1e-5)
    assert model.verify(*pair, impostors=impostors).score == "fused"


@pytest.mark.parametrize(("shift", "same"), [(-1e-6, True), (1e-6, False)])
def test_a_score_at_or_above_the_threshold_is_the_same_person(model, pair, calibration, shift, same):
    value = model.verify(*pair, calibration).value
    answer = model.verify(*pair, with_threshold(calibration, value + shift))
    assert answer.same is same and answer.threshold == value + shift and answer.rank is None
    assert str(answer).startswith("the same person: score fused" if same else "not the same person: score fused")


def test_the_words_say_what_the_threshold_was_calibrated_for(model, pair, calibration):
    answer = model.verify(*pair, calibration, "adaface", 0.5)
    point = calibration.point("adaface", answer.condition, 0.5)
    assert answer.point == point
    text = str(answer)
    assert "false-accept rate of 50 %" in text and str(point.found_far) in text and str(point.tar) in text
    assert "visible share of the faces: " in text and text.count("%") > 6


@pytest.mark.parametrize(
    ("shifts", "words"),
    [
        ({0.5: -1, 0.1: -1}, "10 % is the lowest of the rates calibrated"),
        ({0.5: -1, 0.1: 1}, "50 % is the lowest of the rates calibrated"),
        ({0.5: 1, 0.1: 2}, "accepted at none of the rates calibrated, up to 50 %"),
    ],
)
def test_how_near_a_yes_or_a_no_is_told_by_the_rates_passed(model, pair, calibration, shifts, words):
    value = model.verify(*pair, calibration).value
    points = tuple(point._replace(threshold=value + shifts[point.far]) for point in calibration.points)
    answer = model.verify(*pair, replace(calibration, points=points))
    assert words in str(answer) and answer.point.far == 0.1 and answer.same is (shifts[0.1] < 0)


def test_without_calibration_it_is_a_rank_and_neither_yes_nor_no(model, pair, impostors):
    answer = model.verify(*pair, impostors=impostors)
    assert answer.same is None and answer.threshold is None
    below = int((impostors.scores["fused"] < answer.value).sum())
    assert answer.rank == (below, 28, f"8 people of {pair[0].parents[1].name}")
    text = str(answer)
    assert (
        text.startswith("uncalibrated: ") and "neither a yes nor a no" in text and f"above {below} of 28 pairs" in text
    )
    assert "the same person" not in text


def test_without_a_set_it_is_ranked_among_drawn_faces(model, pair):
    answer = model.verify(*pair, score="adaface")
    assert answer.rank.pairs == NUM_DRAWN * (NUM_DRAWN - 1) // 2 and "drawn faces" in answer.rank.source


def test_impostors_without_labels_are_said_and_one_is_too_few(model, people, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes((people / f"p{number}" / "0.png").read_bytes())
    found = Impostors.of(model, tmp_path)
    assert len(found.scores["fused"]) == 1 and "each taken for another person" in found.source
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 people that can be compared, two or more are needed; .*1\.png"):
        Impostors.of(model, tmp_path)


def test_a_rate_needs_a_calibration_that_has_it(model, pair, calibration):
    with pytest.raises(ValueError, match="needs a calibration"):
        model.verify(*pair, far=0.1)
    with pytest.raises(ValueError, match=r"no threshold for a FAR of 1e-05; it has 0\.5, 0\.1"):
        model.verify(*pair, calibration, far=1e-5)


def test_the_same_picture_twice_is_said(model, pair, calibration):
    assert "the same picture, pixel by pixel" in str(model.verify(pair[0], pair[0], calibration))
    assert "pixel by pixel" not in str(model.verify(*pair, calibration))


def test_a_covered_face_is_judged_by_the_thresholds_of_masked_ones(model, pair, calibration):
    answer = model.verify(*pair, replace(calibration, covered_below=1.0))
    assert answer.condition == "masked" and answer.point.condition == "masked" and "(masked)" in str(answer)
    assert all(0 < share < 1 for share in answer.visible)


def test_a_model_without_parts_says_what_it_does_not_know(pair, tmp_path):
    options = {"qaconv_loss_weight": 0.0, "occlusion_loss_weight": 0.0, "occlusion_method": "none"}
    alone = load_model(tmp_path / "a.ckpt", **options)
    answer = alone.verify(*pair)
    assert answer.score == "adaface" and "visible share of the faces: not known, not known" in str(answer)
    with pytest.raises(ValueError, match="'fused': the model lacks a local matcher or fusion statistics"):
        alone.verify(*pair, score="fused")
    assert best_cells(alone, describe_portraits(alone, np.stack([read_face(path) for path in pair]))) == []


def test_a_hook_that_finds_no_face_is_one_line(model, pair, calibration):
    def no_face(face):
        raise ValueError(f"{face}: no face found")

    with pytest.raises(ValueError, match=r"0\.png: no face found"):
        model.verify(*pair, aligner=Aligner(no_face))


def test_the_hook_makes_the_crop(model, pair, impostors):
    def mirrored(face):
        return np.ascontiguousarray(read_face(face)[:, ::-1])

    crops = [mirrored(path) for path in pair]
    expected = model.verify(*crops, impostors=impostors).value
    assert model.verify(*pair, impostors=impostors, aligner=Aligner(mirrored)).value == expected


@pytest.mark.parametrize("size", [(1, 1), (15, 400)])
def test_photographs_that_are_too_small_are_refused(tmp_path, size):
    import cv2

    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((*size, 3), np.uint8))
    with pytest.raises(ValueError, match=r"small\.png: .* show no face; 16 a side are the least"):
        read_face(tmp_path / "small.png")


def test_larger_photographs_are_read_as_before(people):
    path = people / "p0" / "0.png"
    np.testing.assert_array_equal(read_face(path), read_pixels(path))
    np.testing.assert_array_equal(read_face(read_pixels(path)), read_pixels(path))


def test_the_checksum_follows_weights_and_fusion(model, tmp_path):
    before = weights_checksum(model)
    assert weights_checksum(load_model(tmp_path / "same.ckpt")) == before
    other = load_model(tmp_path / "other.ckpt")
    with torch.no_grad():
        other.matcher.fc.bias += 1e-6
    assert weights_checksum(other) != before
    fused = load_model(tmp_path / "fused.ckpt")
    fused.fusion_statistics = replace(fused.fusion_statistics, weights={"adaface": 0.5, "qaconv": 0.5})
    assert weights_checksum(fused) != before


def test_cells_that_match_best_are_mutual_and_come_best_first(model, pair):
    faces = describe_portraits(model, np.stack([read_face(path) for path in pair]))
    found = best_cells(model, faces, count=49)
    view = faces.faces.views[0]
    # The model's occlusion method is masking: hidden cells take no part, visible ones as they are.
    assert model.matcher.occlusion_method == "masking"
    (a, b), (seen_a, seen_b) = view.local_map, view.visibility[:, 0] >= model.matcher.visible_from
    cosines = {
        ((r, c), (s, d)): float(a[:, r, c] @ b[:, s, d])
        for r in range(7) for c in range(7) for s in range(7) for d in range(7)
        if seen_a[r, c] and seen_b[s, d]
    }  # fmt: skip
    mutual = {
        (first, second): value
        for (first, second), value in cosines.items()
        if value == max(v for (f, _), v in cosines.items() if f == first)
        and value == max(v for (_, s), v in cosines.items() if s == second)
    }
    assert {(match.first, match.second) for match in found} == set(mutual)
    assert [match.cosine for match in found] == pytest.approx(sorted(mutual.values(), reverse=True), abs=1e-5)
    assert len(mutual) > 1 and best_cells(model, faces, count=1) == found[:1]


def test_scores_are_those_that_the_models_normalization_makes_comparable(tmp_path, pair):
    rng = np.random.default_rng(0)
    shares = Shares(*(rng.random(500) for _ in range(3)))
    drawn = {"adaface": rng.normal(size=500), "qaconv": 3 * rng.normal(size=500)}
    learned = fit_normalization(drawn, shares, np.zeros(500, bool), {"adaface": 0.5, "qaconv": 0.5}, "a test")
    known = models.load(write_checkpoint(tmp_path / "known.ckpt", normalization=learned))
    assert scores_of(known) == ["fused", "adaface", "qaconv"]
    assert known.verify(*pair).value == pytest.approx(known.compare(*pair).combined, rel=1e-5)
    raw = models.load(write_checkpoint(tmp_path / "raw.ckpt"))
    assert weights_checksum(known) != weights_checksum(raw)
    alone = known.verify(*pair, score="adaface").value
    assert alone != pytest.approx(known.compare(*pair).adaface) and np.isfinite(alone)
